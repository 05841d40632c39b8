"""Subtasks: how classes are split, the same file however often a run is cut off, budgets, and several parties."""

from __future__ import annotations

import functools
import itertools
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attar
from attar.base.engines import Engine, Local
from attar.base.engines.engine import Results
from attar.base.errors import InputError
from attar.base.progress import Progress, Silent
from attar.cli import main
from attar.data.image_set import ImageSet
from attar.data.sources import load_images
from attar.evaluation.evaluate import evaluate
from attar.runs import subtasks
from attar.runs.distill import distill
from attar.runs.splitting import class_means, similar_classes, split_classes
from attar.sets.distilled import DistilledSet
from attar.sets.merging import merge
from small_sets import digit_images
from test_distributions import LEARNING, TINY

SHARES_CACHE = True  # Experts are trained once for all tests

STILL: dict[str, Any] = {**TINY, "objective.parts.0.student_rate_learning_rate": 0.0}
LATENT: dict[str, Any] = {"steps": 4, "objective.network.width": 8, "objective.network.depth": 1}


class Notes(Silent):
    """Keeps what is noted, and sends Ctrl-C when so many outer steps are done."""

    def __init__(self, stop_after: int = 0) -> None:
        self.lines: list[str] = []
        self.left = stop_after

    def note(self, text: str) -> None:
        self.lines.append(text)

    def advance(self, count: int = 1, **figures: float) -> None:
        if "loss" in figures and count:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGINT)

    @property
    def parts(self) -> list[str]:
        return [line for line in self.lines if line.startswith("part ")]


class Pickling(Engine):
    """Does what an engine on other machines does: everything goes there and back by pickle, in any order."""

    def results(
        self, work: Any, jobs: Sequence[Any], shared: Any, progress: Progress, names: Sequence[str] = ()
    ) -> Results[Any]:
        for place in reversed(range(len(jobs))):
            there, what, job = pickle.loads(pickle.dumps((work, shared, jobs[place])))
            yield place, pickle.loads(pickle.dumps(there(what, job, Silent())))


def file(folder: Path, name: str = "x") -> Path:
    return folder / f"{name}.attar.safetensors"


def run(out: Path | None, **arguments: Any) -> DistilledSet:
    """Three parts, by latent-dm."""
    arguments = {"settings": LATENT, "subtasks": 3, "checkpoint_steps": 1, **arguments}
    return distill("digits", "latent-dm", arguments.pop("budget", "2lpc"), out=out, **arguments)


@functools.cache
def unbroken() -> bytes:
    """The file of a run that was never stopped."""
    return run(None).to_bytes()


@settings(max_examples=60, deadline=None)
@given(num_classes=st.integers(4, 40), data=st.data(), split=st.sampled_from(["contiguous", "random", "similarity"]))
def test_every_class_is_in_one_part_and_parts_are_even(num_classes: int, data: st.DataObject, split: Any) -> None:
    count = data.draw(st.integers(2, num_classes // 2))
    labels = torch.arange(num_classes)
    pixels = torch.randint(0, 256, (num_classes, 1, 2, 2), generator=torch.Generator().manual_seed(num_classes))
    images = ImageSet(pixels.to(torch.uint8), labels, tuple(f"c{index}" for index in range(num_classes)))
    parts = split_classes(images, count, split, seed=data.draw(st.integers(0, 3)))
    assert sorted(label for part in parts for label in part) == list(range(num_classes))
    sizes = [len(part) for part in parts]
    assert sizes == sorted(sizes, reverse=True) and max(sizes) - min(sizes) <= 1 and min(sizes) >= 2
    assert all(part == sorted(part) for part in parts)
    if split == "contiguous":
        assert [label for part in parts for label in part] == list(range(num_classes))


def test_a_random_split_follows_the_seed() -> None:
    images = digit_images()
    assert split_classes(images, 3, "random", 1) == split_classes(images, 3, "random", 1)
    assert split_classes(images, 3, "random", 1) != split_classes(images, 3, "random", 2)
    assert split_classes(images, 4, "contiguous", 1) == [[0, 1, 2], [3, 4, 5], [6, 7], [8, 9]]


def test_similar_classes_meet() -> None:
    """Six points around three places far apart; and the digits, nearly as well as the best of all 126 ways."""
    places = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]], dtype=torch.float64)
    means = places[[0, 1, 2, 2, 1, 0]] + 0.1 * torch.arange(6, dtype=torch.float64).unsqueeze(1)
    assert similar_classes(means, 3) == [[0, 5], [1, 4], [2, 3]]
    digits = digit_images()
    expected = torch.stack([digits.images[digits.labels == label].double().mean(0).flatten() for label in range(10)])
    assert torch.allclose(class_means(digits), expected / 255)

    def spread(parts: Sequence[Sequence[int]]) -> float:
        return sum(float((expected[list(part)] - expected[list(part)].mean(0)).square().sum()) for part in parts)

    ways = [[(0, *rest), sorted({*range(1, 10)} - {*rest})] for rest in itertools.combinations(range(1, 10), 4)]
    found = spread(split_classes(digits, 2, "similarity", 0))
    assert sum(found > spread(way) * (1 + 1e-9) for way in ways) <= 5
    assert found < 1.01 * min(map(spread, ways)) and spread([range(5), range(5, 10)]) > 1.1 * found


