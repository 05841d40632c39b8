"""Files of diffusion priors, attar's own diffusion models: each says all that it is and is read without trust."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field
from torch import Tensor

from attar.base.config import Config
from attar.base.errors import InputError
from attar.base.files import canonical_json
from attar.models.codecs.codec import Codec, ExternalWeights
from attar.models.codecs.frozen import ModelManifest, read_model, write_model
from attar.models.codecs.plain import restore_plain
from attar.models.codecs.weights import file_weights
from attar.models.diffusion.fidelity import Fidelity
from attar.models.diffusion.model import OwnModel, OwnSpec
from attar.models.diffusion.schedule import ScheduleConfig
from attar.models.networks.denoiser import DenoiserConfig

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


class PriorManifest(ModelManifest):
    """What a prior's file says about itself.

    Args:
        model: sizes, schedule and number of classes.
        code_shape: (c, h, w).
        codec: the codec's spec; its tensors are in the file.
        training: settings.
        loss: mean of the last tenth of the steps.
        fidelity: what it makes of its codes; None where that was not measured.
    """

    model: OwnSpec
    code_shape: tuple[int, int, int]
    codec: dict[str, Any]
    training: PriorTraining
    loss: float
    fidelity: Fidelity | None = None


@dataclass(frozen=True)
class Prior:
    """A trained diffusion prior.

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
    """Write a prior of the codec's codes; `facts` are the manifest's classes, data, training, loss and fidelity."""
    write_model(
        path,
        PriorManifest,
        with_prefix(CODEC, codec.stored_tensors()) | with_prefix(MODEL, model.stored_tensors()),
        model=OwnSpec.model_validate_json(canonical_json(model.spec())),
        code_shape=model.code_shape,
        codec=codec.spec(),
        **facts,
    )


def read_prior(path: Path) -> Prior:
    """The prior in a file of `save_prior`, on the CPU; nothing in the file is trusted.

    Raises:
        InputError: a damaged file, or a codec whose own weights are absent.
    """
    try:
        manifest, tensors = read_model(path, PriorManifest)
        codec = restore_plain(manifest.codec, without_prefix(CODEC, tensors))
        if codec.code_shape != manifest.code_shape or len(manifest.classes) != manifest.model.num_classes:
            raise InputError("its codes or classes are not those of its model")
        model = OwnModel.restore(manifest.model, codec.code_shape, without_prefix(MODEL, tensors))
    except InputError as error:
        raise InputError(f"{path} cannot be read as a prior ({error}); train one with attar train-prior") from None
    return Prior(codec, model, manifest, file_weights(path, tensors))


def with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """All of the tensors, under names that begin with `prefix`."""
    return {prefix + name: value for name, value in tensors.items()}


def without_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, under the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
