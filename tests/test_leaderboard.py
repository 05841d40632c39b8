"""Recorded runs: what must be named, what is refused, and the page made of them."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.base.errors import InputError
from attar.cli import main
from attar.data.image_set import Splits
from attar.evaluation.dd_ranking import normalised
from attar.evaluation.evaluate import evaluate
from attar.evaluation.protocol import RateSearch
from attar.evaluation.rows import DISTILLED, NAMES
from attar.evaluation.scorecard import Scorecard
from attar.methods.recipes import recipe
from attar.models.networks.network import NetworkConfig
from attar.models.training.settings import TrainingConfig
from attar.studies.leaderboard.page import ORDERS, page, sections, write_page
from attar.studies.leaderboard.provenance import distilling_command, source_commit
from attar.studies.leaderboard.record import (
    MAX_BYTES,
    Record,
    read_record,
    read_records,
    record_of,
    slug,
    without_paths,
    write_record,
)
from small_protocols import tiny
from small_sets import build, digit_images, first_items
from test_scorecard import row as scored

ROOT = Path(__file__).parents[1]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
WHEN = datetime(2026, 11, 21, 12, 0, 30, tzinfo=timezone.utc)
TINY = tiny(2)


@pytest.fixture(scope="module")
def card() -> Scorecard:
    images = digit_images().select(first_items(digit_images(), 4))
    return evaluate(build(images), Splits(images, images, "digits"), TINY, baselines=("random", "full"), cache=False)


@pytest.fixture(scope="module")
def record(card: Scorecard) -> Record:
    command = ["attar", "evaluate", "/somewhere/a b.safetensors", "--data", "digits"]
    return record_of(card, commit=COMMIT, command=command, fingerprint="0" * 64, time=WHEN)


def tree(record: Record) -> Any:
    return json.loads(record.to_json())


def refusal(path: Path, content: bytes | str) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        read_record(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    return str(caught.value)


def test_a_record_is_read_as_it_was_written(record: Record, tmp_path: Path) -> None:
    path, written = write_record(record, tmp_path / "new")
    assert written and read_record(path) == record and path.name.startswith("digits-tiny-v1-latent-dm-of-digits-")
    assert record.time == "2026-11-21T12:00:30Z" and "somewhere" not in record.to_json()
    assert record.command == "attar evaluate 'a b.safetensors' --data digits"
    assert all(row.confusion == () and row.cached == 0 for row in record.card.rows)
    assert record.card.row().per_class and record.card.storage.file_bytes


def test_the_same_scores_again_leave_the_file_and_other_scores_are_refused(
    record: Record, card: Scorecard, tmp_path: Path
) -> None:
    path, _ = write_record(record, tmp_path)
    before = path.read_bytes()
    facts: dict[str, Any] = {"commit": "f" * 40, "command": ["attar"], "fingerprint": "0" * 64}
    assert write_record(record_of(card, **facts), tmp_path) == (path, False) and path.read_bytes() == before
    rows = tuple(row.model_copy(update={"minutes": row.minutes + 1}) for row in card.rows)
    slower = record_of(card.model_copy(update={"rows": rows}), **facts)
    with pytest.raises(InputError, match="has other scores of the same set"):
        write_record(slower, tmp_path)
    assert write_record(slower, tmp_path, overwrite=True) == (path, True) and read_record(path) == slower


@pytest.mark.parametrize(
    "place", ["commit", "command", "time", "card.protocol", "card.seeds", "card.device", "card.protocol.version"]
)
def test_a_run_that_does_not_name_what_it_must_is_refused(place: str, record: Record, tmp_path: Path) -> None:
    told = tree(record)
    *parents, leaf = place.split(".")
    branch = told
    for parent in parents:
        branch = branch[parent]
    del branch[leaf]
    message = refusal(tmp_path / "run.json", json.dumps(told))
    assert place in message and "with its protocol, seeds, device, commit and command" in message


def changed(told: Any, place: str, value: Any) -> str:
    *parents, leaf = (int(part) if part.isdigit() else part for part in place.split("."))
    branch = told
    for parent in parents:
        branch = branch[parent]
    branch[leaf] = value
    return json.dumps(told)


@pytest.mark.parametrize(
    ("place", "value", "fault"),
    [
        ("commit", "main", "commit"),
        ("time", "yesterday", "time"),
        ("command", "attar\nevaluate", "command"),
        ("card.device", " ", "device"),
        ("card.seeds", [], "seeds"),
        ("card.seeds", [0, 7], "other seeds"),
        ("card.rows.0.accuracies", [101.0, 102.0], "mean and std"),
        ("card.rows.0.mean", 99.0, "mean and std"),
        ("card.rows.0.num_bytes", 10**30, "count that no run has"),
        ("card.rows.0.minutes", float("inf"), "minutes"),
        ("card.storage.file_bytes", 2**63, "larger than any file"),
        ("card.differences.0.mean", 50.0, "not that of the rows"),
        ("card.differences.0.words", "better than ever", "said to be"),
        ("card.strange", 1, "strange"),
        ("schema_version", 2, "schema_version"),
        ("fingerprint", "x", "fingerprint"),
    ],
)
def test_what_is_not_a_real_run_is_refused(place: str, value: Any, fault: str, record: Record, tmp_path: Path) -> None:
    assert fault in refusal(tmp_path / "run.json", changed(tree(record), place, value))


def test_an_accuracy_above_100_is_refused_even_where_its_mean_agrees(record: Record, tmp_path: Path) -> None:
    told = tree(record)
    told["card"]["rows"][0] |= {"accuracies": [101.0, 101.0], "mean": 101.0, "std": 0.0}
    told["card"]["differences"] = []
    assert "outside 0..100" in refusal(tmp_path / "run.json", json.dumps(told))


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 5000, b"9" * 5000, b" " * (MAX_BYTES + 1)],
    ids=["empty", "list", "null", "not UTF-8", "deep lists", "deep objects", "a long number", "too large"],
)
def test_hostile_files_give_one_line(content: bytes, tmp_path: Path) -> None:
    assert "run.json" in refusal(tmp_path / "run.json", content)


@given(st.binary(max_size=400))
def test_any_bytes_give_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    refusal(tmp_path_factory.mktemp("fuzz") / "run.json", content)


def test_odd_folders_are_refused(record: Record, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        read_records(tmp_path / "absent")
    with pytest.raises(InputError, match="has no recorded run"):
        read_records(tmp_path)
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(InputError, match="not a regular file"):
        read_records(tmp_path)


@given(st.lists(st.text(min_size=1, max_size=30), max_size=4))
def test_commands_keep_no_absolute_path(words: list[str]) -> None:
    kept = without_paths([*words, "/home/me/set.safetensors", "--data=/mnt/x/photos", "C:\\data\\y", "../z"])
    assert kept[len(words) :] == ["set.safetensors", "--data=photos", "y", "z"]
    assert not any(word.startswith("/") and len(word) > 1 for word in kept)


@given(st.text())
def test_slugs_are_parts_of_file_names(text: str) -> None:
    assert set(slug(text)) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-") and 0 < len(slug(text)) <= 60


def renamed(record: Record, name: str, file_bytes: int, time: str = "2026-11-21T12:00:30Z", **changes: Any) -> Record:
    storage = record.card.storage.model_copy(update={"file_bytes": file_bytes})
    card = record.card.model_copy(update={"name": name, "storage": storage, **changes})
    fingerprint = f"{sum(name.encode()):064x}"
    return record.model_copy(update={"card": card, "fingerprint": fingerprint, "time": time})


def test_the_page_is_sorted_and_the_same_in_any_order(record: Record) -> None:
    other = record.card.protocol.model_copy(update={"name": "another"})
    records = [renamed(record, "big", 9000), renamed(record, "small", 5000), renamed(record, "x", 1, protocol=other)]
    text = page(records, "leaderboard")
    assert text == page(records[::-1], "leaderboard")
    order = "digits, protocol another v1", "| x (", "protocol tiny v1", "| small (", "| big ("
    places = [text.index(each) for each in order]
    assert places == sorted(places)
    own, random = record.card.row(), record.card.row("random images")
    assert all(each in text for each in (own.accuracy_text, random.accuracy_text, COMMIT[:12], "seeds 0, 1"))
    share = record.card.recovery(own)
    assert f"| {share:.0f} |" in text and "9,000" in text


def test_the_later_of_two_records_of_one_run_counts(record: Record) -> None:
    old, new = renamed(record, "a", 10), renamed(record, "a", 20, time="2026-11-22T00:00:00Z")
    [section] = sections([new, old])
    assert section.records == (new,)


def test_settings_that_differ_under_one_label_are_kept_apart(record: Record) -> None:
    longer = record.card.protocol.model_copy(update={"training": TrainingConfig(epochs=3)})
    found = sections([renamed(record, "a", 10), renamed(record, "b", 10, protocol=longer)])
    assert len({each.title for each in found}) == len({each.picture for each in found}) == 2


@pytest.mark.parametrize(
    "change", [{"use_learned_rate": True}, {"means": True}, {"rate_search": RateSearch(learning_rates=(0.1, 0.2))}]
)
def test_whatever_can_change_a_score_keeps_runs_apart(change: dict[str, Any], record: Record) -> None:
    other = record.card.protocol.model_copy(update=change)
    assert len(sections([renamed(record, "a", 10), renamed(record, "b", 10, protocol=other)])) == 2
    described = record.card.protocol.model_copy(update={"description": "otherwise", "labels": ("hard",)})
    assert len(sections([renamed(record, "a", 10), renamed(record, "b", 10, protocol=described)])) == 1


def test_plots_of_different_data_have_different_files(record: Record, tmp_path: Path) -> None:
    records = [renamed(record, "a", 10, data="my data"), renamed(record, "b", 20, data="My-data")]
    assert len({each.picture for each in sections(records)}) == 2
    assert len(write_page(records, tmp_path / "board.md")) == 3


def test_a_name_is_neither_a_link_nor_a_picture(record: Record) -> None:
    text = page([renamed(record, "![x](https://example.invalid/x.png) [y](javascript:z)", 10)], "leaderboard")
    assert "](https" not in text and "](javascript" not in text and "](leaderboard/" in text


def test_scores_are_shown_though_their_record_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.json").write_text(TINY.model_dump_json())
    build(digit_images(), classes=tuple(str(digit) for digit in range(10))).save("set.attar.safetensors")
    line = ["evaluate", "set.attar.safetensors", "--data", "digits", "--protocol", "tiny.json", "--no-baselines"]
    line += ["-q", "--record", "runs", "--commit", COMMIT]
    assert main(line) == 0
    [path] = Path("runs").iterdir()
    path.write_text("{}")
    capsys.readouterr()
    assert main([*line, "--json", "card.json"]) == 2
    said = capsys.readouterr()
    assert "distilled" in said.out and "is not a recorded run" in said.err
    assert Scorecard.from_json(Path("card.json").read_text()).row().mean is not None
    Path("card.json").unlink()
    assert main(["compare", *line[1:], "--out", "card.json"]) == 2 and Path("card.json").exists()


def test_a_command_too_long_to_be_recorded_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    made = build(digit_images(), recipe=json.loads(recipe("dm").model_dump_json()))
    assert distilling_command(made, "a").endswith("--out a.attar.safetensors")
    assert distilling_command(made, "a" * 5000) == distilling_command(made, "a\x07") == ""


def cells(record: Record) -> list[dict[str, str]]:
    """The table's cells by their columns, network by network."""
    lines = [line for line in page([record], "x").splitlines() if line.startswith("| ")]
    heads, _, *rows = ([cell.strip() for cell in line[1:-1].split("|")] for line in lines)
    return [dict(zip(heads, row, strict=True)) for row in rows]


