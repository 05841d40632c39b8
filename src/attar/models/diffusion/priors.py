"""Prior files: attar's own diffusion models as one file each, which says all that it is and is read without trust."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from attar.base.config import Config, parse_config
from attar.base.container import pack, unpack
from attar.base.errors import InputError
from attar.base.files import atomic_path, cache_directory, canonical_json, sha256_of
from attar.models.codecs.codec import Codec, ExternalWeights, RestoreCodec
from attar.models.codecs.weights import VARIABLE, named_file
from attar.models.diffusion.fidelity import Fidelity
from attar.models.diffusion.model import OwnModel, OwnSpec
from attar.models.diffusion.schedule import ScheduleConfig
from attar.models.networks.denoiser import DenoiserConfig

SCHEMA_VERSION = 1
ROOM = "priors"
CODEC, MODEL = "codec.", "model."


class PriorTraining(Config):
    """How a denoiser is trained on real codes.

        L = mean || eps - eps_theta(sqrt(alpha_bar_s) z + sqrt(1 - alpha_bar_s) eps, s, c) ||^2

    Args:
        denoiser: its sizes.
        schedule: of the noise.
        steps: of Adam.
        batch_size: codes of a step.
        learning_rate: at the start; it falls to zero along half a cosine.
        drop_probability: that a code's class becomes the null class, which guidance asks.
        average: decay per step of the exponential average of the weights that becomes the result.
        seed: of values, order and noise.

    Source: Ho et al. 2020, Algorithm 1; Ho & Salimans 2022 for the null class.
    """

    denoiser: DenoiserConfig = DenoiserConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    steps: int = Field(default=2000, ge=1)
    batch_size: int = Field(default=128, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    drop_probability: float = Field(default=0.1, gt=0, lt=1)
    average: float = Field(default=0.995, ge=0, lt=1)
    seed: int = Field(default=0, ge=0)


class PriorManifest(Config):
    """What a prior's file says about itself.

    Args:
        schema_version: of the file.
        model: sizes, schedule and number of classes.
        code_shape: (c, h, w).
        classes: K names, in the order of the embeddings.
        codec: the codec's spec; its tensors are in the file.
        data: fingerprint of the training images.
        training: settings.
        loss: mean of the last tenth of the steps.
        fidelity: what it makes of its codes; None in files of before that was measured.
        attar_version: that wrote the file.
        torch_version: that wrote the file.
    """

    schema_version: Literal[1] = 1
    model: OwnSpec
    code_shape: tuple[int, int, int]
    classes: tuple[Annotated[str, Field(max_length=1000)], ...] = Field(min_length=1, max_length=1 << 20)
    codec: dict[str, Any]
    data: str
    training: PriorTraining
    loss: float
    fidelity: Fidelity | None = None
    attar_version: str
    torch_version: str


@dataclass(frozen=True)
class Prior:
    """A trained prior.

    Args:
        codec: images <-> the codes that the model is of.
        model: frozen.
        manifest: of the file.
        weights: the file itself, as weights beside a distilled file; its id is the file's name.
    """

    codec: Codec
    model: OwnModel
    manifest: PriorManifest
    weights: ExternalWeights


def save_prior(codec: Codec, model: OwnModel, path: Path, **facts: Any) -> None:
    """Writes a prior; the file appears whole or not at all, and equal priors give equal bytes.

    Args:
        codec: of the codes.
        model: of the codes.
        path: of the file.
        **facts: `classes`, `data`, `training`, `loss` and `fidelity` of the manifest.
    """
    from attar.base.version import __version__

    manifest = PriorManifest(
        model=OwnSpec.model_validate_json(canonical_json(model.spec())),
        code_shape=model.code_shape,
        codec=codec.spec(),
        attar_version=__version__,
        torch_version=torch.__version__,
        **facts,
    )
    tensors = {CODEC + name: value for name, value in codec.stored_tensors().items()}
    tensors |= {MODEL + name: value for name, value in model.stored_tensors().items()}
    with atomic_path(path) as temporary:
        temporary.write_bytes(pack(canonical_json(manifest.model_dump(mode="json")), tensors))


def read_prior(path: Path, restore: RestoreCodec) -> Prior:
    """The prior in a file of `save_prior`, on the CPU; nothing in the file is trusted.

    Raises:
        InputError: a damaged file, or a codec whose own weights are absent.
    """
    try:
        text, tensors = unpack(path)
        manifest = parse_config(PriorManifest, text, "its manifest")
        if manifest.codec.get("kind") == "diffusion":
            raise InputError("its codec is a diffusion model itself")
        codec = restore(manifest.codec, without_prefix(tensors, CODEC))
        if codec.code_shape != manifest.code_shape or len(manifest.classes) != manifest.model.num_classes:
            raise InputError("its codes or classes are not those of its model")
        model = OwnModel.restore(manifest.model, codec.code_shape, without_prefix(tensors, MODEL))
    except InputError as error:
        raise InputError(f"{path} cannot be read as a prior ({error}); train one with attar train-prior") from None
    num_values = sum(value.numel() for value in tensors.values())
    weights = ExternalWeights(
        id=path.name, sha256=sha256_of(path), num_bytes=path.stat().st_size, num_values=num_values
    )
    return Prior(codec, model, manifest, weights)


def require_prior(weights: ExternalWeights, restore: RestoreCodec) -> Prior:
    """The prior of this content, from $ATTAR_WEIGHTS or the cache.

    Raises:
        InputError: it is absent, or what has its name differs: says what is needed and how to provide it.
    """
    path = named_file(weights, sorted(cache_directory(ROOM).glob("*.safetensors")))
    if path is not None:
        found = read_prior(path, restore)
        return Prior(found.codec, found.model, found.manifest, weights)
    raise InputError(
        f"this needs the prior {weights.id!r} ({weights.num_bytes} bytes, sha256 {weights.sha256}), which is absent; "
        f"set {VARIABLE} to the folder that contains it"
    )


def without_prefix(tensors: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Those whose names begin so, under the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
