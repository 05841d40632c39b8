"""Training observers: to the same bytes however often it is cut off, once for all who ask, and told when it fails."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from attar.base.errors import InputError, NonFiniteLossError
from attar.base.randomness import generator
from attar.models.networks.registry import network_from_text
from attar.models.observers.cache import folder
from attar.models.observers.config import ObserverConfig, pixels_normalised
from attar.models.observers.training import observer_for
from attar.models.training.items import FixedItems
from attar.models.training.loop import train_networks
from attar.models.training.settings import TrainingConfig
from attar.models.training.snapshots import Snapshot
from observer_settings import Watcher, contents, few_digits, short

OPTIMIZERS = ("sgd", "adamw")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """The files of observers trained in one go, by optimiser."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for optimizer in OPTIMIZERS:
            patch.setenv("ATTAR_CACHE", str(tmp_path_factory.mktemp("unbroken")))
            observer_for(short(training__optimizer=optimizer), few_digits())
            found[optimizer] = contents()
    return found


KILLED = """
import os, signal, sys
sys.path.insert(0, "tests")
from attar.base.process import prepare_process
prepare_process()
import torch
torch.set_num_threads(1)
from attar.models.observers import training
from attar.models.training import snapshots
from observer_settings import few_digits, short

def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)

keep = snapshots.SnapshotFile.keep

def dying_keep(self, snapshot):
    if snapshot.epoch == 2:
        snapshots.atomic_path = die
    keep(self, snapshot)

snapshots.SnapshotFile.keep = dying_keep
training.observer_for(short(training__optimizer="adamw"), few_digits())
"""


def test_a_killed_training_loses_one_epoch_at_most_and_no_byte(unbroken: dict[str, dict[str, bytes]]) -> None:
    command = [sys.executable, "-c", KILLED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[1])
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [name.endswith(".state") for name in contents()] == [True]
    watcher = Watcher()
    observer_for(short(training__optimizer="adamw"), few_digits(), progress=watcher)
    assert contents() == unbroken["adamw"] and watcher.resumed == 3


class Died(BaseException):
    """Stands for a kill: nothing after it runs, apart from what unwinding does."""


@pytest.mark.parametrize(
    ("place", "resumed"), [("observers.training.save_observer", 12), ("training.snapshots.SnapshotFile.remove", 0)]
)
def test_an_end_just_before_the_end_costs_nothing(
    place: str, resumed: int, monkeypatch: pytest.MonkeyPatch, unbroken: dict[str, dict[str, bytes]]
) -> None:
    def die(*arguments: object) -> None:
        raise Died

    with monkeypatch.context() as patch, pytest.raises(Died):
        patch.setattr(f"attar.models.{place}", die)
        observer_for(short(), few_digits())
    assert any(name.endswith(".state") for name in contents())
    watcher = Watcher()
    observer_for(short(), few_digits(), progress=watcher)
    assert contents() == unbroken["sgd"] and watcher.resumed == resumed


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("step", [1, 8])
def test_an_interrupted_training_ends_its_epoch_and_goes_on(
    step: int, optimizer: str, unbroken: dict[str, dict[str, bytes]]
) -> None:
    config = short(training__optimizer=optimizer)
    with pytest.raises(KeyboardInterrupt):
        observer_for(config, few_digits(), progress=Watcher(step))
    watcher = Watcher()
    observer = observer_for(config, few_digits(), progress=watcher)
    assert watcher.resumed == 3 * -(-step // 3) and watcher.steps == watcher.total == 12
    assert contents() == unbroken[optimizer]
    again = Watcher()
    second = observer_for(config, few_digits(), progress=again)
    assert again.steps == 0 and second.identity == observer.identity and second.accuracy == observer.accuracy


def test_a_damaged_state_costs_that_training_and_no_byte(unbroken: dict[str, dict[str, bytes]]) -> None:
    for damage in (
        lambda data: data[:-3],
        lambda data: b"",
        lambda data: b"\xff" * 300,
        lambda data: data.replace(b'"epoch":"1"', b'"epoch":"9"'),
        lambda data: data[:-4] + b"\x00\x00\xf0\x7f",
    ):
        with pytest.raises(KeyboardInterrupt):
            observer_for(short(), few_digits(), progress=Watcher(2))
        (state,) = folder().glob("*.state")
        assert damage(state.read_bytes()) != state.read_bytes()
        state.write_bytes(damage(state.read_bytes()))
        watcher = Watcher()
        observer_for(short(), few_digits(), progress=watcher)
        assert contents() == unbroken["sgd"] and watcher.resumed == 0
        next(iter(folder().glob("*.safetensors"))).unlink()


def test_what_another_process_trains_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, unbroken: dict[str, dict[str, bytes]]
) -> None:
    ((name, data),) = unbroken["sgd"].items()
    taken = iter([False, False, True])

    def take(claims: object, number: int) -> bool:
        free = next(taken)
        if free:  # its owner finished between our look and our claim
            (folder() / name).write_bytes(data)
        return free

    monkeypatch.setattr("attar.models.observers.training.Claims.take", take)
    monkeypatch.setattr("attar.base.locks.WAIT_SECONDS", 0.001)
    watcher = Watcher()
    observer_for(short(), few_digits(), progress=watcher)
    assert watcher.steps == 0 and watcher.notes[0] == "another process trains this observer: waiting for it"


