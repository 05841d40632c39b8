"""What runs read, made before or beside them: a recipe's experts, an observer, a diffusion prior."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attar.base.config import override
from attar.base.device import resolve_device
from attar.base.engines.engine import Engine
from attar.base.errors import InputError
from attar.base.files import atomic_path, cache_directory, refuse_existing
from attar.base.progress import Progress, Silent, duration
from attar.data.mirroring import mirroring_harms
from attar.methods.recipes import REGISTRY
from attar.methods.recipes import recipe as recipe_named
from attar.models.codecs.pca import PcaConfig
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import codec_from_text, fit_codec
from attar.models.diffusion.priors import ROOM, Prior, PriorTraining
from attar.models.diffusion.training import trained_prior
from attar.models.experts.buffer import ExpertBuffer
from attar.models.networks.registry import network_from_text
from attar.models.observers.cache import cached_path
from attar.models.observers.config import ObserverConfig
from attar.models.observers.observer import Observer
from attar.models.observers.training import observer_for
from attar.models.real_items import codes_to_hold, real_items
from attar.runs.loop import experts_of, training_images
from attar.runs.task import fitted_spaces, resolve_task
from attar.sets.manifest import check_classes

LARGEST_IN_PIXELS = 32
"""The side up to which a prior is of pixels unless told otherwise; above, of patches' principal components."""


def make_experts(
    data: Any,
    recipe: str,
    *,
    count: int | None = None,
    device: str = "auto",
    settings: Mapping[str, Any] | None = None,
    codec: str | None = None,
    progress: Progress | None = None,
    engine: Engine | None = None,
    **loading: Any,
) -> ExpertBuffer:
    """The experts that `distill` with these arguments would read, trained as far as the cache lacks them.

    Args:
        data: anything `distill` takes.
        recipe: one that matches trajectories.
        count: how many experts; None is the recipe's.
        device: "auto", "cpu", "cuda", "cuda:1".
        settings: dotted recipe settings to replace, e.g. {"objective.experts.epochs": 20}.
        codec: text of another codec.
        progress: what to report to.
        engine: where they are trained; see `train_experts`.
        **loading: further arguments of `load_images`.

    Raises:
        InputError: data or recipe that will not do.
        KeyboardInterrupt: on Ctrl-C, once the epoch in hand is kept.
    """
    progress = progress or Silent()
    if not _has_experts(recipe):
        raise InputError(f"recipe {recipe!r} needs no experts; take one that does: {', '.join(_one_of_each_method())}")
    changes = dict(settings or {})
    if count is not None:
        if "objective.experts.count" in changes:
            raise InputError("the count is given twice; leave out --count or --set objective.experts.count")
        changes["objective.experts.count"] = count
    task = resolve_task(recipe, device=device, settings=changes, codec=codec)
    if engine is not None:
        engine.check_device(task.device)
    train, _ = training_images(data, progress, loading)
    spaces = fitted_spaces(task.recipe, train)
    codes = codes_to_hold(spaces.matching, train, task.device, progress)
    real = real_items(spaces.matching, train, codes, task.device)
    experts = experts_of(task.recipe, spaces.to(task.device), train, real, progress, engine=engine)
    assert experts is not None, "the recipe reads experts"
    return experts


def experts_line(buffer: ExpertBuffer) -> str:
    """One line: how many experts, of what size, how fast, how good."""
    last = buffer.num_experts - 1
    figures = buffer.figures(last)
    pace = "" if buffer.pace is None else f", {buffer.pace:.3g} s an epoch"
    return (
        f"{buffer.folder}: {last + 1} experts of {buffer.num_epochs} epochs in {buffer.num_bytes} bytes{pace}; "
        f"expert {last} has {100 * figures.accuracy:.1f} % of the training items right"
    )


def _one_of_each_method() -> list[str]:
    """The first recipe with experts of every table of settings."""
    first: dict[str, str] = {}
    for name in filter(_has_experts, REGISTRY):
        first.setdefault(name.partition("-")[0], name)
    return list(first.values())


def _has_experts(name: str) -> bool:
    return "experts" in recipe_named(name).objective.needs


@dataclass(frozen=True)
class MadeObserver:
    """An observer and where it is.

    Args:
        observer: checked.
        path: its file in the cache.
        seconds: that loading or training, and the check, took.
    """

    observer: Observer
    path: Path
    seconds: float


def make_observer(
    data: Any,
    *,
    network: str | None = None,
    weights: str | None = None,
    device: str = "auto",
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    **loading: Any,
) -> MadeObserver:
    """The observer that runs with these settings would ask, trained where the cache lacks it, and checked.

    Args:
        data: anything `distill` takes.
        network: short name of the architecture; None is the default's.
        weights: a .safetensors file, torchvision:NAME or timm:NAME in place of training.
        device: "auto", "cpu", "cuda", "cuda:1".
        settings: dotted settings of `ObserverConfig` to replace, e.g. {"training.epochs": 20}.
        progress: what to report to.
        **loading: further arguments of `load_images`.

    Raises:
        InputError: data, weights or settings that will not do, or an observer that does not know the data.
        KeyboardInterrupt: on Ctrl-C, once the epoch in hand is kept.
    """
    progress = progress or Silent()
    config = observer_config(network, weights, settings)
    train, name = training_images(data, progress, loading)
    if mirroring_harms(name):
        config = config.without_flip()
    began = time.monotonic()
    observer = observer_for(config, train, resolve_device(device), progress)
    path = cached_path(observer.identity)
    assert path is not None
    return MadeObserver(observer, path, time.monotonic() - began)


def observer_config(
    network: str | None = None, weights: str | None = None, settings: Mapping[str, Any] | None = None
) -> ObserverConfig:
    """The configuration behind the command line's options. Raises InputError."""
    changes = dict(settings or {})
    if network is not None and any(key == "network" or key.startswith("network.") for key in changes):
        raise InputError("the network is given twice; leave out --network or --set network")
    if weights is not None and "weights" in changes:
        raise InputError("the weights are given twice; leave out --weights or --set weights")
    base = ObserverConfig() if network is None else ObserverConfig(network=network_from_text(network))
    return override(base, changes if weights is None else {**changes, "weights": weights})


def observer_line(made: MadeObserver) -> str:
    """One line: what it is, where, how good, how large, how long it took."""
    observer = made.observer
    return (
        f"{made.path}: observer {observer.config.name} with {observer.accuracy:.1f} % of the checked training images "
        f"right, {observer.num_bytes} bytes of weights, identity {observer.identity}, in {duration(made.seconds)}"
    )


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


def prior_line(prior: Prior, path: Path) -> str:
    """One line: what it is, of what, how large, how good."""
    about, weights = prior.manifest, prior.weights
    good = about.fidelity or f"loss {about.loss:.3f}"
    return (
        f"{path}: prior of {len(about.classes)} classes, codes {about.code_shape} of codec {prior.codec.kind!r}, "
        f"{weights.num_values} values, {weights.num_bytes} bytes, {good}"
    )
