"""Trains and tests the networks of every row, and keeps each result by everything it depends on."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError, model_validator
from torch import Tensor

from attar.base.config import Config
from attar.base.engines.engine import Engine
from attar.base.files import cache_directory, content_key, write_text
from attar.base.progress import Progress, Within
from attar.base.version import __version__
from attar.data.image_set import ImageSet
from attar.evaluation.candidates import Candidate, MakeItems
from attar.evaluation.protocol import Protocol
from attar.evaluation.rows import DISTILLED, Row
from attar.evaluation.statistics import mean_and_std
from attar.models.codecs.codec import Codec
from attar.models.networks.network import NetworkConfig
from attar.models.training.items import TrainingItems
from attar.models.training.loop import train_networks
from attar.models.training.settings import Plan, TrainingConfig, images_seen
from attar.models.training.snapshots import Snapshot
from attar.models.training.testing import test_networks

FORMAT = 2
MOST_POINTS = 12


class Score(Config):
    """One trained network's result: what the cache keeps.

    Args:
        confusion: counts, [true class][predicted class].
        seconds: of training and testing.
        training_seconds: of training alone.
        curve_epochs: after how many epochs it was tested, the last being that of `confusion`; none without a curve.
        curve: percent after each of them but the last.
    """

    confusion: tuple[tuple[int, ...], ...]
    seconds: float = Field(ge=0)
    training_seconds: float = Field(ge=0)
    curve_epochs: tuple[int, ...] = ()
    curve: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _curve_fits_its_epochs(self) -> Score:
        if len(self.curve) != max(0, len(self.curve_epochs) - 1) or not all(0 <= each <= 100 for each in self.curve):
            raise ValueError("a curve is not one of percents after its epochs")
        return self

    @property
    def accuracy(self) -> float:
        """Percent."""
        right = sum(row[index] for index, row in enumerate(self.confusion))
        return 100 * right / sum(map(sum, self.confusion))


@dataclass(frozen=True)
class Setting:
    """What the networks of all rows have in common.

    Args:
        preprocess: images to network inputs.
        test: what they are tested on.
        device: where they are trained.
        curves: whether they are tested at several epochs.
    """

    preprocess: Codec
    test: ImageSet
    device: torch.device
    curves: bool = False

    def inputs_of(self, images: Tensor) -> Tensor:
        """uint8 images as network inputs."""
        return self.preprocess.encode(images.float() / 255)


@dataclass(frozen=True)
class Measurement:
    """Every network of every row, one after another.

    Args:
        protocol, seeds, networks, device, cache, progress, engine: as of `evaluate`, resolved.
        curves: whether networks are tested at several epochs; a score without a curve does not answer for one with it.
    """

    protocol: Protocol
    seeds: tuple[int, ...]
    networks: list[NetworkConfig]
    device: torch.device
    cache: bool
    progress: Progress
    engine: Engine | None = None
    curves: bool = False

    def run(self, candidates: Sequence[Candidate], preprocess: Codec, test: ImageSet) -> list[Row]:
        """All rows, network by network.

        Args:
            candidates: the rows.
            preprocess: images to network inputs.
            test: of the classes that the candidates are labelled with.
        """
        setting = Setting(preprocess, test, self.device, self.curves)
        present = [candidate for candidate in candidates if candidate.absent is None]
        num_steps = sum(self._plan(candidate).num_steps for candidate in present)
        self.progress.start("evaluating", num_steps * len(self.seeds) * len(self.networks))
        try:
            scores = {} if self.engine is None else self._scores_elsewhere(self.engine, present, setting)
            pairs = itertools.product(self.networks, candidates)
            return [self._row(candidate, network, setting, scores) for network, candidate in pairs]
        finally:
            self.progress.finish()

    def _scores_elsewhere(self, engine: Engine, candidates: Sequence[Candidate], setting: Setting) -> dict[str, Score]:
        """The scores that the cache lacks, by their keys, each network a job."""
        lacking: dict[str, tuple[Candidate, NetworkConfig, int]] = {}
        for network, candidate, seed in itertools.product(self.networks, candidates, self.seeds):
            key = self._key(candidate, network, seed, setting)
            if self._read(key, candidate, setting.test) is None:
                lacking[key] = candidate, network, seed
        keys, scores = list(lacking), dict[str, Score]()
        trials = _Trials(list(lacking.values()), self._training)
        names = [f"{candidate.name}, {network.name}, seed {seed}" for candidate, network, seed in lacking.values()]
        with closing(engine.results(_score, trials, setting, self.progress, names)) as results:
            for place, score in results:
                scores[keys[place]] = score
                self._keep(keys[place], score)
        return scores

    def _row(self, candidate: Candidate, network: NetworkConfig, setting: Setting, trained: Mapping[str, Score]) -> Row:
        facts: dict[str, Any] = {name: getattr(candidate, name) for name in CANDIDATE_FACTS}
        if candidate.absent is not None:
            return Row(network=network, **facts)
        keys = {seed: self._key(candidate, network, seed, setting) for seed in self.seeds}
        cached = {seed: self._read(key, candidate, setting.test) for seed, key in keys.items() if key not in trained}
        scores = {seed: score for seed, score in cached.items() if score is not None}
        plan, training = self._plan(candidate), self._training(candidate)
        facts |= {"cached": len(scores), "num_epochs": plan.num_epochs}
        self.progress.advance(plan.num_steps * len(scores))
        scores |= {seed: trained[key] for seed, key in keys.items() if key in trained}
        for seeds in self._groups(candidate, [seed for seed in self.seeds if seed not in scores]):
            items = candidate.items(seeds[0], self.device)
            for seed, score in zip(
                seeds, train_and_test(setting, items, network, training, seeds, self.progress), strict=True
            ):
                scores[seed] = score
                self._keep(keys[seed], score)
        facts |= _score_facts([scores[seed] for seed in self.seeds])
        if candidate.name != DISTILLED:
            del facts["confusion"]
        return Row(network=network, seeds=self.seeds, images_seen=images_seen(training, candidate.num_items), **facts)

    def _groups(self, candidate: Candidate, missing: Sequence[int]) -> list[list[int]]:
        """Seeds trained in one call: all on a GPU, where they may be stacked; else singly, each kept when done."""
        together = self.device.type == "cuda" and not candidate.drawn
        return [list(missing)] * bool(missing) if together else [[seed] for seed in missing]

    def _plan(self, candidate: Candidate) -> Plan:
        """A candidate's epochs and steps, which no rate of its own changes."""
        return Plan.of(self.protocol.training, candidate.num_items)

    def _training(self, candidate: Candidate) -> TrainingConfig:
        """The protocol's training, at the candidate's own rate where it has one, and not augmented where it says so."""
        changes: dict[str, Any] = {}
        if candidate.learning_rate is not None:
            changes["learning_rate"] = candidate.learning_rate
        if not candidate.augmented:
            changes |= {"augmentation": None, "cutmix_probability": 0.0}
        return self.protocol.training.model_copy(update=changes)

    def _key(self, candidate: Candidate, network: NetworkConfig, seed: int, setting: Setting) -> str:
        return content_key(
            "score",
            FORMAT,
            candidate.content(seed),
            setting.preprocess.identity(),
            setting.test.fingerprint,
            self._training(candidate),
            network,
            seed,
            self.device.type,
            __version__,
            torch.__version__,
        )

    def _keep(self, key: str, score: Score) -> None:
        if self.cache:
            write_text(_path(key), score.model_dump_json())

    def _read(self, key: str, candidate: Candidate, test: ImageSet) -> Score | None:
        """The result kept under this key, or None; a damaged one counts as absent, and one without a curve asked for.

        A curve that was not asked for is left out, so that the same command gives the same card.
        """
        if not self.cache:
            return None
        try:
            score = Score.model_validate_json(_path(key).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, ValidationError):
            return None
        shape = [len(row) for row in score.confusion]
        if shape != [test.num_classes] * test.num_classes or sum(map(sum, score.confusion)) != len(test):
            return None
        if not self.curves:
            return score.model_copy(update={"curve_epochs": (), "curve": ()})
        return score if score.curve_epochs == curve_epochs(self._plan(candidate).num_epochs) else None


