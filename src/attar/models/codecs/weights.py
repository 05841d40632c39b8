"""Finding an autoencoder's public weights on this machine, and naming them by content."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from attar.base.container import one_line
from attar.base.errors import InputError
from attar.base.files import content_key, sha256_of
from attar.models.codecs.codec import ExternalWeights

VARIABLE = "ATTAR_WEIGHTS"
ID_PATTERN = r"^[^/\\:\x00-\x1f.][^/\\:\x00-\x1f]{0,99}(/[^/\\:\x00-\x1f.][^/\\:\x00-\x1f]{0,99})?$"
WEIGHT_NAMES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")
SUBFOLDERS = ("vae", "vqvae")
PICKLES = (".bin", ".pth", ".pt", ".ckpt", ".tar", ".pkl", ".pickle")


@dataclass(frozen=True)
class Weights:
    """The files of a public model.

    Args:
        id: a hub id, or a folder's name without its path.
        files: the weight files in order of name.
        config: the architecture, as diffusers writes it to config.json.
        reference_layout: whether the files are TAESD's own pair and not in diffusers' layout.
    """

    id: str
    files: tuple[Path, ...]
    config: dict[str, Any]
    reference_layout: bool = False

    @cached_property
    def sha256(self) -> str:
        return sha256_of(*self.files)

    @property
    def num_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.files)

    @property
    def config_sha256(self) -> str:
        # Versions and paths that tools leave in config.json are no part of the architecture.
        settings = {key: value for key, value in self.config.items() if key == "_class_name" or not key.startswith("_")}
        return content_key(settings)


def find_weights(path_or_id: str) -> Weights:
    """The weights a user names: a folder, a name under $ATTAR_WEIGHTS, or a hub id (cached, else downloaded).

    Raises:
        InputError: nothing is there, it is not an autoencoder in a known layout, or its weights are pickled.
    """
    weights_id, folders = named_folders(path_or_id, "autoencoder")
    if not weights_id:
        raise InputError(
            f"there is no folder {path_or_id}; give an autoencoder's folder or a hub id such as owner/name"
        )
    cached = _hub_cache(weights_id)
    for folder in folders:
        try:
            return read_folder(folder, weights_id)
        except InputError:
            if folder not in cached:  # of which a part may be there, without the autoencoder
                raise
    return read_folder(_download(path_or_id), weights_id)


def named_folders(path_or_id: str, default_id: str) -> tuple[str, list[Path]]:
    """What a user names: its id, "" where that can be none, and the folders on this machine that have the name.

    Args:
        path_or_id: a folder, a name under $ATTAR_WEIGHTS, or a hub id in the cache.
        default_id: for a folder whose own name is no id.
    """
    folder = Path(path_or_id).expanduser()
    if folder.is_dir():
        name = folder.resolve().name
        return (name if re.fullmatch(ID_PATTERN, name) else default_id), [folder]
    if not re.fullmatch(ID_PATTERN, path_or_id):
        return "", []
    listed = [place for place in _weight_folders(path_or_id) if place.name == _last(path_or_id)]
    return path_or_id, [*listed, *_hub_cache(path_or_id)]


def require_weights(needed: ExternalWeights) -> Weights:
    """The autoencoder a file refers to, equal in content; nothing is downloaded.

    Raises:
        InputError: it is absent, or what has its name differs: says what is needed and how to provide it.
    """
    differing = ""
    for place in places(needed.id):
        try:
            weights = read_folder(place, needed.id)
        except InputError:
            continue
        if weights.num_bytes == needed.num_bytes and weights.sha256 == needed.sha256:
            return weights
        if place.name == _last(needed.id):
            differing = f" (a folder {place.name} was found, but its weights differ)"
    raise InputError(
        f"this needs the autoencoder {needed.id!r} ({needed.num_bytes} bytes, sha256 {needed.sha256}), which is "
        f"absent{differing}; set {VARIABLE} to its folder or to the folder that contains it, or download it into the "
        "hub cache"
    )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The state dict in a safetensors file of any module. Raises InputError: no such file, a pickle, a damaged file."""
    if path.suffix in PICKLES:
        raise InputError(
            f"{path} is pickled, which could run code, and is not read; load it where it is trusted and save its state "
            "dict with safetensors.torch.save_file"
        )
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{path} is not a regular file; give a .safetensors file")
        return load_file(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or one_line(error)}") from None
    except (SafetensorError, RuntimeError, TypeError, KeyError) as error:
        raise InputError(f"{path} is no whole .safetensors file ({one_line(error)}); copy it again") from None


def file_weights(path: Path, tensors: Mapping[str, Tensor]) -> ExternalWeights:
    """A file of these tensors as weights beside a distilled file; their id is the file's name."""
    num_values = sum(value.numel() for value in tensors.values())
    return ExternalWeights(id=path.name, sha256=sha256_of(path), num_bytes=path.stat().st_size, num_values=num_values)


