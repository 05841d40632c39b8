"""The distilled set: what is stored is what is read, rendered and streamed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from attar.base.errors import InputError
from attar.data.image_set import ImageSet
from attar.methods.parameterizations.codes import Codes, Storage, read_codes
from attar.methods.parameterizations.registry import restore_parameterization
from attar.models.codecs.codec import Codec, ExternalWeights
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import codec_from_text, fit_codec
from attar.sets.distilled import DistilledSet
from attar.sets.manifest import InitialProvenance
from small_sets import CLASSES, RECIPE, build, digit_images, first_items


@pytest.fixture
def digits() -> ImageSet:
    return digit_images()


@pytest.mark.parametrize("codec_text", ["pixels", "zca", "pca:f4c4", "dct:f4c4"])
@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
def test_a_saved_set_is_read_back_the_same(digits: ImageSet, tmp_path: Path, codec_text: str, storage: Storage) -> None:
    built = build(digits, codec_text, storage)
    built.save(tmp_path / "set.safetensors")
    read = DistilledSet.load(tmp_path / "set.safetensors")
    assert read.manifest == built.manifest
    assert read.to_bytes() == built.to_bytes() == (tmp_path / "set.safetensors").read_bytes()
    assert torch.equal(read.codes, built.codes)
    assert torch.equal(read.labels, torch.arange(10).repeat_interleave(3))
    assert torch.allclose(read.images(), built.images(), atol=1e-5)
    assert read.fingerprint == built.fingerprint
    assert read.num_per_class == (3,) * 10 and len(read) == 30 and read.image_shape == (1, 8, 8)


def test_the_same_run_gives_the_same_bytes(digits: ImageSet) -> None:
    assert build(digits).to_bytes() == build(digits).to_bytes()
    assert build(digits, seed=1).to_bytes() != build(digits).to_bytes()


def test_float32_images_are_those_of_the_codec(digits: ImageSet) -> None:
    built = build(digits, "pixels", "float32")
    real = digits.images[first_items(digits, 3)].float() / 255
    assert torch.allclose(built.images(), real, atol=1e-6)
    assert torch.allclose(built.images([4, 1]), real[[4, 1]], atol=1e-6)


def test_a_built_set_already_shows_what_quantisation_lost(digits: ImageSet) -> None:
    built = build(digits, "pixels", "int8")
    scale = build(digits, "pixels", "float32").codes.abs().max() / 127
    error = (built.codes - build(digits, "pixels", "float32").codes).abs().max()
    assert 0 < error <= scale / 2 * 1.001


def test_items_out_of_range_are_refused(digits: ImageSet) -> None:
    built = build(digits)
    assert built.images([]).shape == (0, 1, 8, 8)
    for items in ([30], [-1], [0, 31]):
        with pytest.raises(InputError, match="there are 30"):
            built.images(items)


def test_a_payload_must_fit_its_spec_and_codec(digits: ImageSet) -> None:
    codec = fit_codec(codec_from_text("pca:f4c4"), digits)
    codes = Codes(codec, torch.randn(4, 4, 2, 2), torch.tensor([0, 0, 1, 1]), "int8")
    restored = restore_parameterization(codec, codes.payload(), codes.spec())
    assert isinstance(restored, Codes) and restored.storage == "int8" and torch.equal(restored.labels, codes.labels)
    assert torch.equal(restored.codes, read_codes(codes.payload()))
    with pytest.raises(InputError, match="unknown parameterization 'prior'"):
        restore_parameterization(codec, codes.payload(), {"kind": "prior"})
    with pytest.raises(InputError, match="'codes': more: Extra"):
        restore_parameterization(codec, codes.payload(), {**codes.spec(), "more": 1})
    with pytest.raises(InputError, match="payload tensor 'codes'"):
        restore_parameterization(fit_codec(codec_from_text("pixels"), digits), codes.payload(), codes.spec())
    with pytest.raises(InputError, match=r"payload tensor 'codes' is \('I8'"):
        restore_parameterization(codec, codes.payload(), {**codes.spec(), "storage": "float32"})


def test_clamping_is_a_choice(digits: ImageSet) -> None:
    built = build(digits, "pca:f4c4", "float32")
    free, cut = built.images(), built.images(clamp=True)
    assert free.min() < 0, "patch PCA overshoots on digits; without that this test shows nothing"
    assert torch.equal(cut, free.clamp(0, 1))


def test_the_preprocess_is_stored_once(digits: ImageSet) -> None:
    shared = build(digits, "pixels")
    assert set(shared.manifest.tensor_table()) == {"codecs.0.mean", "codecs.0.std", "shards.0.codes", "shards.0.scale"}
    apart = build(digits, "pca:f4c4")
    assert {"codecs.0.mean", "codecs.1.basis"} <= set(apart.manifest.tensor_table())


def test_the_loader_gives_every_item_once_and_another_order_each_epoch(digits: ImageSet) -> None:
    built = build(digits)
    images, labels = (torch.cat(parts) for parts in zip(*built.loader(7, epoch=3, seed=5), strict=True))
    again = torch.cat([batch for batch, _ in built.loader(11, epoch=3, seed=5)])
    other = torch.cat([batch for _, batch in built.loader(7, epoch=4, seed=5)])
    assert torch.allclose(images, again, atol=1e-6) and not torch.equal(labels, other)
    assert torch.equal(labels.sort().values, built.labels.sort().values)
    everything = built.images()
    for image, label in zip(images, labels, strict=True):
        nearest = (everything - image).flatten(1).abs().sum(1).argmin()
        assert built.labels[nearest] == label
    assert [len(batch) for batch, _ in built.loader(8)] == [8, 8, 8, 6]
    with pytest.raises(InputError, match="batch size 0"):
        next(built.loader(0))


@pytest.mark.parametrize("chunk", [64, 200, 2**21])
def test_training_items_are_preprocessed_images_however_they_are_cut(
    digits: ImageSet, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    built = build(digits)
    whole = built.preprocess.encode(built.images())
    monkeypatch.setattr("attar.sets.distilled.CHUNK_VALUES", chunk)
    items = built.training_items("cpu")
    inputs, labels = items.epoch(0, torch.Generator())
    assert items.num_items == 30 and torch.equal(labels, built.labels)
    assert torch.allclose(inputs, whole, atol=1e-5)
    assert inputs.dtype == torch.float32 and not inputs.requires_grad


class Noisy(Codes):
    """Codes plus noise: the smallest stochastic parameterization."""

    @property
    def stochastic(self) -> bool:
        return True

    @torch.no_grad()
    def images(self, items: Tensor, generator: torch.Generator | None = None) -> Tensor:
        clean = super().images(items)
        return clean + torch.randn(clean.shape, generator=generator)


def test_stochastic_items_are_drawn_anew_each_epoch(digits: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "attar.sets.distilled.restore_parameterization",
        lambda codec, payload, *_: Noisy(codec, read_codes(payload), payload["labels"].long()),
    )  # type: ignore[arg-type]
    built = build(digits)
    items = built.training_items("cpu")
    one, same, other = (items.epoch(0, torch.Generator().manual_seed(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(built.images(epoch=1), built.images(epoch=1))
    assert not torch.equal(built.images(epoch=1), built.images(epoch=2))


def test_several_shards_share_one_set(digits: ImageSet, tmp_path: Path) -> None:
    parts = []
    for text, wanted in (("pca:f4c4", 0), ("pca:f2c1", 1), ("pca:f4c4", 2)):
        codec = fit_codec(codec_from_text(text), digits)
        members = digits.class_indices[wanted][:2]
        parts.append(
            Codes(codec, codec.encode(digits.images[members].float() / 255), digits.labels[members], "float32")
        )
    preprocess = fit_codec(PixelsConfig(), digits)
    initial = InitialProvenance(kind="random", real_pixels_inside=True)
    built = DistilledSet.build(
        parts, preprocess, classes=CLASSES, recipe=RECIPE, data=("digits", digits), initial=initial
    )
    built.save(tmp_path / "merged.safetensors")
    read = DistilledSet.load(tmp_path / "merged.safetensors")
    stored = read.manifest.tensor_table()
    assert {"codecs.1.basis", "codecs.2.basis"} <= set(stored), "the codec of shards 0 and 2 is stored once"
    assert "codecs.3.basis" not in stored and "shards.0.labels" in stored
    assert read.labels.tolist() == [0, 0, 1, 1, 2, 2]
    expected = torch.cat([part.images(torch.arange(2)) for part in parts])
    assert torch.allclose(read.images(), expected, atol=1e-5)
    assert torch.allclose(read.images([5, 0, 3]), expected[[5, 0, 3]], atol=1e-5)
    assert sum(len(labels) for _, labels in read.loader(4)) == 6
    assert read.training_items("cpu").num_items == 6
    assert read.num_per_class == (2, 2, 2, 0, 0, 0, 0, 0, 0, 0)
    with pytest.raises(InputError, match="not codes of one shape"):
        _ = read.codes


class Distant(Codec):
    """A codec whose weights are elsewhere, as an autoencoder's are."""

    kind = "pixels"

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.image_shape = self.code_shape = shape

    def encode(self, images: Tensor) -> Tensor:
        return images - 0.5

    def decode(self, codes: Tensor) -> Tensor:
        return codes + 0.5

    def spec(self) -> dict[str, Any]:
        return {"kind": "distant", "image_shape": list(self.image_shape)}

    @classmethod
    def restore(cls, spec: dict[str, Any], tensors: Mapping[str, Tensor]) -> Distant:
        raise NotImplementedError

    def external(self) -> ExternalWeights:
        return ExternalWeights(id="somebody/vae", sha256="ab" * 32, num_bytes=335_000_000, num_values=83_000_000)


