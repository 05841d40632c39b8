"""Soft labels and learned numbers from the items to the score: stored, read, trained with, counted and told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from attar.base.errors import InputError
from attar.base.randomness import generator
from attar.data.augmentation import draw_cutmix
from attar.data.image_set import ImageSet, Splits
from attar.data.sources import load_images
from attar.evaluation import measuring
from attar.evaluation.baselines import images_at_paper_bytes
from attar.evaluation.compare import compare
from attar.evaluation.evaluate import evaluate
from attar.evaluation.protocol import Protocol, protocol
from attar.methods.labels import HardLabels, SoftLabels
from attar.methods.objectives.objective import Synthetic
from attar.methods.parameterizations.codes import Codes, CodesConfig, LabelStorage
from attar.methods.parameterizations.registry import restore_parameterization
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import codec_from_text, fit_codec
from attar.models.networks.network import NetworkConfig
from attar.models.networks.registry import build_network
from attar.models.training.items import Batch, FixedItems, check_items, item_losses
from attar.models.training.loop import train_networks
from attar.models.training.settings import TrainingConfig
from attar.sets.distilled import DistilledSet
from attar.sets.exports.export import export
from attar.sets.manifest import InitialProvenance
from attar.sets.manifest_text import manifest_text
from small_sets import CLASSES, RECIPE, build, digit_images, first_items, logits_for

TINY = Protocol(
    name="tiny",
    version=1,
    description="for tests",
    comparable=False,
    seeds=1,
    networks=(NetworkConfig(depth=1, width=4),),
    training=TrainingConfig(epochs=5, batch_size=64, learning_rate=0.05),
)
SMALL = NetworkConfig(width=4, depth=1)


@pytest.fixture
def digits() -> ImageSet:
    return digit_images()


@pytest.fixture(scope="module")
def splits() -> Splits:
    return load_images("digits")


def distilled_from(splits: Splits, soft: Tensor | None, shift: float = 0.05, **facts: Any) -> DistilledSet:
    """A set that began as two images of each class, was moved a little, and was given soft labels."""
    train = splits.train
    indices = torch.cat([members[:2] for members in train.class_indices])
    codec = fit_codec(codec_from_text("pca:f2c1"), train)
    codes = codec.encode(train.images[indices].float() / 255)
    codes = codes + shift * torch.randn(codes.shape, generator=generator(0, "test"))
    return DistilledSet.build(
        Codes(codec, codes, train.labels[indices], "float32", soft),
        fit_codec(PixelsConfig(), train),
        classes=train.classes,
        recipe={"name": "test"},
        data=("digits", train),
        initial=("random", indices.tolist()),
        **facts,
    )


# Parameterization


def test_logits_are_trained_like_the_codes(digits: ImageSet) -> None:
    codec = fit_codec(codec_from_text("pca:f4c4"), digits)
    given = logits_for(1)
    soft = Codes(codec, torch.zeros(10, 4, 2, 2), torch.arange(10), "float32", given)
    hard = Codes(codec, torch.zeros(10, 4, 2, 2), torch.arange(10), "float32")
    assert isinstance(soft, Synthetic) and isinstance(hard, Synthetic)
    assert hard.soft_labels is None and {name for name, _ in hard.named_parameters()} == {"codes"}
    assert {name for name, _ in soft.named_parameters()} == {"codes", "soft_labels"}
    assert torch.equal(soft.soft_labels, given) and soft.soft_labels is not given
    torch.nn.functional.cross_entropy(torch.randn(10, 10), soft.soft_labels.softmax(1)).backward()
    assert soft.soft_labels.grad is not None and bool((soft.soft_labels.grad != 0).all())


@pytest.mark.parametrize(("storage", "dtype"), [("float16", torch.float16), ("float32", torch.float32)])
def test_payload_and_spec_rebuild_the_logits(digits: ImageSet, storage: LabelStorage, dtype: torch.dtype) -> None:
    codec = fit_codec(codec_from_text("pca:f4c4"), digits)
    items = Codes(codec, torch.randn(10, 4, 2, 2), torch.arange(10), "int8", 1e3 * logits_for(1), storage)
    payload = items.payload()
    assert payload["soft_labels"].dtype == dtype and payload["labels"].dtype == torch.int32
    assert items.spec() == {"kind": "codes", "storage": "int8", "label_storage": storage}
    again = restore_parameterization(codec, payload, items.spec())
    assert again.soft_labels is not None and again.spec() == items.spec()
    assert torch.equal(again.soft_labels, (1e3 * logits_for(1)).to(dtype).float())
    assert all(torch.equal(payload[name], tensor) for name, tensor in again.payload().items())
    hard = Codes(codec, torch.randn(10, 4, 2, 2), torch.arange(10), "int8")
    assert hard.payload().keys() == {"codes", "scale", "labels"} and hard.spec() == {"kind": "codes", "storage": "int8"}
    huge = Codes(codec, torch.randn(1, 4, 2, 2), torch.zeros(1).long(), "int8", torch.tensor([[1e9, 0.0]]), "float16")
    assert bool(huge.payload()["soft_labels"].isfinite().all()), "float16 is cut, not made infinite"


# File


@pytest.mark.parametrize("storage", ["float16", "float32"])
def test_a_saved_set_keeps_labels_and_learned_numbers(digits: ImageSet, tmp_path: Path, storage: LabelStorage) -> None:
    rate = float(torch.tensor(0.0123456789))
    built = build(digits, soft=storage, learned={"student_rate": rate})
    built.save(tmp_path / "soft.safetensors")
    read = DistilledSet.load(tmp_path / "soft.safetensors")
    assert read.to_bytes() == built.to_bytes() and read.fingerprint == built.fingerprint
    assert read.learned == {"student_rate": rate} and read.describe()["learned"] == read.learned
    assert read.describe()["labels_kind"] == "soft"
    expected = logits_for(3).to(torch.float16 if storage == "float16" else torch.float32).float().softmax(1)
    assert read.soft_labels is not None and torch.equal(read.soft_labels, expected)
    assert torch.equal(read.labels, torch.arange(10).repeat_interleave(3)), "the items' own classes stay"
    assert read.fingerprint != build(digits).fingerprint


def test_a_set_with_hard_labels_says_nothing_of_soft_ones(digits: ImageSet) -> None:
    built = build(digits)
    tree = json.loads(manifest_text(built.manifest))
    assert "learned" not in tree and "soft_label" not in manifest_text(built.manifest)
    assert tree["shards"][0]["items"] == {"kind": "codes", "storage": "int8"}
    assert set(built.payloads()[0]) == {"codes", "labels", "scale"}
    assert built.soft_labels is None and built.learned == {} and built.manifest.labels_kind == "hard"
    assert build(digits, learned={}).to_bytes() == built.to_bytes()


def test_learned_numbers_leave_hard_labels_hard(digits: ImageSet) -> None:
    built = build(digits, learned={"student_rate": 0.01})
    assert built.manifest.labels_kind == "hard"
    plain = build(digits)
    assert plain.replace(learned={"student_rate": 0.01}).to_bytes() == built.to_bytes()
    assert built.replace(learned={}).to_bytes() == plain.to_bytes()
    with pytest.raises(InputError, match="'student_rate' is nan; lower the rate"):
        build(digits, learned={"student_rate": float("nan")})
    with pytest.raises(InputError, match=r"learned\.student rate"):
        build(digits, learned={"student rate": 0.1})


def test_logits_that_are_not_finite_or_for_other_classes_are_refused(digits: ImageSet) -> None:
    codec = fit_codec(codec_from_text("pixels"), digits)
    facts: dict[str, Any] = {"classes": CLASSES, "recipe": RECIPE, "data": ("d", digits), "initial": ("random", [])}
    for logits, fault in ((torch.full((2, 10), float("nan")), "not finite"), (torch.zeros(2, 9), r"\(2, 10\)")):
        with pytest.raises(InputError, match=fault):
            codes = Codes(codec, torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]), "float32", logits)
            DistilledSet.build(codes, codec, **facts)


def test_shards_with_and_without_soft_labels(digits: ImageSet) -> None:
    codec = fit_codec(codec_from_text("pixels"), digits)
    logits = torch.arange(20.0).view(2, 10)
    parts = [
        Codes(codec, torch.zeros(2, 1, 8, 8), torch.tensor([3, 4]), "float32"),
        Codes(codec, torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]), "float32", logits, "float32"),
    ]
    initial = InitialProvenance(kind="noise", real_pixels_inside=False)
    built = DistilledSet.build(parts, codec, classes=CLASSES, recipe=RECIPE, data=("d", digits), initial=initial)
    assert built.manifest.labels_kind == "soft" and built.soft_labels is not None
    expected = torch.cat([torch.eye(10)[[3, 4]], logits.softmax(1)])
    torch.testing.assert_close(built.soft_labels, expected)


@pytest.mark.parametrize("storage", ["float16", "float32"])
def test_sizes_count_soft_labels(digits: ImageSet, storage: LabelStorage) -> None:
    soft, hard = build(digits, soft=storage), build(digits)
    width = 2 if storage == "float16" else 4
    assert soft.storage.soft_label_bytes == width * 300 and hard.storage.soft_label_bytes == 0
    assert soft.storage.codes_bytes == hard.storage.codes_bytes
    assert soft.storage.paper_bytes - hard.storage.paper_bytes == 4 * 300
    assert soft.file_bytes == len(soft.to_bytes())
    assert any(f"{width * 300:,} bytes" in line for line in soft.storage.lines())
    assert not any("soft" in line for line in hard.storage.lines())


@pytest.mark.parametrize("storage", [None, "float16", "float32"])
@pytest.mark.parametrize("learned", [{}, {"student_rate": -1.2345678901234567e-300}])
def test_bytes_are_known_before_the_items_are(
    digits: ImageSet, storage: LabelStorage | None, learned: dict[str, float]
) -> None:
    codec, preprocess = fit_codec(codec_from_text("pca:f4c4"), digits), fit_codec(PixelsConfig(), digits)
    count = 3
    indices = first_items(digits, count)
    logits = None if storage is None else logits_for(count)
    codes = Codes(codec, torch.zeros(30, 4, 2, 2), digits.labels[indices], "int8", logits, storage or "float16")
    facts: dict[str, Any] = {"classes": CLASSES, "recipe": RECIPE, "data": ("digits", digits)}
    built = DistilledSet.build(codes, preprocess, initial=("random", [1796] * 30), learned=learned, **facts)
    labels = HardLabels() if storage is None else SoftLabels(initial="class", storage=storage)
    estimate = DistilledSet.estimate_bytes(
        codec, preprocess, items=CodesConfig(storage="int8"), labels=labels, num_per_class=count,
        learned=tuple(learned), initial=("random", ()), **facts,
    )  # fmt: skip
    assert estimate == built.file_bytes == len(built.to_bytes())


def test_the_documented_reader_reads_soft_labels(digits: ImageSet, tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "file-format.md").read_text(encoding="utf-8")
    for built in (build(digits, soft="float16", learned={"student_rate": 0.25}), build(digits)):
        built.save(tmp_path / "set.safetensors", overwrite=True)
        read: dict[str, Any] = {"path": tmp_path / "set.safetensors"}
        exec(page.split("```python\n")[1].split("```")[0], read)
        expected = torch.eye(10).repeat_interleave(3, 0) if built.soft_labels is None else built.soft_labels
        torch.testing.assert_close(torch.from_numpy(read["soft_labels"]), expected)
        assert read["learning_rate"] == built.learned.get("student_rate")


# Streaming and training


def test_loader_and_training_items_give_the_probabilities(digits: ImageSet) -> None:
    built = build(digits, soft="float32")
    items = built.training_items("cpu")
    _, labels = items.epoch(0, torch.Generator())
    assert torch.equal(labels, built.soft_labels) and items.num_items == 30  # type: ignore[arg-type]
    images, labels = (torch.cat(parts) for parts in zip(*built.loader(7, seed=3), strict=True))
    order = torch.randperm(30, generator=generator(3, "loader", 0))
    assert torch.equal(labels, built.soft_labels[order])  # type: ignore[index]
    assert torch.allclose(images, built.images(order), atol=1e-6)


def literal_loss(logits: Tensor, probabilities: Tensor) -> list[float]:
    losses = []
    for row, target in zip(logits.double().numpy(), probabilities.double().numpy(), strict=True):
        q = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        losses.append(-sum(p * np.log(q_k) for p, q_k in zip(target, q, strict=True)))
    return losses


def test_soft_cross_entropy_is_the_literal_sum() -> None:
    logits = torch.randn(6, 4, dtype=torch.float64, generator=generator(0, "logits"))
    labels = torch.randn(6, 4, generator=generator(0, "labels")).softmax(1)
    found = item_losses(logits, Batch(torch.empty(6), labels))
    assert found.tolist() == pytest.approx(literal_loss(logits, labels), rel=1e-12)
    classes = torch.tensor([0, 1, 2, 3, 0, 1])
    sharp = item_losses(logits, Batch(torch.empty(6), torch.eye(4)[classes]))
    torch.testing.assert_close(sharp, item_losses(logits, Batch(torch.empty(6), classes)))


def test_cutmix_mixes_soft_labels() -> None:
    """The loss of mixed images is that of the mixed label, weight p + (1 - weight) p'."""
    logits = torch.randn(5, 3, dtype=torch.float64, generator=generator(1, "logits"))
    labels = torch.randn(5, 3, dtype=torch.float64, generator=generator(1, "labels")).softmax(1)
    partners, weight = torch.tensor([3, 0, 1, 2, 4]), torch.tensor([0.2, 0.5, 1.0, 0.0, 0.7]).double()
    found = item_losses(logits, Batch(torch.empty(5), labels, labels[partners], weight))
    mixed = weight[:, None] * labels + (1 - weight[:, None]) * labels[partners]
    assert found.tolist() == pytest.approx(literal_loss(logits, mixed), rel=1e-12)


