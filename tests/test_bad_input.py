"""A user's mistake costs one line on stderr, exit status 2, and nothing written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attar.cli import main

CHEAP = ("--set", "steps=1", "--set", "objective.network.width=4", "--quiet")


def picture(path: Path, shape: tuple[int, ...] = (8, 8), seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path)


def photos(root: Path, counts: dict[str, int]) -> Path:
    """A folder of 8 x 8 grey pictures, `counts` of each class."""
    root.mkdir()
    for name, count in counts.items():
        for number in range(count):
            picture(root / name / f"{number}.png", seed=number)
    return root


def no_pictures(root: Path) -> Path:
    root.mkdir()
    return root


def one_class(root: Path) -> Path:
    return photos(root, {"cat": 4})


def lonely_image(root: Path) -> Path:
    return photos(root, {"cat": 4, "dog": 1})


def truncated_image(root: Path) -> Path:
    photos(root, {"cat": 4, "dog": 4})
    whole = root / "dog" / "2.png"
    whole.write_bytes(whole.read_bytes()[:40])
    return root


def text_as_image(root: Path) -> Path:
    photos(root, {"cat": 4, "dog": 4})
    (root / "cat" / "9.png").write_text("not a picture")
    return root


def mixed_channels(root: Path) -> Path:
    photos(root, {"cat": 4, "dog": 4})
    picture(root / "dog" / "9.png", (8, 8, 3))
    return root


def mixed_sizes(root: Path) -> Path:
    photos(root, {"cat": 4, "dog": 4})
    picture(root / "dog" / "9.png", (8, 12))
    return root


def arrays(**changes: np.ndarray) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        path = root.with_suffix(".npz")
        good = {"images": np.zeros((8, 8, 8), np.uint8), "labels": np.arange(8) % 2}
        np.savez(path, **{**good, **changes})
        return path

    return make


def other_file(root: Path) -> Path:
    root.write_text("hello")
    return root


NAN = np.full((8, 8, 8), np.nan, np.float32)

DATA: dict[str, tuple[Callable[[Path], Path], str]] = {
    "empty folder": (no_pictures, "holds no class folders"),
    "one class": (one_class, "at least 2"),
    "a class of one image": (lonely_image, "'dog' has 1 image"),
    "truncated image": (truncated_image, r"2\.png cannot be read"),
    "text as image": (text_as_image, r"9\.png cannot be read"),
    "grey and RGB": (mixed_channels, "--channels rgb"),
    "two sizes": (mixed_sizes, "--image-size 8 --resize crop"),
    "lengths differ": (arrays(labels=np.arange(7) % 2), "8 images but 7 labels"),
    "not a number": (arrays(images=NAN), "not finite|NaN"),
    "out of range": (arrays(images=np.full((8, 8, 8), 3.0)), r"\[0, 1\]"),
    "no images in the archive": (arrays(images=np.zeros(8, np.uint8)), "images"),
    "neither folder nor image file": (other_file, "no source of images"),
}

OPTIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "unknown recipe": (("--recipe", "latent-dn"), "unknown recipe 'latent-dn'; did you mean 'latent-dm'"),
    "unknown setting": (("--set", "stepz=3"), "unknown setting 'stepz'; did you mean 'steps'"),
    "setting without a value": (("--set", "steps"), "KEY=VALUE"),
    "setting given twice": (("--set", "steps=2", "--set", "steps=3"), "given twice"),
    "setting of a wrong type": (("--set", "steps=many"), "--set: steps"),
    "impossible setting": (("--set", "objective.network.depth=9"), "depth"),
    "unknown codec": (("--codec", "pcaa"), "unknown codec 'pcaa'; did you mean 'pca'"),
    "unknown storage": (("--storage", "int7"), "int8"),
    "budget in no unit": (("--budget", "10"), "10ipc"),
    "budget of nothing": (("--budget", "0ipc"), "at least 1"),
    "budget too small": (("--budget", "100B"), "too small for one item of each class"),
    "budget too large": (("--budget", "500lpc"), "class"),
    "device that is not here": (("--device", "cuda:63"), "device"),
    "unknown device": (("--device", "abacus"), "unknown device 'abacus'"),
    "size that is no size": (("--image-size", "big"), "--image-size 'big'"),
    "resize without a size": (("--resize", "crop"), "--image-size"),
    "resize that does not exist": (("--resize", "stretch"), "'stretch'.*'squash'"),
    "unknown class": (("--classes", "0,1,eleven"), "unknown class 'eleven'"),
    "unknown option": (("--recpe", "dm"), "no such option --recpe; did you mean --recipe"),
    "second data set": (("digits",), "extra argument"),
    "absent test data": (("--test", "nowhere/there"), "nowhere/there does not exist"),
}

OTHERS: dict[str, tuple[tuple[str, ...], str]] = {
    "no verb of that name": (("distil", "digits"), "'distil'. Did you mean 'distill'"),
    "no output named": (("distill", "digits"), "--out"),
    "no data": (("distill", "nowhere", "--out", "x"), "unknown file, folder or built-in data set 'nowhere'"),
    "output in an absent folder": (("distill", "digits", "--out", "there/x"), "the folder there does not exist"),
    "absent file": (("info", "x.attar.safetensors"), "x.attar.safetensors"),
    "absent file to evaluate": (("evaluate", "x.attar.safetensors", "--data", "digits"), "x.attar.safetensors"),
    "absent file to cite": (("cite", "x.attar.safetensors"), "there is no file x.attar.safetensors"),
    "unknown recipe to show": (("recipes", "md"), "unknown recipe 'md'; did you mean 'dm'"),
    "unknown recipe to cite": (("cite", "hearding"), "unknown recipe 'hearding'; did you mean 'herding'"),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's own folder, as the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: str) -> str:
    """The one line that the command gives; nothing in `folder` may change."""
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    status = main(list(arguments))
    out, err = capsys.readouterr()
    assert status == 2, err
    assert out == ""
    assert err.startswith("attar: ")
    assert err.count("\n") == 1 and err.endswith("\n")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    return err


@pytest.mark.parametrize("name", DATA)
def test_data_that_will_not_do(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, message = DATA[name]
    source = make(here / "PHOTOS")
    line = refused(capsys, here, "distill", str(source), "--out", "x.attar.safetensors", *CHEAP)
    assert re.search(message, line), line


@pytest.mark.parametrize("name", OPTIONS)
def test_options_that_will_not_do(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options, message = OPTIONS[name]
    line = refused(capsys, here, "distill", "digits", "--out", "x.attar.safetensors", "--quiet", *options)
    assert re.search(message, line), line


@pytest.mark.parametrize("name", OTHERS)
def test_commands_that_will_not_do(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, message = OTHERS[name]
    line = refused(capsys, here, *arguments)
    assert message in line


@pytest.mark.parametrize(
    "arguments",
    [
        ("distill", "digits", "--out", "precious.npz", *CHEAP),
        ("show", "good.attar.safetensors", "--out", "precious.npz"),
        ("evaluate", "good.attar.safetensors", "--data", "digits", "--json", "precious.npz"),
        ("compare", "good.attar.safetensors", "--data", "digits", "--out", "precious.npz"),
        ("export", "good.attar.safetensors", "--to", "npz", "--out", "precious.npz"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_what_exists_is_left_as_it_is(
    arguments: tuple[str, ...], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["distill", "digits", "--recipe", "random", "--out", "good.attar.safetensors", "--quiet"]) == 0
    capsys.readouterr()
    (here / "precious.npz").write_text("irreplaceable")
    assert "--overwrite" in refused(capsys, here, *arguments)
    assert (here / "precious.npz").read_text() == "irreplaceable"


@pytest.mark.parametrize("damage", [b"", b"hello", b"\x10\x00\x00\x00\x00\x00\x00\x00{not json at all"])
def test_a_file_that_is_no_distilled_set(damage: bytes, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "x.attar.safetensors").write_bytes(damage)
    for arguments in (("info",), ("cite",), ("evaluate", "--data", "digits")):
        line = refused(capsys, here, arguments[0], "x.attar.safetensors", *arguments[1:])
        assert "x.attar.safetensors" in line


def test_real_images_of_other_classes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distill", "digits", "--recipe", "random", "--out", "x.attar.safetensors", "--quiet"]) == 0
    capsys.readouterr()
    pictures = photos(here / "PHOTOS", {"cat": 4, "dog": 4})
    line = refused(capsys, here, "evaluate", "x.attar.safetensors", "--data", str(pictures), "--quiet")
    assert "class" in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "closed").mkdir(mode=0o555)
    line = refused(capsys, here, "distill", "digits", "--recipe", "random", "--out", "closed/x", "--quiet")
    assert "closed" in line


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_is_one_line(here: Path) -> None:
    """`attar --help > /dev/full`: an error of the system in one line, as from a process of its own."""
    command = [sys.executable, "-m", "attar", "--help"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=here, timeout=120)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("attar: No space left on device")


def test_a_traceback_is_printed_where_it_is_asked_for(here: Path) -> None:
    command = [sys.executable, "-m", "attar", "distil", "digits", "--out", "x.attar.safetensors"]
    environment = {**os.environ, "ATTAR_DEBUG": "1"}
    debug = subprocess.run(command, capture_output=True, text=True, cwd=here, timeout=120, env=environment)
    assert debug.returncode and "Traceback" in debug.stderr
    assert list(here.iterdir()) == []
