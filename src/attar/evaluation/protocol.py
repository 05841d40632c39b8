"""Evaluation protocols: named, versioned JSON data that say exactly how networks are trained on a set."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from attar.config import Config, parse_config
from attar.data.handed import handed
from attar.errors import InputError, unknown
from attar.networks.network import NetworkConfig
from attar.training.loop import TrainingConfig

FOLDER = Path(__file__).parent / "protocols"


class Protocol(Config):
    """How networks are trained on a set before they are tested. The last epoch counts, never a better one before it.

    Args:
        name: what users call it.
        version: raised with every change that can change a score.
        description: one sentence.
        comparable: whether scores may be set beside published ones.
        sources: paper, section and code that the settings were read from.
        deviations: every setting that differs from the sources.
        seeds: how many networks of each kind, where the user names no number.
        networks: which networks, where the user names none; depth None follows the resolution.
        use_learned_rate: the distilled items are trained on at the set's own learned rate ("student_rate"), where it
            has one; all other rows, and sets without one, at that of `training`.
        means: an epoch has the means of items that are distributions too, beside a sample of each; other items are seen
            once.
        training: every setting of the training.
    """

    added_later = frozenset({"means"})

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
    training: TrainingConfig

    @property
    def label(self) -> str:
        """Name and version, e.g. "dc-bench v1"."""
        return f"{self.name} v{self.version}"

    @property
    def flips(self) -> bool:
        """Whether training images are mirrored."""
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
        name: a name of `protocol_names()`, or a path that ends in ".json".

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
    drop = handed(data_name) if flip is None else not flip
    return chosen.without_flip() if drop else chosen


def _read(path: Path) -> Protocol:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise InputError(
            f"protocol file {path} cannot be read; give a JSON file, or one of: {', '.join(protocol_names())}"
        ) from None
    return parse_config(Protocol, text, f"protocol {path.name}")
