"""The outer loop: same seed, same file; stopped anywhere, same file; nothing half-written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from attar.base.errors import InputError, NonFiniteLossError
from attar.base.progress import Silent
from attar.cli import main
from attar.data.sources import load_images
from attar.runs.distill import distill
from attar.sets.distilled import DistilledSet

QUICK: dict[str, Any] = {"steps": 12, "objective.network.width": 8, "objective.real_batch_size": 16}


class StopAfter(Silent):
    """Sends this process Ctrl-C when so many steps are done."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def advance(self, count: int = 1, **figures: float) -> None:
        if "loss" in figures:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGINT)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        distill("digits", out=tmp_path / f"{name}.attar.safetensors", settings=QUICK, seed=3)
    distill("digits", out=tmp_path / "c.attar.safetensors", settings=QUICK, seed=4)
    first, second, other = ((tmp_path / f"{name}.attar.safetensors").read_bytes() for name in "abc")
    assert first == second != other


@pytest.mark.parametrize("steps", [1, 5, 11])
def test_ctrl_c_and_the_same_call_end_in_the_same_file(tmp_path: Path, steps: int) -> None:
    whole, parts = tmp_path / "whole.attar.safetensors", tmp_path / "parts.attar.safetensors"
    distill("digits", out=whole, settings=QUICK)
    with pytest.raises(KeyboardInterrupt):
        distill("digits", out=parts, settings=QUICK, progress=StopAfter(steps))
    assert not parts.exists()
    assert (tmp_path / "parts.run" / "checkpoint.safetensors").exists()
    distill("digits", out=parts, settings=QUICK)
    assert parts.read_bytes() == whole.read_bytes()
    metrics = [
        [json.loads(line) for line in (tmp_path / f"{name}.run" / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "parts")
    ]
    assert metrics[0] == metrics[1]
    assert [line["step"] for line in metrics[0]] == list(range(1, 13))
    assert not (tmp_path / "parts.run" / "checkpoint.safetensors").exists()


def test_a_killed_run_is_resumed(tmp_path: Path) -> None:
    """kill -9 in the middle, then the same command: one checkpoint interval is lost at most, the file is the same."""
    settings = ["--set", "steps=150", "--set", "objective.network.width=8"]
    command = ["distill", "digits", "--checkpoint-steps", "20", *settings, "--quiet", "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    attar = [sys.executable, "-m", "attar"]
    victim = subprocess.Popen([*attar, *command, "victim.attar.safetensors"], cwd=tmp_path, env=environment)
    checkpoint = tmp_path / "victim.run" / "checkpoint.safetensors"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline and victim.poll() is None:
        time.sleep(0.01)
    victim.kill()
    victim.wait()
    assert checkpoint.exists() and not (tmp_path / "victim.attar.safetensors").exists()
    for name in ("victim", "whole"):
        assert main([*command, str(tmp_path / f"{name}.attar.safetensors")]) == 0
    whole = (tmp_path / "whole.attar.safetensors").read_bytes()
    assert (tmp_path / "victim.attar.safetensors").read_bytes() == whole


def test_another_configuration_does_not_take_over_an_unfinished_run(tmp_path: Path) -> None:
    out = tmp_path / "x.attar.safetensors"
    with pytest.raises(KeyboardInterrupt):
        distill("digits", out=out, settings=QUICK, progress=StopAfter(2))
    with pytest.raises(InputError, match=r"unfinished run of another configuration \(seed was 0 and is now 1\)"):
        distill("digits", out=out, settings=QUICK, seed=1)
    distill("digits", out=out, settings=QUICK, seed=1, overwrite=True)
    fresh = tmp_path / "y.attar.safetensors"
    distill("digits", out=fresh, settings=QUICK, seed=1)
    assert out.read_bytes() == fresh.read_bytes()


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    out = tmp_path / "x.attar.safetensors"
    with pytest.raises(KeyboardInterrupt):
        distill("digits", out=out, settings=QUICK, progress=StopAfter(2))
    (tmp_path / "x.run" / "checkpoint.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match=r"checkpoint\.safetensors is damaged"):
        distill("digits", out=out, settings=QUICK)


def test_a_loss_that_is_not_finite_stops_with_the_state_saved(tmp_path: Path) -> None:
    out = tmp_path / "x.attar.safetensors"
    wild = {**QUICK, "optimizer.learning_rate": 1e25, "objective.network.norm": "none"}
    with pytest.raises(NonFiniteLossError, match=r"in step \d+; the state after step \d+ is saved in .*x.run"):
        distill("digits", out=out, settings=wild)
    assert not out.exists()
    assert (tmp_path / "x.run" / "checkpoint.safetensors").exists()


def test_distilling_lowers_the_loss_and_moves_every_item() -> None:
    settings = {**QUICK, "steps": 60, "objective.network.width": 32, "objective.real_batch_size": 256}
    settings |= {"optimizer.learning_rate": 1.0, "objective.augmentation": None}
    losses: list[float] = []

    class Watch(Silent):
        def advance(self, count: int = 1, **figures: float) -> None:
            losses.extend(figures.values())

    result = distill("digits", settings=settings, progress=Watch(), storage="float32")
    start = distill("digits", "random-codes", storage="float32")
    assert sum(losses[-10:]) / 10 < 0.85 * losses[0]
    assert (result.codes - start.codes).flatten(1).norm(dim=1).min() > 0


def test_budgets_in_images_items_and_bytes(tmp_path: Path) -> None:
    counts = {budget: len(distill("digits", "random-codes", budget)) for budget in ("1ipc", "3ipc", "7lpc")}
    assert counts == {"1ipc": 40, "3ipc": 120, "7lpc": 70}
    out = tmp_path / "small.attar.safetensors"
    small = distill("digits", "random-codes", "8kB", out=out)
    size = out.stat().st_size
    per_item = 16 + 4
    digits_unused = len(small)  # the estimate takes every initial index to be as long as the largest
    assert 8000 - 10 * (per_item + len("1430,")) - digits_unused < size <= 8000
    assert small.storage.file_bytes == size
    smallest = min(len(members) for members in load_images("digits").train.class_indices)
    assert len(distill("digits", "random-codes", "5MB")) == 10 * smallest
    with pytest.raises(InputError, match=r"too small for one item of each class; at least \d+ bytes"):
        distill("digits", "random-codes", "100B")


def test_an_existing_file_is_left_as_it_is(tmp_path: Path) -> None:
    out = tmp_path / "x.attar.safetensors"
    out.write_text("precious")
    with pytest.raises(InputError, match="exists and is left as it is"):
        distill("digits", "random", out=out)
    assert out.read_text() == "precious"
    distill("digits", "random", out=out, overwrite=True)
    assert isinstance(DistilledSet.load(out), DistilledSet)


def test_a_recipe_for_another_image_size_is_refused() -> None:
    with pytest.raises(InputError, match="for 256-pixel images and these are 8 x 8"):
        distill("digits", "latent-dm-256-f4-ipc1")


def test_pixel_recipe_is_dm_in_pixel_space() -> None:
    result = distill("digits", "dm", "2ipc", settings={**QUICK, "steps": 2, "objective.network.depth": 1})
    assert len(result) == 20
    assert tuple(result.codes.shape[1:]) == (1, 8, 8)


def test_initial_items_are_the_training_images_the_manifest_names() -> None:
    train = load_images("digits").train
    result = distill("digits", "random", storage="float32")
    indices = torch.tensor(result.manifest.initialization.indices)
    assert torch.equal(train.labels[indices], result.labels)
    worst = (result.images() - train.images[indices].float() / 255).abs().max()
    assert worst < 1e-5