def test_absent_weights_are_missed_only_when_images_are_wanted(digits: ImageSet, tmp_path: Path) -> None:
    codec = Distant((1, 8, 8))
    codes = Codes(codec, torch.zeros(10, 1, 8, 8), torch.arange(10), "int8")
    built = DistilledSet.build(
        codes,
        fit_codec(PixelsConfig(), digits),
        classes=CLASSES,
        recipe=RECIPE,
        data=("digits", digits),
        initial=("random", list(range(10))),
    )
    assert built.images().shape == (10, 1, 8, 8), "a built set keeps the codec it was built with"
    built.save(tmp_path / "far.safetensors")
    read = DistilledSet.load(tmp_path / "far.safetensors")
    assert read.describe()["shards"][0]["external"]["id"] == "somebody/vae"
    assert read.storage.external_bytes == 335_000_000 and read.labels.tolist() == list(range(10))
    for wish in (read.images, lambda: read.training_items("cpu"), lambda: next(read.loader(2))):
        with pytest.raises(InputError, match=f"somebody/vae.*{'ab' * 32}") as caught:
            wish()
        assert "\n" not in str(caught.value) and "far.safetensors" in str(caught.value)


def test_describe_is_plain_json_and_tells_what_matters(digits: ImageSet) -> None:
    from attar.base.files import canonical_json

    about = build(digits).describe()
    assert canonical_json(about)
    assert about["name"] == "latent-dm of digits" and about["citations"] == ["latentdd", "dm"]
    assert about["num_per_class"] == [3] * 10 and about["initialization"] == {
        "kind": "random",
        "real_pixels_inside": True,
    }
    assert about["storage"]["file_bytes"] == build(digits).file_bytes
    assert "No differential-privacy guarantee" in about["privacy"]
    assert about["data"]["fingerprint"] == digits.fingerprint and about["data"]["num_items"] == 1797


