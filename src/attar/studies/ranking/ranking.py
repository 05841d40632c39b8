"""Trains candidates on a set, on real images of its bytes, and on all real images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from attar.base.config import parse_config
from attar.base.device import resolve_device
from attar.base.engines.engine import Engine, Local
from attar.base.errors import InputError, unknown
from attar.base.files import set_name
from attar.base.progress import Progress, Silent
from attar.base.version import __version__
from attar.data.image_set import ImageSet, Splits
from attar.evaluation.baselines import baseline
from attar.evaluation.candidates import Candidate
from attar.evaluation.evaluate import FEW_SEEDS, check_fit, device_name, evaluate, load_splits, seed_numbers, with_depth
from attar.evaluation.measuring import Measurement
from attar.evaluation.protocol import Protocol, check_judges, resolve_flip
from attar.evaluation.protocol import protocol as protocol_named
from attar.evaluation.rates import measured_rows, search_note
from attar.evaluation.rows import Row
from attar.models.networks.network import NetworkConfig
from attar.models.networks.registry import networks_named
from attar.models.training.settings import TrainingConfig
from attar.sets.distilled import DistilledSet
from attar.sets.manifest import RATE
from attar.studies.ranking.card import FEW, FEWEST, Contender, RankCard, Scores

COMPARED = ("random", "random-uint8")


def rank(
    distilled: DistilledSet | Path | str,
    data: Any,
    protocol: str | Path | Protocol = "quick",
    *,
    networks: Sequence[str | NetworkConfig] | str | NetworkConfig | None = None,
    settings: Sequence[Mapping[str, Any]] | None = None,
    reference: str | Path | Protocol | None = None,
    seeds: int | Sequence[int] | None = None,
    flip: bool | None = None,
    device: str = "auto",
    cache: bool = True,
    progress: Progress | None = None,
    name: str | None = None,
    engine: Engine | None = None,
) -> RankCard:
    """How networks or settings of training rank on the set, against how they rank on all real images.

    Every candidate, a network with settings, is trained on the set, on random real images of the same bytes, and on
    all real images, with the same seeds. Results are kept as those of `evaluate` are: all real images are trained on
    once, and an interrupted call goes on where it was.

    Args:
        distilled: the set, or its file.
        data: as of `evaluate`.
        protocol: how candidates are trained on few items.
        networks: None takes the protocol's.
        settings: what to replace in the protocol's training, one for each candidate, e.g. [{"learning_rate": 0.1},
            {"learning_rate": 0.1, "weight_decay": 0.0}]; None leaves it. Each is combined with each network.
        reference: how candidates are trained on all real images; None: as on the set.
        seeds: how many, or which; None: as the protocol has it.
        flip: see `evaluate`.
        device: "auto", "cpu", "cuda", "cuda:1".
        cache: False neither reads nor writes results.
        progress: told every training step.
        name: what the card calls the set.
        engine: where networks are trained.

    Raises:
        InputError: fewer than 3 candidates, settings that the training does not have or that the set's learned rate or
            a search would replace, and whatever `evaluate` refuses.

    Source: Zhao, Mopuri & Bilen 2021 (DC) section 4.2 ranks architectures so, by Spearman's correlation; Ding et al.
        2024 (HCDC, arXiv 2405.17535) settings.
    """
    progress = progress or Silent()
    chosen = protocol_named(protocol)
    full = chosen if reference is None else protocol_named(reference)
    numbers = seed_numbers(chosen.seeds if seeds is None else seeds)
    asked = chosen.networks if networks is None else networks
    configs = networks_named(asked)
    changes = _distinct([{}] if settings is None else settings)
    _check_different([(changed(chosen, each).training, changed(full, each).training) for each in changes], changes)
    _check_searched((chosen, full), changes)
    _check_number(len(configs) * len(changes))
    where, runs = resolve_device(device), engine or Local()
    runs.check_device(where)
    small = DistilledSet.load(distilled) if isinstance(distilled, str | Path) else distilled
    check_judges(chosen, small.manifest.labels_kind, small.image_shape)
    check_judges(full, full.labels[0], small.image_shape)  # it trains on all data; the set's labels are not its concern
    _check_rate(small, chosen, changes)
    configs = networks_named(asked, small.preprocess.code_shape)
    splits = load_splits(data, progress)
    check_fit(small, splits)
    configs = list(dict.fromkeys(with_depth(config, min(small.image_shape[1:])) for config in configs))
    _check_number(len(configs) * len(changes))
    work = _Work(small, splits, numbers, configs, where, cache, progress, runs, flip)
    tables = [work.rows(changed(chosen, each), changed(full, each)) for each in changes]
    return RankCard.of(
        _scores(tables, configs),
        name=name or (set_name(distilled) if isinstance(distilled, str | Path) else small.name),
        recipe=str(small.manifest.recipe.get("name", "")),
        data=splits.name,
        train_fingerprint=splits.train.fingerprint,
        test_fingerprint=splits.test.fingerprint,
        num_test=len(splits.test),
        protocol=resolve_flip(chosen, flip, splits.name),
        reference=resolve_flip(full, flip, splits.name),
        seeds=numbers,
        device=device_name(where),
        versions={"attar": __version__, "torch": torch.__version__},
        candidates=tuple(Contender(network=config, settings=each) for each in changes for config in configs),
        notes=tuple(_notes(len(configs) * len(changes), len(numbers), chosen, full)),
    )


@dataclass(frozen=True)
class _Work:
    """What all candidates share.

    Args:
        distilled, splits, seeds, networks, device, cache, progress, engine, flip: as of `rank`, resolved.
    """

    distilled: DistilledSet
    splits: Splits
    seeds: tuple[int, ...]
    networks: list[NetworkConfig]
    device: torch.device
    cache: bool
    progress: Progress
    engine: Engine
    flip: bool | None

    def rows(self, protocol: Protocol, reference: Protocol) -> list[Row]:
        """All real images, the set, and real images of its bytes, on every network."""
        card = evaluate(
            self.distilled, self.splits, protocol, networks=self.networks, seeds=self.seeds, baselines=COMPARED,
            flip=self.flip, device=str(self.device), cache=self.cache, progress=self.progress, engine=self.engine,
        )  # fmt: skip
        engine = None if isinstance(self.engine, Local) else self.engine
        used = resolve_flip(reference, self.flip, self.splits.name)
        job = Measurement(used, self.seeds, self.networks, self.device, self.cache, self.progress, engine)
        return [*measured_rows(job, self._everything, self.distilled.preprocess, self.splits), *card.rows]

    def _everything(self, train: ImageSet) -> list[Candidate]:
        found = baseline("full", self.distilled, train)
        assert found is not None
        return [found.remembering()]


def changed(protocol: Protocol, settings: Mapping[str, Any]) -> Protocol:
    """The protocol with settings of its training replaced.

    Raises:
        InputError: a setting that does not exist (the nearest is named), or a value that it does not allow.
    """
    for key in settings:
        if key not in TrainingConfig.model_fields:
            raise unknown("training setting", str(key), TrainingConfig.model_fields)
    tree = protocol.training.model_dump(mode="json") | dict(settings)
    text = f"settings {json.dumps(dict(settings))}"
    return protocol.model_copy(update={"training": parse_config(TrainingConfig, json.dumps(tree), text)})


def _scores(tables: Sequence[Sequence[Row]], networks: Sequence[NetworkConfig]) -> list[Scores]:
    """The rows of the same name together, candidate by candidate; rows that are absent somewhere are left out."""
    scores = []
    for name in dict.fromkeys(row.name for rows in tables for row in rows):
        found = {(place, row.network): row for place, rows in enumerate(tables) for row in rows if row.name == name}
        rows = [found[place, network] for place in range(len(tables)) for network in networks]
        if any(row.absent is not None for row in rows):
            continue
        first = rows[0]
        scores.append(
            Scores(
                name=name,
                num_items=first.num_items,
                num_bytes=first.num_bytes,
                accuracies=tuple(row.accuracies for row in rows),
                note=first.note if all(row.note == first.note for row in rows) else "",
            )
        )
    return scores


def _distinct(settings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each once, in order. Raises InputError for what is no list of objects."""
    if isinstance(settings, str | Mapping) or not all(isinstance(each, Mapping) for each in settings):
        raise InputError('settings must be a list of objects, e.g. [{"learning_rate": 0.1}, {"learning_rate": 0.01}]')
    return [json.loads(text) for text in dict.fromkeys(json.dumps(dict(each), sort_keys=True) for each in settings)]


