"""An observer of some data, before or beside the runs that ask it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attar.base.config import override
from attar.base.device import resolve_device
from attar.base.errors import InputError
from attar.base.progress import Progress, Silent, duration
from attar.data.mirroring import mirroring_harms
from attar.models.networks.registry import network_from_text
from attar.models.observers.cache import cached_path
from attar.models.observers.config import ObserverConfig
from attar.models.observers.observer import Observer
from attar.models.observers.training import observer_for
from attar.runs.loop import training_images


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


def summary(made: MadeObserver) -> str:
    """One line: what it is, where, how good, how large, how long it took."""
    observer = made.observer
    return (
        f"{made.path}: observer {observer.config.name} with {observer.accuracy:.1f} % of the checked training images "
        f"right, {observer.num_bytes} bytes of weights, identity {observer.identity}, in {duration(made.seconds)}"
    )
