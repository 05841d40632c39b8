"""Images in tables: parquet files, and Arrow files as `datasets` saves them."""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from attar.base.errors import InputError
from attar.data.arrays import class_names_from_labels, labels_from_array
from attar.data.offers import Encoded, Offer, Pictures, Source, offer_of

_IMAGE_COLUMNS = ("image", "img", "images", "picture", "pixel_values", "png", "jpg", "webp")
_LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target", "cls", "category")
_SOFT_COLUMNS = ("soft_label", "soft_labels", "logits", "teacher_logits", "probabilities", "probs")
_SPLIT = re.compile(r"(?:^|[-_./])(train|test|val|valid|validation)(?=$|[-_./0-9])")
_SHARD = re.compile(r"(.*?)-?\d{5}-of-\d{5}(-[0-9a-f]+)?$")
_STATE = "state.json"
_MOST_STATE_BYTES = 2**24
_MOST_ONCE_BYTES = 2**30  # what pyarrow can look up in one group; far more than writers hold once for many rows
_CACHED_GROUPS = 4


def holds_tables(folder: Path) -> bool:
    """Whether there are such files in the folder or one level below (as in data/train-00000.parquet)."""
    patterns = ("*.parquet", "*/*.parquet", "*.arrow", "*/*.arrow")
    return any(found.is_file() for pattern in patterns for found in folder.glob(pattern))


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
    groups = _saved_parts(path) if path.is_dir() and not _below(path) else _parquet_parts(path)
    train = groups.get("train") or groups.get("")
    if train is None:
        named = ", ".join(sorted(groups))
        raise InputError(f"{path} has the parts {named} but no train part; give the file or folder of one of them")
    test = groups.get("test") or groups.get("val")
    root = path if path.is_dir() else path.parent
    return source_of(path.resolve().name, [_table(part, root, soft) for part in (train, test) if part])


def _parquet_parts(path: Path) -> dict[str, list[Path]]:
    """The files of each part, by its name; "" where they have none."""
    if not path.is_dir():
        return {"": [path]}
    groups: dict[str, list[Path]] = {}
    for file in _below(path):
        groups.setdefault(_split_name(file, path), []).append(file)
    for name, part in groups.items():
        _refuse_several(path, {_folder(file, path, name) for file in part}, "folders")
        _refuse_several(path, {found[1] for file in part if (found := _SHARD.match(file.stem))}, "parts")
    return groups


def _below(folder: Path) -> list[Path]:
    """Parquet files at any depth, but for hidden ones."""
    found = [file for file in folder.rglob("*.parquet") if file.is_file()]
    return sorted(f for f in found if not any(part.startswith(".") for part in f.relative_to(folder).parts))


def _folder(file: Path, root: Path, split: str) -> str:
    """The folder of `root` that holds the file, which is its configuration's unless the part's name is in it."""
    first = file.relative_to(root).parts[0]
    return "" if file.parent == root or (split and _SPLIT.search(first.lower())) else first


def _refuse_several(path: Path, names: set[str], what: str) -> None:
    if len(names) > 1:
        listed = ", ".join(sorted(name or "(none)" for name in names)[:8])
        raise InputError(f"{path} holds several sets, in the {what} {listed}; give the file or folder of one of them")


