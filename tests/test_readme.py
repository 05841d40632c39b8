"""Every command and every Python snippet of the README runs, in order, in a folder with real pictures in PHOTOS.

They run as they are written; recipes and protocols take fewer steps than a user's.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path

import pytest
from PIL import Image

from attar.cli import main
from attar.evaluation import protocol
from attar.methods.recipes import REGISTRY, Recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
NAMES = ("zero", "one", "two", "three")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = [line.partition(" #")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """20 pictures of each of four handwritten digits, 8 x 8, as PHOTOS in the working directory."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for label, name in enumerate(NAMES):
        folder = tmp_path / "PHOTOS" / name
        folder.mkdir(parents=True)
        for number, image in enumerate(digits.images[digits.target == label][:20]):
            Image.fromarray((image * 255 / 16).round().astype("uint8")).save(folder / f"{number:02}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def shortened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of every protocol train for 8 steps, and `latent-dm` takes 5."""
    for path in protocol.FOLDER.glob("*.json"):
        settings = json.loads(path.read_text())
        settings["training"] |= {"min_steps": None, "max_steps": 8}
        short = tmp_path / "protocols" / path.name
        short.parent.mkdir(exist_ok=True)
        short.write_text(json.dumps(settings))
    monkeypatch.setattr(protocol, "FOLDER", tmp_path / "protocols")

    @wraps(REGISTRY["latent-dm"])
    def few_steps(whole: Callable[[], Recipe] = REGISTRY["latent-dm"]) -> Recipe:
        return whole().model_copy(update={"steps": 5})

    monkeypatch.setitem(REGISTRY, "latent-dm", few_steps)


@pytest.mark.usefixtures("shortened")
def test_every_command_runs(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = 0
    for line in commands():
        program, *arguments = shlex.split(line)
        if program == "make":
            continue
        assert program == "attar"
        assert main(arguments) == 0, f"{line}\n{capsys.readouterr().err}"
        ran += 1
        for path in re.findall(r"--(?:out|json) (\S+)", line):
            assert (photos / path).exists(), line
    assert ran >= 10


def test_a_shell_finds_the_command(tmp_path: Path) -> None:
    line = "attar recipes latent-dm"
    assert line in commands()
    folders = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(line, shell=True, cwd=tmp_path, env={**os.environ, "PATH": folders}, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\nCommand: attar distill PHOTOS --recipe latent-dm" in done.stdout


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {line.split()[1] for line in commands() if line.startswith("make ")}
    assert named == {"demo", "test"}
    assert named <= targets


@pytest.mark.usefixtures("shortened")
def test_every_python_snippet_runs(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    snippets = blocks("python")
    assert snippets
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), {"__name__": "__main__"})
    out = capsys.readouterr().out
    assert "torch.Size([" in out


def example(name: str) -> Callable[..., None]:
    function: Callable[..., None] = runpy.run_path(str(ROOT / "examples" / f"{name}.py"))["main"]
    return function


@pytest.mark.usefixtures("shortened")
def test_the_examples_run(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example("small_file")("PHOTOS", "2kB", "small.attar.safetensors")
    assert (photos / "small.attar.safetensors").stat().st_size <= 2000
    example("train_on_it")("small.attar.safetensors", "PHOTOS")
    out = capsys.readouterr().out
    assert "distilled minus initial codes" in out
    assert float(out.splitlines()[-1].split(" %")[0]) > 50


def test_every_verb_is_in_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out.partition("Commands:")[2]
    verbs = re.findall(r"^  ([\w-]+)  ", listed, flags=re.MULTILINE)
    assert verbs == re.findall(r"^\| `attar ([\w-]+)", README, flags=re.MULTILINE)


@pytest.mark.parametrize("path", sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]))
def test_links_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8"))
    assert [target for target in targets if not (path.parent / target).exists()] == []
