"""Observers for some data: from the cache, from given weights, or trained."""

from __future__ import annotations

import threading
from functools import partial

import torch

from attar.base.errors import NonFiniteLossError
from attar.base.files import content_key
from attar.base.interrupts import stop_requested
from attar.base.locks import Claims, made_once
from attar.base.progress import Progress, Silent, Within
from attar.base.randomness import generator
from attar.data.image_set import ImageSet
from attar.models.networks.network import num_parameters
from attar.models.networks.registry import build_network
from attar.models.observers.cache import (
    SCHEMA_VERSION,
    find_weights,
    folder,
    loaded_network,
    read_observer,
    save_observer,
    weights_name,
)
from attar.models.observers.checking import CHECKED_IMAGES, better_normalisation, check_observer
from attar.models.observers.config import Normalisation, ObserverConfig, pixels_normalised
from attar.models.observers.observer import Observer
from attar.models.real_items import real_items
from attar.models.training.loop import TrainingIdentity, train_networks
from attar.models.training.settings import Plan
from attar.models.training.snapshots import Snapshot, SnapshotFile


class ObserverIdentity(TrainingIdentity):
    """Everything that determines the bytes of a trained observer; its content key names the file.

    Args:
        image_shape: (C, H, W).
        normalisation: of the inputs.
    """

    image_shape: tuple[int, int, int]
    normalisation: Normalisation

    @property
    def key(self) -> str:
        return content_key("observers", SCHEMA_VERSION, self)


def observer_for(
    config: ObserverConfig,
    train: ImageSet,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Observer:
    """The observer of a configuration and data: trained once, kept in the cache, always checked.

    After a stop or a kill the same call goes on from the last whole epoch, on CPUs to the same bytes. Where another
    process trains the same observer, its end is waited for. An observer that the check refuses stays in the cache, so
    that a lower `least_accuracy` costs nothing. One with given weights is kept there too, for `cached_observer`.

    Raises:
        InputError: weights that do not fit, an architecture that does not fit the images, an observer that the check
            refuses, or a damaged file in the cache.
        NonFiniteLossError: its loss stopped being finite.
        KeyboardInterrupt: on Ctrl-C, once the epoch in hand is kept.
    """
    device, progress = torch.device(device), progress or Silent()
    config = config.model_copy(update={"network": config.network.shortest(train.image_shape)})
    if config.weights is None:
        observer = _trained(config, train, device, progress)
    else:
        observer = _loaded(config, config.weights, train).to(device)
    observer.accuracy = check_observer(observer, train, config.least_accuracy)
    if config.weights is not None:
        _keep(observer, config.weights)
        advice = better_normalisation(observer, train)
        if advice is not None:
            progress.note(advice)
    tested = min(CHECKED_IMAGES, len(train))
    progress.note(
        f"observer {config.network.name}: {observer.accuracy:.1f} % of {tested} training images right, "
        f"{observer.num_bytes} bytes"
    )
    return observer


def _loaded(config: ObserverConfig, weights: str, train: ImageSet) -> Observer:
    source = f"weights {weights_name(weights)}"
    preprocess, state = pixels_normalised(config.normalisation, train), find_weights(weights)
    network = loaded_network(config.network, train.image_shape, train.num_classes, state, source)
    return Observer(network, config.network, preprocess, train.classes)


def _keep(observer: Observer, weights: str) -> None:
    key = content_key("loaded observer", SCHEMA_VERSION, observer.identity, observer.classes)
    path = folder() / f"{key}.safetensors"
    if not path.exists():
        save_observer(observer, path, weights_name(weights))


def _trained(config: ObserverConfig, train: ImageSet, device: torch.device, progress: Progress) -> Observer:
    """The observer from the cache, once this process or another one has trained it."""
    network = build_network(config.network, train.image_shape, train.num_classes)
    identity = ObserverIdentity.of(
        network,
        len(train),
        config.training,
        device,
        data=train.fingerprint,
        network=config.network,
        seed=config.seed,
        image_shape=train.image_shape,
        normalisation=config.normalisation,
    )
    path = folder() / f"{identity.key}.safetensors"
    num_buffers = sum(buffer.numel() for buffer in network.buffers())
    state = SnapshotFile(path.with_suffix(".state"), num_parameters(network), num_buffers)
    if not path.exists():
        with Claims(folder() / "claims.lock") as claims, stop_requested() as stop:

            def make() -> None:
                observer = _trained_here(identity, train, device, progress, state, stop)
                observer.accuracy = check_observer(observer, train, least_accuracy=0.0)
                save_observer(observer, path, "trained")

            waiting = partial(progress.note, "another process trains this observer: waiting for it")
            made_once(path, make, claims, stop, waiting)
    state.remove()
    return read_observer(path).to(device)


def _trained_here(
    identity: ObserverIdentity,
    train: ImageSet,
    device: torch.device,
    progress: Progress,
    state: SnapshotFile,
    stop: threading.Event,
) -> Observer:
    """Trains an observer in this process, starting from `state`, which is saved after every epoch."""
    preprocess = pixels_normalised(identity.normalisation, train).to(device)
    seed = generator(identity.seed, "observer").initial_seed()
    plan = Plan.of(identity.training, len(train))
    start = state.read(plan.num_epochs)
    progress.start(f"training observer {identity.network.name}", plan.num_steps)

    def keep(snapshot: Snapshot) -> None:
        if snapshot.epoch:
            state.keep(snapshot)
        if stop.is_set():
            raise KeyboardInterrupt

    try:
        (network,) = train_networks(
            identity.network,
            real_items(preprocess, train, None, device),
            train.num_classes,
            identity.training,
            [seed],
            device=device,
            callback=keep,
            start=start if start is not None and start.seeds == (seed,) else None,
            progress=Within(progress),
        )
    except NonFiniteLossError as error:
        raise NonFiniteLossError(f"the observer: {error}") from None
    finally:
        progress.finish()
    return Observer(network, identity.network, preprocess, train.classes)
