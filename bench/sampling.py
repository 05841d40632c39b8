"""Sampling an epoch of D3's images against the training steps on them: `python bench/sampling.py [--json OUT]`.

An epoch has one sample of each prior, in batches of 256: two at 32 pixels, one at 64 and 128. Training is ConvNet of
width 128, depth 3, 4 and 5: forward, backward and SGD, without augmentation, in float32, in bfloat16, and as protocol
`d3` trains (its 2000 epochs decide: bfloat16 and compiled code where the device has them). Sampling is `Sampler` in the
precision of the training beside it, and before it `images` and the way back to network inputs, as `attar export` and
users' own loops have them. Runs alternate; medians. Operations are counted on shapes. Weights are random: times do not
depend on them.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).parents[1]))

from attar.base.process import prepare_process

prepare_process()

import torch
from bench.reporting import run_benches
from bench.run import Run, median_seconds
from torch.utils.flop_counter import FlopCounterMode

from attar.base.randomness import generator
from attar.data.image_set import ImageSet
from attar.evaluation.protocol import protocol
from attar.methods.parameterizations.decoders import DecoderConfig
from attar.methods.parameterizations.priors import Priors, PriorsConfig
from attar.models.codecs.codec import Codec
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import fit_codec
from attar.models.networks.network import NetworkConfig
from attar.models.networks.registry import build_network
from attar.models.training.acceleration import Acceleration, forward_flops, forward_function
from attar.models.training.loop import training_acceleration
from attar.sets.streaming import Sampler

BATCH = 256
TARGET = 0.15


@dataclass(frozen=True)
class Case:
    """What is sampled and trained on.

    Args:
        size: of the decoder.
        side: of the images, pixels.
        depth: of the ConvNet.
        num_batches: of an epoch.
        whitening: of the priors' pixels, and of network inputs.
    """

    size: Literal["S", "M", "L"]
    side: int
    depth: int
    num_batches: int = 1
    whitening: Literal["normalise", "zca"] = "normalise"


CASES = {
    "32 px, S": Case("S", 32, 3, 2),
    "32 px, S, ZCA": Case("S", 32, 3, 2, "zca"),
    "64 px, S": Case("S", 64, 4),
    "64 px, M": Case("M", 64, 4),
    "128 px, S": Case("S", 128, 5),
}


def priors_of(case: Case, batch: int, device: torch.device) -> tuple[Priors, Codec]:
    """Random priors of ten classes, about so many batches, and the codec of their pixels."""
    images = torch.randint(0, 256, (40, 3, case.side, case.side), generator=generator(0, "images"), dtype=torch.uint8)
    train = ImageSet(images, torch.arange(40) % 10, tuple(f"class {index}" for index in range(10)))
    codec = fit_codec(PixelsConfig(whitening=case.whitening), train)
    config = PriorsConfig(decoder=DecoderConfig(size=case.size))
    made = Priors.initial(config, codec, 10, -(-case.num_batches * batch // 10), generator(0, "priors"))
    return made.eval().requires_grad_(False).to(device), codec.to(device)


def training_of(case: Case, acceleration: Acceleration, inputs: torch.Tensor, batch: int, width: int) -> Run:
    """The steps of one epoch on these inputs."""
    network = build_network(NetworkConfig(depth=case.depth, width=width), tuple(inputs.shape[1:]), 10)
    network.to(inputs.device)
    forward = forward_function(network, acceleration)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    batches = inputs[: case.num_batches * batch].split(batch)
    labels = torch.arange(batch, device=inputs.device) % 10

    def epoch() -> None:
        for part in batches:
            optimizer.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(forward(part), labels).backward()
            optimizer.step()

    return epoch


def operations(case: Case, priors: Priors, width: int) -> dict[str, float]:
    """Millions of floating-point operations for one image: decoding it, and a training step's share of it."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        priors.decoder(priors.mean[:1])
    network = build_network(NetworkConfig(depth=case.depth, width=width), (3, case.side, case.side), 10)
    trained = 3 * forward_flops(network, (3, case.side, case.side))
    return {"decoder": counter.get_total_flops() / 1e6, "training": trained / 1e6}


def bench_case(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Sampling and training of one case, and the share of the first in the second."""
    device = torch.device(options.device)
    batch, width = (16, 8) if options.small else (BATCH, 128)
    priors, codec = priors_of(case, batch, device)
    everything, numbers = torch.arange(len(priors), device=device), iter(range(10**9))
    plain = Sampler([priors], codec, device)
    inputs = plain(generator(0, "epoch"))
    network = build_network(NetworkConfig(depth=case.depth, width=width), tuple(inputs.shape[1:]), 10)
    chosen = training_acceleration(network, len(priors), protocol("d3").training, device)
    trainings = {
        "float32": Acceleration("float32", False, device.type == "cuda"),
        "bfloat16": Acceleration("bfloat16", False, device.type == "cuda"),
        "as d3": chosen,
    }
    runs: dict[str, Run] = {
        "images and back": lambda: codec.encode(priors.images(everything, generator(0, "epoch", next(numbers))))
    }
    for name, acceleration in trainings.items():
        sampler = plain.at(acceleration.precision)
        runs[f"sampling, {name}"] = lambda sampler=sampler: sampler(generator(0, "epoch", next(numbers)))
        runs[f"training, {name}"] = training_of(case, acceleration, inputs, batch, width)
    seconds = median_seconds(runs, options.repeats, device)
    shares = {name: seconds[f"sampling, {name}"] / seconds[f"training, {name}"] for name in trainings}
    count = operations(case, priors, width)
    return {
        "priors": len(priors),
        "operations, millions an image": count,
        "share of operations": count["decoder"] / count["training"],
        "as d3": {"precision": chosen.precision, "compiled": chosen.compile},
        "seconds": seconds,
        "sampling against training": shares,
        "images and back against training": {
            name: seconds["images and back"] / seconds[f"training, {name}"] for name in trainings
        },
        f"at most {TARGET}": {name: share <= TARGET for name, share in shares.items()},
    }


def main() -> None:
    """Run the benches that are asked for."""
    benches = {name: (lambda options, case=case: bench_case(case, options)) for name, case in CASES.items()}
    run_benches(benches, __doc__, repeats=3, small="seconds instead of minutes: batches of 16, width 8")


if __name__ == "__main__":
    main()