CANDIDATE_FACTS = ("name", "num_items", "paper_bytes", "num_bytes", "note", "absent")
"""Fields of a row that are those of its candidate."""


def _path(key: str) -> Path:
    return cache_directory("scores") / f"{key}.json"


@dataclass(frozen=True)
class _Trial:
    """One network to train and test on the items that `make` makes."""

    make: MakeItems
    network: NetworkConfig
    training: TrainingConfig
    seed: int


class _Trials(Sequence[_Trial]):
    """Trials whose items are chosen when an engine takes them.

    Args:
        jobs: candidate, network and seed of each.
        training: how a candidate's networks are trained.
    """

    def __init__(
        self, jobs: Sequence[tuple[Candidate, NetworkConfig, int]], training: Callable[[Candidate], TrainingConfig]
    ) -> None:
        self._jobs, self._training = jobs, training

    def __len__(self) -> int:
        return len(self._jobs)

    def __getitem__(self, place: Any) -> Any:
        candidate, network, seed = self._jobs[place]
        return _Trial(candidate.maker(seed), network, self._training(candidate), seed)


def _score(setting: Setting, trial: _Trial, progress: Progress) -> Score:
    items = trial.make(setting.device)
    return train_and_test(setting, items, trial.network, trial.training, [trial.seed], progress)[0]


