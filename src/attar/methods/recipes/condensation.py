"""Dataset condensation in pixel space: DC (Zhao et al. 2021), DSA, DM (Zhao & Bilen 2021, 2023), IDC (Kim et al. 2022).

DC, DSA and IDC match gradients class by class, IDC those of images that lie four or nine to a canvas; DM matches mean
features of random networks.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from attar.data.augmentation import DsaConfig
from attar.methods.objectives.features import FeaturesConfig
from attar.methods.objectives.gradients import GradientsConfig
from attar.methods.parameterizations.codes import CodesConfig
from attar.methods.parameterizations.mosaic import MosaicConfig
from attar.methods.recipes.published import (
    ANY_IMAGES,
    BENCHMARKS,
    IPC,
    IPC_COLUMNS,
    by_ipc,
    data_and_ipc,
    expected,
    with_figures,
)
from attar.methods.recipes.recipe import OptimizerConfig, Recipe
from attar.models.codecs.pixels import PixelsConfig
from attar.models.networks.network import NetworkConfig

_DC = {"cifar10": (28.3, 44.9, 53.9), "cifar100": (12.8, 25.2, None), "tiny": (None, None, None)}
_DSA = {"cifar10": (28.8, 52.1, 60.6), "cifar100": (13.9, 32.3, None), "tiny": (None, None, None)}
_DM = {"CIFAR-10": (26.0, 48.9, 63.0), "CIFAR-100": (11.4, 29.7, 43.6), "Tiny-ImageNet": (3.9, 12.9, 24.1)}
DC = {"dc": None, **by_ipc("dc", _DC)}
DSA = {"dsa": None, **by_ipc("dsa", _DSA)}
IDC = {"idc": 67.5, "idc-imagenet10": 72.8, "idc-matching": 58.3, "idc-matching-imagenet10": 61.4}

OUTER_STEPS = {1: 1, 10: 10, 50: 50}
INNER_EPOCHS = {1: 1, 10: 50, 50: 10}


@with_figures(IPC_COLUMNS, _DC)
def dc(name: str) -> Recipe:
    """DC with its official settings: 1000 networks, each matched and trained on the synthetic images in turns.

    `dc` is for images of any size, with the loops of 1 IPC and a ConvNet as deep as the size asks for.

    Command: attar distill CIFAR10 --recipe dc-cifar10-ipc10

    Source: VICO-UoE/DatasetCondensation at 53f63a6: main.py, get_loops in utils.py, the README's tables. Tiny-ImageNet
        has no figure of the authors; its settings are their defaults with a ConvNet of depth 4.
    Deviation: official DC starts from noise; here from random real images, which the authors found to score alike.
    """
    return _dc(name, DC[name], "DC: gradients in pixel space", None, ("dc",))


@with_figures(IPC_COLUMNS, _DSA)
def dsa(name: str) -> Recipe:
    """DSA with its official settings: DC's, with siamese augmentation of matching and of the network's training.

    `dsa` is for images of any size, with the loops of 1 IPC.

    Command: attar distill CIFAR10 --recipe dsa-cifar10-ipc10

    Source: as DC.
    """
    return _dc(name, DSA[name], "DSA: gradients in pixel space, augmented", DsaConfig(), ("dc", "dsa"))


def _dc(
    name: str, accuracy: float | None, title: str, augmentation: DsaConfig | None, citations: tuple[str, ...]
) -> Recipe:
    data, ipc = data_and_ipc(name) if "-" in name else ("", 1)
    benchmark = BENCHMARKS.get(data, ANY_IMAGES)
    batch_size = 256
    batches_an_epoch = math.ceil(ipc * benchmark.num_classes / batch_size)  # the official inner loop counts epochs
    return Recipe(
        name=name,
        title=f"{title}, {benchmark.title}, {ipc} IPC",
        codec=PixelsConfig(),
        objective=GradientsConfig(
            network=benchmark.network,
            distance="cosine",
            matched="weights",
            real_batch_size=batch_size,
            outer_steps=OUTER_STEPS[ipc],
            inner_steps=INNER_EPOCHS[ipc] * batches_an_epoch,
            train_on="synthetic",
            train_batch_size=batch_size,
            learning_rate=0.01,
            augmentation=augmentation,
        ),
        optimizer=OptimizerConfig(learning_rate=0.1, momentum=0.5),
        steps=1000 * OUTER_STEPS[ipc],
        citations=citations,
        **benchmark.settings(f"{ipc}ipc", accuracy, "README of VICO-UoE/DatasetCondensation"),
    )


@with_figures(IPC_COLUMNS, _DM)
def dm() -> Recipe:
    """DM with its official settings for up to 50 images per class.

    Command: attar distill PHOTOS --recipe dm --budget 1ipc

    Source: the method's paper, Table 1, and its official main_DM.py.
    """
    figures = {
        (data, f"{ipc}ipc"): accuracy
        for data, accuracies in _DM.items()
        for ipc, accuracy in zip(IPC, accuracies, strict=True)
    }
    return Recipe(
        name="dm",
        title="DM: mean features in pixel space",
        codec=PixelsConfig(),
        objective=FeaturesConfig(real_batch_size=256, augmentation=DsaConfig()),
        optimizer=OptimizerConfig(learning_rate=1.0, momentum=0.5),
        steps=20_000,
        citations=("dm", "dsa"),
        expected=expected("Zhao & Bilen 2023, Table 1", figures),
    )


def dm_ipc100() -> Recipe:
    """DM with the rate its README gives from 100 images per class on: 10."""
    rate = OptimizerConfig(learning_rate=10.0, momentum=0.5)
    title = "DM for 100 images per class and more"
    return dm().model_copy(
        update={"name": "dm-ipc100", "title": title, "optimizer": rate, "budget": "100ipc", "expected": ()}
    )


class _IdcData(NamedTuple):
    """IDC's official settings of a data set; rate at 10 images per class, of pixels in [0, 1]."""

    title: str
    data: str
    image_size: int
    depth: int
    tiles: Literal["four", "nine"]
    lr_img: float
    pixel_std: float
    distance: Literal["mse", "l1"]
    networks: int
    images_between: int
    cutmix_probability: float
    images_before: int = 0


