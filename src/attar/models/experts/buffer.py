"""Trajectories of experts on disk: a folder that grows and that any process reads meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import torch
from pydantic import Field
from torch import Tensor

from attar.base.config import Config, parse_config
from attar.base.errors import InputError
from attar.base.files import cache_directory, content_key, write_text
from attar.base.shapes import Float
from attar.models.experts.layout import ExpertLayout, Storage, floats_from_bytes
from attar.models.networks.network import NetworkConfig
from attar.models.training.settings import TrainingConfig

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 20
MAX_EPOCHS = 100_000
MAX_PARAMETERS = 1 << 34


class ExpertsIdentity(Config):
    """All that the bytes of expert i depend on besides i; its content key names the buffer.

    How many experts there are is no part of it, so that a buffer can grow. The kind of device and the precision are:
    the same seed gives other roundings there, and a distilled file must not depend on where experts came from. The
    versions of attar and torch are not: they change roundings alone, and a patch release should not cost days.

    Args:
        data: fingerprint of the real images.
        codec: identity of the codec whose codes are the items.
        item_shape: (c, h, w).
        num_classes: K.
        network: the architecture.
        training: with the precision resolved; the augmentation goes through the codec (`codecs.augmenting`).
        compiled: whether forward passes run compiled.
        device: its kind.
        storage: of the trajectories.
        seed: of all experts.
    """

    data: str
    codec: str
    item_shape: tuple[int, int, int]
    num_classes: int = Field(ge=2)
    network: NetworkConfig
    training: TrainingConfig
    compiled: bool
    device: str
    storage: Storage
    seed: int

    @property
    def key(self) -> str:
        return content_key("experts", SCHEMA_VERSION, self)


class ExpertsManifest(Config):
    """What manifest.json says, for people and for `ExpertBuffer`.

    Args:
        schema_version: of the folder's layout.
        num_parameters: P.
        group_size: how many networks are trained stacked; 1 is one after another.
        identity: see `ExpertsIdentity`.
        attar_version: that made the folder.
        torch_version: that made the folder.
    """

    schema_version: Literal[1] = 1
    num_parameters: int = Field(ge=1, le=MAX_PARAMETERS)
    group_size: int = Field(ge=1, le=4096)
    identity: ExpertsIdentity
    attar_version: str
    torch_version: str


@dataclass(frozen=True)
class ExpertFigures:
    """What tells a sound expert from one that learned nothing.

    Args:
        losses: the mean training loss of every epoch, under augmentation where there is one.
        accuracy: fraction of some training items, not augmented, that the trained expert gets right.
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
        self._known = 0

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
        """Where in the cache experts of this identity belong."""
        return cache_directory("experts") / identity.key

    @property
    def num_experts(self) -> int:
        """Experts 0 and up without a gap; looks again at every call, for one new file only."""
        while self.has(self._known):
            with self._open(self._known):
                self._known += 1
        return self._known

    @property
    def num_epochs(self) -> int:
        """E; parameters are known after 0..E epochs."""
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
        """How well an expert was trained."""
        with self._open(expert) as file:
            accuracy, *losses = floats_from_bytes(file.read(self.layout.figures_bytes)).tolist()
        return ExpertFigures(tuple(losses), accuracy)

    @property
    def num_bytes(self) -> int:
        """Of the experts that are there."""
        return self.num_experts * self.layout.num_bytes

    def _open(self, expert: int) -> BinaryIO:
        """The file behind its header, whose rows may be read without further checks."""
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
    from attar.base.version import __version__

    return ExpertsManifest(
        num_parameters=num_parameters,
        group_size=group_size,
        identity=identity,
        attar_version=__version__,
        torch_version=torch.__version__,
    )


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


def _damaged(path: Path, what: str) -> InputError:
    return InputError(f"{path} is damaged ({what}); delete it, and the same command trains this expert again")
