"""The command line: verbs, outputs, exit statuses, the progress display, and what they are built of."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import attar
from attar.base.errors import InputError, NonFiniteLossError
from attar.base.progress import RichProgress, duration
from attar.cli import main
from attar.evaluation.protocol import protocol_names
from attar.evaluation.scorecard import Scorecard
from attar.methods.citations import ENTRIES
from attar.methods.recipes import REGISTRY, recipe
from attar.report.citing import cite
from small_protocols import tiny

FILE = "digits.attar.safetensors"
CHEAP = ["--protocol", "tiny.json", "--networks", "convnet:w4", "--seeds", "1", "--quiet"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one distilled file and a protocol."""
    path = tmp_path_factory.mktemp("cli")
    (path / "tiny.json").write_text(tiny().model_dump_json())
    settings = ["--set", "steps=2", "--set", "objective.network.width=4"]
    assert main(["distill", "digits", "--out", str(path / FILE), "--quiet", *settings]) == 0
    return path


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That folder as the working directory."""
    monkeypatch.chdir(folder)
    return folder


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command that succeeds prints on stdout."""
    capsys.readouterr()
    status = main(list(arguments))
    out, err = capsys.readouterr()
    assert status == 0, err
    return out


def test_version_and_bare_call(capsys: pytest.CaptureFixture[str]) -> None:
    assert output(capsys, "--version") == f"attar {attar.base.version.__version__}\n"
    assert "Commands:" in output(capsys)


def test_help_names_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    text = output(capsys, "evaluate", "--help")
    assert [name for name in protocol_names() if name not in text] == []
    assert "-h, --help" in text


