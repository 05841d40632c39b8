"""Folders of pictures: layouts, colours, sizes, memory maps, and what a user can get wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from attar.base.errors import InputError
from attar.data import ImageSet, decoding, load_images
from attar.data.sources import digits


def paint(path: Path, pixels: np.ndarray, mode: str | None = None, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def paint_classes(
    root: Path, names: tuple[str, ...] = ("a", "b"), count: int = 3, shape: tuple[int, ...] = (6, 6)
) -> Path:
    for label, name in enumerate(names):
        for index in range(count):
            paint(root / name / f"{index}.png", noise(*shape, seed=100 * label + index))
    return root


@pytest.fixture(scope="module")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 200 real scans of scikit-learn, written as PNG files."""
    root, found = tmp_path_factory.mktemp("digits"), digits()
    for index in range(200):
        paint(root / found.classes[found.labels[index]] / f"{index:04d}.png", found.images[index, 0].numpy())
    return root


def by_bytes(images: ImageSet) -> set[tuple[bytes, str]]:
    pairs = zip(images.images, images.labels, strict=True)
    return {(image.numpy().tobytes(), images.classes[label]) for image, label in pairs}


def test_a_folder_of_real_scans_reads_back_exactly(digits_folder: Path) -> None:
    splits, found = load_images(digits_folder), digits()
    assert splits.train.classes == found.classes and splits.train.image_shape == (1, 8, 8)
    assert len(splits.train) + len(splits.test) == 200
    expected = by_bytes(found.select(torch.arange(200)))
    assert by_bytes(splits.train) | by_bytes(splits.test) == expected
    assert splits.name == digits_folder.name


def test_the_split_is_stratified_seeded_and_disjoint(digits_folder: Path) -> None:
    first, again = load_images(digits_folder), load_images(digits_folder)
    other = load_images(digits_folder, split_seed=1)
    assert first.train.fingerprint == again.train.fingerprint != other.train.fingerprint
    assert not by_bytes(first.train) & by_bytes(first.test)
    for total, held in zip(
        torch.bincount(torch.cat([first.train.labels, first.test.labels])).tolist(),
        torch.bincount(first.test.labels).tolist(),
        strict=True,
    ):
        assert held == round(0.2 * total)


def test_a_class_is_split_alike_whichever_others_are_wanted(digits_folder: Path) -> None:
    whole = load_images(digits_folder)
    some = load_images(digits_folder, classes=["7", "3"])
    assert some.train.classes == ("7", "3")
    assert some.test.fingerprint == whole.test.with_classes(["7", "3"]).fingerprint


@pytest.mark.parametrize("test_name", ["test", "val", "valid", "Validation"])
def test_a_test_folder_is_used(tmp_path: Path, test_name: str) -> None:
    paint_classes(tmp_path / "train", count=2)
    paint_classes(tmp_path / test_name, count=1)
    splits = load_images(tmp_path)
    assert (len(splits.train), len(splits.test)) == (4, 2)


def test_val_counts_where_test_has_no_class_folders(tmp_path: Path) -> None:
    paint_classes(tmp_path / "train", count=2)
    paint_classes(tmp_path / "val", count=3)
    paint(tmp_path / "test" / "unlabelled.png", noise(6, 6))
    assert len(load_images(tmp_path).test) == 6


def test_train_can_be_a_class(tmp_path: Path) -> None:
    paint_classes(tmp_path, ("bus", "train"))
    assert load_images(tmp_path).train.classes == ("bus", "train")


def test_a_separate_test_folder(tmp_path: Path) -> None:
    splits = load_images(paint_classes(tmp_path / "one"), test=paint_classes(tmp_path / "two", count=5))
    assert (len(splits.train), len(splits.test)) == (6, 10)


