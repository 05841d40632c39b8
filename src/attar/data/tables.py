"""Images in tables: parquet files, and Arrow files as `datasets` saves them."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attar.base.errors import InputError
from attar.data.arrays import class_names_from_labels, labels_from_array
from attar.data.offers import Encoded, Offer, Pictures, Source, offer_of, stamps

_IMAGE_COLUMNS = ("image", "img", "images", "picture", "pixel_values", "png", "jpg", "webp")
_LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target", "cls", "category")
_SOFT_COLUMNS = ("soft_label", "soft_labels", "logits", "teacher_logits", "probabilities", "probs")
_PART = re.compile(r"(?:^|[-_./])(train|test|val|valid|validation)(?=$|[-_./0-9])")
_SHARD = re.compile(r"(.*?)-?\d{5}-of-\d{5}(-[0-9a-f]+)?$")
_STATE = "state.json"
_MOST_STATE_BYTES = 2**24
_MOST_ONCE_BYTES = 2**30  # what pyarrow can look up in one group; far more than writers hold once for many rows
_CACHED_GROUPS = 4


def holds_tables(folder: Path) -> bool:
    """Whether there are such files in the folder or one level below (as in data/train-00000.parquet)."""
    patterns = ("*.parquet", "*/*.parquet", "*.arrow", "*/*.arrow")
    return any(file.is_file() for pattern in patterns for file in folder.glob(pattern))


def open_tables(path: Path, soft: bool = False) -> Source:
    """A parquet or Arrow file, a folder of parquet files, or a folder that `save_to_disk` of `datasets` wrote.

    Images are encoded, in a struct with `bytes` or as plain binary, or text that names files below the folder. The
    label column holds whole numbers (with the names of the Hugging Face schema where it has them) or text. Files named
    train-..., test-... or validation-..., or in folders of those names, are those parts; without such names all of them
    are one part.

    Args:
        path: the file or folder.
        soft: labels may be a number for every class alone; an item's class is then that of the largest.

    Raises:
        InputError: pyarrow is missing, a file cannot be read, several sets lie side by side, or no such columns are
            found.
    """
    parts = (_parquet_parts(path) or _saved_parts(path)) if path.is_dir() else {"": [path]}
    train = parts.get("train") or parts.get("")
    if train is None:
        names = ", ".join(sorted(parts))
        raise InputError(f"{path} has the parts {names} but no train part; give the file or folder of one of them")
    test = parts.get("test") or parts.get("val")
    root = path if path.is_dir() else path.parent
    return source_of(path.resolve().name, [_table(part, root, soft) for part in (train, test) if part])


def _parquet_parts(path: Path) -> dict[str, list[Path]]:
    """The files of each part, by its name; "" where they have none. Hidden ones are passed over."""
    parts: dict[str, list[Path]] = {}
    for file in sorted(file for file in path.rglob("*.parquet") if file.is_file()):
        below = file.relative_to(path)
        if not any(part.startswith(".") for part in below.parts):
            words = _PART.findall(below.with_suffix("").as_posix().lower())
            parts.setdefault(_canonical(words[-1]) if words else "", []).append(file)
    for name, members in parts.items():
        _refuse_several(path, {_configuration(file, path, name) for file in members}, "folders")
        _refuse_several(path, {match[1] for file in members if (match := _SHARD.match(file.stem))}, "parts")
    return parts


def _canonical(part: str) -> str:
    return "val" if part in ("valid", "validation") else part


def _configuration(file: Path, root: Path, part: str) -> str:
    """The folder of `root` that holds the file, which is a configuration's unless the part's name is in it."""
    first = file.relative_to(root).parts[0]
    return "" if file.parent == root or (part and _PART.search(first.lower())) else first


def _refuse_several(path: Path, names: set[str], what: str) -> None:
    if len(names) > 1:
        listed = ", ".join(sorted(name or "(none)" for name in names)[:8])
        raise InputError(f"{path} holds several sets, in the {what} {listed}; give the file or folder of one of them")


def _saved_parts(path: Path) -> dict[str, list[Path]]:
    """As `_parquet_parts`, of a folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""
    if files := _saved_files(path):
        return {"": files}
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    parts = {_canonical(folder.name): files for folder in folders if (files := _saved_files(folder))}
    if not parts:
        raise InputError(f"{path} holds no .parquet or .arrow files; give a file, or a folder of them")
    return parts


