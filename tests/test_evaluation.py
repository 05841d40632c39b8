"""Protocols, baselines at equal bytes, paired comparisons, the cache of scores, and what is refused."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from attar.base.errors import InputError
from attar.base.files import cache_directory
from attar.base.progress import Silent
from attar.base.randomness import generator
from attar.data.image_set import ImageSet, Splits
from attar.data.mirroring import mirroring_harms
from attar.data.sources import load_images
from attar.evaluation import measuring
from attar.evaluation.baselines import choose, images_at_file_bytes, images_at_paper_bytes
from attar.evaluation.compare import Comparison, compare
from attar.evaluation.evaluate import evaluate
from attar.evaluation.protocol import protocol, protocol_names
from attar.evaluation.rows import Row
from attar.evaluation.scorecard import Difference, Scorecard
from attar.evaluation.statistics import mean_and_std, paired_interval, student_t
from attar.methods.parameterizations.codes import Codes
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import codec_from_text, fit_codec
from attar.models.networks.network import NetworkConfig
from attar.models.training.settings import Plan, TrainingConfig
from attar.sets.distilled import DistilledSet
from small_protocols import tiny

NETWORK = "convnet:d1w8"
TINY = tiny(40)


@pytest.fixture(scope="module")
def digits() -> Splits:
    return load_images("digits")


def distilled_from(
    splits: Splits, num_per_class: int = 4, codec: str = "pca:f2c1", shift: float = 0.05, storage: Any = "int8"
) -> DistilledSet:
    """A set that began as the first images of each class and was moved a little, as distillation would."""
    train = splits.train
    indices = torch.cat([members[:num_per_class] for members in train.class_indices])
    fitted = fit_codec(codec_from_text(codec), train)
    with torch.no_grad():
        codes = fitted.encode(train.images[indices].float() / 255)
    moved = codes + shift * torch.randn(codes.shape, generator=generator(0, "test"))
    return DistilledSet.build(
        Codes(fitted, moved, train.labels[indices], storage),
        fit_codec(PixelsConfig(), train),
        classes=train.classes,
        recipe={"name": "test"},
        data=("digits", train),
        initial=("random", indices.tolist()),
    )


@pytest.fixture(scope="module")
def small(digits: Splits) -> DistilledSet:
    return distilled_from(digits)


@pytest.fixture(scope="module")
def card(digits: Splits, small: DistilledSet, tmp_path_factory: pytest.TempPathFactory) -> Scorecard:
    return evaluate(small, digits, TINY, cache=False)


def test_dc_bench_is_what_the_published_loop_does() -> None:
    """DC: for epoch in range(1000 + 1); after epoch 1000 // 2 + 1 the rate is a tenth and the optimiser is new."""
    training = protocol("dc-bench").training
    plan = Plan.of(training, num_items=100)
    assert plan.num_epochs == 1001
    from attar.models.training.settings import learning_rate_at

    rates = [learning_rate_at(training, plan, step) for step in range(plan.num_steps)]
    assert rates[: 501 + 1] == [0.01] * 502
    assert rates[502:] == pytest.approx([0.001] * 499)
    assert (training.momentum, training.weight_decay, training.batch_size) == (0.9, 5e-4, 256)
    assert training.reset_momentum and training.cutmix_probability == 0
    assert training.augmentation is not None and training.augmentation.mode == "single"
    assert training.augmentation.operations == ("color", "crop", "cutout", "flip", "scale", "rotate")
    assert protocol("dc-bench").networks == (NetworkConfig(),)


def test_latentdd_differs_from_dc_bench_in_cutout_only() -> None:
    ours, theirs = protocol("latentdd").training, protocol("dc-bench").training
    assert ours.augmentation is not None and theirs.augmentation is not None
    assert set(theirs.augmentation.operations) - set(ours.augmentation.operations) == {"cutout"}
    assert ours.cutmix_probability == 0.5
    same = {"augmentation": None, "cutmix_probability": 0.0}
    assert ours.model_copy(update=same) == theirs.model_copy(update=same)


@pytest.mark.parametrize("num_items", [10, 256, 400, 5000])
def test_quick_takes_300_steps(num_items: int) -> None:
    quick = protocol("quick")
    assert Plan.of(quick.training, num_items).num_steps == 300
    assert not quick.comparable


