"""Measures a distilled set and its baselines: trains networks on each, tests them on real images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch

from attar.base.device import resolve_device
from attar.base.engines.engine import Engine, Local
from attar.base.errors import InputError
from attar.base.files import set_name
from attar.base.progress import Progress, Silent
from attar.base.version import __version__
from attar.data.image_set import ImageSet, Splits
from attar.evaluation.baselines import Occasion, baseline_kinds
from attar.evaluation.candidates import Candidate
from attar.evaluation.measuring import Measurement
from attar.evaluation.protocol import LabelsKind, Protocol, check_judges, resolve_flip
from attar.evaluation.protocol import protocol as protocol_named
from attar.evaluation.rates import SEED, measured_rows, search_note
from attar.evaluation.rows import Row
from attar.evaluation.scorecard import DISTILLED, Difference, Scorecard
from attar.evaluation.unseen import networks_of
from attar.evaluation.variants import candidates
from attar.models.networks.network import NetworkConfig, depth_for
from attar.models.networks.registry import networks_named
from attar.sets.distilled import DistilledSet
from attar.sets.manifest import RATE, UNKNOWN

FEW_SEEDS = 3
NetworkNames: TypeAlias = Sequence[str | NetworkConfig] | str | NetworkConfig
ImageShape: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True)
class Conditions:
    """The conditions under which sets are judged: arguments of `evaluate`, resolved as far as no set is needed."""

    protocol: Protocol
    networks: NetworkNames
    seeds: tuple[int, ...]
    flip: bool | None
    device: torch.device
    cache: bool
    progress: Progress
    engine: Engine | None = None
    curves: bool = False

    @classmethod
    def of(
        cls,
        protocol: str | Path | Protocol,
        networks: NetworkNames | None = None,
        seeds: int | Sequence[int] | None = None,
        flip: bool | None = None,
        device: str = "auto",
        cache: bool = True,
        progress: Progress | None = None,
        engine: Engine | None = None,
        curves: bool = False,
    ) -> Conditions:
        """The arguments of `evaluate`, resolved. Raises InputError for unknown names, or no seeds."""
        chosen = protocol_named(protocol)
        numbers = seed_numbers(chosen.seeds if seeds is None else seeds)
        names = chosen.networks if networks is None else networks
        networks_named(names)
        resolved = resolve_device(device)
        if engine is not None:
            engine.check_device(resolved)
        return cls(chosen, names, numbers, flip, resolved, cache, progress or Silent(), engine, curves)

    def configs(self, image_shape: ImageShape, code_shape: ImageShape) -> list[NetworkConfig]:
        """The networks that can see such inputs, each once, with their depth.

        Raises:
            InputError: a network that is named by itself cannot see them.
        """
        configs = networks_named(self.networks, code_shape)
        return list(dict.fromkeys(with_depth(config, min(image_shape[1:])) for config in configs))

    def measurement(self, image_shape: ImageShape, code_shape: ImageShape, data_name: str) -> Measurement:
        """The work on images of that shape, whose network inputs have `code_shape`."""
        used = resolve_flip(self.protocol, self.flip, data_name)
        engine = None if isinstance(self.engine, Local) else self.engine
        networks = self.configs(image_shape, code_shape)
        return Measurement(used, self.seeds, networks, self.device, self.cache, self.progress, engine, self.curves)

    def left_out(self, code_shape: ImageShape) -> list[str]:
        """Members of a group that cannot see such inputs."""
        configs = networks_named(self.networks, code_shape)
        return [config.name for config in networks_named(self.networks) if config not in configs]


def evaluate(
    distilled: DistilledSet | Path | str,
    data: Any,
    protocol: str | Path | Protocol = "quick",
    *,
    networks: NetworkNames | None = None,
    seeds: int | Sequence[int] | None = None,
    baselines: bool | Sequence[str] = True,
    flip: bool | None = None,
    device: str = "auto",
    cache: bool = True,
    progress: Progress | None = None,
    name: str | None = None,
    engine: Engine | None = None,
    curves: bool = False,
) -> Scorecard:
    """Train networks on the set and on its baselines, and test all of them on the data's test part.

    Every network counts as it is after its last step: test images choose nothing. Results are kept under
    $ATTAR_CACHE/scores by all that they depend on, so that an interrupted evaluation goes on where it was.

    Args:
        distilled: the set, or its file.
        data: Splits, or anything `load_images` takes; classes, their order and the image shape must be the set's.
        protocol: a name of `protocol_names()`, e.g. "quick", "dc-bench", or a JSON file of your own.
        networks: e.g. ("convnet", "resnet18"), or a group, "all" or "unseen"; None takes the protocol's.
        seeds: how many (0, 1, ...), or which; None: as the protocol has it.
        baselines: True, False, or some of `baselines.BASELINES` and `baselines.GROUPS`.
        flip: whether training images are mirrored; None: as the protocol says, but never where `mirroring_harms`.
        device: "auto", "cpu", "cuda", "cuda:1".
        cache: False neither reads nor writes results.
        progress: told every training step.
        name: what the card calls the set; None takes the file's name, or recipe and data.
        engine: trains every network as a job of its own, to the same scores; None and `Local` train here, on GPUs all
            seeds of a row together.
        curves: test each network at several epochs too, for looking at (see `curve_epochs`).

    Raises:
        InputError: a set, data or protocol that do not fit, an unknown name, no seeds, a learned rate not above 0.

    Source: the paired comparisons are ours; the papers show means of unpaired runs.
    """
    kinds = baseline_kinds(baselines)
    conditions = Conditions.of(protocol, networks, seeds, flip, device, cache, progress, engine, curves)
    small = DistilledSet.load(distilled) if isinstance(distilled, str | Path) else distilled
    check_set(small, conditions)
    splits = load_splits(data, conditions.progress)
    default = set_name(distilled) if isinstance(distilled, str | Path) else small.name
    return judge(small, splits, conditions, kinds, name or default)


def judge(
    distilled: DistilledSet, splits: Splits, conditions: Conditions, kinds: Sequence[str], name: str
) -> Scorecard:
    """`evaluate`, of a set that was checked.

    The distilled items are trained on with their soft or region labels where they have them, and at their learned rate
    where the protocol says so; all other rows with hard labels, at the protocol's rate. Random images labelled alike
    have soft or region labels too, of the same observer, taken from the cache; with region labels so has the start.
    """
    check_fit(distilled, splits)
    preprocess = distilled.preprocess
    job = conditions.measurement(distilled.image_shape, preprocess.code_shape, splits.name)
    used = job.protocol
    seeds = job.seeds if used.rate_search is None else tuple(dict.fromkeys((*job.seeds, SEED)))
    occasion = Occasion(seeds, job.device, job.progress, used.training)
    rate, means = learned_rate(distilled, used), used.means and distilled.stochastic

    def rows_from(train: ImageSet) -> list[Candidate]:
        return candidates(distilled, train, kinds, occasion, rate, means)

    rows = measured_rows(job, rows_from, preprocess, splits)
    return Scorecard(
        name=name,
        recipe=str(distilled.manifest.recipe.get("name", "")),
        labels=distilled.manifest.labels_kind,
        distilled_with=networks_of(distilled.manifest.recipe),
        set_fingerprint=distilled.fingerprint,
        classes=distilled.classes,
        image_shape=distilled.image_shape,
        storage=distilled.storage,
        protocol=used,
        data=splits.name,
        test_fingerprint=splits.test.fingerprint,
        train_fingerprint=splits.train.fingerprint,
        num_test=len(splits.test),
        seeds=job.seeds,
        device=device_name(job.device),
        versions=versions(),
        rows=tuple(rows),
        differences=tuple(differences_of(rows)),
        notes=(
            *protocol_notes(conditions.protocol, used),
            *_set_notes(used, distilled),
            *seed_notes(job.seeds),
            *_data_notes(distilled, splits),
            *(
                f"{network} of the group is left out: it cannot see such images"
                for network in conditions.left_out(preprocess.code_shape)
            ),
        ),
    )


def check_set(distilled: DistilledSet, conditions: Conditions) -> None:
    """Raise InputError where a protocol cannot judge a set, or where its networks cannot see such images."""
    labels: LabelsKind = distilled.manifest.labels_kind
    check_judges(conditions.protocol, labels, distilled.image_shape)
    conditions.configs(distilled.image_shape, distilled.preprocess.code_shape)


def load_splits(data: Any, progress: Progress) -> Splits:
    """`data` itself, or loaded. Raises InputError for what has no test part of its own."""
    if isinstance(data, Splits):
        return data
    if isinstance(data, ImageSet):
        raise InputError("an ImageSet has no test part; give Splits, or a source that load_images can split")
    from attar.data.sources import load_images

    return load_images(data, progress=progress)


def check_fit(distilled: DistilledSet, splits: Splits) -> None:
    """Raise InputError unless the data can test the set: same classes in the same order, same shape, test images."""
    if not len(splits.test):
        raise InputError(f"{splits.name} has no test images; give data with a test part")
    ours, theirs = tuple(distilled.classes), splits.test.classes
    if ours != theirs:
        if set(ours) == set(theirs):
            raise InputError(
                "the data has the set's classes in another order; list them in the set's order with --classes"
            )
        strange = [label for label in theirs if label not in ours] or [label for label in ours if label not in theirs]
        raise InputError(
            f"the set has {len(ours)} classes and the data {len(theirs)}, e.g. {strange[0]!r} is in one only; "
            "give the data the set was distilled from, with the same --classes"
        )
    for images in (splits.test, splits.train):
        if images.image_shape != distilled.image_shape:
            raise InputError(
                f"the set's images are {distilled.image_shape} (channels, height, width) and the data's "
                f"{images.image_shape}; load the data with the set's --image-size and --channels"
            )


def learned_rate(distilled: DistilledSet, chosen: Protocol) -> float | None:
    """The rate at which the set's items are trained on instead of the protocol's own; None for the protocol's own.

    Raises:
        InputError: a learned rate that is not positive.
    """
    rate = distilled.learned.get(RATE)
    if rate is None or not chosen.use_learned_rate:
        return None
    if rate <= 0:
        raise InputError(
            f"the set's learned rate is {rate:.6g} and must be positive; take a protocol with a rate of its own, "
            "e.g. quick"
        )
    return rate


def seed_numbers(seeds: int | Sequence[int]) -> tuple[int, ...]:
    """The seeds that a number of them, or a list, means. Raises InputError for none, or one that is listed twice."""
    numbers = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not numbers:
        raise InputError(f"{seeds} seeds were asked for; at least 1 is needed, 3 or more are better")
    if len(set(numbers)) < len(numbers):
        raise InputError(f"a seed is listed twice in {list(numbers)}; list each once")
    return numbers


def with_depth(config: NetworkConfig, resolution: int) -> NetworkConfig:
    """The network with its depth written out: a record must not depend on a rule that may change."""
    if config.kind != "convnet" or config.depth is not None:
        return config
    return config.model_copy(update={"depth": depth_for(resolution)})


def differences_of(rows: Sequence[Row]) -> list[Difference]:
    """The distilled row of each network minus each other one that was measured."""
    distilled = {row.network: row for row in rows if row.name == DISTILLED}
    others = [row for row in rows if row.name != DISTILLED and row.absent is None]
    return [Difference.between(distilled[row.network], row) for row in others]


def protocol_notes(chosen: Protocol, used: Protocol) -> list[str]:
    """The remarks of a card on its protocol."""
    notes = []
    if not used.comparable:
        notes.append(f"protocol {used.label} is not comparable with published numbers")
    if used != chosen:
        notes.append("training images are not mirrored (flip is left out)")
    return notes


def seed_notes(seeds: Sequence[int]) -> list[str]:
    """The remark of a card on few seeds."""
    if len(seeds) == 1:
        return ["n = 1: no spread; no difference can be called real"]
    few = len(seeds) < FEW_SEEDS
    return [f"n = {len(seeds)}: intervals of fewer than {FEW_SEEDS} seeds are very wide"] * few


def _data_notes(distilled: DistilledSet, splits: Splits) -> list[str]:
    notes = []
    if distilled.manifest.data.fingerprint == UNKNOWN:
        notes.append(
            "the set is foreign and its images' origin not known: scores are too high if test images were among them"
        )
    elif splits.train.fingerprint != distilled.manifest.data.fingerprint:
        notes.append(
            "the set was distilled from other images than this data's training part: scores are too high if test "
            "images were among them (another split seed would do that)"
        )
    for weights in distilled.storage.external:
        notes.append(f"needs public weights that were trained on other data: {weights.id}")
    return notes


def _set_notes(used: Protocol, distilled: DistilledSet) -> list[str]:
    """The remarks of a card on the set's labels, samples and rate."""
    notes = []
    if distilled.manifest.labels_kind == "soft":
        notes.append(
            "distilled: trained with the set's soft labels; random images labelled alike have them too, all other rows "
            "hard labels"
        )
    if distilled.manifest.labels_kind == "regions":
        notes.append(
            "distilled, initial codes and images labelled alike: an observer's labels of regions; all other rows have "
            "hard labels and the protocol's augmentation"
        )
    if distilled.stochastic:
        means = " and the items' means" if used.means else ""
        notes.append(f"distilled: every epoch has new samples of the items{means}")
    default, learned, rate = used.training.learning_rate, distilled.learned.get(RATE), learned_rate(distilled, used)
    if used.rate_search is not None:
        notes.append(search_note(used.rate_search))
        if learned is not None:
            notes.append(f"distilled: the set's learned rate {learned:.6g} is not used")
    elif rate is not None:
        notes.append(f"distilled: trained at the set's learned rate {rate:.6g}; all other rows at {default:.6g}")
    elif used.use_learned_rate:
        notes.append(f"distilled: the set has no learned rate, so all rows are trained at {default:.6g}")
    elif learned is not None:
        notes.append(
            f"distilled: the set's learned rate {learned:.6g} is not used; "
            f"protocol {used.label} trains at {default:.6g}"
        )
    return notes


def versions() -> dict[str, str]:
    """The versions of the software, as a card keeps them."""
    return {"attar": __version__, "torch": torch.__version__}


def device_name(device: torch.device) -> str:
    """The device that networks were trained on, as a card names it."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} (cuda)"
    threads = torch.get_num_threads()
    return f"cpu, {threads} thread{'s' * (threads > 1)}" if device.type == "cpu" else device.type
