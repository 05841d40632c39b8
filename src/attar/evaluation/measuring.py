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
from attar.evaluation.baselines import Candidate, MakeItems
from attar.evaluation.curves import CurveWatch, curve_epochs
from attar.evaluation.protocol import Protocol
from attar.evaluation.rows import Row
from attar.evaluation.scorecard import DISTILLED, exposure
from attar.evaluation.statistics import mean_and_std
from attar.models.codecs.codec import Codec
from attar.models.networks.network import NetworkConfig
from attar.models.training.items import TrainingItems
from attar.models.training.loop import train_networks
from attar.models.training.settings import Plan, TrainingConfig
from attar.models.training.testing import test_networks

FORMAT = 1


class Score(Config):
    """One trained network's result: what the cache keeps.

    Args:
        confusion: counts, [true class][predicted class].
        seconds: of training and testing.
        training_seconds: of training alone; None in what earlier versions have cached.
        curve_epochs: after how many epochs it was tested, the last being that of `confusion`; none without a curve.
        curve: percent after each of them but the last.
    """

    confusion: tuple[tuple[int, ...], ...]
    seconds: float = Field(ge=0)
    training_seconds: float | None = Field(default=None, ge=0)
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


@dataclass
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
        present = [candidate for candidate in candidates if candidate.absent is None]
        # A learned rate changes no number of steps.
        per_seed = [Plan.of(self.protocol.training, candidate.num_items).num_steps for candidate in present]
        self.progress.start("evaluating", sum(per_seed) * len(self.seeds) * len(self.networks))
        try:
            trained = {} if self.engine is None else self._trained_elsewhere(self.engine, present, preprocess, test)
            return [
                self._row(candidate, network, preprocess, test, trained)
                for network in self.networks
                for candidate in candidates
            ]
        finally:
            self.progress.finish()

    def _trained_elsewhere(
        self, engine: Engine, candidates: Sequence[Candidate], preprocess: Codec, test: ImageSet
    ) -> dict[str, Score]:
        """The scores that the cache lacks, by their keys, each network a job."""
        lacking: dict[str, tuple[Candidate, NetworkConfig, int]] = {}
        for network, candidate, seed in itertools.product(self.networks, candidates, self.seeds):
            key = self._key(candidate, network, seed, preprocess, test)
            if self._read(key, candidate, test) is None:
                lacking[key] = candidate, network, seed
        keys, scores = list(lacking), dict[str, Score]()
        trials = _Trials(list(lacking.values()), self._training)
        names = [f"{candidate.name}, {network.name}, seed {seed}" for candidate, network, seed in lacking.values()]
        setting = _Setting(preprocess, test, self.device, self.curves)
        with closing(engine.results(_score, trials, setting, self.progress, names)) as found:
            for place, score in found:
                scores[keys[place]] = score
                self._keep(keys[place], score)
        return scores

    def _row(
        self,
        candidate: Candidate,
        network: NetworkConfig,
        preprocess: Codec,
        test: ImageSet,
        trained: Mapping[str, Score],
    ) -> Row:
        row = Row.model_construct(
            name=candidate.name, network=network, num_items=candidate.num_items, note=candidate.note,
            paper_bytes=candidate.paper_bytes, num_bytes=candidate.num_bytes, absent=candidate.absent,
        )  # fmt: skip
        if candidate.absent is not None:
            return Row.model_validate(row.model_dump())
        keys = {seed: self._key(candidate, network, seed, preprocess, test) for seed in self.seeds}
        known = {seed: self._read(key, candidate, test) for seed, key in keys.items() if key not in trained}
        scores = {seed: score for seed, score in known.items() if score is not None}
        cached = len(scores)
        scores |= {seed: trained[key] for seed, key in keys.items() if key in trained}
        steps = Plan.of(self.protocol.training, candidate.num_items).num_steps
        self.progress.advance(steps * cached)
        for group in self._groups(candidate, [seed for seed in self.seeds if seed not in scores]):
            items = candidate.items(group[0], self.device)
            setting = _Setting(preprocess, test, self.device, self.curves)
            found = _scores(setting, items, network, self._training(candidate), group, self.progress)
            for seed, score in zip(group, found, strict=True):
                scores[seed] = score
                self._keep(keys[seed], score)
        row = row.model_copy(update=exposure(self.protocol.training, candidate.num_items))
        return _with_scores(row, [scores[seed] for seed in self.seeds], self.seeds, cached)

    def _groups(self, candidate: Candidate, missing: Sequence[int]) -> list[list[int]]:
        """Seeds trained in one call: all on a GPU, where they may be stacked; else singly, each kept when done."""
        together = self.device.type == "cuda" and not candidate.drawn
        return [list(missing)] * bool(missing) if together else [[seed] for seed in missing]

    def _keep(self, key: str, score: Score) -> None:
        if self.cache:
            write_text(self._path(key), score.model_dump_json())

    def _key(self, candidate: Candidate, network: NetworkConfig, seed: int, preprocess: Codec, test: ImageSet) -> str:
        return content_key(
            "score",
            FORMAT,
            candidate.content(seed),
            preprocess.identity(),
            test.fingerprint,
            self._training(candidate),
            network,
            seed,
            self.device.type,
            __version__,
            torch.__version__,
        )

    def _training(self, candidate: Candidate) -> TrainingConfig:
        """The protocol's training, at the candidate's own rate where it has one, and not augmented where it says so."""
        changes: dict[str, Any] = {}
        if candidate.learning_rate is not None:
            changes["learning_rate"] = candidate.learning_rate
        if not candidate.augmented:
            changes |= {"augmentation": None, "cutmix_probability": 0.0}
        return self.protocol.training.model_copy(update=changes)

    def _path(self, key: str) -> Path:
        return cache_directory("scores") / f"{key}.json"

    def _read(self, key: str, candidate: Candidate, test: ImageSet) -> Score | None:
        """The result kept under this key, or None; a damaged one counts as absent, and one without a curve asked for.

        A curve that was not asked for is left out, so that the same command gives the same card.
        """
        if not self.cache:
            return None
        try:
            score = Score.model_validate_json(self._path(key).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, ValidationError):
            return None
        shape = [len(row) for row in score.confusion]
        fits = shape == [test.num_classes] * test.num_classes and sum(map(sum, score.confusion)) == len(test)
        if not self.curves:
            return score.model_copy(update={"curve_epochs": (), "curve": ()}) if fits else None
        epochs = curve_epochs(Plan.of(self.protocol.training, candidate.num_items).num_epochs)
        return score if fits and score.curve_epochs == epochs else None