def soft_items(dtype: torch.dtype) -> FixedItems:
    inputs = torch.randn(11, 1, 8, 8, dtype=torch.float64, generator=generator(0, "toy"))
    return FixedItems(inputs.to(dtype), torch.randn(11, 3, generator=generator(1, "toy")).softmax(1))


def test_training_on_soft_labels_is_the_literal_loop() -> None:
    items = soft_items(torch.float64)
    training = TrainingConfig(
        epochs=2, batch_size=6, learning_rate=0.1, momentum=0.0, weight_decay=0.0, schedule="constant",
        cutmix_probability=0.5,
    )  # fmt: skip
    (trained,) = train_networks(SMALL, items, 3, training, [4])
    network, step = build_network(SMALL, (1, 8, 8), 3, generator(4, "network")).double(), 0
    for epoch in range(2):
        for part in torch.randperm(11, generator=generator(4, "order", epoch)).split(6):
            images, labels = items.inputs[part].clone(), items.labels[part].double()
            partners, boxes = draw_cutmix(len(part), (8, 8), generator(4, "augmentation", step), 0.5)
            mixed, target = images.clone(), labels.clone()
            for index, (top, left, bottom, right) in enumerate(boxes.tolist()):
                other = int(partners[index])
                mixed[index, :, top:bottom, left:right] = images[other, :, top:bottom, left:right]
                share = 1 - (bottom - top) * (right - left) / 64
                target[index] = share * labels[index] + (1 - share) * labels[other]
            loss = -(target * network(mixed).log_softmax(1)).sum(1).mean()
            network.zero_grad()
            loss.backward()
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter -= 0.1 * parameter.grad
            step += 1
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(value, network.state_dict()[name], rtol=0, atol=1e-12)