def _saved_parts(path: Path) -> dict[str, list[Path]]:
    """As `_parquet_parts`, of a folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""
    files = _saved_files(path)
    if files:
        return {"": files}
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    groups = {_canonical(folder.name): files for folder in folders if (files := _saved_files(folder))}
    if not groups:
        raise InputError(f"{path} holds no .parquet or .arrow files; give a file, or a folder of them")
    return groups


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


def _split_name(file: Path, root: Path) -> str:
    below = file.relative_to(root).as_posix()
    found = _SPLIT.findall(below.removesuffix(".parquet").lower())
    return _canonical(found[-1]) if found else ""


def _canonical(split: str) -> str:
    return "val" if split in ("valid", "validation") else split


def _table(files: Sequence[Path], root: Path, soft: bool) -> Table:
    title = files[0].name if len(files) == 1 else f"{files[0].name} and {len(files) - 1} more"
    rows = [_open_arrow(file) if file.suffix.lower() == ".arrow" else _open_parquet(file) for file in files]
    facts = [file.stat() for file in files]
    stats = [(fact.st_size, fact.st_mtime_ns, fact.st_ctime_ns) for fact in facts]
    return Table(rows, title, [[str(file.resolve()) for file in files], stats], root.resolve(), soft)


class Rows(Protocol):
    """Rows of one file, in groups."""

    schema: Any
    sizes: list[int]

    def column(self, group: int, name: str) -> Any:
        """The values of a group, as pyarrow has them."""


class _Parquet:
    """A parquet file's row groups. Images that the file holds once, for many rows, are held once here too.

    Raises:
        InputError: more rows than bytes.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as parquet

        plain = parquet.ParquetFile(path)
        groups = [plain.metadata.row_group(group) for group in range(plain.metadata.num_row_groups)]
        self.schema, self.sizes = plain.schema_arrow, [group.num_rows for group in groups]
        if sum(self.sizes) > (held := path.stat().st_size):
            raise InputError(f"{path.name} announces {sum(self.sizes)} rows in {held} bytes; it is damaged")
        columns = [group.column(column) for group in groups for column in range(group.num_columns)]
        once = {each.path_in_schema for each in columns if each.physical_type == "BYTE_ARRAY"}
        once -= {each.path_in_schema for each in columns if each.total_uncompressed_size > _MOST_ONCE_BYTES}
        self.file = parquet.ParquetFile(path, metadata=plain.metadata, read_dictionary=sorted(once))

    def column(self, group: int, name: str) -> Any:
        return self.file.read_row_group(group, columns=[name]).column(name)


class _Stream:
    """An Arrow stream's batches, mapped into memory. Nothing of such a file is checked before it is asked for."""

    def __init__(self, reader: Any) -> None:
        self.schema, self.batches = reader.schema, list(reader)
        self.sizes = [batch.num_rows for batch in self.batches]

    def column(self, group: int, name: str) -> Any:
        column = self.batches[group].column(name)
        column.validate(full=True)
        return column


class Held:
    """A table that is there already.

    Args:
        table: of pyarrow.
    """

    def __init__(self, table: Any) -> None:
        self.table, self.schema, self.sizes = table, table.schema, [len(table)]

    def column(self, group: int, name: str) -> Any:
        return self.table.column(name)


def _open_parquet(path: Path) -> Rows:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise _pyarrow_missing(path) from None
    try:
        return _Parquet(path)
    except InputError:
        raise
    except Exception as error:  # a hostile file reaches any corner of the reader
        raise _unreadable(path.name, error) from error


def _open_arrow(path: Path) -> Rows:
    try:
        import pyarrow.ipc
    except ImportError:
        raise _pyarrow_missing(path) from None
    try:
        return _Stream(pyarrow.ipc.open_stream(pyarrow.memory_map(str(path))))
    except Exception as error:  # as above
        raise _unreadable(path.name, error) from error


