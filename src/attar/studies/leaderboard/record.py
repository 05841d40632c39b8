"""One scored run as a file: its scorecard, and when, at which commit and by which commands it was made."""

from __future__ import annotations

import math
import re
import shlex
import stat
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from attar.base.config import Config, parse_config
from attar.base.errors import InputError
from attar.base.files import content_key, write_text
from attar.evaluation.rows import Row
from attar.evaluation.scorecard import DISTILLED, Scorecard
from attar.sets.manifest import Sha256
from attar.studies.leaderboard.provenance import LONGEST_COMMAND

MAX_BYTES = 2**20
MOST_RECORDS = 10_000
LARGEST_COUNT = 2**62
LONGEST_TEXT = 20_000
TIME = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$"
SCORED = {"training", "use_learned_rate", "means", "rate_search"}
"""Settings of a protocol that can change a score."""
NEEDED = "a run is recorded with its protocol, seeds, device, commit and command"

Command = Annotated[str, Field(max_length=LONGEST_COMMAND, pattern=r"^[^\x00-\x1f\x7f]*$")]


class Record(Config):
    """One scored run.

    Args:
        time: when it was scored, UTC, to the second.
        commit: of attar's source.
        command: that scored it; paths are shortened to their last part.
        made_by: the command that distilled the set, where its file tells; else "".
        fingerprint: of the set.
        card: without confusion tables, curves, and accuracies class by class of other rows than the set's; of scores
            read from the cache, as when they were computed.

    Raises:
        InputError: no device or command, numbers that no run has.
    """

    schema_version: Literal[1]
    time: str = Field(pattern=TIME)
    commit: str = Field(pattern="^[0-9a-f]{40}$")
    command: Annotated[Command, Field(min_length=1)]
    made_by: Command = ""
    fingerprint: Sha256
    card: Scorecard

    @model_validator(mode="after")
    def _of_a_real_run(self) -> Record:
        if not self.card.device.strip() or not self.card.protocol.label.strip():
            raise ValueError(f"the device or the protocol is not named; {NEEDED}")
        for row in self.card.rows:
            _check_row(row)
        sizes = self.card.storage
        if max(sizes.paper_bytes, sizes.file_bytes, sizes.external_bytes, sizes.bits_per_class) > LARGEST_COUNT:
            raise ValueError("a size is larger than any file")
        return self

    @property
    def key(self) -> str:
        """Equal for the same set, data, protocol, networks, seeds and device."""
        card = self.card
        networks = list(dict.fromkeys(row.network.name for row in card.rows))
        data = card.test_fingerprint, card.train_fingerprint
        return content_key(self.fingerprint, data, protocol_key(card), networks, card.seeds, card.device)

    @property
    def file_name(self) -> str:
        """E.g. "digits-quick-v1-photos-0a1b2c3d.json"."""
        names = (self.card.data, self.card.protocol.label, self.card.name)
        return "-".join([*map(slug, names), self.key[:8]]) + ".json"

    def to_json(self) -> str:
        """Everything, as indented JSON."""
        return self.model_dump_json(indent=1) + "\n"


def protocol_key(card: Scorecard) -> str:
    """Equal for equal settings of whatever can change a score, whatever the protocol's description."""
    used = card.protocol
    return content_key(used.name, used.version, used.model_dump(mode="json", include=SCORED))


def record_of(
    card: Scorecard,
    *,
    commit: str,
    command: Sequence[str],
    fingerprint: str,
    made_by: str = "",
    time: datetime | None = None,
) -> Record:
    """A run just scored as a record, with the fields of `Record`; `command` in words, `time` None for now.

    Raises:
        InputError: something of it is not named.
    """
    rows = tuple(_short(row) for row in card.rows)
    when = (time or datetime.now(timezone.utc)).astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    try:
        return Record(
            schema_version=1,
            time=when,
            commit=commit,
            command=shlex.join(without_paths(command)),
            made_by=made_by,
            fingerprint=fingerprint,
            card=card.model_copy(update={"rows": rows}),
        )
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(map(str, fault["loc"])) or "the run"
        raise InputError(f"this run cannot be recorded: {place}: {fault['msg']}; {NEEDED}") from None


