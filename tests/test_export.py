"""Exports: what other tools read is what was distilled, and no class name leads out of the folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from attar.base.errors import InputError
from attar.data.image_set import ImageSet
from attar.methods.parameterizations.codes import Codes
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import fit_codec
from attar.sets.distilled import DistilledSet
from attar.sets.exports.export import export
from attar.sets.exports.folders import folder_names
from attar.sets.imports.importing import import_set
from small_sets import CLASSES, RECIPE, build, digit_images

HOSTILE = ("../x", "/etc/passwd", "a/b", "a\\b", "..", ".hidden", "CON", "name. ", "\u202ecat", "x" * 500)


@pytest.fixture
def digits() -> ImageSet:
    return digit_images()


def coloured(classes: tuple[str, ...]) -> DistilledSet:
    """Two random colour images for each class, given in an order that is not class-major."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(len(classes)).repeat(2)
    pixels = torch.randint(0, 256, (len(labels), 3, 4, 5), dtype=torch.uint8, generator=draw)
    images = ImageSet(pixels, labels, classes)
    codec = fit_codec(PixelsConfig(), images)
    codes = Codes(codec, codec.encode(pixels.float() / 255), labels, "float32")
    return DistilledSet.build(
        codes, codec, classes=classes, recipe=RECIPE, data=("noise", images), initial=("random", range(len(labels)))
    )


def read_folder(folder: Path) -> tuple[np.ndarray, list[int], list[str]]:
    """Pictures, labels and folder names as ImageFolder-style tools see them: folders sorted by name."""
    folders = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    files = [(index, file) for index, name in enumerate(folders) for file in sorted((folder / name).iterdir())]
    return np.stack([np.asarray(Image.open(file)) for _, file in files]), [index for index, _ in files], folders


def test_a_folder_holds_the_clamped_and_rounded_images(digits: ImageSet, tmp_path: Path) -> None:
    built = build(digits, "pca:f4c4", "float32")
    assert export(built, "imagefolder", tmp_path / "out") == tmp_path / "out"
    pictures, labels, _ = read_folder(tmp_path / "out")
    expected = built.images(clamp=True).mul(255).round().to(torch.uint8)[:, 0]
    assert pictures.shape == (30, 8, 8) and pictures.dtype == np.uint8
    assert np.array_equal(pictures, expected.numpy()) and labels == built.labels.tolist()
    about = json.loads((tmp_path / "out" / "attar-export.json").read_text())
    free = built.images()
    outside = float(((free < 0) | (free > 1)).float().mean())
    assert outside > 0 and f"{outside:.2%} lay outside" in about["lost"][0]
    assert about["content_sha256"] == built.manifest.content_sha256 and about["num_images"] == 30


def test_colour_images_keep_their_channels_and_become_class_major(tmp_path: Path) -> None:
    built = coloured(("ant", "bee", "cat"))
    export(built, "imagefolder", tmp_path / "out")
    pictures, labels, folders = read_folder(tmp_path / "out")
    order = [0, 3, 1, 4, 2, 5]
    expected = built.images(order, clamp=True).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1)
    assert np.array_equal(pictures, expected.numpy()) and labels == [0, 0, 1, 1, 2, 2]
    assert folders == ["ant", "bee", "cat"]


def test_the_order_of_classes_survives_tools_that_sort(digits: ImageSet, tmp_path: Path) -> None:
    export(build(digits), "imagefolder", tmp_path / "out")
    listed = json.loads((tmp_path / "out" / "classes.json").read_text())
    assert [item["name"] for item in listed] == list(CLASSES)
    assert sorted(item["folder"] for item in listed) == [item["folder"] for item in listed]
    assert [item["num_images"] for item in listed] == [3] * 10 and [item["index"] for item in listed] == list(range(10))


def test_hostile_class_names_stay_inside_and_can_be_read_back(tmp_path: Path) -> None:
    inside = tmp_path / "deep" / "deeper"
    inside.mkdir(parents=True)
    export(coloured(HOSTILE), "imagefolder", inside / "out")
    assert [item.name for item in tmp_path.iterdir()] == ["deep"]
    assert [item.name for item in inside.iterdir()] == ["out"]
    listed = json.loads((inside / "out" / "classes.json").read_text(encoding="utf-8"))
    assert [item["name"] for item in listed] == list(HOSTILE)
    for item in listed:
        assert len(list((inside / "out" / item["folder"]).glob("*.png"))) == 2


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=60), min_size=2, max_size=12, unique=True))
def test_folder_names_are_safe_distinct_and_sorted(classes: list[str]) -> None:
    folders = folder_names(tuple(classes))
    assert len({name.casefold() for name in folders}) == len(classes) and list(folders) == sorted(folders)
    for name in folders:
        assert name == Path(name).name and name not in (".", "..", "") and not set(name) & set('/\\:*?"<>|\0\n')
        assert not name.endswith((".", " ")) and not name.startswith(".") and len(name.encode()) < 200
        assert name.split(".")[0].casefold() not in ("con", "nul", "com1", "lpt9")


