"""Rendering through a frozen diffusion model: `python bench/diffusion.py [--json OUT] [--only ...] [--small]`.

`time`: one step's rendering and gradient at T = 10, guidance 3, with checkpoints, without them, and as the official
code has it (rendered without graph, then again with checkpoints, sending dL/dx back), and with checkpoints in bfloat16.
They alternate; medians.
`memory`: bytes of tensors alive at the peak of a step at T = 5 and 40, checkpointed; on CUDA as its allocator counts,
on a CPU by following every operation's results, because resident memory also shows how freed blocks lie. 8 items of
3 x 16 x 16 in one chunk, a denoiser of width 64; weights are random, on which neither time nor memory depends.
"""

from __future__ import annotations

import argparse
import functools
import sys
import weakref
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests")]

from attar.base.process import prepare_process

prepare_process()

import torch
from bench.reporting import peak_of, run_benches
from bench.run import median_seconds
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from attar.base.randomness import generator
from attar.data.image_set import ImageSet
from attar.methods.parameterizations.diffusion import Diffusion, DiffusionConfig
from attar.methods.parameterizations.rendered import RenderingPrecision
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import fit_codec
from attar.models.diffusion.codec import DiffusionCodec
from attar.models.diffusion.model import OwnModel
from attar.models.diffusion.schedule import SamplingConfig, ScheduleConfig
from attar.models.networks.denoiser import DenoiserConfig, build_denoiser
from reference.diffusion import three_passes

STEPS = {"few": 5, "many": 40}


def items_of(
    num_steps: int,
    checkpointed: bool,
    small: bool,
    device: torch.device,
    precision: RenderingPrecision = "float32",
) -> Diffusion:
    """Items of two classes whose codes are images of 3 x 16 x 16, eight in one chunk."""
    side = 8 if small else 16
    pixels = torch.zeros(2, 3, side, side, dtype=torch.uint8)
    codec = fit_codec(PixelsConfig(), ImageSet(pixels + 9, torch.arange(2), ("a", "b")))
    sizes = DenoiserConfig(width=8 if small else 64, levels=2)
    network = build_denoiser(sizes, codec.code_shape, 2, generator(0, "denoiser"))
    model = DiffusionCodec(codec, OwnModel(network, ScheduleConfig()))
    codes = torch.randn(8, *codec.code_shape, generator=generator(0, "codes"))
    sampling = SamplingConfig(num_steps=num_steps)
    config = DiffusionConfig(sampling=sampling, chunk_items=8, checkpointed=checkpointed, precision=precision)
    labels = torch.arange(2).repeat_interleave(4)
    return Diffusion(model, codes, labels, config, 0, preprocess=codec, classes=labels).to(device)


def step(items: Diffusion) -> None:
    """Render, and the gradient of a sum of squares."""
    items.zero_grad()
    items(torch.arange(len(items), device=items.labels.device)).square().sum().backward()


def literal_step(items: Diffusion) -> None:
    """The same as the official code goes about it."""
    items.zero_grad()
    everything = torch.arange(len(items), device=items.labels.device)
    three_passes(lambda: items(everything), lambda images: images.square().sum())


def bench_time(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a step, and ratios to checkpointed steps."""
    device = torch.device(options.device)
    ours, kept = (items_of(10, checkpointed, options.small, device) for checkpointed in (True, False))
    lowered = items_of(10, True, options.small, device, "bfloat16")
    runs = {
        "checkpointed": lambda: step(ours),
        "without checkpoints": lambda: step(kept),
        "three passes": lambda: literal_step(ours),
        "bfloat16": lambda: step(lowered),
    }
    seconds = median_seconds(runs, options.repeats, device)
    return {
        "seconds": seconds,
        "to without checkpoints": seconds["checkpointed"] / seconds["without checkpoints"],
        "to three passes": seconds["checkpointed"] / seconds["three passes"],
        "bfloat16 to float32": seconds["bfloat16"] / seconds["checkpointed"],
    }


def bench_memory(options: argparse.Namespace) -> dict[str, Any]:
    """Peak bytes at T = 5 and 40, and the growth."""
    device = torch.device(options.device)
    peaks = {}
    for name, num_steps in STEPS.items():
        items = items_of(num_steps, True, options.small, device)
        if device.type == "cuda":
            step(items)
            peaks[name] = peak_of(functools.partial(step, items), device)
            continue
        with Living() as living:
            step(items)
        peaks[name] = living.peak
    return {"peak_bytes": peaks, "growth": peaks["many"] / peaks["few"] - 1}


class Living(TorchDispatchMode):
    """Counts the bytes of all tensors that operations within make, while they live."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tree_flatten(made)[0]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self._sizes:
                storage = tensor.untyped_storage()
                self._sizes[storage._cdata] = storage.nbytes()
                self._now += storage.nbytes()
                self.peak = max(self.peak, self._now)
                weakref.finalize(storage, self._forget, storage._cdata)
        return made

    def _forget(self, storage: int) -> None:
        self._now -= self._sizes.pop(storage)


if __name__ == "__main__":
    run_benches({"time": bench_time, "memory": bench_memory}, __doc__, 3, "a small model, to see that it runs")