def require_file(what: str, weights: ExternalWeights, among: Iterable[Path] = ()) -> Path:
    """The file of this content that $ATTAR_WEIGHTS lists or holds, or one `among` others. Raises InputError."""
    for path in [*(path / weights.id if path.is_dir() else path for path in _listed()), *among]:
        if path.is_file() and path.stat().st_size == weights.num_bytes and sha256_of(path) == weights.sha256:
            return path
    raise InputError(
        f"this needs the {what} {weights.id!r} ({weights.num_bytes} bytes, sha256 {weights.sha256}), which is absent; "
        f"set {VARIABLE} to the folder that contains it"
    )


def read_folder(folder: Path, weights_id: str) -> Weights:
    """The autoencoder in `folder`: diffusers' layout (also in a vae subfolder), or TAESD's pair of files.

    Raises:
        InputError: neither is there, the weights are pickled, or a file is damaged.
    """
    for place in (folder, *(folder / name for name in SUBFOLDERS)):
        path = weight_file(place)
        if path is not None and (place / "config.json").is_file():
            return Weights(weights_id, (path,), read_config(place / "config.json"))
    encoders = sorted(folder.glob("tae*_encoder.safetensors"))
    pairs = [(path.with_name(path.name.replace("_encoder", "_decoder")), path) for path in encoders]
    pairs = [pair for pair in pairs if pair[0].is_file()]
    if len(pairs) == 1:
        return Weights(weights_id, pairs[0], _reference_config(pairs[0][0]), True)
    if any(path.suffix in PICKLES for name in (".", *SUBFOLDERS) for path in (folder / name).glob("*")):
        raise InputError(
            f"{folder} holds pickled weights, which could run code and are not read; load the model where it is "
            "trusted and save it again with save_pretrained(FOLDER, safe_serialization=True)"
        )
    raise InputError(
        f"{folder} holds no autoencoder; a config.json with {WEIGHT_NAMES[0]} (there or in a vae subfolder) is needed, "
        "or one pair taesd_encoder.safetensors and taesd_decoder.safetensors"
    )


def weight_file(folder: Path) -> Path | None:
    """The file of weights in a folder of diffusers' layout; in full precision where there are two."""
    return next((folder / name for name in WEIGHT_NAMES if (folder / name).is_file()), None)


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises InputError."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); restore it from the model's source") from None
    if not isinstance(config, dict):
        raise InputError(f"{path} is not a JSON object; restore it from the model's source")
    return config


def _reference_config(decoder: Path) -> dict[str, Any]:
    """AutoencoderTiny with as many latent channels as the decoder's first convolution takes."""
    try:
        with safe_open(decoder, framework="pt") as file:
            latent_channels = file.get_slice("1.weight").get_shape()[1]
    except (OSError, SafetensorError, IndexError) as error:
        raise InputError(f"{decoder} cannot be read ({error}); restore it from the model's source") from None
    return {"_class_name": "AutoencoderTiny", "latent_channels": latent_channels}


def _weight_folders(weights_id: str) -> list[Path]:
    """Folders of $ATTAR_WEIGHTS that may hold the weights: those with their name, and those listed."""
    folders = [place for path in _listed() for place in (path / weights_id, path / _last(weights_id), path)]
    return [place for place in dict.fromkeys(folders) if place.is_dir()]


def _listed() -> list[Path]:
    """The paths in $ATTAR_WEIGHTS."""
    return [Path(part).expanduser() for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]


def _hub_cache(weights_id: str) -> list[Path]:
    """The hub's folder of this id on this machine, if there is one."""
    try:
        from huggingface_hub import snapshot_download

        return [Path(snapshot_download(weights_id, local_files_only=True))]
    except (ImportError, OSError, ValueError):
        return []


def places(weights_id: str) -> list[Path]:
    """Folders on this machine that may hold the weights of this id, nearest first; nothing is downloaded."""
    return [*_weight_folders(weights_id), *_hub_cache(weights_id)]


def _last(weights_id: str) -> str:
    return weights_id.split("/")[-1]


def _download(hub_id: str) -> Path:
    absent = f"no autoencoder {hub_id!r}: not a folder, not under {VARIABLE}, not in the hub cache"
    if "/" not in hub_id:
        raise InputError(f"{absent}; give its folder, or a hub id such as owner/name")
    names = ["config.json", WEIGHT_NAMES[0]]
    patterns = [*names, "tae*coder.safetensors", *(f"{folder}/{name}" for folder in SUBFOLDERS for name in names)]
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(hub_id, allow_patterns=patterns))
    except ImportError:
        raise InputError(f"{absent}; to download it: pip install 'attar[diffusion]'") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{absent}, and it cannot be downloaded ({one_line(error)}); give its folder") from None
