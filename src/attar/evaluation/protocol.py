"""Evaluation protocols: named, versioned JSON data that say exactly how networks are trained on a set."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import Field, model_validator

from attar.base.config import Config, parse_config
from attar.base.errors import InputError, unknown
from attar.data.mirroring import mirroring_harms
from attar.models.networks.network import NetworkConfig
from attar.models.training.settings import TrainingConfig

FOLDER = Path(__file__).parent / "protocols"

LabelsKind: TypeAlias = Literal["hard", "soft", "regions"]

LABEL_WORDS: dict[LabelsKind, str] = {"hard": "hard labels", "soft": "soft labels", "regions": "labels of regions"}


class RateSearch(Config):
    """The learning rate of every row on every network, chosen on training images that it is not trained on.

    Args:
        learning_rates: to choose from, ascending; a tie goes to the smaller.
        validation_share: of each class's training images, drawn by a seed, that rates are compared on.
    """

    learning_rates: tuple[float, ...] = Field(min_length=2)
    validation_share: float = Field(default=0.1, gt=0, le=0.5)

    @model_validator(mode="after")
    def _rates_ascend(self) -> RateSearch:
        if list(self.learning_rates) != sorted(set(self.learning_rates)) or self.learning_rates[0] <= 0:
            raise InputError(f"learning_rates are {list(self.learning_rates)}; give ascending positive numbers")
        return self


class Protocol(Config):
    """How networks are trained on a set before they are tested. The last epoch counts, never a better one before it.

    Args:
        version: raised with every change that can change a score.
        comparable: whether scores may be set beside published ones.
        sources: paper, section and code that the settings were read from.
        deviations: every setting that differs from the sources.
        seeds, networks: of each row where the user names none; a network's depth None follows the resolution.
        use_learned_rate: the distilled items are trained on at the set's own learned rate ("student_rate"), where it
            has one; all other rows, and sets without one, at that of `training`.
        means: an epoch has the means of items that are distributions, beside a sample of each.
        labels: kinds of labels that the sources' evaluation trains on; sets with others are refused.
        smallest_side, largest_side: in pixels; sets of other images are refused.
        rate_search: chooses every row's learning rate in the place of that of `training`; None takes the latter.

    Raises:
        InputError: a learning rate that is searched for and learned, bounds that exclude every image.
    """

    name: str = Field(min_length=1)
    version: int = Field(ge=1)
    description: str
    comparable: bool
    sources: tuple[str, ...] = ()
    deviations: tuple[str, ...] = ()
    seeds: int = Field(ge=1)
    networks: tuple[NetworkConfig, ...] = Field(min_length=1)
    use_learned_rate: bool = False
    means: bool = False
    labels: tuple[LabelsKind, ...] = Field(default=("hard", "soft", "regions"), min_length=1)
    smallest_side: int = Field(default=1, ge=1)
    largest_side: int | None = Field(default=None, ge=1)
    rate_search: RateSearch | None = None
    training: TrainingConfig

    @model_validator(mode="after")
    def _fits_together(self) -> Protocol:
        if self.rate_search is not None and self.use_learned_rate:
            raise InputError(
                "use_learned_rate and rate_search each give the set a learning rate; leave out one of them"
            )
        if self.largest_side is not None and self.largest_side < self.smallest_side:
            raise InputError(f"smallest_side {self.smallest_side} is above largest_side {self.largest_side}; swap them")
        return self

    @property
    def label(self) -> str:
        """Name and version, e.g. "dc-bench v1"."""
        return f"{self.name} v{self.version}"

    @property
    def flips(self) -> bool:
        """True where training images are mirrored."""
        augmentation = self.training.augmentation
        return augmentation is not None and "flip" in augmentation.operations

    def without_flip(self) -> Protocol:
        """The same protocol without mirroring: what the field does for digits (DSA, section 4)."""
        return self.model_copy(update={"training": self.training.without_flip()})


def protocol_names() -> tuple[str, ...]:
    """The protocols that come with attar."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.json")))


def protocol(name: str | Path | Protocol) -> Protocol:
    """The protocol called `name`, or the one in a JSON file of the user's own.

    Args:
        name: of `protocol_names()`, or a path that ends in ".json".

    Raises:
        InputError: an unknown name (the nearest is named), a file that is absent or holds something else.

    Example:
        >>> protocol("dc-bench").training.epochs
        1000
    """
    if isinstance(name, Protocol):
        return name
    path = Path(name)
    if path.suffix.lower() == ".json":
        return _read(path)
    if str(name) not in protocol_names():
        raise unknown("protocol", str(name), protocol_names())
    return _read(FOLDER / f"{name}.json")


def resolve_flip(chosen: Protocol, flip: bool | None, data_name: str) -> Protocol:
    """The protocol with mirroring decided: as asked, else left out where the data's name says that it would harm.

    Raises:
        InputError: mirroring asked of a protocol that has none.
    """
    if flip and not chosen.flips:
        raise InputError(
            f"protocol {chosen.name!r} mirrors no images; leave the flip out, or write a protocol that has it"
        )
    drop = mirroring_harms(data_name) if flip is None else not flip
    return chosen.without_flip() if drop else chosen


def check_judges(chosen: Protocol, labels: LabelsKind, image_shape: tuple[int, int, int]) -> None:
    """Raise InputError unless a protocol can judge sets with such labels and images (C, H, W); name those that can."""
    reason = _refusal(chosen, labels, image_shape)
    if reason is None:
        return
    able = [name for name in protocol_names() if _refusal(protocol(name), labels, image_shape) is None]
    raise InputError(f"protocol {chosen.label} {reason}; protocols that can judge it: {', '.join(able)}")


def _refusal(chosen: Protocol, labels: LabelsKind, image_shape: tuple[int, int, int]) -> str | None:
    _, height, width = image_shape
    if labels not in chosen.labels:
        allowed = " or ".join(LABEL_WORDS[kind] for kind in chosen.labels)
        return f"judges sets with {allowed} and this one has {LABEL_WORDS[labels]}"
    if min(height, width) < chosen.smallest_side:
        return f"is for images of at least {chosen.smallest_side} pixels and these have {height} x {width}"
    if chosen.largest_side is not None and max(height, width) > chosen.largest_side:
        return f"is for images of at most {chosen.largest_side} pixels and these have {height} x {width}"
    return None


def _read(path: Path) -> Protocol:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise InputError(
            f"protocol file {path} cannot be read; give a JSON file, or one of: {', '.join(protocol_names())}"
        ) from None
    return parse_config(Protocol, text, f"protocol {path.name}")
