"""DC (Zhao et al. 2021) and DSA (Zhao & Bilen 2021): gradients matched class by class in pixel space."""

from __future__ import annotations

import math
from typing import NamedTuple

from attar.data.augmentation import DsaConfig
from attar.methods.objectives.gradients import GradientsConfig
from attar.methods.recipes.recipe import Expected, OptimizerConfig, Recipe
from attar.models.codecs.pixels import PixelsConfig
from attar.models.networks.network import NetworkConfig


class Benchmark(NamedTuple):
    """A data set that published settings are for, and the depth of the ConvNet that the field uses on it."""

    title: str
    num_classes: int
    image_size: int | None
    depth: int | None


_TRAIN_BATCH = 256

BENCHMARKS = {
    "cifar10": Benchmark("CIFAR-10", 10, 32, 3),
    "cifar100": Benchmark("CIFAR-100", 100, 32, 3),
    "tiny": Benchmark("Tiny-ImageNet", 200, 64, 4),
    "imagenet1k": Benchmark("ImageNet-1K 64 px", 1000, 64, 4),
}

ANY = Benchmark("any images", _TRAIN_BATCH, None, None)
"""Images of any size in up to 256 classes, with a ConvNet as deep as they ask for."""


class _Row(NamedTuple):
    benchmark: str | None  # None for images of any size
    images_per_class: int
    accuracy: float | None  # of the official README; None where it has no figure


DC = {
    "dc": _Row(None, 1, None),
    "dc-cifar10-ipc1": _Row("cifar10", 1, 28.3),
    "dc-cifar10-ipc10": _Row("cifar10", 10, 44.9),
    "dc-cifar10-ipc50": _Row("cifar10", 50, 53.9),
    "dc-cifar100-ipc1": _Row("cifar100", 1, 12.8),
    "dc-cifar100-ipc10": _Row("cifar100", 10, 25.2),
    "dc-cifar100-ipc50": _Row("cifar100", 50, None),
    "dc-tiny-ipc1": _Row("tiny", 1, None),
    "dc-tiny-ipc10": _Row("tiny", 10, None),
    "dc-tiny-ipc50": _Row("tiny", 50, None),
}

DSA = {
    "dsa": _Row(None, 1, None),
    "dsa-cifar10-ipc1": _Row("cifar10", 1, 28.8),
    "dsa-cifar10-ipc10": _Row("cifar10", 10, 52.1),
    "dsa-cifar10-ipc50": _Row("cifar10", 50, 60.6),
    "dsa-cifar100-ipc1": _Row("cifar100", 1, 13.9),
    "dsa-cifar100-ipc10": _Row("cifar100", 10, 32.3),
    "dsa-cifar100-ipc50": _Row("cifar100", 50, None),
    "dsa-tiny-ipc1": _Row("tiny", 1, None),
    "dsa-tiny-ipc10": _Row("tiny", 10, None),
    "dsa-tiny-ipc50": _Row("tiny", 50, None),
}

ITERATIONS = 1000
OUTER_STEPS = {1: 1, 10: 10, 50: 50}
INNER_EPOCHS = {1: 1, 10: 50, 50: 10}


def dc(name: str) -> Recipe:
    """DC with its official settings.

    1000 networks, each matched M times and trained on the synthetic images in between: M 1, 10, 50 at 1, 10, 50 images
    per class, 1, 50, 10 epochs between two matchings. Images: rate 0.1, momentum 0.5. Network: ConvNet, rate 0.01,
    without momentum. 256 real images of each class, cosine distance of weights, no augmentation. `dc` is for images of
    any size, with the loops of 1 IPC and a ConvNet as deep as the size asks for.

    | data | 1 IPC | 10 IPC | 50 IPC |
    |---|---|---|---|
    | CIFAR-10 | 28.3 | 44.9 | 53.9 |
    | CIFAR-100 | 12.8 | 25.2 | - |

    Command: attar distill CIFAR10 --recipe dc-cifar10-ipc10

    Source: VICO-UoE/DatasetCondensation at 53f63a6: main.py, get_loops in utils.py, the README's tables. Tiny-ImageNet
        has no figure of the authors; its settings are their defaults with a ConvNet of depth 4.
    Deviation: official DC starts from noise; here from random real images, which the authors found to score alike.
    """
    return _recipe(name, DC[name], "DC: gradients in pixel space", None, ("dc",))


def dsa(name: str) -> Recipe:
    """DSA with its official settings: DC's, from real images, with siamese augmentation.

    Matching and the network's training are augmented. Everything else is as in DC: 1000 networks, M 1, 10, 50 matchings
    of each at 1, 10, 50 images per class. `dsa` is for images of any size, with the loops of 1 IPC.

    | data | 1 IPC | 10 IPC | 50 IPC |
    |---|---|---|---|
    | CIFAR-10 | 28.8 | 52.1 | 60.6 |
    | CIFAR-100 | 13.9 | 32.3 | - |

    Command: attar distill CIFAR10 --recipe dsa-cifar10-ipc10

    Source: VICO-UoE/DatasetCondensation at 53f63a6: main.py, get_loops in utils.py, the README's tables. Tiny-ImageNet
        has no figure of the authors; its settings are their defaults with a ConvNet of depth 4.
    """
    return _recipe(name, DSA[name], "DSA: gradients in pixel space, augmented", DsaConfig(), ("dc", "dsa"))


def _recipe(name: str, row: _Row, title: str, augmentation: DsaConfig | None, citations: tuple[str, ...]) -> Recipe:
    benchmark, ipc = BENCHMARKS[row.benchmark] if row.benchmark else ANY, row.images_per_class
    network = NetworkConfig(depth=benchmark.depth)
    batches = math.ceil(ipc * benchmark.num_classes / _TRAIN_BATCH)  # an epoch's; the official inner loop is epochs
    return Recipe(
        name=name,
        title=f"{title}, {benchmark.title}, {ipc} IPC",
        codec=PixelsConfig(),
        objective=GradientsConfig(
            network=network,
            distance="cosine",
            matched="weights",
            real_batch_size=256,
            outer_steps=OUTER_STEPS[ipc],
            inner_steps=INNER_EPOCHS[ipc] * batches,
            train_on="synthetic",
            train_batch_size=_TRAIN_BATCH,
            learning_rate=0.01,
            augmentation=augmentation,
        ),
        optimizer=OptimizerConfig(learning_rate=0.1, momentum=0.5),
        steps=ITERATIONS * OUTER_STEPS[ipc],
        evaluation_network=network,
        image_size=benchmark.image_size,
        budget=f"{ipc}ipc",
        citations=citations,
        expected=expected(benchmark.title, ipc, row.accuracy, "README of VICO-UoE/DatasetCondensation"),
    )


def expected(data: str, images_per_class: int, accuracy: float | None, source: str) -> tuple[Expected, ...]:
    """One published figure, or none."""
    if accuracy is None:
        return ()
    return (Expected(data=data, budget=f"{images_per_class}ipc", accuracy=accuracy, source=source),)
