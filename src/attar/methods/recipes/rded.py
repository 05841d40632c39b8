"""RDED (Sun et al. 2024): the crops that an observer knows best, put together and relabelled, and not trained."""

from __future__ import annotations

from attar.methods.initialization import KeySamplesConfig
from attar.methods.labels.regions import RegionLabels
from attar.methods.parameterizations.mosaic import MosaicConfig
from attar.methods.recipes.lic import RESNET18, RESNET18_224, Figures, convnet
from attar.methods.recipes.recipe import Recipe
from attar.models.codecs.pixels import PixelsConfig
from attar.models.observers.config import ObserverConfig

# LIC Table 5, which reprints RDED's figures.
RDED = {
    "rded-cifar10-convnet": Figures("CIFAR-10", convnet(3), 32, (23.5, 50.2, 68.4)),
    "rded-cifar10-resnet18": Figures("CIFAR-10", RESNET18, 32, (22.9, 37.1, 62.1)),
    "rded-cifar100-convnet": Figures("CIFAR-100", convnet(3), 32, (19.6, 48.1, 57.0)),
    "rded-cifar100-resnet18": Figures("CIFAR-100", RESNET18, 32, (11.0, 42.6, 62.6)),
    "rded-tiny-convnet": Figures("Tiny-ImageNet", convnet(4), 64, (12.0, 39.6, 47.6)),
    "rded-tiny-resnet18": Figures("Tiny-ImageNet", RESNET18, 64, (9.7, 41.9, 58.2)),
    "rded-imagenet10-resnet18": Figures("ImageNet-10", RESNET18_224, 224, (24.9, 53.3, 75.5)),
    "rded-imagenet100-convnet": Figures("ImageNet-100", convnet(6), 224, (7.1, 29.6, 50.2)),
    "rded-imagenet100-resnet18": Figures("ImageNet-100", RESNET18_224, 224, (8.1, 36.0, 61.6)),
    "rded-imagenet1k-resnet18": Figures("ImageNet-1K", RESNET18_224, 224, (6.6, 42.0, 56.5)),
}


def rded(name: str) -> Recipe:
    """RDED: of 300 random images of each class and 5 crops of each, the ones with the lowest loss.

    One crop makes an image up to 64 pixels, four share a canvas of ImageNet. Regions are mixed by CutMix and labelled
    by the observer for 300 epochs. Evaluate with protocol `rded`.

    | 1 / 10 / 50 IPC | ConvNet | ResNet-18 |
    |---|---|---|
    | CIFAR-10 | 23.5 / 50.2 / 68.4 | 22.9 / 37.1 / 62.1 |
    | CIFAR-100 | 19.6 / 48.1 / 57.0 | 11.0 / 42.6 / 62.6 |
    | Tiny-ImageNet | 12.0 / 39.6 / 47.6 | 9.7 / 41.9 / 58.2 |
    | ImageNet-10 | - | 24.9 / 53.3 / 75.5 |
    | ImageNet-100 | 7.1 / 29.6 / 50.2 | 8.1 / 36.0 / 61.6 |
    | ImageNet-1K | - | 6.6 / 42.0 / 56.5 |

    Command: attar distill CIFAR10 --recipe rded-cifar10-convnet --budget 10ipc

    Source: LINs-lab/RDED at 3f6453d: scripts, argument.py, synthesize/; figures: LIC, Table 5.
    Deviation: see `key_samples` for ranks and crops; the official code asks the observer online, here its labels of 300
        epochs are stored; JPEG, which the official code stores canvases in, is not applied.
    """
    row = RDED[name]
    grid = 2 if row.image_size > 64 else 1
    return Recipe(
        name=name,
        title=f"RDED: {row.data}, {row.network.kind}",
        codec=PixelsConfig(),
        initialization=KeySamplesConfig(crops=5),
        parameterization=MosaicConfig(grid=grid),
        labels=RegionLabels(scale=(0.08, 1.0), mix="cutmix"),
        observer=ObserverConfig(network=row.network),
        evaluation_network=row.network,
        image_size=row.image_size,
        budget="10ipc",
        citations=("rded", "fkd"),
        expected=row.expected("LIC, Table 5"),
    )
