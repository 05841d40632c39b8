"""Region labels: drawn alike for ever, stored small, and always those of exactly what training sees."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from attar.base.errors import InputError
from attar.base.randomness import Counter, generator
from attar.data.augmentation import DsaConfig
from attar.evaluation.protocol import protocol
from attar.methods.labels.regions import ObserverFacts, Regions, apply_regions, draw_regions
from attar.methods.parameterizations.codes import Codes
from attar.methods.parameterizations.mosaic import MosaicConfig
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import codec_from_text, fit_codec
from attar.models.networks.network import NetworkConfig
from attar.models.networks.registry import network_from_text
from attar.models.training.items import Batch, item_losses, soft_targets, training_batches
from attar.models.training.loop import train_networks
from attar.models.training.settings import Plan, TrainingConfig
from attar.models.training.testing import test_network
from attar.sets.distilled import DistilledSet
from attar.sets.exports.export import export
from attar.sets.manifest_text import manifest_text
from attar.sets.relabelling import with_regions
from attar.sets.streaming import RegionItems
from small_regions import DSA, SMALL, STORAGES, SmallObserver, halves, logits_of, mosaic, observer, settings, trained
from small_sets import CLASSES, RECIPE, build, digit_images

# Sets: labels are those of what is seen


VARIANTS: dict[str, dict[str, Any]] = {
    "crops": {},
    "tiles, mixed": {"tile_probability": 0.75, "mix": "cutmix", "flip": 0.5},
    "augmented and mixed": {"mix": "cutmix", "augmentation": DSA},
}


def labelled(
    variant: str = "crops", storage: str = "float16", by: SmallObserver | None = None, **changes: Any
) -> DistilledSet:
    config = settings(storage=storage, **{**VARIANTS[variant], **SMALL.get(storage, {}), **changes})
    return with_regions(mosaic(), by or observer(), config, seed=4)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_labels_are_the_observers_of_what_training_sees(tmp_path: Path, variant: str, storage: str) -> None:
    labelled(variant, storage).save(tmp_path / "set.safetensors")
    read = DistilledSet.load(tmp_path / "set.safetensors")
    asked = observer()
    items = read.training_items("cpu", asked if storage == "online" else None)
    assert isinstance(items, RegionItems) and items.num_items == read.num_training_items == 20 and len(read) == 80
    seen = []
    for epoch in (0, 2, 5):
        inputs, labels = items.epoch(epoch, torch.Generator())
        order = torch.randperm(20, generator=generator(epoch))
        batches = torch.cat([inputs[part] for part in order.split(7)])
        expected = asked.logits(read.preprocess.decode(batches))
        found = labels[order]
        if storage == "top-k":
            top = expected.topk(3, 1)
            torch.testing.assert_close(found.gather(1, top.indices), top.values, rtol=2e-3, atol=2e-3)
            torch.testing.assert_close(found.logsumexp(1), expected.logsumexp(1), rtol=2e-3, atol=2e-3)
        elif storage == "codebook":
            nats = torch.nn.functional.kl_div(found.log_softmax(1), expected.softmax(1), reduction="none").sum(1)
            assert nats.mean() < 0.01, "60 labels have 256 entries a group: all but the search for them is exact"
        else:
            tolerance = 2e-3 if storage != "int8" else 1e-3 + float(read.region_tensors()[0]["scale"].max()) / 2
            torch.testing.assert_close(found, expected, rtol=1e-3 if storage == "float16" else 1e-4, atol=tolerance)
        seen.append((torch.stack([inputs[torch.tensor([place])][0] for place in range(20)]), labels))
    assert torch.equal(seen[1][0], seen[2][0]) and torch.equal(seen[1][1], seen[2][1]), "epochs e and e + E"
    assert not torch.equal(seen[0][0], seen[1][0]) and not torch.equal(seen[0][1], seen[1][1])


def test_mixed_regions_are_labelled_as_mixed() -> None:
    plain, mixed = labelled("crops"), labelled("crops", mix="cutmix")
    views = [each.training_items("cpu").epoch(0, torch.Generator()) for each in (plain, mixed)]
    every = torch.arange(20)
    changed = (views[0][0][every] != views[1][0][every]).flatten(1).any(1)
    moved = (views[0][1] != views[1][1]).any(1)
    assert changed.sum() > 10 and torch.equal(changed, moved)


def test_crops_cost_nothing(tmp_path: Path) -> None:
    plain = mosaic()
    tensors = set(plain.manifest.tensor_table())
    for variant in VARIANTS:
        built = labelled(variant)
        added = set(built.manifest.tensor_table()) - tensors
        assert added == {"shards.0.regions.logits"}
        assert built.storage.label_bytes == 3 * 20 * 10 * 2
        assert built.storage.codes_bytes == plain.storage.codes_bytes
        assert built.storage.paper_bytes - plain.storage.paper_bytes == 4 * 600
        assert built.file_bytes == len(built.to_bytes())
        built.save(tmp_path / "set.safetensors", overwrite=True)
        assert DistilledSet.load(tmp_path / "set.safetensors").to_bytes() == built.to_bytes()


@pytest.mark.parametrize("storage", ["float16", "int8", "top-k"])
def test_a_tenth_of_the_bytes_where_that_is_asked(storage: str) -> None:
    full = labelled("crops", epochs=30).storage.label_bytes
    small = labelled("crops", storage, epochs=30, label_bytes=full // 10)
    assert 0.8 * full / 10 <= small.storage.label_bytes <= full / 10
    spec = small.manifest.shards[0].regions
    assert spec is not None and spec.labels.epochs == {"float16": 3, "int8": 4, "top-k": 5}[storage]


def test_plain_codes_are_canvases_too() -> None:
    built = with_regions(build(digit_images(), "pca:f4c4", "int8"), observer(), settings())
    inputs, labels = built.training_items("cpu").epoch(1, torch.Generator())
    expected = observer().logits(built.preprocess.decode(inputs[torch.arange(30)]))
    torch.testing.assert_close(labels, expected, rtol=1e-3, atol=2e-3)
    assert built.num_training_items == 30 and torch.equal(built.labels, torch.arange(10).repeat_interleave(3))
    assert built.soft_labels is None


def test_shards_keep_regions_of_their_own() -> None:
    train, _ = halves()
    codec = fit_codec(PixelsConfig(), train)
    parts = []
    for wanted in (0, 1):
        members = train.class_indices[wanted][:3]
        parts.append(Codes(codec, codec.encode(train.images[members].float() / 255), train.labels[members], "float16"))
    facts: dict[str, Any] = {"classes": CLASSES, "recipe": RECIPE, "data": ("digits", train), "initial": ("random", [])}
    built = with_regions(DistilledSet.build(parts, codec, **facts), observer(), settings())
    inputs, labels = built.training_items("cpu").epoch(0, torch.Generator())
    order = torch.tensor([5, 0, 3, 1])
    expected = observer().logits(codec.decode(inputs[order]))
    torch.testing.assert_close(labels[order], expected, rtol=1e-3, atol=2e-3)
    assert len(inputs) == 6 and {name for name in built.manifest.tensor_table() if "regions" in name} == {
        "shards.0.regions.logits",
        "shards.1.regions.logits",
    }


def test_what_a_set_says_of_its_regions() -> None:
    built, plain = labelled(), mosaic()
    assert built.manifest.labels_kind == "regions" and built.describe()["labels_kind"] == "regions"
    assert "regions" not in manifest_text(plain.manifest)
    about = built.describe()["shards"][0]["regions"]
    assert about["labels"]["epochs"] == 3 and about["observer"]["identity"] == "ab" * 32 and about["seed"] == 4
    assert any("region labels: 1,200 bytes" in line for line in built.storage.lines())
    assert not any("region" in line for line in plain.storage.lines())
    assert built.fingerprint != plain.fingerprint != labelled(scale=(0.5, 1.0)).fingerprint != built.fingerprint
    assert built.replace(scores=[{"a": 1}]).fingerprint == built.fingerprint


def test_an_observer_that_is_asked_is_counted_and_named() -> None:
    built = labelled(storage="online")
    sizes = built.storage
    assert sizes.label_bytes == 4000 and sizes.external_bytes == 4000 and sizes.external[0].sha256 == "ab" * 32
    assert sizes.paper_bytes - mosaic().storage.paper_bytes == 4000
    assert not any("regions" in name for name in built.manifest.tensor_table())
    for wrong in (None, SmallObserver(trained())):
        if wrong is not None:
            wrong.identity = "cd" * 32
        with pytest.raises(InputError, match="abababababab"):
            built.training_items("cpu", wrong)
    asked = observer()
    items = built.training_items("cpu", asked)
    for epoch in (0, 1, 3, 4):
        items.epoch(epoch, torch.Generator())
    assert asked.num_calls == 2, "what was answered is kept for the next network"


class Nameless:
    def logits(self, images: Tensor) -> Tensor:
        return images.new_zeros(len(images), 10)


def test_sets_and_observers_that_do_not_fit_are_refused() -> None:
    class Few(Nameless):
        def logits(self, images: Tensor) -> Tensor:
            return images.new_zeros(len(images), 7)

    class Other(Nameless):
        classes = CLASSES[::-1]

    class Broken(Nameless):
        def logits(self, images: Tensor) -> Tensor:
            return images.new_full((len(images), 10), math.nan)

    assert with_regions(mosaic(), Nameless(), settings()).manifest.shards[0].regions.observer is None  # type: ignore[union-attr]
    for given, by, config, message in (
        (mosaic(), Other(), settings(), "other classes than the set"),
        (mosaic(), Few(), settings(), "observer of the set's 10 classes"),
        (mosaic(), Broken(), settings(), "not all finite"),
        (mosaic(), Nameless(), settings(storage="online"), "needs an observer with identity"),
        (build(digit_images(), soft="float16"), Nameless(), settings(), "has soft labels"),
        (build(digit_images()), Nameless(), settings(tile_probability=0.5), "no mosaics"),
        (mosaic(), Nameless(), settings(label_bytes=399), "one epoch take 400"),
    ):
        with pytest.raises(InputError, match=message):
            with_regions(given, by, config)


def test_the_loader_gives_regions_and_probabilities() -> None:
    built = labelled("tiles, mixed")
    batches = list(built.loader(6, epoch=2, seed=1))
    assert [len(images) for images, _ in batches] == [6, 6, 6, 2]
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    torch.testing.assert_close(labels, observer().logits(images).softmax(1), rtol=0, atol=2e-3)
    online = labelled("tiles, mixed", "online")
    with pytest.raises(InputError, match="needs the observer"):
        next(online.loader(6))
    assert next(online.loader(6, observer=observer()))[1].shape == (6, 10)


@pytest.mark.parametrize("storage", STORAGES)
def test_bytes_are_known_beforehand(storage: str) -> None:
    built = labelled("augmented and mixed", storage)
    manifest = built.manifest
    codec = built.preprocess
    labels = settings(storage=storage, **VARIANTS["augmented and mixed"], **SMALL.get(storage, {}))
    facts: dict[str, Any] = {"classes": CLASSES, "recipe": RECIPE, "data": manifest.data, "seed": 0}
    estimate = DistilledSet.estimate_bytes(
        codec, codec, items=MosaicConfig(storage="int8"), labels=labels, num_per_class=2,
        initial=manifest.initialization, observer=ObserverFacts(identity="ab" * 32, num_bytes=4000), **facts,
    )  # fmt: skip
    assert estimate == built.file_bytes


def test_an_export_says_that_regions_are_lost(tmp_path: Path) -> None:
    built = labelled()
    export(built, "npz", tmp_path / "set.npz")
    arrays = np.load(tmp_path / "set.npz")
    assert "soft_labels" not in arrays and any(
        "region labels" in line for line in json.loads(str(arrays["about"]))["lost"]
    )
    export(built, "imagefolder", tmp_path / "set")
    assert "region labels" in (tmp_path / "set" / "attar-export.json").read_text()


# Training


def test_losses_by_hand() -> None:
    student, teacher = logits_of(6, 4).double(), logits_of(12, 4)[6:].double()
    probabilities = (teacher / 2.5).softmax(1)
    soft = item_losses(student, Batch(student, probabilities, temperature=2.5))
    by_hand = -(probabilities * torch.log_softmax(student / 2.5, 1)).sum(1)
    torch.testing.assert_close(soft, by_hand)
    squared = item_losses(student, Batch(student, teacher, logits=True))
    torch.testing.assert_close(squared, (student - teacher).square().sum(1) / 4)
    hard = torch.arange(6) % 4
    warm = Batch(student, hard, temperature=7.0, logits=False)
    torch.testing.assert_close(
        item_losses(student, warm), torch.nn.functional.cross_entropy(student, hard, reduction="none")
    )


def test_soft_targets_by_hand() -> None:
    warm = TrainingConfig(temperature=4.0)
    logits = logits_of(5, 3)
    torch.testing.assert_close(soft_targets(logits, warm, True), (logits / 4).softmax(1))
    torch.testing.assert_close(soft_targets(logits.softmax(1), warm, False), (logits / 4).softmax(1))
    sure = torch.eye(3)
    assert torch.equal(soft_targets(sure, warm, False), sure)
    hard = torch.tensor([0, 2])
    assert soft_targets(hard, TrainingConfig(soft_loss="logits"), False) is hard
    assert soft_targets(logits, TrainingConfig(soft_loss="logits"), True) is logits
    with pytest.raises(InputError, match="labels are probabilities"):
        soft_targets(sure, TrainingConfig(soft_loss="logits"), False)
    with pytest.raises(ValueError, match="no effect on soft_loss 'logits'"):
        TrainingConfig(soft_loss="logits", temperature=2.0)


def test_nothing_is_augmented_or_mixed_on_top() -> None:
    items = labelled().training_items("cpu")
    training = TrainingConfig(epochs=2, batch_size=8, augmentation=DsaConfig(), cutmix_probability=1.0)
    batches = list(training_batches(items, training, Plan.of(training, 20), 3, torch.device("cpu")))
    assert len(batches) == 6 and all(batch.other_labels is None for batch in batches)
    inputs, labels = items.epoch(1, torch.Generator())
    order = torch.randperm(20, generator=generator(3, "order", 1))
    torch.testing.assert_close(batches[3].inputs, inputs[order[:8]], rtol=0, atol=0)
    torch.testing.assert_close(batches[3].labels, labels[order[:8]].softmax(1))


@pytest.mark.parametrize(
    ("changes", "least"), [({}, 0.8), ({"temperature": 4.0}, 0.8), ({"soft_loss": "logits"}, 0.8)], ids=str
)
def test_networks_learn_from_regions(changes: dict[str, Any], least: float) -> None:
    _, test = halves()
    built = with_regions(build(digit_images(), "pixels", count=8), observer(), settings(epochs=40, scale=(0.6, 1.0)))
    training = TrainingConfig(
        epochs=40, batch_size=25, optimizer="adamw", learning_rate=0.005, milestones=(0.7,), decay=0.2,
        augmentation=DsaConfig(), **changes,
    )  # fmt: skip
    (student,) = train_networks(network_from_text("convnet:d2w16"), built.training_items("cpu"), 10, training, [1])
    preprocess = built.preprocess
    found = test_network(student, lambda images: preprocess.encode(images.float() / 255), test)
    assert found.accuracy > least


def test_stacked_networks_meet_the_same_labels() -> None:
    items = labelled().training_items("cpu")
    config = NetworkConfig(width=8, depth=2)
    for changes in ({"temperature": 3.0}, {"soft_loss": "logits"}):
        training = TrainingConfig(epochs=2, batch_size=8, **changes)  # type: ignore[arg-type]
        looped = train_networks(config, items, 10, training, [0, 1], mode="looped")
        stacked = train_networks(config, items, 10, training, [0, 1], mode="stacked")
        for one, other in zip(looped, stacked, strict=True):
            for a, b in zip(one.parameters(), other.parameters(), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_the_protocol_is_the_papers() -> None:
    lic = protocol("lic")
    training = lic.training
    assert (training.optimizer, training.learning_rate, training.weight_decay) == ("adamw", 1e-3, 1e-4)
    assert training.epochs == 1000 and training.decay == 0.2 and training.soft_loss == "cross-entropy"
    assert [math.floor(fraction * 1000 + 1e-9) for fraction in training.milestones] == [666, 833]
    assert lic.deviations and lic.flips


# Files


def test_regions_are_rendered_in_any_batches_and_without_keeping(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = labelled("augmented and mixed")
    monkeypatch.setattr("attar.methods.labels.regions.LARGEST_KEPT_VALUES", 0)
    monkeypatch.setattr("attar.methods.labels.regions.CHUNK_VALUES", 200)
    fresh = labelled("augmented and mixed")
    assert (fresh.region_tensors()[0]["logits"] - kept.region_tensors()[0]["logits"]).abs().max() < 0.01
    inputs = fresh.training_items("cpu").epoch(0, torch.Generator())[0]
    torch.testing.assert_close(inputs[torch.arange(20)][[3, 7]], inputs[torch.tensor([3, 7])], rtol=0, atol=1e-5)


def test_numbers_for_augmentation_come_by_place() -> None:
    from attar.data.augmentation import Dsa

    dsa = Dsa(DsaConfig(mode="multiple"))
    few, many = (dsa.draw(count, (3, 8, 8), Counter(0, "dsa"), siamese=False).values for count in (4, 9))
    assert few.keys() == many.keys() and all(torch.equal(value, many[name][:4]) for name, value in few.items())
    assert len(set(many["angle"].tolist())) == 9
    one = dsa.draw(9, (3, 8, 8), Counter(0, "dsa"), siamese=True).values
    assert all(len(value) == 1 for value in one.values())


def test_regions_render_without_a_set() -> None:
    images = digit_images().images[:9].float() / 255
    codec = fit_codec(codec_from_text("pixels"), digit_images())
    made = Regions(lambda places: images[places], 9, (1, 8, 8), settings(), codec)
    drawn = made.draw(0)
    torch.testing.assert_close(made.images(drawn, torch.arange(9)), apply_regions(images, drawn), rtol=0, atol=1e-6)
    assert made.logits(observer(), 0, 4).shape == (9, 10)


@pytest.mark.parametrize("storage", ["float16", "int8", "top-k", "codebook"])
def test_the_documented_reader_reads_labels_and_boxes(tmp_path: Path, storage: str) -> None:
    blocks = (Path(__file__).parents[1] / "docs" / "file-format.md").read_text(encoding="utf-8").split("```python\n")
    built = labelled("tiles, mixed", storage)
    built.save(tmp_path / "set.safetensors")
    with safe_open(tmp_path / "set.safetensors", framework="numpy") as file:
        manifest = json.loads(file.metadata()["attar"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    read: dict[str, Any] = {"np": np, "manifest": manifest, "tensors": tensors}
    exec(blocks[2].split("```")[0], read)
    items = built.training_items("cpu")
    assert isinstance(items, RegionItems)
    spec = built.manifest.shards[0].regions
    assert spec is not None
    for epoch in (1, 5):
        torch.testing.assert_close(torch.from_numpy(read["region_logits"](0, epoch)), items.logits(epoch))
        drawn = draw_regions(spec.labels, epoch, 20, (1, 8, 8), 2, spec.seed)
        boxes, mirrored = read["region_boxes"](0, epoch)
        torch.testing.assert_close(torch.from_numpy(boxes), drawn.boxes * 8, rtol=0, atol=1e-9)
        assert torch.equal(torch.from_numpy(mirrored), drawn.flipped)
