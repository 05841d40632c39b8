"""Class-incremental learning from a distilled memory: what is remembered, of which classes, in how many bytes."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import attar
from attar.base.errors import InputError
from attar.base.randomness import generator
from attar.cli import main
from attar.data.image_set import ImageSet, Splits
from attar.evaluation import measuring
from attar.evaluation.protocol import Protocol, protocol
from attar.evaluation.rows import DISTILLED
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import fit_codec
from attar.models.observers.observer import Observer
from attar.models.observers.training import observer_for
from attar.models.training.settings import TrainingConfig
from attar.runs.updates import Updates
from attar.sets.distilled import DistilledSet
from attar.sets.streaming import DecodedItems, SampledItems
from attar.studies import distillation
from attar.studies.continual.card import ContinualCard
from attar.studies.continual.continual import class_groups, continual
from attar.studies.continual.memories import ALIKE, RANDOM, Groups, candidates, memory_bytes
from attar.studies.continual.replay import ABSENT_LOGIT, ReplayItems, Share, lifted
from small_sets import CLASSES, build, digit_images

NETWORK = "convnet:d1w8-batch"
OBSERVER = {"observer.network.width": 8, "observer.network.depth": 1, "observer.training.min_steps": 20}
TINY = {**OBSERVER, "observer.training.epochs": 1, "observer.least_accuracy": 0.0, "labels.epochs": 3, "steps": 2}


@pytest.fixture(scope="module")
def splits() -> Splits:
    """Five digits, 24 images of each to learn from and 10 to test on."""
    images = digit_images().with_classes(CLASSES[:5])
    train = torch.cat([members[:24] for members in images.class_indices])
    test = torch.cat([members[24:34] for members in images.class_indices])
    return Splits(images.select(train), images.select(test), "digits")


@pytest.fixture(scope="module")
def quick() -> Protocol:
    few = {"epochs": 8, "min_steps": None, "max_steps": 8, "learning_rate": 0.1}
    chosen = protocol("quick")
    training = TrainingConfig.model_validate({**dict(chosen.training), **few})
    return chosen.model_copy(update={"training": training})


def learn(splits: Splits, quick: Protocol, **changes: Any) -> ContinualCard:
    usual = {"steps": 2, "budget": "1ipc", "networks": NETWORK, "seeds": 2, "device": "cpu", "settings": TINY}
    return continual(splits, protocol=quick, **{**usual, **changes})


@pytest.fixture(scope="module")
def card(splits: Splits, quick: Protocol, tmp_path_factory: pytest.TempPathFactory) -> ContinualCard:
    """Two steps, unbroken, in a cache of its own."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("ATTAR_CACHE", str(tmp_path_factory.mktemp("whole")))
        return learn(splits, quick)


def results(card: ContinualCard) -> str:
    """All of a card but how long it took, and what was computed before."""
    tree = json.loads(card.to_json())
    for step in tree["steps"]:
        for row in step["rows"]:
            del row["minutes"], row["training_minutes"], row["cached"]
    return json.dumps(tree)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0, 1000.0])
def test_lifted_logits_have_the_mass_of_the_group_and_none_elsewhere(temperature: float) -> None:
    logits = 30 * torch.randn(7, 3, generator=generator(0, "logits"))
    wide = lifted(logits, 2, 9, logits=True)
    assert wide.isfinite().all()
    mass = (wide / temperature).softmax(1)
    assert torch.equal(mass[:, 2:5], (logits / temperature).softmax(1))
    assert not mass[:, :2].any() and not mass[:, 5:].any()


def test_hard_labels_and_probabilities_are_lifted() -> None:
    assert lifted(torch.tensor([0, 2, 1]), 4, 9).tolist() == [4, 6, 5]
    probabilities = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    assert lifted(probabilities, 1, 4).tolist() == [[0, 0.25, 0.75, 0], [0, 1, 0, 0]]


