"""DM (Zhao & Bilen 2023): mean features of random networks matched in pixel space, with siamese augmentation."""

from __future__ import annotations

from attar.data.augmentation import DsaConfig
from attar.methods.objectives.features import FeaturesConfig
from attar.methods.recipes.recipe import Expected, OptimizerConfig, Recipe
from attar.models.codecs.pixels import PixelsConfig


def dm() -> Recipe:
    """DM with its official settings for up to 50 images per class.

    20,000 steps, rate 1, momentum 0.5, 256 real images of each class, ConvNet of width 128, DSA, real initialisation.

    | data | 1 IPC | 10 IPC | 50 IPC |
    |---|---|---|---|
    | CIFAR-10 | 26.0 | 48.9 | 63.0 |
    | CIFAR-100 | 11.4 | 29.7 | 43.6 |
    | Tiny-ImageNet | 3.9 | 12.9 | 24.1 |

    Command: attar distill PHOTOS --recipe dm --budget 1ipc

    Source: the method's paper, Table 1, and its official main_DM.py.
    """
    return Recipe(
        name="dm",
        title="DM: mean features in pixel space",
        codec=PixelsConfig(),
        objective=FeaturesConfig(real_batch_size=256, augmentation=DsaConfig()),
        optimizer=OptimizerConfig(learning_rate=1.0, momentum=0.5),
        steps=20_000,
        citations=("dm", "dsa"),
        expected=tuple(
            Expected(data=data, budget=f"{ipc}ipc", accuracy=accuracy, source="Zhao & Bilen 2023, Table 1")
            for data, row in (
                ("CIFAR-10", {1: 26.0, 10: 48.9, 50: 63.0}),
                ("CIFAR-100", {1: 11.4, 10: 29.7, 50: 43.6}),
                ("Tiny-ImageNet", {1: 3.9, 10: 12.9, 50: 24.1}),
            )
            for ipc, accuracy in row.items()
        ),
    )


def dm_ipc100() -> Recipe:
    """DM with the rate its README gives from 100 images per class on: 10."""
    rate = OptimizerConfig(learning_rate=10.0, momentum=0.5)
    title = "DM for 100 images per class and more"
    return dm().model_copy(
        update={"name": "dm-ipc100", "title": title, "optimizer": rate, "budget": "100ipc", "expected": ()}
    )
