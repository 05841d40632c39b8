"""What the rows of a scorecard are called."""

from __future__ import annotations

DISTILLED = "distilled"
FULL = "all real images"

NAMES = {
    "random": "random images",
    "same-labels": "random images, labelled alike",
    "herding": "herding images",
    "k-centre": "k-centre images",
    "el2n": "EL2N images",
    "el2n-easy": "EL2N images, the easiest",
    "initial": "initial codes",
    "random-uint8": "random uint8 images in the file's bytes",
    "jpeg": "random JPEG images in the file's bytes",
    "hard-labels": "distilled, with hard labels",
    "plain": "distilled, not augmented",
    "random-plain": "random, not augmented",
    "full": FULL,
}
"""Kinds of baselines, as they are asked for, to their rows' names; in the order of the rows."""
