"""Trains candidates on a set, on real images of its bytes, and on all real images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from attar.base.config import parse_config
from attar.base.engines import Engine
from attar.base.errors import InputError, unknown
from attar.base.files import set_name
from attar.base.progress import Progress
from attar.data.image_set import ImageSet, Splits
from attar.evaluation.baselines import baseline
from attar.evaluation.candidates import Candidate
from attar.evaluation.evaluate import FEW_SEEDS, Conditions, check_set, device_name, judge, load_splits, versions
from attar.evaluation.protocol import Protocol, check_judges, resolve_flip
from attar.evaluation.protocol import protocol as protocol_named
from attar.evaluation.rates import measured_rows, search_note
from attar.evaluation.rows import Row
from attar.models.networks.network import NetworkConfig
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
        distilled, data, flip, device, cache, progress, name, engine: as of `evaluate`.
        protocol: how candidates are trained on few items.
        networks: None takes the protocol's.
        settings: what to replace in the protocol's training, one for each candidate, e.g. [{"learning_rate": 0.1},
            {"learning_rate": 0.1, "weight_decay": 0.0}]; None leaves it. Each is combined with each network.
        reference: how candidates are trained on all real images; None: as on the set.
        seeds: how many, or which; None: as the protocol has it.

    Raises:
        InputError: fewer than 3 candidates, settings that the training does not have or that the set's learned rate or
            a search would replace, and whatever `evaluate` refuses.

    Source: Zhao, Mopuri & Bilen 2021 (DC) section 4.2 ranks architectures so, by Spearman's correlation; Ding et al.
        2024 (HCDC, arXiv 2405.17535) settings.
    """
    conditions = Conditions.of(protocol, networks, seeds, flip, device, cache, progress, engine)
    full = conditions.protocol if reference is None else protocol_named(reference)
    small = DistilledSet.load(distilled) if isinstance(distilled, str | Path) else distilled
    contest = _Contest(small, conditions, full, _distinct([{}] if settings is None else settings))
    contest.check()
    splits = load_splits(data, conditions.progress)
    scores = _scores([contest.rows(change, splits) for change in contest.settings], contest.networks)
    file_name = set_name(distilled) if isinstance(distilled, str | Path) else small.name
    return contest.card(name or file_name, splits, scores)


