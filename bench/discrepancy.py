"""The kernel MMD of all classes in one batch against loops over classes: `python bench/discrepancy.py [--json OUT]`.

Loss and gradient from features, float32: `Discrepancy` as it computes them; the same three products for one class after
another; and sums over pairs as the mathematics writes them (tests/reference/mmd.py), of fewer items, because it takes
minutes. Runs alternate; medians. Memory is the most bytes of tensors alive at once on the way to the gradient, counted.
"""

from __future__ import annotations

import argparse
import sys
import weakref
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from attar.base.process import prepare_process

prepare_process()

import torch
from bench.reporting import run_benches
from bench.run import Run, median_seconds
from tests.reference.mmd import literal_loss
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from attar.base.randomness import generator
from attar.methods.objectives.discrepancy import KERNEL_VALUES, by_class, squared_mmd

BANDWIDTHS = (4.0, 8.0, 16.0, 32.0, 64.0)
SHAPES = {
    "10 classes, 64 real and 30 synthetic, 2048 features": (10, 64, 30, 2048),
    "100 classes, 64 real and 30 synthetic, 2048 features": (100, 64, 30, 2048),
    "100 classes, 16 real and 10 synthetic, 128 features": (100, 16, 10, 128),
}
LITERAL = (100, 10, 5, 32)


class Living(TorchDispatchMode):
    """The most bytes of tensors that operations have made and that live at once; views count nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.most = 0, 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, list | tuple) else (result,):
            if isinstance(each, Tensor):
                self._count(each.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        place = storage.data_ptr()
        if place in self.known or not storage.nbytes():
            return
        self.known.add(place)
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._gone, place, storage.nbytes())

    def _gone(self, place: int, num_bytes: int) -> None:
        self.known.discard(place)
        self.now -= num_bytes


def drawn(shape: tuple[int, int, int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Class-major features, real and synthetic."""
    classes, num_real, num_synthetic, features = shape
    found = [
        torch.randn(classes * count, features, generator=generator(0, name)).to(device)
        for name, count in (("real", num_real), ("synthetic", num_synthetic))
    ]
    return found[0], found[1].requires_grad_()


def at_once(shape: tuple[int, int, int, int], real: Tensor, synthetic: Tensor, most: int) -> Tensor:
    """The gradient, `most` classes in one product."""
    gradients = []
    rows = zip(real.split(most * shape[1]), synthetic.detach().split(most * shape[2]), strict=True)
    for seen, leaf in rows:
        leaf.requires_grad_()
        count = len(seen) // shape[1]
        counts = [torch.full((count,), number, device=real.device) for number in shape[1:3]]
        blocks = [by_class(each, [number] * count) for each, number in zip((seen, leaf), shape[1:3], strict=True)]
        gradients += torch.autograd.grad(squared_mmd(*blocks, *counts, BANDWIDTHS).sum(), leaf)
    return torch.cat(gradients)


def literal(shape: tuple[int, int, int, int], real: Tensor, synthetic: Tensor) -> Tensor:
    """The gradient by sums over pairs."""
    loss = literal_loss(real.split(shape[1]), synthetic.split(shape[2]), BANDWIDTHS, "unbiased")
    return torch.autograd.grad(loss, synthetic)[0]


def bench_loops(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds and bytes of the batch, against one class after another."""
    device, results = torch.device(options.device), {}
    for name, shape in SHAPES.items():
        real, synthetic = drawn(shape, device)
        most = max(1, KERNEL_VALUES // (shape[1] + shape[2]) ** 2)
        runs: dict[str, Run] = {
            "batch": partial(at_once, shape, real, synthetic, most),
            "class by class": partial(at_once, shape, real, synthetic, 1),
        }
        gap = float((runs["batch"]() - runs["class by class"]()).abs().max())
        seconds = median_seconds(runs, options.repeats, device)
        with Living() as living:
            runs["batch"]()
        results[name] = {
            "seconds": seconds,
            "ratio": seconds["class by class"] / seconds["batch"],
            "megabytes": living.most / 1e6,
            "largest difference": gap,
        }
    return results


def bench_literal(options: argparse.Namespace) -> dict[str, Any]:
    """Against the double loop, of 100 small classes."""
    device = torch.device(options.device)
    real, synthetic = drawn(LITERAL, device)
    runs: dict[str, Run] = {
        "batch": partial(at_once, LITERAL, real, synthetic, LITERAL[0]),
        "pair by pair": partial(literal, LITERAL, real, synthetic),
    }
    batch, pairs = (run() for run in runs.values())
    seconds = median_seconds(runs, min(2, options.repeats), device)
    return {
        "shape": LITERAL,
        "seconds": seconds,
        "ratio": seconds["pair by pair"] / seconds["batch"],
        "largest relative difference": float((batch - pairs).abs().max() / pairs.abs().max()),
    }


if __name__ == "__main__":
    run_benches({"loops": bench_loops, "literal": bench_literal}, __doc__, repeats=9)
