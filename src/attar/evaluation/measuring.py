"""Trains and tests the networks of every row, and keeps each result by everything it depends on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError, model_validator
from torch import Tensor

from attar.base.config import Config
from attar.base.engines.engine import Engine, Local
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
from attar.models.training.acceleration import Precision
from attar.models.training.loop import train_networks
from attar.models.training.settings import Plan, TrainingConfig, images_seen
from attar.models.training.snapshots import Snapshot
from attar.models.training.testing import test_networks

FORMAT = 2
MOST_POINTS = 12


class Score(Config):
    """The result of one trained network, as the cache keeps it.

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
        if len(self.curve) != max(0, len(self.curve_epochs) - 1) or not all(
            0 <= percent <= 100 for percent in self.curve
        ):
            raise ValueError("a curve is not one of percents after its epochs")
        return self

    @property
    def accuracy(self) -> float:
        """Percent."""
        right = sum(row[index] for index, row in enumerate(self.confusion))
        return 100 * right / sum(map(sum, self.confusion))


@dataclass(frozen=True)
class Setting:
    """The preprocessing, the test images and the device that the networks of all rows share."""

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
        works = [_RowWork(self, candidate, network, setting) for network in self.networks for candidate in candidates]
        present = [work for work in works if work.candidate.absent is None]
        self.progress.start("evaluating", sum(work.plan.num_steps for work in present) * len(self.seeds))
        try:
            for work in present:
                work.look_up()
                self.progress.advance(work.plan.num_steps * work.num_cached)
            groups = [(work, seeds) for work in present for seeds in self._groups(work.candidate, work.missing())]
            self._train(groups, setting)
        finally:
            self.progress.finish()
        return [work.row() for work in works]

    def _groups(self, candidate: Candidate, missing: Sequence[int]) -> list[list[int]]:
        """Seeds trained in one call: all on a GPU here, where they may be stacked; else singly, each kept when done."""
        together = self.engine is None and self.device.type == "cuda" and not candidate.drawn
        return [list(missing)] * bool(missing) if together else [[seed] for seed in missing]

    def _train(self, groups: Sequence[tuple[_RowWork, list[int]]], setting: Setting) -> None:
        """Train the networks whose scores the cache lacks, here or as jobs of the engine."""
        names = [work.name(seeds) for work, seeds in groups if self.engine is not None]
        engine = self.engine or Local()
        with closing(engine.results(_scores, _Trials(groups), setting, self.progress, names)) as results:
            for place, scores in results:
                work, seeds = groups[place]
                for seed, score in zip(seeds, scores, strict=True):
                    work.keep(seed, score)


