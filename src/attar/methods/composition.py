"""What the parts of a composition ask of one another, and the words in which an unmet need is refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

NEEDS: dict[str, str] = {
    "steps": "an objective that takes steps: without one nothing is trained",
    "experts": "trajectories of networks trained on the real data, which the objective asks for",
    "observer": "a network trained on the real data",
    "originals": "the real image behind each item",
    "loss": "items that are less than their originals: squeezed into a canvas, or coded with loss",
    "samples": "items and an objective that agree on sampling: distributions are drawn, fixed items are not",
    "fixed items": "items that are the same in every epoch",
    "start": "a start that the items can have: real images or noise",
    "affine codes": "a space in which augmentation is the same as on images: pixels, pca or dct",
    "value range": "values that decode to images each by itself",
    "model": "a frozen model in the codec that renders the items",
    "own optimizer": "an optimizer for what is learned beside the items",
    "average": "items whose running average is an item",
}
"""Every need by name. A composition is refused because one of these is not met, never because of a list of pairs."""


@runtime_checkable
class Composition(Protocol):
    """A recipe as its parts see it; `recipes.recipe.Recipe` is one."""

    @property
    def codec(self) -> Any: ...
    @property
    def initialization(self) -> Any: ...
    @property
    def parameterization(self) -> Any: ...
    @property
    def objective(self) -> Any: ...
    @property
    def labels(self) -> Any: ...
    @property
    def steps(self) -> int: ...
    @property
    def optimizer(self) -> Any: ...
    @property
    def decoder_optimizer(self) -> Any: ...
    @property
    def feature_optimizer(self) -> Any: ...


@dataclass(frozen=True)
class Unmet:
    """A need that a composition does not meet.

    Args:
        need: its name in `NEEDS`.
        text: who needs it, and the mend.
    """

    need: str
    text: str

    def __post_init__(self) -> None:
        assert self.need in NEEDS, self.need

    def __str__(self) -> str:
        return f"{self.text} (unmet need: {self.need})"


def unmet_needs(composition: Composition) -> Iterator[Unmet]:
    """What the parts of a composition lack, each part asked once."""
    for part in (composition.parameterization, composition.objective, composition.labels):
        yield from part.unmet(composition)


def refusal(unmet: Iterable[Unmet]) -> str | None:
    """All that is wrong in one line, or None."""
    return "; also: ".join(dict.fromkeys(map(str, unmet))) or None


def starts_from_noise(composition: Composition) -> bool:
    """Whether no real image stands behind the items."""
    return bool(composition.initialization == "noise")
