"""Membership inference: sets of random halves of the data are made alike, and attacked with one another as shadows."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from attar.base.config import Config
from attar.base.engines import Engine
from attar.base.errors import InputError
from attar.base.files import cache_directory, content_key, write_text
from attar.base.progress import Progress, Silent, Within
from attar.base.randomness import generator
from attar.base.shapes import Float, Int64
from attar.base.version import __version__
from attar.data.image_set import ImageSet, Splits
from attar.evaluation.candidates import network_inputs
from attar.evaluation.protocol import Protocol
from attar.evaluation.relabelled import known_observer
from attar.evaluation.statistics import paired_interval
from attar.methods.recipes import Recipe
from attar.models.networks.network import NetworkConfig
from attar.models.training.loop import train_networks
from attar.runs.distill import distill
from attar.sets.distilled import DistilledSet
from attar.sets.sizes import online_observers
from attar.studies.audit.statistics import roc_area, true_positive_rate

FORMAT = 1
FEWEST = 4
FEW = 16
RATES = (0.01, 0.001)
MOST_CANDIDATES = 10_000
TESTED_AT_A_TIME = 512


class Estimate(Config):
    """A mean over attacked sets.

    Args:
        mean: over the sets.
        low, high: 95 % interval, cut to [0, 1].
        values: one for each set.
    """

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
        mean, low, high = paired_interval(values, [0.0] * len(values))
        assert low is not None and high is not None
        half_width = math.sqrt(2) * (high - mean)
        return cls(
            mean=mean, low=max(0.0, mean - half_width), high=min(1.0, mean + half_width), values=tuple(values)
        )  # fmt: skip

    @property
    def text(self) -> str:
        """E.g. "0.512 [0.498, 0.526]"."""
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


class Rate(Config):
    """Members found where so small a share of the others is taken for one.

    Args:
        false_positive_rate: that share.
        found: the share of members; None where there are too few other images to resolve the rate.
    """

    false_positive_rate: float
    found: Estimate | None


class Membership(Config):
    """What the attack could tell.

    Args:
        recipe: of the sets, that of the audited one.
        num_shadows: sets made; each was attacked, the others being its shadows.
        num_candidates: training images that were asked about.
        num_members: images that each set was made from: half of the training images.
        network: trained on each set.
        protocol: how.
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
        for rate in self.rates:
            share = f"{100 * rate.false_positive_rate:g} %"
            if rate.found is None:
                lines.append(f"membership: too few images outside a set to resolve {share} false positives")
                continue
            found = rate.found
            lines.append(
                f"membership: {100 * found.mean:.2f} % [{100 * found.low:.2f}, {100 * found.high:.2f}] of the members "
                f"found at {share} false positives, where guessing finds {share}"
            )
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


def attack(confidences: Float[Tensor, "sets candidates"], members: Tensor) -> tuple[Estimate, tuple[Rate, ...]]:
    """The area under the curve and the rates, every set being attacked with all others as shadows."""
    areas, found = [], []
    for target in range(len(confidences)):
        scores = likelihood_ratios(confidences, members, target)
        known = scores.isfinite()
        inside, outside = scores[known & members[target]], scores[known & ~members[target]]
        if not len(inside) or not len(outside):
            raise InputError(
                f"{len(confidences)} shadows leave no candidate that was both in and out of them; take more, e.g. {FEW}"
            )
        areas.append(roc_area(inside, outside))
        found.append([true_positive_rate(inside, outside, rate) for rate in RATES])
    rates = []
    for rate, column in zip(RATES, zip(*found, strict=True), strict=True):
        known_rates = [value for value in column if value is not None]
        resolved = Estimate.of(known_rates) if len(known_rates) == len(column) else None
        rates.append(Rate(false_positive_rate=rate, found=resolved))
    return Estimate.of(areas), tuple(rates)


def shadow_membership(
    distilled: DistilledSet,
    splits: Splits,
    num_shadows: int,
    *,
    protocol: Protocol,
    network: NetworkConfig,
    device: torch.device,
    engine: Engine,
    cache: bool = True,
    candidates: int = MOST_CANDIDATES,
    seed: int = 0,
    progress: Progress | None = None,
) -> Membership:
    """Make sets like this one of random halves of the training images, and infer who was in.

    A half has half of each class, at random and independently of the other halves: were halves complements, a set's
    absence from its own shadows would shift the scores. Sets and confidences are kept
    under $ATTAR_CACHE/audit: after Ctrl-C the same call goes on where it was.

    Args:
        distilled: whose recipe and number of items are taken.
        splits: the data.
        num_shadows: how many sets, at least 4.
        protocol: how the network is trained on each.
        network: which.
        device: where.
        engine: where the sets are made, each a job.
        cache: False keeps nothing.
        candidates: the most training images that are asked about.
        seed: of halves, sets and networks.
        progress: what to report to.

    Raises:
        InputError: too few shadows, or a set that does not say how it was made.

    Source: Carlini et al. 2022 (LiRA); Zhao & Zhang 2025 (arXiv 2502.12976) for distilled sets.
    """
    progress = progress or Silent()
    check_shadows(distilled, num_shadows)
    recipe, budget = recipe_of(distilled)
    chosen = torch.randperm(len(splits.train), generator=generator(seed, "audit candidates"))[:candidates].sort().values
    work = _Work(recipe, budget, splits.train, splits.name, chosen, protocol, network, device, cache, seed)
    rows = _all_confidences(work, num_shadows, engine, progress)
    members = torch.stack([half(seed, number, splits.train.labels)[chosen] for number in range(num_shadows)])
    area, rates = attack(rows, members)
    return Membership(
        recipe=recipe.name,
        num_shadows=num_shadows,
        num_candidates=len(chosen),
        num_members=int(half(seed, 0, splits.train.labels).sum()),
        network=network,
        protocol=protocol.label,
        area=area,
        rates=rates,
    )


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
    """The recipe and the budget that the set was made with, from its file.

    Raises:
        InputError: the file does not say it, or says what no recipe is.
    """
    told = {key: value for key, value in distilled.manifest.recipe.items() if key not in ("subtasks", "split")}
    try:
        recipe = Recipe.model_validate_json(json.dumps(told))
    except ValidationError:
        raise InputError(
            "the file does not say by which recipe it was made, so that none can be made alike; leave out --shadows"
        ) from None
    counts = set(distilled.num_per_class)
    if len(counts) > 1:
        raise InputError(
            f"the set has {min(counts)} to {max(counts)} items of a class, which no budget gives; leave out --shadows"
        )
    tiles = int(distilled.manifest.shards[0].parameterization.get("grid", 1)) ** 2
    return recipe, f"{counts.pop() // tiles}lpc"


