"""Training the experts that a buffer lacks."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from attar.claims import Claims
from attar.codecs.codec import Codec
from attar.data.augmentation import Augmentation
from attar.data.image_set import ImageSet
from attar.errors import InputError, NonFiniteLossError
from attar.experts.buffer import ExpertBuffer, ExpertsIdentity, new_manifest
from attar.experts.growing import GrowingGroup, begun_group_size, remove_old_states
from attar.experts.items import RealTrainingItems
from attar.footprint import free_bytes, saved_bytes_per_item
from attar.networks.network import Network, build_network, num_parameters
from attar.objectives.discrepancy import DiscrepancyConfig
from attar.objectives.objective import RealItems
from attar.objectives.trajectories import TrajectoriesConfig
from attar.progress import Progress, Silent, Within
from attar.randomness import generator
from attar.run_state import stop_requested
from attar.training.loop import faster_mode, train_networks, training_acceleration
from attar.training.settings import Plan, TrainingConfig
from attar.training.snapshots import Snapshot
from attar.training.stacked import is_stackable

TESTED_ITEMS = 2560
"""Training items on which a finished expert is tried."""

LARGEST_GROUP = 16
"""Networks stacked at most: field-notes.md has 8 to 16."""

MEMORY_SHARE = 0.5
"""Of the free memory, what a group may be planned with."""

WAIT_SECONDS = 1.0
"""Between two looks at experts that other processes train."""


def train_experts(
    config: TrajectoriesConfig | DiscrepancyConfig,
    augmentation: Augmentation | None,
    real: RealItems,
    train: ImageSet,
    codec: Codec,
    *,
    count: int | None = None,
    progress: Progress | None = None,
) -> ExpertBuffer:
    """Networks trained on the real items, with their parameters before the first and after every epoch.

    Only what the cache lacks is trained. After a stop or a kill the same call goes on from the last whole epoch. Other
    processes may do the same work at the same time: each trains other experts, and all return when all are there.

    Args:
        config: architecture, experts' settings, augmentation.
        augmentation: what `config.augmentation` means for these items (see `siamese_augmentation`).
        real: the items, on the device to train on.
        train: the images behind them.
        codec: the codec behind them.
        count: how many experts there must be; None is the configuration's.
        progress: told every step, and how good each expert became.

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
    work = _Work.of(config, augmentation, real, (train.fingerprint, codec.identity()), progress or Silent())
    buffer = work.buffer
    remove_old_states(buffer)
    if all(buffer.has(expert) for expert in range(count)):
        return buffer
    with Claims(buffer.folder / "claims.lock") as claims, stop_requested() as stop:
        work.fill(count, claims, stop)
    return buffer


def training_of(config: TrajectoriesConfig | DiscrepancyConfig) -> TrainingConfig:
    """How the training loop is to train an expert; precision is still "auto"."""
    experts = config.experts
    return TrainingConfig(
        epochs=experts.epochs,
        batch_size=experts.batch_size,
        learning_rate=experts.learning_rate,
        momentum=experts.momentum,
        weight_decay=experts.weight_decay,
        schedule="constant",
        augmentation=config.augmentation,
        flat_radius=experts.flat_radius,
    )


def expert_seed(seed: int, expert: int) -> int:
    """The seed of one expert's network: of its initial values, order and augmentation."""
    return generator(seed, "expert", expert).initial_seed()


