"""Training the experts that a buffer lacks, in this process or in others."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import torch

from attar.base.device import free_bytes, saved_bytes_per_item
from attar.base.engines.engine import Engine, Local
from attar.base.errors import InputError, NonFiniteLossError
from attar.base.interrupts import stop_requested
from attar.base.locks import Claims
from attar.base.progress import Progress, Silent, Within
from attar.base.randomness import generator
from attar.data.augmentation import Augmentation
from attar.data.image_set import ImageSet
from attar.models.codecs.codec import Codec
from attar.models.experts.buffer import ExpertBuffer, ExpertsIdentity, new_manifest
from attar.models.experts.config import ReadsExperts
from attar.models.experts.growing import GrowingGroup, begun_group_size, remove_old_states
from attar.models.networks.network import Network, num_parameters
from attar.models.networks.registry import build_network
from attar.models.real_items import RealItems
from attar.models.training.loop import Callback, Hooks, train_networks, trainer_for
from attar.models.training.settings import Plan, TrainingConfig
from attar.models.training.snapshots import Snapshot
from attar.models.training.stacked import is_stackable

LARGEST_GROUP = 16
"""Networks stacked at most: field-notes.md has 8 to 16."""

MEMORY_SHARE = 0.5
"""Of the free memory, what a group may be planned with."""

WAIT_SECONDS = 1.0
"""Between two looks at experts that other processes train."""

TESTED_ITEMS = 2560
"""Training items on which a finished expert is tested, at most."""


def train_experts(
    config: ReadsExperts,
    augmentation: Augmentation | None,
    real: RealItems,
    train: ImageSet,
    codec: Codec,
    *,
    count: int | None = None,
    progress: Progress | None = None,
    engine: Engine | None = None,
) -> ExpertBuffer:
    """Networks trained on the real items, with their parameters before the first and after every epoch.

    Only what the cache lacks is trained. After a stop or a kill the same call goes on from the last whole epoch. Other
    processes may do the same work at the same time: each trains other experts, and all return when all are there.

    Args:
        config: architecture, experts' settings, augmentation.
        augmentation: what `config.augmentation` means for these items (see `siamese_augmentation`).
        real: the items, on the device to train on.
        train, codec: the images and the codec behind them.
        count: how many experts there must be; None is the configuration's.
        progress: told every step, and how good each expert became.
        engine: trains the groups elsewhere, to the same bytes; this process writes the files, a whole expert at a time,
            and only this process needs the cache. None and `Local` train here, and keep every epoch.

    Returns:
        The buffer, with at least `count` experts.

    Raises:
        InputError: fewer than one expert, a network with batch norm, or damaged files in the cache.
        NonFiniteLossError: an expert's loss stopped being finite; what was trained before is kept.
        KeyboardInterrupt: on Ctrl-C, once the epoch in hand is kept.

    Source: Cazenavette et al. 2022 (MTT), section 3.1 and buffer.py of its code.
    Deviation: see docs/experts.md.
    """
    count = config.experts.count if count is None else count
    if count < 1:
        raise InputError(f"{count} experts were asked for; at least 1 is needed")
    if (augmentation is None) != (config.augmentation is None):
        raise ValueError("the augmentation given is not the configuration's")
    if engine is not None:
        engine.check_device(real.device)
    work = _work(config, augmentation, real, (train.fingerprint, codec.identity()), progress or Silent())
    buffer = work.buffer
    remove_old_states(buffer)
    if all(buffer.has(expert) for expert in range(count)):
        return buffer
    with Claims(buffer.folder / "claims.lock") as claims, stop_requested() as stop:
        work.fill(count, claims, stop, None if isinstance(engine, Local) else engine)
    return buffer


def training_of(config: ReadsExperts) -> TrainingConfig:
    """How the training loop is to train an expert; precision is still "auto"."""
    settings = config.experts.model_dump(exclude={"count", "storage", "seed"})
    return TrainingConfig(**settings, schedule="constant", augmentation=config.augmentation)


def expert_seed(seed: int, expert: int) -> int:
    """The seed of one expert's network: of its initial values, order and augmentation."""
    return generator(seed, "expert", expert).initial_seed()