def write_record(record: Record, folder: Path, overwrite: bool = False) -> tuple[Path, bool]:
    """Write a record under its own name; the path, and whether it was written.

    The same scores recorded again leave the older file as it is.

    Raises:
        InputError: a file of other scores that may not be replaced, or a record too large to be read again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, text = folder / record.file_name, record.to_json()
    if len(text.encode()) > MAX_BYTES:
        raise InputError(f"the record has {len(text.encode()):,} bytes and at most {MAX_BYTES:,} are allowed")
    if path.exists() and not overwrite:
        if read_record(path).card == record.card:
            return path, False
        raise InputError(f"{path} has other scores of the same set, protocol and seeds; --overwrite replaces them")
    write_text(path, text)
    return path, True


def read_record(path: Path) -> Record:
    """The record in a file, whatever the file is. Raises InputError: one line that says what is wrong with it."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{path} is not a regular file; give a folder of recorded runs")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        text = raw.decode("utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a recorded run: it is not UTF-8 text") from None
    if len(raw) > MAX_BYTES:
        raise InputError(f"{path} is larger than {MAX_BYTES:,} bytes; a recorded run is not")
    return parse_config(Record, text, f"{path.name} is not a recorded run ({NEEDED})")


def read_records(folder: Path) -> list[Record]:
    """Every record in a folder, in the order of their names. Raises InputError for none, too many or a strange file."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the folder that attar evaluate --record has filled")
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise InputError(f"{folder} has no recorded run; attar evaluate FILE --data DATA --record {folder} writes one")
    if len(paths) > MOST_RECORDS:
        raise InputError(f"{folder} has {len(paths):,} files and at most {MOST_RECORDS:,} are read; split it")
    return [read_record(path) for path in paths]


def without_paths(words: Sequence[str]) -> list[str]:
    """The words of a command, paths to elsewhere shortened to their last part.

    Example:
        >>> without_paths(["attar", "evaluate", "/home/me/a.safetensors", "--data=/mnt/photos"])
        ['attar', 'evaluate', 'a.safetensors', '--data=photos']
    """
    return ["=".join(map(_last_part, word.split("="))) for word in words]


def slug(text: str) -> str:
    """Lower-case letters, digits, full stops and hyphens, at most 60 of them: part of a file's name.

    Example:
        >>> slug("dc-bench v1")
        'dc-bench-v1'
    """
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[:60] or "unnamed"


def _short(row: Row) -> Row:
    """What is recorded of a row: equal scores give equal records, with curves or without."""
    left_out: dict[str, Any] = {"confusion": (), "curve_epochs": (), "curves": (), "cached": 0}
    return row.model_copy(update=left_out if row.name == DISTILLED else left_out | {"per_class": ()})


def _last_part(word: str) -> str:
    for kind in (PurePosixPath, PureWindowsPath):
        path = kind(word)
        if path.is_absolute() or path.parts[:1] == ("..",):
            return path.name
    return PurePosixPath(word).name if word.startswith("~") else word


def _check_row(row: Row) -> None:
    if not all(0 <= accuracy <= 100 for accuracy in row.accuracies):
        raise ValueError(f"row {row.name!r} has an accuracy outside 0..100 %")
    counts = [count for count in (row.num_items, row.paper_bytes, row.num_bytes, row.images_seen) if count is not None]
    if any(not 0 <= count <= LARGEST_COUNT for count in counts) or not row.minutes < LARGEST_COUNT:
        raise ValueError(f"row {row.name!r} has a count that no run has")
    if row.confusion or any(len(text) > LONGEST_TEXT for text in (row.name, row.note, row.absent or "")):
        raise ValueError(f"row {row.name!r} has a confusion table, or a text of more than {LONGEST_TEXT:,} letters")
    if any(share is not None and not math.isfinite(share) for share in row.per_class):
        raise ValueError(f"row {row.name!r} has an accuracy that is not finite")
