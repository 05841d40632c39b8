"""Images in tables: local parquet files and data sets of the Hugging Face hub."""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attar.data.arrays import class_names_from_labels, labels_from_array
from attar.data.offers import Encoded, Offer, Pictures, Source, offer_of
from attar.errors import InputError

_IMAGE_COLUMNS = ("image", "img", "images", "picture", "pixel_values", "png", "jpg", "webp")
_LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target", "cls", "category")
_SPLIT = re.compile(r"(?:^|[-_./])(train|test|val|valid|validation)(?=$|[-_./0-9])")
_CACHED_GROUPS = 4


def open_parquet(path: Path) -> Source:
    """A parquet file, or a folder of them, that embeds encoded images.

    The image column is a struct with `bytes` or plain binary; the label column holds whole numbers (with the names of
    the Hugging Face schema where it has them) or text. Files named train-..., test-... or validation-..., or in folders
    of those names, are those parts; without such names all of them are one part.

    Raises:
        InputError: pyarrow is missing, a file cannot be read, or no such columns are found.
    """
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    files = [file for file in files if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    if not files:
        raise InputError(f"{path} holds no .parquet files; give a file, or a folder of them")
    groups: dict[str, list[Path]] = {}
    for file in files:
        groups.setdefault(_split_name(file, path), []).append(file)
    train = groups.get("train") or groups.get("")
    if train is None:
        raise InputError(f"{path} has {', '.join(sorted(groups))} files but no train files; name some train-*.parquet")
    test = groups.get("test") or groups.get("val")
    tables = [_ParquetTable(part) for part in (train, test) if part]
    return _source(path.resolve().name, tables)


def open_hub(name: str) -> Source:
    """A data set of the Hugging Face hub, through the optional package `datasets`; its test part, else validation.

    Raises:
        InputError: the package is missing, or the data set is not found or has no image and label column.
    """
    try:
        import datasets
    except ImportError:
        raise InputError(f"hf:{name} needs the package datasets; run: pip install 'attar[hub]'") from None
    try:
        found = datasets.load_dataset(name)
    except Exception as error:  # the hub client raises its own, its HTTP library's and the system's errors
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        raise InputError(f"hf:{name} cannot be loaded ({reason}); check the name and the connection") from error
    parts = {_canonical(str(split)): part for split, part in found.items()}
    if "train" not in parts:
        raise InputError(f"hf:{name} has the parts {', '.join(sorted(found))} but no train part; choose another")
    test = parts.get("test", parts.get("val"))
    tables = [_HubTable(part, f"hf:{name}") for part in (parts["train"], test) if part is not None]
    return _source(f"hf:{name}", tables)


def _split_name(file: Path, root: Path) -> str:
    below = file.relative_to(root).as_posix() if file != root else file.name
    found = _SPLIT.findall(below.removesuffix(".parquet").lower()) if file != root else []
    return _canonical(found[-1]) if found else ""


def _canonical(split: str) -> str:
    return "val" if split in ("valid", "validation") else split


class _Table(Pictures):
    """Encoded pictures in rows, with their labels and, where the schema tells them, the classes' names."""

    labels: np.ndarray
    names: tuple[str, ...] | None
    title: str

    def name(self, position: int) -> str:
        return f"row {position} of {self.title}"


def _source(name: str, tables: Sequence[_Table]) -> Source:
    classes = tables[0].names or class_names_from_labels(tables[0].labels, f"the labels of {tables[0].title}")
    if len(classes) < 2:
        raise InputError(f"{name} has one class, {classes[0]!r}; a classifier needs at least 2")
    return Source(name, *[_offer(table, classes) for table in tables])


def _offer(table: _Table, classes: tuple[str, ...]) -> Offer:
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


class _ParquetTable(_Table):
    """Rows of parquet files; row groups are read as they are needed and the last few are kept."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.paths = list(files)
        self.files = [_open_parquet_file(file) for file in files]
        self.title = files[0].name if len(files) == 1 else f"{files[0].name} and {len(files) - 1} more"
        schema = self.files[0].schema_arrow
        features = _features(schema.metadata)
        self.image_column = _image_column(schema, features, self.title)
        label = _column(
            _LABEL_COLUMNS, schema.names, [n for n, f in features.items() if f.get("_type") == "ClassLabel"]
        )
        if label is None:
            raise InputError(f"{self.title} has the columns {', '.join(schema.names)}; name the label column 'label'")
        self.names = tuple(features.get(label, {}).get("names") or ()) or None
        self.labels = np.concatenate([_labels(file, label, self.title) for file in self.files])
        groups = [(f, g) for f, file in enumerate(self.files) for g in range(file.metadata.num_row_groups)]
        sizes = [self.files[f].metadata.row_group(g).num_rows for f, g in groups]
        self.groups, self.ends = groups, np.cumsum(sizes)
        self.kept: OrderedDict[int, Any] = OrderedDict()
        self.lock = threading.Lock()

    def read(self, position: int) -> bytes:
        group = int(np.searchsorted(self.ends, position, side="right"))
        start = int(self.ends[group - 1]) if group else 0
        value = self._column(group)[position - start].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if content is None:
            raise InputError(f"{self.name(position)} holds no image bytes; embed the images in the table")
        return content

    def identity(self, positions: Sequence[int]) -> list[Any]:
        stats = [(file.stat().st_size, file.stat().st_mtime_ns, file.stat().st_ctime_ns) for file in self.paths]
        return [[str(file.resolve()) for file in self.paths], stats, self.image_column, list(positions)]

    def _column(self, group: int) -> Any:
        with self.lock:
            if group not in self.kept:
                file, number = self.groups[group]
                self.kept[group] = _read_group(self.files[file], number, self.image_column, self.title)
                if len(self.kept) > _CACHED_GROUPS:
                    self.kept.popitem(last=False)
            return self.kept[group]


def _open_parquet_file(path: Path) -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise InputError(f"{path.name} needs the package pyarrow; run: pip install 'attar[parquet]'") from None
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        raise _unreadable(path.name, error) from error


def _read_group(file: Any, number: int, column: str, title: str) -> Any:
    try:
        return file.read_row_group(number, columns=[column]).column(column)
    except (OSError, ValueError) as error:
        raise _unreadable(title, error) from error


def _unreadable(title: str, error: Exception) -> InputError:
    reason = str(error).partition("\n")[0][:100] or type(error).__name__
    return InputError(f"{title} cannot be read as parquet ({reason}); repair or replace it")


def _labels(file: Any, column: str, title: str) -> np.ndarray:
    try:
        values = file.read(columns=[column]).column(column)
    except (OSError, ValueError) as error:
        raise _unreadable(title, error) from error
    if values.null_count:
        raise InputError(
            f"{title} has {values.null_count} rows without a label; remove them, or choose a labelled part"
        )
    return np.asarray(values.to_pylist())


def _features(metadata: dict[bytes, bytes] | None) -> dict[str, dict[str, Any]]:
    """The column descriptions that Hugging Face writes into a schema; nothing where there are none, or not readable."""
    try:
        features = json.loads((metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _image_column(schema: Any, features: dict[str, dict[str, Any]], title: str) -> str:
    fitting = [field.name for field in schema if _holds_bytes(field.type)]
    declared = [name for name, feature in features.items() if feature.get("_type") == "Image" and name in fitting]
    column = _column(_IMAGE_COLUMNS, fitting, declared or fitting)
    if column is None:
        held = "several hold" if fitting else "none holds"
        raise InputError(
            f"{title} has the columns {', '.join(schema.names)}, of which {held} image bytes; "
            "name one 'image' (binary, or a struct with bytes)"
        )
    return column


def _holds_bytes(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return types.is_binary(kind) or types.is_large_binary(kind)


def _column(usual: Sequence[str], present: Sequence[str], declared: Sequence[str]) -> str | None:
    """The first usual name that is declared or present, else the only declared column."""
    named = [name for name in usual if name in declared] + [name for name in usual if name in present]
    return named[0] if named else (declared[0] if len(declared) == 1 else None)


class _HubTable(_Table):
    """Rows of one part of a `datasets` data set."""

    def __init__(self, part: Any, title: str) -> None:
        import datasets

        self.title = title
        features = part.features
        images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
        labels = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
        image, label = _column(_IMAGE_COLUMNS, images, images), _column(_LABEL_COLUMNS, list(features), labels)
        if image is None or label is None:
            raise InputError(
                f"{title} has the columns {', '.join(features)}; one image and one label column are needed"
            )
        self.image, self.fingerprint = image, str(getattr(part, "_fingerprint", title))
        self.names = tuple(features[label].names) if label in labels else None
        self.labels = np.asarray(part[label])
        self.rows = part.cast_column(image, datasets.Image(decode=False))

    def read(self, position: int) -> bytes | Path:
        value = self.rows[position][self.image]
        return value["bytes"] if value["bytes"] is not None else Path(value["path"])

    def identity(self, positions: Sequence[int]) -> list[Any]:
        return [self.fingerprint, self.image, list(positions)]
