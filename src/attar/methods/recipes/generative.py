"""GLaD and LD3M: gradients, features and trajectories matched through a frozen generative model."""

from __future__ import annotations

from typing import Literal, NamedTuple

from attar.data.augmentation import DsaConfig
from attar.methods.objectives.features import FeaturesConfig
from attar.methods.objectives.gradients import GradientsConfig
from attar.methods.objectives.registry import PartConfig as MatchingConfig
from attar.methods.objectives.trajectories import TrajectoriesConfig
from attar.methods.parameterizations.diffusion import DiffusionConfig
from attar.methods.parameterizations.generator import GeneratorConfig
from attar.methods.recipes.published import Accuracies, expected, with_figures
from attar.methods.recipes.recipe import Expected, OptimizerConfig, Recipe
from attar.models.diffusion.codec import DiffusionCodecConfig
from attar.models.diffusion.schedule import SamplingConfig
from attar.models.experts.config import ExpertsConfig
from attar.models.generators.codec import GeneratorCodecConfig

Method = Literal["dc", "dm", "mtt"]

TITLES = {"dc": "gradients", "dm": "mean features", "mtt": "trajectories"}

SUBSETS = (
    *(f"ImageNet-{letter}" for letter in "ABCDE"),
    *("ImageNette", "ImageWoof", "ImageNet-Birds", "ImageNet-Fruits", "ImageNet-Cats"),
)

# LD3M Tables 1 and 3, 1 IPC, mean of four unseen architectures; columns: SUBSETS.
_LD3M: dict[str, Accuracies] = {
    "ld3m-mtt": (40.9, 41.6, 34.1, 31.5, 30.1, 32.0, 19.9, 30.4, 21.4, 22.1),
    "ld3m-dc": (42.3, 42.0, 37.1, 29.7, 31.4, 32.9, 18.9, 30.2, 22.6, 21.7),
    "ld3m-dm": (35.8, 34.1, 30.3, 24.7, 24.5, 26.8, 18.1, 23.0, 24.5, 17.0),
    "ld3m-dc-256": (42.1, 42.1, 35.7, 30.5, 30.9),
}
_GLAD: dict[str, Accuracies] = {
    "glad-mtt": (39.9, 39.4, 34.9, 30.4, 29.0, 30.4, 17.1, 28.2, 21.1, 19.6),
    "glad-dc": (41.8, 42.1, 35.8, 28.0, 29.3, 31.0, 17.8, 29.1, 22.3, 21.2),
    "glad-dm": (31.6, 31.3, 26.9, 21.5, 20.4, 21.9, 15.2, 18.2, 20.4, 16.1),
}


class _Ld3m(NamedTuple):
    method: Method
    lr: float
    num_steps: int = 10
    iterations: int = 5000
    official: bool = False


class _Glad(NamedTuple):
    method: Method
    layer: int
    lr_features: float
    lr_w: float


LD3M = {
    "ld3m-dc": _Ld3m("dc", lr=1e-3),
    "ld3m-dm": _Ld3m("dm", lr=1e-2),
    "ld3m-mtt": _Ld3m("mtt", lr=10.0),
    "ld3m-dc-256": _Ld3m("dc", lr=1e-3, num_steps=20, iterations=10_000),
    "ld3m-dc-official": _Ld3m("dc", lr=0.1, official=True),
    "ld3m-dm-official": _Ld3m("dm", lr=1.0, official=True),
    "ld3m-mtt-official": _Ld3m("mtt", lr=1000.0, official=True),
}

GLAD = {
    "glad-dc": _Glad("dc", layer=16, lr_features=1.0, lr_w=1e-3),
    "glad-dm": _Glad("dm", layer=20, lr_features=10.0, lr_w=1e-2),
    "glad-mtt": _Glad("mtt", layer=12, lr_features=1e4, lr_w=10.0),
}


