"""Whole runs of D3: the same file however often they are cut off, labels, sizes, samples, scores, and every verb."""

from __future__ import annotations

import functools
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from attar.base.errors import InputError, NonFiniteLossError
from attar.base.progress import Silent
from attar.cli import main
from attar.data.sources import load_images
from attar.evaluation.evaluate import evaluate
from attar.evaluation.protocol import protocol
from attar.methods.labels import network_logits
from attar.methods.parameterizations.priors import Priors
from attar.models.networks.network import NetworkConfig
from attar.models.networks.registry import build_network
from attar.runs.distill import distill
from attar.runs.preparing import make_experts
from attar.sets.distilled import DistilledSet

SHARES_CACHE = True  # Experts are trained once for all tests

FEW: dict[str, Any] = {"count": 2, "epochs": 2}
TINY: dict[str, Any] = {
    "steps": 6,
    "parameterization.decoder.width": 8,
    "parameterization.decoder.latent_dim": 4,
    "objective.parts.0.network.width": 4,
    "objective.parts.1.network.width": 4,
    "objective.parts.0.experts": FEW,
    "objective.parts.1.experts": FEW,
    "objective.parts.0.max_start_epoch": 1,
    "objective.parts.0.student_steps": 3,
    "objective.parts.0.samples": 3,
    "objective.parts.1.real_batch_size": 4,
    "objective.parts.1.samples": 2,
}
LEARNING: dict[str, Any] = {
    "steps": 40,
    "objective.parts.0.experts": {"count": 2, "epochs": 9, "batch_size": 64, "learning_rate": 0.02, "momentum": 0.9},
    "objective.parts.1.experts": {"count": 2, "epochs": 9, "batch_size": 64, "learning_rate": 0.02, "momentum": 0.9},
    "objective.parts.0.student_steps": 5,
    "objective.parts.0.samples": 5,
}
SHORT_EXPERTS: dict[str, Any] = {**LEARNING["objective.parts.0.experts"], "epochs": 6}
SOONER: dict[str, Any] = {
    **LEARNING,
    "steps": 25,
    **{f"objective.parts.{part}.experts": SHORT_EXPERTS for part in (0, 1)},
    "objective.parts.0.max_start_epoch": 1,
}
NAMES = ("d3", "d3-fixed", "d3-alternating")


class Watch(Silent):
    """Sends this process Ctrl-C when so many outer steps are done."""

    def __init__(self, stop_after: int) -> None:
        self.left = stop_after

    def advance(self, count: int = 1, **figures: float) -> None:
        if {"trajectories.loss", "discrepancy.loss"} & figures.keys():
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGINT)


def settings_of(name: str) -> dict[str, Any]:
    one = {"objective.parts.0.samples": 1, "objective.parts.1.samples": 1}
    return {**TINY, **(one if name == "d3-fixed" else {})}


def run(out: Path | None, changes: dict[str, Any] | None = None, name: str = "d3", **arguments: Any) -> DistilledSet:
    arguments = {"budget": "2lpc", **arguments}
    return distill("digits", name, settings={**settings_of(name), **(changes or {})}, out=out, **arguments)


@functools.cache
def whole(name: str) -> bytes:
    """The file of a run that was never stopped."""
    return run(None, name=name).to_bytes()


def file(folder: Path, name: str) -> Path:
    return folder / f"{name}.attar.safetensors"


