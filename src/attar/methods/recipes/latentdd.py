"""LatentDD (Duan et al. 2023): distillation in an autoencoder's latent space: LatentDC, LatentDM, LatentMTT."""

from __future__ import annotations

from typing import NamedTuple

from attar.data.augmentation import DsaConfig
from attar.methods.objectives.features import FeaturesConfig
from attar.methods.objectives.gradients import GradientsConfig
from attar.methods.objectives.registry import MatchingConfig
from attar.methods.objectives.trajectories import TrajectoriesConfig
from attar.methods.recipes.recipe import Expected, OptimizerConfig, Recipe
from attar.models.codecs.autoencoder import AutoencoderConfig
from attar.models.codecs.pca import PcaConfig
from attar.models.codecs.registry import CodecConfig
from attar.models.codecs.resample import ResampleConfig
from attar.models.experts.config import ExpertsConfig
from attar.models.networks.network import NetworkConfig

STABLE_DIFFUSION = AutoencoderConfig(path="CompVis/stable-diffusion-v1-4")

SUBSETS = ("Bird", "Fruit", "Woof", "Cat", "Nette")

ITERATIONS, OUTER_STEPS = 1000, 10


class _Column(NamedTuple):
    """What the three methods share in a column of Table 6, and the table of its accuracies."""

    image_size: int
    factor: int
    images_per_class: int
    batch: int
    train_depth: int
    test_depth: int
    table: str


COLUMNS = {
    "256-f4-ipc1": _Column(256, 4, 1, 64, 4, 6, "Table 1"),
    "256-f8-ipc1": _Column(256, 8, 1, 64, 3, 6, "Table 5"),
    "256-f4-ipc10": _Column(256, 4, 10, 64, 4, 6, "Table 1"),
    "512-f4-ipc1": _Column(512, 4, 1, 32, 5, 7, "Table 1"),
    "512-f8-ipc1": _Column(512, 8, 1, 16, 4, 7, "Table 5"),
}

# Name -> base rate, accuracies in the order of SUBSETS.
LATENT_DC: dict[str, tuple[float, tuple[float, ...]]] = {
    "latent-dc-256-f4-ipc1": (0.05, (46.72, 30.12, 28.96, 38.08, 55.92)),
    "latent-dc-256-f8-ipc1": (0.05, (67.28, 38.08)),
    "latent-dc-256-f4-ipc10": (0.05, (80.44, 51.60)),
    "latent-dc-512-f4-ipc1": (0.25, (47.52, 29.68)),
    "latent-dc-512-f8-ipc1": (0.05, (69.46, 37.22)),
}

LATENT_DM: dict[str, tuple[float, tuple[float, ...]]] = {
    "latent-dm-256-f4-ipc1": (0.5, (47.08, 30.68, 28.00, 36.28, 56.08)),
    "latent-dm-256-f8-ipc1": (0.1, (67.40, 37.60)),
    "latent-dm-256-f4-ipc10": (0.5, (77.20, 47.76)),
    "latent-dm-512-f4-ipc1": (0.5, (46.20, 30.60)),
    "latent-dm-512-f8-ipc1": (0.1, (68.22, 37.20)),
}

# Name -> base rate, student steps N, accuracies.
LATENT_MTT: dict[str, tuple[float, int, tuple[float, ...]]] = {
    "latent-mtt-256-f4-ipc1": (50.0, 40, (52.86, 37.82, 39.84, 41.42, 62.86)),
    "latent-mtt-256-f8-ipc1": (1.0, 60, (66.42, 45.28)),
    "latent-mtt-256-f4-ipc10": (10.0, 80, (78.44, 52.46)),
    "latent-mtt-512-f4-ipc1": (500.0, 40, (52.44, 36.20)),
    "latent-mtt-512-f8-ipc1": (20.0, 60, (69.20, 42.84)),
}


