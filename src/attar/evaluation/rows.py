"""Rows of a scorecard."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from pydantic import Field, model_validator

from attar.base.config import Config
from attar.evaluation.statistics import mean_and_std, spread_text
from attar.models.networks.network import NetworkConfig


class Row(Config):
    """One kind of training items on one network, over all seeds.

    Args:
        name: "distilled", or that of a baseline.
        num_items: training items of all classes together; 0 where the row is absent.
        paper_bytes: 4 bytes for every stored value, the papers' convention.
        num_bytes: of the file, or of the same images as plain uint8.
        seeds: one a trained network.
        accuracies: percent of the test images classified rightly, one a seed.
        mean, std: of the accuracies, over n - 1; std is None for a single seed.
        per_class: percent for each class, over all seeds; None where a class has no test image.
        confusion: counts over all seeds, [true class][predicted class]; kept for the distilled row only.
        curve_epochs: after how many epochs the networks were tested, ascending; the last is the one that counts. Empty
            where no curves were asked for.
        curves: percent after each of these epochs, of each seed's network; the last is its accuracy.
        minutes: of training and testing, all seeds together, when they were computed.
        training_minutes: of training alone, of one network; None, as the next two, where the row is absent.
        images_seen: images that one network is trained on until it is tested, each as often as it is seen.
        num_epochs: passes over the items in this, the last perhaps in part.
        cached: how many of the seeds were read from the cache.
        note: what should be known about these items.
        absent: why nothing was measured, or None.
    """

    name: str
    network: NetworkConfig
    num_items: int = Field(default=0, ge=0)
    paper_bytes: int | None = None
    num_bytes: int | None = None
    seeds: tuple[int, ...] = ()
    accuracies: tuple[float, ...] = ()
    mean: float | None = None
    std: float | None = None
    per_class: tuple[float | None, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    curve_epochs: tuple[int, ...] = ()
    curves: tuple[tuple[float, ...], ...] = ()
    minutes: float = Field(default=0.0, ge=0)
    training_minutes: float | None = Field(default=None, ge=0)
    images_seen: int | None = Field(default=None, ge=0)
    num_epochs: int | None = Field(default=None, ge=0)
    cached: int = Field(default=0, ge=0)
    note: str = ""
    absent: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Row:
        if len(self.seeds) != len(self.accuracies):
            raise ValueError(f"{len(self.accuracies)} accuracies for {len(self.seeds)} seeds")
        if (self.mean is None) != (self.absent is not None) or bool(self.seeds) != (self.absent is None):
            raise ValueError("a row has either scores or a reason why it is absent")
        if self.accuracies and (self.mean, self.std) != mean_and_std(self.accuracies):
            raise ValueError("mean and std are not those of the accuracies")
        if self.curve_epochs or self.curves:
            _check_curves(self)
        return self

    @property
    def accuracy_text(self) -> str:
        """E.g. "63.2 +- 0.8", "63.2 (n = 1: no spread)", "absent"."""
        if self.mean is None:
            return "absent"
        return spread_text(self.mean, self.std, ONE_SEED)


DISTILLED = "distilled"
FULL = "all real images"
ONE_SEED = " (n = 1: no spread)"

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
"""Kinds of baselines, as users name them, to their rows' names; in the order of the rows."""


def find_row(rows: Iterable[Row], name: str = DISTILLED, network: NetworkConfig | None = None) -> Row:
    """The row of that name on that network, or on the first network. Raises KeyError."""
    for row in rows:
        if row.name == name and network in (None, row.network):
            return row
    raise KeyError(name)


def row_remarks(rows: Iterable[Row]) -> list[str]:
    """The notes of rows, and why some are absent, each once."""
    return list(dict.fromkeys(f"{row.name}: {row.absent or row.note}" for row in rows if row.absent or row.note))


def _check_curves(row: Row) -> None:
    """Raise ValueError for curves that do not end in the row's accuracies, epoch by epoch."""
    epochs = row.curve_epochs
    if not epochs or epochs[0] < 1 or any(late <= early for early, late in pairwise(epochs)):
        raise ValueError("the epochs of curves are not ascending counts")
    if [len(curve) for curve in row.curves] != [len(epochs)] * len(row.seeds):
        raise ValueError(f"{len(row.curves)} curves are not one of {len(epochs)} points for each of the seeds")
    if tuple(curve[-1] for curve in row.curves) != row.accuracies:
        raise ValueError("curves do not end in the accuracies")