@dataclass(frozen=True)
class _Work:
    """What all shadows share.

    Args:
        recipe, budget: of each set.
        train: all training images.
        name: of the data.
        chosen: int64 [N], the candidates.
        protocol, network: what is trained on each set.
        device: where.
        cache: whether results are kept.
        seed: see `shadow_membership`.
    """

    recipe: Recipe
    budget: str
    train: ImageSet
    name: str
    chosen: Tensor
    protocol: Protocol
    network: NetworkConfig
    device: torch.device
    cache: bool
    seed: int

    def path(self, number: int) -> Path:
        """The cache's file of a shadow's set."""
        key = content_key(
            "shadow", FORMAT, self.recipe, self.budget, self.train.fingerprint, self.name, self.seed, number,
            self.device.type, __version__, torch.__version__,
        )  # fmt: skip
        return cache_directory("audit") / f"{key}.attar.safetensors"

    def scores_path(self, number: int) -> Path:
        """The cache's file of a shadow's confidences."""
        about = [self.protocol.training, self.network, self.chosen.tolist()]
        return cache_directory("audit") / f"{content_key('confidences', self.path(number).name, about)}.json"


class _Confidences(Config):
    """What is kept of a shadow: phi of every candidate."""

    values: tuple[float, ...]


def _all_confidences(work: _Work, num_shadows: int, engine: Engine, progress: Progress) -> Tensor:
    """float64 [S, N]; those that the cache lacks are computed, each kept when it is there."""
    rows = {number: found for number in range(num_shadows) if (found := _read(work, number)) is not None}
    lacking = [number for number in range(num_shadows) if number not in rows]
    names = [f"shadow {number + 1} of {num_shadows}" for number in lacking]
    with closing(engine.results(shadow_confidences, lacking, work, progress, names)) as results:
        for place, found in results:
            rows[lacking[place]] = found
            if work.cache:
                write_text(work.scores_path(lacking[place]), _Confidences(values=tuple(found)).model_dump_json())
    return torch.tensor([rows[number] for number in range(num_shadows)], dtype=torch.float64)


def _read(work: _Work, number: int) -> list[float] | None:
    """The kept confidences of a shadow; None where there are none, or damaged ones."""
    if not work.cache:
        return None
    with suppress(OSError, UnicodeDecodeError, ValidationError):
        found = _Confidences.model_validate_json(work.scores_path(number).read_text(encoding="utf-8"))
        return list(found.values) if len(found.values) == len(work.chosen) else None
    return None


def shadow_confidences(work: _Work, number: int, progress: Progress) -> list[float]:
    """Of one shadow: distil a random half, train a network on the set, ask it about every candidate.

    phi = log p_y - log (1 - p_y) = z_y - log sum_{k != y} exp(z_k),   y the candidate's class
    """
    distilled = _shadow_set(work, number, progress)
    asked = known_observer(distilled) if online_observers(distilled.manifest) else None
    if isinstance(asked, str):
        raise InputError(asked)
    items = distilled.training_items(work.device, asked and asked.to(work.device))
    seeds = [generator(work.seed, "audit network", number).initial_seed() % 2**32]
    [network] = train_networks(
        work.network, items, work.train.num_classes, work.protocol.training, seeds, device=work.device,
        progress=Within(progress),
    )  # fmt: skip
    values = []
    with torch.no_grad():
        for batch in work.chosen.split(TESTED_AT_A_TIME):
            logits = network(network_inputs(work.train.images[batch], distilled.preprocess, work.device)).cpu().double()
            own = work.train.labels[batch].unsqueeze(1)
            values.append(logits.gather(1, own)[:, 0] - logits.scatter(1, own, -torch.inf).logsumexp(1))
    return torch.cat(values).tolist()


def _shadow_set(work: _Work, number: int, progress: Progress) -> DistilledSet:
    """The set of one half; from the cache where it is there."""
    path = work.path(number) if work.cache else None
    if path is not None and path.exists():
        with suppress(InputError):  # damaged: distilled anew
            return DistilledSet.load(path)
    half_of = work.train.select(half(work.seed, number, work.train.labels).nonzero()[:, 0])
    return distill(
        Splits(half_of, half_of, work.name),  # no other image is at hand here
        work.recipe,
        work.budget,
        out=path,
        seed=generator(work.seed, "audit set", number).initial_seed() % 2**32,
        device=str(work.device),
        overwrite=True,
        progress=progress,
    )
