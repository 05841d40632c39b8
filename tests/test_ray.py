"""Jobs on Ray: what `Local` gives, whatever happens to workers, and nothing left running."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

import attar
from attar.base.engines import Local
from attar.base.engines.ray import RayEngine
from attar.base.errors import InputError, WorkerLostError
from attar.base.progress import Silent
from attar.cli import main
from attar.data.augmentation import DsaConfig
from attar.evaluation.scorecard import Scorecard
from attar.models.experts import training
from small_jobs import (
    always_dies,
    cache_folder,
    dies_first,
    opens_a_task,
    power,
    process,
    raises_unsendable,
    refused,
    slow_when_first,
    waits,
)
from small_sets import build
from test_engines import Recorded
from test_evaluation import TINY
from test_experts import Counter, config, contents, experts

pytest.importorskip("ray", reason="Ray is not installed: pip install 'attar[ray]'")


@pytest.fixture(scope="module")
def ray() -> Iterator[RayEngine]:
    """Two workers for all tests of this module."""
    with RayEngine(workers=2, retries=1) as engine:
        yield engine


def test_results_are_those_of_local_in_the_order_of_the_jobs(ray: RayEngine) -> None:
    assert ray.map(power, range(9), 2.0, Silent()) == Local().map(power, range(9), 2.0, Silent())
    assert ray.map(slow_when_first, range(3), None, Silent()) == [0, 1, 2]
    assert [place for place, _ in ray.results(slow_when_first, range(3), None, Silent())][-1] == 0


def test_workers_have_the_threads_and_the_cache_of_this_process(ray: RayEngine) -> None:
    large = torch.ones(1000, 1000)
    torch.set_num_threads(2)
    try:
        found = ray.map(process, range(6), large, Silent())
    finally:
        torch.set_num_threads(1)
    assert {threads for _, threads, _ in found} == {2} and {total for *_, total in found} == {1e6}
    assert len({each for each, *_ in found}) == 2 and os.getpid() not in {each for each, *_ in found}
    assert ray.map(cache_folder, [0], None, Silent()) == [os.environ["ATTAR_CACHE"]]


def test_steps_of_all_jobs_are_summed_and_notes_bear_their_names(ray: RayEngine) -> None:
    told = Recorded()
    told.start("all", 10)
    ray.map(power, range(5), 2.0, told, [f"power {job}" for job in range(5)])
    assert told.steps == [10] and "power 3 (4 of 5)" in told.notes
    own = Recorded()
    ray.map(opens_a_task, range(2), None, own, ["left", "right"])
    assert own.bars == [("reading", 4), ("working", 20)] and own.steps[-1] == 20 and own.finished == 1
    assert {"left: job 0 works", "right: job 1 works"} < set(own.notes)


def test_the_first_failure_in_the_jobs_order_arrives_as_it_was_raised(ray: RayEngine) -> None:
    done: list[int] = []
    with pytest.raises(InputError, match=r"^job 1 is odd; give even ones$") as caught:
        for place, _ in ray.results(refused, [0, 1, 3, 2, 2, 2], None, Silent()):
            done.append(place)
    assert 0 in done and 5 not in done and "in refused" in str(caught.value.__cause__)
    with pytest.raises(RuntimeError, match="Unsendable: cannot travel"):
        ray.map(raises_unsendable, [0], None, Silent())


def test_a_job_whose_worker_is_killed_begins_anew_and_counts_once(ray: RayEngine, tmp_path: Path) -> None:
    told = Recorded()
    told.start("all", 15)
    found = ray.map(dies_first, range(3), str(tmp_path), told, ["a", "b", "c"])
    assert (tmp_path / "died").exists(), "the first attempt was killed"
    assert found == Local().map(dies_first, range(3), str(tmp_path), Silent())
    assert told.steps == [15]
    assert [note for note in told.notes if note.startswith("b: its worker died")]


def test_a_job_that_always_loses_its_worker_is_given_up(ray: RayEngine) -> None:
    with pytest.raises(WorkerLostError, match="job 1: its worker died 2 times"):
        ray.map(always_dies, [0], None, Silent())


def test_ctrl_c_leaves_no_job_running(ray: RayEngine, tmp_path: Path) -> None:
    def interrupt() -> None:
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        ray.map(waits, range(4), str(tmp_path), Silent())
    began = [int(path.name) for path in tmp_path.iterdir()]
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{each}").exists() for each in began) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(began) == 2 and not [each for each in began if Path(f"/proc/{each}").exists()]
    assert ray.map(power, [3], 2.0, Silent()) == [8.0], "and the engine goes on"


def test_experts_are_the_same_files(ray: RayEngine) -> None:
    counted = Counter()
    here = contents(experts(config(DsaConfig(strategy="color_crop"))))
    elsewhere = experts(config(DsaConfig(strategy="color_crop")), engine=ray)
    assert contents(elsewhere) == here
    for path in elsewhere.folder.glob("expert-*"):
        path.unlink()
    with pytest.raises(KeyboardInterrupt):
        experts(config(DsaConfig(strategy="color_crop")), progress=Counter(5))
    assert list(elsewhere.folder.glob("*.state")), "an expert had begun here"
    again = experts(config(DsaConfig(strategy="color_crop")), engine=ray, progress=counted)
    assert contents(again) == here and counted.steps == counted.total
    assert [note for note in counted.notes if note.startswith("expert 1: loss ")]


def test_groups_of_experts_are_the_same_files(ray: RayEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_group_size", lambda *arguments: 2)
    settings = config(count=3, storage="bfloat16", momentum=0.0)
    buffer = experts(settings, "pca:f4c4")
    here = contents(buffer)
    for path in buffer.folder.glob("expert-*"):
        path.unlink()
    assert contents(experts(settings, "pca:f4c4", engine=ray)) == here and buffer.num_experts == 3


def short(**arguments: Any) -> Scorecard:
    made = build(attar.load_images("digits").train)
    rows = {"networks": ["convnet:d1w4", "convnet:d1w8"], "baselines": ["random", "initial"]}
    return attar.evaluate(made, "digits", TINY, device="cpu", **rows, **arguments)


def test_scores_are_the_same_and_are_kept(ray: RayEngine) -> None:
    told = Recorded()
    here, elsewhere = short(seeds=1, cache=False), short(seeds=1, engine=ray, progress=told)
    assert [row.name for row in elsewhere.rows] == [row.name for row in here.rows]
    assert [row.accuracies for row in elsewhere.rows] == [row.accuracies for row in here.rows]
    assert [row.confusion for row in elsewhere.rows] == [row.confusion for row in here.rows]
    assert told.steps == [total for _, total in told.bars] and not any(row.cached for row in elsewhere.rows)
    kept = short(seeds=2, engine=ray)
    assert {row.cached for row in kept.rows if row.absent is None} == {1}
    assert [row.accuracies[:1] for row in kept.rows] == [row.accuracies for row in here.rows]


def test_the_command_line_runs_on_ray(ray: RayEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, card = tmp_path / "small.attar.safetensors", tmp_path / "card.json"
    build(attar.load_images("digits").train).save(file)
    protocol_file = tmp_path / "tiny.json"
    protocol_file.write_text(TINY.model_dump_json())
    command = ["evaluate", str(file), "--data", "digits", "--protocol", str(protocol_file), "--seeds", "1"]
    command += ["--networks", "convnet:d1w4", "--no-baselines", "--device", "cpu"]
    assert main([*command, "--engine", "ray", "--workers", "1", "--json", str(card)]) == 0, capsys.readouterr().err
    assert '"distilled"' in card.read_text()


def test_more_than_the_cluster_has_is_refused() -> None:
    with pytest.raises(InputError, match="a job needs 64 CPUs and 0 GPUs of one node"):
        RayEngine(cpus=64).map(power, [1], 2.0, Silent())


def four_parts(out: Path, **arguments: Any) -> bytes:
    settings = {"steps": 40, "objective.network.width": 8, "objective.network.depth": 1}
    attar.distill(
        "digits", "latent-dm", "2lpc", out=out, subtasks=4, settings=settings, checkpoint_steps=1, **arguments
    )
    return out.read_bytes()


@pytest.fixture(scope="module")
def local_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("local")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTAR_CACHE", str(folder / "cache"))
        return four_parts(folder / "local.attar.safetensors")


def test_four_subtasks_give_the_file_of_the_local_engine(ray: RayEngine, local_file: bytes, tmp_path: Path) -> None:
    told = Recorded()
    assert four_parts(tmp_path / "ray.attar.safetensors", engine=ray, progress=told) == local_file
    assert len([note for note in told.notes if note.startswith("part ")]) >= 4


def test_subtasks_survive_the_loss_of_a_worker(ray: RayEngine, local_file: bytes, tmp_path: Path) -> None:
    """It is killed once a part has saved a step, which its next worker goes on from."""
    killed: list[int] = []

    def kill() -> None:
        parts = tmp_path / "ray.run" / "parts"
        while not list(parts.glob("*.run/checkpoint.safetensors")):
            time.sleep(0.002)
        killed.extend(workers_at_work()[:1])
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    told = Recorded()
    found = four_parts(tmp_path / "ray.attar.safetensors", engine=ray, progress=told)
    thread.join(timeout=5)
    assert killed and not Path(f"/proc/{killed[0]}").exists()
    assert [note for note in told.notes if "its worker died" in note]
    assert found == local_file


def workers_at_work() -> list[int]:
    """Processes that call themselves after the job they have."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (place / "cmdline").read_bytes().startswith(b"ray::attar_job"):
                found.append(int(place.name))
    return found
