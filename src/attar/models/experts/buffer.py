"""Trajectories of experts on disk: a folder that grows and that any process reads meanwhile."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, TypeAlias

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from attar.base.config import Config, parse_config
from attar.base.errors import InputError
from attar.base.files import cache_directory, content_key, write_text
from attar.base.shapes import Float
from attar.base.version import __version__
from attar.models.training.loop import TrainingIdentity

Storage: TypeAlias = Literal["float32", "bfloat16"]

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 20
MAX_EPOCHS = 100_000
MAX_PARAMETERS = 1 << 34


class ExpertsIdentity(TrainingIdentity):
    """Everything that determines the bytes of expert i besides i. It leaves out how many there are: a buffer can grow.

    Args:
        codec: identity of the codec whose codes are the items; the augmentation goes through it.
        item_shape: (c, h, w).
        storage: of the trajectories.
    """

    codec: str
    item_shape: tuple[int, int, int]
    storage: Storage

    @property
    def key(self) -> str:
        return content_key("experts", SCHEMA_VERSION, self)


class ExpertsManifest(Config):
    """The content of manifest.json. `group_size` networks are trained stacked; 1 means one after another."""

    schema_version: Literal[1] = 1
    num_parameters: int = Field(ge=1, le=MAX_PARAMETERS)
    group_size: int = Field(ge=1, le=4096)
    identity: ExpertsIdentity
    attar_version: str
    torch_version: str


@dataclass(frozen=True)
class ExpertLayout:
    """The bytes of one expert's file: a safetensors file whose every offset is known before it is written.

    The tensors are, in this order: "accuracy" float32 [1], "losses" float32 [E], "trajectories" [E + 1, P], whose rows
    are the parameters before the first epoch and after every one.
    """

    num_epochs: int
    num_parameters: int
    storage: Storage

    @property
    def header(self) -> bytes:
        """The file's beginning, the same for every expert: whoever reads compares it and parses nothing."""
        end = self.figures_bytes + self.num_rows * self.row_bytes
        shape, dtype = [self.num_rows, self.num_parameters], "F32" if self.storage == "float32" else "BF16"
        entries = {
            "__metadata__": {"attar": "expert"},
            "accuracy": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            "losses": {"dtype": "F32", "shape": [self.num_epochs], "data_offsets": [4, self.figures_bytes]},
            "trajectories": {"dtype": dtype, "shape": shape, "data_offsets": [self.figures_bytes, end]},
        }
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    @property
    def num_rows(self) -> int:
        return self.num_epochs + 1

    @property
    def row_bytes(self) -> int:
        return (4 if self.storage == "float32" else 2) * self.num_parameters

    @property
    def figures_bytes(self) -> int:
        return 4 * (1 + self.num_epochs)

    @property
    def num_bytes(self) -> int:
        return self.row_start(self.num_rows)

    def loss_start(self, epoch: int) -> int:
        """The offset of the loss of an epoch, counted from 1; the accuracy lies before the first one."""
        return len(self.header) + 4 * epoch

    def row_start(self, epoch: int) -> int:
        """The offset of the parameters after `epoch` epochs."""
        return len(self.header) + self.figures_bytes + epoch * self.row_bytes

    def row(self, parameters: Float[Tensor, " parameters"]) -> bytes:
        if self.storage == "float32":
            return floats_to_bytes(parameters)
        return parameters.to(torch.bfloat16).view(torch.int16).numpy().astype("<i2", copy=False).tobytes()

    def parameters(self, row: bytes) -> Float[Tensor, " parameters"]:
        if self.storage == "float32":
            return floats_from_bytes(row)
        return torch.from_numpy(np.frombuffer(row, "<i2").astype(np.int16)).view(torch.bfloat16).float()


@dataclass(frozen=True)
class ExpertFigures:
    """What tells a sound expert from one that learned nothing.

    The mean training loss of every epoch, under augmentation where there is one, and the fraction of some training
    items, not augmented, that the trained expert gets right.
    """

    losses: tuple[float, ...]
    accuracy: float


