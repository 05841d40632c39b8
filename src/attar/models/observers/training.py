"""Observers for some data: from the cache, from given weights, or trained."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from pydantic import Field

from attar.base.config import Config
from attar.base.errors import NonFiniteLossError
from attar.base.files import content_key
from attar.base.interrupts import stop_requested
from attar.base.locks import Claims, made_once
from attar.base.progress import Progress, Silent, Within
from attar.base.randomness import generator
from attar.data.image_set import ImageSet
from attar.models.networks.network import NetworkConfig
from attar.models.networks.registry import build_network
from attar.models.observers.cache import SCHEMA_VERSION, folder, read_observer, save_observer
from attar.models.observers.checking import CHECKED_IMAGES, better_normalisation, check_observer
from attar.models.observers.config import ObserverConfig
from attar.models.observers.normalisation import Normalisation, pixels_normalised
from attar.models.observers.observer import Observer
from attar.models.observers.unfinished import Unfinished
from attar.models.observers.weights import find_weights, loaded_network, weights_name
from attar.models.real_items import RealItems, RealTrainingItems
from attar.models.training.loop import train_networks, training_acceleration
from attar.models.training.settings import Plan, TrainingConfig
from attar.models.training.snapshots import Snapshot


class ObserverKey(Config):
    """All that the bytes of a trained observer depend on; its content key names the file.

    As for experts, the kind of device and the precision are among it, the versions of attar and torch are not.

    Args:
        data: fingerprint of the training images.
        image_shape: (C, H, W).
        num_classes: K.
        network: the architecture.
        training: with the precision resolved.
        compiled: whether forward passes run compiled.
        device: its kind.
        normalisation: of the inputs.
        seed: of the training.
    """

    data: str
    image_shape: tuple[int, int, int]
    num_classes: int = Field(ge=2)
    network: NetworkConfig
    training: TrainingConfig
    compiled: bool
    device: str
    normalisation: Normalisation
    seed: int

    @property
    def key(self) -> str:
        return content_key("observers", SCHEMA_VERSION, self)


def observer_for(
    config: ObserverConfig,
    train: ImageSet,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Observer:
    """The observer that a configuration means for some data: trained once, kept in the cache, always checked.

    After a stop or a kill the same call goes on from the last whole epoch, on CPUs to the same bytes. Where another
    process trains the same observer, its end is waited for. An observer that the check refuses stays in the cache, so
    that a lower `least_accuracy` costs nothing. One with given weights is kept there too, for `cached_observer`.

    Args:
        config: architecture, training or weights.
        train: the training images.
        device: where it is trained and returned.
        progress: told every step, and how good it became.

    Raises:
        InputError: weights that do not fit, an architecture that does not fit the images, an observer that the check
            refuses, or a damaged file in the cache.
        NonFiniteLossError: its loss stopped being finite.
        KeyboardInterrupt: on Ctrl-C, once the epoch in hand is kept.
    """
    device, progress = torch.device(device), progress or Silent()
    config = config.model_copy(update={"network": config.network.shortest(train.image_shape)})
    observer = (
        _trained(config, train, device, progress) if config.weights is None else _loaded(config, train).to(device)
    )
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


def _loaded(config: ObserverConfig, train: ImageSet) -> Observer:
    assert config.weights is not None
    preprocess = pixels_normalised(config.normalisation, train)
    state = find_weights(config.weights)
    what = f"weights {weights_name(config.weights)}"
    network = loaded_network(config.network, train.image_shape, train.num_classes, state, what)
    return Observer(network, config.network, preprocess, train.classes)


def _keep(observer: Observer, weights: str) -> None:
    path = (
        folder() / f"{content_key('loaded observer', SCHEMA_VERSION, observer.identity, observer.classes)}.safetensors"
    )
    if not path.exists():
        save_observer(observer, path, weights_name(weights))


def _trained(config: ObserverConfig, train: ImageSet, device: torch.device, progress: Progress) -> Observer:
    work = _Work.of(config, train, device, progress)
    if not work.path.exists():
        with Claims(folder() / "claims.lock") as claims, stop_requested() as stop:
            work.make(claims, stop)
    work.unfinished.remove()
    return read_observer(work.path).to(device)


@dataclass
class _Work:
    """One training and where its files are."""

    config: ObserverConfig
    training: TrainingConfig
    train: ImageSet
    device: torch.device
    progress: Progress
    path: Path
    unfinished: Unfinished

    @classmethod
    def of(cls, config: ObserverConfig, train: ImageSet, device: torch.device, progress: Progress) -> _Work:
        network = build_network(config.network, train.image_shape, train.num_classes)
        acceleration = training_acceleration(network, len(train), config.training, device)
        training = config.training.model_copy(update={"precision": acceleration.precision})
        key = ObserverKey(
            data=train.fingerprint,
            image_shape=train.image_shape,
            num_classes=train.num_classes,
            network=config.network,
            training=training,
            compiled=acceleration.compile,
            device=device.type,
            normalisation=config.normalisation,
            seed=config.seed,
        ).key
        path = folder() / f"{key}.safetensors"
        unfinished = Unfinished(path.with_suffix(".state"), network, observer_seed(config.seed))
        return cls(config, training, train, device, progress, path, unfinished)

    def make(self, claims: Claims, stop: threading.Event) -> None:
        """Train the observer, or wait until another process has."""
        waiting = partial(self.progress.note, "another process trains this observer: waiting for it")
        made_once(self.path, partial(self._train, stop), claims, stop, waiting)

    def _train(self, stop: threading.Event) -> None:
        config, train = self.config, self.train
        preprocess = pixels_normalised(config.normalisation, train).to(self.device)
        plan = Plan.of(self.training, len(train))
        self.progress.start(f"training observer {config.network.name}", plan.num_steps)

        def watch(snapshot: Snapshot) -> None:
            if snapshot.epoch:
                self.unfinished.keep(snapshot)
            if stop.is_set():
                raise KeyboardInterrupt

        try:
            (network,) = train_networks(
                config.network,
                RealTrainingItems(
                    RealItems(train.labels, train.num_classes, images=train, codec=preprocess, device=self.device)
                ),
                train.num_classes,
                self.training,
                [observer_seed(config.seed)],
                device=self.device,
                watch=watch,
                start=self.unfinished.resume(plan.num_epochs),
                progress=Within(self.progress),
            )
        except NonFiniteLossError as error:
            raise NonFiniteLossError(f"the observer: {error}") from None
        finally:
            self.progress.finish()
        self._save(Observer(network, config.network, preprocess, train.classes))

    def _save(self, observer: Observer) -> None:
        observer.accuracy = check_observer(observer, self.train, least_accuracy=0.0)
        save_observer(observer, self.path, "trained")


def observer_seed(seed: int) -> int:
    """The seed of an observer's network: of its initial values, order and augmentation."""
    return generator(seed, "observer").initial_seed()