def test_stacked_and_looped_agree_on_soft_labels() -> None:
    items = soft_items(torch.float64)
    training = TrainingConfig(epochs=2, batch_size=6, cutmix_probability=0.5)
    looped = train_networks(SMALL, items, 3, training, [0, 1], mode="looped")
    stacked = train_networks(SMALL, items, 3, training, [0, 1], mode="stacked")
    for one, other in zip(looped, stacked, strict=True):
        for name, value in one.state_dict().items():
            torch.testing.assert_close(value, other.state_dict()[name], rtol=0, atol=1e-11)


def test_labels_that_are_no_probabilities_are_refused() -> None:
    inputs, right = torch.zeros(2, 1, 4, 4), torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    check_items(inputs, right, 2, 2)
    for wrong, fault in (
        (right[:, :1], "1 columns; give one for each of 2 classes"),
        (right + 0.1, "a sum misses 1 by 0.2; give the softmax"),
        (torch.tensor([[1.5, -0.5], [1.0, 0.0]]), "the least is -0.5"),
        (torch.full((2, 2), float("nan")), "no probabilities"),
    ):
        with pytest.raises(InputError, match=fault):
            check_items(inputs, wrong, 2, 2)
    for strange in (right[:1], right[:, 0], right.long(), right[None]):
        with pytest.raises(ValueError, match="2 items are"):
            check_items(inputs, strange, 2, 2)


