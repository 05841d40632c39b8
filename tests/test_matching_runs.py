"""Whole runs of gradient and trajectory matching: the same file however often they are cut off, and every refusal."""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from attar.base.errors import InputError, NonFiniteLossError
from attar.base.progress import Silent
from attar.cli import main
from attar.runs.distill import distill
from attar.sets.distilled import DistilledSet
from test_distributions import TINY

SHARES_CACHE = True  # Experts are trained once for all tests

NETWORK: dict[str, Any] = {"objective.network.width": 4, "objective.network.depth": 1}

DC: dict[str, Any] = {
    **NETWORK,
    "steps": 8,
    "optimizer.average": 0.6,
    "objective.real_batch_size": 4,
    "objective.outer_steps": 4,
    "objective.inner_steps": 2,
    "objective.train_batch_size": 16,
    "objective.momentum": 0.5,
}

MTT: dict[str, Any] = {
    **NETWORK,
    "steps": 8,
    "objective.student_steps": 3,
    "objective.student_batch_size": 16,
    "objective.expert_epochs": 1,
    "objective.max_start_epoch": 1,
    "objective.experts.count": 2,
    "objective.experts.epochs": 2,
    "objective.student_rate": 0.01,
    "objective.student_rate_learning_rate": 1e-6,
}

DATM: dict[str, Any] = {
    **MTT,
    "labels": {"kind": "soft", "learning_rate": 2.0},
    "optimizer.average": 0.6,
    "objective.student_momentum": 0.5,
    "objective.growth_steps": 5,
}

RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "dc": ("latent-dc", DC),
    "mtt": ("latent-mtt", MTT),
    "datm": ("latent-mtt", DATM),
}


KILLED = ("dc", "datm", "d3")
"""What is killed: datm resumes all that mtt does, and more; d3 a decoder, its statistics, optimisers of two kinds."""


class Watch(Silent):
    """Keeps notes and tasks, and sends this process Ctrl-C when so many outer steps are done."""

    def __init__(self, stop_after: int = 0) -> None:
        self.left, self.notes, self.tasks = stop_after, list[str](), list[str]()

    def start(self, description: str, total: int) -> None:
        self.tasks.append(description)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def advance(self, count: int = 1, **figures: float) -> None:
        if "loss" in figures and self.tasks[-1].startswith("distilling"):
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGINT)


def run(name: str, out: Path | None, changes: dict[str, Any] | None = None, **arguments: Any) -> DistilledSet:
    recipe, settings = ("d3", TINY) if name == "d3" else RUNS[name]
    arguments = {"budget": "2lpc", **arguments}
    return distill("digits", recipe, settings={**settings, **(changes or {})}, out=out, **arguments)


@functools.cache
def whole(name: str) -> bytes:
    """The file of a run that was never stopped."""
    return run(name, None).to_bytes()


def file(folder: Path, name: str) -> Path:
    return folder / f"{name}.attar.safetensors"


def stored(path: Path) -> set[str]:
    with safe_open(str(path), framework="pt") as opened:
        return set(opened.keys())


def be_killed(folder: Path, steps: int, kills: int = 2) -> list[int]:
    """Each of `KILLED` in a process that is killed at a random moment, `kills` times; how many kills were in time."""
    for name in KILLED:
        run(name, None, {"steps": 1})  # so that no child spends its time on imports and experts
    in_time = [0] * len(KILLED)
    for number, name in enumerate(KILLED):
        for turn in range(kills):
            child = os.fork()
            if not child:
                try:
                    run(name, file(folder, name), {"steps": steps}, checkpoint_steps=1)
                finally:
                    os._exit(0)
            checkpoint = folder / f"{name}.run" / "checkpoint.safetensors"
            deadline = time.monotonic() + 20
            while not turn and not checkpoint.exists() and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(random.uniform(0, 0.1))
            os.kill(child, signal.SIGKILL)
            in_time[number] += os.WIFSIGNALED(os.waitpid(child, 0)[1])
            if file(folder, name).exists():
                break
    return in_time


