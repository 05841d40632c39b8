"""Data sets as Hugging Face has them: saved folders, parts, soft labels and pictures by name come in as they are."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from attar.base.errors import InputError
from attar.data.image_set import ImageSet, Splits
from attar.data.sources import load_images
from attar.sets.exports.export import export
from attar.sets.imports.importing import import_set
from small_sets import CLASSES, build, digit_images, first_items, logits_for

pa = pytest.importorskip("pyarrow", reason="tables need pyarrow: attar[parquet]")

from pyarrow import parquet as pq  # noqa: E402

FEATURES = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(CLASSES)}}


@pytest.fixture
def chosen() -> ImageSet:
    digits = digit_images()
    return digits.select(first_items(digits, 2))


@pytest.fixture
def splits() -> Splits:
    digits = digit_images()
    return Splits(digits.select(torch.arange(0, 1400)), digits.select(torch.arange(1400, 1797)), "digits")


def png(pixels: torch.Tensor) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels[0].numpy()).save(content, "png")
    return content.getvalue()


def table(images: ImageSet, features: dict[str, Any] | None = FEATURES, **columns: Any) -> Any:
    kinds = {"image": pa.struct({"bytes": pa.binary(), "path": pa.string()})}
    values = {"image": [{"bytes": png(each), "path": None} for each in images.images], "label": images.labels.tolist()}
    values = {name: value for name, value in {**values, **columns}.items() if value is not None}
    made = pa.table({name: pa.array(value, kinds.get(name)) for name, value in values.items()})
    about = {"huggingface": json.dumps({"info": {"features": features}})} if features else None
    return made.replace_schema_metadata(about)


def write_saved(folder: Path, *tables: Any, state: bool = True) -> Path:
    """A folder as `Dataset.save_to_disk` writes it: Arrow streams and the list of them."""
    folder.mkdir(parents=True)
    names = [f"data-{number:05}-of-{len(tables):05}.arrow" for number in range(len(tables))]
    for name, each in zip(names, tables, strict=True):
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, each.schema) as stream:
            stream.write_table(each, max_chunksize=7)
    if state:
        (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def pixels_of(made: Any) -> torch.Tensor:
    return made.images().mul(255).round().to(torch.uint8)


def test_a_saved_data_set_comes_in_byte_for_byte(chosen: ImageSet, splits: Splits, tmp_path: Path) -> None:
    half = torch.arange(13), torch.arange(13, 20)
    write_saved(tmp_path / "saved", *(table(chosen.select(rows)) for rows in half))
    write_saved(tmp_path / "longer", table(chosen), table(chosen), table(chosen))
    (tmp_path / "longer" / "data-00002-of-00003.arrow").rename(tmp_path / "saved" / "data-00002-of-00003.arrow")
    made = import_set(tmp_path / "saved", data=splits)
    assert torch.equal(pixels_of(made), chosen.images) and torch.equal(made.labels, chosen.labels)
    assert made.classes == CLASSES and made.manifest.recipe["source"] == "saved"
    loaded = load_images(tmp_path / "saved", test=splits.test)
    assert loaded.train.fingerprint == chosen.fingerprint and loaded.name == "saved"
    some = tmp_path / "longer" / "data-00001-of-00003.arrow"
    assert load_images(some, test=splits.test, memory_limit_bytes=0).train.fingerprint == chosen.fingerprint


def test_the_train_part_of_a_saved_dictionary_is_the_set(chosen: ImageSet, splits: Splits, tmp_path: Path) -> None:
    write_saved(tmp_path / "both" / "train", table(chosen))
    write_saved(tmp_path / "both" / "test", table(splits.test))
    (tmp_path / "both" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    made = import_set(tmp_path / "both", data=splits)
    assert torch.equal(pixels_of(made), chosen.images)
    assert made.manifest.recipe["read"] == ["the train part; the test part is left out"]
    assert load_images(tmp_path / "both").test.fingerprint == splits.test.fingerprint
    for name in ("ipc_1", "ipc_2"):
        write_saved(tmp_path / "sizes" / name, table(chosen))
    with pytest.raises(
        InputError, match="has the parts ipc_1, ipc_2 but no train part; give the file or folder of one"
    ):
        import_set(tmp_path / "sizes", data=splits)
    assert len(import_set(tmp_path / "sizes" / "ipc_2", data=splits)) == 20


def test_sets_that_lie_side_by_side_are_not_mixed(chosen: ImageSet, splits: Splits, tmp_path: Path) -> None:
    for name in ("a/one/train-00000-of-00001", "a/ten/train-00000-of-00001", "b/data/ipc_1-00000-of-00001"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table(chosen), tmp_path / f"{name}.parquet")
    pq.write_table(table(chosen), tmp_path / "b" / "data" / "ipc_10-00000-of-00001.parquet")
    with pytest.raises(InputError, match="several sets, in the folders one, ten"):
        import_set(tmp_path / "a", data=splits)
    with pytest.raises(InputError, match="several sets, in the parts ipc_1, ipc_10"):
        import_set(tmp_path / "b", data=splits)
    assert len(import_set(tmp_path / "a" / "ten", data=splits)) == 20
    assert len(import_set(tmp_path / "b" / "data" / "ipc_1-00000-of-00001.parquet", data=splits)) == 20


@pytest.mark.parametrize("kind", ["list", "fixed", "half"])
def test_soft_labels_of_a_table_are_kept(chosen: ImageSet, splits: Splits, tmp_path: Path, kind: str) -> None:
    logits = logits_for(2)
    types = {"list": pa.list_(pa.float32()), "fixed": pa.list_(pa.float64(), 10), "half": pa.large_list(pa.float16())}
    column = pa.array(list(logits.numpy().astype(np.float16 if kind == "half" else np.float64)), types[kind])
    write_saved(tmp_path / "soft", table(chosen, logits=column))
    made = import_set(tmp_path / "soft", data=splits)
    wanted = (logits.half().float() if kind == "half" else logits).softmax(1)
    assert made.soft_labels is not None and torch.allclose(made.soft_labels, wanted, atol=1e-6)
    assert torch.equal(made.labels, chosen.labels)
    assert "soft labels are the column 'logits'" in made.manifest.recipe["read"]
    assert len(load_images(tmp_path / "soft").train) > 0


def test_soft_labels_may_be_all_there_is(chosen: ImageSet, splits: Splits, tmp_path: Path) -> None:
    column = list(logits_for(2).softmax(1).numpy())
    path = tmp_path / "soft.parquet"
    pq.write_table(table(chosen, None, label=column), path)
    made = import_set(path, data=splits)
    assert torch.equal(made.labels, chosen.labels) and made.soft_labels is not None
    assert "an item's class is that of its largest soft label" in made.manifest.recipe["assumed"]
    with pytest.raises(InputError, match="name the label column 'label'"):
        load_images(path)


def test_numbers_beside_soft_labels_count_their_columns(chosen: ImageSet, splits: Splits, tmp_path: Path) -> None:
    some = chosen.select((chosen.labels != 4).nonzero()[:, 0])
    column = list(logits_for(2)[chosen.labels != 4].numpy())
    pq.write_table(table(some, None, soft_label=column), tmp_path / "some.parquet")
    made = import_set(tmp_path / "some.parquet", data=splits)
    assert torch.equal(made.labels, some.labels) and made.classes == CLASSES
    pq.write_table(table(some, None), tmp_path / "hard.parquet")
    made = import_set(tmp_path / "hard.parquet", data=splits)
    assert torch.equal(made.labels, some.labels) and made.classes == CLASSES


def test_an_export_to_parquet_comes_back(splits: Splits, tmp_path: Path) -> None:
    built = build(digit_images(), soft="float32")
    export(built, "parquet", tmp_path / "out")
    made = import_set(tmp_path / "out", normalization="data", data=splits)
    assert torch.equal(pixels_of(made), built.images(clamp=True).mul(255).round().to(torch.uint8))
    assert torch.equal(made.labels, built.labels) and made.classes == built.classes
    assert made.soft_labels is not None and built.soft_labels is not None
    assert torch.allclose(made.soft_labels, built.soft_labels, atol=1e-6)


def test_pictures_that_are_named_lie_below_the_folder(chosen: ImageSet, splits: Splits, tmp_path: Path) -> None:
    folder = tmp_path / "named"
    (folder / "pictures").mkdir(parents=True)
    for number, each in enumerate(chosen.images):
        (folder / "pictures" / f"{number}.png").write_bytes(png(each))
    names = [f"pictures/{number}.png" for number in range(len(chosen))]
    pq.write_table(table(chosen, image=None, img=names), folder / "train.parquet")
    assert torch.equal(pixels_of(import_set(folder, data=splits)), chosen.images)
    kept = load_images(folder, test=splits.test, memory_limit_bytes=0).train
    (folder / "pictures" / "0.png").write_bytes(png(chosen.images[1]))
    again = load_images(folder, test=splits.test, memory_limit_bytes=0).train
    assert torch.equal(kept.images[0], chosen.images[0]) and torch.equal(again.images[0], chosen.images[1])
    (tmp_path / "secret.png").write_bytes(png(chosen.images[0]))
    (folder / "pictures" / "link.png").symlink_to(tmp_path / "secret.png")
    outside = ["../secret.png", str(tmp_path / "secret.png"), "pictures/link.png", "none.png", "a\0b", "x" * 5000, ""]
    for bad in outside:
        pq.write_table(table(chosen, image=None, img=[bad, *names[1:]]), folder / "train.parquet")
        with pytest.raises(InputError, match="which is no file below") as caught:
            import_set(folder, data=splits)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"_data_files": [{"filename": "../other/data-00000-of-00001.arrow"}]}, "is not beside it"),
        ({"_data_files": [{"filename": "data-00009-of-00010.arrow"}]}, "is not beside it"),
        ({"_data_files": []}, "is not beside it"),
        ({"_data_files": [3]}, "state.json is damaged"),
        ({"_data_files": [{"filename": "data-00000-of-00001.arrow"}] * 2}, "state.json is damaged"),
        ([], "state.json is damaged"),
    ],
)
def test_a_state_that_lists_other_files_is_refused(
    chosen: ImageSet, splits: Splits, tmp_path: Path, state: Any, message: str
) -> None:
    write_saved(tmp_path / "other", table(chosen))
    folder = write_saved(tmp_path / "saved", table(chosen))
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(InputError, match=message) as caught:
        import_set(folder, data=splits)
    assert "\n" not in str(caught.value)


def test_a_picture_that_many_rows_share_is_held_once(tmp_path: Path) -> None:
    """A file of a few kilobytes would unpack to 100 MB."""
    content = png(torch.zeros(1, 4, 4, dtype=torch.uint8)) + bytes(1 << 20)
    for kind in (pa.struct({"bytes": pa.binary(), "path": pa.string()}), pa.binary()):
        value = {"bytes": content, "path": None} if pa.types.is_struct(kind) else content
        made = pa.table({"image": pa.array([value] * 100, kind), "label": [number % 2 for number in range(100)]})
        path = tmp_path / "shared.parquet"
        with pq.ParquetWriter(path, made.schema, compression="zstd", dictionary_pagesize_limit=1 << 30) as writer:
            writer.write_table(made)
        del made
        assert path.stat().st_size < 2**13
        pool = pa.system_memory_pool()
        before, usual = pool.bytes_allocated(), pa.default_memory_pool()
        pa.set_memory_pool(pool)
        try:
            found = import_set(path, normalization="mnist")
        finally:
            pa.set_memory_pool(usual)
        assert len(found) == 100 and pool.max_memory() - before < 30 * 2**20


def test_more_rows_than_bytes_are_refused(tmp_path: Path) -> None:
    made = pa.table({"image": pa.array([None] * 100_000, pa.binary()), "label": pa.array([1] * 100_000)})
    pq.write_table(made, tmp_path / "rows.parquet", compression="zstd")
    with pytest.raises(InputError, match="announces 100000 rows in"):
        import_set(tmp_path / "rows.parquet", normalization="mnist")


def test_damaged_arrow_files_never_raise_anything_else(chosen: ImageSet, tmp_path: Path) -> None:
    folder = write_saved(tmp_path / "saved", table(chosen, logits=list(logits_for(2).numpy())))
    path, numbers = folder / "data-00000-of-00001.arrow", np.random.default_rng(0)
    content = path.read_bytes()
    for attempt in range(120):
        damaged = bytearray(content)
        for place in numbers.integers(0, 1500 if attempt % 2 else len(damaged), 3):
            damaged[place] = numbers.integers(256)
        path.write_bytes(bytes(damaged[: len(damaged) - (attempt % 3) * 500]))
        try:
            import_set(folder, normalization="mnist")
        except InputError as error:
            assert "\n" not in str(error)


def test_mistakes_in_tables_of_sets_get_one_line(chosen: ImageSet, splits: Splits, tmp_path: Path) -> None:
    logits = list(logits_for(2).numpy())
    other = {**FEATURES, "label": {"_type": "ClassLabel", "names": list(CLASSES[::-1])}}
    faults = {
        "ragged": ([table(chosen, logits=[*logits[:-1], logits[0][:9]])], "not as many numbers in every row"),
        "absent": ([table(chosen, logits=[*logits[:-1], None])], "not as many numbers in every row"),
        "infinite": ([table(chosen, logits=[*logits[:-1], logits[0] * np.inf])], "not finite"),
        "wide": ([table(chosen, logits=[[1.0, 2.0]] * 20)], "labels are of 2 classes and 10 are named"),
        "names": ([table(chosen), table(chosen, other)], "differ in the classes' names"),
        "negative": ([table(chosen, None, label=[-1] * 20, logits=logits)], "class numbers count from 0"),
        "empty": ([table(chosen.select(torch.arange(0)))], "has no rows"),
    }
    for name, (tables, message) in faults.items():
        with pytest.raises(InputError, match=message) as caught:
            import_set(write_saved(tmp_path / name, *tables), data=splits)
        assert "\n" not in str(caught.value), name


@pytest.mark.parametrize("names", [("0", "10", "2", "1"), ("c1", "c2", "c10", "c9")])
def test_numbered_folders_are_counted_not_spelled(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / "syn" / name).mkdir(parents=True)
        value = int(name.strip("c")) * 10
        Image.fromarray(np.full((4, 4), value, np.uint8)).save(tmp_path / "syn" / name / "0.png")
    classes = tuple(f"k{number}" for number in range(11 if "0" in names else 4))
    made = import_set(tmp_path / "syn", normalization="mnist", classes=classes)
    values = (made.images().mean((1, 2, 3)) * 25.5).round().long()
    places = values if "0" in names else torch.tensor([(1, 2, 9, 10).index(int(value)) for value in values])
    assert torch.equal(made.labels, places)


def test_the_package_itself_writes_what_is_read(
    chosen: ImageSet, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets", reason="the Hugging Face reader is not installed: attar[hub]")
    features = datasets.Features(
        image=datasets.Image(),
        label=datasets.ClassLabel(names=list(CLASSES)),
        soft_label=datasets.Sequence(datasets.Value("float32")),
    )
    columns = {
        "image": [Image.fromarray(each[0].numpy()) for each in chosen.images],
        "label": chosen.labels.tolist(),
        "soft_label": logits_for(2).tolist(),
    }
    made = datasets.Dataset.from_dict(columns, features=features)
    shuffled = made.select(list(range(19, -1, -1)))
    datasets.DatasetDict(train=shuffled, test=made).save_to_disk(str(tmp_path / "both"))
    shuffled.save_to_disk(str(tmp_path / "one"), num_shards=3)
    (tmp_path / "repository" / "data").mkdir(parents=True)
    made.to_parquet(str(tmp_path / "repository" / "data" / "train-00000-of-00001.parquet"))
    (tmp_path / "repository" / "README.md").write_text("---\n---\n# A set\n")
    for path, order in ((tmp_path / "both", -1), (tmp_path / "one", -1), (tmp_path / "repository", 1)):
        back = import_set(path, data=splits)
        assert torch.equal(pixels_of(back), chosen.images[::1] if order == 1 else chosen.images.flip(0))
        assert torch.equal(back.labels, chosen.labels if order == 1 else chosen.labels.flip(0))
        soft = logits_for(2).softmax(1)
        assert back.soft_labels is not None
        assert torch.allclose(back.soft_labels, soft if order == 1 else soft.flip(0), atol=1e-6)
    monkeypatch.setattr(datasets, "load_dataset", lambda name: {"ipc_2": shuffled.select(range(4, 20))})
    hub = import_set("hf:someone/digits:ipc_2", data=splits)
    assert torch.equal(pixels_of(hub), chosen.images.flip(0)[4:]) and hub.soft_labels is not None
    assert hub.manifest.recipe["source"] == "hf:someone/digits:ipc_2"
    with pytest.raises(InputError, match=r"no train part; name one, hf:someone/digits:ipc_2"):
        import_set("hf:someone/digits", data=splits)