def _pyarrow_missing(path: Path) -> InputError:
    return InputError(f"{path.name} needs the package pyarrow; run: pip install 'attar[parquet]'")


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
        self.image_column = _image_column(schema, features, title)
        self.label_column, self.soft_column = _label_columns(schema, features)
        if self.label_column is None and (self.soft_column is None or not soft):
            raise InputError(f"{title} has the columns {', '.join(schema.names)}; name the label column 'label'")
        self._groups = [(f, g) for f, file in enumerate(self.files) for g in range(len(file.sizes))]
        self._ends = np.cumsum([size for file in self.files for size in file.sizes])
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()
        self.names = None if self.label_column is None else self._names(self.label_column)
        self.labels = self._labels()

    def read(self, position: int) -> bytes | Path:
        """See `Pictures`."""
        group = int(np.searchsorted(self._ends, position, side="right"))
        start = int(self._ends[group - 1]) if group else 0
        value = self._column(group)[position - start]
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
        facts = [*self._facts, self.image_column, list(positions)]
        if not _names_files(self.files[0].schema.field(self.image_column).type):
            return facts
        stats = [Path(self.read(position)).stat() for position in positions]  # type: ignore[arg-type]
        return [*facts, [(fact.st_size, fact.st_mtime_ns, fact.st_ctime_ns) for fact in stats]]

    def soft_labels(self) -> np.ndarray | None:
        """A number for every class as the table has them, float32 [N, K]; None without such a column."""
        if self.soft_column is None:
            return None
        parts = [_matrix(column, self.soft_column, self.title) for column in self._all(self.soft_column)]
        if len({part.shape[1] for part in parts if len(part)}) > 1:
            raise _ragged(self.soft_column, self.title)
        return np.concatenate([part for part in parts if len(part)] or parts[:1])

    def _names(self, label: str) -> tuple[str, ...] | None:
        described = [_features(file.schema.metadata).get(label, {}).get("names") for file in self.files]
        if any(names != described[0] for names in described):
            raise InputError(f"{self.title} differ in the classes' names; give files that were written together")
        listed = described[0] if isinstance(described[0], list) else []
        return tuple(str(name) for name in listed) or None

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
        return [self._read(file, group, name) for file in self.files for group in range(len(file.sizes))]

    def _read(self, file: Rows, group: int, name: str) -> Any:
        try:
            return file.column(group, name)
        except Exception as error:  # as above
            raise _unreadable(self.title, error) from error

    def _column(self, group: int) -> Any:
        with self._lock:
            if group not in self._kept:
                file, number = self._groups[group]
                self._kept[group] = self._read(self.files[file], number, self.image_column)
                if len(self._kept) > _CACHED_GROUPS:
                    self._kept.popitem(last=False)
            return self._kept[group]

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
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(classes):
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


def _image_column(schema: Any, features: dict[str, dict[str, Any]], title: str) -> str:
    named = [field.name for field in schema if _names_files(field.type) and field.name in _IMAGE_COLUMNS]
    fitting = [field.name for field in schema if _holds_bytes(field.type)]
    declared = [name for name, feature in features.items() if feature.get("_type") == "Image" and name in fitting]
    column = _column(_IMAGE_COLUMNS, fitting, declared or fitting) or _column(_IMAGE_COLUMNS, named, named)
    if column is None:
        held = "several hold" if fitting else "none holds"
        raise InputError(
            f"{title} has the columns {', '.join(schema.names)}, of which {held} image bytes; "
            "name one 'image' (binary, or a struct with bytes)"
        )
    return column


def _label_columns(schema: Any, features: dict[str, dict[str, Any]]) -> tuple[str | None, str | None]:
    """Of labels, and of numbers for every class."""
    lists = [field.name for field in schema if _holds_numbers(field.type)]
    declared = [name for name, feature in features.items() if feature.get("_type") == "ClassLabel"]
    label = _column(_LABEL_COLUMNS, [name for name in schema.names if name not in lists], declared)
    return label, _column((*_SOFT_COLUMNS, *_LABEL_COLUMNS), lists, [])


def _column(usual: Sequence[str], present: Sequence[str], declared: Sequence[str]) -> str | None:
    """The first usual name that is declared or present, else the only declared column."""
    named = [name for name in usual if name in declared] + [name for name in usual if name in present]
    return named[0] if named else (declared[0] if len(declared) == 1 else None)


def _holds_bytes(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return types.is_binary(kind) or types.is_large_binary(kind)


def _names_files(kind: Any) -> bool:
    import pyarrow.types as types

    return types.is_string(kind) or types.is_large_string(kind)


def _holds_numbers(kind: Any) -> bool:
    import pyarrow.types as types

    if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
        return False
    return types.is_floating(kind.value_type) or types.is_integer(kind.value_type)


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
