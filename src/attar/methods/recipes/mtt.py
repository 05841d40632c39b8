"""Trajectories matched in pixel space: MTT (Cazenavette et al. 2022), TESLA, FTD and DATM.

The tables hold the official commands' numbers, start epochs included; the builders turn them into configs. The official
code draws a start below `max_start`, so the latest start here is one less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from attar.data.augmentation import DsaConfig
from attar.methods.labels import HardLabels, SoftLabels
from attar.methods.objectives.trajectories import TrajectoriesConfig
from attar.methods.recipes.dc import BENCHMARKS, Benchmark, expected
from attar.methods.recipes.recipe import OptimizerConfig, Recipe
from attar.models.codecs.pixels import PixelsConfig
from attar.models.experts.config import ExpertsConfig
from attar.models.networks.network import NetworkConfig

_PAD = "the figure in PAD's README"
_LD3M = "LD3M Table 1, mean of AlexNet, VGG-11, ResNet-18, ViT"
_FTD_TABLE_2 = "MTT's paper, as in FTD Table 2"
_AUTOPALETTE = "MTT's paper, as in AutoPalette Table 2"

_EXPERTS = ExpertsConfig()


@dataclass(frozen=True)
class _Row:
    """An official command: N, M, max_start, the items' rate, the rate's rate, the student's rate, and what differs.

    A label_rate makes labels soft; 0 keeps them as the expert gave them.
    """

    benchmark: str
    images_per_class: int
    accuracy: float | None
    student_steps: int
    expert_epochs: int
    max_start: int
    rate: float
    rate_rate: float
    student_rate: float = 0.01
    zca: bool = False
    batch: int | None = None
    average: float = 0.0
    min_start: int = 0
    initial_max_start: int | None = None
    growth_steps: int = 0
    label_rate: float | None = None
    source: str = _PAD


@dataclass(frozen=True)
class _Method:
    """What all rows of a method share."""

    title: str
    citations: tuple[str, ...]
    steps: int = 5000
    experts: ExpertsConfig = _EXPERTS
    gradient: Literal["adjoint", "tesla"] = "adjoint"


MTT = {
    "mtt-cifar10-ipc1": _Row("cifar10", 1, 46.2, 50, 2, 2, 100, 1e-7, zca=True),
    "mtt-cifar10-ipc10": _Row("cifar10", 10, 65.4, 30, 2, 20, 100, 1e-5, 0.001, zca=True),
    "mtt-cifar10-ipc50": _Row("cifar10", 50, 71.6, 30, 2, 40, 1000, 1e-5, 0.001),
    "mtt-cifar100-ipc1": _Row("cifar100", 1, 24.3, 20, 3, 20, 1000, 1e-5, zca=True),
    "mtt-cifar100-ipc10": _Row("cifar100", 10, 39.7, 20, 2, 20, 1000, 1e-5),
    "mtt-cifar100-ipc50": _Row("cifar100", 50, 47.7, 80, 2, 40, 1000, 1e-5, zca=True, batch=125),
    "mtt-tiny-ipc1": _Row("tiny", 1, 8.8, 10, 2, 10, 10_000, 1e-4),
    "mtt-tiny-ipc10": _Row("tiny", 10, 23.2, 20, 2, 40, 10_000, 1e-4, batch=200),
    "mtt-tiny-ipc50": _Row("tiny", 50, 28.0, 20, 2, 40, 10_000, 1e-4, batch=300),
}

# Name -> subset, images per class, accuracy or None, its source.
MTT_IMAGENET: dict[str, tuple[str, int, float | None, str]] = {
    "mtt-nette-128-ipc1": ("ImageNette", 1, 47.7, _FTD_TABLE_2),
    "mtt-nette-128-ipc10": ("ImageNette", 10, 63.0, _FTD_TABLE_2),
    "mtt-woof-128-ipc1": ("ImageWoof", 1, 28.6, _FTD_TABLE_2),
    "mtt-woof-128-ipc10": ("ImageWoof", 10, 35.8, _FTD_TABLE_2),
    "mtt-fruit-128-ipc1": ("ImageFruit", 1, 26.6, _FTD_TABLE_2),
    "mtt-fruit-128-ipc10": ("ImageFruit", 10, 40.3, _FTD_TABLE_2),
    "mtt-cat-128-ipc1": ("ImageMeow", 1, 30.7, _FTD_TABLE_2),
    "mtt-cat-128-ipc10": ("ImageMeow", 10, 40.4, _FTD_TABLE_2),
    "mtt-bird-128-ipc1": ("ImageSquawk", 1, None, ""),
    "mtt-bird-128-ipc10": ("ImageSquawk", 10, 52.3, _AUTOPALETTE),
    "mtt-yellow-128-ipc1": ("ImageYellow", 1, None, ""),
    "mtt-yellow-128-ipc10": ("ImageYellow", 10, 60.0, _AUTOPALETTE),
    "mtt-imagenet-a-128-ipc1": ("ImageNet-A", 1, 33.4, _LD3M),
    "mtt-imagenet-b-128-ipc1": ("ImageNet-B", 1, 34.0, _LD3M),
    "mtt-imagenet-c-128-ipc1": ("ImageNet-C", 1, 31.4, _LD3M),
    "mtt-imagenet-d-128-ipc1": ("ImageNet-D", 1, 27.7, _LD3M),
    "mtt-imagenet-e-128-ipc1": ("ImageNet-E", 1, 24.9, _LD3M),
}

_TESLA = "TESLA's paper, as in PAD Table 1"
_DELT = "TESLA's paper, as in DELT Table 2"

# README commands: cifar10-ipc1, cifar100-ipc50, imagenet1k-ipc1. The other rows are MTT's of the same name. Rates of
# README commands are halved: the official code loses the factor 2 of the squared distance.
TESLA = {
    "tesla-cifar10-ipc1": _Row("cifar10", 1, 48.5, 50, 2, 5, 500, 1e-7, source=_TESLA),
    "tesla-cifar10-ipc10": _Row("cifar10", 10, 66.4, 30, 2, 20, 100, 1e-5, 0.001, zca=True, source=_TESLA),
    "tesla-cifar10-ipc50": _Row("cifar10", 50, 72.6, 30, 2, 40, 1000, 1e-5, 0.001, source=_TESLA),
    "tesla-cifar100-ipc1": _Row("cifar100", 1, 24.8, 20, 3, 20, 1000, 1e-5, zca=True, source=_TESLA),
    "tesla-cifar100-ipc10": _Row("cifar100", 10, 41.7, 20, 2, 20, 1000, 1e-5, source=_TESLA),
    "tesla-cifar100-ipc50": _Row("cifar100", 50, 47.9, 80, 2, 40, 500, 1e-5, zca=True, batch=125, source=_TESLA),
    "tesla-imagenet1k-ipc1": _Row("imagenet1k", 1, 7.7, 10, 3, 10, 5000, 1e-4, batch=100, label_rate=0.0, source=_DELT),
}

_FTD = "FTD Table 1"

# Official commands: cifar10-ipc10 and cifar100-ipc10; tiny-ipc10 is DATM's run of FTD. The other rows are MTT's of the
# same name with FTD's average.
FTD = {
    "ftd-cifar10-ipc1": _Row("cifar10", 1, 46.8, 50, 2, 2, 100, 1e-7, zca=True, average=0.9995, source=_FTD),
    "ftd-cifar10-ipc10": _Row("cifar10", 10, 66.6, 30, 2, 20, 100, 1e-5, 0.001, zca=True, average=0.9995, source=_FTD),
    "ftd-cifar10-ipc50": _Row("cifar10", 50, 73.8, 30, 2, 40, 1000, 1e-5, 0.001, average=0.9995, source=_FTD),
    "ftd-cifar100-ipc1": _Row("cifar100", 1, 25.2, 20, 3, 20, 1000, 1e-5, zca=True, average=0.9995, source=_FTD),
    "ftd-cifar100-ipc10": _Row("cifar100", 10, 43.4, 20, 2, 40, 1000, 1e-5, zca=True, average=0.9995, source=_FTD),
    "ftd-cifar100-ipc50": _Row(
        "cifar100", 50, 50.7, 80, 2, 40, 1000, 1e-5, zca=True, batch=125, average=0.9995, source=_FTD
    ),
    "ftd-tiny-ipc1": _Row("tiny", 1, 10.4, 10, 2, 10, 10_000, 1e-4, average=0.999, source=_FTD),
    "ftd-tiny-ipc10": _Row("tiny", 10, 24.5, 20, 2, 40, 10_000, 1e-4, zca=True, batch=500, average=0.999, source=_FTD),
    "ftd-tiny-ipc50": _Row("tiny", 50, None, 20, 2, 40, 10_000, 1e-4, batch=300, average=0.999),
}

DATM = {
    "datm-cifar10-ipc1": _Row("cifar10", 1, 46.9, 80, 2, 4, 100, 1e-7, zca=True, label_rate=5.0),
    "datm-cifar10-ipc10": _Row(
        "cifar10", 10, 66.8, 80, 2, 20, 100, 1e-5, initial_max_start=10, growth_steps=1000, zca=True, label_rate=2.0
    ),
    "datm-cifar10-ipc50": _Row(
        "cifar10", 50, 76.1, 80, 2, 40, 1000, 1e-5, initial_max_start=20, growth_steps=2000, zca=True, label_rate=2.0
    ),
    "datm-cifar100-ipc1": _Row(
        "cifar100", 1, 27.9, 40, 3, 20, 1000, 1e-5, initial_max_start=10, growth_steps=1000, zca=True, label_rate=10.0
    ),
    "datm-cifar100-ipc10": _Row(
        "cifar100", 10, 47.2, 80, 2, 50, 1000, 1e-5, initial_max_start=30, growth_steps=2000, zca=True, label_rate=10.0
    ),
    "datm-cifar100-ipc50": _Row(
        "cifar100", 50, 55.0, 80, 2, 70, 1000, 1e-5, batch=1000, min_start=20, zca=True, label_rate=10.0
    ),
    "datm-tiny-ipc1": _Row(
        "tiny", 1, 17.1, 40, 2, 20, 10_000, 1e-4, initial_max_start=15, growth_steps=2000, zca=True, label_rate=10.0
    ),
    "datm-tiny-ipc10": _Row("tiny", 10, 31.1, 40, 2, 50, 100, 1e-4, batch=500, min_start=10, zca=True, label_rate=10.0),
    "datm-tiny-ipc50": _Row(
        "tiny", 50, 39.7, 20, 2, 70, 100, 1e-4, batch=1000, min_start=40, zca=True, label_rate=10.0
    ),
}


def mtt(name: str) -> Recipe:
    """MTT with the settings its author gave to DC-Bench.

    5000 steps, momentum 0.5, 100 experts of 50 epochs (rate 0.01, no momentum, no decay), DSA. Student steps N, expert
    epochs M, latest start, rates, ZCA and batch differ from row to row: `attar recipes NAME` shows them.

    | data | 1 IPC | 10 IPC | 50 IPC |
    |---|---|---|---|
    | CIFAR-10 | 46.2 | 65.4 | 71.6 |
    | CIFAR-100 | 24.3 | 39.7 | 47.7 |
    | Tiny-ImageNet | 8.8 | 23.2 | 28.0 |

    Command: attar distill CIFAR10 --recipe mtt-cifar10-ipc10

    Source: justincui03/dc_benchmark, methods/tm/readme.md ("all the sota parameters are provided by the author");
        distill.py and buffer.py of GeorgeCazenavette/mtt-distillation.
    Deviation: CIFAR-10 at 10 IPC has rate 100, as DC-Bench; the table of MTT's README explodes there and its author
        calls it a typo (mtt-distillation#31). Tiny-ImageNet has a ConvNet of depth 4 throughout; the commands name it
        at 50 IPC alone. The latest start is one less than `max_start_epoch`, which the official code never draws.
        Scores are of the last step; the published ones are of the best checkpoint by test accuracy.
    """
    return _recipe(name, MTT[name], _MTT_METHOD, BENCHMARKS[MTT[name].benchmark])


def mtt_imagenet(name: str) -> Recipe:
    """MTT on a subset of ImageNet at 128 pixels, as its README has it.

    5000 steps, 20 student steps, 2 expert epochs, starts 0 to 9, rates 1000 and 1e-6, ConvNet-5, no ZCA; at 10 images
    per class batches of 20.

    | 1 and 10 IPC | Nette | Woof | Fruit | Cat (Meow) | Bird (Squawk) | Yellow |
    |---|---|---|---|---|---|---|
    | ConvNet-5 | 47.7, 63.0 | 28.6, 35.8 | 26.6, 40.3 | 30.7, 40.4 | -, 52.3 | -, 60.0 |

    | 1 IPC | A | B | C | D | E |
    |---|---|---|---|---|---|
    | four unseen networks | 33.4 | 34.0 | 31.4 | 27.7 | 24.9 |

    Command: attar distill IMAGENET --classes fruit --image-size 128 --resize crop --recipe mtt-fruit-128-ipc1

    Source: README of GeorgeCazenavette/mtt-distillation (imagefruit at 128); batches at 10 IPC: mtt-distillation#1. The
        sources do not agree on the images' rate: 1000 in the README, 100,000 in mtt-distillation#1, 10,000 in the FTD
        authors' copy of MTT's settings (FTD-distillation#3).
    Deviation: the latest start is one less than `max_start_epoch`, which the official code never draws. ImageNet-A to
        -E were first distilled by GLaD; the figures are those of LD3M's Table 1, of networks unseen in distilling.
    """
    data, ipc, accuracy, source = MTT_IMAGENET[name]
    row = _Row("", ipc, accuracy, 20, 2, 10, 1000, 1e-6, batch=20 if ipc == 10 else None, source=source)
    return _recipe(name, row, _MTT_METHOD, Benchmark(f"{data} 128 px", 10, 128, 5))


def tesla(name: str) -> Recipe:
    """TESLA: MTT with gradients that leave out the Hessian, in constant memory.

    10,000 steps, momentum 0.5, experts as MTT's (50 of them for ImageNet-1K), DSA. Labels are hard; those of
    ImageNet-1K are an expert's.

    | data | 1 IPC | 10 IPC | 50 IPC |
    |---|---|---|---|
    | CIFAR-10 | 48.5 | 66.4 | 72.6 |
    | CIFAR-100 | 24.8 | 41.7 | 47.9 |
    | ImageNet-1K, 64 px | 7.7 | | |

    Command: attar distill CIFAR10 --recipe tesla-cifar10-ipc1

    Source: justincui03/tesla at 488842e: README (CIFAR-10 at 1, CIFAR-100 at 50, ImageNet-1K at 1 IPC), distill.py. The
        other rows are MTT's settings: the authors give none.
    Deviation: README rates are halved, as the official code computes half of its gradient (it doubles a tuple, not the
        tensor in it). CIFAR has hard labels, as in the README's commands: the official `--teacher_label` fails there.
        Soft labels of ImageNet-1K are those of the first expert for the initial images; the official code computes them
        anew in every step. MTT's exact gradient at the same memory: objective.gradient=adjoint.
    """
    row = TESLA[name]
    method = _Method(
        "TESLA: trajectories in constant memory",
        ("tesla", "mtt", "dsa"),
        steps=10_000,
        experts=ExpertsConfig(count=50 if row.benchmark == "imagenet1k" else 100),
        gradient="tesla",
    )
    return _recipe(name, row, method, BENCHMARKS[row.benchmark])


def ftd(name: str) -> Recipe:
    """FTD: MTT on flat experts, and the average of the images over the steps.

    Experts are trained by sharpness-aware minimisation of radius 0.01; the result is the exponential average of the
    images. 5000 steps; 10,000 on Tiny-ImageNet.

    | data | 1 IPC | 10 IPC | 50 IPC |
    |---|---|---|---|
    | CIFAR-10 | 46.8 | 66.6 | 73.8 |
    | CIFAR-100 | 25.2 | 43.4 | 50.7 |
    | Tiny-ImageNet | 10.4 | 24.5 | - |

    Command: attar distill CIFAR10 --recipe ftd-cifar10-ipc10

    Source: AngusDujw/FTD-distillation: README (rho), distill/run_distill.sh (10 IPC of CIFAR-10 and CIFAR-100);
        Tiny-ImageNet at 10 IPC: the run of FTD in NUS-HPC-AI-Lab/DATM, distill/run_distill.sh. The other rows are MTT's
        settings: the official table of them is a picture.
    Deviation: the experts' step is that of the sharpness-aware gradient alone; the official code mixes it with the
        plain one (alpha 0.3 on CIFAR). The latest start is one less than `max_start_epoch`, as in MTT.
    """
    row = FTD[name]
    method = _Method(
        "FTD: flat trajectories in pixel space",
        ("ftd", "mtt", "dsa"),
        steps=10_000 if row.benchmark == "tiny" else 5000,
        experts=ExpertsConfig(flat_radius=0.01),
    )
    return _recipe(name, row, method, BENCHMARKS[row.benchmark])


def datm(name: str) -> Recipe:
    """DATM: starts that suit the number of images, growing while it runs, and soft labels learned with the images.

    10,000 steps on ZCA-whitened images; experts as FTD's, of 50 epochs on CIFAR-10 and 100 elsewhere; labels start as
    an expert's logits and learn with momentum 0.9.

    | data | 1 IPC | 10 IPC | 50 IPC |
    |---|---|---|---|
    | CIFAR-10 | 46.9 | 66.8 | 76.1 |
    | CIFAR-100 | 27.9 | 47.2 | 55.0 |
    | Tiny-ImageNet | 17.1 | 31.1 | 39.7 |

    Command: attar distill CIFAR10 --recipe datm-cifar10-ipc50

    Source: NUS-HPC-AI-Lab/DATM: configs/*/ConvIN, utils/cfg.py, distill/DATM.py, buffer/run_buffer.sh; 100 epochs on
        Tiny-ImageNet: DATM#4. CIFAR-100's latest starts lie beyond 50 epochs at 10 and 50 IPC.
    Deviation: CIFAR-100 at 1 IPC grows from 10 to 20, as the paper and not as the config (20 to 30): the author asks
        to follow the paper (DATM#7). The configs' `ema_decay` has no effect in distill/DATM.py and is left out. Images
        start as random real ones, not as ones an expert classifies rightly; steps whose loss is above the configs'
        threshold are not skipped. The latest starts are one less than the configs', as in MTT.
    """
    row = DATM[name]
    method = _Method(
        "DATM: trajectories aligned in difficulty, soft labels",
        ("datm", "ftd", "mtt", "dsa"),
        steps=10_000,
        experts=ExpertsConfig(flat_radius=0.01, epochs=50 if row.benchmark == "cifar10" else 100),
    )
    return _recipe(name, row, method, BENCHMARKS[row.benchmark])


_MTT_METHOD = _Method("MTT: trajectories in pixel space", ("mtt", "dsa"))


def _recipe(name: str, row: _Row, method: _Method, benchmark: Benchmark) -> Recipe:
    network = NetworkConfig(depth=benchmark.depth)
    return Recipe(
        name=name,
        title=f"{method.title}, {benchmark.title}, {row.images_per_class} IPC",
        codec=PixelsConfig(whitening="zca" if row.zca else "normalise"),
        objective=TrajectoriesConfig(
            network=network,
            experts=method.experts,
            expert_epochs=row.expert_epochs,
            student_steps=row.student_steps,
            min_start_epoch=row.min_start,
            max_start_epoch=row.max_start - 1,
            growth_steps=row.growth_steps,
            initial_max_start_epoch=None if row.initial_max_start is None else row.initial_max_start - 1,
            student_batch_size=row.batch,
            student_rate=row.student_rate,
            student_rate_learning_rate=row.rate_rate,
            gradient=method.gradient,
            augmentation=DsaConfig(),
        ),
        labels=HardLabels() if row.label_rate is None else SoftLabels(initial="expert", learning_rate=row.label_rate),
        optimizer=OptimizerConfig(learning_rate=row.rate, momentum=0.5, average=row.average),
        steps=method.steps,
        evaluation_network=network,
        image_size=benchmark.image_size,
        budget=f"{row.images_per_class}ipc",
        citations=method.citations,
        expected=expected(benchmark.title, row.images_per_class, row.accuracy, row.source),
    )