def test_the_page_has_the_rankings_scores_and_the_mean_over_unseen_networks(record: Record) -> None:
    """By hand: HLR 90 - 70 = 20, IOR 70 - 40 = 30, LRS of (30 - 20) / 2 points, ARS of (30 + 20) / 2 points."""
    usual = {"random": (40.0, 41.0), "full": (90.0, 91.5), "plain": (50.0, 51.0), "random-plain": (30.0, 31.5)}
    percents = {DISTILLED: (70.0, 71.0)} | {NAMES[kind]: each for kind, each in usual.items()}
    networks = (NetworkConfig(kind="alexnet"), NetworkConfig(kind="vit"))
    rows = tuple(
        scored(name, *(each + 2 * place for each in found), network=network)
        for place, network in enumerate(networks)
        for name, found in percents.items()
    )
    card = record.card.model_copy(
        update={"rows": rows, "differences": (), "distilled_with": (NetworkConfig(),), "labels": "hard"}
    )
    full = record.model_copy(update={"card": card})
    first, second = cells(full)
    assert first["network"] == "alexnet" and first["HLR"].startswith("+20.2 [") and first["IOR"].startswith("+30.0")
    assert first["LRS"] == f"{normalised((30.0 - 20.25) / 2):.3f}" and first["ARS"] == f"{normalised(24.875):.3f}"
    assert first["mean of unseen %"] == "71.5 ± 0.7 (2)" and second["mean of unseen %"] == ""
    bare = card.model_copy(update={"rows": tuple(row for row in rows if row.name == DISTILLED), "distilled_with": ()})
    for row in cells(record.model_copy(update={"card": bare})):
        assert {row[name] for name in ("HLR", "IOR", "LRS", "ARS", "mean of unseen %", "random images %")} == {""}
    assert first["% of full"] == "78"