def _saved_files(folder: Path) -> list[Path]:
    """The files that the folder's state lists, since an earlier, longer save may have left others beside them."""
    files, state = sorted(file for file in folder.glob("*.arrow") if file.is_file()), folder / _STATE
    if not files or not state.is_file():
        return files
    try:
        if state.stat().st_size > _MOST_STATE_BYTES:
            raise ValueError
        names = [str(entry["filename"]) for entry in json.loads(state.read_bytes())["_data_files"]]
        if len(set(names)) < len(names):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(
            f"{state} is damaged; save the data set again, or remove it to take every .arrow file"
        ) from None
    beside = {file.name: file for file in files}
    missing = [name for name in names if name not in beside]
    if missing or not names:
        raise InputError(
            f"{state} lists {(missing or ['no file'])[0]!r}, which is not beside it; copy the whole folder"
        )
    return [beside[name] for name in names]


@dataclass(frozen=True)
class Rows:
    """Rows in groups: those of a parquet file, or one for an Arrow stream, which is mapped, or a table in memory.

    Args:
        schema: of pyarrow.
        sizes: rows of each group.
        column: the values of a group, by its number and the column's name, as pyarrow has them.
    """

    schema: Any
    sizes: list[int]
    column: Callable[[int, str], Any]


def rows_of(table: Any) -> Rows:
    """A pyarrow table's rows."""

    def column(group: int, name: str) -> Any:
        values = table.column(name)
        values.validate(full=True)  # nothing of an Arrow file is checked before it is asked for
        return values

    return Rows(table.schema, [len(table)], column)


def _table(files: Sequence[Path], root: Path, soft: bool) -> Table:
    title = files[0].name if len(files) == 1 else f"{files[0].name} and {len(files) - 1} more"
    facts = [[str(file.resolve()) for file in files], stamps(files)]
    return Table([_open(file) for file in files], title, facts, root.resolve(), soft)


def _open(path: Path) -> Rows:
    try:
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError:
        raise InputError(f"{path.name} needs the package pyarrow; run: pip install 'attar[parquet]'") from None
    try:
        if path.suffix.lower() == ".arrow":
            return rows_of(pyarrow.ipc.open_stream(pyarrow.memory_map(str(path))).read_all())
        return _parquet_rows(path)
    except InputError:
        raise
    except Exception as error:  # a hostile file reaches any corner of the reader
        raise _unreadable(path.name, error) from error


def _parquet_rows(path: Path) -> Rows:
    """A parquet file's row groups. Images that the file holds once, for many rows, are held once here too."""
    import pyarrow.parquet as parquet

    plain = parquet.ParquetFile(path)
    groups = [plain.metadata.row_group(group) for group in range(plain.metadata.num_row_groups)]
    sizes, num_bytes = [group.num_rows for group in groups], path.stat().st_size
    if sum(sizes) > num_bytes:
        raise InputError(f"{path.name} announces {sum(sizes)} rows in {num_bytes} bytes; it is damaged")
    columns = [group.column(column) for group in groups for column in range(group.num_columns)]
    once = {column.path_in_schema for column in columns if column.physical_type == "BYTE_ARRAY"}
    once -= {column.path_in_schema for column in columns if column.total_uncompressed_size > _MOST_ONCE_BYTES}
    file = parquet.ParquetFile(path, metadata=plain.metadata, read_dictionary=sorted(once))
    # The schema is that of the plain reader: the other one's has dictionaries in the place of binary columns.
    return Rows(plain.schema_arrow, sizes, lambda group, name: file.read_row_group(group, [name]).column(name))


def _unreadable(title: str, error: Exception) -> InputError:
    form = "Arrow" if ".arrow" in title else "parquet"
    reason = str(error).partition("\n")[0][:100] or type(error).__name__
    return InputError(f"{title} cannot be read as {form} ({reason}); repair or replace it")