def test_no_exchange_of_two_classes_is_left_to_make() -> None:
    """Held against the sums written out."""
    means = torch.randn(11, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def spread(assigned: torch.Tensor) -> float:
        parts = [means[assigned == part] for part in assigned.unique()]
        return sum(float((part - part.mean(0)).square().sum()) for part in parts)

    found = similar_classes(means, 3)
    assigned = torch.empty(11, dtype=torch.int64)
    for place, part in enumerate(found):
        assigned[part] = place
    for one, other in itertools.combinations(range(11), 2):
        exchanged = assigned.clone()
        exchanged[[one, other]] = exchanged[[other, one]]
        assert spread(exchanged) > spread(assigned) - 1e-9


def test_parts_have_seeds_of_their_own() -> None:
    seeds = {subtasks.part_seed(seed, names) for seed in (0, 1) for names in (("a", "b"), ("c", "d"), ("ab", ""))}
    assert len(seeds) == 6 and all(0 <= seed < 2**32 for seed in seeds)
    assert subtasks.part_seed(0, ("a", "b")) == subtasks.part_seed(0, ("a", "b"))


def test_a_run_of_parts_is_one_set_of_all_classes(tmp_path: Path) -> None:
    """Codec and normalisation are those of all images; the provenance is the whole run's."""
    notes = Notes()
    whole, plain = run(file(tmp_path), progress=notes), run(None, subtasks=None)
    digits = load_images("digits").train
    about = whole.manifest
    assert whole.classes == digits.classes and whole.labels.tolist() == plain.labels.tolist()
    assert about.data == plain.manifest.data and about.seed == plain.manifest.seed == 0
    assert about.preprocess == plain.manifest.preprocess
    assert {shard.codec.identity for shard in about.shards} == {plain.manifest.shards[0].codec.identity}
    assert (about.recipe["subtasks"], about.recipe["split"]) == (3, "contiguous")
    assert set(about.citations) == {*plain.manifest.citations, "d3"}
    assert notes.parts == ["part 1: 0, 1, 2, 3 (1 of 3)", "part 2: 4, 5, 6 (2 of 3)", "part 3: 7, 8, 9 (3 of 3)"]
    parts = [DistilledSet.load(tmp_path / "x.run" / "parts" / f"part-{place}.attar.safetensors") for place in (1, 2, 3)]
    assert [part.classes for part in parts] == [digits.classes[:4], digits.classes[4:7], digits.classes[7:]]
    assert [part.manifest.seed for part in parts] == [subtasks.part_seed(0, part.classes) for part in parts]
    assert torch.equal(torch.cat([part.images() for part in parts]), whole.images())
    assert merge(parts, order=digits.classes).fingerprint == whole.fingerprint
    assert not (tmp_path / "x.run" / "checkpoint.safetensors").exists()
    assert DistilledSet.load(file(tmp_path)).to_bytes() == whole.to_bytes()


@pytest.mark.parametrize("stop_after", [2, 6, 12])
def test_ctrl_c_in_any_part_and_the_same_command_end_in_the_same_bytes(tmp_path: Path, stop_after: int) -> None:
    out, notes = file(tmp_path), Notes()
    with pytest.raises(KeyboardInterrupt):
        run(out, progress=Notes(stop_after))
    assert not out.exists() and len(list((tmp_path / "x.run" / "parts").glob("*.safetensors"))) == (stop_after - 1) // 4
    run(out, progress=notes)
    assert notes.lines.count("this part is finished already") == (stop_after - 1) // 4
    assert out.read_bytes() == unbroken()


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    out = file(tmp_path)
    code = (
        "import sys; sys.path.insert(0, 'tests'); from pathlib import Path; from test_subtasks import LATENT, run;"
        "run(Path(sys.argv[1]), settings={**LATENT, 'steps': 30})"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(out)], cwd=Path(__file__).parents[1])
    first, deadline = tmp_path / "x.run" / "parts" / "part-1.attar.safetensors", time.monotonic() + 120
    while not first.exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    child.kill()
    assert child.wait() == -signal.SIGKILL and not out.exists(), "it was killed in time"
    steps = {**LATENT, "steps": 30}
    first_bytes, written = first.read_bytes(), first.stat().st_mtime_ns
    run(out, settings=steps)
    assert first.stat().st_mtime_ns == written, "the finished part was not distilled again"
    run(file(tmp_path, "whole"), settings=steps)
    assert out.read_bytes() == file(tmp_path, "whole").read_bytes()
    assert first_bytes == (tmp_path / "whole.run" / "parts" / "part-1.attar.safetensors").read_bytes()


