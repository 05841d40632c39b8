"""Measures a distilled set and its baselines: trains networks on each, tests them on real images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from attar.base.device import resolve_device
from attar.base.engines.engine import Engine, Local
from attar.base.errors import InputError
from attar.base.files import content_key, set_name
from attar.base.progress import Progress, Silent
from attar.base.version import __version__
from attar.data.image_set import ImageSet, Splits
from attar.evaluation.baselines import Candidate, Occasion, baseline, baseline_kinds
from attar.evaluation.measuring import Measurement, remembering
from attar.evaluation.protocol import Protocol, check_judges, resolve_flip
from attar.evaluation.protocol import protocol as protocol_named
from attar.evaluation.rates import SEED, rows_at_best_rates, search_note
from attar.evaluation.relabelled import known_observer
from attar.evaluation.rows import Row
from attar.evaluation.scorecard import DISTILLED, Difference, Scorecard
from attar.evaluation.unseen import networks_of
from attar.evaluation.variants import VARIANTS, variant
from attar.models.networks.network import NetworkConfig, depth_for
from attar.models.networks.registry import networks_named
from attar.models.observers import Observer
from attar.models.training.loop import TrainingConfig, TrainingItems
from attar.sets.distilled import DistilledSet
from attar.sets.manifest import RATE, UNKNOWN
from attar.sets.sizes import online_observers

FEW_SEEDS = 3


def evaluate(
    distilled: DistilledSet | Path | str,
    data: Any,
    protocol: str | Path | Protocol = "quick",
    *,
    networks: Sequence[str | NetworkConfig] | str | NetworkConfig | None = None,
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

    The distilled items are trained on with their soft or region labels where they have them, and at their learned rate
    where the protocol says so; all other rows with hard labels, at the protocol's rate. Random images labelled alike
    have soft or region labels too, of the same observer, taken from the cache; with region labels so has the start.

    Every network counts as it is after its last step: test images choose nothing. Each result is kept under
    $ATTAR_CACHE/scores by everything that it depends on, so that baselines are computed once and an interrupted
    evaluation goes on where it was.

    Args:
        distilled: the set, or its file.
        data: Splits, or anything `load_images` takes; classes, their order and the image shape must be the set's.
        protocol: a name of `protocol_names()`, e.g. "quick", "dc-bench", or a JSON file of your own; one that cannot
            judge such labels or images is refused.
        networks: e.g. ("convnet", "resnet18"), or a group, "all" or "unseen"; None takes the protocol's.
        seeds: how many (0, 1, ...), or which; one network each, the same for all rows. None: as the protocol has it.
        baselines: True, False, or some of `baselines.BASELINES` and `baselines.GROUPS`.
        flip: whether training images are mirrored; None mirrors as the protocol does, but never where the data's name
            says digits or characters (see `protocol.handed`).
        device: "auto", "cpu", "cuda", "cuda:1".
        cache: False neither reads nor writes results.
        progress: told every training step.
        name: what the card calls the set; None takes the file's name, or recipe and data.
        engine: trains every network as a job of its own, to the same scores; this process reads and writes the cache.
            None and `Local` train here, on GPUs all seeds of a row together.
        curves: test each network at several epochs too, at most 12 evenly spaced ones (see `curve_epochs`). The last
            epoch is the one that counts; the others are for looking at.

    Raises:
        InputError: a set and data that do not fit, an unknown protocol, network or baseline, no seeds, a learned rate
            that is not positive.

    Source: the paired comparisons are ours; the papers show means of unpaired runs.
    """
    progress = progress or Silent()
    chosen = protocol_named(protocol)
    kinds = baseline_kinds(baselines)
    numbers = seed_numbers(chosen.seeds if seeds is None else seeds)
    asked = chosen.networks if networks is None else networks
    named = networks_named(asked)
    where = resolve_device(device)
    if engine is not None:
        engine.check_device(where)
    small = DistilledSet.load(distilled) if isinstance(distilled, str | Path) else distilled
    check_judges(chosen, small.manifest.labels_kind, small.image_shape)
    configs = networks_named(asked, small.preprocess.code_shape)
    splits = load_splits(data, progress)
    check_fit(small, splits)
    used = resolve_flip(chosen, flip, splits.name)
    _, height, width = small.image_shape
    job = Measurement(
        used,
        numbers,
        list(dict.fromkeys(with_depth(config, min(height, width)) for config in configs)),
        where,
        cache,
        progress,
        None if isinstance(engine, Local) else engine,
        curves,
    )
    drawn = numbers if used.rate_search is None else tuple(dict.fromkeys((*numbers, SEED)))
    occasion = Occasion(drawn, where, progress)
    rate, means = learned_rate(small, used), used.means and small.stochastic

    def candidates(train: ImageSet) -> list[Candidate]:
        return _candidates(small, train, kinds, rate, means, used.training, occasion)

    if used.rate_search is None:
        rows = job.run(candidates(splits.train), small.preprocess, splits.test)
    else:
        rows = rows_at_best_rates(job, used.rate_search, candidates, small.preprocess, splits)
    called = name or (set_name(distilled) if isinstance(distilled, str | Path) else small.name)
    notes = _notes(chosen, used, small, splits, numbers)
    left_out = [config.name for config in named if config not in configs]
    notes += [f"{each} of the group is left out: it cannot see such images" for each in left_out]
    return _card(called, small, splits, job, rows, notes)


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