@dataclass(frozen=True)
class Teaching:
    """What all experts of a buffer have in common; the precision of `training` is resolved."""

    config: ReadsExperts
    training: TrainingConfig
    real: RealItems
    augmentation: Augmentation | None

    def seeds(self, experts: range) -> tuple[int, ...]:
        return tuple(expert_seed(self.config.experts.seed, expert) for expert in experts)

    def train(self, experts: range, start: Snapshot | None, callback: Callback, progress: Progress) -> list[float]:
        """Trains a group, on from `start`, and says what fraction of the tested items each expert has right."""
        try:
            networks = train_networks(
                self.config.network,
                self.real,
                self.real.num_classes,
                self.training,
                self.seeds(experts),
                device=self.real.device,
                mode="stacked" if len(experts) > 1 else "looped",
                augmentation=self.augmentation,
                callback=callback,
                start=start,
                progress=Within(progress),
            )
        except NonFiniteLossError as error:
            name = str(experts[0]) if len(experts) == 1 else f"one of {experts[0]} to {experts[-1]}"
            raise NonFiniteLossError(f"expert {name}: {error}") from None
        return [self._accuracy(network) for network in networks]

    @property
    def num_tested(self) -> int:
        """How many items a finished expert is tested on."""
        return min(self.real.num_items, TESTED_ITEMS)

    @torch.no_grad()
    def _accuracy(self, network: Network) -> float:
        """The accuracy on some training items, the same for every expert."""
        order = torch.randperm(self.real.num_items, generator=generator(self.config.experts.seed, "tested items"))
        right = 0
        for chosen in order[:TESTED_ITEMS].split(256):
            predicted = network(self.real.gather(chosen)).argmax(1)
            right += int((predicted == self.real.labels[chosen.to(self.real.device)]).sum())
        return right / self.num_tested


def teach(
    teaching: Teaching, lesson: tuple[range, Snapshot | None], progress: Progress
) -> tuple[list[Snapshot], list[float]]:
    """Trains a group of experts, on from a snapshot; returns what its files hold of every epoch, and its accuracies."""
    snapshots: list[Snapshot] = []
    dtype = getattr(torch, teaching.config.experts.storage)

    def keep(snapshot: Snapshot) -> None:
        snapshots.append(replace(snapshot, parameters=snapshot.parameters.to(dtype), momentum=None))

    return snapshots, teaching.train(*lesson, keep, progress)


def _work(
    config: ReadsExperts,
    augmentation: Augmentation | None,
    real: RealItems,
    source: tuple[str, str],
    progress: Progress,
) -> _Work:
    """The work on one buffer; `source` is the fingerprint of the images and the identity of the codec."""
    network = build_network(config.network, real.shape, real.num_classes)
    if not is_stackable(network):
        raise InputError(
            "networks with batch norm have running statistics that trajectories lack; "
            "take objective.network.norm=instance"
        )
    identity = ExpertsIdentity.of(
        network,
        real.num_items,
        training_of(config),
        real.device,
        data=source[0],
        codec=source[1],
        item_shape=real.shape,
        network=config.network,
        storage=config.experts.storage,
        seed=config.experts.seed,
    )
    teaching = Teaching(config, identity.training, real, augmentation)
    size = 1 if ExpertBuffer.place(identity).exists() else _group_size(teaching, network, progress)
    return _Work(teaching, progress, ExpertBuffer.make(new_manifest(identity, num_parameters(network), size)))


