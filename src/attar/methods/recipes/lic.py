"""LIC (Sun et al., Information Compensation): select key images, squeeze, compensate, relabel."""

from __future__ import annotations

from typing import NamedTuple

from attar.data.augmentation import DsaConfig
from attar.methods.initialization import KeySamplesConfig
from attar.methods.labels.regions import RegionLabels
from attar.methods.objectives.alignment import AlignmentConfig
from attar.methods.parameterizations.mosaic import MosaicConfig
from attar.methods.recipes.recipe import Expected, OptimizerConfig, Recipe
from attar.models.codecs.pixels import PixelsConfig
from attar.models.networks.network import NetworkConfig
from attar.models.observers.config import ObserverConfig

STEPS = 200
RATE, STD = 0.01, 0.25

CONVNET = NetworkConfig(norm="batch")
RESNET18 = NetworkConfig(kind="resnet18", norm="batch")
RESNET18_224 = NetworkConfig(kind="resnet18", norm="batch", stem="imagenet")


class Figures(NamedTuple):
    """A row of LIC's tables: data, observer and verifier, side in pixels, accuracies at 1, 10 and 50 IPC.

    Args:
        data: name of the data set.
        network: of the observer and of the evaluated networks.
        image_size: in pixels.
        accuracies: percent, at 1, 10 and 50 images per class; None where none is published.
    """

    data: str
    network: NetworkConfig
    image_size: int
    accuracies: tuple[float | None, float | None, float | None]

    def expected(self, source: str) -> tuple[Expected, ...]:
        """The published figures."""
        return tuple(
            Expected(data=self.data, budget=f"{count}ipc", accuracy=accuracy, source=source)
            for count, accuracy in zip((1, 10, 50), self.accuracies, strict=True)
            if accuracy is not None
        )


def convnet(depth: int) -> NetworkConfig:
    """ConvNet with batch norm, as RDED's and LIC's authors use it."""
    return NetworkConfig(depth=depth, norm="batch")


# LIC Table 1, and Table 5 for ImageNet-10 and -100. Sides of ImageNet-1K with ConvNet-4: as RDED, 64 pixels.
LIC = {
    "lic-cifar10-convnet": Figures("CIFAR-10", convnet(3), 32, (51.7, 72.2, 78.3)),
    "lic-cifar10-resnet18": Figures("CIFAR-10", RESNET18, 32, (40.7, 80.9, 89.2)),
    "lic-cifar100-convnet": Figures("CIFAR-100", convnet(3), 32, (42.7, 54.8, 56.6)),
    "lic-cifar100-resnet18": Figures("CIFAR-100", RESNET18, 32, (48.1, 64.7, 67.6)),
    "lic-tiny-convnet": Figures("Tiny-ImageNet", convnet(4), 64, (31.7, 46.3, 47.4)),
    "lic-tiny-resnet18": Figures("Tiny-ImageNet", RESNET18, 64, (36.5, 51.7, 55.8)),
    "lic-imagenet10-convnet": Figures("ImageNet-10", convnet(5), 224, (39.7, 71.5, 81.1)),
    "lic-imagenet10-resnet18": Figures("ImageNet-10", RESNET18_224, 224, (43.9, 76.3, 85.8)),
    "lic-imagenet100-convnet": Figures("ImageNet-100", convnet(6), 224, (17.8, 50.2, 64.3)),
    "lic-imagenet100-resnet18": Figures("ImageNet-100", RESNET18_224, 224, (20.8, 65.0, 79.8)),
    "lic-imagenet1k-convnet": Figures("ImageNet-1K", convnet(4), 64, (14.5, 24.0, 39.1)),
    "lic-imagenet1k-resnet18": Figures("ImageNet-1K", RESNET18_224, 224, (6.8, 48.5, 60.0)),
}