def seed_numbers(wanted: int | Sequence[int]) -> tuple[int, ...]:
    """The seeds that a number of them, or a list, means. Raises InputError for none, or one that is listed twice."""
    numbers = tuple(range(wanted)) if isinstance(wanted, int) else tuple(wanted)
    if not numbers:
        raise InputError(f"{wanted} seeds were asked for; at least 1 is needed, 3 or more are better")
    if len(set(numbers)) < len(numbers):
        raise InputError(f"a seed is listed twice in {list(numbers)}; list each once")
    return numbers


def with_depth(config: NetworkConfig, resolution: int) -> NetworkConfig:
    """With its depth said: a record must not depend on a rule that may change."""
    if config.kind != "convnet" or config.depth is not None:
        return config
    return config.model_copy(update={"depth": depth_for(resolution)})


def _candidates(
    distilled: DistilledSet,
    train: ImageSet,
    kinds: Sequence[str],
    learning_rate: float | None,
    means: bool,
    training: TrainingConfig | None = None,
    occasion: Occasion | None = None,
) -> list[Candidate]:
    storage = distilled.storage
    observer = asked_observer(distilled)
    main = Candidate(
        DISTILLED,
        distilled.num_training_items * (1 + means),
        storage.paper_bytes,
        storage.file_bytes,
        lambda seed: content_key(distilled.fingerprint, "means") if means else distilled.fingerprint,
        lambda seed: partial(_distilled_items, distilled, observer, means),
        learning_rate=learning_rate,
    )
    others = [
        variant(kind, main, distilled, train, training or TrainingConfig(), occasion)
        if kind in VARIANTS
        else baseline(kind, distilled, train, occasion)
        for kind in kinds
    ]
    return [remembering(each) for each in [main, *others] if each is not None]


def _distilled_items(
    distilled: DistilledSet, observer: Observer | None, means: bool, device: torch.device
) -> TrainingItems:
    return distilled.training_items(device, observer and observer.to(device), means)


def asked_observer(distilled: DistilledSet) -> Observer | None:
    """The observer that training on the set asks, from the cache; None where labels are stored.

    Raises:
        InputError: it is not there; what it is, is said.
    """
    needed = online_observers(distilled.manifest)
    found = known_observer(distilled) if needed else None
    if isinstance(found, str):
        raise InputError(found)
    return found


def _card(
    name: str, distilled: DistilledSet, splits: Splits, job: Measurement, rows: Sequence[Row], notes: Sequence[str]
) -> Scorecard:
    return Scorecard(
        name=name,
        recipe=str(distilled.manifest.recipe.get("name", "")),
        labels=distilled.manifest.labels_kind,
        distilled_with=networks_of(distilled.manifest.recipe),
        set_fingerprint=distilled.fingerprint,
        classes=distilled.classes,
        image_shape=distilled.image_shape,
        storage=distilled.storage,
        protocol=job.protocol,
        data=splits.name,
        test_fingerprint=splits.test.fingerprint,
        train_fingerprint=splits.train.fingerprint,
        num_test=len(splits.test),
        seeds=job.seeds,
        device=device_name(job.device),
        versions={"attar": __version__, "torch": torch.__version__},
        rows=tuple(rows),
        differences=tuple(_differences(rows)),
        notes=tuple(notes),
    )


def _differences(rows: Sequence[Row]) -> list[Difference]:
    main = {row.network: row for row in rows if row.name == DISTILLED}
    others = [row for row in rows if row.name != DISTILLED and row.absent is None]
    return [Difference.between(main[row.network], row) for row in others]


def _notes(
    chosen: Protocol, used: Protocol, distilled: DistilledSet, splits: Splits, seeds: tuple[int, ...]
) -> list[str]:
    notes = []
    if not used.comparable:
        notes.append(f"protocol {used.label} is not comparable with published numbers")
    if used != chosen:
        notes.append("training images are not mirrored (flip is left out)")
    notes += _label_and_rate_notes(used, distilled)
    if len(seeds) == 1:
        notes.append("n = 1: no spread; no difference can be called real")
    elif len(seeds) < FEW_SEEDS:
        notes.append(f"n = {len(seeds)}: intervals of fewer than {FEW_SEEDS} seeds are very wide")
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


def _label_and_rate_notes(used: Protocol, distilled: DistilledSet) -> list[str]:
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
    own, learned, rate = used.training.learning_rate, distilled.learned.get(RATE), learned_rate(distilled, used)
    if used.rate_search is not None:
        unused = [] if learned is None else [f"distilled: the set's learned rate {learned:.6g} is not used"]
        return [*notes, search_note(used.rate_search), *unused]
    if rate is not None:
        notes.append(f"distilled: trained at the set's learned rate {rate:.6g}; all other rows at {own:.6g}")
    elif used.use_learned_rate:
        notes.append(f"distilled: the set has no learned rate, so all rows are trained at {own:.6g}")
    elif learned is not None:
        notes.append(
            f"distilled: the set's learned rate {learned:.6g} is not used; protocol {used.label} trains at {own:.6g}"
        )
    return notes


def device_name(device: torch.device) -> str:
    """What a card says of the device that networks were trained on."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} (cuda)"
    threads = torch.get_num_threads()
    return f"cpu, {threads} thread{'s' * (threads > 1)}" if device.type == "cpu" else device.type
