"""The one door: built-in data, tables, the hub, image sets, and sources that are none."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from attar.base.errors import InputError
from attar.data import ImageSet, Splits, load_images
from attar.data.sources import digits
from attar.data.tables import Table, rows_of


def encoded(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def some_digits(count: int = 40) -> ImageSet:
    return digits().select(torch.arange(count))


def write_table(path: Path, images: ImageSet, names: bool = True, struct: bool = True, **options: Any) -> Path:
    contents = [encoded(pixels[0].numpy()) for pixels in images.images]
    column = [{"bytes": content, "path": None} for content in contents] if struct else contents
    table = pa.table({"image": column, "label": pa.array(images.labels.tolist(), pa.int64())})
    if names:
        label = {"_type": "ClassLabel", "names": list(images.classes)}
        features = {"info": {"features": {"image": {"_type": "Image"}, "label": label}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


def together(splits: Splits) -> list[tuple[bytes, str]]:
    return sorted(
        (pixels.numpy().tobytes(), part.classes[label])
        for part in (splits.train, splits.test)
        for pixels, label in zip(part.images, part.labels, strict=True)
    )


def test_digits_are_the_scans() -> None:
    splits = load_images("digits")
    assert (len(splits.train) + len(splits.test), splits.train.image_shape, splits.name) == (1797, (1, 8, 8), "digits")
    assert splits.train.classes == tuple("0123456789")
    scale = digits().images[:, 0].double().numpy() * 16 / 255
    assert np.abs(scale - load_digits().images).max() < 0.04
    assert load_images("digits").train.fingerprint == splits.train.fingerprint


@pytest.mark.parametrize("struct", [True, False])
@pytest.mark.parametrize("names", [True, False])
def test_a_parquet_file_reads_back_exactly(tmp_path: Path, names: bool, struct: bool) -> None:
    images = some_digits()
    path = write_table(tmp_path / "d.parquet", images, names, struct, row_group_size=7)
    splits = load_images(path)
    assert splits.name == "d.parquet" and splits.train.classes == images.classes
    assert together(splits) == together(load_images(images))


def test_a_folder_of_parquet_files_has_parts(tmp_path: Path) -> None:
    images = some_digits(60)
    write_table(tmp_path / "data" / "train-00000-of-00002.parquet", images.select(torch.arange(0, 20)))
    write_table(tmp_path / "data" / "train-00001-of-00002.parquet", images.select(torch.arange(20, 40)))
    write_table(tmp_path / "data" / "validation-00000-of-00001.parquet", images.select(torch.arange(40, 60)))
    splits = load_images(tmp_path)
    assert (len(splits.train), len(splits.test)) == (40, 20)
    assert splits.train.fingerprint == images.select(torch.arange(40)).fingerprint
    assert load_images(tmp_path, memory_limit_bytes=0).train.fingerprint == splits.train.fingerprint


def test_parts_with_their_classes_in_another_order_are_matched_by_name(tmp_path: Path) -> None:
    images = some_digits(60)
    write_table(tmp_path / "train.parquet", images)
    turned = ImageSet(images.images, 9 - images.labels, images.classes[::-1])
    write_table(tmp_path / "test.parquet", turned)
    splits = load_images(tmp_path)
    assert torch.equal(splits.test.labels, images.labels) and splits.test.classes == images.classes


def test_parquet_labels_can_be_text(tmp_path: Path) -> None:
    table = {"img": [encoded(np.zeros((4, 4), np.uint8))] * 4, "class": ["b", "a", "b", "a"], "note": [b"x"] * 4}
    pq.write_table(pa.table(table), tmp_path / "d.parquet")
    assert load_images(tmp_path / "d.parquet").train.classes == ("a", "b")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": [0, 1]}, "none holds image bytes"),
        ({"one": [b"", b""], "two": [b"", b""], "label": [0, 1]}, "several hold image bytes"),
        ({"image": [b"", b""]}, "name the label column 'label'"),
        ({"image": [b"", b""], "label": [0, None]}, "1 rows without a label"),
        ({"image": [b"", b""], "label": [3, 3]}, "has one class, '3'"),
        ({"image": [b"x"] * 4, "label": [0, 0, 1, 1]}, r"row \d of d.parquet cannot be read as an image"),
        ({"image": [{"bytes": None, "path": "a.png"}] * 4, "label": [0, 0, 1, 1]}, "holds no image bytes"),
    ],
)
def test_mistakes_in_tables_get_one_line(tmp_path: Path, columns: dict, message: str) -> None:
    if isinstance(columns.get("image", [None])[0], dict):
        kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        columns = {**columns, "image": pa.array(columns["image"], kind)}
    pq.write_table(pa.table(columns), tmp_path / "d.parquet")
    with pytest.raises(InputError, match=message) as caught:
        load_images(tmp_path / "d.parquet")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [lambda b: b[:100], lambda b: b"PAR1" + b"\0" * 50 + b"PAR1", lambda b: b""])
def test_a_damaged_table_gets_one_line(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    path = write_table(tmp_path / "d.parquet", some_digits())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"d\.parquet cannot be read as parquet"):
        load_images(path)


def test_unlabelled_parts_are_refused(tmp_path: Path) -> None:
    images = some_digits()
    write_table(tmp_path / "train.parquet", images)
    hidden = pa.table({"image": [encoded(images.images[0, 0].numpy())], "label": [-1]})
    names = {"info": {"features": {"label": {"_type": "ClassLabel", "names": list(images.classes)}}}}
    pq.write_table(hidden.replace_schema_metadata({"huggingface": json.dumps(names)}), tmp_path / "test.parquet")
    with pytest.raises(InputError, match="-1 marks a part without labels"):
        load_images(tmp_path)


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_table(tmp_path / "d.parquet", some_digits())
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match=r"pip install 'attar\[hub\]'"):
        load_images("hf:mnist")
    with pytest.raises(InputError, match=r"pip install 'attar\[parquet\]'"):
        load_images(path)


class FakePart:
    """As much of datasets.Dataset as is used."""

    def __init__(self, images: ImageSet, metadata: dict[bytes, bytes]) -> None:
        contents = [{"bytes": encoded(pixels[0].numpy()), "path": None} for pixels in images.images]
        self.table, self._fingerprint = pa.table({"img": contents, "label": images.labels.tolist()}), images.fingerprint
        self.features = SimpleNamespace(arrow_schema=self.table.schema.with_metadata(metadata))

    def with_format(self, name: str) -> FakePart:
        assert name == "arrow"
        return self

    def __getitem__(self, key: slice) -> pa.Table:
        return self.table[key]


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A stand-in for the package `datasets`, which the tests do not require."""
    module = ModuleType("datasets")

    def load_dataset(name: str) -> dict[str, FakePart]:
        if name != "some/digits":
            raise FileNotFoundError(f"no data set {name}\non the hub")
        images = some_digits(60)
        label = {"_type": "ClassLabel", "names": list(images.classes)}
        about = json.dumps({"info": {"features": {"img": {"_type": "Image"}, "label": label}}}).encode()
        parts = {"train": torch.arange(40), "validation": torch.arange(40, 60)}
        return {split: FakePart(images.select(rows), {b"huggingface": about}) for split, rows in parts.items()}

    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


