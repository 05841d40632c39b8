"""Damaged and hostile files: one clear line that names the file and the fault, never another exception."""

from __future__ import annotations

import base64
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

from attar.base.errors import InputError
from attar.base.files import canonical_json
from attar.sets.distilled import DistilledSet
from attar.sets.manifest import SCHEMA_VERSION, tensors_digest
from small_sets import build, digit_images


@cache
def good_bytes(codec_text: str = "pca:f4c4") -> bytes:
    return build(digit_images(), codec_text, "int8", 2).to_bytes()


@cache
def soft_bytes() -> bytes:
    return build(digit_images(), "pca:f4c4", "int8", 2, soft="float16", learned={"student_rate": 0.01}).to_bytes()


def parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The header's JSON and the tensors' bytes."""
    size = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def join(header: str | bytes, data: bytes) -> bytes:
    raw = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(raw)) + raw + data


def tampered(
    change: Callable[[dict[str, Any], dict[str, Tensor]], Any],
    seal: bool = True,
    good: Callable[[], bytes] = good_bytes,
) -> bytes:
    """A file whose manifest and tensors were changed by someone who knows how to renew the checksum."""
    tensors = load(good())
    tree = json.loads(parts(good())[0]["__metadata__"]["attar"])
    change(tree, tensors)
    if seal:
        try:
            tree.pop("sha256", None)
            digest = tensors_digest(canonical_json(tree), tensors)
        except ValueError:  # not JSON: nothing can be sealed
            digest = "0" * 64
        tree["sha256"] = base64.urlsafe_b64encode(bytes.fromhex(digest)).decode().rstrip("=")
    return save(tensors, {"attar": json.dumps(tree)})


def edit_header(change: Callable[[dict[str, Any]], Any]) -> bytes:
    header, data = parts(good_bytes())
    change(header)
    return join(json.dumps(header), data)


def put(*path: str | int, value: Any) -> Callable[[dict[str, Any], dict[str, Tensor]], None]:
    def change(tree: Any, tensors: dict[str, Tensor]) -> None:
        for key in path[:-1]:
            tree = tree[key]
        tree[path[-1]] = value

    return change


def store(name: str, tensor: Tensor) -> Callable[[dict[str, Any], dict[str, Tensor]], None]:
    """Replace a tensor, or add one."""

    def change(_: Any, tensors: dict[str, Tensor]) -> None:
        tensors[name] = tensor

    return change


def set_value(name: str, index: int, value: float) -> Callable[[dict[str, Any], dict[str, Tensor]], None]:
    def change(tree: Any, tensors: dict[str, Tensor]) -> None:
        tensors[name].view(-1)[index] = value

    return change


def soft(change: Callable[[dict[str, Any], dict[str, Tensor]], Any]) -> bytes:
    return tampered(change, good=soft_bytes)


def labels_as_they_are(labels: Tensor) -> Callable[[dict[str, Any], dict[str, Tensor]], None]:
    """Labels in a tensor, in place of those that follow from the number of items."""

    def change(tree: Any, tensors: dict[str, Tensor]) -> None:
        del tree["shards"][0]["storages"]
        tensors["shards.0.labels"] = labels

    return change


def label(index: int, value: int) -> Callable[[dict[str, Any], dict[str, Tensor]], None]:
    labels = torch.arange(10, dtype=torch.int32).repeat_interleave(2)
    labels[index] = value
    return labels_as_they_are(labels)


def pickled() -> bytes:
    return pickle.dumps({"images": [1, 2, 3]})


def torch_zip(folder: Path) -> bytes:
    with zipfile.ZipFile(folder / "x.pt", "w") as archive:
        archive.writestr("data.pkl", b"cos\nsystem\n(S'touch /tmp/owned'\ntR.")
    return (folder / "x.pt").read_bytes()


def duplicated(header: str) -> str:
    return header.replace('"shards.0.scale":', '"shards.0.codes":', 1)


def manifest_text(text: str) -> bytes:
    return save(load(good_bytes()), {"attar": text})


def elsewhere(**changes: Any) -> dict[str, Any]:
    """A codec whose weights are not in the file."""
    weights = {"id": "x", "sha256": "0" * 64, "num_bytes": 1, "num_values": 1} | changes
    return {"spec": {"kind": "autoencoder"}, "identity": "0" * 64, "code_shape": [1, 8, 8], "external": weights}


CASES: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "not a safetensors file"),
    "seven bytes": (lambda: b"1234567", "not a safetensors file"),
    "a pickle": (pickled, "not a distilled set|not a safetensors|cut short"),
    "a picture": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(100), "not a distilled set: its first 8 bytes announce"),
    "header longer than allowed": (lambda: struct.pack("<Q", 2**40) + b"{}", "at most 33554432 are allowed"),
    "header longer than the file": (lambda: struct.pack("<Q", 1000) + b"{}", "cut short: its header has 2 of 1000"),
    "header is no JSON": (lambda: join("{]" * 10, b""), "damaged header"),
    "header is no text": (lambda: join(b'{"\xff\xfe":1}', b""), "damaged header"),
    "header is a list": (lambda: join("[]", b""), "not a JSON object"),
    "header nested deeply": (lambda: join("[" * 100_000, b""), "damaged header"),
    "header with a huge integer": (lambda: join('{"a":' + "9" * 10_000 + "}", b""), "damaged header"),
    "a foreign safetensors file": (lambda: save({"weight": torch.ones(2)}), "has no 'attar' metadata"),
    "foreign metadata": (lambda: save({"w": torch.ones(2)}, {"format": "pt"}), "has no 'attar' metadata"),
    "metadata beside ours": (
        lambda: save(load(good_bytes()), {"attar": "{}", "format": "pt"}),
        "metadata beside",
    ),
    "metadata is a number": (lambda: edit_header(lambda h: h["__metadata__"].update(attar=5)), "no 'attar' metadata"),
    "cut in the data": (lambda: good_bytes()[:-1], "is cut short"),
    "cut in the header": (lambda: good_bytes()[:500], "is cut short"),
    "bytes after the end": (lambda: good_bytes() + b"x", "1 bytes follow its end"),
    "a tensor name twice": (
        lambda: join(duplicated(json.dumps(parts(good_bytes())[0])), parts(good_bytes())[1]),
        "'shards.0.codes' is given twice",
    ),
    "an entry without offsets": (
        lambda: edit_header(lambda h: h["shards.0.codes"].pop("data_offsets")),
        "entry of tensor 'shards.0.codes' is malformed",
    ),
    "negative offsets": (
        lambda: edit_header(lambda h: h["shards.0.codes"].update(data_offsets=[-4, 5])),
        "malformed",
    ),
    "offsets that overlap": (
        lambda: edit_header(lambda h: h["codecs.0.std"].update(data_offsets=[0, 4])),
        "damaged",
    ),
    "offsets far away": (
        lambda: edit_header(lambda h: h["shards.0.codes"].update(data_offsets=[2**60, 2**60 + 320])),
        "is cut short",
    ),
    "an absurd shape": (
        lambda: edit_header(lambda h: h["shards.0.codes"].update(shape=[2**50, 2**50, 2**50])),
        "shape and bytes of tensor 'shards.0.codes' disagree",
    ),
    "a dtype of another kind": (
        lambda: edit_header(lambda h: h["shards.0.codes"].update(dtype="F8_E4M3")),
        "has dtype 'F8_E4M3'",
    ),
    "a dtype that is a list": (lambda: edit_header(lambda h: h["shards.0.codes"].update(dtype=[1])), "has dtype"),
    "damaged data": (
        lambda: good_bytes()[:-1] + bytes([good_bytes()[-1] ^ 1]),
        "does not match its checksum|not finite",
    ),
    "a newer schema": (
        lambda: tampered(put("schema_version", value=SCHEMA_VERSION + 1)),
        rf"was written by a newer attar \(schema {SCHEMA_VERSION + 1}\); this one reads up to {SCHEMA_VERSION}: up",
    ),
    "no schema": (lambda: tampered(put("schema_version", value="1")), "no schema version"),
    "schema zero": (lambda: tampered(put("schema_version", value=0)), "no schema version"),
    "schema true": (lambda: tampered(put("schema_version", value=True)), "no schema version"),
    "manifest is no JSON": (lambda: manifest_text("hello"), "damaged manifest"),
    "manifest is a list": (lambda: manifest_text("[1]"), "no schema version"),
    "manifest with a key twice": (
        lambda: manifest_text('{"schema_version":1,"seed":0,"seed":1}'),
        "'seed' is given twice",
    ),
    "manifest with NaN": (lambda: manifest_text('{"schema_version":1,"seed":NaN}'), "NaN is not a number"),
    "manifest with 1e999": (lambda: manifest_text('{"schema_version":1,"seed":1e999}'), "too large a number"),
    "manifest nested deeply": (lambda: manifest_text("[" * 200_000), "damaged manifest"),
    "manifest with an unknown key": (lambda: tampered(put("extra", value=1)), "extra: Extra inputs"),
    "manifest with a missing key": (lambda: tampered(lambda tree, _: tree.pop("classes")), "classes: Field required"),
    "manifest changed and not sealed": (lambda: tampered(put("seed", value=5), seal=False), "checksum"),
    "class changed and not sealed": (lambda: tampered(put("classes", 0, value="on"), seal=False), "checksum"),
    "checksum absent": (lambda: tampered(put("sha256", value="A" * 43), seal=False), "checksum"),
    "one class": (lambda: tampered(put("classes", value=["one"])), "classes"),
    "two classes alike": (lambda: tampered(put("classes", 0, value="nine")), "'nine' is given twice"),
    "a class with an escape sequence": (lambda: tampered(put("classes", 0, value="\x1b[2J")), "control character"),
    "a class that is a number": (lambda: tampered(put("classes", 0, value=5)), "valid string"),
    "a privacy statement with an escape sequence": (
        lambda: tampered(put("extra\x1b[2J\n", value=5)),
        r"extra\\x1b\[2J",
    ),
    "classes that do not divide the items": (
        lambda: tampered(put("classes", value=["a", "b", "c"])),
        r"labels \[20\] of 3 classes cannot be class-major",
    ),
    "too few classes for the labels": (
        lambda: tampered(lambda *file: (put("classes", value=["a", "b"])(*file), label(0, 0)(*file))),
        "labels run from 0 to 9; with 2 classes they must lie in 0..1",
    ),
    "negative label": (lambda: tampered(label(0, -1)), "labels run from -1 to 9"),
    "label too large": (lambda: tampered(label(0, 10)), "labels run from 0 to 10"),
    "NaN in the scale": (lambda: tampered(set_value("shards.0.scale", 0, float("nan"))), "not finite"),
    "infinite basis": (lambda: tampered(set_value("codecs.1.basis", 0, float("inf"))), "not finite"),
    "negative scale": (lambda: tampered(set_value("shards.0.scale", 0, -1.0)), "'scale' has values that are not"),
    "absurd scale": (lambda: tampered(set_value("shards.0.scale", 0, 1e38)), "'scale' has values that are not"),
    "zero deviation": (lambda: tampered(set_value("codecs.0.std", 0, 0.0)), "'std' must be positive"),
    "a tensor too many": (
        lambda: tampered(store("shards.0.more", torch.ones(1))),
        "unlisted tensor 'shards.0.more'",
    ),
    "a tensor of no codec": (
        lambda: tampered(store("codecs.2.mean", torch.ones(1))),
        "unlisted tensor 'codecs.2.mean'",
    ),
    "labels beside those that follow": (
        lambda: tampered(store("shards.0.labels", torch.zeros(20, dtype=torch.int32))),
        "unlisted tensor 'shards.0.labels'",
    ),
    "a tensor too few": (
        lambda: tampered(lambda _, tensors: tensors.pop("shards.0.scale")),
        "lacks tensor 'shards.0.scale'",
    ),
    "codes of another shape": (
        lambda: tampered(store("shards.0.codes", torch.zeros(20, 4, 2, 1, dtype=torch.int8))),
        r"is I8 \[20, 4, 2, 1\] and must be I8 \[20, 4, 2, 2\]",
    ),
    "codes of another dtype": (
        lambda: tampered(store("shards.0.codes", torch.zeros(20, 4, 2, 2))),
        "tensor 'shards.0.codes' is F32",
    ),
    "labels that are floats": (
        lambda: tampered(labels_as_they_are(torch.zeros(20))),
        "tensor 'shards.0.labels' is F32",
    ),
    "labels of another length": (
        lambda: tampered(labels_as_they_are(torch.zeros(19, dtype=torch.int32))),
        r"tensor 'shards.0.labels' is I32 \[19\] and must be I32 \[20\]",
    ),
    "labels that follow from an absurd number of items": (
        lambda: tampered(put("shards", 0, "num_items", value=10 * 2**24)),
        "class-major labels; at most 16777216",
    ),
    "a tensor held by an unknown storage": (
        lambda: tampered(put("shards", 0, "storages", value={"codes": "zip"})),
        "tensor 'codes' is held as 'zip', and one of the two is not known",
    ),
    "a storage of a tensor that is not there": (
        lambda: tampered(put("shards", 0, "storages", value={"more": "plain"})),
        "tensor 'more' is held as 'plain'",
    ),
    "codes that follow from their number": (
        lambda: tampered(put("shards", 0, "storages", value={"codes": "class-major"})),
        "cannot be class-major",
    ),
    "a storage that is a number": (lambda: tampered(put("shards", 0, "storages", value={"labels": 1})), "storages"),
    "soft labels for another number of classes": (
        lambda: soft(store("shards.0.soft_labels", torch.zeros(20, 9, dtype=torch.float16))),
        r"'shards.0.soft_labels' is F16 \[20, 9\] and must be F16 \[20, 10\]",
    ),
    "soft labels of one dimension": (
        lambda: soft(store("shards.0.soft_labels", torch.zeros(20, dtype=torch.float16))),
        r"is F16 \[20\] and must be",
    ),
    "soft labels of another dtype": (
        lambda: soft(store("shards.0.soft_labels", torch.zeros(20, 10))),
        r"is F32 \[20, 10\] and must be F16",
    ),
    "soft labels that are whole numbers": (
        lambda: soft(store("shards.0.soft_labels", torch.zeros(20, 10, dtype=torch.int8))),
        r"is I8 \[20, 10\] and must be F16",
    ),
    "NaN in the soft labels": (lambda: soft(set_value("shards.0.soft_labels", 3, float("nan"))), "not finite"),
    "infinite soft labels": (lambda: soft(set_value("shards.0.soft_labels", 3, float("-inf"))), "not finite"),
    "soft labels that the items do not announce": (
        lambda: soft(lambda tree, _: tree["shards"][0]["items"].pop("label_storage")),
        "unlisted tensor 'shards.0.soft_labels'",
    ),
    "soft labels announced and absent": (
        lambda: soft(lambda _, tensors: tensors.pop("shards.0.soft_labels")),
        "lacks tensor 'shards.0.soft_labels'",
    ),
    "an unknown label storage": (
        lambda: soft(put("shards", 0, "items", "label_storage", value="int8")),
        "parameterization 'codes': label_storage",
    ),
    "an infinite learned number": (lambda: soft(put("learned", "student_rate", value=1e31)), "learned.student_rate"),
    "a learned text": (lambda: soft(put("learned", "student_rate", value="0.1")), "learned.student_rate"),
    "a learned number without a name": (lambda: soft(put("learned", value={"\x1b[2J": 1.0})), "learned"),
    "too many learned numbers": (
        lambda: soft(put("learned", value={f"n{index}": 0.0 for index in range(65)})),
        "learned: Dictionary should have at most 64",
    ),
    "a learned number changed and not sealed": (
        lambda: tampered(put("learned", "student_rate", value=0.02), seal=False, good=soft_bytes),
        "checksum",
    ),
    "items announced wrongly": (
        lambda: tampered(put("shards", 0, "num_items", value=30)),
        r"is I8 \[20, 4, 2, 2\] and must be I8 \[30, 4, 2, 2\]",
    ),
    "no items": (lambda: tampered(put("shards", 0, "num_items", value=0)), "num_items"),
    "no shards": (lambda: tampered(put("shards", value=[])), "shards"),
    "an unknown parameterization": (
        lambda: tampered(put("shards", 0, "items", "kind", value="code")),
        "unknown parameterization 'code'; did you mean 'codes'",
    ),
    "an unknown storage": (
        lambda: tampered(put("shards", 0, "items", "storage", value="int4")),
        "parameterization 'codes': storage",
    ),
    "an unknown codec": (lambda: tampered(put("codecs", 1, "kind", value="pcaa")), "codec"),
    "a codec of another factor": (lambda: tampered(put("codecs", 1, "factor", value=2)), "codec"),
    "a codec without a spec": (lambda: tampered(put("codecs", 1, value={})), "codec"),
    "items of no codec": (
        lambda: tampered(put("shards", 0, "codec", value=2)),
        "items have codec number 2, and there are 2",
    ),
    "an image shape that is not the codec's": (lambda: tampered(put("image_shape", value=[1, 8, 12])), "is I8"),
    "an absurd image": (lambda: tampered(put("image_shape", value=[3, 10**9, 10**9])), "image_shape"),
    "an absurd number of decoded values": (
        lambda: tampered(
            lambda tree, _: (tree.update(image_shape=[1, 4096, 4096]), tree["shards"][0].update(num_items=10 * 2**12))
        ),
        "values in the decoded images; at most",
    ),
    "weights said to be elsewhere, and hashed wrongly": (
        lambda: tampered(put("codecs", 0, value=elsewhere(sha256="../x"))),
        "sha256",
    ),
    "weights said to be elsewhere that give nothing known": (
        lambda: tampered(lambda tree, _: tree["codecs"].__setitem__(0, {**elsewhere(), "identity": "x"})),
        "codec 0 is damaged: identity",
    ),
    "a recipe that is a number": (lambda: tampered(put("recipe", value=5)), "recipe"),
    "initial indices that are cut": (lambda: tampered(put("start", "indices", value="2ABA")), "3 digits, 2 for each"),
    "initial indices of no digit": (lambda: tampered(put("start", "indices", value="9AB")), "start.indices"),
}


@pytest.mark.parametrize("case", CASES)
def test_each_fault_has_its_own_line(case: str, tmp_path: Path) -> None:
    make, message = CASES[case]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(make())
    with pytest.raises(InputError, match=message) as caught:
        DistilledSet.load(path)
    line = str(caught.value)
    assert line.startswith(str(path)) and line.isprintable() and len(line) < 700


def test_what_tampering_starts_from_is_good(tmp_path: Path) -> None:
    path = tmp_path / "good.safetensors"
    path.write_bytes(tampered(lambda tree, tensors: None))
    assert DistilledSet.load(path).to_bytes() == good_bytes()


def test_a_zipped_pickle_is_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch_zip(tmp_path)
    with pytest.raises(InputError, match="not a distilled set"):
        DistilledSet.load(path)


def test_missing_files_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^absent\.safetensors does not exist"):
        DistilledSet.load("absent.safetensors")
    with pytest.raises(InputError, match="is not a regular file"):
        DistilledSet.load(tmp_path)
    with pytest.raises(InputError, match="is not a regular file"):
        DistilledSet.load("/dev/zero")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="cannot be read: Not a directory"):
        DistilledSet.load("file/inner")


def outcome(content: bytes, folder: Path) -> None:
    """Refused in one line, or read as exactly the same content."""
    path = folder / "fuzzed.safetensors"
    path.write_bytes(content)
    try:
        read = DistilledSet.load(path)
    except InputError as error:
        assert str(error).startswith(str(path)) and str(error).isprintable()
    else:
        assert read.to_bytes() == good_bytes()


fuzz = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fuzz
@given(data=st.data())
def test_flipped_and_cut_bytes(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(good_bytes())
    for _ in range(data.draw(st.integers(1, 3), label="changes")):
        place = data.draw(st.integers(0, len(content) - 1), label="place")
        what = data.draw(st.sampled_from(["flip", "set", "cut", "drop", "insert"]), label="what")
        if what == "flip":
            content[place] ^= 1 << data.draw(st.integers(0, 7), label="bit")
        elif what == "set":
            content[place] = data.draw(st.integers(0, 255), label="byte")
        elif what == "cut":
            del content[max(place, 1) :]
        elif what == "drop":
            del content[max(place, 1) : max(place, 1) + data.draw(st.integers(1, 64), label="length")]
        else:
            content[place:place] = data.draw(st.binary(min_size=1, max_size=16), label="inserted")
    outcome(bytes(content), tmp_path)


def places(tree: Any, prefix: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    found = [prefix] if prefix else []
    for key, value in items:
        found += places(value, (*prefix, key))
    return found


MANIFEST_PLACES = places(json.loads(parts(good_bytes())[0]["__metadata__"]["attar"]))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@fuzz
@given(place=st.sampled_from(MANIFEST_PLACES), value=json_values)
def test_a_sealed_manifest_with_any_value_anywhere_never_raises_another_exception(
    tmp_path: Path, place: tuple[str | int, ...], value: Any
) -> None:
    path = tmp_path / "fuzzed.safetensors"
    try:
        path.write_bytes(tampered(put(*place, value=value)))
    except UnicodeEncodeError:
        return
    try:
        read = DistilledSet.load(path)
        read.images(), read.describe(), read.storage, read.training_items("cpu")
    except InputError as error:
        assert str(error).isprintable()
