"""A prior of some data, as a file of one's own."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attar.base.config import override
from attar.base.device import resolve_device
from attar.base.files import atomic_path, cache_directory, refuse_existing
from attar.base.progress import Progress, Silent, duration
from attar.models.codecs.pca import PcaConfig
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import codec_from_text, fit_codec
from attar.models.diffusion.priors import ROOM, Prior, PriorTraining
from attar.models.diffusion.training import trained_prior
from attar.runs.loop import training_images
from attar.sets.manifest import check_classes

LARGEST_IN_PIXELS = 32
"""The side up to which a prior is of pixels unless told otherwise; above, of patches' principal components."""


def train_prior(
    data: Any,
    out: Path | str,
    *,
    codec: str | None = None,
    device: str = "auto",
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    **loading: Any,
) -> Prior:
    """Train a class-conditional latent diffusion model on the training images, and write it to a file.

    Args:
        data: anything `distill` takes.
        out: the file.
        codec: of the codes, e.g. "pca:f4c12-whiten"; None is pixels up to 32 pixels a side, else pca:f4c4-whiten.
        device: "auto", "cpu", "cuda", "cuda:1".
        settings: dotted settings of `PriorTraining` to replace, e.g. {"steps": 5000, "denoiser.width": 64}.
        overwrite: replace an existing file.
        progress: what to report to.
        **loading: further arguments of `load_images`.

    Raises:
        InputError: data, codec, settings or output that will not do.
        NonFiniteLossError: the loss stopped being finite.
        KeyboardInterrupt: on Ctrl-C; the same call goes on from there.
    """
    path, progress = Path(out), progress or Silent()
    refuse_existing(path, overwrite)
    training = override(PriorTraining(), dict(settings or {}))
    where = resolve_device(device)
    train, _ = training_images(data, progress, loading)
    check_classes(train.classes)
    small = max(train.image_shape[1:]) <= LARGEST_IN_PIXELS
    config = codec_from_text(codec) if codec is not None else PixelsConfig() if small else PcaConfig(scaling="whiten")
    began = time.monotonic()
    prior = trained_prior(training, fit_codec(config, train), train, where, progress)
    with atomic_path(path) as temporary:
        shutil.copyfile(cache_directory(ROOM) / prior.weights.id, temporary)
    progress.note(f"trained or found in {duration(time.monotonic() - began)}")
    return prior


def summary(prior: Prior, path: Path) -> str:
    """One line: what it is, of what, how large, how good."""
    about, weights = prior.manifest, prior.weights
    good = about.fidelity or f"loss {about.loss:.3f}"
    return (
        f"{path}: prior of {len(about.classes)} classes, codes {about.code_shape} of codec {prior.codec.kind!r}, "
        f"{weights.num_values} values, {weights.num_bytes} bytes, {good}"
    )