class Table(Pictures):
    """Encoded pictures in rows, with their labels; groups of rows are read as they are needed, the last few are kept.

    Args:
        files: whose rows follow one another.
        title: how to call them in a message.
        facts: JSON-able, another whenever a row changes.
        root: below which the files lie that rows name; None: where they are named, since `datasets` put them there.
        soft: labels may be a number for every class alone.

    Raises:
        InputError: columns that are missing or cannot be read.
    """

    def __init__(
        self, files: Sequence[Rows], title: str, facts: list[Any], root: Path | None, soft: bool = False
    ) -> None:
        self.files, self.title, self._facts, self._root = list(files), title, facts, root
        schema, features = self.files[0].schema, _features(self.files[0].schema.metadata)
        contents = {field.name: _content(field.type) for field in schema}
        self.image_column = _image_column(contents, features, title)
        self._names_files = contents[self.image_column] == "text"
        self.label_column, self.soft_column = _label_columns(contents, features)
        if self.label_column is None and (self.soft_column is None or not soft):
            raise InputError(f"{title} has the columns {', '.join(schema.names)}; name the label column 'label'")
        self._groups = [(file, group) for file in self.files for group in range(len(file.sizes))]
        self._ends = np.cumsum([size for file in self.files for size in file.sizes])
        self._images = lru_cache(_CACHED_GROUPS)(lambda group: self._read(*self._groups[group], self.image_column))
        self._lock = threading.Lock()  # else each thread would read the same group for itself
        self.names = None if self.label_column is None else self._class_names(self.label_column)
        self.labels = self._labels()

    def read(self, position: int) -> bytes | Path:
        """See `Pictures`."""
        group = int(np.searchsorted(self._ends, position, side="right"))
        start = int(self._ends[group - 1]) if group else 0
        with self._lock:
            images = self._images(group)
        value = images[position - start]
        content = value.as_py() if not hasattr(value, "keys") or not value.is_valid else value["bytes"].as_py()
        if content is None and self._root is None and value.is_valid and "path" in value and value["path"].is_valid:
            return Path(value["path"].as_py())
        if content is None:
            raise InputError(f"{self.name(position)} holds no image bytes; embed the images in the table")
        return content if isinstance(content, bytes) else self._beside(content, position)

    def name(self, position: int) -> str:
        """See `Pictures`."""
        return f"row {position} of {self.title}"

    def identity(self, positions: Sequence[int]) -> list[Any]:
        """See `Pictures`."""
        files = [Path(self.read(position)) for position in positions] if self._names_files else []  # type: ignore[arg-type]
        return [*self._facts, self.image_column, list(positions), *([stamps(files)] if files else [])]

    def soft_labels(self) -> np.ndarray | None:
        """A number for every class as the table has them, float32 [N, K]; None without such a column."""
        if self.soft_column is None:
            return None
        parts = [_matrix(column, self.soft_column, self.title) for column in self._all(self.soft_column)]
        if len({part.shape[1] for part in parts if len(part)}) > 1:
            raise _ragged(self.soft_column, self.title)
        return np.concatenate([part for part in parts if len(part)] or parts[:1])

    def _class_names(self, label: str) -> tuple[str, ...] | None:
        first, *others = [_features(file.schema.metadata).get(label, {}).get("names") for file in self.files]
        if any(names != first for names in others):
            raise InputError(f"{self.title} differ in the classes' names; give files that were written together")
        return tuple(str(name) for name in first) if isinstance(first, list) and first else None

    def _labels(self) -> np.ndarray:
        if self.label_column is None:
            soft = self.soft_labels()
            assert soft is not None
            return soft.argmax(1)
        columns = self._all(self.label_column)
        absent = sum(column.null_count for column in columns)
        if absent:
            raise InputError(f"{self.title} has {absent} rows without a label; remove them, or choose a labelled part")
        return np.concatenate([np.asarray(column.to_pylist()) for column in columns if len(column)] or [np.zeros(0)])

    def _all(self, name: str) -> list[Any]:
        return [self._read(file, group, name) for file, group in self._groups]

    def _read(self, file: Rows, group: int, name: str) -> Any:
        try:
            return file.column(group, name)
        except Exception as error:  # as in `_open`
            raise _unreadable(self.title, error) from error

    def _beside(self, text: str, position: int) -> Path:
        """The file that a row names; a table may come from anyone, so nothing outside its folder is opened."""
        assert self._root is not None
        try:
            path = (self._root / text).resolve()
            if path.is_relative_to(self._root) and path.is_file():
                return path
        except (OSError, ValueError):
            pass
        raise InputError(
            f"{self.name(position)} names the image {ascii(text)[:100]}, which is no file below {self._root}; put it "
            "there, or embed the images in the table"
        )


