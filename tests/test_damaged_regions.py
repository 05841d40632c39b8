"""Damaged and hostile files with region labels: one clear line that names the fault, never another exception."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from attar.base.errors import InputError
from attar.data.augmentation import DsaConfig
from attar.methods.labels.regions import RegionLabels
from attar.sets.distilled import DistilledSet
from attar.sets.relabelling import with_regions
from small_regions import SMALL, STORAGES
from small_sets import build, digit_images
from test_damaged_files import json_values, parts, places, put, set_value, store, tampered

Change = Callable[[dict[str, Any], dict[str, Tensor]], Any]
REGIONS = ("shards", 0, "regions")
LABELS = (*REGIONS, "labels")


class Counting:
    """Logits that are class numbers, falling."""

    identity, num_bytes = "ab" * 32, 400

    def logits(self, images: Tensor) -> Tensor:
        return images.mean((1, 2, 3)).unsqueeze(1) - torch.arange(10.0)


@cache
def good_bytes(storage: str = "float16") -> bytes:
    config = RegionLabels(epochs=2, storage=storage, augmentation=DsaConfig(), mix="cutmix", **SMALL.get(storage, {}))  # type: ignore[arg-type]
    return with_regions(build(digit_images(), "pca:f4c4", "int8", 2), Counting(), config).to_bytes()


def changed(change: Change, storage: str = "float16", seal: bool = True) -> bytes:
    return tampered(change, seal, lambda: good_bytes(storage))


def replaced(name: str, tensor: Tensor) -> Change:
    return store(f"shards.0.regions.{name}", tensor)


def with_soft_labels(tree: Any, tensors: dict[str, Tensor]) -> None:
    tree["shards"][0]["items"]["label_storage"] = "float16"
    tensors["shards.0.soft_labels"] = torch.zeros(20, 10, dtype=torch.float16)


def first_class_twice(tree: Any, tensors: dict[str, Tensor]) -> None:
    classes = tensors["shards.0.regions.classes"]
    classes[0, 3, 1] = classes[0, 3, 0]


CASES: dict[str, tuple[Callable[[], bytes], str]] = {
    "soft labels beside": (lambda: changed(with_soft_labels), "or have soft ones"),
    "changed and not sealed": (lambda: changed(put(*REGIONS, "seed", value=1), seal=False), "checksum"),
    "another seed's name": (lambda: changed(put(*REGIONS, "seed", value="1")), r"regions\.seed"),
    "an unknown key": (lambda: changed(put(*REGIONS, "more", value=1)), r"regions\.more: Extra"),
    "an unknown label setting": (lambda: changed(put(*LABELS, "more", value=1)), r"labels\.more: Extra"),
    "an unknown storage": (lambda: changed(put(*LABELS, "storage", value="int4")), r"labels\.storage"),
    "another storage": (
        lambda: changed(put(*LABELS, "storage", value="int8")),
        r"lacks tensor 'shards.0.regions.offset",
    ),
    "a scale beyond the canvas": (lambda: changed(put(*LABELS, "scale", value=[0.5, 1.5])), "scale is"),
    "an empty scale": (lambda: changed(put(*LABELS, "scale", value=[0.0, 0.0])), "scale is"),
    "a probability of two": (lambda: changed(put(*LABELS, "flip", value=2.0)), r"labels\.flip"),
    "an augmentation of anything": (
        lambda: changed(put(*LABELS, "augmentation", "strategy", value="swirl")),
        "unknown augmentation 'swirl'",
    ),
    "more epochs than stored": (
        lambda: changed(put(*LABELS, "epochs", value=3)),
        r"'shards.0.regions.logits' is F16 \[2, 20, 10\] and must be F16 \[3, 20, 10\]",
    ),
    "no epochs": (lambda: changed(put(*LABELS, "epochs", value=0)), r"labels\.epochs"),
    "absurdly many epochs": (lambda: changed(put(*LABELS, "epochs", value=2**40)), r"labels\.epochs"),
    "no tensors": (
        lambda: changed(lambda _, tensors: tensors.pop("shards.0.regions.logits")),
        "lacks tensor 'shards.0.regions.logits'",
    ),
    "a tensor too many": (lambda: changed(replaced("more", torch.ones(1))), "unlisted tensor 'shards.0.regions.more'"),
    "tensors in the text": (lambda: changed(put(*REGIONS, "tensors", value={})), "checksum"),
    "logits of other canvases": (
        lambda: changed(replaced("logits", torch.zeros(2, 19, 10, dtype=torch.float16))),
        r"is F16 \[2, 19, 10\] and must be F16 \[2, 20, 10\]",
    ),
    "logits of other classes": (
        lambda: changed(replaced("logits", torch.zeros(2, 20, 9, dtype=torch.float16))),
        r"must be F16 \[2, 20, 10\]",
    ),
    "logits of another dtype": (lambda: changed(replaced("logits", torch.zeros(2, 20, 10))), "must be"),
    "NaN in the logits": (lambda: changed(set_value("shards.0.regions.logits", 3, float("nan"))), "not finite"),
    "an infinite scale": (
        lambda: changed(set_value("shards.0.regions.scale", 3, float("inf")), "int8"),
        "not finite",
    ),
    "a scale of nothing": (lambda: changed(set_value("shards.0.regions.scale", 3, 0.0), "int8"), "not positive"),
    "a class too high": (
        lambda: changed(set_value("shards.0.regions.classes", 4, 10), "top-k"),
        "classes of the region labels run from 0 to 10; with 10 classes they must lie in 0..9",
    ),
    "a negative class": (lambda: changed(set_value("shards.0.regions.classes", 4, -1), "top-k"), "run from -1 to"),
    "a class twice": (lambda: changed(first_class_twice, "top-k"), "name a class twice"),
    "an infinite rest": (
        lambda: changed(set_value("shards.0.regions.rest", 0, float("-inf")), "top-k"),
        "not finite",
    ),
    "codebooks of another size": (
        lambda: changed(replaced("entries", torch.zeros(4, 255, 3, dtype=torch.float16)), "codebook"),
        "tensor 'shards.0.regions.entries' is F16",
    ),
    "directions that are not finite": (
        lambda: changed(set_value("shards.0.regions.directions", 0, float("nan")), "codebook"),
        "not finite",
    ),
    "more bytes of a label than classes": (
        lambda: changed(put(*LABELS, "code_bytes", value=11), "codebook"),
        "code_bytes is 11 and there are 10 classes",
    ),
    "as many kept as there are classes": (lambda: changed(put(*LABELS, "top_k", value=10), "top-k"), "top_k is 10"),
    "nobody to ask": (lambda: changed(put(*REGIONS, "observer", value=None), "online"), "do not say which observer"),
    "an observer without a name": (
        lambda: changed(put(*REGIONS, "observer", "identity", value="../x"), "online"),
        r"observer\.identity",
    ),
    "an observer of no bytes": (
        lambda: changed(put(*REGIONS, "observer", "num_bytes", value=0), "online"),
        r"observer\.num_bytes",
    ),
    "an observer that steers the terminal": (
        lambda: changed(put(*REGIONS, "observer", "network", value="\x1b[2J"), "online"),
        r"observer\.network",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_fault_has_its_own_line(case: str, tmp_path: Path) -> None:
    make, message = CASES[case]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(make())
    with pytest.raises(InputError, match=message) as caught:
        DistilledSet.load(path)
    line = str(caught.value)
    assert line.startswith(str(path)) and line.isprintable() and len(line) < 700


@pytest.mark.parametrize("storage", STORAGES)
def test_what_tampering_starts_from_is_good(tmp_path: Path, storage: str) -> None:
    path = tmp_path / "good.safetensors"
    path.write_bytes(changed(lambda tree, tensors: None, storage))
    assert DistilledSet.load(path).to_bytes() == good_bytes(storage)


TREE = json.loads(parts(good_bytes())[0]["__metadata__"]["attar"])
PLACES = [(*REGIONS, *place) for place in places(TREE["shards"][0]["regions"])]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from(PLACES), value=json_values)
def test_a_sealed_description_with_any_value_anywhere_never_raises_another_exception(
    tmp_path: Path, place: tuple[str | int, ...], value: Any
) -> None:
    path = tmp_path / "fuzzed.safetensors"
    try:
        path.write_bytes(changed(put(*place, value=value)))
    except UnicodeEncodeError:
        return
    try:
        read = DistilledSet.load(path)
        read.describe(), read.storage
        inputs, labels = read.training_items("cpu", Counting()).epoch(1, torch.Generator())
        assert len(inputs[torch.arange(3)]) == 3 and labels.shape == (20, 10)
    except InputError as error:
        assert str(error).isprintable()
