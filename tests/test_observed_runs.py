"""Whole runs with an observer on the digits: LIC, RDED, SRe2L, random images relabelled; their scores and refusals."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import attar
from attar.base.config import override
from attar.base.errors import InputError
from attar.base.progress import Silent
from attar.cli import main
from attar.evaluation.protocol import Protocol, protocol
from attar.methods.labels.regions import RegionLabels
from attar.methods.recipes import recipe
from attar.models.observers.cache import cached_observer
from attar.runs.distill import distill
from attar.sets.distilled import DistilledSet

SHARES_CACHE = True  # The observer is trained once for all tests

# An observer that is trained in a second and knows the digits well enough, and labels of a few epochs.
SMALL: dict[str, Any] = {
    "observer.network.width": 16,
    "observer.network.depth": 1,
    "observer.training.epochs": 3,
    "observer.training.min_steps": None,
    "observer.training.learning_rate": 0.1,
    "labels.epochs": 4,
}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "lic": ("lic", {"steps": 6}),
    "rded": ("rded-cifar10-convnet", {"image_size": None}),
    "rded mosaic": ("rded-imagenet100-convnet", {"image_size": None}),
    "sre2l": ("sre2l-cifar10-convnet", {"steps": 6, "image_size": None}),
    "random-regions": ("random-regions", {}),
    "key": ("random", {"initialization": "key", "observer": {}, "labels": {"kind": "regions"}}),
}


class Watch(Silent):
    """Keeps notes and tasks, and sends this process Ctrl-C in the middle of distilling."""

    def __init__(self, stop_after: int = 0) -> None:
        self.left, self.notes, self.tasks = stop_after, list[str](), list[str]()

    def start(self, description: str, total: int) -> None:
        self.tasks.append(description)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def advance(self, count: int = 1, **figures: float) -> None:
        if self.tasks[-1].startswith("distilling"):
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGINT)


def run(name: str, out: Path | None = None, changes: dict[str, Any] | None = None, **arguments: Any) -> DistilledSet:
    about, settings = RUNS[name]
    made = override(override(recipe(about), settings), {**SMALL, **(changes or {})})
    return distill("digits", made, **{"budget": "1ipc", "out": out, **arguments})


def short_protocol() -> Protocol:
    lic = protocol("lic")
    return lic.model_copy(update={"training": lic.training.model_copy(update={"epochs": 3})})


@pytest.mark.parametrize("name", RUNS)
def test_every_composition_makes_a_labelled_set(name: str) -> None:
    watch = Watch()
    made = run(name, progress=watch)
    about, _ = RUNS[name]
    tiles = 4 if name in ("lic", "rded mosaic") else 1
    assert (len(made), made.num_training_items, made.manifest.labels_kind) == (10 * tiles, 10, "regions")
    assert made.storage.label_bytes == 2 * 4 * 10 * 10
    kind = made.manifest.initialization.kind
    assert kind == {"sre2l": "noise", "random-regions": "random"}.get(name, "key")
    assert made.manifest.initialization.real_pixels_inside == (kind != "noise")
    assert len(made.manifest.initialization.indices) == (0 if kind == "noise" else 10 * tiles)
    regions = made.manifest.shards[0].regions
    assert regions is not None and regions.observer is not None and regions.labels.flip == 0
    observer = cached_observer(regions.observer.identity)
    assert observer is not None and observer.config.norm == "batch"
    items, labels = made.training_items("cpu").epoch(1, torch.Generator())
    asked = observer.logits(made.preprocess.decode(items[torch.arange(10)]))
    torch.testing.assert_close(labels, asked, atol=2e-2, rtol=2e-3)  # float16, after the network's own rounding
    assert any("not mirrored" in note for note in watch.notes)
    assert set(made.manifest.citations) <= set(recipe(about).citations)


def test_compensation_brings_features_nearer() -> None:
    losses: list[float] = []

    class Losses(Watch):
        def advance(self, count: int = 1, **figures: float) -> None:
            if "loss" in figures and self.tasks[-1].startswith("distilling"):
                losses.append(figures["loss"])

    run("lic", changes={"steps": 60, "objective.augmentation": None}, progress=Losses())
    assert losses[-1] < 0.8 * losses[0]


def test_items_stay_in_the_valid_range() -> None:
    for name in ("lic", "sre2l"):
        images = run(name, changes={"optimizer.learning_rate": 1.0, "parameterization.storage": "float32"}).images()
        assert float(images.min()) > -1e-5 and float(images.max()) < 1 + 1e-5


@pytest.mark.parametrize("name", ["lic", "sre2l"])
def test_a_stopped_run_goes_on_to_the_same_bytes(name: str, tmp_path: Path) -> None:
    unbroken, stopped = tmp_path / "a.attar.safetensors", tmp_path / "b.attar.safetensors"
    run(name, unbroken)
    with pytest.raises(KeyboardInterrupt):
        run(name, stopped, progress=Watch(stop_after=3))
    assert not stopped.exists()
    run(name, stopped)
    assert stopped.read_bytes() == unbroken.read_bytes()


def test_the_same_seed_gives_the_same_set_and_another_does_not() -> None:
    one, same, other = run("lic"), run("lic"), run("lic", seed=1)
    assert one.fingerprint == same.fingerprint != other.fingerprint


@pytest.mark.parametrize("storage", ["float16", "int8", "top-k"])
def test_label_bytes_are_the_one_knob(storage: str) -> None:
    changes = {"labels.storage": storage, "labels.epochs": 50, **({"labels.top_k": 3} if storage == "top-k" else {})}
    made = run("lic", changes=changes, label_bytes="2kB")
    assert 1500 < made.storage.label_bytes <= 2000


def test_a_budget_in_bytes_counts_labels(tmp_path: Path) -> None:
    out = tmp_path / "small.attar.safetensors"
    made = run("lic", out, budget="12kB")
    assert out.stat().st_size == made.storage.file_bytes <= 12_000
    per_class = made.num_training_items // 10
    one_more = 10 * (64 + 4 * (4 + len("1437,")) + made.storage.label_bytes // made.num_training_items)
    assert per_class >= 2 and made.storage.file_bytes + one_more > 12_000 - 4 * len(made)


def test_scores_show_what_the_labels_alone_are_worth() -> None:
    made = run("lic", changes={"steps": 3})
    rows = attar.evaluate(made, "digits", short_protocol(), networks="convnet:d1w8-batch", seeds=2).rows
    named = {row.name: row for row in rows}
    assert named["distilled"].num_items == named["initial codes"].num_items == 10
    alike = named["random images, labelled alike"]
    assert alike.absent is None and alike.num_items == 10
    assert alike.num_bytes == 10 * 64 + made.storage.label_bytes
    assert alike.paper_bytes == 4 * (10 * 64 + made.storage.label_bytes // 2)


def test_without_the_observer_rows_say_what_is_absent(empty_cache: Path) -> None:
    made = run("lic", changes={"steps": 3})
    for path in (empty_cache / "observers").glob("*.safetensors"):
        path.unlink()
    how: dict[str, Any] = {"networks": "convnet:d1w8", "seeds": 1}
    rows = attar.evaluate(made, "digits", short_protocol(), baselines=["same-labels", "initial"], **how).rows
    absent = {row.name: row.absent for row in rows if row.absent}
    assert set(absent) == {"random images, labelled alike", "initial codes"}
    assert all("not in the cache" in str(reason) for reason in absent.values())
    online = run("lic", changes={"labels.storage": "online"})
    for path in (empty_cache / "observers").glob("*.safetensors"):
        path.unlink()
    with pytest.raises(InputError, match="not in the cache"):
        attar.evaluate(online, "digits", short_protocol(), baselines=False, **how)


def test_an_online_observer_counts_as_label_storage_and_is_asked() -> None:
    made = run("lic", changes={"labels.storage": "online"})
    observer = made.manifest.shards[0].regions.observer  # type: ignore[union-attr]
    assert observer is not None and made.storage.label_bytes == observer.num_bytes > 1000
    card = attar.evaluate(made, "digits", short_protocol(), networks="convnet:d1w8", seeds=1, baselines=False)
    assert card.row("distilled").mean > 5


COMPOSITIONS: dict[str, tuple[str, dict[str, Any], str]] = {
    "no observer": ("lic", {"observer": None}, "ask an observer, and there is none"),
    "an idle observer": ("dm", {"observer": {}}, "nothing asks the observer"),
    "alignment of whole images": ("lic", {"parameterization": {"kind": "codes"}}, "set parameterization.kind=mosaic"),
    "alignment from noise": ("lic", {"initialization": "noise"}, "needs real images to start from"),
}


@pytest.mark.parametrize("case", COMPOSITIONS)
def test_compositions_that_cannot_be_are_refused(case: str) -> None:
    name, changes, message = COMPOSITIONS[case]
    with pytest.raises(InputError, match=message):
        override(recipe(name), changes)


def test_a_weak_observer_stops_the_run_before_anything_is_written(tmp_path: Path) -> None:
    out = tmp_path / "x.attar.safetensors"
    with pytest.raises(InputError, match=r"\d+\.\d %.*least_accuracy|\d+\.\d %"):
        run("lic", out, {"observer.least_accuracy": 99.99, "observer.training.epochs": 1})
    assert list(tmp_path.iterdir()) == []


def test_labels_that_do_not_fit_are_refused_before_any_work(tmp_path: Path) -> None:
    watch = Watch()
    with pytest.raises(InputError, match="the labels of one epoch take 200"):
        run("lic", tmp_path / "x.attar.safetensors", label_bytes="100B", progress=watch)
    with pytest.raises(InputError, match="top_k is 10 and there are 10 classes"):
        run("lic", tmp_path / "x.attar.safetensors", {"labels.storage": "top-k", "labels.top_k": 10}, progress=watch)
    assert list(tmp_path.iterdir()) == [] and not any("observer" in task for task in watch.tasks)


def test_digits_and_letters_are_never_mirrored() -> None:
    plain = recipe("lic").without_flip()
    assert isinstance(plain.labels, RegionLabels) and plain.labels.flip == 0
    assert "flip" not in plain.model_dump_json().replace('"flip":0.0', "").replace('"flip":0.5', "")


def test_the_command_line_has_the_knob_and_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = [f"--set={key}={'null' if value is None else value}" for key, value in SMALL.items()]
    out = tmp_path / "lic.attar.safetensors"
    words = [
        "distill",
        "digits",
        "--recipe",
        "lic",
        "--out",
        str(out),
        "--label-bytes",
        "600",
        "--set",
        "steps=2",
        "-q",
    ]
    assert main([*words, *sets]) == 2  # at 1 ipc an epoch's labels take 200 bytes, "600" has no unit
    assert "label bytes '600' is not understood" in capsys.readouterr().err
    words[words.index("600")] = "600b"
    assert main([*words, *sets]) == 0
    assert attar.load(out).storage.label_bytes == 600
    assert main(["distill", "digits", "--recipe", "dm", "--label-bytes", "1kB", "--out", str(tmp_path / "y")]) == 2
    assert "has no region labels" in capsys.readouterr().err
    observer = ["observer", "digits", "--network", "convnet:d1w16-batch", "-q"]
    training = [text.replace("observer.", "") for text in sets if "training" in text]
    assert main([*observer, *training]) == 0
    assert "of the checked training images right" in capsys.readouterr().out
    assert main(["info", str(out)]) == 0
    assert "regions: an observer's logits" in capsys.readouterr().out
