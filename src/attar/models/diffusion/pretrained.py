"""Public latent diffusion models, read with diffusers from a folder on this machine."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from attar.base.config import parse_config
from attar.base.errors import InputError, unknown
from attar.base.files import sha256_of
from attar.base.shapes import Float, Int64
from attar.models.codecs.autoencoder import read_diffusers, read_pretrained
from attar.models.codecs.codec import ExternalWeights
from attar.models.codecs.restoring import PublicModel
from attar.models.codecs.weights import (
    WEIGHT_NAMES,
    Weights,
    named_folders,
    places,
    read_config,
    read_tensors,
    weight_file,
)
from attar.models.diffusion.model import DiffusionModel
from attar.models.diffusion.schedule import ScheduleConfig, alpha_bars

ARCHITECTURES = ("UNet2DConditionModel", "DiTTransformer2DModel")
SUBFOLDERS = ("unet", "transformer")
CLASS_TABLE = Path("class_embedder") / "model.safetensors"
TABLE_KEY = "embedding.weight"
SCHEDULER = Path("scheduler") / "scheduler_config.json"
SCHEDULES = {"linear": "linear", "scaled_linear": "scaled-linear", "squaredcos_cap_v2": "cosine"}
REQUIRED = {"prediction_type": "epsilon", "trained_betas": None, "rescale_betas_zero_snr": False}
"""What a scheduler has to say: predictions are of noise, and there is no other noise than that of its schedule."""


class PretrainedSpec(PublicModel):
    """What a file says of a public model; `sha256` of random values is that of the values and the class table's file.

    Args:
        schedule: that it was trained with.
        random_seed: of random values in place of the trained ones (LD3M Table 3); None for the trained.
    """

    kind: Literal["diffusers"] = "diffusers"
    schedule: ScheduleConfig
    random_seed: int | None = Field(default=None, ge=0)


@dataclass(frozen=True)
class Folder:
    """What a model's folder holds: unet or transformer, scheduler, and class_embedder where classes are embedded apart.

    Args:
        weights: of the denoiser, with the class table's file where there is one; without files where values are random.
        schedule: of the scheduler's betas.
        class_table: file of `embedding.weight` [K + 1, d]; None where the denoiser embeds classes itself.
    """

    weights: Weights
    schedule: ScheduleConfig
    class_table: Path | None


class PretrainedModel(DiffusionModel):
    """A frozen UNet2DConditionModel or DiTTransformer2DModel, in float32 whatever its files hold.

    Conditioning is what the model's own class table gives: added to the embedding of time (DiT, and a U-Net with
    `num_class_embeds`), or one token to attend to (the latent-diffusion family, whose table is in class_embedder). The
    last row of the table is the null class, whatever the number of classes.

    Args:
        folder: as of `read_folder`.
        code_shape: (c, h, w) of the autoencoder's codes.
        random_seed: of values drawn by the architecture's own law in place of the trained ones; None reads them.

    Raises:
        InputError: diffusers is absent, the files are damaged, or the model does not fit the codes.

    Source: Rombach et al. 2022, of which LD3M takes the ImageNet model; Peebles & Xie 2023 (DiT).
    """

    kind = "diffusers"
    table: Tensor

    def __init__(self, folder: Folder, code_shape: tuple[int, int, int], random_seed: int | None = None) -> None:
        super().__init__()
        self.folder, self.code_shape, self.random_seed = folder, code_shape, random_seed
        read = partial(_read, random_seed=random_seed)
        self.network = read_pretrained("diffusion model", ARCHITECTURES, folder.weights, read)
        _check_fit(self.network.config, code_shape)
        self.num_values = sum(value.numel() for value in (*self.network.parameters(), *self.network.buffers()))
        self._sha256 = folder.weights.sha256 if random_seed is None else _digest(self.network, folder.class_table)
        self.register_buffer("table", self._take_table(), persistent=False)
        self.num_values += 0 if folder.class_table is None else self.table.numel()
        self.num_classes = len(self.table) - 1
        self.alpha_bars = alpha_bars(folder.schedule)

    @property
    def null(self) -> Tensor:  # type: ignore[override]
        return self.table[-1]

    def predict(
        self, codes: Float[Tensor, "batch c h w"], level: int, conditioning: Float[Tensor, "batch d"]
    ) -> Float[Tensor, "batch c h w"]:
        levels = torch.full((len(codes),), level, dtype=torch.int64, device=codes.device)
        if self._is_transformer:
            output = self.network(codes, timestep=levels, class_labels=conditioning)
        elif self.folder.class_table is not None:
            output = self.network(codes, levels, encoder_hidden_states=conditioning[:, None])
        else:
            output = self.network(codes, levels, encoder_hidden_states=None, class_labels=conditioning)
        return output.sample[:, : self.code_shape[0]]  # the rest is the variance where it learned that too

    def embed(self, classes: Int64[Tensor, " batch"]) -> Float[Tensor, "batch d"]:
        return self.table[classes.to(self.table.device)]

    def spec(self) -> dict[str, Any]:
        return PretrainedSpec(
            config_sha256=self.folder.weights.config_sha256,
            schedule=self.folder.schedule,
            random_seed=self.random_seed,
            **self.external().model_dump(),
        ).model_dump(mode="json")

    def external(self) -> ExternalWeights:
        num_bytes = self.folder.weights.num_bytes if self.random_seed is None else 4 * self.num_values
        return ExternalWeights(
            id=self.folder.weights.id, sha256=self._sha256, num_bytes=num_bytes, num_values=self.num_values
        )

    @classmethod
    def restore(cls, spec: PretrainedSpec, code_shape: tuple[int, int, int]) -> PretrainedModel:
        """The model of this content.

        Raises:
            InputError: it is absent or differs: says what is needed and how to provide it.
        """
        for place in places(spec.id):
            try:
                folder = read_folder(place, spec.id, spec.random_seed)
            except InputError:
                continue
            weights = folder.weights
            if weights.config_sha256 != spec.config_sha256 or folder.schedule != spec.schedule:
                continue
            if spec.random_seed is None and weights.sha256 != spec.sha256:
                continue
            model = cls(folder, code_shape, spec.random_seed)
            if model.spec() == spec.model_dump(mode="json"):
                return model
        raise InputError(
            f"this needs the diffusion model {spec.id!r} ({spec.num_bytes} bytes, sha256 {spec.sha256}), which is "
            "absent or differs; set ATTAR_WEIGHTS to its folder or to the folder that contains it"
        )

    @property
    def _is_transformer(self) -> bool:
        return hasattr(self.network, "transformer_blocks")

    def _take_table(self) -> Tensor:
        """The class table; from now on the network takes conditioning in the place of class numbers."""
        if self._is_transformer:
            blocks = [block.norm1.emb for block in self.network.transformer_blocks]
            table = blocks[0].class_embedder.embedding_table.weight.detach()
            for block in blocks:
                if not torch.equal(block.class_embedder.embedding_table.weight, table) and self.random_seed is None:
                    raise InputError("the transformer's blocks embed classes differently; one conditioning cannot be")
                block.class_embedder = nn.Identity()
            return table
        embedding, attends = self.network.class_embedding, _attends(self.network.config)
        if self.folder.class_table is not None:
            if embedding is not None or not attends:
                raise InputError(
                    f"{self.folder.class_table} is of a U-Net that attends to its class alone, and this one "
                    f"{'embeds classes too' if attends else 'attends to nothing'}; remove the one that is not used"
                )
            return _read_table(self.folder.class_table, self.network.config["cross_attention_dim"])
        if not isinstance(embedding, nn.Embedding):
            raise InputError(
                f"the U-Net has no class table of its own; its folder needs {CLASS_TABLE} with {TABLE_KEY!r}"
            )
        if attends:
            raise InputError("the U-Net attends to more than its class, e.g. text; one of classes alone is needed")
        self.network.class_embedding = nn.Identity()
        return embedding.weight.detach()


def find_folder(path_or_id: str, random_seed: int | None = None) -> tuple[Folder, Path]:
    """The model that a user names, and where it is: a folder, a name under $ATTAR_WEIGHTS, or a hub id in the cache.

    Raises:
        InputError: nothing is there, or it is no diffusion model in diffusers' layout.
    """
    weights_id, folders = named_folders(path_or_id, "diffusion")
    if folders:
        return read_folder(folders[0], weights_id, random_seed), folders[0]
    raise InputError(
        f"there is no diffusion model {path_or_id!r}; give a prior's file (attar train-prior makes one) or a folder in "
        "diffusers' layout with unet or transformer, vae or vqvae, and scheduler"
    )


def read_folder(folder: Path, weights_id: str, random_seed: int | None = None) -> Folder:
    """What `folder` holds. Raises InputError where it is no diffusion model in diffusers' layout."""
    place = next((folder / name for name in SUBFOLDERS if (folder / name / "config.json").is_file()), None)
    if place is None:
        raise InputError(f"{folder} holds no diffusion model; unet/config.json or transformer/config.json is needed")
    config = read_config(place / "config.json")
    path = weight_file(place)
    if path is None and random_seed is None:
        raise InputError(f"{place} lacks {WEIGHT_NAMES[0]}; restore it, or set codec.random_seed=0 for random values")
    table = folder / CLASS_TABLE if (folder / CLASS_TABLE).is_file() else None
    files = () if path is None else (path,) if table is None else (path, table)
    return Folder(Weights(weights_id, files, config), _read_schedule(folder / SCHEDULER), table)


