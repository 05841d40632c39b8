"""The safetensors container: one metadata text and named tensors, read without trusting a byte of it."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors import torch as safetensors_torch
from torch import Tensor

from attar.base.config import Config
from attar.base.errors import InputError

METADATA_KEY = "attar"
MAX_HEADER_BYTES = 32 * 2**20
# From the widest alignment to the narrowest, the order in which safetensors lays tensors out.
DTYPES = {"F32": torch.float32, "I32": torch.int32, "F16": torch.float16, "I16": torch.int16, "I8": torch.int8}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
Natural = Annotated[int, Field(ge=0, lt=2**63)]


def pack(text: str, tensors: Mapping[str, Tensor]) -> bytes:
    """The file's bytes: the same text and tensors give the same bytes."""
    return safetensors_torch.save({name: tensor.contiguous() for name, tensor in tensors.items()}, {METADATA_KEY: text})


def packed_bytes(text: str, table: Mapping[str, tuple[str, tuple[int, ...]]]) -> int:
    """How many bytes `pack` gives for tensors of these dtypes and shapes, without having them."""
    header: dict[str, Any] = {"__metadata__": {METADATA_KEY: text}}
    end = 0
    order = list(DTYPES)
    for name, (dtype, shape) in sorted(table.items(), key=lambda item: (order.index(item[1][0]), item[0])):
        start, end = end, end + math.prod(shape) * DTYPES[dtype].itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    size = len(json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode())
    return 8 + (size + 7) // 8 * 8 + end


def unpack(path: Path) -> tuple[str, dict[str, Tensor]]:
    """The text and the tensors of a file that `pack` made.

    Raises:
        InputError: a missing, foreign, cut or damaged file; never another exception, whatever the bytes are.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{path} is not a regular file; give a distilled set's .safetensors file")
        with path.open("rb") as file:
            raw, header = _read_header(file, path)
            text = _metadata(header, path)
            num_bytes = _data_bytes(header, path)
            size, announced = os.fstat(file.fileno()).st_size, 8 + len(raw) + num_bytes
            if size < announced:
                raise InputError(f"{path} is cut short: {size} of {announced} bytes are there; copy it again")
            if size > announced:
                raise InputError(f"{path} is damaged: {size - announced} bytes follow its end; copy it again")
            data = len(raw).to_bytes(8, "little") + raw + file.read(num_bytes)
        return text, safetensors_torch.load(data)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; give the path of a distilled set") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except (SafetensorError, RuntimeError, TypeError) as error:
        raise InputError(f"{path} is damaged: {one_line(error)}") from None


def parse_json(text: str | bytes, what: str) -> Any:
    """JSON with no key given twice, no NaN and no infinity.

    Raises:
        InputError: anything else, `what` saying where.
    """
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what}: {one_line(error)}") from None


def one_line(error: Exception | str) -> str:
    """An error's text, shortened, on one line, with nothing in it that could steer a terminal."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    return text if len(text) <= 600 else text[:600] + "..."


def _read_header(file: BinaryIO, path: Path) -> tuple[bytes, dict[str, Any]]:
    start = file.read(8)
    size = int.from_bytes(start, "little")
    if len(start) < 8 or size < 2:
        raise InputError(f"{path} is not a safetensors file; give a distilled set")
    if size > MAX_HEADER_BYTES:
        raise InputError(
            f"{path} is not a distilled set: its first 8 bytes announce a header of {size} bytes, "
            f"and at most {MAX_HEADER_BYTES} are allowed"
        )
    raw = file.read(size)
    if len(raw) < size:
        raise InputError(f"{path} is cut short: its header has {len(raw)} of {size} bytes; copy it again")
    header = parse_json(raw, f"{path} has a damaged header")
    if not isinstance(header, dict):
        raise InputError(f"{path} has a damaged header: it is not a JSON object")
    return raw, header


def _metadata(header: dict[str, Any], path: Path) -> str:
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or not isinstance(metadata.get(METADATA_KEY), str):
        raise InputError(f"{path} is a safetensors file, but not a distilled set: it has no {METADATA_KEY!r} metadata")
    if len(metadata) > 1:
        raise InputError(f"{path} has metadata beside {METADATA_KEY!r}; attar writes none")
    text: str = metadata[METADATA_KEY]
    return text


class _Entry(Config):
    """What the header says of one tensor; whatever is no known dtype is refused by name."""

    dtype: Any
    shape: list[Natural] = Field(max_length=8)
    data_offsets: list[Natural] = Field(min_length=2, max_length=2)


def _data_bytes(header: dict[str, Any], path: Path) -> int:
    end = 0
    for name, fields in header.items():
        short_name = repr(name[:80])
        try:
            entry = _Entry.model_validate(fields)
        except ValidationError:
            raise InputError(f"{path} has a damaged header: the entry of tensor {short_name} is malformed") from None
        dtype, (start, stop) = str(entry.dtype), entry.data_offsets
        if dtype not in DTYPES:
            allowed = ", ".join(DTYPES)
            raise InputError(f"{path}: tensor {short_name} has dtype {dtype[:20]!r}; a distilled set has {allowed}")
        if stop - start != math.prod(entry.shape) * DTYPES[dtype].itemsize:
            raise InputError(f"{path} has a damaged header: shape and bytes of tensor {short_name} disagree")
        end = max(end, stop)
    return end


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:80]!r} is given twice")
    return result


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not a number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits[:20]} is too large a number")
    return value