def test_groups_share_one_preprocess() -> None:
    images = digit_images()
    dark = fit_codec(PixelsConfig(), ImageSet(images.images // 4, images.labels, images.classes))
    own = fit_codec(PixelsConfig(), images)
    seen = images.images[:6].float() / 255
    fixed = DecodedItems(own.encode(seen), torch.tensor([0, 1, 2, 0, 1, 2]))
    drawn = SampledItems(lambda draw: dark.encode(seen), torch.tensor([0, 1, 0, 1, 0, 1]))
    items = ReplayItems([Share(fixed, own, 3), Share(drawn, dark, 2)], own)
    inputs, labels = items.epoch(0, generator(0, "items"))
    assert items.num_items == 12 and labels.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 3, 4, 3, 4]
    torch.testing.assert_close(inputs[:6], inputs[6:], atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="several kinds"):
        soft = DecodedItems(fixed.inputs, fixed.labels)
        soft.gives_logits = True  # type: ignore[attr-defined]
        ReplayItems([Share(fixed, own, 3), Share(soft, own, 3)], own)


def test_regions_of_several_groups_are_those_of_each(splits: Splits) -> None:
    sets = [labelled(splits.train.with_classes(group)) for group in ([0, 1, 2], [3, 4])]
    first, last = (each.training_items() for each in sets)
    shares = [Share(first, sets[0].preprocess, 3), Share(last, sets[1].preprocess, 2)]
    joined = ReplayItems(shares, sets[0].preprocess)
    inputs, labels = joined.epoch(4, generator(0, "items"))
    assert joined.augmented and joined.gives_logits and len(inputs) == joined.num_items == 5
    torch.testing.assert_close(labels[3:, 3:], last.logits(4))  # type: ignore[union-attr]
    assert (labels[3:, :3] == ABSENT_LOGIT).all() and (labels[:3, 3:] == ABSENT_LOGIT).all()
    mixed = inputs[torch.tensor([4, 0])]
    images = torch.stack([last.regions(4)[torch.tensor([1])][0], first.regions(4)[torch.tensor([0])][0]])  # type: ignore[union-attr]
    torch.testing.assert_close(mixed, sets[0].preprocess.encode(images))


def labelled(train: ImageSet) -> DistilledSet:
    return attar.distill(train, "lic", "1ipc", device="cpu", settings=TINY)


def test_groups_of_classes() -> None:
    assert class_groups(10, 5) == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert [len(group) for group in class_groups(11, 3)] == [4, 4, 3]
    shuffled = class_groups(10, 2, order_seed=1)
    assert shuffled == class_groups(10, 2, order_seed=1) != class_groups(10, 2, order_seed=2)
    assert sorted(label for group in shuffled for label in group) == list(range(10))


def test_a_card_of_every_step(card: ContinualCard, splits: Splits, tmp_path: Path) -> None:
    assert [step.num_classes for step in card.steps] == [3, 5]
    assert [step.num_test for step in card.steps] == [30, 50]
    assert card.steps[0].classes + card.steps[1].classes == splits.train.classes
    assert [row.name for row in card.steps[1].rows] == [DISTILLED, RANDOM, ALIKE]
    assert all(row.seeds == (0, 1) and row.absent is None for step in card.steps for row in step.rows)
    assert card.row(step=0).mean > 100 / 3
    for name in (DISTILLED, RANDOM, ALIKE):
        each = [sum(pair) / 2 for pair in zip(card.row(name, 0).accuracies, card.row(name, 1).accuracies, strict=True)]
        assert card.average(name).accuracies == pytest.approx(each)
    last = [card.row(name).mean for name in (DISTILLED, RANDOM)]
    assert card.differences[0].mean == pytest.approx(last[0] - last[1])
    assert [each.baseline for each in card.differences] == [RANDOM, ALIKE]
    assert ContinualCard.from_json(card.to_json()) == card
    assert "5 classes, %" in card.as_markdown() and "chance" not in card.as_markdown()
    assert card.plot(tmp_path / "x.png").stat().st_size > 10_000


def test_the_memory_stays_below_its_cap_and_grows(splits: Splits, quick: Protocol) -> None:
    cap = 6_000
    card = learn(splits, quick, budget=f"{cap}B", seeds=1)
    for before, after in zip(card.steps[0].rows, card.steps[1].rows, strict=True):
        assert 0 < before.num_bytes < after.num_bytes <= cap
        assert before.num_bytes <= cap * 3 // 5
    distilled, *images = card.steps[-1].rows
    assert distilled.num_bytes > 0.85 * cap
    assert all(row.num_bytes <= distilled.num_bytes for row in images)
    assert card.cap == cap


def test_random_images_take_the_bytes_of_the_sets_and_stay(splits: Splits) -> None:
    sets = [build(splits.train.with_classes(group), "pixels", count=1) for group in ([0, 1, 2], [3, 4])]
    groups = Groups(splits.train, [[0, 1, 2], [3, 4]])
    assert groups.image_bytes == 65
    (_, early), (_, late) = candidates(groups, sets[:1]), candidates(groups, sets)
    counts = [min(24, memory_bytes(each) // (each.num_classes * 65)) for each in sets]
    assert late.num_items == 3 * counts[0] + 2 * counts[1]
    assert late.num_bytes == 65 * late.num_items <= sum(map(memory_bytes, sets))
    first, whole = (each.items(7, torch.device("cpu")).epoch(0, generator(0, "x")) for each in (early, late))
    assert torch.equal(whole[0][: len(first[0])], first[0])
    assert whole[1].bincount().tolist() == [counts[0]] * 3 + [counts[1]] * 2
    again, other = (late.items(seed, torch.device("cpu")).epoch(0, generator(0, "x"))[0] for seed in (7, 8))
    assert torch.equal(whole[0], again) and not torch.equal(whole[0], other)
    real = sets[0].preprocess.encode(splits.train.images.float() / 255).flatten(1)
    places = [int((real - item).abs().sum(1).argmin()) for item in whole[0].flatten(1)]
    assert torch.equal(splits.train.labels[places], whole[1])


def test_later_classes_are_never_seen_earlier(
    card: ContinualCard, splits: Splits, quick: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    observed, trained = [], []

    def watch_observer(config: Any, train: ImageSet, *rest: Any) -> Observer:
        observed.append((train.classes, len(train)))
        return observer_for(config, train, *rest)

    def watch_training(network: Any, items: Any, num_classes: int, *rest: Any, **named: Any) -> Any:
        labels = items.epoch(0, generator(0, "look"))[1]
        top = labels.argmax(1) if labels.is_floating_point() else labels
        trained.append((num_classes, int(top.max()) + 1))
        return train_networks(network, items, num_classes, *rest, **named)

    train_networks = measuring.train_networks
    monkeypatch.setattr(importlib.import_module("attar.runs.loop"), "observer_for", watch_observer)
    monkeypatch.setattr(measuring, "train_networks", watch_training)
    # Later images could be anything: the first step is the same to the last digit.
    images, names = splits.train.images.clone(), splits.train.classes
    images[splits.train.labels >= 3] = 255 - images[splits.train.labels >= 3]
    other = learn(Splits(ImageSet(images, splits.train.labels, names), splits.test, splits.name), quick)
    assert observed == [(names[:3], 72), (names[3:], 48)]
    assert trained == [(3, 3)] * 6 + [(5, 5)] * 6
    assert other.steps[0].fingerprint == card.steps[0].fingerprint
    assert [row.accuracies for row in other.steps[0].rows] == [row.accuracies for row in card.steps[0].rows]
    assert other.steps[1].fingerprint != card.steps[1].fingerprint


def test_interrupted_and_repeated_it_is_the_same_card(
    card: ContinualCard, splits: Splits, quick: Protocol, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    seen: dict[str, list[int]] = {"updates": [], "networks": []}

    def stopping(name: str, call: Any, last: int) -> Any:
        def stop_at_last(*arguments: Any, **named: Any) -> Any:
            seen[name].append(len(seen[name]))
            if len(seen[name]) == last:
                raise KeyboardInterrupt
            return call(*arguments, **named)

        return stop_at_last

    monkeypatch.setattr(distillation, "CHECKPOINT_STEPS", 1)
    with monkeypatch.context() as patched:
        patched.setattr(measuring, "train_networks", stopping("networks", measuring.train_networks, 4))
        patched.setattr(Updates, "take", stopping("updates", Updates.take, 4))
        with pytest.raises(KeyboardInterrupt):
            learn(splits, quick)
        assert len(list((own_cache / "continual").glob("*.attar.safetensors"))) == 1
        with pytest.raises(KeyboardInterrupt):
            learn(splits, quick)
        (checkpoint,) = (own_cache / "continual").glob("*.run/checkpoint.safetensors")
        assert checkpoint.exists()
        again = learn(splits, quick)
    assert len(seen["updates"]) == 2 * 2 + 1
    assert results(again) == results(card)
    assert sum(row.cached for step in again.steps for row in step.rows) == 6

    monkeypatch.setattr(measuring, "train_networks", lambda *_, **__: pytest.fail("every network was there"))
    monkeypatch.setattr(distillation, "distill", lambda *_, **__: pytest.fail("every set was there"))
    assert results(learn(splits, quick)) == results(card)


def test_a_damaged_set_in_the_cache_is_made_anew(splits: Splits, quick: Protocol, own_cache: Path) -> None:
    whole = learn(splits, quick, recipe="herding", settings=None, seeds=1)
    assert [row.name for row in whole.steps[0].rows] == [DISTILLED, RANDOM]
    files = sorted((own_cache / "continual").glob("*.safetensors"))
    assert len(files) == 2
    kept = files[0].read_bytes()
    files[0].write_bytes(kept[:-1])
    assert results(learn(splits, quick, recipe="herding", settings=None, seeds=1)) == results(whole)
    assert files[0].read_bytes() == kept


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"steps": 3}, "5 classes cannot be learned in 3 steps of at least 2 classes each; take at most 2 steps"),
        ({"steps": 0}, "at least 1 is needed"),
        ({"budget": "2kB"}, "a memory of 2000 bytes is too small, step 1 may have 1200B of it"),
        ({"budget": "much"}, "not understood"),
        ({"seeds": [1, 1]}, "listed twice"),
        ({"settings": {"observer": {"weights": "torchvision:resnet18"}}}, "given weights"),
        ({"settings": {**TINY, "labels.storage": "online"}, "budget": "20kB"}, "bytes beside the files"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(
    changes: dict[str, Any], told: str, splits: Splits, quick: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distillation, "distill", lambda *_, **__: pytest.fail("work was begun"))
    with pytest.raises(InputError, match=told) as refused:
        learn(splits, quick, **changes)
    assert "\n" not in str(refused.value)


def test_logits_cannot_be_met_where_observers_know_some_classes(splits: Splits, quick: Protocol) -> None:
    training = TrainingConfig.model_validate({**dict(quick.training), "soft_loss": "logits"})
    with pytest.raises(InputError, match="soft_loss 'cross-entropy'"):
        learn(splits, quick.model_copy(update={"training": training}))


def test_observers_asked_while_training_count(splits: Splits, quick: Protocol) -> None:
    card = learn(splits, quick, settings={**TINY, "labels.storage": "online"}, seeds=1)
    sizes = [row.num_bytes for row in card.steps[1].rows]
    assert max(sizes) == sizes[0]
    assert "observer" in " ".join(card.notes)


def test_the_command(quick: Protocol, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plot, told, fast = tmp_path / "x.png", tmp_path / "x.json", tmp_path / "fast.json"
    fast.write_text(quick.model_dump_json())
    line = (
        "continual digits --classes 0,1,2,3 --recipe herding --steps 2 --memory-bytes 12kB --seeds 1 -q --order-seed 3"
    )
    assert (
        main([*line.split(), "--networks", NETWORK, "--protocol", str(fast), "--out", str(plot), "--json", str(told)])
        == 0
    )
    card = ContinualCard.from_json(told.read_text())
    assert card.order_seed == 3 and plot.exists()
    assert "random uint8 images" in capsys.readouterr().out
    for wrong in ("--budget 1ipc --memory-bytes 9kB", "--budget 9kB", f"--out {tmp_path / 'x.pdf'}", "--steps 6"):
        assert main(["continual", "digits", "-q", *wrong.split()]) == 2
        assert capsys.readouterr().err.count("\n") == 1