def latent_dm() -> Recipe:
    """LatentDM on patch-PCA codes: no download, any image size that 4 divides.

    Command: attar distill PHOTOS --recipe latent-dm --budget 1ipc
    """
    return Recipe(
        name="latent-dm",
        title="LatentDM: mean features in the space of a patch-PCA codec",
        codec=PcaConfig(factor=4, channels=4, scaling="whiten"),
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
        codec=PcaConfig(factor=4, channels=4, scaling="whiten"),
        objective=GradientsConfig(
            network=NetworkConfig(depth=2),
            distance="mse",
            matched="convolutions",
            real_batch_size=64,
            outer_steps=OUTER_STEPS,
            inner_steps=10,
            train_on="real",
            train_batch_size=64,
            augmentation=DsaConfig(),
        ),
        optimizer=OptimizerConfig(learning_rate=0.1, learning_rate_unit="per-item"),
        steps=20 * OUTER_STEPS,
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
        codec=PcaConfig(factor=4, channels=4, scaling="whiten"),
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


def latent_dc_published(name: str) -> Recipe:
    """LatentDC as published: a column of LatentDD's Table 6, in Stable Diffusion's space.

    T = 1000 networks, each matched M = 10 times, N = 50 steps on real codes after each matching, network rate 0.01;
    squared distance between gradients of convolutions. 12 codes an image at f = 4, 48 at f = 8. A step is one matching:
    T x M = 10,000. No augmentation of codes (section 3.3.1). Expected: Tables 1 and 5; evaluate with `latentdd`.

    Command: attar distill FOLDER --classes bird --image-size 256 --resize crop --recipe latent-dc-256-f4-ipc1

    Source: LatentDD section 3.3.1, Algorithm 1, Tables 1, 5, 6, Eq. 10. "We follow Kim et al." is read as IDC's
        matching: convolutions alone, the distance summed, not averaged. What is not said is DC's: momentum 0.5 of the
        codes, none of the network. The one batch size is taken for the matching and for the network's training.
    """
    column, rate, accuracies = COLUMNS[name.removeprefix("latent-dc-")], *LATENT_DC[name]
    objective = GradientsConfig(
        network=NetworkConfig(depth=column.train_depth),
        distance="mse",
        matched="convolutions",
        real_batch_size=column.batch,
        outer_steps=OUTER_STEPS,
        inner_steps=50,
        train_on="real",
        train_batch_size=column.batch,
        learning_rate=0.01,
    )
    citations = ("latentdd", "dc", "idc")
    return _table_6(name, "LatentDC", column, objective, rate, ITERATIONS * OUTER_STEPS, citations, accuracies)


def latent_dm_published(name: str) -> Recipe:
    """LatentDM as published: a column of LatentDD's Table 6, in Stable Diffusion's space.

    1000 steps. 12 codes an image at f = 4, 48 at f = 8. No augmentation of codes (section 3.3.1). Expected: Tables 1
    and 5; evaluate with `latentdd`.

    Command: attar distill FOLDER --classes bird --image-size 256 --resize crop --recipe latent-dm-256-f4-ipc1

    Source: LatentDD Algorithm 2, Tables 1, 5, 6, Eq. 10. Momentum is DM's 0.5: "the default settings of the original".
    """
    column, rate, accuracies = COLUMNS[name.removeprefix("latent-dm-")], *LATENT_DM[name]
    objective = FeaturesConfig(network=NetworkConfig(depth=column.train_depth), real_batch_size=column.batch)
    return _table_6(name, "LatentDM", column, objective, rate, ITERATIONS, ("latentdd", "dm"), accuracies)


def latent_mtt_published(name: str) -> Recipe:
    """LatentMTT as published: a column of LatentDD's Table 6, in Stable Diffusion's space.

    5000 steps, expert epochs M = 1, starts 0 to T+ = 5, student rate 0.01 learned at 1e-6, N student steps. 12 codes an
    image at f = 4, 48 at f = 8. No augmentation of codes (section 3.3.1). Expected: Tables 1 and 5; evaluate with
    `latentdd`.

    Command: attar distill FOLDER --classes bird --image-size 256 --resize crop --recipe latent-mtt-256-f4-ipc1

    Source: LatentDD Algorithm 3, Tables 1, 5, 6, Eq. 10. Algorithm 3 draws starts from {0, ..., T+}. What is not said
        is MTT's: 100 experts of 50 epochs, momentum 0.5. The batch size is read as that of the synthetic batch.
    """
    column, (rate, student_steps, accuracies) = COLUMNS[name.removeprefix("latent-mtt-")], LATENT_MTT[name]
    objective = TrajectoriesConfig(
        network=NetworkConfig(depth=column.train_depth),
        expert_epochs=1,
        student_steps=student_steps,
        max_start_epoch=5,
        student_batch_size=column.batch,
        student_rate=0.01,
        student_rate_learning_rate=1e-6,
    )
    return _table_6(name, "LatentMTT", column, objective, rate, 5000, ("latentdd", "mtt"), accuracies)


def _table_6(
    name: str,
    method: str,
    column: _Column,
    objective: MatchingConfig,
    rate: float,
    steps: int,
    citations: tuple[str, ...],
    accuracies: tuple[float, ...],
) -> Recipe:
    codec: CodecConfig = STABLE_DIFFUSION if column.factor == 8 else ResampleConfig(factor=2, codec=STABLE_DIFFUSION)
    size = f"{column.image_size} px"
    budget = f"{column.images_per_class}ipc"
    return Recipe(
        name=name,
        title=f"{method} as published: {size}, f = {column.factor}, Stable Diffusion's autoencoder",
        codec=codec,
        objective=objective,
        optimizer=OptimizerConfig(learning_rate=rate, learning_rate_unit="per-item"),
        steps=steps,
        evaluation_network=NetworkConfig(depth=column.test_depth),
        image_size=column.image_size,
        budget=budget,
        citations=citations,
        expected=tuple(
            Expected(data=f"{subset} {size}", budget=budget, accuracy=accuracy, source=f"LatentDD {column.table}")
            for subset, accuracy in zip(SUBSETS, accuracies, strict=False)
        ),
    )