def test_nothing_is_overwritten_but_an_earlier_export(digits: ImageSet, tmp_path: Path) -> None:
    built, out = build(digits), tmp_path / "out"
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "photo.png").write_bytes(b"1")
    export(built, "imagefolder", out)
    with pytest.raises(InputError, match="exists and is left as it is"):
        export(built, "imagefolder", out)
    (out / "stale").mkdir()
    export(built, "imagefolder", out, overwrite=True)
    assert not (out / "stale").exists() and (out / "classes.json").is_file()
    for name in ("notes.txt", "zero/notes.txt", "data/train/photo.png"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("mine")
        with pytest.raises(InputError, match="is of no export and would be lost"):
            export(built, "imagefolder", out, overwrite=True)
        assert (out / name).read_text() == "mine"
        (out / name).unlink()
    export(built, "parquet", out, overwrite=True)
    export(built, "imagefolder", out, overwrite=True)
    for overwrite in (False, True):
        with pytest.raises(InputError, match="left as it is"):
            export(built, "imagefolder", tmp_path / "precious", overwrite=overwrite)
    (tmp_path / "link").symlink_to(out)
    with pytest.raises(InputError, match="left as it is"):
        export(built, "imagefolder", tmp_path / "link", overwrite=True)
    with pytest.raises(InputError, match="does not exist"):
        export(built, "imagefolder", tmp_path / "nowhere" / "out")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["link", "out", "precious"]
    assert [item.name for item in (tmp_path / "precious").iterdir()] == ["photo.png"]


def test_a_class_may_be_called_as_the_files_beside_it(tmp_path: Path) -> None:
    built = coloured(("classes.json", "Attar-Export.json"))
    export(built, "imagefolder", tmp_path / "out")
    made = import_set(tmp_path / "out", normalization="imagenet")
    assert set(made.classes) == {"classes.json", "Attar-Export.json"} and len(made) == len(built)
    for name in ("data.parquet", "data.arrow"):
        export(coloured(("other", name)), "imagefolder", tmp_path / name)
        assert set(import_set(tmp_path / name, normalization="imagenet").classes) == {"other", name}


@pytest.mark.parametrize("stopped", [0, 1])
def test_an_earlier_export_survives_ctrl_c(
    digits: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: int
) -> None:
    """Whether it comes after the old folder was moved aside, or after the new one was moved into its place."""
    built, out, rename, moves = build(digits), tmp_path / "out", Path.rename, []
    export(built, "imagefolder", out)

    def interrupted(path: Path, target: Path) -> Path:
        moves.append(rename(path, target))
        if len(moves) == stopped + 1:
            raise KeyboardInterrupt
        return moves[-1]

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(built, "imagefolder", out, overwrite=True)
    assert len(list(out.rglob("*.png"))) == 30 and (out / "classes.json").is_file()
    assert [item.name for item in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("to", ["imagefolder", "npz"])
def test_a_full_disk_leaves_nothing(digits: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: Any) -> None:
    def full(*given: Any, **named: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("PIL.Image.Image.save", full)
    monkeypatch.setattr("numpy.savez", full)
    with pytest.raises(OSError, match="No space"):
        export(build(digits), to, tmp_path / "out.npz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("codec_text", ["pca:f4c4", "zca"])
def test_an_npz_holds_everything_a_network_needs(digits: ImageSet, tmp_path: Path, codec_text: str) -> None:
    built = build(digits, codec_text, "float32")
    export(built, "npz", tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz", allow_pickle=False) as arrays:
        read = dict(arrays)
    assert np.array_equal(read["images"], built.images().numpy()) and read["images"].dtype == np.float32
    assert np.array_equal(read["labels"], built.labels.numpy()) and read["labels"].dtype == np.int64
    assert tuple(read["classes"]) == CLASSES
    assert json.loads(str(read["about"]))["preprocess"]["whitening"] == ("zca" if codec_text == "zca" else "normalise")
    inputs = built.training_items("cpu").epoch(0, torch.Generator())[0].numpy()
    if codec_text == "zca":
        assert read["triangle"].shape == (64 * 65 // 2,)
        matrix = np.zeros((64, 64), np.float32)
        matrix[np.triu_indices(64)] = read["triangle"]
        matrix += np.triu(matrix, 1).T
        ours = ((read["images"] - read["mean"]) / read["std"][:, None, None]).reshape(30, -1) @ matrix
        assert np.allclose(ours.reshape(inputs.shape), inputs, atol=1e-3)
    else:
        ours = (read["images"] - read["mean"][:, None, None]) / read["std"][:, None, None]
        assert np.allclose(ours, inputs, atol=1e-5)
    first = (tmp_path / "out.npz").read_bytes()
    export(built, "npz", tmp_path / "out.npz", overwrite=True)
    assert (tmp_path / "out.npz").read_bytes() == first


def test_wrong_targets_are_refused(digits: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown export target 'imgfolder'; did you mean 'imagefolder'"):
        export(build(digits), "imgfolder", tmp_path / "out")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"should end in \.npz"):
        export(build(digits), "npz", tmp_path / "out")
    (tmp_path / "there.npz").write_bytes(b"1")
    with pytest.raises(InputError, match="exists and is left as it is"):
        export(build(digits), "npz", tmp_path / "there.npz")
