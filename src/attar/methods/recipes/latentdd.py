"""LatentDD (Duan et al. 2023): distillation in an autoencoder's latent space: LatentDC, LatentDM, LatentMTT."""

from __future__ import annotations

from typing import Any, NamedTuple

from attar.data.augmentation import DsaConfig
from attar.methods.objectives.features import FeaturesConfig
from attar.methods.objectives.gradients import GradientsConfig
from attar.methods.objectives.trajectories import TrajectoriesConfig
from attar.methods.recipes.published import Accuracies, expected, with_figures
from attar.methods.recipes.recipe import OptimizerConfig, Recipe
from attar.models.codecs.autoencoder import AutoencoderConfig
from attar.models.codecs.pca import PcaConfig
from attar.models.codecs.registry import CodecConfig
from attar.models.codecs.resample import ResampleConfig
from attar.models.experts.config import ExpertsConfig
from attar.models.networks.network import NetworkConfig

STABLE_DIFFUSION = AutoencoderConfig(path="CompVis/stable-diffusion-v1-4")


class _Column(NamedTuple):
    """What the three methods share in a column of Table 6, and the table of its accuracies."""

    image_size: int
    factor: int
    ipc: int
    batch: int
    depth: int
    test_depth: int
    table: int


COLUMNS = {
    "256-f4-ipc1": _Column(image_size=256, factor=4, ipc=1, batch=64, depth=4, test_depth=6, table=1),
    "256-f8-ipc1": _Column(image_size=256, factor=8, ipc=1, batch=64, depth=3, test_depth=6, table=5),
    "256-f4-ipc10": _Column(image_size=256, factor=4, ipc=10, batch=64, depth=4, test_depth=6, table=1),
    "512-f4-ipc1": _Column(image_size=512, factor=4, ipc=1, batch=32, depth=5, test_depth=7, table=1),
    "512-f8-ipc1": _Column(image_size=512, factor=8, ipc=1, batch=16, depth=4, test_depth=7, table=5),
}


class _Row(NamedTuple):
    """A method's rate of codes in a column of Table 6, accuracies by subset, and the student's steps N."""

    lr: float
    accuracies: Accuracies
    syn_steps: int = 0


SUBSETS = ("Bird", "Fruit", "Woof", "Cat", "Nette")

TABLE_6 = {
    "latent-dm-256-f4-ipc1": _Row(lr=0.5, accuracies=(47.08, 30.68, 28.00, 36.28, 56.08)),
    "latent-dm-256-f8-ipc1": _Row(lr=0.1, accuracies=(67.40, 37.60)),
    "latent-dm-256-f4-ipc10": _Row(lr=0.5, accuracies=(77.20, 47.76)),
    "latent-dm-512-f4-ipc1": _Row(lr=0.5, accuracies=(46.20, 30.60)),
    "latent-dm-512-f8-ipc1": _Row(lr=0.1, accuracies=(68.22, 37.20)),
    "latent-dc-256-f4-ipc1": _Row(lr=0.05, accuracies=(46.72, 30.12, 28.96, 38.08, 55.92)),
    "latent-dc-256-f8-ipc1": _Row(lr=0.05, accuracies=(67.28, 38.08)),
    "latent-dc-256-f4-ipc10": _Row(lr=0.05, accuracies=(80.44, 51.60)),
    "latent-dc-512-f4-ipc1": _Row(lr=0.25, accuracies=(47.52, 29.68)),
    "latent-dc-512-f8-ipc1": _Row(lr=0.05, accuracies=(69.46, 37.22)),
    "latent-mtt-256-f4-ipc1": _Row(lr=50.0, syn_steps=40, accuracies=(52.86, 37.82, 39.84, 41.42, 62.86)),
    "latent-mtt-256-f8-ipc1": _Row(lr=1.0, syn_steps=60, accuracies=(66.42, 45.28)),
    "latent-mtt-256-f4-ipc10": _Row(lr=10.0, syn_steps=80, accuracies=(78.44, 52.46)),
    "latent-mtt-512-f4-ipc1": _Row(lr=500.0, syn_steps=40, accuracies=(52.44, 36.20)),
    "latent-mtt-512-f8-ipc1": _Row(lr=20.0, syn_steps=60, accuracies=(69.20, 42.84)),
}

_PATCH_PCA = PcaConfig(factor=4, channels=4, scaling="whiten")


def latent_dm() -> Recipe:
    """LatentDM on patch-PCA codes: no download, any image size that 4 divides.

    Command: attar distill PHOTOS --recipe latent-dm --budget 1ipc
    """
    return Recipe(
        name="latent-dm",
        title="LatentDM: mean features in the space of a patch-PCA codec",
        codec=_PATCH_PCA,
        objective=FeaturesConfig(network=NetworkConfig(depth=1), augmentation=DsaConfig()),
        optimizer=OptimizerConfig(learning_rate=0.08, learning_rate_unit="per-item", schedule="cosine"),
        steps=1000,
        citations=("latentdd", "dm", "dsa"),
    )


def latent_dc() -> Recipe:
    """LatentDC on patch-PCA codes: no download, any image size that 4 divides.

    LatentDD's distance and outer loop, at a size that suits a CPU: 20 networks, each matched 10 times and trained for
    10 steps on real codes in between. The depth is for codes of 8 x 8, i.e. images of 32 x 32. The rate was tried on a
    validation part of CIFAR-10's training images: docs/results.md.

    Command: attar distill PHOTOS --recipe latent-dc --budget 1ipc

    Deviation: augmented through the codec, which is affine; LatentDD does not augment codes.
    """
    return Recipe(
        name="latent-dc",
        title="LatentDC: gradients in the space of a patch-PCA codec",
        codec=_PATCH_PCA,
        objective=_gradients(depth=2, batch_size=64, inner_steps=10, augmentation=DsaConfig()),
        optimizer=OptimizerConfig(learning_rate=0.1, learning_rate_unit="per-item"),
        steps=20 * 10,
        citations=("latentdd", "dc", "idc", "dsa"),
    )