class ExpertBuffer:
    """Experts in a folder, of which only the rows asked for are read.

    manifest.json says what they are, expert-00000.safetensors and so on hold one each and appear whole. Files are not
    trusted: sizes are bounded, and every file must begin with exactly the header that the manifest implies.

    Args:
        folder: with a manifest.

    Raises:
        InputError: no manifest, or a damaged one.

    Attributes:
        pace: seconds that an epoch of one expert took in this process; None where none was trained.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.manifest = _read_manifest(self.folder / MANIFEST)
        identity = self.manifest.identity
        epochs = identity.training.epochs
        if epochs > MAX_EPOCHS:
            raise InputError(f"{self.folder / MANIFEST} says {epochs} epochs; at most {MAX_EPOCHS} are allowed")
        self.layout = ExpertLayout(epochs, self.manifest.num_parameters, identity.storage)
        self.pace: float | None = None
        self._num_opened = 0

    @classmethod
    def make(cls, manifest: ExpertsManifest) -> ExpertBuffer:
        """The buffer of this identity in the cache; one that is there is kept with its manifest.

        Raises:
            InputError: the manifest that is there is damaged, or of other experts.
        """
        folder = cls.place(manifest.identity)
        if not (folder / MANIFEST).exists():
            folder.mkdir(exist_ok=True)
            write_text(folder / MANIFEST, manifest.model_dump_json(indent=1))
        buffer = cls(folder)
        if buffer.manifest.identity != manifest.identity or buffer.manifest.num_parameters != manifest.num_parameters:
            raise InputError(f"{folder / MANIFEST} describes other experts than its folder's name; delete {folder}")
        return buffer

    @staticmethod
    def place(identity: ExpertsIdentity) -> Path:
        """The cache folder of experts of this identity, present or not."""
        return cache_directory("experts") / identity.key

    @property
    def num_experts(self) -> int:
        """How many experts there are, from 0 up without a gap; every call looks for new files."""
        while self.has(self._num_opened):
            with self._open(self._num_opened):
                self._num_opened += 1
        return self._num_opened

    @property
    def num_epochs(self) -> int:
        """E: the parameters after 0 to E epochs are stored."""
        return self.layout.num_epochs

    def path(self, expert: int) -> Path:
        """The file of an expert, present or not."""
        return self.folder / f"expert-{expert:05d}.safetensors"

    def has(self, expert: int) -> bool:
        """Whether an expert is there, whatever comes before it."""
        return self.path(expert).exists()

    def parameters(self, expert: int, epoch: int) -> Float[Tensor, " parameters"]:
        """float32 [P], on the CPU: the network's parameters, each flattened, in the order of `named_parameters()`.

        Raises:
            InputError: the file is gone or damaged.
        """
        if not (expert >= 0 and 0 <= epoch <= self.num_epochs):
            raise ValueError(f"expert {expert} after {epoch} epochs: there are epochs 0 to {self.num_epochs}")
        with self._open(expert) as file:
            file.seek(self.layout.row_start(epoch))
            values = self.layout.parameters(file.read(self.layout.row_bytes))
        if not bool(values.isfinite().all()):
            raise _damaged(self.path(expert), f"its parameters after {epoch} epochs are not finite")
        return values

    def figures(self, expert: int) -> ExpertFigures:
        with self._open(expert) as file:
            accuracy, *losses = floats_from_bytes(file.read(self.layout.figures_bytes)).tolist()
        return ExpertFigures(tuple(losses), accuracy)

    @property
    def num_bytes(self) -> int:
        return self.num_experts * self.layout.num_bytes

    def _open(self, expert: int) -> BinaryIO:
        """Opens the file of an expert, checks its size and header, and stops behind the header."""
        path = self.path(expert)
        try:
            file = path.open("rb")
        except OSError as error:
            raise InputError(
                f"expert {expert} cannot be read from {self.folder} ({error.strerror}); train it with attar experts"
            ) from None
        size = file.seek(0, 2)
        file.seek(0)
        if size != self.layout.num_bytes or file.read(len(self.layout.header)) != self.layout.header:
            file.close()
            raise _damaged(path, f"{size} bytes where {self.layout.num_bytes} of another beginning are expected")
        return file


def new_manifest(identity: ExpertsIdentity, num_parameters: int, group_size: int) -> ExpertsManifest:
    """The manifest that this version of attar gives a new folder."""
    return ExpertsManifest(
        identity=identity,
        num_parameters=num_parameters,
        group_size=group_size,
        attar_version=__version__,
        torch_version=torch.__version__,
    )


def floats_to_bytes(values: Tensor) -> bytes:
    return values.float().numpy().astype("<f4", copy=False).tobytes()


def floats_from_bytes(data: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(data, "<f4").astype(np.float32))


def _read_manifest(path: Path) -> ExpertsManifest:
    mend = f"delete {path.parent} and train the experts anew"
    try:
        with path.open("rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as the manifest of experts ({error}); {mend}") from None
    if len(data) > MAX_MANIFEST_BYTES:
        raise InputError(f"{path} is larger than {MAX_MANIFEST_BYTES} bytes, so no manifest of experts; {mend}")
    try:
        return parse_config(ExpertsManifest, text, str(path))
    except InputError as error:
        raise InputError(f"{error}; {mend}") from None


def _damaged(path: Path, fault: str) -> InputError:
    return InputError(f"{path} is damaged ({fault}); delete it, and the same command trains this expert again")