def test_distil_says_what_it_wrote(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = "other.attar.safetensors"
    text = output(
        capsys, "distill", "digits", "--recipe", "random-codes", "--budget", "3lpc", "--classes", "0,1,5", "--out", out
    )
    assert text == f"{out}: 9 items of 3 classes in {(here / out).stat().st_size} bytes\n"
    assert attar.load(out).classes == ("0", "1", "5")


def test_set_reaches_the_recipe(here: Path) -> None:
    arguments = ["--set", "steps=1", "--set", "objective.network.width=8", "--set", "initialization=herding"]
    options = ["--seed", "3", "--storage", "float16", "--codec", "pca:f2c1", "--budget", "1lpc", "--quiet"]
    assert main(["distill", "digits", "--out", "set.attar.safetensors", *arguments, *options]) == 0
    used = attar.info("set.attar.safetensors")
    assert used["recipe"]["steps"] == 1
    assert used["recipe"]["objective"]["network"]["width"] == 8
    assert used["initialization"]["kind"] == "herding"
    assert used["seed"] == 3
    assert used["recipe"]["parameterization"]["storage"] == "float16"
    assert used["shards"][0]["code_shape"] == [1, 4, 4]


def test_evaluate_prints_a_table_and_writes_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", FILE, "--data", "digits", "--no-baselines", *CHEAP]
    table = output(capsys, *command, "--json", "card.json")
    card = Scorecard.from_json((here / "card.json").read_text())
    assert card.name == "digits"
    assert card.row().accuracy_text in table
    assert table.endswith("card.json\n")
    assert Scorecard.from_json(output(capsys, *command, "--json", "-")).row().mean == card.row().mean
    assert output(capsys, *command, "--markdown").count("|") > 8


def test_evaluate_takes_size_colours_and_classes_from_the_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The set is of 8 x 8 grey images of two classes; the data are 12 x 10 RGB pictures of three."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.json").write_text(tiny().model_dump_json())
    draw = np.random.default_rng(0)
    for name in ("ant", "bee", "cat"):
        (tmp_path / "PHOTOS" / name).mkdir(parents=True)
        for number in range(5):
            pixels = draw.integers(0, 256, (10, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "PHOTOS" / name / f"{number}.png")
    loading = ["--image-size", "8", "--resize", "crop", "--channels", "grey", "--classes", "cat,ant"]
    assert main(["distill", "PHOTOS", "--recipe", "random", "--out", FILE, "--quiet", *loading]) == 0
    card = json.loads(
        output(
            capsys, "evaluate", FILE, "--data", "PHOTOS", "--resize", "crop", "--json", "-", "--no-baselines", *CHEAP
        )
    )
    assert card["image_shape"] == [1, 8, 8]
    assert card["classes"] == ["cat", "ant"]
    assert card["num_test"] == 2


def test_compare_writes_a_plot_a_table_or_everything(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distill", "digits", "--recipe", "random", "--out", "r.safetensors", "--overwrite", "--quiet"]) == 0
    command = ["compare", FILE, "r.safetensors", "--data", "digits", "--no-baselines", *CHEAP]
    for name, start in (("c.png", b"\x89PNG"), ("c.md", b"**"), ("c.json", b"{")):
        table = output(capsys, *command, "--out", name)
        assert (here / name).read_bytes().startswith(start)
        assert table.endswith(f"{name}\n")


def test_show_draws_with_and_without_real_images(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output(capsys, "show", FILE, "--out", "alone.png")
    output(capsys, "show", FILE, "--out", "beside.png", "--data", "digits", "--per-class", "2")
    with Image.open("alone.png") as alone, Image.open("beside.png") as beside:
        assert alone.size != beside.size


def test_info_for_people_and_machines(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = output(capsys, "info", FILE)
    size = (here / FILE).stat().st_size
    assert f"{size:,} bytes" in text
    assert "No differential-privacy guarantee" in text
    facts = json.loads(output(capsys, "info", FILE, "--json"))
    assert facts["storage"]["file_bytes"] == size
    assert facts == attar.info(FILE)


def test_export(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output(capsys, "export", FILE, "--to", "npz", "--out", "plain.npz")
    assert np.load("plain.npz")["images"].shape == (40, 1, 8, 8)
    output(capsys, "export", FILE, "--to", "imagefolder", "--out", "plain")
    assert len(list((here / "plain").rglob("*.png"))) == 40


def test_recipes_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    listed = [line.split()[0] for line in output(capsys, "recipes").splitlines()]
    assert listed == list(REGISTRY)
    assert {each["name"] for each in json.loads(output(capsys, "recipes", "--json"))} == set(REGISTRY)
    shown = output(capsys, "recipes", "latent-dm")
    assert json.loads(shown[shown.index("\n{") :]) == json.loads(output(capsys, "recipes", "latent-dm", "--json"))


@pytest.mark.parametrize("name", REGISTRY)
def test_what_a_recipe_cites_has_an_entry(name: str) -> None:
    assert [key for key in recipe(name).citations if key not in ENTRIES] == []
    assert cite(name).count("@") == len(recipe(name).citations)


def test_every_entry_is_cited_by_some_recipe() -> None:
    assert {key for name in REGISTRY for key in recipe(name).citations} == set(ENTRIES)


def test_cite_a_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = output(capsys, "cite", FILE)
    assert "2311.15547" in text
    assert text.count("{") == text.count("}")
    assert output(capsys, "cite", "random").startswith("%")


def test_doctor_finds_this_machine_well(capsys: pytest.CaptureFixture[str]) -> None:
    text = output(capsys, "doctor")
    assert "self-check [ok]" in text
    assert "torch [ok]" in text


def test_doctor_reports_a_fault(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ATTAR_CACHE", str(tmp_path / "file"))
    assert main(["doctor", "--no-self-check"]) == 1
    assert "cache [fault]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (InputError("too\nsmall"), 2, "attar: too small\n"),
        (NonFiniteLossError("the loss is nan; saved"), 1, "attar: the loss is nan; saved\n"),
        (KeyboardInterrupt(), 130, "attar: stopped\n"),
        (FileNotFoundError(2, "No such file or directory", "x"), 2, "attar: x: No such file or directory\n"),
        (
            OSError(28, "No space left on device", "x"),
            2,
            "attar: x: No space left on device; free some space, or write",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_become_one_line(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(what: str) -> str:
        raise error

    monkeypatch.setattr(attar, "cite", fail)
    assert main(["cite", "dm"]) == status
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(line)


def test_our_own_faults_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(what: str) -> str:
        raise ValueError("ours")

    monkeypatch.setattr(attar, "cite", fail)
    with pytest.raises(ValueError, match="ours"):
        main(["cite", "dm"])


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (16, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "noise.npz", images=images, labels=np.arange(16) % 2)
    command = [sys.executable, "-m", "attar", "distill", "noise.npz", "--out", FILE, "--checkpoint-steps", "5"]
    settings = ["steps=1000000", "objective.network.width=4", "objective.network.norm=none"]
    command += ["--budget", "1ipc", *(word for setting in settings for word in ("--set", setting))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment)
    checkpoint = tmp_path / "digits.run" / "checkpoint.safetensors"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline and run.poll() is None:
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130
    assert err.splitlines()[-1] == "attar: stopped; the same command continues from the last saved step"
    assert "Traceback" not in err


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of another kind")
def test_a_reader_that_leaves_early_is_no_error() -> None:
    run = subprocess.Popen(
        [sys.executable, "-m", "attar", "recipes", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert run.stdout is not None and run.stderr is not None
    run.stdout.close()
    assert run.stderr.read() == b""
    assert run.wait(60) == 141


def test_the_rate_counts_from_the_first_advance_over_half_a_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 steps skipped by a resumed run and the compilation before the first step do not count."""
    clock = iter([0.0, 100.0, 105.0, 110.0, 150.0, 155.0, 160.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with RichProgress() as progress:
        progress.start("resumed", 1600)
        for count in (500, 10, 10, 100, 100, 100):
            progress.advance(count)
    assert capsys.readouterr().err.splitlines() == [
        "resumed: 500/1600",
        "resumed: 520/1600  2/s  9 min 0 s left",
        "resumed: 620/1600",
        "resumed: 820/1600  20/s  39.0 s left",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.96, "1 min 0 s"), (3599, "59 min 59 s"), (7260, "2 h 1 min")]
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_progress_without_a_terminal_is_sparse_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    with RichProgress() as progress:
        progress.start("distilling", 25)
        for step in range(25):
            progress.advance(1, loss=1 / (step + 1))
        progress.note("a note")
        progress.finish()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "distilling: 10/25  1/s  15.0 s left  loss 0.1",
        "distilling: 20/25  1/s  5.0 s left  loss 0.05",
        "a note",
        "distilling: 25 in 26.0 s  loss 0.04",
    ]


class Terminal(io.StringIO):
    """Something that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal_is_a_bar_and_leaves_it_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(KeyboardInterrupt), RichProgress() as progress:
        progress.start("distilling [bold]x[/bold]", 5)
        progress.advance(2, loss=0.25)
        progress.note("codes [3, 4] are cached")
        raise KeyboardInterrupt
    text = screen.getvalue()
    assert "distilling [bold]x[/bold]" in text
    assert "codes [3, 4] are cached" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