def latent_mtt() -> Recipe:
    """LatentMTT on patch-PCA codes: no download, any image size that 4 divides.

    LatentDD's rate per code at f = 4, at a size that suits a CPU: 5 experts of 12 epochs, 2 of them matched by 20
    student steps, 400 steps. The depth is for codes of 8 x 8, i.e. images of 32 x 32. Settings were compared on a
    validation part of CIFAR-10's training images: docs/results.md.

    Command: attar distill PHOTOS --recipe latent-mtt --budget 1ipc

    Deviation: augmented through the codec, which is affine; LatentDD does not augment codes.
    """
    return Recipe(
        name="latent-mtt",
        title="LatentMTT: trajectories in the space of a patch-PCA codec",
        codec=_PATCH_PCA,
        objective=TrajectoriesConfig(
            network=NetworkConfig(depth=2),
            experts=ExpertsConfig(count=5, epochs=12),
            expert_epochs=2,
            student_steps=20,
            max_start_epoch=10,
            student_batch_size=128,
            student_rate=0.03,
            student_rate_learning_rate=1e-5,
            augmentation=DsaConfig(),
        ),
        optimizer=OptimizerConfig(learning_rate=50.0, learning_rate_unit="per-item", schedule="cosine"),
        steps=400,
        citations=("latentdd", "mtt", "dsa"),
    )


@with_figures(SUBSETS, {name: row.accuracies for name, row in TABLE_6.items()})
def latent_published(name: str) -> Recipe:
    """LatentDM, LatentDC and LatentMTT as published: a column of LatentDD's Table 6, in Stable Diffusion's space.

    12 codes an image at f = 4, 48 at f = 8. No augmentation of codes (section 3.3.1). Evaluate with `latentdd`.
    A step of LatentDC is one matching: T = 1000 networks, each matched M = 10 times.

    Command: attar distill FOLDER --classes bird --image-size 256 --resize crop --recipe latent-dm-256-f4-ipc1

    Source: LatentDD section 3.3.1, Algorithms 1 to 3, Tables 1, 5, 6, Eq. 10. What is not said is the original's.
        LatentDM: momentum is DM's 0.5. LatentDC: "we follow Kim et al." is read as IDC's matching: convolutions alone,
        the distance summed, not averaged; DC's momentum 0.5 of the codes, none of the network; the one batch size is
        taken for the matching and for the network's training. LatentMTT: starts are drawn from {0, ..., T+}; MTT's 100
        experts of 50 epochs, momentum 0.5; the batch size is read as that of the synthetic batch.
    """
    _, method, column_name = name.split("-", 2)
    row, column = TABLE_6[name], COLUMNS[column_name]
    composition = {"dm": _latent_dm, "dc": _latent_dc, "mtt": _latent_mtt}[method]
    codec: CodecConfig = STABLE_DIFFUSION if column.factor == 8 else ResampleConfig(factor=2, codec=STABLE_DIFFUSION)
    size, budget = f"{column.image_size} px", f"{column.ipc}ipc"
    figures = zip(SUBSETS, row.accuracies, strict=False)
    return Recipe(
        name=name,
        title=f"Latent{method.upper()} as published: {size}, f = {column.factor}, Stable Diffusion's autoencoder",
        codec=codec,
        optimizer=OptimizerConfig(learning_rate=row.lr, learning_rate_unit="per-item"),
        evaluation_network=NetworkConfig(depth=column.test_depth),
        image_size=column.image_size,
        budget=budget,
        expected=expected(
            f"LatentDD Table {column.table}", {(f"{subset} {size}", budget): accuracy for subset, accuracy in figures}
        ),
        **composition(column, row),
    )


def _gradients(depth: int, batch_size: int, inner_steps: int, augmentation: DsaConfig | None = None) -> GradientsConfig:
    return GradientsConfig(
        network=NetworkConfig(depth=depth),
        distance="mse",
        matched="convolutions",
        real_batch_size=batch_size,
        outer_steps=10,
        inner_steps=inner_steps,
        train_on="real",
        train_batch_size=batch_size,
        learning_rate=0.01,
        augmentation=augmentation,
    )


def _latent_dm(column: _Column, row: _Row) -> dict[str, Any]:
    objective = FeaturesConfig(network=NetworkConfig(depth=column.depth), real_batch_size=column.batch)
    return {"objective": objective, "steps": 1000, "citations": ("latentdd", "dm")}


def _latent_dc(column: _Column, row: _Row) -> dict[str, Any]:
    objective = _gradients(column.depth, column.batch, inner_steps=50)
    return {"objective": objective, "steps": 1000 * objective.outer_steps, "citations": ("latentdd", "dc", "idc")}


def _latent_mtt(column: _Column, row: _Row) -> dict[str, Any]:
    objective = TrajectoriesConfig(
        network=NetworkConfig(depth=column.depth),
        expert_epochs=1,
        student_steps=row.syn_steps,
        max_start_epoch=5,
        student_batch_size=column.batch,
        student_rate=0.01,
        student_rate_learning_rate=1e-6,
    )
    return {"objective": objective, "steps": 5000, "citations": ("latentdd", "mtt")}
