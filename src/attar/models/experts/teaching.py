"""How a group of experts is trained, in this process or in another."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attar.base.errors import NonFiniteLossError
from attar.base.progress import Progress, Within
from attar.base.randomness import generator
from attar.base.shapes import Float
from attar.data.augmentation import Augmentation
from attar.models.experts.buffer import Storage
from attar.models.experts.config import ReadsExperts
from attar.models.networks.network import Network
from attar.models.real_items import RealItems, RealTrainingItems
from attar.models.training.loop import Callback, train_networks
from attar.models.training.settings import TrainingConfig
from attar.models.training.snapshots import Snapshot

TESTED_ITEMS = 2560
"""Training items on which a finished expert is tested, at most."""


@dataclass(frozen=True)
class Teaching:
    """What all experts of a buffer have in common.

    Args:
        config: of the objective that reads them.
        training: with its precision resolved.
        real: what they are trained on.
        augmentation: of these items.
    """

    config: ReadsExperts
    training: TrainingConfig
    real: RealItems
    augmentation: Augmentation | None

    def seeds(self, experts: range) -> tuple[int, ...]:
        """Of the experts' networks."""
        return tuple(expert_seed(self.config.experts.seed, expert) for expert in experts)

    def train(self, experts: range, start: Snapshot | None, callback: Callback, progress: Progress) -> list[float]:
        """Train a group from its start on, and say what fraction of the tested items each expert has right.

        Args:
            experts: their numbers.
            start: what to go on from, or None.
            callback: receives every epoch.
            progress: told every step.

        Raises:
            NonFiniteLossError: of the group's losses.
        """
        try:
            networks = train_networks(
                self.config.network,
                RealTrainingItems(self.real),
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
            raise NonFiniteLossError(f"expert {_names(experts)}: {error}") from None
        return [self._accuracy(network) for network in networks]

    @property
    def num_tested(self) -> int:
        """Items that a finished expert is tested on."""
        return min(len(self.real.labels), TESTED_ITEMS)

    @torch.no_grad()
    def _accuracy(self, network: Network) -> float:
        """On some training items, the same for every expert."""
        order = torch.randperm(len(self.real.labels), generator=generator(self.config.experts.seed, "tested items"))
        right = 0
        for chosen in order[:TESTED_ITEMS].split(256):
            predicted = network(self.real.gather(chosen)).argmax(1)
            right += int((predicted == self.real.labels[chosen.to(self.real.device)]).sum())
        return right / self.num_tested


@dataclass(frozen=True)
class Lesson:
    """A group of experts to be trained by whichever process, what it goes on from, and how rows are sent back."""

    experts: range
    start: Snapshot | None
    storage: Storage


@dataclass(frozen=True)
class Taught:
    """A group of experts as they come back.

    Args:
        rows: in the storage's type, the parameters before the first epoch that was trained (unless the group had begun
            before) and after every one.
        losses: mean training loss of every epoch that was trained.
        accuracies: fraction right of the tested items.
    """

    rows: Float[Tensor, "epochs experts parameters"]
    losses: Float[Tensor, "experts epochs"]
    accuracies: list[float]


def teach(teaching: Teaching, lesson: Lesson, progress: Progress) -> Taught:
    """Train a group of experts and keep in memory what its files will hold."""
    snapshots: list[Snapshot] = []
    dtype = torch.bfloat16 if lesson.storage == "bfloat16" else torch.float32

    def keep(snapshot: Snapshot) -> None:
        snapshots.append(replace(snapshot, parameters=snapshot.parameters.to(dtype), momentum=None))

    accuracies = teaching.train(lesson.experts, lesson.start, keep, progress)
    losses = [snapshot.losses.float() for snapshot in snapshots if snapshot.losses is not None]
    num_parameters = (lesson.start or snapshots[0]).parameters.shape[1]
    # A group that was whole already gives no snapshot.
    no_rows = torch.zeros(0, len(lesson.experts), num_parameters, dtype=dtype)
    rows = torch.cat([no_rows, *(snapshot.parameters.unsqueeze(0) for snapshot in snapshots)])
    return Taught(rows, torch.stack(losses, 1) if losses else no_rows[..., 0].float().T, accuracies)


def expert_seed(seed: int, expert: int) -> int:
    """The seed of one expert's network: of its initial values, order and augmentation."""
    return generator(seed, "expert", expert).initial_seed()


def _names(experts: range) -> str:
    return str(experts[0]) if len(experts) == 1 else f"one of {experts[0]} to {experts[-1]}"