@pytest.mark.parametrize(
    ("order", "expected"),
    [("bytes", "bac"), ("paper-bytes", "bca"), ("accuracy", "cab"), ("name", "abc"), ("time", "cba")],
)
def test_the_order_is_the_one_asked_for_and_the_page_says_it(order: Any, expected: str, record: Record) -> None:
    made = []
    for name, num_bytes, paper, percent, day in (("a", 20, 9, 60.0, 1), ("b", 10, 3, 50.0, 2), ("c", 30, 4, 80.0, 3)):
        each = renamed(record, name, num_bytes, time=f"2026-11-2{day}T00:00:00Z", differences=())
        storage = each.card.storage.model_copy(update={"paper_bytes": paper})
        rows = (scored(DISTILLED, percent, percent + 1),)
        card = each.card.model_copy(update={"storage": storage, "rows": rows})
        made.append(each.model_copy(update={"card": card}))
    for records in (made, made[::-1]):
        [section] = sections(records, order)
        assert "".join(each.card.name for each in section.records) == expected
        assert ORDERS[order] in page(records, "x", order)


def test_names_cannot_break_the_page(record: Record) -> None:
    text = page([renamed(record, "<b>|evil\n## x", 10)], "leaderboard")
    assert "\n## x" not in text and "<b>" not in text.replace("\\", "")


