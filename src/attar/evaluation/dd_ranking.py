"""DD-Ranking's scores, from a scorecard's rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from attar.evaluation.rows import DISTILLED, NAMES, Row
from attar.evaluation.statistics import Interval, paired_interval

WEIGHT = 0.5
GAMMA = 0.5


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
        missing: for each score that is None the kinds of baselines that it has no row of.

    Source: DD-Ranking (Li et al. 2025), its metrics; version 0.2.0 of its code computes S of percentage points.
    Deviation: S is of fractions too, for which it lies in [0, 1]; random images are those of the same bytes, not of the
        same number; every row is trained by the same protocol, at its rate, and tested after the last step, where the
        code takes the best of five rates and the best epoch on test images.
    """

    hard_label_recovery: Interval | None
    improvement_over_random: Interval | None
    unaugmented: Interval | None
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
        """Each score that could be computed."""
        lines = []
        if self.hard_label_recovery is not None:
            lines.append(f"HLR {self.hard_label_recovery.text} (all real images minus distilled, hard labels)")
        if self.improvement_over_random is not None:
            lines.append(f"IOR {self.improvement_over_random.text} (distilled minus random, of the same bytes)")
        if self.label_robust is not None:
            lines.append(f"LRS {_both(self.label_robust)}, w = {WEIGHT}")
        if self.augmentation_robust is not None:
            lines.append(f"ARS {_both(self.augmentation_robust)}, gamma = {GAMMA}")
        return lines


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
    measured = {row.name: row.accuracies for row in rows if row.absent is None}
    needs = {
        "HLR": (NAMES["full"], DISTILLED if labels == "hard" else NAMES["hard-labels"]),
        "IOR": (DISTILLED, NAMES["random" if labels == "hard" else "same-labels"]),
        "ARS": (NAMES["plain"], NAMES["random-plain"]),
    }
    gaps = {
        score: paired_interval(measured[first], measured[second])
        for score, (first, second) in needs.items()
        if first in measured and second in measured
    }
    present, kinds = {row.name for row in rows}, {name: kind for kind, name in NAMES.items()}
    missing = {score: tuple(kinds[name] for name in pair if name not in present) for score, pair in needs.items()}
    missing = {score: names for score, names in missing.items() if names}
    return Ranking(gaps.get("HLR"), gaps.get("IOR"), gaps.get("ARS"), missing)


def ranking_remarks(rows: Sequence[Row], labels: str) -> list[str]:
    """The scores of each network, and once which baselines would give the scores that are missing."""
    remarks, missing = [], set[str]()
    for network in dict.fromkeys(row.network for row in rows):
        ranking = ranking_of([row for row in rows if row.network == network], labels)
        if ranking.lines():
            remarks.append(f"DD-Ranking on {network.name}: {'; '.join(ranking.lines())}")
        missing.update(*ranking.missing.values())
    if missing:
        kinds = ",".join(kind for kind in NAMES if kind in missing)
        scores = ", ".join(score for score, needed in _NEEDED.items() if missing & needed)
        remarks.append(f"not computed: {scores}; --baselines usual,{kinds} gives the rows for it")
    return remarks


_RANDOM = {"random", "same-labels"}
_NEEDED = {
    "share of the full-data accuracy": {"full"},
    "IOR": _RANDOM,
    "HLR": {"full", "hard-labels"},
    "LRS": _RANDOM | {"full", "hard-labels"},
    "ARS": _RANDOM | {"plain", "random-plain"},
}
"""Kinds of baselines that a score cannot be computed without."""


def _both(points: float) -> str:
    of_percent = normalised(points, as_percent=True)
    return f"{normalised(points):.3f} of fractions ({of_percent:.4g} of percent, as ddranking 0.2.0 prints it)"
