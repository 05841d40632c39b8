"""Engines: order, errors, one progress for many jobs, what is packed, and how one is chosen."""

from __future__ import annotations

import pickle
import sys
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import attar
from attar.base.engines import Engine, Local, engine_named
from attar.base.engines.packing import LEAST_BYTES, pack, unpack
from attar.base.engines.ray import RayEngine
from attar.base.engines.tally import Messages, Tally
from attar.base.errors import InputError
from attar.base.progress import Progress, Silent
from attar.base.randomness import generator
from attar.cli import main
from attar.cli.options import Jobs
from attar.evaluation.candidates import Candidate
from attar.evaluation.variants import candidates
from small_jobs import opens_a_task, power, refused
from small_sets import build, digit_images

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'attar[ray]'")


class Recorded(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.bars: list[tuple[str, int]] = []
        self.steps: list[int] = []
        self.notes: list[str] = []
        self.finished = 0

    def start(self, description: str, total: int) -> None:
        self.bars.append((description, total))
        self.steps.append(0)

    def advance(self, count: int = 1, **figures: float) -> None:
        self.steps[-1] += count

    def finish(self) -> None:
        self.finished += 1

    def note(self, text: str) -> None:
        self.notes.append(text)


class Backwards(Engine):
    """The last job first."""

    def results(self, work: Any, jobs: Any, shared: Any, progress: Progress, names: Any = ()) -> Any:
        for place in reversed(range(len(jobs))):
            yield place, work(shared, jobs[place], progress)


@pytest.mark.parametrize("engine", [Local(), Backwards()])
def test_results_are_in_the_order_of_the_jobs(engine: Engine) -> None:
    assert engine.map(power, range(5), 2.0, Silent()) == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert engine.map(power, [], 2.0, Silent()) == []


def test_local_begins_no_job_after_one_that_raises() -> None:
    done: list[int] = []
    with (
        pytest.raises(InputError, match=r"^job 1 is odd; give even ones$"),
        closing(Local().results(refused, [0, 2, 1, 4], None, Silent())) as found,
    ):
        for place, _ in found:
            done.append(place)
    assert done == [0, 1]


def test_local_says_which_job_begins() -> None:
    told = Recorded()
    told.start("", 0)
    Local().map(power, range(2), 2.0, told, ["no", "one"])
    assert told.notes == ["no (1 of 2)", "one (2 of 2)"] and told.steps == [1]


def test_messages_join_steps_and_keep_the_order() -> None:
    messages = Messages()
    messages.advance(2, loss=1.0)
    messages.advance(3, loss=2.0)
    messages.note("here")
    messages.advance()
    assert [(message.kind, message.count) for message in messages.take()] == [
        ("advance", 5),
        ("note", 0),
        ("advance", 1),
    ]
    assert messages.take() == []


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 9)), max_size=30), st.sets(st.integers(0, 29)))
def test_every_step_counts_once_though_jobs_begin_anew(steps: list[tuple[int, int]], lost: set[int]) -> None:
    """A job that begins anew tells again what it had told."""
    told = Recorded()
    told.start("all", 0)
    tally = Tally(told, 3)
    known: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for number, (job, count) in enumerate(steps):
        if number in lost:
            tally.begin_anew(job)
            for before in known[job]:
                _tell(tally, job, before)
        known[job].append(count)
        _tell(tally, job, count)
    assert told.steps == [sum(count for _, count in steps)]


def _tell(tally: Tally, job: int, count: int) -> None:
    messages = Messages()
    messages.advance(count)
    tally.take(job, "", messages.take())


def test_tasks_that_jobs_open_become_one_bar_with_all_their_steps() -> None:
    told = Recorded()
    tally, reports = Tally(told, 2), [Messages(), Messages()]
    for job, messages in enumerate(reports):
        opens_a_task(None, job, messages)
    for job, messages in enumerate(reports):
        tally.take(job, f"part {job}", messages.take())
    tally.finish()
    assert told.bars == [("reading", 4), ("working", 20)]
    assert told.steps[-1] == 20 and told.finished == 1
    assert told.notes == ["part 0: job 0 works", "part 1: job 1 works"]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16, torch.bool, torch.int64])