def test_pages_and_plots_are_the_same_twice(record: Record, tmp_path: Path) -> None:
    records = [renamed(record, "big", 9000), renamed(record, "small", 5000)]
    ours, theirs = (write_page(records, tmp_path / name / "board.md") for name in folders(tmp_path))
    assert [path.read_bytes() for path in ours] == [path.read_bytes() for path in theirs] and len(ours) == 2
    with pytest.raises(InputError, match="exists"):
        write_page(records, ours[0])
    with pytest.raises(InputError, match="Markdown"):
        write_page(records, tmp_path / "board.html")


def folders(tmp_path: Path) -> list[str]:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    return ["one", "two"]


def test_the_committed_page_is_what_the_committed_runs_give() -> None:
    records = read_records(ROOT / "results")
    assert (ROOT / "docs" / "leaderboard.md").read_text(encoding="utf-8") == page(records, "leaderboard")
    plots = {section.picture for section in sections(records)}
    assert plots == {path.name for path in (ROOT / "docs" / "leaderboard").iterdir()}
    assert len(records) >= 4 and all(len(each.card.seeds) >= 3 for each in records)
    assert not any("/" in word for each in records for word in each.command.split()), "no path of a machine"


def git(folder: Path, *arguments: str) -> str:
    settings = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", "-C", str(folder), *settings, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_commit_is_that_of_the_source_or_asked_for(tmp_path: Path) -> None:
    source = tmp_path / "attar"
    (source / "base").mkdir(parents=True)
    (source / "base" / "errors.py").write_text("x = 1\n")
    with pytest.raises(InputError, match="not run from a checkout"):
        source_commit(source=source)
    git(tmp_path, "init", "-q")
    with pytest.raises(InputError, match="not run from a checkout"):
        source_commit(source=source)
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "a")
    (tmp_path / "notes.txt").write_text("outside the source")
    assert source_commit(source=source) == git(tmp_path, "rev-parse", "HEAD")
    (source / "base" / "errors.py").write_text("x = 2\n")
    with pytest.raises(InputError, match="was changed since its last commit"):
        source_commit(source=source)
    assert source_commit(COMMIT, source) == COMMIT
    with pytest.raises(InputError, match="40 hexadecimal digits"):
        source_commit("0123456", source)