@with_figures(SUBSETS, _LD3M)
def ld3m(name: str) -> Recipe:
    """LD3M with the paper's settings, or with those of its official code.

    Codes start as encoded real images, conditioning as their class's; both have one rate. `-256` is for 256 pixels, the
    others for 128. The official code has its own rates and residual and, for MTT, a shorter student.

    Command: attar distill PHOTOS --recipe ld3m-dm --codec diffusion:MODEL

    Source: LD3M appendix A.3, Tables 1, 3 and 8 (mean of AlexNet, VGG-11, ResNet-18 and ViT, 1 IPC);
        Brian-Moser/prune_and_distill, distill_*_LD3M.py, for the official.
    Deviation: 100 experts of 15 epochs in place of 5000 trajectories; the student's rate and its own are GLaD's, which
        LD3M does not give. With images of one class, DC takes one matching with each network, as DC does. Noise is an
        item's own for good, see `Diffusion`. The official number of steps was not found; it is the paper's.
    """
    row = LD3M[name]
    target: Literal["noisy", "clean"] = "clean" if row.official else "noisy"
    return Recipe(
        name=name,
        title=f"LD3M: {TITLES[row.method]} through a diffusion model" + ", official code" * row.official,
        codec=DiffusionCodecConfig(),
        parameterization=DiffusionConfig(sampling=SamplingConfig(num_steps=row.num_steps, residual_target=target)),
        objective=_trajectories(10, 2, 1) if row.official and row.method == "mtt" else _matching(row.method),
        optimizer=OptimizerConfig(learning_rate=row.lr, momentum=0.5),
        steps=row.iterations,
        budget="1ipc",
        citations=("ld3m", row.method, "dsa"),
        expected=_expected(name),
    )


@with_figures(SUBSETS, _GLAD)
def glad(name: str) -> Recipe:
    """GLaD with the settings of its official commands for one image per class, at 128 pixels.

    Items are w of StyleGAN-XL and the map after a layer, both of random noise and the item's class. A generator with
    fewer layers needs --set parameterization.depth=N. w alone, whose rate in the official code is then the map's, is
    --set parameterization.depth=0 --set feature_optimizer=null.

    Command: attar distill PHOTOS --recipe glad-dm --codec generator:WEIGHTS.safetensors
             --set codec.module=package.module:Name

    Source: the README of GeorgeCazenavette/glad (Cazenavette et al. 2023); figures: LD3M Table 1 (mean of AlexNet,
        VGG-11, ResNet-18 and ViT, 1 IPC).
    Deviation: 100 experts of 15 epochs; MTT's gradient is exact, where the official code's treats what earlier batches
        did as given; of images of one class, DC takes one matching with each network, as DC does.
    """
    row = GLAD[name]
    return Recipe(
        name=name,
        title=f"GLaD: {TITLES[row.method]} through a generator",
        codec=GeneratorCodecConfig(),
        initialization="noise",
        parameterization=GeneratorConfig(depth=row.layer),
        objective=_matching(row.method),
        optimizer=OptimizerConfig(learning_rate=row.lr_w, momentum=0.5),
        feature_optimizer=OptimizerConfig(learning_rate=row.lr_features, momentum=0.5),
        steps=1000,
        budget="1ipc",
        citations=("glad", row.method, "dsa"),
        expected=_expected(name),
    )


def _matching(method: Method) -> MatchingConfig:
    if method == "dm":
        return FeaturesConfig(real_batch_size=256, augmentation=DsaConfig())
    if method == "dc":
        return GradientsConfig(real_batch_size=256, augmentation=DsaConfig())
    return _trajectories(student_steps=20, expert_epochs=3, max_start_epoch=5)


def _trajectories(student_steps: int, expert_epochs: int, max_start_epoch: int) -> TrajectoriesConfig:
    return TrajectoriesConfig(
        experts=ExpertsConfig(count=100, epochs=15),
        expert_epochs=expert_epochs,
        student_steps=student_steps,
        max_start_epoch=max_start_epoch,
        student_rate_learning_rate=1e-6,
        augmentation=DsaConfig(),
    )


def _expected(name: str) -> tuple[Expected, ...]:
    image_size, table = (256, 3) if name.endswith("256") else (128, 1)
    where = f"{image_size} px, mean of four unseen architectures"
    figures = zip(SUBSETS, (_LD3M | _GLAD).get(name, ()), strict=False)
    return expected(f"LD3M Table {table}", {(f"{data}, {where}", "1ipc"): accuracy for data, accuracy in figures})