def _read_schedule(path: Path) -> ScheduleConfig:
    """The schedule of a scheduler's betas. Raises InputError where it has none, or others than its schedule says."""
    config = read_config(path)
    kind = str(config.get("beta_schedule"))
    if kind not in SCHEDULES:
        raise unknown("beta_schedule", kind, SCHEDULES)
    for name, needed in REQUIRED.items():
        if config.get(name, needed) != needed:
            raise InputError(f"{path} has {name} {str(config[name])[:80]!r}; a model of {name} {needed!r} is needed")
    schedule = {
        "kind": SCHEDULES[kind],
        "num_levels": config.get("num_train_timesteps", 1000),
        "first": config.get("beta_start", 0.0001),
        "last": config.get("beta_end", 0.02),
    }
    return parse_config(ScheduleConfig, json.dumps(schedule), str(path))


def _read(architecture: Any, weights: Weights, random_seed: int | None) -> Any:
    with torch.random.fork_rng(devices=[]):  # a class of diffusers draws values, also where it then reads them
        if random_seed is None:
            return read_diffusers(architecture, replace(weights, files=weights.files[:1]))
        torch.manual_seed(random_seed)
        return architecture.from_config(weights.config).float()


def _check_fit(config: Any, code_shape: tuple[int, int, int]) -> None:
    channels, height, width = code_shape
    if config["in_channels"] != channels:
        raise InputError(f"the model is of codes of {config['in_channels']} channels, and its autoencoder's {channels}")
    if (config["out_channels"] or channels) not in (channels, 2 * channels):
        raise InputError(
            f"the model predicts {config['out_channels']} channels for codes of {channels}; as many, or twice as many "
            "where it learned the variance too, are needed"
        )
    if "patch_size" in config and (height, width) != (config["sample_size"],) * 2:
        side = config["sample_size"]
        raise InputError(f"the transformer is of codes of {side} x {side}, and these are {height} x {width}; resize")
    factor = 2 ** (len(config.get("block_out_channels", (0,))) - 1)
    if height % factor or width % factor:
        raise InputError(f"the U-Net needs codes of sides that {factor} divides, and these are {height} x {width}")


def _attends(config: Any) -> bool:
    """Whether a U-Net has a block that attends to tokens."""
    blocks = (*config["down_block_types"], config["mid_block_type"], *config["up_block_types"])
    return any("CrossAttn" in str(block) for block in blocks)


def _read_table(path: Path, size: int) -> Tensor:
    tensors = read_tensors(path)
    if TABLE_KEY not in tensors:
        raise InputError(f"{path} has no {TABLE_KEY!r}; restore it")
    table = tensors[TABLE_KEY].float()
    if table.ndim != 2 or len(table) < 2 or table.shape[1] != size or not bool(table.isfinite().all()):
        raise InputError(f"{path} holds a table of {tuple(table.shape)}; [classes + 1, {size}] is needed")
    return table


def _digest(network: nn.Module, class_table: Path | None) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    if class_table is not None:
        digest.update(sha256_of(class_table).encode())
    return digest.hexdigest()
