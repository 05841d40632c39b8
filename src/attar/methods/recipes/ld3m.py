"""LD3M: gradients, features and trajectories matched through a frozen latent diffusion model."""

from __future__ import annotations

from typing import Literal, NamedTuple

from attar.data.augmentation import DsaConfig
from attar.methods.objectives.features import FeaturesConfig
from attar.methods.objectives.gradients import GradientsConfig
from attar.methods.objectives.registry import MatchingConfig
from attar.methods.objectives.trajectories import TrajectoriesConfig
from attar.methods.parameterizations.diffusion import DiffusionConfig
from attar.methods.recipes.recipe import Expected, OptimizerConfig, Recipe
from attar.models.diffusion.codec import DiffusionCodecConfig
from attar.models.diffusion.schedule import SamplingConfig
from attar.models.experts.config import ExpertsConfig


class _Row(NamedTuple):
    method: Literal["dc", "dm", "mtt"]
    rate: float
    num_steps: int = 10
    steps: int = 5000
    official: bool = False


LD3M = {
    "ld3m-dc": _Row("dc", 1e-3),
    "ld3m-dm": _Row("dm", 1e-2),
    "ld3m-mtt": _Row("mtt", 10.0),
    "ld3m-dc-256": _Row("dc", 1e-3, num_steps=20, steps=10_000),
    "ld3m-dc-official": _Row("dc", 0.1, official=True),
    "ld3m-dm-official": _Row("dm", 1.0, official=True),
    "ld3m-mtt-official": _Row("mtt", 1000.0, official=True),
}

_SUBSETS = (
    *(f"ImageNet-{name}" for name in ("A", "B", "C", "D", "E")),
    *("ImageNette", "ImageWoof", "ImageNet-Birds", "ImageNet-Fruits", "ImageNet-Cats"),
)

FIGURES = {
    "ld3m-mtt": (40.9, 41.6, 34.1, 31.5, 30.1, 32.0, 19.9, 30.4, 21.4, 22.1),
    "ld3m-dc": (42.3, 42.0, 37.1, 29.7, 31.4, 32.9, 18.9, 30.2, 22.6, 21.7),
    "ld3m-dm": (35.8, 34.1, 30.3, 24.7, 24.5, 26.8, 18.1, 23.0, 24.5, 17.0),
    "ld3m-dc-256": (42.1, 42.1, 35.7, 30.5, 30.9),
}

_TITLES = {"dc": "gradients", "dm": "mean features", "mtt": "trajectories"}


def ld3m(name: str) -> Recipe:
    """LD3M with the paper's settings, or with those of its official code.

    Codes start as encoded real images, conditioning as their class's; guidance 3. 5000 steps with T = 10 at 128 pixels,
    10,000 with T = 20 at 256; momentum 0.5; ConvNet of depth 5 and 6 there, as the size of the images gives it. Rates
    of codes and conditioning are one: 1e-3 (DC), 1e-2 (DM), 10 (MTT); in the official code 0.1, 1 and 1000, with its
    own residual and, for MTT, 10 student steps, 2 expert epochs and starts below 2 in place of 20, 3 and 5.

    Accuracy, mean of AlexNet, VGG-11, ResNet-18 and ViT, 1 IPC:

    | | A | B | C | D | E | Nette | Woof | Birds | Fruits | Cats |
    |---|---|---|---|---|---|---|---|---|---|---|
    | MTT 128 | 40.9 | 41.6 | 34.1 | 31.5 | 30.1 | 32.0 | 19.9 | 30.4 | 21.4 | 22.1 |
    | DC 128 | 42.3 | 42.0 | 37.1 | 29.7 | 31.4 | 32.9 | 18.9 | 30.2 | 22.6 | 21.7 |
    | DM 128 | 35.8 | 34.1 | 30.3 | 24.7 | 24.5 | 26.8 | 18.1 | 23.0 | 24.5 | 17.0 |
    | DC 256 | 42.1 | 42.1 | 35.7 | 30.5 | 30.9 | | | | | |

    Command: attar distill PHOTOS --recipe ld3m-dm --codec diffusion:MODEL

    Source: LD3M appendix A.3, Tables 1, 3 and 8; Brian-Moser/prune_and_distill, distill_*_LD3M.py, for the official.
    Deviation: 100 experts of 15 epochs in place of 5000 trajectories; the student's rate and its own are GLaD's, which
        LD3M does not give. With images of one class, DC takes one matching with each network, as DC does. Noise is an
        item's own for good, see `Diffusion`. The official number of steps was not found; it is the paper's.
    """
    row = LD3M[name]
    target: Literal["noisy", "clean"] = "clean" if row.official else "noisy"
    return Recipe(
        name=name,
        title=f"LD3M: {_TITLES[row.method]} through a diffusion model" + ", official code" * row.official,
        codec=DiffusionCodecConfig(),
        parameterization=DiffusionConfig(sampling=SamplingConfig(num_steps=row.num_steps, residual_target=target)),
        objective=_objective(row),
        optimizer=OptimizerConfig(learning_rate=row.rate, momentum=0.5),
        steps=row.steps,
        budget="1ipc",
        citations=("ld3m", row.method, "dsa"),
        expected=tuple(
            Expected(
                data=f"{data}, {256 if name.endswith('256') else 128} px, mean of four unseen architectures",
                budget="1ipc",
                accuracy=accuracy,
                source="LD3M Table 3" if name.endswith("256") else "LD3M Table 1",
            )
            for data, accuracy in zip(_SUBSETS, FIGURES.get(name, ()), strict=False)
        ),
    )


def _objective(row: _Row) -> MatchingConfig:
    if row.method == "dm":
        return FeaturesConfig(real_batch_size=256, augmentation=DsaConfig())
    if row.method == "dc":
        return GradientsConfig(real_batch_size=256, augmentation=DsaConfig())
    return TrajectoriesConfig(
        experts=ExpertsConfig(count=100, epochs=15),
        expert_epochs=2 if row.official else 3,
        student_steps=10 if row.official else 20,
        max_start_epoch=1 if row.official else 5,
        student_rate_learning_rate=1e-6,
        augmentation=DsaConfig(),
    )
