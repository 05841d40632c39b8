"""LatentDD's own setting: folders of 256- and 512-pixel images, Stable Diffusion's autoencoder, Table 6's depths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import attar
from attar.evaluation.protocol import protocol
from attar.methods.recipes import recipe

diffusers = pytest.importorskip("diffusers")

# Stable Diffusion's autoencoder down-samples three times into four channels; the tiny one does so with fewer values.
LAYOUT = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
}
TINY = {"block_out_channels": (2, 2, 4, 4), "layers_per_block": 1, "norm_num_groups": 2}
STABLE_DIFFUSION = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "norm_num_groups": 32}

# Column of Table 6 -> codes, depth of the matched network, depth of the evaluated one.
COLUMNS = {
    "256-f4-ipc1": ((4, 64, 64), 4, 6),
    "256-f8-ipc1": ((4, 32, 32), 3, 6),
    "512-f4-ipc1": ((4, 128, 128), 5, 7),
    "512-f8-ipc1": ((4, 64, 64), 4, 7),
}
BATCHES = {
    "dm": {"real_batch_size": 1},
    "dc": {"real_batch_size": 1, "outer_steps": 1, "inner_steps": 1, "train_batch_size": 2},
    "mtt": {"experts.count": 1, "experts.epochs": 1, "max_start_epoch": 0, "student_steps": 1},
}


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the recipes look for stable-diffusion-v1-4."""
    monkeypatch.setenv("ATTAR_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights" / "stable-diffusion-v1-4" / "vae"


def save_autoencoder(folder: Path, sizes: dict[str, Any]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        diffusers.AutoencoderKL(**LAYOUT, **sizes).save_pretrained(folder)


def photographs(folder: Path, side: int) -> Path:
    """Two classes of two training images and one test image, not square and larger than needed."""
    draw = np.random.default_rng(0)
    for part, count in (("train", 2), ("val", 1)):
        for name in ("flamingo", "macaw"):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                coarse = draw.integers(0, 256, (8, 10, 3), dtype=np.uint8)
                Image.fromarray(coarse).resize((side + 40, side)).save(folder / part / name / f"{number}.png")
    return folder


def distilled_and_scored(name: str, folder: Path, settings: dict[str, Any], tmp_path: Path) -> attar.DistilledSet:
    """One step of a published recipe, written, read, and scored by one network at pixel resolution."""
    side = recipe(name).image_size
    assert side is not None
    data = attar.load_images(photographs(folder, side), image_size=side, resize="crop")
    path = tmp_path / "bird.attar.safetensors"
    attar.distill(data, name, budget="1lpc", settings={"steps": 1, **settings}, out=path)
    short = protocol("latentdd").model_copy(
        update={"training": protocol("latentdd").training.model_copy(update={"max_steps": 1})}
    )
    depth = recipe(name).evaluation_network.depth
    card = attar.evaluate(path, data, short, networks=f"convnet:d{depth}w2", seeds=1, baselines=False)
    assert card.num_test == 2 and card.image_shape == (3, side, side)
    return attar.load(path)


RUNS = [*(("dm", column) for column in COLUMNS), ("dc", "256-f4-ipc1"), ("mtt", "256-f8-ipc1"), ("mtt", "512-f8-ipc1")]


@pytest.mark.parametrize(("method", "column"), RUNS)
def test_published_recipes_run_on_folders_of_their_size(
    method: str, column: str, tmp_path: Path, weights: Path
) -> None:
    save_autoencoder(weights, TINY)
    shape, train_depth, eval_depth = COLUMNS[column]
    name = f"latent-{method}-{column}"
    settings = {f"objective.{key}": value for key, value in BATCHES[method].items()} | {"objective.network.width": 2}
    small = distilled_and_scored(name, tmp_path / "photos", settings, tmp_path)
    assert tuple(small.codes.shape) == (2, *shape)
    resolved = small.manifest.recipe
    assert resolved["objective"]["network"]["depth"] == train_depth
    assert resolved["evaluation_network"]["depth"] == eval_depth
    assert tuple(small.images().shape) == (2, 3, recipe(name).image_size, recipe(name).image_size)


@pytest.mark.slow
@pytest.mark.parametrize("column", ["256-f8-ipc1", "256-f4-ipc1"])
def test_stable_diffusion_s_own_architecture_runs(column: str, tmp_path: Path, weights: Path) -> None:
    save_autoencoder(weights, STABLE_DIFFUSION)
    config = json.loads((weights / "config.json").read_text())
    assert config["block_out_channels"] == [128, 256, 512, 512]
    settings = {"objective.real_batch_size": 1, "objective.network.width": 8}
    small = distilled_and_scored(f"latent-dm-{column}", tmp_path / "photos", settings, tmp_path)
    external = small.storage.external[0]
    assert external.num_values == 83_653_863  # Stable Diffusion 1.x's
    assert tuple(small.codes.shape) == (2, *COLUMNS[column][0])