def test_different_settings_are_different_files() -> None:
    many = [short(), short(seed=1), short(normalisation="none"), short(training__epochs=5), short(network__width=5)]
    observers = [observer_for(config, few_digits()) for config in many]
    assert len(contents()) == len({observer.identity for observer in observers}) == len(many)
    observer_for(short(least_accuracy=0.5), few_digits())
    assert len(contents()) == len(many), "the threshold is no part of an observer"


def test_one_network_said_in_two_ways_is_one_observer() -> None:
    """8-pixel inputs have depth 1 anyway."""

    def of_depth(depth: int | None) -> ObserverConfig:
        return short(network={"kind": "convnet", "width": 4, "norm": "batch", "depth": depth})

    observers = [observer_for(of_depth(depth), few_digits()) for depth in (None, 1)]
    assert len(contents()) == 1 and observers[0].identity == observers[1].identity
    observer_for(of_depth(2), few_digits())
    assert len(contents()) == 2


def test_a_refused_observer_is_kept_and_costs_nothing_again() -> None:
    config = short(least_accuracy=99.0)
    with pytest.raises(InputError, match="99 % are needed"):
        observer_for(config, few_digits())
    watcher = Watcher()
    observer = observer_for(short(), few_digits(), progress=watcher)
    assert watcher.steps == 0 and watcher.notes == [
        f"observer convnet:w4-batch: {observer.accuracy:.1f} % of 80 training images right, {observer.num_bytes} bytes"
    ]


def test_a_loss_that_is_not_finite_names_the_observer() -> None:
    with pytest.raises(NonFiniteLossError, match=r"^the observer: the loss of seed"):
        observer_for(short(training__learning_rate=1e30, training__optimizer="adamw"), few_digits())


@pytest.mark.parametrize(("optimizer", "momentum"), [("sgd", 0.9), ("sgd", 0.0), ("adamw", 0.9)])
def test_snapshots_hold_running_statistics_and_both_optimisers(optimizer: Any, momentum: float) -> None:
    config, images = network_from_text("convnet:d1w4-batch"), few_digits()
    items = FixedItems(pixels_normalised("data", images).encode(images.images.float() / 255), images.labels)
    training = TrainingConfig(epochs=4, batch_size=32, optimizer=optimizer, momentum=momentum, milestones=(0.75,))
    seen: list[Snapshot] = []
    first, second = train_networks(config, items, 10, training, [1, 2], callback=seen.append)
    assert [one.epoch for one in seen] == [0, 1, 2, 3, 4] * 2
    assert [one.num_updates for one in seen[:5]] == ([0, 3, 6, 9, 3] if optimizer == "adamw" else [0] * 5)
    for snapshot in seen:
        unbroken = first if snapshot.seeds == (1,) else second
        (resumed,) = train_networks(config, items, 10, training, snapshot.seeds, start=snapshot)
        pairs = zip(unbroken.state_dict().items(), resumed.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) and a.dtype == b.dtype for (_, a), b in pairs)
    assert len({tuple(one.buffers[0].tolist()) for one in seen[:5] if one.buffers is not None}) == 5, "no aliases"


def test_snapshots_of_other_trainings_are_refused() -> None:
    items = FixedItems(torch.randn(20, 1, 8, 8, generator=generator(0)), torch.arange(20) % 2)

    def last(text: str, optimizer: Any, start: Snapshot | None = None) -> Snapshot:
        seen: list[Snapshot] = []
        training = TrainingConfig(epochs=2, optimizer=optimizer)
        train_networks(network_from_text(text), items, 2, training, [1], start=start, callback=seen.append)
        return seen[-2]

    plain, batch, adaptive = (
        last(*each) for each in (("convnet:w4", "sgd"), ("convnet:w4-batch", "sgd"), ("convnet:w4", "adamw"))
    )
    for text, optimizer, start in (
        ("convnet:w4-batch", "sgd", plain),
        ("convnet:w4", "sgd", batch),
        ("convnet:w4", "sgd", adaptive),
        ("convnet:w4", "adamw", plain),
    ):
        with pytest.raises(ValueError, match="start anew"):
            last(text, optimizer, start)