def test_protocols_are_found_by_name_and_by_path(tmp_path: Path) -> None:
    published = {"d3", "dc-bench", "dd-ranking", "idc", "latentdd", "ld3m", "lic", "mtt", "rded", "rethinkdc", "sre2l"}
    assert set(protocol_names()) == {"quick", *published}
    own = tmp_path / "own.json"
    own.write_text(TINY.model_dump_json())
    assert protocol(own) == TINY
    with pytest.raises(InputError, match="did you mean 'dc-bench'"):
        protocol("dcbench")
    own.write_text('{"name": "own", "epochs": 3}')
    with pytest.raises(InputError, match=r"protocol own\.json"):
        protocol(own)
    with pytest.raises(InputError, match="cannot be read"):
        protocol(tmp_path / "absent.json")


def test_digits_are_not_mirrored_unless_asked(digits: Splits, small: DistilledSet) -> None:
    assert [mirroring_harms(name) for name in ("digits", "hf:ylecun/mnist", "SVHN", "fashion_mnist", "cifar10")] == [
        True, True, True, False, False,
    ]  # fmt: skip
    flipping = TINY.model_copy(update={"training": protocol("quick").training.model_copy(update=_short())})
    arguments: dict[str, Any] = {"seeds": 1, "baselines": False, "cache": False}
    left_out = evaluate(small, digits, flipping, **arguments)
    assert not left_out.protocol.flips and any("mirrored" in note for note in left_out.notes)
    assert evaluate(small, digits, flipping, flip=True, **arguments).protocol == flipping
    with pytest.raises(InputError, match="mirrors no images"):
        evaluate(small, digits, TINY, flip=True, **arguments)


def _short() -> dict[str, Any]:
    return {"epochs": 2, "min_steps": None, "max_steps": None}


def test_counts_at_equal_bytes_by_hand(digits: Splits) -> None:
    """Digits are 1 x 8 x 8 = 64 values. pca:f2c1 has 4 x 4 = 16: four codes an image. pixels has 64: one."""
    assert images_at_paper_bytes(distilled_from(digits, 12)) == 3
    assert images_at_paper_bytes(distilled_from(digits, 10)) == 3  # 2.5, rounded half up
    assert images_at_paper_bytes(distilled_from(digits, 1)) == 1  # 0.25, but no class goes empty
    assert images_at_paper_bytes(distilled_from(digits, 5, codec="pixels")) == 5
    small = distilled_from(digits, 12)
    assert images_at_file_bytes(small) == len(small.to_bytes()) // 640


def test_rows_of_the_card(card: Scorecard, small: DistilledSet, digits: Splits) -> None:
    names = [row.name for row in card.rows]
    assert names == [
        "distilled", "random images", "herding images", "initial codes", "random uint8 images in the file's bytes",
    ]  # fmt: skip
    size = len(small.to_bytes())
    assert card.row().num_bytes == card.storage.file_bytes == size
    assert (card.row("random images").num_items, card.row("random images").num_bytes) == (10, 640)
    assert card.row("random images").paper_bytes == 4 * 640
    assert card.row("initial codes").num_bytes == size
    fitting = card.row("random uint8 images in the file's bytes")
    assert fitting.num_items == size // 640 * 10
    assert fitting.num_bytes is not None and size - 640 < fitting.num_bytes <= size
    assert all(row.seeds == (0, 1) and row.minutes > 0 for row in card.rows)
    assert card.num_test == len(digits.test)


def test_confusion_counts_every_test_image_once_a_seed(card: Scorecard, digits: Splits) -> None:
    confusion = torch.tensor(card.row().confusion)
    assert confusion.sum(1).tolist() == [2 * count for count in torch.bincount(digits.test.labels).tolist()]
    assert card.row().mean == pytest.approx(100 * int(confusion.trace()) / (2 * len(digits.test)))
    assert list(card.row().per_class) == pytest.approx((100 * confusion.diagonal() / confusion.sum(1)).tolist())