@dataclass
class _Work:
    """What all experts of a buffer have in common."""

    config: TrajectoriesConfig | DiscrepancyConfig
    training: TrainingConfig
    real: RealItems
    augmentation: Augmentation | None
    progress: Progress
    buffer: ExpertBuffer

    @classmethod
    def of(
        cls,
        config: TrajectoriesConfig | DiscrepancyConfig,
        augmentation: Augmentation | None,
        real: RealItems,
        source: tuple[str, str],
        progress: Progress,
    ) -> _Work:
        """`source` is the fingerprint of the images and the identity of the codec."""
        network = build_network(config.network, real.shape, real.num_classes)
        if not is_stackable(network):
            raise InputError(
                "networks with batch norm have running statistics that trajectories lack; "
                "take objective.network.norm=instance"
            )
        training = training_of(config)
        acceleration = training_acceleration(network, len(real.labels), training, real.device)
        training = training.model_copy(update={"precision": acceleration.precision})
        identity = ExpertsIdentity(
            data=source[0],
            codec=source[1],
            item_shape=real.shape,
            num_classes=real.num_classes,
            network=config.network,
            training=training,
            compiled=acceleration.compile,
            device=real.device.type,
            storage=config.experts.storage,
            seed=config.experts.seed,
        )
        folder = ExpertBuffer.place(identity)
        known = folder.exists()
        size = 1 if known else _group_size(config, training, network, real, augmentation, progress)
        buffer = ExpertBuffer.make(new_manifest(identity, num_parameters(network), size))
        return cls(config, training, real, augmentation, progress, buffer)

    def fill(self, count: int, claims: Claims, stop: threading.Event) -> None:
        """Train, or wait for, every expert below `count`."""
        missing = self._missing(count)
        steps = self._steps_per_expert
        self.progress.start(f"training {len(missing)} experts", len(missing) * steps)
        waiting = False
        try:
            while missing:
                group = self._claimed_group(missing, claims)
                if group is not None:
                    try:
                        self._train(group, stop)
                    finally:
                        for expert in group:
                            claims.release(expert)
                elif not waiting:
                    waiting = True
                    self.progress.note(f"another process trains expert {missing[0]}: waiting for it")
                if group is None and stop.wait(WAIT_SECONDS):
                    raise KeyboardInterrupt
                before, missing = missing, self._missing(count)
                others = set(before) - set(missing) - set(group or ())
                if others:
                    self.progress.advance(len(others) * steps)
        finally:
            self.progress.finish()

    @property
    def _steps_per_expert(self) -> int:
        return Plan.of(self.training, len(self.real.labels)).num_steps

    def _missing(self, count: int) -> list[int]:
        return [expert for expert in range(count) if not self.buffer.has(expert)]

    def _claimed_group(self, missing: Sequence[int], claims: Claims) -> range | None:
        """The next experts that no other process trains, claimed; None where there are none.

        A group that was begun is finished as it was: with other companions its roundings could differ.
        """
        for first in missing:
            if not claims.take(first):
                continue
            begun = begun_group_size(self.buffer, first)
            wanted = range(first + 1, first + (begun or self.buffer.manifest.group_size))
            end = first + 1
            for expert in wanted:
                if not (begun or expert in missing) or not claims.take(expert):
                    break
                end = expert + 1
            group = range(first, end)
            if not self.buffer.has(first) and (begun is None or len(group) == begun):
                return group
            for expert in group:
                claims.release(expert)
        return None

    def _train(self, experts: range, stop: threading.Event) -> None:
        group = GrowingGroup(self.buffer, experts)
        seeds = tuple(expert_seed(self.config.experts.seed, expert) for expert in experts)
        start = group.resume(seeds)
        begin, done = time.perf_counter(), start.epoch if start else 0

        def watch(snapshot: Snapshot) -> None:
            group.add(snapshot)
            if snapshot.epoch > done:
                self.buffer.pace = (time.perf_counter() - begin) / (snapshot.epoch - done) / len(experts)
            if stop.is_set():
                raise KeyboardInterrupt

        try:
            networks = train_networks(
                self.config.network,
                RealTrainingItems(self.real),
                self.real.num_classes,
                self.training,
                seeds,
                device=self.real.device,
                mode="stacked" if len(experts) > 1 else "looped",
                augmentation=self.augmentation,
                watch=watch,
                start=start,
                progress=Within(self.progress),
            )
        except NonFiniteLossError as error:
            raise NonFiniteLossError(f"expert {_names(experts)}: {error}") from None
        accuracies = [self._accuracy(network) for network in networks]
        group.finish(accuracies)
        self._tell(experts, group.last_losses, accuracies)

    @torch.no_grad()
    def _accuracy(self, network: Network) -> float:
        """On some training items, the same for every expert."""
        count = len(self.real.labels)
        order = torch.randperm(count, generator=generator(self.config.experts.seed, "tested items"))
        right = 0
        for chosen in order[:TESTED_ITEMS].split(256):
            predicted = network(self.real.gather(chosen)).argmax(1)
            right += int((predicted == self.real.labels[chosen.to(self.real.device)]).sum())
        return right / min(count, TESTED_ITEMS)

    def _tell(self, experts: range, losses: Sequence[float], accuracies: Sequence[float]) -> None:
        tested = min(len(self.real.labels), TESTED_ITEMS)
        for expert, loss, accuracy in zip(experts, losses, accuracies, strict=True):
            chance = "; no better than chance" if accuracy < 1.5 / self.real.num_classes else ""
            self.progress.note(
                f"expert {expert}: loss {loss:.4g}, {100 * accuracy:.1f} % of {tested} training items right{chance}"
            )


def _group_size(
    config: TrajectoriesConfig | DiscrepancyConfig,
    training: TrainingConfig,
    network: Network,
    real: RealItems,
    augmentation: Augmentation | None,
    progress: Progress,
) -> int:
    """How many experts to train stacked: 1 on CPUs, where stacking is slower; elsewhere by memory and a trial."""
    if real.device.type != "cuda":
        return 1
    batch = min(training.batch_size, len(real.labels))
    each = batch * saved_bytes_per_item(network, real.shape) + 16 * num_parameters(network)
    size = min(LARGEST_GROUP, int(MEMORY_SHARE * free_bytes(real.device)) // each)
    if size < 2:
        return 1
    items, seeds = RealTrainingItems(real), [expert_seed(config.experts.seed, expert) for expert in range(size)]
    mode = faster_mode(
        config.network,
        items,
        real.num_classes,
        training,
        seeds,
        device=real.device,
        augmentation=augmentation,
        progress=progress,
    )
    return size if mode == "stacked" else 1


def _names(experts: range) -> str:
    return str(experts[0]) if len(experts) == 1 else f"one of {experts[0]} to {experts[-1]}"