def priors_of(distilled: DistilledSet) -> Priors:
    found = distilled.parameterizations()[0]
    assert isinstance(found, Priors)
    return found


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits, distilled for a few seconds."""
    out = file(tmp_path_factory.mktemp("learned"), "d3")
    distill("digits", "d3", "10lpc", settings=SOONER, out=out)
    return out


def test_a_distilled_distribution_teaches(learned: Path) -> None:
    """Chance is 10 %; in every epoch the networks see other images."""
    quick = protocol("quick")
    short = quick.model_copy(
        update={"training": quick.training.model_copy(update={"min_steps": 150, "max_steps": 150})}
    )
    card = evaluate(learned, "digits", short, networks="convnet:d1w32", seeds=[0], baselines=["random", "initial"])
    main_row, random_row, initial_row = card.rows
    assert main_row.mean is not None and main_row.mean > 80
    assert initial_row.absent is not None and "starting point" in initial_row.absent
    made = DistilledSet.load(learned)
    values = sum(tensor.numel() for name, tensor in priors_of(made).payload().items() if name != "labels")
    assert main_row.paper_bytes == made.storage.paper_bytes == 4 * (values + 2), "mean and std of the pixels too"
    assert random_row.num_items == 10 * round(values / (10 * 64))
    assert any("every epoch has new samples of the items" in note for note in card.notes)


def test_an_epoch_of_protocol_d3_has_samples_and_means(learned: Path, tmp_path: Path) -> None:
    made = DistilledSet.load(learned)
    items, plain = made.training_items(means=True), made.training_items()
    inputs, labels = items.epoch(0, torch.Generator().manual_seed(1))
    assert isinstance(inputs, torch.Tensor) and items.num_items == 200 == len(inputs) == len(labels)
    assert torch.equal(inputs[:100], plain.epoch(0, torch.Generator().manual_seed(1))[0])
    means = made.preprocess.encode(made.images(epoch=None))
    torch.testing.assert_close(inputs[100:], means)
    torch.testing.assert_close(made.preprocess.decode(inputs[100:]), priors_of(made).mean_images(torch.arange(100)))
    assert torch.equal(labels[:100], labels[100:]) and torch.equal(labels[:100], made.soft_labels)
    assert protocol("d3").means and protocol("d3").use_learned_rate and not protocol("mtt").means
    rows = []
    for means_too in (True, False):
        short = json.loads(protocol("d3").model_dump_json()) | {"means": means_too, "use_learned_rate": False}
        short["training"] |= {"epochs": 2}
        short["networks"][0] |= {"width": 4, "depth": 1}
        (tmp_path / "short.json").write_text(json.dumps(short))
        for _ in range(2):
            rows += evaluate(learned, "digits", tmp_path / "short.json", seeds=1, baselines=False).rows
    assert [row.num_items for row in rows] == [200, 200, 100, 100]
    assert [row.cached for row in rows] == [0, 1, 0, 1], "with and without means are different scores"


def test_epochs_differ_and_repeat(learned: Path) -> None:
    made, again = DistilledSet.load(learned), DistilledSet.load(learned)
    assert made.stochastic
    first, second, means = (made.images(epoch=epoch) for epoch in (0, 1, None))
    assert torch.equal(first, again.images(epoch=0)) and torch.equal(means, again.images(epoch=None))
    for one, two in ((first, second), (first, means)):
        assert float((one - two).flatten(1).norm(dim=1).min()) > 0.01
    torch.testing.assert_close(made.images([7, 3], epoch=None), means[[7, 3]])
    batches = [list(made.loader(64, epoch, seed=2)) for epoch in (0, 0, 1)]
    images = [torch.cat([images for images, _ in each]) for each in batches]
    assert torch.equal(images[0], images[1]) and not torch.equal(images[0], images[2])
    assert batches[0][0][1].shape == (64, 10)


def test_every_verb_takes_a_distribution(learned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(learned)]) == 0
    told = capsys.readouterr().out
    assert "distributions: every epoch of training sees new samples" in told and "real images may be" in told
    assert main(["info", str(learned), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["shards"][0]["parameterization"]["kind"] == "priors"
    sheets = {}
    for name, epoch in {"means": None, "sample": "3", "again": "3", "other": "4"}.items():
        more = [] if epoch is None else ["--epoch", epoch]
        assert main(["show", str(learned), "--out", str(tmp_path / f"{name}.png"), *more]) == 0
        sheets[name] = np.asarray(Image.open(tmp_path / f"{name}.png"))
    assert np.array_equal(sheets["sample"], sheets["again"])
    assert not np.array_equal(sheets["sample"], sheets["means"])
    assert not np.array_equal(sheets["sample"], sheets["other"])
    distill("digits", "random", "1ipc", out=file(tmp_path, "items"))
    assert main(["show", str(file(tmp_path, "items")), "--out", str(tmp_path / "x.png"), "--epoch", "1"]) == 2
    assert "epoch has no effect" in capsys.readouterr().err
    assert main(["export", str(learned), "--to", "npz", "--out", str(tmp_path / "x.npz")]) == 0
    with np.load(tmp_path / "x.npz") as arrays:
        assert arrays["images"].shape == (100, 1, 8, 8) and arrays["soft_labels"].shape == (100, 10)
        assert "one sample each" in str(arrays["about"])
    assert main(["cite", str(learned)]) == 0
    assert "qin2024d3" in capsys.readouterr().out


def test_a_file_comes_back_as_it_was(learned: Path, tmp_path: Path) -> None:
    made = DistilledSet.load(learned)
    made.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == learned.read_bytes()
    assert made.storage.file_bytes == learned.stat().st_size
    assert made.manifest.initialization.kind == "noise" and not made.manifest.initialization.real_pixels_inside
    with pytest.raises(InputError, match="not codes of one shape"):
        made.codes  # noqa: B018


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_bytes_and_another_gives_others(name: str, tmp_path: Path) -> None:
    run(file(tmp_path, "a"), name=name)
    assert file(tmp_path, "a").read_bytes() == whole(name) != run(None, name=name, seed=1).to_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_ctrl_c_after_any_step_and_the_same_call_end_in_the_same_file(name: str, tmp_path: Path) -> None:
    """Both optimisers, the student's rate, whose turn it is and the norms' running statistics go on."""
    for stop in (1, 2, 5):
        out = file(tmp_path, f"stopped-{stop}")
        with pytest.raises(KeyboardInterrupt):
            run(out, name=name, progress=Watch(stop))
        assert not out.exists()
        if stop == 2:
            with safe_open(str(tmp_path / "stopped-2.run" / "checkpoint.safetensors"), framework="pt") as kept:
                names = set(kept.keys())
            assert {"item.mean", "momentum.mean", "square.decoder.last.weight", "count.decoder.last.weight"} <= names
            assert "statistics.decoder.blocks.0.norm.running_var" in names
        run(out, name=name)
        assert out.read_bytes() == whole(name), stop


def test_a_diverged_step_leaves_the_statistics_it_began_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that is not finite in step 4, once: the next call goes on as if it had never been."""
    from attar.methods.objectives.sums import Sum

    expected = whole("d3")
    kind: Any = Sum
    accumulate, calls = kind.accumulate, iter(range(100))

    def wild(*arguments: Any) -> dict[str, float]:
        figures = accumulate(*arguments)
        return {**figures, "loss": float("nan")} if next(calls) == 3 else figures

    monkeypatch.setattr(kind, "accumulate", wild)
    with pytest.raises(NonFiniteLossError, match=r"the loss is nan.*in step 4; the state after step 3 is saved in"):
        run(file(tmp_path, "x"))
    run(file(tmp_path, "x"))
    assert file(tmp_path, "x").read_bytes() == expected


