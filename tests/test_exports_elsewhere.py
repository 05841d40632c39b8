"""Exports read by the tools they are for: `datasets`, `webdataset`, and DD-Ranking's tensors and settings."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from attar.base.errors import InputError
from attar.cli import main
from attar.data.image_set import ImageSet, Splits
from attar.methods.parameterizations.codes import Codes
from attar.models.codecs.pixels import Pixels, PixelsConfig
from attar.sets.distilled import DistilledSet
from attar.sets.exports.ddranking import BENCHMARKS
from attar.sets.exports.export import export
from attar.sets.imports.importing import import_set
from attar.sets.imports.preprocessing import normalisation, whitening
from attar.sets.relabelling import with_regions
from small_regions import mosaic, settings
from small_sets import CLASSES, RECIPE, build, digit_images

CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.fixture
def digits() -> ImageSet:
    return digit_images()


def colour_images(side: int = 32) -> ImageSet:
    """40 smooth colour images, of CIFAR-10's size, classes not in order."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(40, 3, 5, 5, generator=draw)
    pixels = torch.nn.functional.interpolate(coarse, size=side, mode="bilinear", align_corners=True)
    return ImageSet((pixels * 255).round().to(torch.uint8), torch.arange(40) % 10, CIFAR)


def coloured(preprocess: Pixels | None = None, soft: Tensor | None = None, **changes: Any) -> DistilledSet:
    images = colour_images(preprocess.image_shape[1] if preprocess else 32).select(torch.arange(20))
    codec = preprocess or PixelsConfig().fit(images)
    codes = Codes(codec, codec.encode(images.images.float() / 255), images.labels, "float32", soft, "float32")
    facts: dict[str, Any] = {"data": ("noise", images), "initial": ("random", range(20)), "recipe": RECIPE}
    return DistilledSet.build(codes, codec, **({"classes": CIFAR} | facts | changes))


def expected_pictures(built: DistilledSet) -> np.ndarray:
    """What readers must find: class after class, cut and rounded, channels last."""
    order = torch.argsort(built.labels, stable=True)
    return built.images(order, clamp=True).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def same_pictures(found: list[Image.Image], built: DistilledSet) -> bool:
    arrays = np.stack([np.asarray(picture) for picture in found])
    return np.array_equal(arrays.reshape(expected_pictures(built).shape), expected_pictures(built))


@pytest.mark.parametrize("soft", [None, "float32"])
def test_hugging_face_reads_images_classes_and_soft_labels(
    digits: ImageSet, tmp_path: Path, soft: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets", reason="the Hugging Face reader is not installed: attar[dev]")
    built = build(digits, soft=soft)
    export(built, "parquet", tmp_path / "out")
    found = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))["train"]
    assert isinstance(found.features["image"], datasets.Image)
    assert found.features["label"].names == list(CLASSES)
    assert same_pictures(list(found["image"]), built) and list(found["label"]) == sorted(built.labels.tolist())
    assert ("soft_label" in found.features) == (soft is not None)
    if built.soft_labels is not None:
        assert np.allclose(np.array(list(found["soft_label"])), built.soft_labels.numpy(), atol=1e-7)
    table = str(tmp_path / "out" / "data" / "train-00000-of-00001.parquet")
    alone = datasets.load_dataset("parquet", data_files=table, cache_dir=str(tmp_path / "cache"))["train"]
    assert isinstance(alone.features["image"], datasets.Image) and alone.features["label"].names == list(CLASSES)