_IDC_CIFAR10 = _IdcData(
    title="CIFAR-10", data="CIFAR-10", image_size=32, depth=3, tiles="four", lr_img=0.005, pixel_std=0.25,
    distance="mse", networks=2000, images_between=2000, cutmix_probability=0.5,
)  # fmt: skip
_IDC_IMAGENET10 = _IdcData(
    title="ImageNet-10", data="ImageNet-10 224 px, ResNetAP-10", image_size=224, depth=6, tiles="nine", lr_img=0.003,
    pixel_std=0.226, distance="l1", networks=500, images_between=500, cutmix_probability=1.0, images_before=13_000,
)  # fmt: skip


@with_figures(["10 IPC"], {name: [accuracy] for name, accuracy in IDC.items()})
def idc(name: str) -> Recipe:
    """IDC on CIFAR-10, or on ImageNet-10 at 224 pixels: four or nine images in each canvas, enlarged to be matched.

    `idc-matching` and `idc-matching-imagenet10` have full images in place of canvases: what the authors call IDC-I.
    Networks train on real images in between. The rate is in proportion to the images per class.

    Command: attar distill CIFAR10 --recipe idc --budget 10ipc
             attar distill IN10 --classes imagenet-10 --image-size 224 --resize crop --recipe idc-imagenet10

    Source: snu-mllab/Efficient-Dataset-Condensation at ceac95a: misc/reproduce.py, argument.py, condense.py, train.py
        (`--reproduce -d cifar10`; `-d imagenet --nclass 10`; IDC-I: `-f 1`); the figures: its README.
    Deviation: IDC's rate moves pixels in [0, 1]; items here are normalised pixels, so that it is divided by their
        variance (0.25 squared; 0.226 squared). IDC clamps to [0, 1] and steps class by class. IDC's training of the
        network is augmented without cutout, but with CutMix; here both use the matching's augmentation. ConvNet-6 in
        place of ResNetAP-10, which is not here, so that the figures of ImageNet-10 are not these recipes'. Ten epochs
        are counted as of 13,000 images.
    """
    row = _IDC_IMAGENET10 if name.endswith("imagenet10") else _IDC_CIFAR10
    full_images, batch_size = "matching" in name, 64
    objective = GradientsConfig(
        network=NetworkConfig(depth=row.depth),
        distance=row.distance,
        matched="convolutions",
        real_batch_size=64,
        synthetic_batch_size=128,
        outer_steps=100,
        inner_steps=math.ceil(row.images_between / batch_size),
        train_on="real",
        train_batch_size=batch_size,
        learning_rate=0.01,
        momentum=0.9,
        weight_decay=5e-4,
        cutmix_probability=row.cutmix_probability,
        pretrain_steps=10 * math.ceil(row.images_before / batch_size),
        augmentation=DsaConfig(strategy="color_crop_cutout", mode="multiple"),
    )
    # IDC moves pixels x; items are z = x / std. As dz = dx / std and dL/dx = dL/dz / std, z moves at rate / std^2.
    rate_per_item = row.lr_img / 10 / row.pixel_std**2
    method = "IDC's matching on full images (IDC-I)" if full_images else f"IDC: gradients of {row.tiles} images in one"
    return Recipe(
        name=name,
        title=f"{method}, {row.title}",
        codec=PixelsConfig(),
        parameterization=CodesConfig() if full_images else MosaicConfig(grid={"four": 2, "nine": 3}[row.tiles]),
        objective=objective,
        optimizer=OptimizerConfig(learning_rate=rate_per_item, learning_rate_unit="per-item", momentum=0.5),
        steps=row.networks * objective.outer_steps,
        evaluation_network=objective.network,
        image_size=row.image_size,
        budget="10ipc",
        citations=("idc", "dsa"),
        expected=expected("IDC's README" + ", IDC-I" * full_images, {(row.data, "10ipc"): IDC[name]}),
    )