def test_everything_is_learned_and_statistics_are_stored() -> None:
    before, after = (priors_of(run(None, {"steps": steps})) for steps in (1, 6))
    for (name, one), (_, two) in zip(before.named_parameters(), after.named_parameters(), strict=True):
        assert not torch.equal(one, two) or name.endswith("grow.bias"), name
    for name, value in after.statistics().items():
        assert not torch.equal(value, before.statistics()[name]), name
    slow = priors_of(run(None, {"decoder_optimizer.learning_rate": 1e-12, "decoder_optimizer.weight_decay": 0.0}))
    weights = [dict(each.decoder.named_parameters())["last.weight"] for each in (slow, before, after)]
    start = weights[0]
    assert float((weights[2] - start).norm()) > float((weights[1] - start).norm()) > 1e-4


def test_soft_labels_are_the_first_experts_of_the_final_means() -> None:
    soft, hard = run(None), run(None, {"labels": {"kind": "hard"}})
    buffer = make_experts("digits", "d3", settings=TINY)
    items = priors_of(soft)
    network = build_network(NetworkConfig(width=4), (1, 8, 8), 10)
    logits = network_logits(network, buffer.parameters(0, FEW["epochs"]), items.means(torch.arange(20)))
    assert items.soft_labels is not None and soft.soft_labels is not None
    torch.testing.assert_close(items.soft_labels.detach(), logits, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(soft.soft_labels, logits.softmax(1), atol=2e-3, rtol=2e-2)
    assert torch.equal(items.mean, priors_of(hard).mean), "items are matched with hard labels"
    assert hard.soft_labels is None and soft.manifest.labels_kind == "soft"
    assert soft.storage.soft_label_bytes == 2 * 20 * 10 and hard.storage.soft_label_bytes == 0
    assert soft.storage.paper_bytes - hard.storage.paper_bytes == 4 * 20 * 10
    assert soft.storage.codes_bytes == 2 * 4 * 20 * 4


def test_codes_may_have_labels_at_the_end_too() -> None:
    settings = {
        "steps": 2,
        "objective.network": {"width": 4, "depth": 1},
        "objective.student_steps": 2,
        "objective.expert_epochs": 1,
        "objective.max_start_epoch": 1,
        "objective.experts": FEW,
    }
    found, plain = (
        distill("digits", "latent-mtt", "2lpc", settings={**settings, "labels": labels}, storage="float32")
        for labels in ({"kind": "soft", "computed": "end"}, {"kind": "hard"})
    )
    assert found.soft_labels is not None and torch.equal(found.codes, plain.codes)


@pytest.mark.parametrize(("size", "storage"), [(20_000, "float16"), (20_500, "float32")])
def test_a_budget_in_bytes_holds_with_decoder_and_labels(size: int, storage: str, tmp_path: Path) -> None:
    out = file(tmp_path, "x")
    made = run(out, {"steps": 1}, budget=f"{size}B", storage=storage)
    width = 4 if storage == "float32" else 2
    one_more = 10 * (2 * 4 * width + 4 + 2 * 10)  # a prior, its class and its soft label, of every class
    assert size - one_more - 32 < out.stat().st_size <= size, "but for the digits of learned numbers and of shapes"
    assert len(made) > 10


def test_a_budget_without_room_for_the_decoder_is_refused() -> None:
    with pytest.raises(InputError, match=r"at least [0-9]+ bytes are needed"):
        run(None, {"steps": 1}, budget="5kB")
    assert len(run(None, {"steps": 1}, budget="3ipc")) == len(run(None, {"steps": 1}, budget="3lpc")) == 30


def test_the_plan_counts_the_decoder() -> None:
    notes: list[str] = []

    class Noting(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    run(None, {"steps": 1}, progress=Noting())
    assert any("decoding" in note for note in notes)


def test_the_experts_of_the_parts_are_trained_once(empty_cache: Path) -> None:
    run(None, {"steps": 1})
    trained = {path: path.stat().st_mtime_ns for path in empty_cache.rglob("expert-*.safetensors")}
    parts = {key.replace("objective.parts.1", "objective"): value for key, value in TINY.items() if "parts.1" in key}
    others = {key: value for key, value in TINY.items() if "objective" not in key}
    distill(load_images("digits"), "d3-mmd", "2lpc", settings={**others, **parts, "steps": 1})
    assert trained == {path: path.stat().st_mtime_ns for path in empty_cache.rglob("expert-*.safetensors")}
    assert len(trained) == 2