def test_a_file_never_tells_where_it_was_made(digits: ImageSet) -> None:
    recipe = {**RECIPE, "codec": {"path": "/home/somebody/vae"}, "others": ["C:\\Users\\somebody\\vae", "~/vae", "a/b"]}
    built = build(digits, recipe=recipe, data=("/data/secret/photos", digits))
    assert built.manifest.recipe["codec"] == {"path": "vae"}
    assert built.manifest.recipe["others"] == ["vae", "vae", "a/b"] and built.manifest.data.name == "photos"
    assert b"somebody" not in built.to_bytes() and b"secret" not in built.to_bytes()


def test_provenance_can_be_added_without_changing_the_items(digits: ImageSet) -> None:
    built = build(digits)
    scored = built.replace(scores=[{"protocol": "quick-1", "accuracy": 0.9}])
    assert scored.manifest.scores == ({"protocol": "quick-1", "accuracy": 0.9},)
    assert scored.fingerprint == built.fingerprint and scored.to_bytes() != built.to_bytes()
    assert torch.equal(scored.images(), built.images())
    with pytest.raises(InputError, match="score"):
        built.replace(score=[])


def test_what_cannot_be_stored_is_refused(digits: ImageSet) -> None:
    with pytest.raises(InputError, match="given twice"):
        build(digits, classes=("a",) * 10)
    with pytest.raises(InputError, match="control character"):
        build(digits, classes=("a\n", *CLASSES[1:]))
    with pytest.raises(InputError, match="labels run from 0 to 9; with 2 classes"):
        build(digits, classes=("a", "b"))
    codec = fit_codec(codec_from_text("pixels"), digits)
    broken = Codes(codec, torch.full((2, 1, 8, 8), float("nan")), torch.tensor([0, 1]))
    facts: dict[str, Any] = {"recipe": RECIPE, "data": ("digits", digits), "initial": ("random", [])}
    with pytest.raises(InputError, match="not finite"):
        DistilledSet.build(broken, codec, classes=CLASSES, **facts)


