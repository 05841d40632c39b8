"""Membership inference: sets of random halves of the data are made alike, and attacked with one another as shadows."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError
from torch import Tensor

from attar.base.config import Config
from attar.base.engines import Engine
from attar.base.errors import InputError
from attar.base.files import cache_directory, content_key, write_text
from attar.base.progress import Progress, Within
from attar.base.randomness import generator
from attar.base.shapes import Float, Int64
from attar.data.image_set import ImageSet, Splits
from attar.evaluation.candidates import network_inputs
from attar.evaluation.measuring import Measurement
from attar.evaluation.protocol import Protocol
from attar.evaluation.statistics import paired_interval
from attar.evaluation.variants import online_observer
from attar.methods.recipes import Recipe
from attar.models.networks.network import Network, NetworkConfig
from attar.models.training.loop import train_networks
from attar.sets.distilled import DistilledSet
from attar.studies.distillation import Distillation, budget_of

FEWEST = 4
FEW = 16
RATES = (0.01, 0.001)
MOST_CANDIDATES = 10_000
TESTED_AT_A_TIME = 512
KEPT = TypeAdapter(list[FiniteFloat])
"""What the cache has of a shadow: the confidence of every candidate."""


class Estimate(Config):
    """A mean over attacked sets with its 95 % interval, cut to [0, 1], and the value of each set."""

    mean: float
    low: float
    high: float
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """Of at least two values in [0, 1], one for each attacked set.

            mean +- t_{S-1} s sqrt(2 / S)

        The sets share their shadows: each pair of them is in two values, attacked and shadow either way round, so that
        S values tell as much as S / 2 that are independent.

        Source: ours. In simulated attacks (4 to 16 sets, confidences of members higher by 0 or by half a deviation)
            Student's interval alone, without the 2, left out the true mean in 11 to 20 %, this one in 3 to 7 %.
        """
        mean, _, high = paired_interval(values, [0.0] * len(values))
        assert high is not None
        half_width = math.sqrt(2) * (high - mean)
        low, high = max(0.0, mean - half_width), min(1.0, mean + half_width)
        return cls(mean=mean, low=low, high=high, values=tuple(values))

    @property
    def text(self) -> str:
        """E.g. "0.512 [0.498, 0.526]"."""
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


class Rate(Config):
    """The share of members found at a false-positive rate; None where the other images are too few to resolve it."""

    false_positive_rate: float
    found: Estimate | None

    @property
    def text(self) -> str:
        """The rate in a sentence."""
        share = f"{100 * self.false_positive_rate:g} %"
        if self.found is None:
            return f"too few images outside a set to resolve {share} false positives"
        mean, low, high = (100 * value for value in (self.found.mean, self.found.low, self.found.high))
        return (
            f"{mean:.2f} % [{low:.2f}, {high:.2f}] of the members found at {share} false positives, where guessing "
            f"finds {share}"
        )


class Membership(Config):
    """What the attack could tell.

    Args:
        recipe: of the sets, that of the audited one.
        num_shadows: sets made; each was attacked, the others being its shadows.
        num_candidates: training images that were asked about.
        num_members: images that each set was made from: half of the training images.
        network, protocol: what was trained on each set, and how.
        area: under the ROC curve; 0.5 is guessing.
        rates: at small false-positive rates; guessing finds as large a share as the rate.
    """

    recipe: str
    num_shadows: int = Field(ge=FEWEST)
    num_candidates: int = Field(ge=2)
    num_members: int = Field(ge=1)
    network: NetworkConfig
    protocol: str
    area: Estimate
    rates: tuple[Rate, ...]

    def remarks(self) -> list[str]:
        """The figures in sentences."""
        lines = [
            f"membership: {self.num_shadows} sets by {self.recipe}, each of {self.num_members:,} random training "
            f"images, a {self.network.name} trained on each ({self.protocol}), {self.num_candidates:,} candidates: "
            f"area under the curve {self.area.text}, 0.5 is guessing (mean over the attacked sets, 95 % interval)"
        ]
        lines += [f"membership: {rate.text}" for rate in self.rates]
        if self.num_shadows < FEW:
            lines.append(f"membership: {self.num_shadows} shadows are a weak attack; {FEW} or more are better")
        return lines


def likelihood_ratios(
    confidences: Float[Tensor, "sets candidates"], members: Tensor, target: int
) -> Float[Tensor, " candidates"]:
    """How much likelier each candidate's confidence under one set is if the candidate was among its images.

        score = log N(phi_t; mu_in, s_in) - log N(phi_t; mu_out, s_out)

    mu are a candidate's own means over the other sets that it was and was not in, s^2 the variances about them, pooled
    over all candidates.

    Args:
        confidences: phi, float [S, N].
        members: bool [S, N], which candidates a set was made from.
        target: the set that is attacked.

    Returns:
        float64 [N]; NaN for a candidate that was in all of the other sets, or in none.

    Source: Carlini et al. 2022 (LiRA), Algorithm 1 with one query and, for few shadows, common variances.
    Deviation: the attacked set is one of the shadows, left out, as in their experiments.
    """
    others = torch.arange(len(confidences)) != target
    phi, inside = confidences[others].double(), members[others].double()
    parts = []
    for weights in (inside, 1 - inside):
        count = weights.sum(0)
        mean = (weights * phi).sum(0) / count
        freedom = (count - 1).clamp_min(0).sum()
        residuals = weights * (phi - mean.nan_to_num()).square()
        variance = residuals[:, count > 0].sum() / freedom
        parts.append(-0.5 * variance.log() - (confidences[target].double() - mean).square() / (2 * variance))
    return parts[0] - parts[1]


def roc_figures(
    members: Tensor, others: Tensor, false_positive_rates: Sequence[float] = RATES
) -> tuple[float, list[float | None]]:
    """The area under the ROC curve, in which a tie counts half, and the true-positive rates at false-positive rates.

    Args:
        members, others: scores float [P] and [N], at least one of each; a high one means "member".
        false_positive_rates: f; at each, the lowest threshold that takes no larger share of the others for members.
            With fewer than 1 / f others it cannot be told from 0, and there is no rate.
    """
    from sklearn.metrics import auc, roc_curve

    is_member = np.repeat([True, False], [len(members), len(others)])
    alarms, hits, _ = roc_curve(is_member, torch.cat([members, others]).numpy(), drop_intermediate=False)
    rates = [
        None if rate * len(others) < 1 - 1e-9 else float(hits[alarms <= rate * (1 + 1e-9)].max())
        for rate in false_positive_rates
    ]
    return float(auc(alarms, hits)), rates


def attack(confidences: Float[Tensor, "sets candidates"], members: Tensor) -> tuple[Estimate, tuple[Rate, ...]]:
    """The area under the curve and the rates, every set being attacked with all others as shadows."""
    figures = []
    for target in range(len(confidences)):
        scores = likelihood_ratios(confidences, members, target)
        scored = scores.isfinite()
        inside, outside = scores[scored & members[target]], scores[scored & ~members[target]]
        if not len(inside) or not len(outside):
            raise InputError(
                f"{len(confidences)} shadows leave no candidate that was both in and out of them; take more, e.g. {FEW}"
            )
        figures.append(roc_figures(inside, outside))
    areas, rates = zip(*figures, strict=True)
    estimates = [None if None in column else Estimate.of(column) for column in zip(*rates, strict=True)]
    rows = zip(RATES, estimates, strict=True)
    return Estimate.of(areas), tuple(Rate(false_positive_rate=rate, found=estimate) for rate, estimate in rows)


@dataclass(frozen=True)
class Training:
    """How a network is trained on a distilled set; the network's depth and the protocol's flip are resolved."""

    network: NetworkConfig
    protocol: Protocol
    device: torch.device

    @classmethod
    def of(cls, job: Measurement) -> Training:
        """As an evaluation trains its one network. Raises InputError for several."""
        if len(job.networks) > 1:
            raise InputError(f"an audit has one network and was given {len(job.networks)}; name one, e.g. convnet")
        return cls(job.networks[0], job.protocol, job.device)

    def on(self, distilled: DistilledSet, seed: int, progress: Progress) -> Network:
        """The trained network. Raises InputError where labels are asked of an observer that is not in the cache."""
        observer = online_observer(distilled)
        items = distilled.training_items(self.device, observer and observer.to(self.device))
        [trained] = train_networks(
            self.network, items, distilled.num_classes, self.protocol.training, [seed], device=self.device,
            progress=progress,
        )  # fmt: skip
        return trained


@dataclass(frozen=True)
class Shadows:
    """Sets made like one that is audited, each of a random half of the training images.

    A half has half of each class, at random and independently of the other halves: were halves complements, a set's
    absence from its own shadows would shift the scores.

    Args:
        recipe, budget: of each set.
        train, data: all training images, and their name.
        candidates: int64 [N], the training images that are asked about.
        training: of a network on each set.
        cache: whether sets and confidences are kept.
        seed: of halves, sets and networks.

    Source: Carlini et al. 2022 (LiRA); Zhao & Zhang 2025 (arXiv 2502.12976) for distilled sets.
    """

    recipe: Recipe
    budget: str
    train: ImageSet
    data: str
    candidates: Int64[Tensor, " candidates"]
    training: Training
    cache: bool
    seed: int

    @classmethod
    def like(
        cls, distilled: DistilledSet, splits: Splits, training: Training, cache: bool = True, seed: int = 0
    ) -> Shadows:
        """Shadows of a set. Raises InputError for one that does not say how it was made."""
        order = torch.randperm(len(splits.train), generator=generator(seed, "audit candidates"))
        candidates = order[:MOST_CANDIDATES].sort().values
        return cls(*recipe_of(distilled), splits.train, splits.name, candidates, training, cache, seed)

    def membership(self, num_shadows: int, engine: Engine, progress: Progress) -> Membership:
        """Make so many sets, each a job of the engine, and infer who was in: after Ctrl-C it goes on where it was."""
        confidences = self._confidences(num_shadows, engine, progress)
        halves = [half(self.seed, number, self.train.labels) for number in range(num_shadows)]
        area, rates = attack(confidences, torch.stack([inside[self.candidates] for inside in halves]))
        return Membership(
            recipe=self.recipe.name,
            num_shadows=num_shadows,
            num_candidates=len(self.candidates),
            num_members=int(halves[0].sum()),
            network=self.training.network,
            protocol=self.training.protocol.label,
            area=area,
            rates=rates,
        )

    def distillation(self, number: int) -> Distillation:
        """Of one shadow's half."""
        images = self.train.select(half(self.seed, number, self.train.labels).nonzero()[:, 0])
        seed = generator(self.seed, "audit set", number).initial_seed() % 2**32
        return Distillation("audit", self.recipe, self.budget, images, self.data, seed, self.training.device)

    def _confidences(self, num_shadows: int, engine: Engine, progress: Progress) -> Float[Tensor, "sets candidates"]:
        """Those that the cache lacks are computed, each kept as soon as it is there."""
        paths = [self._path(number) for number in range(num_shadows)] if self.cache else []
        rows = [self._kept(path) for path in paths] or [None] * num_shadows
        lacking = [number for number, row in enumerate(rows) if row is None]
        names = [f"shadow {number + 1} of {num_shadows}" for number in lacking]
        with closing(engine.results(shadow_confidences, lacking, self, progress, names)) as results:
            for place, row in results:
                rows[lacking[place]] = row
                if self.cache:
                    write_text(paths[lacking[place]], KEPT.dump_json(row).decode())
        return torch.tensor(rows, dtype=torch.float64)

    def _path(self, number: int) -> Path:
        training = self.training.protocol.training, self.training.network
        distillation = self.distillation(number).path.name
        key = content_key("confidences", distillation, number, self.seed, training, self.candidates.tolist())
        return cache_directory("audit") / f"{key}.json"

    def _kept(self, path: Path) -> list[float] | None:
        """The kept confidences of a shadow; None where there are none, or damaged ones."""
        with suppress(OSError, ValidationError):
            row = KEPT.validate_json(path.read_bytes())
            return row if len(row) == len(self.candidates) else None
        return None