def train_and_test(
    setting: Setting,
    items: TrainingItems,
    network: NetworkConfig,
    training: TrainingConfig,
    seeds: list[int],
    progress: Progress,
) -> list[Score]:
    """The scores of networks of all seeds, trained on the items in one call."""
    start = time.perf_counter()
    setting = replace(setting, preprocess=setting.preprocess.to(setting.device))
    epochs = curve_epochs(Plan.of(training, items.num_items).num_epochs) if setting.curves else ()
    watch = CurveWatch(network, setting, training)
    networks = train_networks(
        network, items, setting.test.num_classes, training, seeds, device=setting.device, progress=Within(progress),
        callback=watch if epochs else None, callback_epochs=epochs[:-1],
    )  # fmt: skip
    training_seconds = time.perf_counter() - start - watch.seconds
    results = test_networks(networks, setting.inputs_of, setting.test, precision=training.precision)
    seconds = time.perf_counter() - start - watch.seconds
    return [
        Score(
            confusion=tuple(tuple(row) for row in result.confusion.tolist()),
            seconds=seconds / len(seeds),
            training_seconds=training_seconds / len(seeds),
            curve_epochs=epochs,
            curve=tuple(watch.percents.get(seed, ())),
        )
        for seed, result in zip(seeds, results, strict=True)
    ]


def _score_facts(scores: Sequence[Score]) -> dict[str, Any]:
    """What a row says of the scores of all its seeds."""
    accuracies = tuple(score.accuracy for score in scores)
    mean, std = mean_and_std(accuracies)
    confusion = torch.tensor([score.confusion for score in scores]).sum(0)
    counts = zip(confusion.diagonal().tolist(), confusion.sum(1).tolist(), strict=True)
    epochs = scores[0].curve_epochs
    return {
        "accuracies": accuracies,
        "mean": mean,
        "std": std,
        "per_class": tuple(100 * right / count if count else None for right, count in counts),
        "confusion": tuple(tuple(row) for row in confusion.tolist()),
        "minutes": sum(score.seconds for score in scores) / 60,
        "training_minutes": sum(score.training_seconds for score in scores) / 60 / len(scores),
        "curve_epochs": epochs,
        "curves": tuple((*score.curve, score.accuracy) for score in scores) if epochs else (),
    }


def curve_epochs(num_epochs: int) -> tuple[int, ...]:
    """After how many epochs networks are tested: at most 12 evenly spaced numbers, the last of which is always E.

        e_i = ceil(i E / n),   i = 1..n,   n = min(12, E)

    Example:
        >>> curve_epochs(3), curve_epochs(30)
        ((1, 2, 3), (3, 5, 8, 10, 13, 15, 18, 20, 23, 25, 28, 30))
    """
    count = min(MOST_POINTS, num_epochs)
    return tuple(-(-number * num_epochs // count) for number in range(1, count + 1))


class CurveWatch:
    """Tests copies of networks between epochs, for looking at; their training goes on as if it were not there.

    Args:
        network: their architecture.
        setting: what they are tested on.
        training: in what precision.

    Attributes:
        percents: seed -> the accuracies of its network, in the order of its epochs.
        seconds: that testing took.
    """

    def __init__(self, network: NetworkConfig, setting: Setting, training: TrainingConfig) -> None:
        self._network, self._setting, self._precision = network, setting, training.precision
        self.percents: dict[int, list[float]] = {}
        self.seconds = 0.0

    def __call__(self, snapshot: Snapshot) -> None:
        """Test the networks as they are."""
        start, setting = time.perf_counter(), self._setting
        shape, num_classes = setting.preprocess.code_shape, setting.test.num_classes
        networks = snapshot.networks(self._network, shape, num_classes, setting.device)
        results = test_networks(networks, setting.inputs_of, setting.test, precision=self._precision)
        for seed, result in zip(snapshot.seeds, results, strict=True):
            self.percents.setdefault(seed, []).append(100 * result.accuracy)
        self.seconds += time.perf_counter() - start