def test_names_nesting_and_what_is_passed_over(tmp_path: Path) -> None:
    for name in ("übung", "b c", "日本", ".hidden"):
        paint_classes(tmp_path, (name,), count=2)
    paint(tmp_path / "b c" / "deep" / "er" / "x.JPG", noise(6, 6))
    paint(tmp_path / "b c" / ".thumb.png", noise(9, 9))
    (tmp_path / "b c" / "notes.txt").write_text("no picture")
    splits = load_images(tmp_path)
    assert splits.train.classes == ("b c", "übung", "日本")
    assert len(splits.train) + len(splits.test) == 7


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    paint_classes(tmp_path / "real", ("x", "y"), count=2)
    root = tmp_path / "links"
    root.mkdir()
    for name in ("x", "y"):
        (root / name).symlink_to(tmp_path / "real" / name, target_is_directory=True)
    (tmp_path / "real" / "x" / "loop").symlink_to(tmp_path / "real" / "x", target_is_directory=True)
    splits = load_images(root)
    assert len(splits.train) + len(splits.test) == 4


def only_pixels(tmp_path: Path, save: Callable[[Path], None], suffix: str = ".png", **options: object) -> np.ndarray:
    """The pixels [C, H, W] of one picture, read through a folder in which every class holds it twice."""
    for name in ("a", "b"):
        for index in range(2):
            path = tmp_path / name / f"{index}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            save(path)
    return load_images(tmp_path, **options).train.images[0].numpy()  # type: ignore[arg-type]


def test_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    values = np.array([[0, 257], [65535, 32768]], dtype=np.uint16)
    pixels = only_pixels(tmp_path, lambda path: Image.fromarray(values).save(path))
    assert pixels.tolist() == [[[0, 1], [255, 128]]]


def test_alpha_is_composited_on_white(tmp_path: Path) -> None:
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0]]], dtype=np.uint8)
    pixels = only_pixels(tmp_path, lambda path: Image.fromarray(rgba).save(path))
    assert pixels[:, 0].T.tolist() == [[10, 20, 30], [255, 255, 255]]


def test_grey_with_alpha_stays_grey(tmp_path: Path) -> None:
    def save(path: Path) -> None:
        alpha = Image.fromarray(np.array([[255, 0]], dtype=np.uint8))
        Image.merge("LA", [Image.new("L", (2, 1), 40), alpha]).save(path)

    assert only_pixels(tmp_path, save).tolist() == [[[40, 255]]]


@pytest.mark.parametrize(("colours", "channels"), [([0, 0, 0, 9, 9, 9], 1), ([0, 0, 0, 9, 80, 9], 3)])
def test_a_palette_of_greys_is_grey(tmp_path: Path, colours: list[int], channels: int) -> None:
    def save(path: Path) -> None:
        image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8))
        image.putpalette(colours)
        image.save(path)

    pixels = only_pixels(tmp_path, save)
    assert pixels.shape == (channels, 1, 2) and pixels[:, 0, 1].tolist() == colours[3 : 3 + channels]


def test_two_levels_become_black_and_white(tmp_path: Path) -> None:
    pixels = only_pixels(tmp_path, lambda path: Image.new("1", (4, 4), 1).save(path))
    assert pixels.shape == (1, 4, 4) and (pixels == 255).all()


def test_inks_become_light(tmp_path: Path) -> None:
    pixels = only_pixels(tmp_path, lambda path: Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(path), ".jpg")
    assert pixels.shape == (3, 8, 8) and pixels[0].min() > 230 and pixels[1:].max() < 60


def test_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    pixels = only_pixels(tmp_path, lambda p: frames[0].save(p, save_all=True, append_images=frames[1:]), ".gif")
    assert pixels[:, 0, 0].tolist() == [255, 0, 0]