def test_runs_killed_at_random_moments_end_in_the_same_files(tmp_path: Path) -> None:
    """kill -9, again and again, in a step or while a checkpoint is written; then the same call."""
    steps = 30
    code = (
        "import sys; sys.path.insert(0, 'tests'); from attar.base.process import prepare_process; prepare_process(); "
        "import torch; torch.set_num_threads(1); from pathlib import Path; import test_matching_runs; "
        f"print(*test_matching_runs.be_killed(Path(sys.argv[1]), {steps}))"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert killed.returncode == 0, killed.stderr
    assert [int(count) > 0 for count in killed.stdout.split()] == [True] * len(KILLED), "each was killed in time"
    for name in KILLED:
        out, unbroken = file(tmp_path, name), file(tmp_path, f"{name}-whole")
        if not out.exists():
            run(name, out, {"steps": steps}, checkpoint_steps=1)
        run(name, unbroken, {"steps": steps})
        assert out.read_bytes() == unbroken.read_bytes(), name
        figures = [(tmp_path / f"{run_name}.run" / "metrics.jsonl").read_text() for run_name in (name, f"{name}-whole")]
        assert figures[0] == figures[1], name
        assert [json.loads(line)["step"] for line in figures[0].splitlines()] == list(range(1, steps + 1))


@pytest.mark.parametrize("name", sorted(RUNS))
def test_the_same_seed_gives_the_same_bytes_and_another_gives_others(name: str, tmp_path: Path) -> None:
    run(name, file(tmp_path, "a"))
    assert file(tmp_path, "a").read_bytes() == whole(name) != run(name, None, seed=1).to_bytes()


@pytest.mark.parametrize("name", ["dc", "datm"])
def test_ctrl_c_after_any_step_and_the_same_call_end_in_the_same_file(name: str, tmp_path: Path) -> None:
    """Within an outer loop the network and its momentum are resumed; so are averages, labels and the latest start.

    Outer loops begin with steps 1 and 5, and the latest start grows until step 5.
    """
    for stop in (1, 4, 5, 7):
        out = file(tmp_path, f"stopped-{stop}")
        with pytest.raises(KeyboardInterrupt):
            run(name, out, progress=Watch(stop))
        assert not out.exists()
        run(name, out)
        assert out.read_bytes() == whole(name), stop


def test_a_run_may_be_stopped_after_every_single_step(tmp_path: Path) -> None:
    out = file(tmp_path, "x")
    for _ in range(DC["steps"] - 1):
        with pytest.raises(KeyboardInterrupt):
            run("dc", out, progress=Watch(1))
    run("dc", out)
    assert out.read_bytes() == whole("dc")


@pytest.mark.parametrize("name", sorted(RUNS))
def test_every_item_is_learned_and_the_average_is_not_the_last_step(name: str) -> None:
    result = run(name, None, {"optimizer.average": 0.0}, storage="float32")
    averaged = run(name, None, {"optimizer.average": 0.6}, storage="float32")
    start = distill("digits", "random-codes", "2lpc", storage="float32")
    assert (result.codes - start.codes).flatten(1).norm(dim=1).min() > 0
    assert (averaged.codes - start.codes).norm() < (result.codes - start.codes).norm()
    assert not torch.equal(averaged.codes, result.codes)


def test_the_learned_rate_is_in_the_manifest(tmp_path: Path) -> None:
    learned = run("mtt", file(tmp_path, "x")).manifest.learned
    last = json.loads((tmp_path / "x.run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert learned.keys() == {"student_rate"}
    assert learned["student_rate"] not in (0.01, last["student_rate"]), "that before the last step"
    assert abs(learned["student_rate"] - last["student_rate"]) < 0.01
    assert DistilledSet.load(file(tmp_path, "x")).manifest.learned == learned
    kept = run("mtt", None, {"objective.student_rate_learning_rate": 0}).manifest.learned
    assert kept == {"student_rate": pytest.approx(0.01)}
    assert run("dc", None).manifest.learned == {}


def test_soft_labels_are_learned_and_stored(tmp_path: Path) -> None:
    run("datm", file(tmp_path, "soft"))
    result = DistilledSet.load(file(tmp_path, "soft"))
    fixed = run("datm", None, {"labels": {"kind": "soft", "learning_rate": 0}})
    assert "shards.0.soft_labels" in stored(file(tmp_path, "soft"))
    assert result.soft_labels is not None and fixed.soft_labels is not None
    torch.testing.assert_close(result.soft_labels.sum(1), torch.ones(20))
    assert (result.soft_labels - fixed.soft_labels).abs().amax(1).min() > 1e-3
    assert torch.equal(result.labels, torch.arange(10).repeat_interleave(2))
    run("mtt", file(tmp_path, "hard"))
    assert "shards.0.soft_labels" not in stored(file(tmp_path, "hard"))


def test_gradient_matching_learns_soft_labels_of_the_class() -> None:
    labels = {"kind": "soft", "initial": "class", "learning_rate": 0.1}
    result = run("dc", None, {"labels": labels}).soft_labels
    assert result is not None
    start = torch.softmax(5.0 * torch.eye(10), 1).repeat_interleave(2, 0)
    assert (result - start).abs().amax(1).min() > 0
    with pytest.raises(InputError, match=r"labels\.initial=expert needs an objective with experts"):
        run("dc", None, {"labels": {"kind": "soft"}})


@pytest.mark.parametrize(("size", "storage"), [(7000, "int8"), (8000, "float32"), (8013, "int8"), (9999, "float32")])
def test_a_budget_in_bytes_holds_with_soft_labels_and_a_learned_rate(size: int, storage: str, tmp_path: Path) -> None:
    out = file(tmp_path, "x")
    result = run("datm", out, {"steps": 1}, budget=f"{size}B", storage=storage)
    written = out.stat().st_size
    codes = 16 * (1 if storage == "int8" else 4)
    one_more = 10 * (codes + 4 + 2 * 10 + 24)  # code, class, float16 logits, and where it came from, of every class
    assert size - one_more < written <= size
    assert result.storage.file_bytes == written


def test_experts_are_trained_once_and_more_of_them_change_nothing(tmp_path: Path, empty_cache: Path) -> None:
    first, second = Watch(), Watch()
    run("mtt", file(tmp_path, "a"), progress=first)
    found = {path: path.stat().st_mtime_ns for path in empty_cache.rglob("expert-*.safetensors")}
    assert len(found) == 2
    run("mtt", file(tmp_path, "b"), progress=second, seed=1)
    assert found == {path: path.stat().st_mtime_ns for path in empty_cache.rglob("expert-*.safetensors")}
    assert [any(task.startswith("training") for task in watch.tasks) for watch in (first, second)] == [True, False]
    third = Watch()
    run("mtt", None, {"objective.experts.count": 3}, progress=third)
    assert [task for task in third.tasks if task.startswith("training")] == ["training 1 experts"]
    run("mtt", file(tmp_path, "c"))
    assert file(tmp_path, "a").read_bytes() == file(tmp_path, "c").read_bytes()


def command(verb: str, *more: str, settings: dict[str, Any] = MTT) -> list[str]:
    """A verb as typed, with `settings` that it knows."""
    sets = [argument for key, value in settings.items() for argument in ("--set", f"{key}={json.dumps(value)}")]
    return [verb, "digits", "--recipe", "latent-mtt", *sets, "--quiet", *more]


def test_the_verb_experts_makes_those_that_distill_reads(
    tmp_path: Path, empty_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command("experts")) == 0
    assert "2 experts of 2 epochs" in capsys.readouterr().out
    found = {path: path.stat().st_mtime_ns for path in empty_cache.rglob("expert-*")}
    assert main(command("distill", "--budget", "2lpc", "--out", str(file(tmp_path, "x")))) == 0
    after = {path: path.stat().st_mtime_ns for path in empty_cache.rglob("expert-*")}
    assert found == after and len(found) == 2
    run("mtt", file(tmp_path, "y"))
    assert file(tmp_path, "x").read_bytes() == file(tmp_path, "y").read_bytes()


WILD = {
    "the student's rate": ({"objective.student_rate": 1e38}, 1, "student diverged"),
    "the gradient at its end": ({"objective.student_rate": 1e6}, 1, "not finite"),
    "the items' rate": ({"optimizer.learning_rate": 1e30}, 1, "student diverged"),
    "the rate's rate": ({"objective.student_rate_learning_rate": 1e4}, 2, "the learned student rate is -"),
}


@pytest.mark.parametrize("wild", sorted(WILD))
def test_a_run_that_diverges_says_so_in_one_line(wild: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes, status, fault = WILD[wild]
    out = file(tmp_path, "x")
    assert main(command("distill", "--budget", "2lpc", "--out", str(out), settings={**MTT, **changes})) == status
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("attar: ")
    assert fault in error and "lower" in error
    assert not out.exists()
    if status == 1:
        assert f"is saved in {tmp_path / 'x.run'}" in error
        assert (tmp_path / "x.run" / "checkpoint.safetensors").exists()


@pytest.mark.parametrize("name", ["dc", "datm"])
def test_a_diverged_step_leaves_the_state_it_began_from(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss that is not finite in step 6, once: the next call goes on as if it had never been."""
    from attar.methods.objectives.gradients import Gradients
    from attar.methods.objectives.trajectories import Trajectories

    expected = whole(name)
    kind: Any = Gradients if name == "dc" else Trajectories
    accumulate, calls = kind.accumulate, iter(range(100))

    def wild(*arguments: Any) -> dict[str, float]:
        figures = accumulate(*arguments)
        return {**figures, "loss": float("nan")} if next(calls) == 5 else figures

    monkeypatch.setattr(kind, "accumulate", wild)
    out = file(tmp_path, "x")
    with pytest.raises(NonFiniteLossError, match=r"the loss is nan.*in step 6; the state after step 5 is saved in"):
        run(name, out)
    assert not out.exists()
    run(name, out)
    assert out.read_bytes() == expected