# Evaluation


def trained_with(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float, Tensor]]:
    """What every call of `train_networks` is given: kind of labels, learning rate, labels."""
    seen: list[tuple[str, float, Tensor]] = []

    def spy(network: Any, items: Any, num_classes: int, training: TrainingConfig, seeds: Any, **more: Any) -> Any:
        labels = items.epoch(0, torch.Generator())[1]
        seen.append(("soft" if labels.is_floating_point() else "hard", training.learning_rate, labels))
        return train_networks(network, items, num_classes, training, seeds, **more)

    monkeypatch.setattr(measuring, "train_networks", spy)
    return seen


def test_the_distilled_row_alone_has_soft_labels_and_the_learned_rate(
    splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = distilled_from(splits, logits_for(2), learned={"student_rate": 0.125})
    learned = TINY.model_copy(update={"use_learned_rate": True})
    seen = trained_with(monkeypatch)
    card = evaluate(small, splits, learned, baselines=("random", "initial"), cache=False)
    assert [row.name for row in card.rows] == ["distilled", "random images", "initial codes"]
    assert [(kind, rate) for kind, rate, _ in seen] == [("soft", 0.125), ("hard", 0.05), ("hard", 0.05)]
    assert torch.equal(seen[0][2], small.soft_labels) and torch.equal(seen[2][2], small.labels)  # type: ignore[arg-type]
    assert any("random images labelled alike have them too, all other rows hard labels" in note for note in card.notes)
    assert "distilled: trained at the set's learned rate 0.125; all other rows at 0.05" in card.notes
    initial, own = card.row("initial codes"), card.row()
    assert initial.paper_bytes == own.paper_bytes - 4 * 200  # type: ignore[operator]
    assert initial.num_bytes == own.num_bytes - 2 * 200  # type: ignore[operator]
    assert "with hard labels" in initial.note
    assert type(card).from_json(card.to_json()) == card and card.protocol.use_learned_rate


def test_a_learned_rate_is_used_where_the_protocol_says_so_alone(
    splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = trained_with(monkeypatch)
    plain = distilled_from(splits, None, learned={"student_rate": 0.125})
    unused = evaluate(plain, splits, TINY, baselines=False, cache=False)
    assert any("learned rate 0.125 is not used; protocol tiny v1 trains at 0.05" in note for note in unused.notes)
    without = distilled_from(splits, None)
    learned = TINY.model_copy(update={"use_learned_rate": True})
    missing = evaluate(without, splits, learned, baselines=False, cache=False)
    assert any("no learned rate, so all rows are trained at 0.05" in note for note in missing.notes)
    assert [rate for _, rate, _ in seen] == [0.05, 0.05]
    assert not any("learned" in note for note in evaluate(without, splits, TINY, baselines=False, cache=False).notes)
    bad = distilled_from(splits, None, learned={"student_rate": -0.1})
    with pytest.raises(InputError, match=r"learned rate is -0\.1 and must be positive; take a protocol"):
        evaluate(bad, splits, learned, baselines=False, cache=False)
    compared = compare([plain, without], splits, learned, baselines=False, cache=False, names=["a", "b"])
    assert any(remark.startswith("a: distilled: trained at the set's learned rate") for remark in compared.remarks())


def test_scores_are_kept_by_labels_and_rate(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = trained_with(monkeypatch)
    learned = TINY.model_copy(update={"use_learned_rate": True})

    def trainings(small: DistilledSet, chosen: Protocol) -> int:
        before = len(seen)
        evaluate(small, splits, chosen, baselines=("initial",))
        return len(seen) - before

    soft = distilled_from(splits, logits_for(2), learned={"student_rate": 0.125})
    assert trainings(soft, learned) == 2
    assert trainings(soft, learned) == 0
    assert trainings(soft, TINY) == 1, "the same items at another rate; the start is at the protocol's as before"
    other = distilled_from(splits, logits_for(2).flip(0), learned={"student_rate": 0.125})
    assert trainings(other, learned) == 1, "other labels; the start is the same"
    faster = distilled_from(splits, logits_for(2), learned={"student_rate": 0.25})
    assert trainings(faster, learned) == 1, "another learned rate"
    assert trainings(distilled_from(splits, None), TINY) == 1, "hard labels; the start with hard labels is the same"


def test_labels_alone_are_something_distilled(splits: Splits) -> None:
    start = distilled_from(splits, None, shift=0.0)
    labelled = distilled_from(splits, logits_for(2), shift=0.0)
    rows = [evaluate(each, splits, TINY, baselines=("initial",), cache=False).rows[1] for each in (start, labelled)]
    assert rows[0].absent is not None and rows[1].absent is None


def test_real_images_at_equal_bytes_count_soft_labels_by_hand(splits: Splits) -> None:
    """A class has 2 items of 4 x 4 values, and 10 more each with soft labels: 32 or 52 of an image's 64."""
    assert images_at_paper_bytes(distilled_from(splits, None)) == 1  # 0.5, rounded half up
    small = distilled_from(splits, logits_for(2))
    assert images_at_paper_bytes(small) == 1  # 52 / 64
    many = build(digit_images(), "pca:f4c4", "float32", 9, soft="float16")
    assert images_at_paper_bytes(many) == 4  # 9 * (16 + 10) / 64 = 3.66; the codes alone are 2.25


def test_mtt_is_dc_bench_at_the_learned_rate() -> None:
    ours, theirs = protocol("mtt"), protocol("dc-bench")
    assert ours.use_learned_rate and not theirs.use_learned_rate
    assert ours.training == theirs.training and ours.networks == theirs.networks and ours.seeds == 5
    assert any("best on test images" in deviation for deviation in ours.deviations)


# What people and other tools see


def test_exports_carry_soft_labels_or_say_that_they_do_not(digits: ImageSet, tmp_path: Path) -> None:
    built = build(digits, "pixels", "float32", soft="float32", learned={"student_rate": 0.5})
    with np.load(export(built, "npz", tmp_path / "set.npz")) as arrays:
        assert np.allclose(arrays["soft_labels"], built.soft_labels.numpy())  # type: ignore[union-attr]
        assert arrays["soft_labels"].dtype == np.float32 and arrays["labels"].tolist() == built.labels.tolist()
        about = json.loads(str(arrays["about"]))
    assert about["learned"] == {"student_rate": 0.5} and about["labels_kind"] == "soft"
    folder = export(built, "imagefolder", tmp_path / "folder")
    told = json.loads((folder / "attar-export.json").read_text())
    assert [line for line in told["lost"] if "soft labels" in line] == [
        "soft labels are left out: a folder carries the items' hard labels only; npz has both"
    ]
    hard = build(digits, "pixels", "float32")
    with np.load(export(hard, "npz", tmp_path / "hard.npz")) as arrays:
        assert "soft_labels" not in arrays.files
    told = json.loads((export(hard, "imagefolder", tmp_path / "hard") / "attar-export.json").read_text())
    assert not any("soft" in line for line in told["lost"])


def test_info_tells_labels_and_learned_numbers(
    digits: ImageSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from attar.cli import main

    build(digits, soft="float16", learned={"student_rate": 0.0123}).save(tmp_path / "soft.safetensors")
    build(digits).save(tmp_path / "hard.safetensors")
    assert main(["info", str(tmp_path / "soft.safetensors")]) == 0
    told = capsys.readouterr().out
    assert "soft: a probability for every class" in told and "student_rate 0.0123" in told
    assert main(["info", str(tmp_path / "hard.safetensors")]) == 0
    told = capsys.readouterr().out
    assert "labels   hard" in told and "learned" not in told