def test_the_hub(fake_hub: ModuleType) -> None:
    splits = load_images("hf:some/digits")
    assert splits.name == "hf:some/digits"
    assert splits.train.fingerprint == some_digits(40).fingerprint and len(splits.test) == 20
    with pytest.raises(InputError, match="hf:other cannot be loaded \\(no data set other\\)") as caught:
        load_images("hf:other")
    assert "\n" not in str(caught.value)


def test_pictures_that_the_hub_left_in_files_are_read_there(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(encoded(np.zeros((4, 4), np.uint8)))
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rows = pa.array([{"bytes": None, "path": str(tmp_path / "0.png")}, {"bytes": None, "path": None}, None], kind)
    table = pa.table({"image": rows, "label": [0, 1, 1]})
    ours = Table([rows_of(table)], "some", ["facts"], None)
    assert ours.read(0) == tmp_path / "0.png"
    theirs = Table([rows_of(table)], "some", ["facts"], tmp_path)
    for read in (lambda: ours.read(1), lambda: ours.read(2), lambda: theirs.read(0)):
        with pytest.raises(InputError, match="holds no image bytes"):
            read()


def test_one_part_of_the_hub(fake_hub: ModuleType) -> None:
    splits = load_images("hf:some/digits:train")
    assert splits.name == "hf:some/digits:train" and len(splits.train) + len(splits.test) == 40
    with pytest.raises(InputError, match="has the parts train, validation but no ipc_1 part; name one"):
        load_images("hf:some/digits:ipc_1")


def test_image_sets_and_splits_pass_through() -> None:
    images = some_digits(50)
    splits = load_images(images)
    assert (len(splits.train) + len(splits.test), splits.name) == (50, "arrays")
    again = load_images(splits)
    assert again.train.images.data_ptr() == splits.train.images.data_ptr()
    assert load_images(images, test=images).test.fingerprint == images.fingerprint
    assert (
        load_images(splits, classes=["4", "2"]).train.fingerprint == splits.train.with_classes(["4", "2"]).fingerprint
    )


def test_a_test_source_replaces_the_own_test_part() -> None:
    splits = load_images(some_digits(50))
    assert load_images(splits, test=splits.train).test.fingerprint == splits.train.fingerprint
    assert load_images(splits, test=splits).test.fingerprint == splits.test.fingerprint


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("digit", "unknown file, folder or built-in data set 'digit'; did you mean 'digits'"),
        ("no/where", "no/where does not exist; give a folder of class folders"),
        ("~nobody-of-this-name/photos", "does not exist; give a folder of class folders"),
        ("photo.png", "is a single image"),
        ("photos.zip", "is an archive; unpack it"),
        ("photos.txt", "is no source of images"),
        (3, "a int is no source of images"),
        ((1, 2, 3), r"3 arrays were given; give two"),
    ],
)
def test_what_is_no_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Any, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("photo.png", "photos.zip", "photos.txt"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match=message) as caught:
        load_images(source)
    assert "\n" not in str(caught.value)
