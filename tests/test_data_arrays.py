"""Arrays: layouts, value ranges, labels, files, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attar.base.errors import InputError
from attar.data import load_images
from attar.data.arrays import images_from_array

LABELS = np.array([0, 0, 0, 1, 1, 1])


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((6, 5, 4), None), ((6, 1, 5, 4), (0, 1, 2, 3)), ((6, 5, 4, 1), (0, 3, 1, 2)), ((6, 5, 4, 3), (0, 3, 1, 2))],
)
def test_layouts_are_recognised(shape: tuple[int, ...], axes: tuple[int, ...] | None) -> None:
    array = noise(*shape)
    expected = array[:, None] if axes is None else array.transpose(axes)
    assert np.array_equal(images_from_array(array).numpy(), expected)


@given(st.sampled_from([np.float16, np.float32, np.float64]), st.booleans(), st.integers(0, 2**32 - 1))
def test_every_byte_survives_as_a_float(dtype: type, channels_last: bool, seed: int) -> None:
    bytes_ = np.random.default_rng(seed).integers(0, 256, (2, 3, 5, 4), dtype=np.uint8)
    floats = (bytes_ / 255).astype(dtype)
    found = images_from_array(np.moveaxis(floats, 1, 3) if channels_last else floats)
    assert found.dtype == torch.uint8 and np.array_equal(found.numpy(), bytes_)


def test_torch_and_numpy_agree() -> None:
    images = noise(6, 3, 8, 8)
    pairs = [(images, LABELS), (torch.from_numpy(images), torch.from_numpy(LABELS)), (images, LABELS.tolist())]
    prints = {load_images(pair).train.fingerprint for pair in pairs}
    halves = load_images((torch.from_numpy(images / 255).bfloat16(), LABELS)).train.images.float()
    assert len(prints) == 1
    assert (halves - load_images((images, LABELS)).train.images.float()).abs().max() <= 1


def test_a_fitting_array_is_shared_and_a_read_only_one_copied() -> None:
    images = noise(6, 1, 4, 4)
    assert images_from_array(images).data_ptr() == images.ctypes.data
    images.flags.writeable = False
    assert images_from_array(images).data_ptr() != images.ctypes.data


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["cat", "cat", "cat", "ant", "ant", "ant"], ("ant", "cat")),
        ([10, 10, 10, 2, 2, 2], ("2", "10")),
        (np.array([[1], [1], [1], [0], [0], [0]], dtype=np.uint8), ("0", "1")),
        (np.array(["b", "b", "b", "a", "a", "a"], dtype=object), ("a", "b")),
        (np.array([b"b", b"b", b"b", b"a", b"a", b"a"]), ("a", "b")),
    ],
)
def test_labels_become_places_in_the_class_list(labels: object, classes: tuple[str, ...]) -> None:
    splits = load_images((noise(6, 4, 4), labels))
    assert splits.train.classes == classes
    assert splits.train.labels.tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("keys", "has_test"),
    [
        (("images", "labels"), False),
        (("X", "Y"), False),
        (("x_train", "y_train", "x_test", "y_test"), True),
        (("train_images", "train_labels", "test_images", "test_labels"), True),
        (("images", "labels", "val_images", "val_labels"), True),
    ],
)
def test_key_names_of_archives(tmp_path: Path, keys: tuple[str, ...], has_test: bool) -> None:
    arrays = [noise(6, 4, 4, 3), LABELS, noise(4, 4, 4, 3), np.array([0, 1, 1, 0])]
    np.savez(tmp_path / "a.npz", **dict(zip(keys, arrays, strict=False)))
    splits = load_images(tmp_path / "a.npz")
    assert splits.name == "a.npz" and splits.train.image_shape == (3, 4, 4)
    assert (len(splits.train), len(splits.test)) == ((6, 4) if has_test else (4, 2))


def test_given_class_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=noise(6, 4, 4), labels=LABELS, classes=["zebra", "ant"])
    splits = load_images(tmp_path / "a.npz")
    assert splits.train.classes == ("zebra", "ant") and splits.train.labels.tolist() == [0, 0, 1, 1]
    np.savez(
        tmp_path / "b.npz", images=noise(6, 4, 4), labels=np.array(["ant", "zebra"])[LABELS], classes=["zebra", "ant"]
    )
    assert load_images(tmp_path / "b.npz").train.labels.tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("images", "labels"), [("x_train", "y_train"), ("images", "labels"), ("photos", "photos_labels")]
)
def test_two_plain_arrays(tmp_path: Path, images: str, labels: str) -> None:
    np.save(tmp_path / f"{images}.npy", noise(6, 4, 4))
    np.save(tmp_path / f"{labels}.npy", LABELS)
    assert len(load_images(tmp_path / f"{images}.npy").train) == 4


def test_arrays_can_be_resized_and_recoloured() -> None:
    flat = np.full((6, 8, 8), 90, dtype=np.uint8)
    splits = load_images((flat, LABELS), image_size=(2, 4), resize="crop", channels="rgb")
    assert splits.train.image_shape == (3, 2, 4) and (splits.train.images == 90).all()


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (noise(6, 4, 4).astype(np.int64), LABELS, r"are int64; give uint8"),
        (noise(6, 4, 4) > 9, LABELS, r"are bool; give uint8"),
        (noise(6, 4, 4) / 1.0, LABELS, r"from 0 to 2\d\d; floats must lie in \[0, 1\] \(divide by 255\)"),
        (noise(6, 4, 4) / 127.5 - 1, LABELS, "undo their normalisation"),
        (np.full((6, 4, 4), np.nan), LABELS, "hold NaN"),
        (noise(6, 3, 5, 3), LABELS, "both axis 1 and axis 3"),
        (noise(6, 5, 5, 4), LABELS, "drop alpha"),
        (noise(6, 16), LABELS, r"have shape \(6, 16\)"),
        (noise(5, 4, 4), LABELS, "5 images but 6 labels"),
        (noise(6, 4, 4), LABELS / 2, "labels are float64; give whole numbers or strings"),
        (noise(6, 4, 4), np.eye(6, dtype=int), "one-hot"),
        (noise(6, 4, 4), LABELS - 1, "count from 0"),
        (noise(6, 4, 4), LABELS * 0, "at least 2"),
        ([noise(4, 4), noise(5, 5)], [0, 1], "differ in shape"),
    ],
)
def test_mistakes_in_arrays_get_one_line(images: object, labels: object, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_images((images, labels))
    assert "\n" not in str(caught.value)


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    objects = np.array([{"a": 1}, None], dtype=object)
    np.savez(tmp_path / "a.npz", images=objects, labels=np.array([0, 1]))
    np.save(tmp_path / "b.npy", objects, allow_pickle=True)
    np.save(tmp_path / "b_labels.npy", np.array([0, 1]))
    for name in ("a.npz", "b.npy"):
        with pytest.raises(InputError, match="never loaded"):
            load_images(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04" + b"\0" * 40, b"\x93NUMPY\x01\x00\xff\xff"])
@pytest.mark.parametrize("name", ["a.npz", "a.npy"])
def test_damaged_files_get_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    np.save(tmp_path / "a_labels.npy", LABELS)
    with pytest.raises(InputError, match=r"a\.np. (cannot be read|holds Python objects)") as caught:
        load_images(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_archives_with_other_contents(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", pictures=noise(6, 4, 4))
    with pytest.raises(InputError, match=r"holds \['pictures'\]; name its arrays images and labels"):
        load_images(tmp_path / "a.npz")
    np.save(tmp_path / "alone.npy", noise(6, 4, 4))
    with pytest.raises(InputError, match=r"save them as alone_labels\.npy"):
        load_images(tmp_path / "alone.npy")
    np.savez(tmp_path / "b.npz", x_train=noise(6, 4, 4), y_train=LABELS, x_test=noise(2, 4, 4), y_test=[0, 5])
    with pytest.raises(InputError, match="hold '5', which is no class; the classes are 0, 1"):
        load_images(tmp_path / "b.npz")