def test_a_set_tells_the_command_that_made_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    import attar

    tiny = ["--set", "steps=2", "--set", "objective.network.width=4", "--seed", "3"]
    assert main(["distill", "digits", "--budget", "1ipc", "--out", "a.attar.safetensors", "-q", *tiny]) == 0
    command = distilling_command(attar.load("a.attar.safetensors"), "b")
    assert command.startswith("attar distill digits --recipe latent-dm --budget 4lpc")
    assert main([*command.split()[1:], "-q"]) == 0
    assert (tmp_path / "b.attar.safetensors").read_bytes() == (tmp_path / "a.attar.safetensors").read_bytes()
    assert distilling_command(build(digit_images()), "x") == "", "a recipe that is not whole tells nothing"


def test_recording_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    protocol = tmp_path / "tiny.json"
    protocol.write_text(TINY.model_dump_json())
    images = digit_images()
    build(images, classes=tuple(str(digit) for digit in range(10))).save("set.attar.safetensors")
    line = ["evaluate", str(tmp_path / "set.attar.safetensors"), "--data", "digits", "--protocol", str(protocol)]
    line += ["--baselines", "random", "-q", "--record", "runs", "--commit", COMMIT]
    assert main(line) == 0
    [path] = (tmp_path / "runs").iterdir()
    before, found = path.read_bytes(), read_record(path)
    assert f"runs/{path.name}" in capsys.readouterr().out
    assert found.commit == COMMIT and found.card.protocol == TINY and str(tmp_path) not in found.to_json()
    assert found.command.startswith("attar evaluate set.attar.safetensors --data digits --protocol tiny.json")
    assert main(line) == 0 and path.read_bytes() == before
    assert "already and is left as it is" in capsys.readouterr().out
    assert main(["leaderboard", "runs", "--out", "board.md"]) == 0
    assert (tmp_path / "board.md").read_text(encoding="utf-8") == page([found], "board")
    [plot] = (tmp_path / "board").iterdir()
    assert capsys.readouterr().out.split() == ["board.md", f"board/{plot.name}"]
    assert main(["leaderboard", "runs"]) == 0 and "# Leaderboard" in capsys.readouterr().out
    assert main(["leaderboard", "runs", "--out", "board.md"]) == 2
    assert main([*line[:-4], "--commit", COMMIT]) == 2 and "no effect without --record" in capsys.readouterr().err
    assert main([*line[:-1], "main"]) == 2 and "40 hexadecimal digits" in capsys.readouterr().err