def test_large_tensors_are_packed_without_a_copy(dtype: torch.dtype) -> None:
    values = (torch.arange(2 * LEAST_BYTES) % 2).to(dtype).view(2, -1)
    packed = pack({"large": values, "turned": values.t(), "small": values[:, :3]})
    assert len(packed.data) < 2000 and len(packed.buffers) == 2
    assert packed.buffers[0].__array_interface__["data"][0] == values.data_ptr()
    again = unpack(packed)
    assert torch.equal(again["large"], values) and torch.equal(again["turned"], values.t())
    assert torch.equal(again["small"], values[:, :3]) and again["large"].dtype == dtype
    assert again["large"].data_ptr() == values.data_ptr() and again["small"].data_ptr() != values.data_ptr()


def test_packing_keeps_arrays_modules_and_gradients() -> None:
    weights = torch.nn.Parameter(torch.ones(LEAST_BYTES))
    again = unpack(pack([np.arange(10), weights, torch.device("cuda", 3), torch.device("cpu")]))
    assert again[0].tolist() == list(range(10)) and again[1].requires_grad and torch.equal(again[1], weights)
    assert again[2:] == [torch.device("cuda"), torch.device("cpu")], "a worker has one GPU, its first"


def test_rows_can_be_trained_elsewhere() -> None:
    """Every kind of row survives the way to another process and gives the same items there."""
    images = digit_images()
    made = [build(images), build(images, soft="float16"), build(images, "pixels")]
    kinds = ("random", "herding", "initial", "random-uint8")
    rows = [row for each in made for row in candidates(each, images, kinds)]
    assert len({row.name for row in rows}) == 5
    for row in [row for row in rows if row.absent is None]:
        _same_items(row)


def _same_items(row: Candidate) -> None:
    there = pickle.loads(pickle.dumps(row.maker(1)))(torch.device("cpu")).epoch(0, generator(0, "x"))
    for ours, theirs in zip(row.items(1, torch.device("cpu")).epoch(0, generator(0, "x")), there, strict=True):
        assert torch.equal(ours, theirs)


def test_engines_by_name() -> None:
    assert isinstance(engine_named("local", address=None), Local)
    with pytest.raises(InputError, match="unknown engine 'rai'; did you mean 'ray'"):
        engine_named("rai")
    with pytest.raises(InputError, match="engine 'local' has no workers"):
        engine_named("local", workers=2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"engine": "local", "address": "auto"}, "--address has no effect without --engine ray"),
        ({"engine": "local", "workers": 2, "gpus": 0.5}, "--workers, --gpus has no effect without --engine ray"),
        ({"engine": "ray"}, "--engine ray has no effect without --subtasks"),
    ],
)
def test_an_option_without_effect_is_an_error(given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Jobs(**given).chosen(needs="--subtasks")


def test_the_command_line_refuses_an_option_without_effect(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "small.attar.safetensors"
    build(digit_images()).save(file)
    for verb in (["evaluate", str(file), "--data", "digits"], ["experts", "digits", "--recipe", "latent-mtt"]):
        assert main([*verb, "--workers", "2"]) == 2
        assert "--workers has no effect without --engine ray" in capsys.readouterr().err


@needs_ray
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "0 workers were asked for"),
        ({"cpus": 0.0}, "0.0 processors of a job"),
        ({"gpus": 1.5}, "1.5 GPUs of a job"),
        ({"gpus": -1.0}, "-1.0 GPUs of a job"),
        ({"retries": -1}, "-1 retries"),
        ({"address": "ray://head:10001"}, "a Ray client's address"),
    ],
)
def test_what_ray_cannot_do_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RayEngine(**options)


@needs_ray
def test_gpus_and_device_must_agree() -> None:
    with pytest.raises(InputError, match="give --gpus 1 or a fraction"):
        RayEngine().check_device(torch.device("cuda"))
    with pytest.raises(InputError, match=r"--gpus 0\.5 has no effect on device cpu"):
        attar.evaluate(build(digit_images()), "digits", device="cpu", engine=RayEngine(gpus=0.5))
    RayEngine(gpus=0.5).check_device(torch.device("cuda"))


def test_without_ray_the_mend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"engine 'ray' needs Ray .*; pip install 'attar\[ray\]'"):
        engine_named("ray")