def lic() -> Recipe:
    """LIC for images of any size, with a ConvNet as the observer.

    The 4 x IPC images of each class that the observer labels best, of 300 random ones, are squeezed four to a canvas;
    200 steps of AdamW then restore the observer's deep features of every image; each region of a canvas is labelled by
    the observer. Evaluate with protocol `lic`.

    Command: attar distill PHOTOS --recipe lic --budget 10ipc

    Source: LIC, sections 2 and 3.1, Algorithm 1; what the paper leaves open, as in its successor's code (LINs-lab/CIM
        at ea71377): AdamW at 0.01 of pixels in [0, 1], augmentation, tiles with probability 0.75.
    Deviation: squared distances (Eq. 8), CIM's code takes absolute ones; labels of 300 epochs are stored, CIM asks the
        observer online. Items are normalised pixels, so that the rate is divided by a standard deviation (0.25), and
        nothing decays: the code's decay acts on the residual, here it would pull images to the mean colour. Canvases
        stay in the valid range. Crops take half of a tile or more: the paper names no scale.
    """
    return _recipe("lic", "LIC: selected, squeezed, compensated, relabelled", CONVNET)


def lic_published(name: str) -> Recipe:
    """LIC for a data set and an observer of its tables; settings of `lic`.

    | 1 / 10 / 50 IPC | ConvNet | ResNet-18 |
    |---|---|---|
    | CIFAR-10 | 51.7 / 72.2 / 78.3 | 40.7 / 80.9 / 89.2 |
    | CIFAR-100 | 42.7 / 54.8 / 56.6 | 48.1 / 64.7 / 67.6 |
    | Tiny-ImageNet | 31.7 / 46.3 / 47.4 | 36.5 / 51.7 / 55.8 |
    | ImageNet-10 | 39.7 / 71.5 / 81.1 | 43.9 / 76.3 / 85.8 |
    | ImageNet-100 | 17.8 / 50.2 / 64.3 | 20.8 / 65.0 / 79.8 |
    | ImageNet-1K | 14.5 / 24.0 / 39.1 | 6.8 / 48.5 / 60.0 |

    Command: attar distill CIFAR10 --recipe lic-cifar10-convnet --budget 10ipc

    Source: LIC, Table 1 and Table 5 (ImageNet-10 and -100). Table 5 prints 37.3 where Table 1 has 39.1 (ImageNet-1K,
        ConvNet, 50 IPC). The successor's table lists 25.1 for Tiny-ImageNet, ResNet-18, 1 IPC, where LIC printed 36.5.
    """
    row = LIC[name]
    source = "LIC, Table 5" if row.data in ("ImageNet-10", "ImageNet-100") else "LIC, Table 1"
    made = _recipe(name, f"LIC: {row.data}, {row.network.kind}", row.network)
    return made.model_copy(update={"image_size": row.image_size, "budget": "10ipc", "expected": row.expected(source)})


def random_regions() -> Recipe:
    """Random real images under region labels: what labels alone are worth.

    Command: attar distill PHOTOS --recipe random-regions --budget 10ipc

    Source: Qin et al. 2024, who label random images as SRe2L labels its own.
    """
    return Recipe(
        name="random-regions",
        title="random real images with an observer's labels of their regions",
        codec=PixelsConfig(),
        labels=RegionLabels(scale=(0.5, 1.0), augmentation=DsaConfig()),
        observer=ObserverConfig(network=CONVNET),
        evaluation_network=CONVNET,
        budget="10ipc",
        citations=("fkd",),
    )


def _recipe(name: str, title: str, network: NetworkConfig) -> Recipe:
    return Recipe(
        name=name,
        title=title,
        codec=PixelsConfig(),
        initialization=KeySamplesConfig(),
        parameterization=MosaicConfig(),
        objective=AlignmentConfig(),
        labels=RegionLabels(tile_probability=0.75, scale=(0.5, 1.0), augmentation=DsaConfig()),
        observer=ObserverConfig(network=network),
        optimizer=OptimizerConfig(kind="adamw", learning_rate=RATE / STD, valid_range=True),
        steps=STEPS,
        evaluation_network=network,
        citations=("lic", "fkd", "rded"),
    )