def _check_number(count: int) -> None:
    if count < FEWEST:
        raise InputError(
            f"{count} candidates were given, and a ranking needs at least {FEWEST} different ones; name more networks "
            "or settings"
        )


def _check_rate(distilled: DistilledSet, chosen: Protocol, changes: Sequence[Mapping[str, Any]]) -> None:
    if chosen.use_learned_rate and RATE in distilled.learned and any("learning_rate" in each for each in changes):
        raise InputError(
            f"protocol {chosen.name!r} trains at the set's learned rate, and a learning_rate of settings has no effect "
            "there; take another protocol, e.g. dc-bench"
        )


def _check_different(
    trainings: Sequence[tuple[TrainingConfig, TrainingConfig]], changes: Sequence[Mapping[str, Any]]
) -> None:
    """Candidates that are trained alike would agree with themselves."""
    for place, training in enumerate(trainings):
        if training in trainings[:place]:
            first, second = (json.dumps(changes[each]) for each in (trainings.index(training), place))
            raise InputError(f"settings {first} and {second} mean the same training here; leave one of them out")


def _check_searched(protocols: Sequence[Protocol], changes: Sequence[Mapping[str, Any]]) -> None:
    searching = [each.name for each in protocols if each.rate_search is not None]
    if searching and any("learning_rate" in each for each in changes):
        raise InputError(
            f"protocol {searching[0]!r} searches every candidate's learning rate, and one of settings has no effect "
            "there; leave it out, or take another protocol, e.g. dc-bench"
        )


def _notes(num_candidates: int, num_seeds: int, chosen: Protocol, full: Protocol) -> list[str]:
    notes = []
    if full != chosen and full.rate_search is not None:
        notes.append(f"all real images: {search_note(full.rate_search)}")
    if chosen.rate_search is not None:
        notes.append(search_note(chosen.rate_search))
    if full == chosen:
        notes.append(
            "all real images are trained on for as many steps as the set: a longer --reference says more of what "
            "candidates are worth"
        )
    if num_candidates < FEW:
        notes.append(f"{num_candidates} candidates: correlations of fewer than {FEW} are very uncertain")
    if num_seeds < FEW_SEEDS:
        notes.append(f"n = {num_seeds}: fewer than {FEW_SEEDS} seeds confuse candidates that are nearly as good")
    return notes