def test_saving_is_whole_or_not_at_all(digits: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built, path = build(digits), tmp_path / "set.safetensors"
    built.save(path)
    before = path.read_bytes()
    with pytest.raises(InputError, match="exists and is left as it is"):
        built.save(path)

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        build(digits, seed=2).save(path, overwrite=True)
    with pytest.raises(OSError, match="No space"):
        built.save(tmp_path / "other.safetensors")
    assert path.read_bytes() == before and [item.name for item in tmp_path.iterdir()] == ["set.safetensors"]


names = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=12).filter(str.strip)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    classes=st.lists(names, min_size=2, max_size=6, unique=True),
    channels=st.sampled_from([1, 3]),
    side=st.integers(1, 7),
    count=st.integers(1, 3),
    storage=st.sampled_from(["float32", "float16", "int8"]),
    seed=st.integers(0, 2**31),
)
def test_any_set_comes_back_byte_for_byte(
    tmp_path: Path, classes: list[str], channels: int, side: int, count: int, storage: Storage, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    num_items = count * len(classes)
    pixels = torch.randint(0, 256, (num_items, channels, side, side + 1), dtype=torch.uint8, generator=draw)
    labels = torch.arange(len(classes)).repeat_interleave(count)
    images = ImageSet(pixels, labels, tuple(classes))
    codec = fit_codec(PixelsConfig(), images)
    codes = Codes(codec, torch.randn(pixels.shape, generator=draw) * 3, labels, storage)
    built = DistilledSet.build(
        codes,
        codec,
        classes=classes,
        recipe={},
        data=("noise", images),
        initial=("random", range(num_items)),
        seed=seed,
    )
    content = built.to_bytes()
    assert len(content) == built.file_bytes
    path = tmp_path / "any.safetensors"
    built.save(path, overwrite=True)
    read = DistilledSet.load(path)
    assert path.read_bytes() == content == read.to_bytes()
    assert read.classes == tuple(classes) and torch.equal(read.codes, built.codes)
    step = (codes.codes.abs().amax((0, 2, 3)) / 127).max() if storage == "int8" else 0.01 if storage == "float16" else 0
    assert (read.codes - codes.codes).abs().max() <= step


@pytest.mark.parametrize("codec_text", ["pixels", "pca:f4c4", "pca:f2c3"])
@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
def test_the_documented_reader_needs_only_safetensors_and_numpy(
    digits: ImageSet, tmp_path: Path, codec_text: str, storage: Storage
) -> None:
    page = (Path(__file__).parents[1] / "docs" / "file-format.md").read_text(encoding="utf-8")
    code = page.split("```python\n")[1].split("```")[0]
    assert "attar" not in code.replace('["attar"]', "") and "torch" not in code
    built = build(digits, codec_text, storage)
    built.save(tmp_path / "set.safetensors")
    read: dict[str, Any] = {"path": tmp_path / "set.safetensors"}
    exec(code, read)
    assert torch.allclose(torch.from_numpy(read["images"]), built.images(), atol=1e-5)
    assert torch.equal(torch.from_numpy(read["labels"]).long(), built.labels)
    inputs = built.training_items("cpu").epoch(0, torch.Generator())[0]
    assert torch.allclose(torch.from_numpy(read["inputs"]), inputs, atol=1e-4)