class _RowWork:
    """One row in the making: a candidate on a network, and the scores of the seeds that are there."""

    def __init__(self, job: Measurement, candidate: Candidate, network: NetworkConfig, setting: Setting) -> None:
        self.job, self.candidate, self.network, self.setting = job, candidate, network, setting
        self.scores: dict[int, Score] = {}
        self.num_cached = 0

    @property
    def plan(self) -> Plan:
        """Epochs and steps, which no rate of the candidate's own changes."""
        return Plan.of(self.job.protocol.training, self.candidate.num_items)

    @property
    def training(self) -> TrainingConfig:
        """The protocol's training, at the candidate's own rate where it has one, and not augmented where it says so."""
        changes: dict[str, Any] = {}
        if self.candidate.learning_rate is not None:
            changes["learning_rate"] = self.candidate.learning_rate
        if not self.candidate.augmented:
            changes |= {"augmentation": None, "cutmix_probability": 0.0}
        return self.job.protocol.training.model_copy(update=changes)

    def name(self, seeds: Sequence[int]) -> str:
        """The name of a training, for people."""
        return f"{self.candidate.name}, {self.network.name}, seed {', '.join(map(str, seeds))}"

    def missing(self) -> list[int]:
        """Seeds without a score."""
        return [seed for seed in self.job.seeds if seed not in self.scores]

    def look_up(self) -> None:
        """Take the scores that are in the cache."""
        for seed in self.job.seeds:
            score = self._read(seed) if self.job.cache else None
            if score is not None:
                self.scores[seed] = score
        self.num_cached = len(self.scores)

    def keep(self, seed: int, score: Score) -> None:
        """Take a score that was just measured, and write it into the cache."""
        self.scores[seed] = score
        if self.job.cache:
            write_text(self._path(seed), score.model_dump_json())

    def row(self) -> Row:
        """The row of all scores."""
        candidate = self.candidate
        facts: dict[str, Any] = {}
        if candidate.absent is None:
            facts = _score_facts([self.scores[seed] for seed in self.job.seeds])
            facts |= {"seeds": self.job.seeds, "cached": self.num_cached, "num_epochs": self.plan.num_epochs}
            facts["images_seen"] = images_seen(self.training, candidate.num_items)
            if candidate.name != DISTILLED:
                del facts["confusion"]
        return Row(
            name=candidate.name, network=self.network, num_items=candidate.num_items, note=candidate.note,
            paper_bytes=candidate.paper_bytes, num_bytes=candidate.num_bytes, absent=candidate.absent, **facts,
        )  # fmt: skip

    def _path(self, seed: int) -> Path:
        data = self.candidate.content(seed), self.setting.preprocess.identity(), self.setting.test.fingerprint
        software = self.job.device.type, __version__, torch.__version__
        key = content_key("score", FORMAT, *data, self.training, self.network, seed, *software)
        return cache_directory("scores") / f"{key}.json"

    def _read(self, seed: int) -> Score | None:
        """The score in the cache, or None; a damaged one counts as absent, and one without a curve that is to have one.

        A curve that was not asked for is left out, so that the same command gives the same card.
        """
        try:
            score = Score.model_validate_json(self._path(seed).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, ValidationError):
            return None
        num_classes, shape = self.setting.test.num_classes, [len(row) for row in score.confusion]
        if shape != [num_classes] * num_classes or sum(map(sum, score.confusion)) != len(self.setting.test):
            return None
        if not self.setting.curves:
            return score.model_copy(update={"curve_epochs": (), "curve": ()})
        return score if score.curve_epochs == curve_epochs(self.plan.num_epochs) else None


@dataclass(frozen=True)
class _Trial:
    """Networks of some seeds to train and test on the items that `make` makes."""

    make: MakeItems
    network: NetworkConfig
    training: TrainingConfig
    seeds: list[int]


class _Trials(Sequence[_Trial]):
    """Trials whose items are chosen when an engine takes them."""

    def __init__(self, groups: Sequence[tuple[_RowWork, list[int]]]) -> None:
        self._groups = groups

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, place: Any) -> Any:
        work, seeds = self._groups[place]
        return _Trial(work.candidate.maker(seeds[0]), work.network, work.training, seeds)


def _scores(setting: Setting, trial: _Trial, progress: Progress) -> list[Score]:
    """The scores of a trial's networks, trained in one call."""
    setting = replace(setting, preprocess=setting.preprocess.to(setting.device))
    items, training, seeds = trial.make(setting.device), trial.training, trial.seeds
    start = time.perf_counter()
    epochs = curve_epochs(Plan.of(training, items.num_items).num_epochs) if setting.curves else ()
    watch = CurveWatch(trial.network, setting, training.precision)
    networks = train_networks(
        trial.network, items, setting.test.num_classes, training, seeds, device=setting.device,
        progress=Within(progress), callback=watch if epochs else None, callback_epochs=epochs[:-1],
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
    """The fields of a row that follow from the scores of all its seeds."""
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
    """Tests copies of networks between epochs; their training goes on as if it were not there.

    It keeps each seed's accuracies in percent, in the order of the epochs, and the seconds that testing took.
    """

    def __init__(self, network: NetworkConfig, setting: Setting, precision: Precision) -> None:
        self._network, self._setting, self._precision = network, setting, precision
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