def shadow_confidences(shadows: Shadows, number: int, progress: Progress) -> list[float]:
    """Distil a random half, train a network on the set, and ask it about every candidate.

    phi = log p_y - log (1 - p_y) = z_y - log sum_{k != y} exp(z_k),   y the candidate's class
    """
    distilled, device = shadows.distillation(number).run(shadows.cache, progress), shadows.training.device
    seed = generator(shadows.seed, "audit network", number).initial_seed() % 2**32
    network = shadows.training.on(distilled, seed, Within(progress))
    values = []
    with torch.no_grad():
        for batch in shadows.candidates.split(TESTED_AT_A_TIME):
            inputs = network_inputs(shadows.train.images[batch], distilled.preprocess, device)
            logits, labels = network(inputs).cpu().double(), shadows.train.labels[batch].unsqueeze(1)
            values.append(logits.gather(1, labels)[:, 0] - logits.scatter(1, labels, -torch.inf).logsumexp(1))
    return torch.cat(values).tolist()


def check_shadows(distilled: DistilledSet, num_shadows: int) -> None:
    """Raise InputError, before any work, for too few shadows, or a set that does not say how it was made."""
    if num_shadows < FEWEST:
        raise InputError(f"{num_shadows} shadows were asked for; at least {FEWEST} are needed, {FEW} are better")
    recipe_of(distilled)


def half(seed: int, number: int, labels: Int64[Tensor, " images"]) -> Tensor:
    """bool [N], which images a shadow is made from: a random half of every class, independent of other shadows'."""
    inside = torch.zeros(len(labels), dtype=torch.bool)
    draw = generator(seed, "audit half", number)
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        inside[members[torch.randperm(len(members), generator=draw)[: len(members) // 2]]] = True
    return inside


def recipe_of(distilled: DistilledSet) -> tuple[Recipe, str]:
    """The recipe and the budget that the set was made with. Raises InputError where its file does not say them."""
    settings = {key: value for key, value in distilled.manifest.recipe.items() if key not in ("subtasks", "split")}
    try:
        recipe = Recipe.model_validate_json(json.dumps(settings))
    except ValidationError:
        raise InputError(
            "the file does not say by which recipe it was made, so that none can be made alike; leave out --shadows"
        ) from None
    budget, counts = budget_of(distilled), distilled.num_per_class
    if budget is None:
        raise InputError(
            f"the set has {min(counts)} to {max(counts)} items of a class, which no budget gives; leave out --shadows"
        )
    return recipe, budget