def test_real_images_teach_far_beyond_chance(digits: Splits) -> None:
    """The whole way: pixels as codes, float32, nothing moved, is training on the real images themselves."""
    real = distilled_from(digits, 20, codec="pixels", shift=0.0, storage="float32")
    card = evaluate(real, digits, TINY, seeds=1, baselines=("initial",), cache=False)
    assert card.row().accuracies[0] > 70  # chance is 10
    assert card.row("initial codes").absent == "the set is its own starting point: nothing was distilled"
    assert card.row("initial codes").mean is None
    assert "n = 1: no spread" in card.row().accuracy_text


def test_tables_and_json_hold_every_row(card: Scorecard) -> None:
    assert Scorecard.from_json(card.to_json()) == card
    with pytest.raises(InputError, match="scorecard"):
        Scorecard.from_json('{"rows": []}')
    markdown = card.as_markdown()
    for row in card.rows:
        assert (
            sum(line.startswith(f"| {row.name} |") and row.accuracy_text in line for line in markdown.splitlines()) == 1
        )
    from rich.console import Console

    console = Console(width=200, record=True, file=io.StringIO())
    console.print(card.as_table())
    printed = console.export_text()
    assert all(row.name in printed for row in card.rows)
    assert f"{card.storage.paper_bytes:,}" in printed and "bits per class" in printed