def source_of(name: str, tables: Sequence[Table]) -> Source:
    """A training part, and a test part where there is a second table.

    Raises:
        InputError: no rows, one class, or labels that are none.
    """
    for table in tables:
        if not len(table.labels):
            raise InputError(f"{table.title} has no rows; give a table with some")
    classes = tables[0].names or class_names_from_labels(tables[0].labels, f"the labels of {tables[0].title}")
    if len(classes) < 2:
        raise InputError(f"{name} has one class, {classes[0]!r}; a classifier needs at least 2")
    return Source(name, *[_offer(table, table.names or classes) for table in tables])


def _offer(table: Table, classes: tuple[str, ...]) -> Offer:
    what = f"the labels of {table.title}"
    if table.names is None or table.labels.dtype.kind == "U":
        labels = labels_from_array(table.labels, classes, what)
    elif table.labels.dtype.kind not in "iu":
        raise InputError(f"{what} are {table.labels.dtype} beside a list of class names; give whole numbers")
    else:
        labels = torch.from_numpy(table.labels.astype(np.int64))
        if not 0 <= int(labels.min()) <= int(labels.max()) < len(classes):
            raise InputError(
                f"{what} run from {int(labels.min())} to {int(labels.max())}, outside the {len(classes)} named classes "
                "(-1 marks a part without labels); choose another part"
            )
    return offer_of(Encoded(table, torch.arange(len(labels)), labels, classes))


def _features(metadata: dict[bytes, bytes] | None) -> dict[str, dict[str, Any]]:
    """The column descriptions that Hugging Face writes into a schema; nothing where there are none, or not readable."""
    try:
        features = json.loads((metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _content(kind: Any) -> str:
    """What a column of this type can be: "images" in bytes, "text" that may name files, "numbers" for every class."""
    import pyarrow.types as types

    if types.is_struct(kind):
        return "images" if kind.get_field_index("bytes") >= 0 else ""
    if types.is_binary(kind) or types.is_large_binary(kind):
        return "images"
    if types.is_string(kind) or types.is_large_string(kind):
        return "text"
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return "numbers" if types.is_floating(kind.value_type) or types.is_integer(kind.value_type) else ""
    return ""


def _image_column(contents: dict[str, str], features: dict[str, dict[str, Any]], title: str) -> str:
    in_bytes = [name for name, content in contents.items() if content == "images"]
    in_files = [name for name, content in contents.items() if content == "text" and name in _IMAGE_COLUMNS]
    declared = [name for name, feature in features.items() if feature.get("_type") == "Image" and name in in_bytes]
    column = _column(_IMAGE_COLUMNS, in_bytes, declared or in_bytes) or _column(_IMAGE_COLUMNS, in_files, in_files)
    if column is None:
        holders = "several hold" if in_bytes else "none holds"
        raise InputError(
            f"{title} has the columns {', '.join(contents)}, of which {holders} image bytes; "
            "name one 'image' (binary, or a struct with bytes)"
        )
    return column


def _label_columns(contents: dict[str, str], features: dict[str, dict[str, Any]]) -> tuple[str | None, str | None]:
    """The columns of labels, and of numbers for every class."""
    lists = [name for name, content in contents.items() if content == "numbers"]
    declared = [name for name, feature in features.items() if feature.get("_type") == "ClassLabel"]
    label = _column(_LABEL_COLUMNS, [name for name in contents if name not in lists], declared)
    return label, _column((*_SOFT_COLUMNS, *_LABEL_COLUMNS), lists, [])


def _column(usual: Sequence[str], present: Sequence[str], declared: Sequence[str]) -> str | None:
    """The first usual name that is declared or present, else the only declared column."""
    candidates = [name for name in usual if name in declared] + [name for name in usual if name in present]
    return candidates[0] if candidates else (declared[0] if len(declared) == 1 else None)


def _matrix(column: Any, name: str, title: str) -> np.ndarray:
    """float32 [rows, K] of a column of lists."""
    import pyarrow

    lists = column.combine_chunks() if isinstance(column, pyarrow.ChunkedArray) else column
    if lists.null_count:
        raise _ragged(name, title)
    values = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    width = len(values) // max(1, len(lists))
    sizes = [width] if pyarrow.types.is_fixed_size_list(lists.type) else lists.value_lengths().unique().to_pylist()
    if len(lists) and (sizes != [width] or not width):
        raise _ragged(name, title)
    return values.reshape(len(lists), width)


def _ragged(name: str, title: str) -> InputError:
    return InputError(f"{name!r} of {title} has not as many numbers in every row; give one for every class")
