"""Gradient matching: looped, vectorised and literal, in one process; and LatentDC against DC at equal bytes.

`python bench/gradients.py [--json OUT] [--only ways spaces] [--small]`. One matching of 10 classes is timed, without
augmentation and without the network's training; runs alternate, medians are printed. Images are random and of
CIFAR-10's shape. An image takes the bytes of 12 codes of 4 x 8 x 8.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from attar.base.process import prepare_process

prepare_process()

import torch
import torch.nn.functional as F
from bench.reporting import run_benches
from bench.run import Run, cifar_shaped, median_seconds
from tests.reference.gradients import literal_matching
from torch import Tensor

from attar.base.randomness import generator
from attar.methods.labels import class_major_labels
from attar.methods.objectives.gradients import Gradients, GradientsConfig, cosine_distance
from attar.methods.objectives.objective import Context
from attar.methods.parameterizations.codes import Codes
from attar.models.codecs.pca import PcaConfig
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import fit_codec
from attar.models.networks.network import NetworkConfig
from attar.models.networks.registry import build_network
from attar.models.real_items import RealItems

CODES_PER_IMAGE = 12
BUDGETS = {"1 ipc": 1, "10 ipc": 10}


class Setting(NamedTuple):
    """What all runs of a table share."""

    device: torch.device
    width: int
    real_batch: int


class Space(NamedTuple):
    """Synthetic and real items in one space, and the objective's settings there."""

    synthetic: Codes
    real: RealItems
    config: GradientsConfig


def pixel_space(images_per_class: int, setting: Setting) -> Space:
    """DC: normalised images, ConvNet-3, cosine distance of weights."""
    train = cifar_shaped()
    codec = fit_codec(PixelsConfig(), train).to(setting.device)
    images = torch.randn(10 * images_per_class, *codec.code_shape, generator=generator(0, "items"))
    synthetic = Codes(codec, images, class_major_labels(10, images_per_class)).to(setting.device)
    real = RealItems(train.labels, 10, images=train, codec=codec, device=setting.device)
    return Space(synthetic, real, _config(3, setting, distance="cosine", matched="weights"))


def code_space(images_per_class: int, setting: Setting) -> Space:
    """LatentDC: patch-PCA codes in the bytes of the images, ConvNet-2, squared distance of convolutions."""
    train = cifar_shaped()
    codec = fit_codec(PcaConfig(), train)
    count = CODES_PER_IMAGE * images_per_class
    codes = torch.randn(10 * count, *codec.code_shape, generator=generator(0, "items"))
    synthetic = Codes(codec, codes, class_major_labels(10, count)).to(setting.device)
    held = torch.randn(len(train.labels), *codec.code_shape, generator=generator(0, "real"))
    real = RealItems(train.labels, 10, codes=held, device=setting.device)
    return Space(synthetic, real, _config(2, setting, distance="mse", matched="convolutions"))


def matching(space: Space, setting: Setting, way: str = "auto") -> Run:
    """One step of attar's objective, whose network stays as it was drawn in the first."""
    config = space.config.model_copy(update={"per_class": way})
    objective = Gradients(config, Context(space.real.shape, 10, setting.device))
    counter = iter(range(10**9))

    def step() -> None:
        objective.accumulate(space.synthetic, space.real, generator(0, "step", next(counter)))
        space.synthetic.codes.grad = None

    return step


def literal(space: Space, setting: Setting) -> Run:
    """The reference loop: each class's gradient with create_graph, one backward pass through all.

    Distances are attar's, which take all rows of a parameter at once, as DC's official code does.
    """
    network = build_network(space.config.network, space.real.shape, 10).to(setting.device)
    labels = space.synthetic.labels
    items = space.synthetic.codes.detach().clone().requires_grad_()
    counter = iter(range(10**9))

    def distance(one: Tensor, two: Tensor) -> Tensor:
        return cosine_distance(one, two) if one.ndim > 1 else one.new_zeros(())

    def step() -> None:
        indices, classes = space.real.class_batches(setting.real_batch, generator(0, "step", next(counter)))
        real = [space.real.gather(indices[classes == index]) for index in range(10)]
        own = [items[labels == index] for index in range(10)]
        targets = [F.one_hot(labels[labels == index], 10).float() for index in range(10)]
        with setting.device:  # the reference makes its labels on the default device
            literal_matching(network, real, own, targets, distance).backward()
        items.grad = None

    return step


def bench_ways(options: argparse.Namespace) -> dict[str, Any]:
    """A matching of DC, class by class, all classes at once, and literally."""
    setting = Setting(torch.device(options.device), *((16, 16) if options.small else (128, 256)))
    found = {}
    for name, images_per_class in BUDGETS.items():
        space = pixel_space(images_per_class, setting)
        runs = {way: matching(space, setting, way) for way in ("looped", "vectorised")}
        runs["literal"] = literal(space, setting)
        seconds = median_seconds(runs, options.repeats, setting.device)
        found[name] = {
            "seconds": seconds,
            "literal against looped": seconds["literal"] / seconds["looped"],
            "looped against vectorised": seconds["looped"] / seconds["vectorised"],
        }
        print(name, json.dumps(found[name]))
    return found


def bench_spaces(options: argparse.Namespace) -> dict[str, Any]:
    """A matching of DC and one of LatentDC, with the same numbers of real items."""
    found = {}
    for real_batch in (8, 16) if options.small else (64, 256):
        setting = Setting(torch.device(options.device), 16 if options.small else 128, real_batch)
        for name, images_per_class in BUDGETS.items():
            spaces = {"DC": pixel_space(images_per_class, setting), "LatentDC": code_space(images_per_class, setting)}
            runs = {method: matching(space, setting) for method, space in spaces.items()}
            seconds = median_seconds(runs, options.repeats, setting.device)
            case = f"{name}, {real_batch} real"
            found[case] = {"seconds": seconds, "DC against LatentDC": seconds["DC"] / seconds["LatentDC"]}
            print(case, json.dumps(found[case]))
    return found


BENCHES = {"ways": bench_ways, "spaces": bench_spaces}


def main() -> None:
    """Run the benches that are asked for."""
    run_benches(BENCHES, __doc__, repeats=3, small="seconds instead of minutes: width 16, few real items")


def _config(depth: int, setting: Setting, **settings: Any) -> GradientsConfig:
    network = NetworkConfig(depth=depth, width=setting.width)
    batch = setting.real_batch
    return GradientsConfig(network=network, real_batch_size=batch, outer_steps=10**9, inner_steps=0, **settings)


if __name__ == "__main__":
    main()