def _group_size(teaching: Teaching, network: Network, progress: Progress) -> int:
    """How many experts to train stacked: 1 on CPUs, where stacking is slower; elsewhere by memory and a trial."""
    real, training = teaching.real, teaching.training
    if real.device.type != "cuda":
        return 1
    batch = min(training.batch_size, real.num_items)
    expert_bytes = batch * saved_bytes_per_item(network, real.shape) + 16 * num_parameters(network)
    size = min(LARGEST_GROUP, int(MEMORY_SHARE * free_bytes(real.device)) // expert_bytes)
    if size < 2:
        return 1
    seeds, hooks = teaching.seeds(range(size)), Hooks(teaching.augmentation)
    trainer = trainer_for(
        teaching.config.network, real, real.num_classes, training, seeds, real.device, progress, hooks
    )
    return size if trainer.faster_mode(seeds) == "stacked" else 1


@dataclass
class _Work:
    """Fills one buffer."""

    teaching: Teaching
    progress: Progress
    buffer: ExpertBuffer

    def fill(self, count: int, claims: Claims, stop: threading.Event, engine: Engine | None) -> None:
        """Train, or wait for, every expert below `count`."""
        missing = self._missing(count)
        num_steps = Plan.of(self.teaching.training, self.teaching.real.num_items).num_steps
        self.progress.start(f"training {len(missing)} experts", len(missing) * num_steps)
        waiting = False
        try:
            while missing:
                groups = list(itertools.islice(self._claimed_groups(missing, claims), 1 if engine is None else None))
                try:
                    self._train(groups, stop, engine)
                finally:
                    for expert in itertools.chain(*groups):
                        claims.release(expert)
                if not groups and not waiting:
                    waiting = True
                    self.progress.note(f"another process trains expert {missing[0]}: waiting for it")
                if not groups and stop.wait(WAIT_SECONDS):
                    raise KeyboardInterrupt
                before, missing = missing, self._missing(count)
                others = set(before) - set(missing) - set(itertools.chain(*groups))
                if others:
                    self.progress.advance(len(others) * num_steps)
        finally:
            self.progress.finish()

    def _missing(self, count: int) -> list[int]:
        return [expert for expert in range(count) if not self.buffer.has(expert)]

    def _claimed_groups(self, missing: Sequence[int], claims: Claims) -> Iterator[range]:
        """Groups of experts that no other process trains, each claimed when it is asked for.

        A group that was begun is finished as it was: with other companions its roundings could differ.
        """
        left = list(missing)
        while left:
            first = left.pop(0)
            if not claims.take(first):
                continue
            unfinished_size = begun_group_size(self.buffer, first)
            end = first + 1
            while end < first + (unfinished_size or self.buffer.manifest.group_size):
                if not (unfinished_size or end in left) or not claims.take(end):
                    break
                end += 1
            group = range(first, end)
            if not self.buffer.has(first) and unfinished_size in (None, len(group)):
                left = [expert for expert in left if expert not in group]
                yield group
            else:
                for expert in group:
                    claims.release(expert)

    def _train(self, groups: Sequence[range], stop: threading.Event, engine: Engine | None) -> None:
        growing = [GrowingGroup(self.buffer, experts) for experts in groups]
        lessons = [(group.experts, group.resume(self.teaching.seeds(group.experts))) for group in growing]
        if engine is None:
            for group, (_, start) in zip(growing, lessons, strict=True):
                self._finish(group, self._train_here(group, start, stop))
            return
        names = [
            f"expert {experts[0]}" if len(experts) == 1 else f"experts {experts[0]} to {experts[-1]}"
            for experts in groups
        ]
        with closing(engine.results(teach, lessons, self.teaching, self.progress, names)) as results:
            for place, (snapshots, accuracies) in results:  # each is written here at once
                for snapshot in snapshots:
                    growing[place].write(snapshot)
                self._finish(growing[place], accuracies)

    def _train_here(self, group: GrowingGroup, start: Snapshot | None, stop: threading.Event) -> list[float]:
        begin, first_epoch = time.perf_counter(), start.epoch if start else 0

        def keep(snapshot: Snapshot) -> None:
            group.add(snapshot)
            num_epochs = (snapshot.epoch - first_epoch) * len(group.experts)
            if num_epochs:
                self.buffer.pace = (time.perf_counter() - begin) / num_epochs
            if stop.is_set():
                raise KeyboardInterrupt

        return self.teaching.train(group.experts, start, keep, self.progress)

    def _finish(self, group: GrowingGroup, accuracies: list[float]) -> None:
        group.finish(accuracies)
        for expert, accuracy in zip(group.experts, accuracies, strict=True):
            chance = "; no better than chance" if accuracy < 1.5 / self.teaching.real.num_classes else ""
            self.progress.note(
                f"expert {expert}: loss {self.buffer.figures(expert).losses[-1]:.4g}, {100 * accuracy:.1f} % of "
                f"{self.teaching.num_tested} training items right{chance}"
            )
