"""Sizes: every one against a count by hand, and files whose bytes are known before their items are."""

from __future__ import annotations

import pytest
import torch

from attar.data.image_set import ImageSet
from attar.methods.labels.hard import HardLabels
from attar.methods.parameterizations.codes import Codes, CodesConfig
from attar.methods.parameterizations.codes import Storage as CodeStorage
from attar.models.codecs.codec import ExternalWeights
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import codec_from_text, fit_codec
from attar.sets.distilled import DistilledSet
from attar.sets.sizes import storage_of
from attar.sets.storages import TensorSpec
from small_sets import CLASSES, RECIPE, build, digit_images, first_items

PCA_VALUES = 4 * 16 + 16 + 4  # basis, mean patch, scales
PCA_CODES = 30 * 4 * 2 * 2


@pytest.fixture
def digits() -> ImageSet:
    return digit_images()


@pytest.mark.parametrize(
    ("codec_text", "storage", "paper_values", "codes_bytes"),
    [
        ("pca:f4c4", "float32", PCA_CODES + PCA_VALUES, 4 * PCA_CODES),
        ("pca:f4c4", "float16", PCA_CODES + PCA_VALUES, 2 * PCA_CODES),
        ("pca:f4c4", "int8", PCA_CODES + 4 + PCA_VALUES, PCA_CODES + 4 * 4),
        ("pixels", "float32", 30 * 64 + 2, 4 * 30 * 64),
        ("pixels", "int8", 30 * 64 + 1 + 2, 30 * 64 + 4),
        ("zca", "float32", 30 * 64 + 64 + 1 + 64 * 65 // 2, 4 * 30 * 64),
        ("dct:f4c4", "float16", PCA_CODES, 2 * PCA_CODES),
    ],
)
def test_sizes_are_what_a_hand_counts(
    digits: ImageSet, codec_text: str, storage: CodeStorage, paper_values: int, codes_bytes: int
) -> None:
    built = build(digits, codec_text, storage)
    decoder_values = sum(t.numel() for t in fit_codec(codec_from_text(codec_text), digits).stored_tensors().values())
    if codec_text.startswith("dct"):
        paper_values += decoder_values
    sizes = built.storage
    assert sizes.paper_bytes == 4 * paper_values
    assert sizes.codes_bytes == codes_bytes
    assert sizes.file_bytes == len(built.to_bytes())
    assert sizes.bits_per_class == 8 * len(built.to_bytes()) / 10
    assert sizes.external == () and sizes.sets_to_amortise() == 0


def test_a_decoder_shared_by_shards_counts_once(digits: ImageSet) -> None:
    codec = fit_codec(codec_from_text("pca:f4c4"), digits)
    parts = [Codes(codec, torch.zeros(2, 4, 2, 2), torch.tensor([label, label]), "float32") for label in (0, 1, 2)]
    built = DistilledSet.build(
        parts,
        fit_codec(PixelsConfig(), digits),
        classes=CLASSES,
        recipe=RECIPE,
        data=("digits", digits),
        initial=("noise", []),
    )
    assert built.storage.paper_bytes == 4 * (3 * 2 * 16 + PCA_VALUES)
    assert built.storage.codes_bytes == 4 * 3 * 2 * 16


def test_soft_labels_count_and_hard_labels_do_not(digits: ImageSet) -> None:
    built = build(digits, "pca:f4c4", "float32")
    shard = built.manifest.shards[0]
    soft = shard.model_copy(
        update={"tensors": {**shard.tensors, "soft_labels": TensorSpec(dtype="F16", shape=(30, 10))}}
    )
    manifest = built.manifest.model_copy(update={"shards": (soft,)})
    sizes = storage_of(manifest, built.file_bytes)
    assert sizes.paper_bytes - built.storage.paper_bytes == 4 * 300


def test_public_weights_are_listed_and_not_counted(digits: ImageSet) -> None:
    built = build(digits, "dct:f4c4", "int8")
    shard = built.manifest.shards[0]
    weights = ExternalWeights(id="somebody/vae", sha256="ab" * 32, num_bytes=10 * built.file_bytes + 1, num_values=5)
    far = shard.model_copy(update={"codec": shard.codec.model_copy(update={"external": weights})})
    manifest = built.manifest.model_copy(update={"shards": (far, far)})
    sizes = storage_of(manifest, built.file_bytes)
    assert sizes.external == (weights,) and sizes.external_bytes == weights.num_bytes
    assert sizes.sets_to_amortise() == 11
    told = "\n".join(sizes.lines())
    assert "somebody/vae" in told and "abababababab" in told and f"{built.file_bytes:,} bytes" in told


@pytest.mark.parametrize("codec_text", ["pixels", "zca", "pca:f4c4"])
@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
@pytest.mark.parametrize("count", [1, 40])
def test_bytes_are_known_before_the_items_are(
    digits: ImageSet, codec_text: str, storage: CodeStorage, count: int
) -> None:
    codec = fit_codec(codec_from_text(codec_text), digits)
    preprocess = codec if codec_text != "pca:f4c4" else fit_codec(PixelsConfig(), digits)
    indices = first_items(digits, count)
    codes = Codes(codec, codec.encode(digits.images[indices].float() / 255), digits.labels[indices], storage)
    facts = {"classes": CLASSES, "recipe": RECIPE, "data": ("digits", digits), "seed": 7, "device": "cpu"}
    estimate = DistilledSet.estimate_bytes(
        codec,
        preprocess,
        items=CodesConfig(storage=storage),
        labels=HardLabels(),
        num_per_class=count,
        initial=("herding", ()),
        **facts,  # type: ignore[arg-type]
    )
    wide = DistilledSet.build(codes, preprocess, initial=("herding", [1796] * len(indices)), **facts)  # type: ignore[arg-type]
    assert estimate == wide.file_bytes == len(wide.to_bytes())
    real = DistilledSet.build(codes, preprocess, initial=("herding", indices.tolist()), **facts)  # type: ignore[arg-type]
    spared = len(indices) * (2 - (1 if max(indices) < 64 else 2))
    assert abs(estimate - real.file_bytes - spared) < 8


def test_a_realistic_estimate_is_within_one_per_cent() -> None:
    pixels = torch.randint(0, 256, (50_000, 1, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = ImageSet(pixels, torch.arange(50_000) % 10, CLASSES)
    codec = fit_codec(PixelsConfig(), images)
    indices = torch.randperm(50_000, generator=torch.Generator().manual_seed(1))[:100]
    codes = Codes(codec, torch.randn(100, 1, 2, 2), torch.arange(10).repeat_interleave(10), "int8")
    facts = {"classes": CLASSES, "recipe": RECIPE, "data": ("noise", images)}
    real = DistilledSet.build(codes, codec, initial=("random", indices.tolist()), **facts).file_bytes  # type: ignore[arg-type]
    estimate = DistilledSet.estimate_bytes(
        codec,
        codec,
        items=CodesConfig(),
        labels=HardLabels(),
        num_per_class=10,
        initial=("random", ()),
        **facts,  # type: ignore[arg-type]
    )
    assert real <= estimate < 1.01 * real