def test_a_damaged_part_is_distilled_again_and_another_run_is_not_mixed_in(tmp_path: Path) -> None:
    out = file(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(out, progress=Notes(6))
    part = tmp_path / "x.run" / "parts" / "part-1.attar.safetensors"
    part.write_bytes(part.read_bytes()[:-7])
    for changed in ({"split": "random"}, {"seed": 1}, {"subtasks": 2}, {"subtasks": None}):
        with pytest.raises(InputError, match="unfinished run of another configuration"):
            run(out, **changed)
    run(out)
    assert out.read_bytes() == unbroken()
    run(out, seed=1, overwrite=True)
    assert out.read_bytes() == run(None, seed=1).to_bytes() != unbroken()


def test_parts_run_anywhere_and_in_any_order(tmp_path: Path) -> None:
    """Jobs, what they share and their results are pickled; the result is that of one process."""
    assert run(None, engine=Pickling()).to_bytes() == run(None, engine=Local()).to_bytes() == unbroken()
    run(file(tmp_path), engine=Pickling())
    assert file(tmp_path).read_bytes() == unbroken()


@pytest.mark.parametrize(("recipe", "budget"), [("latent-dm", "9kB"), ("latent-dm", "20kB"), ("d3", "60kB")])
def test_a_budget_in_bytes_is_of_the_merged_file(recipe: str, budget: str) -> None:
    """Soft labels of all classes and a decoder for each part included; one more item of each class would not fit."""
    chosen = STILL if recipe == "d3" else LATENT
    limit = int(budget[:-2]) * 1000
    whole = distill("digits", recipe, budget, settings={**chosen, "steps": 1}, subtasks=3)
    assert whole.file_bytes <= limit
    item = (whole.storage.codes_bytes + whole.storage.soft_label_bytes) / len(whole) + 4
    assert whole.file_bytes + 10 * item + 200 > limit
    assert len(set(whole.num_per_class)) == 1


def test_a_budget_too_small_for_the_parts_is_refused() -> None:
    with pytest.raises(InputError, match="too small for one item of each class"):
        distill("digits", "d3", "30kB", settings=STILL, subtasks=5)
    assert distill("digits", "d3", "40kB", settings={**STILL, "steps": 1}).file_bytes <= 40_000


def test_options_without_effect_and_parts_that_cannot_be_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in (
        ({"subtasks": None, "split": "random"}, "split has no effect without subtasks"),
        ({"subtasks": None, "engine": Local()}, "engine has no effect without subtasks"),
        ({"subtasks": 1}, "subtasks are 1; give at least 2"),
        ({"subtasks": 6}, "10 classes cannot be split into 6 subtasks of at least 2 classes each; take at most 5"),
        ({"split": "alphabetical"}, "unknown split 'alphabetical'"),
    ):
        with pytest.raises(InputError, match=message):
            run(file(tmp_path), **arguments)
    with pytest.raises(InputError, match="needs one of its own"):
        distill(
            "digits",
            "random-regions",
            settings={
                "labels": {"kind": "hard"},
                "initialization": {"kind": "key"},
                "observer.weights": "x.safetensors",
            },
            subtasks=2,
        )
    assert main(["distill", "digits", "--split", "random", "--out", str(file(tmp_path))]) == 2
    assert "--subtasks" in capsys.readouterr().err
    assert main(["distill", "digits", "--subtasks", "9", "--out", str(file(tmp_path))]) == 2
    assert not list(tmp_path.iterdir())


def test_parties_that_hold_their_own_classes_send_one_file_each(tmp_path: Path) -> None:
    """Each distils with a normalisation and a codec of its own; the merged file trains a network on all classes."""
    groups, files = ("0,1,2", "3,4,5,6", "7,8,9"), []
    for place, classes in enumerate(groups):
        files.append(str(file(tmp_path, f"party{place}")))
        arguments = ["--recipe", "latent-dm", "--budget", "4lpc", "--set", "steps=30", "--seed", str(place), "-q"]
        assert main(["distill", "digits", "--classes", classes, *arguments, "--out", files[-1]]) == 0
    out = str(file(tmp_path, "all"))
    assert main(["merge", files[2], files[0], files[1], "-o", out]) == 0
    whole = attar.load(out)
    assert len({shard.codec.identity for shard in whole.manifest.shards}) == 3, "a codec for each party"
    assert whole.classes == tuple("0123456789") and whole.num_per_class == (4,) * 10
    fitted = run(None, budget="1lpc").preprocess
    assert torch.allclose(whole.preprocess.mean, fitted.mean, atol=2e-3), "of nearly the same images"  # type: ignore[arg-type]
    card = evaluate(out, "digits", "quick", networks="convnet:d1w32", seeds=[0], baselines=False)
    assert card.row("distilled").mean > 60  # type: ignore[operator]


def test_the_command_line_splits_and_merges(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(file(tmp_path))
    options = ["--recipe", "latent-dm", "--budget", "1lpc", "--set", "steps=1", "--out", out]
    assert main(["distill", "digits", *options, "--subtasks", "2", "--split", "similarity"]) == 0
    shown = capsys.readouterr()
    assert "part 2:" in shown.err and "10 items of 10 classes" in shown.out
    assert len(attar.load(out).manifest.shards) == 2


@pytest.mark.slow
def test_fewer_subtasks_are_no_worse_than_more() -> None:
    """D3's Table 5 at the size of a laptop: five priors of each digit, in one task, in two and in five.

    Over four seeds: 94.2, 93.9 and 76.5 %. Held is that five parts cost more than two, and two no less than one.
    """
    chosen = {**LEARNING, "optimizer.learning_rate": 2.0, "objective.parts.0.max_start_epoch": 2}

    def accuracy(parts: int | None) -> float:
        found = []
        for seed in (0, 1):
            whole = distill("digits", "d3", "5lpc", settings=chosen, seed=seed, subtasks=parts)
            card = evaluate(whole, "digits", "quick", networks="convnet:d1w32", seeds=2, baselines=False)
            found.append(card.row("distilled").mean)
        return sum(each for each in found if each is not None) / 2

    one, two, five = accuracy(None), accuracy(2), accuracy(5)
    assert one > two - 1.5 and two > five + 3 and five > 50