def test_scores_come_from_the_cache_and_are_the_same(
    digits: Splits, small: DistilledSet, card: Scorecard, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluate(small, digits, TINY)
    assert [row.accuracies for row in first.rows] == [row.accuracies for row in card.rows]
    assert all(row.cached == 0 for row in first.rows)

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a network was trained although its score is known")

    with monkeypatch.context() as patched:
        patched.setattr(measuring, "train_networks", never)
        second = evaluate(small, digits, TINY)
        assert all(row.cached == 2 for row in second.rows)
        assert [row.model_copy(update={"cached": 0}) for row in second.rows] == list(first.rows)
        with pytest.raises(AssertionError):
            evaluate(small, digits, TINY, cache=False)
        with pytest.raises(AssertionError):
            evaluate(small, digits, TINY, seeds=(0, 5))
        with pytest.raises(AssertionError):
            evaluate(small, digits, TINY.model_copy(update={"training": TrainingConfig(epochs=1)}))
    for entry in cache_directory("scores").iterdir():
        entry.write_text('{"confusion": [[1]], "seconds": 1.0}')
    assert evaluate(small, digits, TINY, baselines=False).row() == first.row().model_copy(
        update={
            "minutes": pytest.approx(first.row().minutes, abs=10),
            "training_minutes": pytest.approx(first.row().training_minutes, abs=10),
        }
    )


def test_an_interrupted_evaluation_goes_on(digits: Splits, small: DistilledSet, card: Scorecard) -> None:
    class StopAfter(Silent):
        left = 3 * 40 + 5

        def advance(self, count: int = 1, **figures: float) -> None:
            self.left -= count
            if self.left < 0:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(small, digits, TINY, progress=StopAfter())
    again = evaluate(small, digits, TINY)
    assert [row.cached for row in again.rows] == [2, 1, 0, 0, 0]
    assert [row.accuracies for row in again.rows] == [row.accuracies for row in card.rows]


def test_seeds_trained_in_one_call_score_the_same(
    digits: Splits, small: DistilledSet, card: Scorecard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU does: all seeds of a row at once, except where every seed has other items."""

    def together(self: Any, candidate: Any, missing: list[int]) -> list[list[int]]:
        return [[seed] for seed in missing] if candidate.drawn else [missing]

    monkeypatch.setattr(measuring.Measurement, "_groups", together)
    again = evaluate(small, digits, TINY, cache=False)
    assert [row.accuracies for row in again.rows] == [row.accuracies for row in card.rows]


def test_progress_counts_every_step(digits: Splits, small: DistilledSet) -> None:
    class Counting(Silent):
        total = done = 0

        def start(self, description: str, total: int) -> None:
            self.total += total

        def advance(self, count: int = 1, **figures: float) -> None:
            self.done += count

    for _ in range(2):  # trained, then read from the cache
        counting = Counting()
        evaluate(small, digits, TINY, seeds=1, progress=counting)
        # 40, 10, 40 and 10 items fit one batch of 64; the file holds more uint8 images than that
        fitting = images_at_file_bytes(small) * 10
        assert counting.total == counting.done == 40 * (4 + -(-fitting // 64))


def test_random_images_differ_by_seed_and_herding_does_not(digits: Splits, small: DistilledSet) -> None:
    def chosen(kind: str, seed: int) -> Tensor:
        return choose(kind, 3, digits.train, small.preprocess, generator(seed, "test"))

    assert digits.train.labels[chosen("random", 0)].tolist() == [label for label in range(10) for _ in range(3)]
    assert not torch.equal(chosen("random", 0), chosen("random", 1))
    assert torch.equal(chosen("herding", 0), chosen("herding", 1))
    first = chosen("herding", 0)[0]
    members = small.preprocess.encode(digits.train.images[digits.train.class_indices[0]].float() / 255).flatten(1)
    nearest = (members - members.mean(0)).square().sum(1).argmin()
    assert first == digits.train.class_indices[0][nearest]


def test_a_small_class_gives_all_it_has(digits: Splits, small: DistilledSet) -> None:
    few = torch.cat([digits.train.class_indices[0][:2], *digits.train.class_indices[1:]])
    chosen = choose("random", 5, digits.train.select(few), small.preprocess, generator(0, "test"))
    assert torch.bincount(digits.train.select(few).labels[chosen]).tolist() == [2] + [5] * 9


def test_initial_codes_need_the_training_images_they_came_from(digits: Splits, small: DistilledSet) -> None:
    other = load_images("digits", split_seed=1)
    card = evaluate(small, other, TINY, seeds=1, baselines=("initial",), cache=False)
    assert "not those the set was distilled from" in (card.row("initial codes").absent or "")
    assert any("another split seed" in note for note in card.notes)
    assert card.differences == ()


def test_paired_intervals() -> None:
    """By hand: differences 1, 2, 3 have mean 2, std 1; 4.3027 / sqrt(3) = 2.484."""
    assert paired_interval([11, 22, 33], [10, 20, 30]) == pytest.approx((2, 2 - 2.4842, 2 + 2.4842), abs=1e-4)
    assert mean_and_std([1, 2, 3, 4]) == pytest.approx((2.5, 1.2909944))
    assert mean_and_std([7.0]) == (7.0, None)
    from scipy.stats import t  # type: ignore[import-untyped]

    assert [student_t(n) for n in range(1, 31)] == pytest.approx([t.ppf(0.975, n) for n in range(1, 31)], abs=6e-5)
    assert [student_t(n) for n in (1, 2, 4, 30)] == [12.7062, 4.3027, 2.7764, 2.0423], "four decimals, as in tables"
    network = NetworkConfig()

    def row(name: str, *accuracies: float) -> Row:
        mean, std = mean_and_std(accuracies)
        seeds = tuple(range(len(accuracies)))
        return Row(name=name, network=network, seeds=seeds, accuracies=accuracies, mean=mean, std=std)

    assert Difference.between(row("distilled", 50, 60, 70), row("a", 49.0, 62.0, 69.5)).verdict == "within noise"
    assert Difference.between(row("distilled", 50, 60, 70), row("b", 40.0, 50.1, 60.1)).verdict == "better"
    assert Difference.between(row("distilled", 40, 50, 60), row("b", 50.0, 60.1, 70.1)).verdict == "worse"
    assert "unknown" in Difference.between(row("distilled", 50), row("c", 40.0)).text


def test_impossible_evaluations_are_refused(digits: Splits, small: DistilledSet) -> None:
    def refused(message: str, data: Any = digits, **changes: Any) -> None:
        arguments: dict[str, Any] = {"protocol": TINY, "cache": False, **changes}
        with pytest.raises(InputError, match=message):
            evaluate(small, data, **arguments)

    refused("seeds", seeds=0)
    refused("twice", seeds=(1, 1))
    refused("did you mean 'convnet'", networks="convnett")
    refused("did you mean 'herding'", baselines=("herdin",))
    refused("no test part", data=digits.train)
    refused("no test images", data=replace(digits, test=digits.test.select(torch.arange(0))))

    def changed(change: Callable[[ImageSet], ImageSet]) -> Splits:
        return Splits(change(digits.train), change(digits.test), "changed")

    fewer = changed(lambda part: part.with_classes(range(5)))
    refused("10 classes and the data 5", data=fewer)
    backwards = changed(lambda part: part.with_classes(range(9, -1, -1)))
    refused("another order", data=backwards)
    larger = changed(lambda part: ImageSet(part.images.repeat(1, 1, 2, 2), part.labels, part.classes))
    refused(r"\(1, 8, 8\).*\(1, 16, 16\)", data=larger)


def test_a_network_named_twice_is_trained_once(digits: Splits, small: DistilledSet) -> None:
    """At 8 pixels a ConvNet has 1 block, whether it is said or not."""
    from attar.models.networks.network import depth_for

    same = ("convnet:w4", f"convnet:d{depth_for(8)}w4")
    card = evaluate(small, digits, TINY, networks=same, seeds=1, baselines=False, cache=False)
    assert [row.network.name for row in card.rows] == [same[1]]


def test_every_network_is_checked_before_any_is_trained(
    digits: Splits, small: DistilledSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "train_networks", lambda *_, **__: pytest.fail("trained before the refusal"))
    blind = TINY.model_copy(update={"networks": (*TINY.networks, NetworkConfig(kind="vgg11"))})
    for judge in (lambda: evaluate(small, digits, blind), lambda: compare([small], digits, blind)):
        with pytest.raises(InputError, match="32"):
            judge()


def test_every_set_is_checked_before_any_is_trained_on(
    digits: Splits, small: DistilledSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "train_networks", lambda *_, **__: pytest.fail("trained before the refusal"))
    learning = TINY.model_copy(update={"use_learned_rate": True})
    bad = small.replace(learned={"student_rate": -0.5})
    with pytest.raises(InputError, match=r"learned rate is -0\.5"):
        compare([small, bad], digits, learning)


def test_remarks_of_a_comparison_are_made_once_a_card(card: Scorecard, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    usual = Scorecard.remarks

    def counting(self: Scorecard) -> list[str]:
        made.append(self.name)
        return usual(self)

    monkeypatch.setattr(Scorecard, "remarks", counting)
    cards = tuple(card.model_copy(update={"name": name, "notes": (*card.notes, name)}) for name in "abc")
    told = Comparison(cards=cards).remarks()
    assert made == ["a", "b", "c"]
    assert told[0] == usual(card)[0] and [each for each in told if each[1:2] == ":"] == ["a: a", "b: b", "c: c"]
    with pytest.raises(ValueError, match="differ in device"):
        Comparison(cards=(cards[0], cards[1].model_copy(update={"device": "abacus"})))


def test_comparison_of_two_sets(digits: Splits, tmp_path: Path) -> None:
    paths = []
    for number in (2, 8):
        paths.append(tmp_path / f"codes-{number}.attar.safetensors")
        distilled_from(digits, number).save(paths[-1])
    compared = compare(paths[::-1], digits, TINY, seeds=2, baselines=("random", "initial"))
    assert [card.name for card in compared.cards] == ["codes-2", "codes-8"]
    assert len(compared.lines()) == 6 and any("differ in size" in remark for remark in compared.remarks())
    assert Comparison.from_json(compared.to_json()) == compared
    picture = compared.plot(tmp_path / "plot.png")
    with pytest.raises(InputError, match="exists"):
        compared.plot(picture)
    assert {(point.num_bytes, point.series) for point in compared.points() if not point.baseline} == {
        (path.stat().st_size, path.name.split(".")[0]) for path in paths
    }
    with pytest.raises(InputError, match="at least one"):
        compare([], digits, TINY)
    other = json.loads(compared.to_json())
    for each in (other["cards"][0], *other["cards"][0]["rows"]):
        each["seeds"] = [7, 8] * bool(each["seeds"])
    with pytest.raises(InputError, match="differ in seeds"):
        Comparison.from_json(json.dumps(other))


@pytest.mark.parametrize(
    ("name", "steps", "optimizer"),
    [
        ("quick-128px", 100, "sgd"),
        ("lic-500-steps", 500, "adamw"),
        ("d3-300-steps", 300, "sgd"),
        ("ld3m-60-epochs", None, "adamw"),
        ("ld3m-300-epochs", None, "adamw"),
    ],
)
def test_the_protocols_of_the_docs_can_be_read(name: str, steps: int | None, optimizer: str) -> None:
    found = protocol(Path(__file__).parents[1] / "examples" / f"{name}.json")
    assert (found.training.max_steps, found.training.optimizer) == (steps, optimizer) and not found.comparable