def test_exif_orientation_is_honoured(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    values = noise(4, 6)
    pixels = only_pixels(tmp_path, lambda path: Image.fromarray(values).save(path, exif=exif))
    assert np.array_equal(pixels[0], np.rot90(values, -1))


@pytest.mark.parametrize(("channels", "planes"), [("grey", 1), ("rgb", 3)])
def test_channels_can_be_chosen(tmp_path: Path, channels: str, planes: int) -> None:
    paint_classes(tmp_path, ("a",), shape=(6, 6))
    paint_classes(tmp_path, ("b",), shape=(6, 6, 3))
    assert load_images(tmp_path, channels=channels).train.image_shape == (planes, 6, 6)  # type: ignore[arg-type]


def test_crop_keeps_the_aspect_and_squash_the_whole(tmp_path: Path) -> None:
    half = np.zeros((8, 16), dtype=np.uint8)
    half[:, 4:12] = 200
    for name in ("a", "b"):
        for index in range(2):
            paint(tmp_path / name / f"{index}.png", half)
    crop = load_images(tmp_path, image_size=4, resize="crop").train.images[0, 0]
    squash = load_images(tmp_path, image_size=4, resize="squash").train.images[0, 0]
    assert crop.min() > 180
    assert squash[:, 1:3].min() > 150 and squash[:, [0, 3]].max() < 50


def test_reduction_does_not_alias(tmp_path: Path) -> None:
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    pixels = only_pixels(tmp_path, lambda p: Image.fromarray(board).save(p), image_size=8, resize="squash")
    assert abs(pixels.astype(float) - 127.5).max() < 12


def test_large_jpegs_are_close_to_a_full_decode(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(400), np.arange(600)).astype(np.float64)
    picture = Image.fromarray((smooth / smooth.max() * 255).astype(np.uint8)).convert("RGB")
    pixels = only_pixels(tmp_path, lambda p: picture.save(p, quality=95), ".jpg", image_size=32, resize="squash")
    full = np.moveaxis(np.asarray(picture.resize((32, 32), Image.Resampling.BICUBIC)), 2, 0)
    assert np.abs(pixels.astype(int) - full).max() <= 3


def test_a_memory_map_is_reused_and_renewed(
    digits_folder: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    inside = load_images(digits_folder)
    mapped = load_images(digits_folder, memory_limit_bytes=0, progress=Notes(notes))
    assert mapped.train.fingerprint == inside.train.fingerprint and mapped.test.fingerprint == inside.test.fingerprint
    files = sorted((own_cache / "images").iterdir())
    assert [file.suffix for file in files] == [".uint8"] * 2 and "memory-mapping" in notes[0]
    monkeypatch.setattr(decoding, "_fill", refuse_to_write)
    assert load_images(digits_folder, memory_limit_bytes=0).train.fingerprint == inside.train.fingerprint
    with pytest.raises(AssertionError, match="written again"):
        load_images(digits_folder, memory_limit_bytes=0, image_size=4, resize="squash")


class Notes:
    """A Progress that keeps what it is told."""

    def __init__(self, notes: list[str]) -> None:
        self.notes, self.done, self.total = notes, 0, 0

    def start(self, description: str, total: int) -> None:
        self.total += total

    def advance(self, count: int = 1, **figures: float) -> None:
        self.done += count

    def finish(self) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)


def refuse_to_write(*arguments: object) -> None:
    raise AssertionError("written again")


def test_progress_counts_every_image(digits_folder: Path) -> None:
    progress = Notes([])
    load_images(digits_folder, progress=progress)
    assert progress.done == progress.total == 200


def test_a_changed_file_is_mapped_anew_and_a_failed_map_leaves_nothing(tmp_path: Path, own_cache: Path) -> None:
    root = paint_classes(tmp_path / "data")
    before = load_images(root, memory_limit_bytes=0).train.fingerprint
    for index in range(3):
        paint(root / "a" / f"{index}.png", noise(6, 6, seed=999 + index))
    assert load_images(root, memory_limit_bytes=0).train.fingerprint != before
    (root / "b" / "0.png").write_bytes(b"broken")
    (root / "b" / "1.png").write_bytes(b"broken")
    with pytest.raises(InputError, match="cannot be read"):
        load_images(root, memory_limit_bytes=0)
    assert {file.suffix for file in (own_cache / "images").iterdir()} == {".uint8"}


def test_a_full_disk_is_said_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = paint_classes(tmp_path)
    monkeypatch.setattr(decoding.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(InputError, match="ATTAR_CACHE"):
        load_images(root, memory_limit_bytes=0)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def lie_about_size(path: Path) -> None:
    """A PNG header that promises 60000 x 60000 pixels."""
    import struct
    import zlib

    header = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0" * 100)
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, data)]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, r"a/1\.png cannot be read as an image \(.*\); repair or remove it"),
        (lambda path: path.write_bytes(b""), r"a/1\.png cannot be read as an image"),
        (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 50), r"a/1\.png cannot be read as an image"),
        (lie_about_size, r"a/1\.png claims more pixels than the 89,478,485 allowed"),
        (
            lambda path: paint(path, noise(9, 7)),
            "images differ in size: .*1.png is 7 x 9, .* is 6 x 6 .*most common 6 x 6",
        ),
        (lambda path: paint(path, noise(6, 6, 3)), "grey and RGB images are mixed: .*--channels rgb"),
    ],
)
def test_one_bad_picture_is_named(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    root = paint_classes(tmp_path)
    damage(root / "a" / "1.png")
    with pytest.raises(InputError, match=message) as caught:
        load_images(root, test=root)
    assert "\n" not in str(caught.value)


def test_the_size_mend_works(tmp_path: Path) -> None:
    root = paint_classes(tmp_path)
    paint(root / "a" / "1.png", noise(9, 7))
    with pytest.raises(InputError) as caught:
        load_images(root)
    size = re.search(r"--image-size (\d+) --resize crop", str(caught.value))
    assert size is not None
    assert load_images(root, image_size=int(size[1]), resize="crop").train.image_shape == (1, 6, 6)


def loose_files(root: Path) -> None:
    paint(root / "x.png", noise(4, 4))


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda root: None, {}, "holds no class folders; put the images of each class"),
        (loose_files, {}, "holds 1 images but no class folders"),
        (lambda root: paint_classes(root, ("only",)), {}, "has one class folder, 'only'"),
        (lambda root: (paint_classes(root), (root / "c").mkdir()), {}, "c has no images"),
        (lambda root: paint_classes(root, count=1), {}, "class 'a' has 1 images; at least 2"),
        (lambda root: paint_classes(root / "test"), {}, "has test but no train folder"),
        (paint_classes, {"image_size": 3}, "is 6 x 6 pixels and 3 x 3 were asked for; add --resize crop"),
        (paint_classes, {"resize": "crop"}, "needs a size to resize to"),
        (paint_classes, {"image_size": 0}, "out of range"),
        (paint_classes, {"resize": "stretch", "image_size": 3}, "unknown resize rule 'stretch'"),
        (paint_classes, {"channels": "gray"}, "unknown channels 'gray'; did you mean 'grey'"),
        (paint_classes, {"test_fraction": 1.0}, "between 0 and 1"),
        (paint_classes, {"memory_limit_bytes": -1}, "give 0"),
        (paint_classes, {"classes": ["a"]}, "name at least 2"),
        (paint_classes, {"classes": ["a", "bb"]}, "unknown class 'bb'; did you mean 'b'"),
        (paint_classes, {"classes": [0, 2]}, "class index 2 is out of range"),
        (
            lambda root: (paint_classes(root / "train"), paint_classes(root / "test", ("a", "c"))),
            {},
            "test part, first 'b'",
        ),
        (
            lambda root: (paint_classes(root / "train"), paint_classes(root / "test", shape=(5, 5))),
            {},
            "training images are 6 x 6 grey and test images 5 x 5 grey",
        ),
    ],
)
def test_mistakes_get_one_line(tmp_path: Path, make: Callable[[Path], object], options: dict, message: str) -> None:
    make(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        load_images(tmp_path, **options)
    assert "\n" not in str(caught.value)


def test_only_wanted_classes_are_read(tmp_path: Path) -> None:
    root = paint_classes(tmp_path, ("a", "b", "c"))
    (root / "c" / "0.png").write_bytes(b"broken")
    assert load_images(root, classes=["b", "a"]).train.classes == ("b", "a")
    with pytest.raises(InputError, match="cannot be read"):
        load_images(root, test=root)
