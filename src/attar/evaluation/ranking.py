"""DD-Ranking's scores, from a scorecard's rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from attar.evaluation.rows import DISTILLED, NAMES
from attar.evaluation.statistics import paired_interval

if TYPE_CHECKING:
    from attar.evaluation.rows import Row

WEIGHT = 0.5
GAMMA = 0.5


@dataclass(frozen=True)
class Gap:
    """A difference of two rows, paired by seed, in percentage points; low and high are None for a single seed."""

    mean: float
    low: float | None
    high: float | None

    @classmethod
    def between(cls, first: Row, second: Row) -> Gap:
        """`first` minus `second`."""
        return cls(*paired_interval(first.accuracies, second.accuracies))

    @property
    def text(self) -> str:
        """E.g. "+4.1 [+1.0, +7.2]"."""
        interval = f" [{self.low:+.1f}, {self.high:+.1f}]" if self.low is not None and self.high is not None else ""
        return f"{self.mean:+.1f}{interval}"


@dataclass(frozen=True)
class Ranking:
    """What DD-Ranking computes, for one network; None where a row is missing.

        HLR = acc(all real, hard) - acc(distilled, hard)
        IOR = acc(distilled, own labels) - acc(random, such labels)
        LRS = S(w IOR - (1 - w) HLR),                                            w = 0.5
        ARS = S(gamma (distilled - random)_augmented + (1 - gamma) (distilled - random)_not),   gamma = 0.5
        S(a) = (e^a - e^-1) / (e - e^-1)

    Args:
        hard_label_recovery: HLR, percentage points; the lower the better.
        improvement_over_random: IOR, percentage points.
        unaugmented: (distilled - random) without the protocol's augmentation, percentage points.
        missing: which rows are not there, by the kinds that give them, for what is None.

    Source: DD-Ranking (Li et al. 2025), its metrics; version 0.2.0 of its code computes S of percentage points.
    Deviation: S is of fractions too, for which it lies in [0, 1]; random images are those of the same bytes, not of the
        same number; every row is trained by the same protocol, at its rate, and tested after the last step, where the
        code takes the best of five rates and the best epoch on test images.
    """

    hard_label_recovery: Gap | None
    improvement_over_random: Gap | None
    unaugmented: Gap | None
    missing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def label_robust(self) -> float | None:
        """a of LRS in percentage points; None without HLR or IOR."""
        if self.hard_label_recovery is None or self.improvement_over_random is None:
            return None
        return WEIGHT * self.improvement_over_random.mean - (1 - WEIGHT) * self.hard_label_recovery.mean

    @property
    def augmentation_robust(self) -> float | None:
        """a of ARS in percentage points; None without IOR or its like without augmentation."""
        if self.improvement_over_random is None or self.unaugmented is None:
            return None
        return GAMMA * self.improvement_over_random.mean + (1 - GAMMA) * self.unaugmented.mean

    def lines(self) -> list[str]:
        """What is known, and what would give the rest."""
        told = []
        if self.hard_label_recovery is not None:
            told.append(f"HLR {self.hard_label_recovery.text} (all real images minus distilled, hard labels)")
        if self.improvement_over_random is not None:
            told.append(f"IOR {self.improvement_over_random.text} (distilled minus random, of the same bytes)")
        if self.label_robust is not None:
            told.append(f"LRS {_both(self.label_robust)}, w = {WEIGHT}")
        if self.augmentation_robust is not None:
            told.append(f"ARS {_both(self.augmentation_robust)}, gamma = {GAMMA}")
        return told


def normalised(points: float, *, as_percent: bool = False) -> float:
    """S of a difference in percentage points: of its fraction, in [0, 1], or of the number as it is, as 0.2.0 does.

    Example:
        >>> round(normalised(5), 2), round(normalised(5, as_percent=True), 1)
        (0.29, 63.0)
    """
    exponent = points if as_percent else points / 100
    return (math.exp(exponent) - math.exp(-1)) / (math.e - math.exp(-1))


def ranking_of(rows: Sequence[Row], labels: str) -> Ranking:
    """DD-Ranking's scores of one network's rows.

    Args:
        rows: of one network.
        labels: the set's: "hard", "soft" or "regions".
    """
    there = {row.name: row for row in rows if row.absent is None}
    own = "same-labels" if labels != "hard" else "random"
    needs = {
        "HLR": (NAMES["full"], DISTILLED if labels == "hard" else NAMES["hard-labels"]),
        "IOR": (DISTILLED, NAMES[own]),
        "ARS": (NAMES["plain"], NAMES["random-plain"]),
    }
    gaps = {
        score: Gap.between(there[first], there[second])
        for score, (first, second) in needs.items()
        if first in there and second in there
    }
    kinds = {name: kind for kind, name in NAMES.items()}
    known = {row.name for row in rows}
    missing = {score: tuple(kinds[name] for name in names if name not in known) for score, names in needs.items()}
    lacking = {score: names for score, names in missing.items() if names}
    return Ranking(gaps.get("HLR"), gaps.get("IOR"), gaps.get("ARS"), lacking)


def ranking_remarks(rows: Sequence[Row], labels: str) -> list[str]:
    """What a card says of it, network by network, and once what more rows would tell."""
    told, lacking = [], dict[str, None]()
    for network in dict.fromkeys(row.network for row in rows):
        ranking = ranking_of([row for row in rows if row.network == network], labels)
        if ranking.lines():
            told.append(f"DD-Ranking on {network.name}: {'; '.join(ranking.lines())}")
        lacking |= {kind: None for kinds in ranking.missing.values() for kind in kinds}
    if lacking:
        kinds = ",".join(kind for kind in NAMES if kind in lacking)
        scores = _lacking_scores(set(lacking))
        told.append(f"not computed: {', '.join(scores)}; --baselines usual,{kinds} gives the rows for it")
    return told


def _lacking_scores(kinds: set[str]) -> list[str]:
    scores = ["share of the full-data accuracy"] if "full" in kinds else []
    scores += ["IOR"] if kinds & {"random", "same-labels"} else []
    scores += ["HLR"] if kinds & {"full", "hard-labels"} else []
    scores += ["LRS"] if kinds & {"random", "same-labels", "full", "hard-labels"} else []
    return scores + (["ARS"] if kinds & {"random", "same-labels", "plain", "random-plain"} else [])


def _both(points: float) -> str:
    shipped = normalised(points, as_percent=True)
    return f"{normalised(points):.3f} of fractions ({shipped:.4g} of percent, as ddranking 0.2.0 prints it)"
