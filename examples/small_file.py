# ruff: noqa: T201
"""Distil a folder of labelled images into a file of a chosen size, and say whether that was worth it.

python examples/small_file.py PHOTOS 20kB photos.attar.safetensors
"""

from __future__ import annotations

import sys

import attar


def main(folder: str, budget: str, out: str) -> None:
    """Distil, score against the undistilled start, and print the verdict."""
    data = attar.load_images(folder)
    small = attar.distill(data, "latent-dm", budget, settings={"steps": 100}, out=out)
    card = attar.evaluate(small, data, "quick", networks=["convnet:w16"], baselines=["initial"])
    distilled, start = card.row("distilled"), card.row("initial codes")
    print(f"{out}: {len(small)} items in {small.storage.file_bytes} bytes")
    print(f"distilled {distilled.accuracy_text} %, undistilled {start.accuracy_text} %")
    for difference in card.differences:
        print(f"distilled minus {difference.baseline}: {difference.text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
