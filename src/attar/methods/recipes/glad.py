"""GLaD: gradients, features and trajectories matched through a frozen generator."""

from __future__ import annotations

from typing import Literal, NamedTuple

from attar.data.augmentation import DsaConfig
from attar.methods.objectives.features import FeaturesConfig
from attar.methods.objectives.gradients import GradientsConfig
from attar.methods.objectives.registry import MatchingConfig
from attar.methods.objectives.trajectories import TrajectoriesConfig
from attar.methods.parameterizations.generator import GeneratorConfig
from attar.methods.recipes.recipe import Expected, OptimizerConfig, Recipe
from attar.models.experts.config import ExpertsConfig
from attar.models.generators.codec import GeneratorCodecConfig


class _Row(NamedTuple):
    method: Literal["dc", "dm", "mtt"]
    depth: int
    feature_rate: float
    rate: float


GLAD = {
    "glad-dc": _Row("dc", 16, 1.0, 1e-3),
    "glad-dm": _Row("dm", 20, 10.0, 1e-2),
    "glad-mtt": _Row("mtt", 12, 1e4, 10.0),
}

_SUBSETS = (
    *(f"ImageNet-{name}" for name in ("A", "B", "C", "D", "E")),
    *("ImageNette", "ImageWoof", "ImageNet-Birds", "ImageNet-Fruits", "ImageNet-Cats"),
)

FIGURES = {
    "glad-mtt": (39.9, 39.4, 34.9, 30.4, 29.0, 30.4, 17.1, 28.2, 21.1, 19.6),
    "glad-dc": (41.8, 42.1, 35.8, 28.0, 29.3, 31.0, 17.8, 29.1, 22.3, 21.2),
    "glad-dm": (31.6, 31.3, 26.9, 21.5, 20.4, 21.9, 15.2, 18.2, 20.4, 16.1),
}

_TITLES = {"dc": "gradients", "dm": "mean features", "mtt": "trajectories"}


def glad(name: str) -> Recipe:
    """GLaD with the settings of its official commands for one image per class, at 128 pixels.

    Items are w of StyleGAN-XL and the map after layer 16 (DC), 20 (DM) or 12 (MTT), both of random noise and the item's
    class; rates of the map and of w 1 and 0.001, 10 and 0.01, 10,000 and 10; momentum 0.5; 1000 steps. A generator with
    fewer layers needs --set parameterization.depth=N. w alone, whose rate in the official code is then the map's, is
    --set parameterization.depth=0 --set feature_optimizer=null.

    Accuracy, mean of AlexNet, VGG-11, ResNet-18 and ViT, 1 IPC:

    | | A | B | C | D | E | Nette | Woof | Birds | Fruits | Cats |
    |---|---|---|---|---|---|---|---|---|---|---|
    | MTT 128 | 39.9 | 39.4 | 34.9 | 30.4 | 29.0 | 30.4 | 17.1 | 28.2 | 21.1 | 19.6 |
    | DC 128 | 41.8 | 42.1 | 35.8 | 28.0 | 29.3 | 31.0 | 17.8 | 29.1 | 22.3 | 21.2 |
    | DM 128 | 31.6 | 31.3 | 26.9 | 21.5 | 20.4 | 21.9 | 15.2 | 18.2 | 20.4 | 16.1 |

    Command: attar distill PHOTOS --recipe glad-dm --codec generator:WEIGHTS.safetensors
             --set codec.module=package.module:Name

    Source: the README of GeorgeCazenavette/glad (Cazenavette et al. 2023); figures as LD3M reports them, Table 1.
    Deviation: 100 experts of 15 epochs; MTT's gradient is exact, where the official code's treats what earlier batches
        did as given; of images of one class, DC takes one matching with each network, as DC does.
    """
    row = GLAD[name]
    return Recipe(
        name=name,
        title=f"GLaD: {_TITLES[row.method]} through a generator",
        codec=GeneratorCodecConfig(),
        initialization="noise",
        parameterization=GeneratorConfig(depth=row.depth),
        objective=_objective(row),
        optimizer=OptimizerConfig(learning_rate=row.rate, momentum=0.5),
        feature_optimizer=OptimizerConfig(learning_rate=row.feature_rate, momentum=0.5),
        steps=1000,
        budget="1ipc",
        citations=("glad", row.method, "dsa"),
        expected=tuple(
            Expected(
                data=f"{data}, 128 px, mean of four unseen architectures",
                budget="1ipc",
                accuracy=accuracy,
                source="LD3M Table 1",
            )
            for data, accuracy in zip(_SUBSETS, FIGURES[name], strict=True)
        ),
    )


def _objective(row: _Row) -> MatchingConfig:
    if row.method == "dm":
        return FeaturesConfig(real_batch_size=256, augmentation=DsaConfig())
    if row.method == "dc":
        return GradientsConfig(real_batch_size=256, augmentation=DsaConfig())
    return TrajectoriesConfig(
        experts=ExpertsConfig(count=100, epochs=15),
        expert_epochs=3,
        student_steps=20,
        max_start_epoch=5,
        student_rate_learning_rate=1e-6,
        augmentation=DsaConfig(),
    )
