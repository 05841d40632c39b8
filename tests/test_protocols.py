"""What protocols say, what they refuse, and learning rates that are chosen on images held out."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bench.protocol_table import protocol_table
from torch import Tensor

import attar
from attar.base.errors import InputError, NonFiniteLossError
from attar.base.randomness import generator
from attar.data.augmentation import Dsa, DsaConfig
from attar.data.image_set import ImageSet, Splits
from attar.evaluation import baselines, measuring
from attar.evaluation.compare import compare
from attar.evaluation.evaluate import evaluate
from attar.evaluation.measuring import Measurement
from attar.evaluation.protocol import LabelsKind, RateSearch, check_judges, protocol, protocol_names
from attar.evaluation.rates import held_out
from attar.methods.labels.regions import RegionLabels
from attar.models.networks.network import NORMS, NetworkConfig, num_parameters
from attar.models.networks.registry import network_from_text, network_shell
from attar.models.training.items import FixedItems, TrainingItems
from attar.models.training.loop import train_networks
from attar.models.training.settings import Plan, TrainingConfig, learning_rate_at
from attar.models.training.testing import test_network
from small_protocols import tiny
from small_regions import halves
from small_sets import build

DOCS = Path(__file__).parents[1] / "docs"
SHAPE = (3, 32, 32)
SEARCH = RateSearch(learning_rates=(1e-6, 0.05), validation_share=0.2)
SEARCHING = tiny(name="searching", seeds=1, rate_search=SEARCH, training=TrainingConfig(epochs=30, batch_size=64))


@pytest.fixture(scope="module")
def digits() -> Splits:
    return Splits(*halves(), "digits")


@pytest.fixture(scope="module")
def small(digits: Splits) -> attar.DistilledSet:
    return build(digits.train, "pca:f2c1", "float32", 4)


# What protocols say


def test_the_docs_have_the_table_of_the_files() -> None:
    text = (DOCS / "protocols.md").read_text(encoding="utf-8")
    assert text.split("<!-- table -->\n")[1].split("\n<!-- end -->")[0] == protocol_table()
    assert all(f"| `{name}` v{protocol(name).version} |" in text for name in protocol_names())


def test_the_docs_count_every_networks_parameters() -> None:
    text = (DOCS / "protocols.md").read_text(encoding="utf-8")
    told = {kind: int(number.replace(",", "")) for kind, number in re.findall(r"\| `(\w+)`.*\| ([\d,]+) \|", text)}
    counts = {kind: num_parameters(network_shell(network_from_text(kind), SHAPE, 10)) for kind in NORMS}
    assert told == counts


def test_idc_is_what_its_code_says() -> None:
    training = protocol("idc").training
    plan = Plan.of(training, num_items=640)
    rates = [learning_rate_at(training, plan, epoch * plan.steps_per_epoch) for epoch in range(plan.num_epochs)]
    assert rates[665] == 0.01 and rates[666] == pytest.approx(0.002) and rates[833] == pytest.approx(0.0004)
    assert (plan.num_epochs, training.batch_size, training.momentum, training.weight_decay) == (1000, 64, 0.9, 5e-4)
    assert training.cutmix_probability == 0.5 and not training.reset_momentum
    assert training.augmentation is not None and "cutout" not in training.augmentation.operations


def test_mixed_augmentation_mirrors_and_colours_always_and_does_one_thing_more() -> None:
    config = DsaConfig(strategy="color_crop_cutout_flip_scale_rotate", mode="mixed")
    drawn = [Dsa(config).draw(3, SHAPE, generator(seed), siamese=False).operations for seed in range(40)]
    assert {operations[:2] for operations in drawn} == {("flip", "color")}
    assert {operations[2] for operations in drawn} == {"crop", "scale", "rotate"}
    assert {operations[3:] for operations in drawn} == {("cutout",)}
    fixed = DsaConfig(strategy="flip_color", mode="mixed")
    assert Dsa(fixed).draw(3, SHAPE, generator(0), siamese=False).operations == ("flip", "color")
    with pytest.raises(ValueError, match="take 'single' or 'multiple'"):
        RegionLabels(augmentation=config)


def test_dd_ranking_searches_the_packages_rates_and_says_where_it_differs() -> None:
    chosen = protocol("dd-ranking")
    assert chosen.rate_search == RateSearch(learning_rates=(0.001, 0.005, 0.01, 0.05, 0.1), validation_share=0.1)
    training = chosen.training
    assert (training.epochs, training.batch_size, training.milestones, training.decay) == (1000, 256, (0.5,), 0.1)
    told = " ".join(chosen.deviations)
    assert "on test images, which scores higher" in told and "the last epoch counts" in told
    assert not chosen.comparable and chosen.seeds == 5


def test_rethinkdc_has_torchvisions_resnet() -> None:
    chosen = protocol("rethinkdc")
    training = chosen.training
    assert [config.name for config in chosen.networks] == ["resnet18:imagenet-batch"]
    assert (training.optimizer, training.learning_rate, training.weight_decay) == ("adamw", 1e-3, 0.01)
    assert (training.epochs, training.batch_size, training.schedule, training.temperature) == (300, 128, "cosine", 20)
    assert training.cutmix_probability == 0


@pytest.mark.parametrize("name", protocol_names())
def test_every_protocol_has_sources_deviations_and_networks_that_it_can_train(name: str) -> None:
    chosen = protocol(name)
    assert chosen.name == name and chosen.sources and chosen.deviations and chosen.description.endswith(".")
    side = max(chosen.smallest_side, 32)
    for config in chosen.networks:
        network_shell(config, (3, side, side), 10)


# What they refuse


@pytest.mark.parametrize("name", protocol_names())
@pytest.mark.parametrize("side", [8, 32, 128])
@pytest.mark.parametrize("kind", ["hard", "soft", "regions"])
def test_a_refusal_names_exactly_the_protocols_that_would_not_refuse(name: str, side: int, kind: LabelsKind) -> None:
    def refusal(asked: str) -> str | None:
        try:
            check_judges(protocol(asked), kind, (3, side, side))
        except InputError as error:
            return str(error)
        return None

    told = refusal(name)
    if told is not None:
        able = told.split("can judge it: ")[1].split(", ")
        assert able == [other for other in protocol_names() if refusal(other) is None] and "quick" in able
        assert told.startswith(f"protocol {name} v") and "\n" not in told


@pytest.mark.parametrize(
    ("name", "kind", "side", "why"),
    [
        ("dc-bench", "regions", 32, "judges sets with hard labels and this one has labels of regions"),
        ("sre2l", "hard", 32, "judges sets with soft labels or labels of regions and this one has hard labels"),
        ("rethinkdc", "hard", 32, "at least 64 pixels and these have 32 x 32"),
        ("idc", "hard", 128, "at most 64 pixels and these have 128 x 128"),
    ],
)
def test_refusals_say_why(name: str, kind: LabelsKind, side: int, why: str) -> None:
    with pytest.raises(InputError, match=why):
        check_judges(protocol(name), kind, (3, side, side))


def test_nothing_is_loaded_or_trained_before_a_refusal(
    digits: Splits, small: attar.DistilledSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: Any, **named: Any) -> Any:
        raise AssertionError("trained")

    monkeypatch.setattr(measuring, "train_networks", never)
    soft = build(digits.train, "pca:f4c4", "float32", 2, soft="float16")
    with pytest.raises(InputError, match="sets with hard labels and this one has soft labels"):
        evaluate(soft, "no such folder", "dc-bench")
    with pytest.raises(InputError, match="this one has hard labels"):
        evaluate(small, "no such folder", "rded")
    with pytest.raises(InputError, match="this one has soft labels"):
        compare([small, soft], digits, "dc-bench")
    with pytest.raises(InputError, match="vgg11 pools five times"):
        evaluate(small, "no such folder", networks="vgg11")
    with pytest.raises(InputError, match="a growing memory has no images for"):
        attar.continual(digits, "herding", protocol="dd-ranking")
    with pytest.raises(InputError, match="labels of regions"):
        attar.continual(digits, "lic", protocol="dc-bench")


def test_a_groups_members_that_cannot_see_the_images_are_named(digits: Splits, small: attar.DistilledSet) -> None:
    short = SEARCHING.model_copy(
        update={"rate_search": None, "training": TrainingConfig(epochs=1, max_steps=1, precision="float32")}
    )
    few = replace(digits, test=digits.test.select(torch.arange(10)))
    card = evaluate(small, few, short, networks="unseen", baselines=False, cache=False)
    assert [row.network.name for row in card.rows] == ["alexnet", "vit"]
    left = [note for note in card.notes if "of the group is left out" in note]
    assert [note.split()[0] for note in left] == ["vgg11", "resnet18"]


def test_means_need_no_distributions() -> None:
    check_judges(protocol("d3"), "hard", SHAPE)


def test_a_file_without_the_optional_fields_refuses_nothing(tmp_path: Path) -> None:
    plain = SEARCHING.model_copy(update={"rate_search": None})
    tree = json.loads(plain.model_dump_json())
    for field in ("labels", "smallest_side", "largest_side", "rate_search"):
        del tree[field]
    path = tmp_path / "own.json"
    path.write_text(json.dumps(tree))
    assert protocol(path) == plain
    for kind in ("hard", "soft", "regions"):
        check_judges(plain, kind, (1, 2, 2))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_learned_rate": True}, "leave one of them out|leave out one of them"),
        ({"smallest_side": 65, "largest_side": 64}, "swap them"),
        ({"rate_search": {"learning_rates": [0.1, 0.01]}}, "ascending positive"),
        ({"rate_search": {"learning_rates": [0.0, 0.01]}}, "ascending positive"),
        ({"rate_search": {"learning_rates": [0.1]}}, "learning_rates"),
        ({"rate_search": {"learning_rates": [0.1, 0.2], "validation_share": 0.9}}, "validation_share"),
        ({"labels": []}, "labels"),
        ({"labels": ["sharp"]}, "labels"),
    ],
)
def test_protocols_that_contradict_themselves_are_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "own.json"
    path.write_text(json.dumps(json.loads(SEARCHING.model_dump_json()) | changes))
    with pytest.raises(InputError, match=message) as caught:
        protocol(path)
    assert "\n" not in str(caught.value)


# Learning rates


def test_held_out_images_are_a_share_of_each_class_and_disjoint(digits: Splits) -> None:
    rest, validation = map(digits.train.select, held_out(digits.train, SEARCH))
    assert len(rest) + len(validation) == len(digits.train)
    for whole, part in zip(digits.train.class_indices, validation.class_indices, strict=True):
        assert len(part) == round(0.2 * len(whole))
    assert not _pixels(rest.images) & _pixels(validation.images)
    again = held_out(digits.train, SEARCH)
    assert digits.train.select(again[1]).fingerprint == validation.fingerprint


def test_every_row_gets_the_rate_that_a_literal_search_finds(digits: Splits, small: attar.DistilledSet) -> None:
    """All rates for the set, one after another, by hand; the others by their notes."""
    search = RateSearch(learning_rates=(1e-6, 0.002, 0.05), validation_share=0.2)
    chosen = SEARCHING.model_copy(update={"rate_search": search})
    card = evaluate(small, digits, chosen, baselines=("random",), seeds=(3,), cache=False)
    validation = digits.train.select(held_out(digits.train, search)[1])
    items = small.training_items(torch.device("cpu"))
    accuracies = {}
    for rate in search.learning_rates:
        training = chosen.training.model_copy(update={"learning_rate": rate})
        network = train_networks(card.rows[0].network, items, 10, training, [0])[0]
        accuracies[rate] = test_network(
            network, lambda images: small.preprocess.encode(images.float() / 255), validation
        ).accuracy
    best = max(accuracies, key=lambda rate: accuracies[rate])
    assert f" at {best:g}, the best rate of 1e-06, 0.002, 0.05 on {len(validation)} training images" in card.row().note
    assert [row.name for row in card.rows] == ["distilled", "random images"]
    assert all("the best rate of" in row.note for row in card.rows)
    assert any(note.startswith("learning rates: on each network every row has its own") for note in card.notes)
    alone = chosen.model_copy(
        update={"rate_search": None, "training": chosen.training.model_copy(update={"learning_rate": best})}
    )
    assert evaluate(small, digits, alone, baselines=False, seeds=(3,), cache=False).row().mean == card.row().mean


def test_neither_test_images_nor_held_out_ones_that_are_trained_on_choose_a_rate(
    digits: Splits, small: attar.DistilledSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[bool, Tensor]] = []
    tested: list[set[bytes]] = []
    usual_training, usual_testing = measuring.train_networks, measuring.test_networks

    def training(config: NetworkConfig, items: TrainingItems, *rest: Any, **named: Any) -> Any:
        trained.append((isinstance(items, FixedItems), items.epoch(0, generator(0))[0][:]))  # type: ignore[index]
        return usual_training(config, items, *rest, **named)

    def testing(networks: Any, inputs_of: Any, images: Any, **named: Any) -> Any:
        tested.append(_pixels(images.images))
        return usual_testing(networks, inputs_of, images, **named)

    monkeypatch.setattr(measuring, "train_networks", training)
    monkeypatch.setattr(measuring, "test_networks", testing)
    short = SEARCHING.model_copy(update={"training": TrainingConfig(epochs=1, batch_size=512)})
    evaluate(small, digits, short, baselines=("random", "herding", "full"), cache=False)
    validation = digits.train.select(held_out(digits.train, SEARCH)[1])
    kept, seen = _pixels(validation.images), _pixels(small.preprocess.encode(validation.images.float() / 255))
    searching = len(SEARCH.learning_rates) * 4
    assert [pixels == kept for pixels in tested] == [True] * searching + [False] * 4
    assert not any(_pixels(digits.test.images) & pixels for pixels in tested[:searching])
    real = [_pixels(inputs) for fixed, inputs in trained[2:searching] if fixed]
    assert len(real) == 6 and not any(seen & pixels for pixels in real)
    assert seen <= _pixels(trained[-1][1]), "the row of all images is scored on all of them"


@pytest.mark.parametrize(("kinds", "most"), [((), 0.2), (("initial", "plain"), 0.2), (("random",), 1.0)])
def test_no_more_images_are_copied_than_rates_are_compared_with(
    digits: Splits, small: attar.DistilledSet, monkeypatch: pytest.MonkeyPatch, kinds: tuple[str, ...], most: float
) -> None:
    copied: list[int] = []
    usual = ImageSet.select

    def select(self: ImageSet, indices: Tensor) -> ImageSet:
        copied.append(len(indices))
        return usual(self, indices)

    monkeypatch.setattr(ImageSet, "select", select)
    short = SEARCHING.model_copy(update={"training": TrainingConfig(epochs=1, batch_size=512)})
    evaluate(small, digits, short, baselines=kinds, seeds=1, cache=False)
    assert sum(copied) == pytest.approx(most * len(digits.train), abs=10)


def test_a_row_that_there_is_not_without_the_images_held_out_says_its_rate(
    digits: Splits, small: attar.DistilledSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = baselines.fitting_draws
    monkeypatch.setattr(
        baselines,
        "fitting_draws",
        lambda train, num_bytes, seeds: usual(train, 50_000, seeds) if train is digits.train else None,
    )
    short = SEARCHING.model_copy(update={"training": TrainingConfig(epochs=1, batch_size=512)})
    card = evaluate(small, digits, short, baselines=("jpeg",), seeds=1, cache=False)
    assert "at the protocol's rate, because there is no such row without" in card.rows[1].note


def test_a_rate_at_which_training_diverges_loses(
    digits: Splits, small: attar.DistilledSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = measuring.train_networks
    diverged: list[float] = []

    def training(config: NetworkConfig, items: TrainingItems, classes: int, how: TrainingConfig, *rest: Any, **named: Any) -> Any:  # fmt: skip  # noqa: E501
        if how.learning_rate > 1:
            diverged.append(how.learning_rate)
            raise NonFiniteLossError("the loss of seed 0 is nan at step 3")
        return usual(config, items, classes, how, *rest, **named)

    monkeypatch.setattr(measuring, "train_networks", training)
    wild = SEARCHING.model_copy(update={"rate_search": RateSearch(learning_rates=(0.05, 1e9))})
    card = evaluate(small, digits, wild, baselines=False, cache=False)
    assert diverged == [1e9] and " at 0.05, " in card.row().note
    with pytest.raises(NonFiniteLossError):
        evaluate(
            small, digits, wild.model_copy(update={"rate_search": RateSearch(learning_rates=(2.0, 3.0))}),
            baselines=False, cache=False,
        )  # fmt: skip


def test_each_network_has_its_own_search_and_the_cache_keeps_it(
    digits: Splits, small: attar.DistilledSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[tuple[str, int]] = []
    usual = Measurement.run

    def run(self: Measurement, candidates: Any, *rest: Any) -> Any:
        runs.append((self.networks[0].name, len(self.networks)))
        return usual(self, candidates, *rest)

    monkeypatch.setattr(Measurement, "run", run)
    arguments: dict[str, Any] = {"networks": ("convnet:d1w4", "convnet:d1w8"), "baselines": ("random",), "seeds": 2}
    short = SEARCHING.model_copy(update={"training": TrainingConfig(epochs=5, batch_size=64)})
    first = evaluate(small, digits, short, **arguments)
    assert [network for network, count in runs if count == 1] == ["convnet:d1w4"] * 5 + ["convnet:d1w8"] * 5

    def never(*arguments: Any, **named: Any) -> Any:
        raise AssertionError("trained again")

    monkeypatch.setattr(measuring, "train_networks", never)
    again = evaluate(small, digits, short, **arguments)
    assert [row.accuracies for row in again.rows] == [row.accuracies for row in first.rows]
    assert [row.note for row in again.rows] == [row.note for row in first.rows]


def test_a_class_without_an_image_to_spare_is_refused(digits: Splits, small: attar.DistilledSet) -> None:
    train = digits.train
    one = torch.cat([members[: 1 if label == 3 else None] for label, members in enumerate(train.class_indices)])
    with pytest.raises(InputError, match=r"class 'three' has 1 training images; .* take a protocol without"):
        evaluate(small, replace(digits, train=train.select(one)), SEARCHING, baselines=False, cache=False)


def _pixels(images: Tensor) -> set[bytes]:
    return {image.contiguous().numpy().tobytes() for image in images}