@dataclass(frozen=True)
class _Setting:
    """What all networks have in common.

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


@dataclass(frozen=True)
class _Trial:
    """One network to train and test.

    Args:
        make: its items.
        network: its architecture.
        training: how it is trained.
        seed: of it.
    """

    make: MakeItems
    network: NetworkConfig
    training: TrainingConfig
    seed: int


class _Trials(Sequence[_Trial]):
    """Trials whose items are chosen when they are asked for.

    Args:
        asked: candidate, network and seed of each.
        training: how a candidate's networks are trained.
    """

    def __init__(
        self,
        asked: Sequence[tuple[Candidate, NetworkConfig, int]],
        training: Callable[[Candidate], TrainingConfig],
    ) -> None:
        self._asked, self._training = asked, training

    def __len__(self) -> int:
        return len(self._asked)

    def __getitem__(self, place: Any) -> Any:
        candidate, network, seed = self._asked[place]
        return _Trial(candidate.maker(seed), network, self._training(candidate), seed)


def _score(setting: _Setting, trial: _Trial, progress: Progress) -> Score:
    items = trial.make(setting.device)
    return _scores(setting, items, trial.network, trial.training, [trial.seed], progress)[0]


def _scores(
    setting: _Setting,
    items: TrainingItems,
    network: NetworkConfig,
    training: TrainingConfig,
    seeds: list[int],
    progress: Progress,
) -> list[Score]:
    """Networks of all seeds trained on the items, and tested."""
    start = time.perf_counter()
    test, device = setting.test, setting.device
    encoder = setting.preprocess.to(device)

    def inputs_of(images: Tensor) -> Tensor:
        return encoder.encode(images.float() / 255)

    epochs = curve_epochs(Plan.of(training, items.num_items).num_epochs) if setting.curves else ()
    watch = CurveWatch(network, setting.preprocess.code_shape, inputs_of, test, training.precision, device)
    trained = train_networks(
        network, items, test.num_classes, training, seeds, device=device, progress=Within(progress),
        callback=watch if epochs else None, callback_epochs=epochs[:-1],
    )  # fmt: skip
    training_seconds = time.perf_counter() - start - watch.seconds
    results = test_networks(trained, inputs_of, test, precision=training.precision)
    seconds = time.perf_counter() - start - watch.seconds
    return [
        Score(
            confusion=tuple(tuple(row) for row in result.confusion.tolist()),
            seconds=seconds / len(seeds),
            training_seconds=training_seconds / len(seeds),
            curve_epochs=epochs,
            curve=tuple(watch.percents(seed)),
        )
        for seed, result in zip(seeds, results, strict=True)
    ]


def _with_scores(row: Row, scores: Sequence[Score], seeds: tuple[int, ...], cached: int) -> Row:
    accuracies = tuple(score.accuracy for score in scores)
    mean, std = mean_and_std(accuracies)
    total = torch.tensor([score.confusion for score in scores]).sum(0)
    detail: dict[str, Any] = {}
    counts = zip(total.diagonal().tolist(), total.sum(1).tolist(), strict=True)
    detail["per_class"] = tuple(100 * right / count if count else None for right, count in counts)
    if row.name == DISTILLED:
        detail["confusion"] = tuple(tuple(each) for each in total.tolist())
    minutes = sum(score.seconds for score in scores) / 60
    update = {"seeds": seeds, "accuracies": accuracies, "mean": mean, "std": std, "minutes": minutes, "cached": cached}
    if scores[0].curve_epochs:
        detail["curve_epochs"] = scores[0].curve_epochs
        detail["curves"] = tuple((*score.curve, score.accuracy) for score in scores)
    training = [score.training_seconds for score in scores if score.training_seconds is not None]
    if len(training) == len(scores):
        detail["training_minutes"] = sum(training) / 60 / len(scores)
    return Row.model_validate({**dict(row), **update, **detail})


def remembering(candidate: Candidate) -> Candidate:
    """The candidate with items and content made once where they are the same for every seed."""
    if candidate.drawn:
        return candidate
    makers: list[MakeItems] = []
    contents: list[str] = []

    def maker_once(seed: int) -> MakeItems:
        if not makers:
            makers.append(_Remembered(candidate.maker(seed)))
        return makers[0]

    def content_once(seed: int) -> str:
        if not contents:
            contents.append(candidate.content(seed))
        return contents[0]

    return replace(candidate, maker=maker_once, content=content_once)


class _Remembered:
    """Makes items once for each device; sent elsewhere, it makes them there.

    Args:
        make: the items.
    """

    def __init__(self, make: MakeItems) -> None:
        self._make = make
        self._items: dict[torch.device, TrainingItems] = {}

    def __call__(self, device: torch.device) -> TrainingItems:
        if device not in self._items:
            self._items[device] = self._make(device)
        return self._items[device]

    def __reduce__(self) -> tuple[type[_Remembered], tuple[MakeItems]]:
        return _Remembered, (self._make,)
