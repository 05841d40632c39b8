"""What an audit found: a frozen record that prints itself."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal, TypeAlias

from pydantic import Field, model_validator

from attar.base.config import Config
from attar.evaluation.card import Card
from attar.sets.manifest import UNKNOWN, DataProvenance
from attar.studies.audit.labels import LabelFacts
from attar.studies.audit.membership import Membership

Part: TypeAlias = Literal["train", "test"]
NO_GUARANTEE = (
    "nothing here is differential privacy, and no audit can show it: a test that finds nothing proves nothing; only a "
    "noise mechanism with an accountant gives such a bound, and no recipe of attar has one"
)
NOT_TESTED = "membership inference was not run: --shadows 16 distils as many sets of random halves, and attacks them"
MOST_NAMED = 12
COLUMNS = (
    "space",
    "compared with",
    "median to training",
    "median to held-out",
    "nearer to training, %",
    "expected, %",
    "p, one-sided",
)


class Neighbours(Config):
    """For each distilled image its nearest training and its nearest held-out image, among given ones.

    Args:
        space, unit: where distances are taken.
        num_train, num_heldout: real images compared with.
        expected: the share nearer to training if distilled images had nothing to do with which part is which.
        nearer: distilled images that are nearer to training.
        ties: distilled images as near to both, which count on neither side.
        low, high: 95 % interval of the share nearer to training, were distilled images independent; None without any.
        p_value: of so many or more, each neighbour being a training image with the expected probability, by itself:
            distilled images that share a neighbour count together.
        train_indices, heldout_indices: places of the neighbours in their part, one for each distilled image.
        train_distances, heldout_distances: to them, in the unit.
    """

    space: str
    unit: str
    num_train: int = Field(ge=1)
    num_heldout: int = Field(ge=1)
    expected: float = Field(gt=0, lt=1)
    nearer: int = Field(ge=0)
    ties: int = Field(ge=0)
    low: float | None
    high: float | None
    p_value: float = Field(ge=0, le=1)
    train_indices: tuple[int, ...] = Field(min_length=1)
    heldout_indices: tuple[int, ...]
    train_distances: tuple[float, ...]
    heldout_distances: tuple[float, ...]

    @model_validator(mode="after")
    def _one_of_each(self) -> Neighbours:
        columns = (self.train_indices, self.heldout_indices, self.train_distances, self.heldout_distances)
        if len({len(column) for column in columns}) > 1:
            raise ValueError("neighbours of different numbers of distilled images")
        return self

    @property
    def decided(self) -> int:
        """Distilled images that are not as near to both."""
        return len(self.train_indices) - self.ties

    @property
    def share(self) -> float | None:
        """Of the decided ones, those nearer to training; None where all are ties."""
        return self.nearer / self.decided if self.decided else None

    def cells(self) -> list[str]:
        """In the order of COLUMNS."""
        share = "no difference" if self.share is None else f"{100 * self.share:.1f}"
        if self.low is not None and self.high is not None:
            share += f" [{100 * self.low:.1f}, {100 * self.high:.1f}]"
        return [
            self.space,
            f"{self.num_train:,} training, {self.num_heldout:,} held-out",
            f"{statistics.median(self.train_distances):.3g} {self.unit}",
            f"{statistics.median(self.heldout_distances):.3g} {self.unit}",
            share,
            f"{100 * self.expected:.1f}",
            f"{self.p_value:.2g}",
        ]


class Limit(Config):
    """The distance below which a distilled image counts as a copy of a training image.

        factor * the quantile of the distances from held-out images to their nearest training images

    Args:
        distance: the limit, in `space`; 0 where so many held-out images are in the training data.
        quantile, factor: of the rule.
        num_heldout: held-out images behind it.
        median: of their distances.
        alarms: of these held-out images, those that the rule would call copies, each by the quantile of the others.
        low, high: 95 % interval of the share of alarms.
    """

    space: str
    unit: str
    distance: float = Field(ge=0)
    quantile: float
    factor: float
    num_heldout: int = Field(ge=1)
    median: float
    alarms: int = Field(ge=0)
    low: float
    high: float

    @property
    def text(self) -> str:
        """The rule, and how often it errs on held-out images."""
        return (
            f"a copy in {self.space} is nearer than {self.distance:.3g} {self.unit}: {self.factor:g} of the "
            f"{100 * self.quantile:g} % quantile of the distances from held-out images to training images (median "
            f"{self.median:.3g}); {self.alarms} of {self.num_heldout:,} held-out images are that near themselves "
            f"({100 * self.alarms / self.num_heldout:.2g} % [{100 * self.low:.2g}, {100 * self.high:.2g}])"
        )


class Copy(Config):
    """A distilled image that is a real one, or next to it.

    Args:
        item, item_class: its place among the distilled ones, and its class.
        part, index, image_class: of the real image.
        kind: "verbatim": equal up to 8-bit rounding; "near": below the limit.
        space, distance: where it was found, and how near.
        mirrored: whether the real image's mirror image is meant.
    """

    item: int = Field(ge=0)
    item_class: str
    part: Part
    index: int = Field(ge=0)
    image_class: str
    kind: Literal["verbatim", "near"]
    space: str
    distance: float = Field(ge=0)
    mirrored: bool

    @property
    def text(self) -> str:
        """E.g. "item 3 (cat) = training image 17 (cat), verbatim"."""
        place = "training image" if self.part == "train" else "test image"
        turned = ", mirrored" if self.mirrored else ""
        how = "verbatim" if self.kind == "verbatim" else f"{self.space}, distance {self.distance:.2g}"
        return f"item {self.item} ({self.item_class}) is {place} {self.index} ({self.image_class}), {how}{turned}"


class AuditCard(Card):
    """Everything that one audit found.

    Args:
        name, fingerprint, num_items: of the set.
        initial, real_pixels_inside, provenance, privacy: what the file says of itself.
        data, train_fingerprint, test_fingerprint: name of the real data, and its parts.
        neighbours: in every space, with equally many training and held-out images; in cheap ones with all of them too.
        limits: for copies, in every space where they are looked for.
        copies: each distilled image at most once for each part.
        membership: of images in the training half of sets made alike; None where it was not tested.
    """

    noun = "audit"

    name: str
    fingerprint: str
    num_items: int = Field(ge=1)
    initial: str
    real_pixels_inside: bool
    provenance: DataProvenance
    privacy: str
    data: str
    train_fingerprint: str
    test_fingerprint: str
    seed: int
    device: str
    versions: dict[str, str]
    neighbours: tuple[Neighbours, ...] = Field(min_length=1)
    limits: tuple[Limit, ...]
    copies: tuple[Copy, ...] = ()
    membership: Membership | None = None
    labels: LabelFacts
    guarantee: str = NO_GUARANTEE
    notes: tuple[str, ...] = ()

    def found(self, part: Part = "train") -> list[Copy]:
        """The copies of images of one part."""
        return [copy for copy in self.copies if copy.part == part]

    def compared(self, space: str, equal: bool = True) -> Neighbours:
        """The neighbours in a space, among equally many of both parts or among all. Raises KeyError."""
        for neighbours in self.neighbours:
            if neighbours.space.startswith(space) and (neighbours.num_train == neighbours.num_heldout) == equal:
                return neighbours
        raise KeyError(space)

    @property
    def verdict(self) -> str:
        """What was found, in one sentence; never that a set is safe."""
        copies = self.found()
        verbatim = sum(copy.kind == "verbatim" for copy in copies)
        said = f"{len(copies)} of {self.num_items} distilled images are copies of training images ({verbatim} verbatim)"
        if self.membership is None:
            return f"{said}; membership was not tested"
        area = self.membership.area
        return f"{said}; membership of a training image is guessed with an area under the curve of {area.text}"

    @property
    def title(self) -> str:
        return f"audit of {self.name} on {self.data}: {self.num_items} distilled images, {self.device}"

    @property
    def statement(self) -> str:
        """What a file may say of itself after this audit; never a guarantee."""
        audited = f"Audited on {self.data} ({self.train_fingerprint[:12]}): {self.verdict}."
        return f"No differential-privacy guarantee. {audited}"

    @property
    def columns(self) -> tuple[str, ...]:
        return COLUMNS

    def lines(self) -> list[list[str]]:
        return [neighbours.cells() for neighbours in self.neighbours]

    def remarks(self) -> list[str]:
        """Verdict, copies, their limits, membership, labels, provenance, what is not claimed, and notes."""
        copies = [*_first_copies(self.found()), *_first_copies(self.found("test"))]
        limits = [limit.text for limit in self.limits]
        membership = self.membership.remarks() if self.membership else [NOT_TESTED]
        origin = f"the file says: {self.privacy}"
        if self.initial != UNKNOWN:
            start = "began as real training images" if self.real_pixels_inside else "did not begin as real images"
            origin += f" Its items {start} ({self.initial})."
        labels = self.labels.remarks()
        return [self.verdict, *copies, *limits, *membership, *labels, origin, NO_GUARANTEE, *self.notes]


def _first_copies(copies: Sequence[Copy]) -> list[str]:
    """The first ones by name, and how many more."""
    more = len(copies) - MOST_NAMED
    return [*(copy.text for copy in copies[:MOST_NAMED]), *[f"and {more} more"] * (more > 0)]