@dataclass(frozen=True)
class _Contest:
    """What is compared: networks under the conditions, each with each of the settings; on all images by `reference`."""

    distilled: DistilledSet
    conditions: Conditions
    reference: Protocol
    settings: list[dict[str, Any]]

    @property
    def networks(self) -> list[NetworkConfig]:
        return self.conditions.configs(self.distilled.image_shape, self.distilled.preprocess.code_shape)

    @property
    def candidates(self) -> list[Contender]:
        return [Contender(network=network, settings=change) for change in self.settings for network in self.networks]

    def check(self) -> None:
        """Raise InputError for too few candidates, two that are the same, a setting without effect, a wrong judge."""
        chosen = self.conditions.protocol
        check_set(self.distilled, self.conditions)
        check_judges(self.reference, self.reference.labels[0], self.distilled.image_shape)  # it judges other labels
        trainings = [
            (changed(chosen, change).training, changed(self.reference, change).training) for change in self.settings
        ]
        for place, training in enumerate(trainings):
            if training in trainings[:place]:
                first, second = (json.dumps(self.settings[same]) for same in (trainings.index(training), place))
                raise InputError(f"settings {first} and {second} mean the same training here; leave one of them out")
        if any("learning_rate" in change for change in self.settings):
            for protocol in (chosen, self.reference):
                if protocol.rate_search is not None:
                    raise InputError(
                        f"protocol {protocol.name!r} searches every candidate's learning rate, and one of settings has "
                        "no effect there; leave it out, or take another protocol, e.g. dc-bench"
                    )
            if chosen.use_learned_rate and RATE in self.distilled.learned:
                raise InputError(
                    f"protocol {chosen.name!r} trains at the set's learned rate, and a learning_rate of "
                    "settings has no effect there; take another protocol, e.g. dc-bench"
                )
        if (number := len(self.candidates)) < FEWEST:
            given = "1 candidate was" if number == 1 else f"{number} candidates were"
            raise InputError(
                f"{given} given, and a ranking needs at least {FEWEST} different ones; name more networks or settings"
            )

    def rows(self, settings: Mapping[str, Any], splits: Splits) -> list[Row]:
        """All real images, the set, and real images of its bytes, on every network with these settings."""
        few = replace(self.conditions, protocol=changed(self.conditions.protocol, settings))
        many = replace(self.conditions, protocol=changed(self.reference, settings))
        small, preprocess = self.distilled, self.distilled.preprocess

        def all_images(train: ImageSet) -> list[Candidate]:
            candidate = baseline("full", small, train)
            assert candidate is not None
            return [candidate.remembering()]

        rows = judge(small, splits, few, COMPARED, small.name).rows
        job = many.measurement(small.image_shape, preprocess.code_shape, splits.name)
        return [*measured_rows(job, all_images, preprocess, splits), *rows]

    def card(self, name: str, splits: Splits, scores: Sequence[Scores]) -> RankCard:
        """The card of these scores."""
        conditions = self.conditions
        return RankCard.of(
            scores,
            name=name,
            recipe=str(self.distilled.manifest.recipe.get("name", "")),
            data=splits.name,
            train_fingerprint=splits.train.fingerprint,
            test_fingerprint=splits.test.fingerprint,
            num_test=len(splits.test),
            protocol=resolve_flip(conditions.protocol, conditions.flip, splits.name),
            reference=resolve_flip(self.reference, conditions.flip, splits.name),
            seeds=conditions.seeds,
            device=device_name(conditions.device),
            versions=versions(),
            candidates=tuple(self.candidates),
            notes=tuple(self._notes()),
        )

    def _notes(self) -> list[str]:
        chosen, notes = self.conditions.protocol, []
        if self.reference != chosen and self.reference.rate_search is not None:
            notes.append(f"all real images: {search_note(self.reference.rate_search)}")
        if chosen.rate_search is not None:
            notes.append(search_note(chosen.rate_search))
        if self.reference == chosen:
            notes.append(
                "all real images are trained on for as many steps as the set: a longer --reference says more of what "
                "candidates are worth"
            )
        if len(self.candidates) < FEW:
            notes.append(f"{len(self.candidates)} candidates: correlations of fewer than {FEW} are very uncertain")
        if len(self.conditions.seeds) < FEW_SEEDS:
            number = len(self.conditions.seeds)
            notes.append(f"n = {number}: fewer than {FEW_SEEDS} seeds confuse candidates that are nearly as good")
        return notes


def changed(protocol: Protocol, settings: Mapping[str, Any]) -> Protocol:
    """The protocol with settings of its training replaced.

    Raises:
        InputError: a setting that does not exist (the nearest is named), or a value that it does not allow.
    """
    for key in settings:
        if key not in TrainingConfig.model_fields:
            raise unknown("training setting", str(key), TrainingConfig.model_fields)
    tree = protocol.training.model_dump(mode="json") | dict(settings)
    training = parse_config(TrainingConfig, json.dumps(tree), f"settings {json.dumps(dict(settings))}")
    return protocol.model_copy(update={"training": training})


def _scores(tables: Sequence[Sequence[Row]], networks: Sequence[NetworkConfig]) -> list[Scores]:
    """The rows of the same name in the tables of all settings, network by network; none that is absent somewhere."""
    scores = []
    for name in dict.fromkeys(row.name for rows in tables for row in rows):
        by_network = [{row.network: row for row in rows if row.name == name} for rows in tables]
        rows = [rows[network] for rows in by_network for network in networks]
        if any(row.absent is not None for row in rows):
            continue
        scores.append(
            Scores(
                name=name,
                num_items=rows[0].num_items,
                num_bytes=rows[0].num_bytes,
                accuracies=tuple(row.accuracies for row in rows),
                note=rows[0].note if len({row.note for row in rows}) == 1 else "",
            )
        )
    return scores


def _distinct(settings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each once, in order. Raises InputError for what is no list of objects."""
    if isinstance(settings, str | Mapping) or not all(isinstance(change, Mapping) for change in settings):
        raise InputError('settings must be a list of objects, e.g. [{"learning_rate": 0.1}, {"learning_rate": 0.01}]')
    return [json.loads(text) for text in dict.fromkeys(json.dumps(dict(change), sort_keys=True) for change in settings)]