def test_parquet_comes_back_into_attar(digits: ImageSet, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    built = build(digits)
    splits = Splits(digits, digits, "digits")
    export(built, "parquet", tmp_path / "out")
    made = import_set(tmp_path / "out", data=splits)
    assert made.classes == CLASSES and torch.equal(made.labels, built.labels)
    assert torch.equal(made.images().mul(255).round(), built.images(clamp=True).mul(255).round())
    first = sorted(path.read_bytes() for path in (tmp_path / "out").rglob("*.*") if path.is_file())
    export(built, "parquet", tmp_path / "out", overwrite=True)
    assert sorted(path.read_bytes() for path in (tmp_path / "out").rglob("*.*") if path.is_file()) == first


def test_a_long_table_is_written_group_by_group(
    digits: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more pictures are held than a group has."""
    pq = pytest.importorskip("pyarrow.parquet")
    from attar.sets.exports import parquet

    monkeypatch.setattr(parquet, "ROW_GROUP", 7)
    held, counted = [], parquet.png_bytes
    monkeypatch.setattr(parquet, "png_bytes", lambda picture: held.append(0) or counted(picture))
    written = pq.ParquetWriter.write_table

    def write(self: Any, table: Any, **options: Any) -> None:
        assert len(held) <= 7
        held.clear()
        written(self, table, **options)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", write)
    built = build(digits, soft="float32")
    export(built, "parquet", tmp_path / "out")
    assert pq.ParquetFile(tmp_path / "out" / parquet.TABLE).metadata.num_row_groups == 5
    made = import_set(tmp_path / "out", normalization="mnist")
    assert torch.equal(made.images().mul(255).round(), built.images(clamp=True).mul(255).round())
    assert torch.equal(made.labels, built.labels) and made.soft_labels is not None and built.soft_labels is not None
    assert torch.allclose(made.soft_labels, built.soft_labels, atol=1e-6)


def test_the_card_holds_hostile_names_in_place(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    pytest.importorskip("pyarrow")
    names = ("--- licence: stolen", "a: b", "# c", "'d", '"e', "\u202ef", "{g}", "*h", "!!python/object:i", "j\\k")
    export(coloured(classes=names), "parquet", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    header = yaml.safe_load(card.split("---\n")[1])
    (label,) = [each for each in header["dataset_info"]["features"] if each["name"] == "label"]
    assert tuple(label["dtype"]["class_label"]["names"][str(index)] for index in range(10)) == names


@pytest.mark.parametrize("soft", [False, True])
def test_webdataset_reads_what_was_distilled(tmp_path: Path, soft: bool) -> None:
    webdataset = pytest.importorskip("webdataset", reason="the reader of .tar files is not installed: attar[dev]")
    built = coloured(soft=torch.randn(20, 10, generator=torch.Generator().manual_seed(1)) if soft else None)
    export(built, "webdataset", tmp_path / "out.tar")
    samples = list(webdataset.WebDataset(str(tmp_path / "out.tar"), shardshuffle=False).decode("pil"))
    assert len(samples) == 20 and [sample["__key__"] for sample in samples[:2]] == ["000000", "000001"]
    assert same_pictures([sample["png"] for sample in samples], built)
    assert [sample["cls"] for sample in samples] == sorted(built.labels.tolist())
    if built.soft_labels is not None:
        told = np.array([sample["json"]["soft_label"] for sample in samples])
        assert np.allclose(told, built.soft_labels[torch.argsort(built.labels, stable=True)].numpy())


def test_a_tar_is_the_same_bytes_and_nothing_of_this_machine(tmp_path: Path) -> None:
    built = coloured()
    export(built, "webdataset", tmp_path / "one.tar")
    export(built, "webdataset", tmp_path / "two.tar")
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as archive:
        entries = archive.getmembers()
        assert {(entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname) for entry in entries} == {
            (0, 0, 0, "", "")
        }
        told = archive.extractfile("__attar__/attar-export.json")
        assert told is not None and json.load(io.TextIOWrapper(told))["num_images"] == 20
    with pytest.raises(InputError, match=r"should end in \.tar"):
        export(built, "webdataset", tmp_path / "out")
    with pytest.raises(InputError, match="exists and is left as it is"):
        export(built, "webdataset", tmp_path / "one.tar")


def load(path: Path) -> Tensor:
    tensor: Tensor = torch.load(path, weights_only=True)
    return tensor


def settings_of(folder: Path) -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    settings: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text())
    return settings


def test_dd_ranking_gets_inputs_normalised_as_its_own(tmp_path: Path) -> None:
    built = coloured(learned={"student_rate": 0.02})
    export(built, "dd-ranking", tmp_path / "out", dataset="CIFAR10")
    images, labels = load(tmp_path / "out" / "images.pt"), load(tmp_path / "out" / "labels.pt")
    order = torch.argsort(built.labels, stable=True)
    codec = normalisation("cifar10", (3, 32, 32), None)
    assert images.dtype == torch.float32 and torch.equal(images, codec.encode(built.images(order)))
    assert labels.tolist() == torch.arange(10).repeat_interleave(2).tolist()
    assert float(load(tmp_path / "out" / "lr.pt")) == pytest.approx(0.02)
    settings = settings_of(tmp_path / "out")
    assert settings["dataset"] == "CIFAR10" and settings["ipc"] == 2 and settings["model_name"] == "ConvNet-3"
    assert settings["use_zca"] is False and settings["weight_decay"] == 0.0005
    export(built, "dd-ranking", tmp_path / "again", dataset="CIFAR10")
    for file in ("images.pt", "labels.pt", "lr.pt", "config.yaml", "attar-export.json"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "out" / file).read_bytes(), file
    back = import_set(tmp_path / "out" / "images.pt", normalization="cifar10", classes=CIFAR)
    assert torch.equal(back.codes, images) and back.learned["student_rate"] == pytest.approx(0.02)
    assert torch.equal(back.labels, labels)


def test_dd_ranking_gets_soft_labels_as_logits(tmp_path: Path) -> None:
    built = coloured(soft=torch.randn(20, 10, generator=torch.Generator().manual_seed(1)))
    export(built, "dd-ranking", tmp_path / "out", dataset="CIFAR10")
    assert built.soft_labels is not None
    order = torch.argsort(built.labels, stable=True)
    assert torch.allclose(load(tmp_path / "out" / "labels.pt").softmax(1), built.soft_labels[order], atol=1e-6)
    settings = settings_of(tmp_path / "out")
    assert settings["soft_label_criterion"] == "sce" and settings["loss_fn_kwargs"]["temperature"] == 1.0


def test_dd_ranking_gets_whitened_inputs_only_where_it_whitens_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BENCHMARKS, "CIFAR10", replace(BENCHMARKS["CIFAR10"], side=8))  # a matrix of 192 x 192
    images = colour_images(8)
    built = coloured(whitening(images))
    export(built, "dd-ranking", tmp_path / "out", dataset="CIFAR10")
    assert settings_of(tmp_path / "out")["use_zca"] is True
    order = torch.argsort(built.labels, stable=True)
    assert torch.equal(load(tmp_path / "out" / "images.pt"), built.preprocess.encode(built.images(order)))
    own = coloured(PixelsConfig(whitening="zca").fit(images))
    with pytest.raises(InputError, match="whitens CIFAR10 in another way"):
        export(own, "dd-ranking", tmp_path / "own", dataset="CIFAR10")
    with pytest.raises(InputError, match="whitens ImageNette in another way"):
        export(built, "dd-ranking", tmp_path / "own", dataset="ImageNette")


class _Indifferent:
    """An observer to whom all classes are alike."""

    identity, num_bytes = "ab" * 32, 4000

    def logits(self, images: Tensor) -> Tensor:
        return torch.zeros(len(images), 10)


def test_what_dd_ranking_cannot_express_is_refused_by_name(digits: ImageSet, tmp_path: Path) -> None:
    out, built = tmp_path / "out", coloured()
    with pytest.raises(InputError, match="needs --dataset, its name for the data: CIFAR10"):
        export(built, "dd-ranking", out)
    with pytest.raises(InputError, match="unknown data set of DD-Ranking 'cifar10'"):
        export(built, "dd-ranking", out, dataset="cifar10")
    with pytest.raises(InputError, match="has 100 classes and the set 10"):
        export(built, "dd-ranking", out, dataset="CIFAR100")
    with pytest.raises(InputError, match="square colour images of 64 pixels"):
        export(built, "dd-ranking", out, dataset="TinyImageNet")
    with pytest.raises(InputError, match="the set's are 1 x 8 x 8"):
        export(build(digits), "dd-ranking", out, dataset="CIFAR10")
    uneven = Codes(built.preprocess, built.codes[:11], built.labels[:11], "float32")
    facts: dict[str, Any] = {"data": ("noise", colour_images()), "initial": ("random", range(11)), "recipe": RECIPE}
    fewer = DistilledSet.build(uneven, built.preprocess, classes=CIFAR, **facts)
    with pytest.raises(InputError, match="as many images of each class and the set has 1 to 2"):
        export(fewer, "dd-ranking", out, dataset="CIFAR10")
    with pytest.raises(InputError, match="no stored region labels"):
        export(with_regions(mosaic(), _Indifferent(), settings()), "dd-ranking", out, dataset="CIFAR10")
    with pytest.raises(InputError, match="--dataset CIFAR10 has no effect with --to npz"):
        export(built, "npz", tmp_path / "out.npz", dataset="CIFAR10")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("to", ["parquet", "webdataset", "dd-ranking"])
def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: Any) -> None:
    def full(*given: Any, **named: Any) -> None:
        raise OSError(28, "No space left on device")

    pytest.importorskip("pyarrow")
    built = coloured()
    monkeypatch.setattr("PIL.Image.Image.save", full)
    monkeypatch.setattr("torch.save", full)
    with pytest.raises(OSError, match="No space"):
        export(built, to, tmp_path / "out.tar", dataset="CIFAR10" if to == "dd-ranking" else None)
    assert list(tmp_path.iterdir()) == []


def test_the_verb_exports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coloured().save(tmp_path / "set.attar.safetensors")
    command = ["export", str(tmp_path / "set.attar.safetensors"), "--out", str(tmp_path / "out")]
    assert main([*command, "--to", "dd-ranking", "--dataset", "CIFAR10"]) == 0
    assert (tmp_path / "out" / "images.pt").is_file()
    assert main([*command, "--to", "parquet", "--dataset", "CIFAR10", "--overwrite"]) == 2
    assert "has no effect with --to parquet" in capsys.readouterr().err
