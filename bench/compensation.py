"""LIC's compensation against SRe2L's recovery: LIC's Table 3, 100 images of 64 x 64 at a time.

`python bench/compensation.py [--json OUT] [--only ...] [--small]`. A round of each is timed, items and updates
included: for SRe2L a step, for LIC three, one with each of its transformations (of mirrored images the originals'
features are kept from the second time on, as in 198 of 200 steps of a run). Rounds alternate; medians are multiplied to
the recipes' steps (200, and 4000: the official command for Tiny-ImageNet). LIC's 100 canvases hold 400 tiles, which go
through the observer 100 at a time: they are independent, and any chunk gives the same result. SRe2L's statistics are
those of its 100 images. LIC runs as its recipe chooses, bfloat16 where the device computes in it, and in float32, which
SRe2L always takes. Peak memory is above what was there before the step, on CPUs in a process of its own for every case.
Weights are random: times do not depend on them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from attar.base.process import prepare_process

prepare_process()

import torch
from bench.reporting import peak_of, run_benches
from bench.run import Run, median_seconds

from attar.base.randomness import generator
from attar.data.image_set import ImageSet
from attar.methods.initialization import Sources
from attar.methods.labels import class_major_labels
from attar.methods.objectives.alignment import Alignment, AlignmentConfig
from attar.methods.objectives.inversion import InversionConfig
from attar.methods.objectives.objective import Context, Objective
from attar.methods.parameterizations.codes import Codes
from attar.methods.parameterizations.mosaic import Mosaic
from attar.methods.recipes import Recipe, recipe
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import fit_codec
from attar.models.networks.network import NetworkConfig
from attar.models.networks.registry import build_network, network_from_text
from attar.models.observers.observer import Observer
from attar.models.real_items import RealItems
from attar.runs.updates import Updates

NETWORKS = {"Conv-4": "convnet:d4-batch", "ResNet-18": "resnet18:batch", "MobileNet-V2": "mobilenet_v2"}
RECIPES = {"LIC": "lic-tiny-convnet", "LIC in float32": "lic-tiny-convnet", "SRe2L": "sre2l-tiny-convnet"}
CHUNK = 100
TRANSFORMATIONS = 3


def network_of(name: str, small: bool) -> NetworkConfig:
    """The architecture, or a ConvNet of width 8."""
    return network_from_text("convnet:d2w8-batch" if small else NETWORKS[name])


def step_of(method: str, name: str, count: int, chunk: int, device: torch.device, small: bool) -> Run:
    """A round with its updates, of `count` stored images: see above."""
    side = 16 if small else 64
    images = torch.randint(0, 256, (4 * count, 3, side, side), generator=generator(0, "images"), dtype=torch.uint8)
    labels = torch.arange(4 * count) % 10
    train = ImageSet(images, labels, tuple(f"class {index}" for index in range(10)))
    codec = fit_codec(PixelsConfig(), train).to(device)
    config = network_of(name, small)
    network = build_network(config, (3, side, side), 10).to(device).eval()
    observer = Observer(network, config, codec, train.classes).to(device)
    made = settings(method, chunk)
    items = torch.randn(count, 3, side, side, generator=generator(0, "items"))
    synthetic = (
        Mosaic(codec, items, class_major_labels(10, 4 * count // 10), preprocess=codec).to(device)
        if method != "SRe2L"
        else Codes(codec, items, class_major_labels(10, count // 10)).to(device)
    )
    sources = Sources(train, torch.arange(4 * count), device=device)
    real = RealItems(labels, 10, images=train, codec=codec, device=device)
    context = Context(
        real.shape, 10, device, made.steps, observer=observer, originals=sources.images, images_of=codec.decode
    )
    assert isinstance(made.objective, AlignmentConfig | InversionConfig)
    objective = made.objective.build(context)
    updates = Updates(made, synthetic, objective, count // 10)
    numbers = step_numbers(objective, real.shape)

    def round_of_steps() -> None:
        for number in numbers:
            updates.clear()
            objective.accumulate(synthetic, real, generator(0, "step", number))
            updates.take(0.5)

    return round_of_steps


def step_numbers(objective: Objective, shape: tuple[int, int, int]) -> list[int]:
    """Steps whose random numbers give one of each transformation."""
    if not isinstance(objective, Alignment):
        return [0]
    assert objective.dsa is not None
    found: dict[tuple[str, ...], int] = {}
    for number in range(100):
        drawn = objective.dsa.draw(1, shape, generator(0, "step", number), siamese=True)
        found.setdefault(drawn.operations, number)
    assert len(found) == TRANSFORMATIONS
    return list(found.values())


def settings(method: str, chunk: int) -> Recipe:
    """The recipe, LIC's in chunks of so many tiles, and in the precision that the method's name says."""
    made = recipe(RECIPES[method])
    if method == "SRe2L":
        return made
    changes = {"chunk_items": chunk} | ({"precision": "float32"} if method == "LIC in float32" else {})
    return made.model_copy(update={"objective": made.objective.model_copy(update=changes)})


def peak_bytes(method: str, name: str, device: torch.device, small: bool) -> int:
    """Of one step, after a step with 10 images."""
    step_of(method, name, 10, 10, device, small)()
    return peak_of(step_of(method, name, 20 if small else 100, CHUNK, device, small), device)


def peak_elsewhere(method: str, name: str, options: argparse.Namespace) -> int:
    """`peak_bytes` in a fresh process."""
    case = json.dumps([method, name, options.device, options.small, options.threads])
    command = [sys.executable, str(Path(__file__).resolve()), "--case", case]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def bench_network(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Both methods with one architecture."""
    device, count = torch.device(options.device), 20 if options.small else 100
    runs = {method: step_of(method, name, count, CHUNK, device, options.small) for method in RECIPES}
    seconds = median_seconds(runs, options.repeats, device)
    steps = {
        method: recipe(name).steps / (1 if method == "SRe2L" else TRANSFORMATIONS) for method, name in RECIPES.items()
    }
    whole = {method: steps[method] * seconds[method] for method in RECIPES}
    peak = {method: peak_elsewhere(method, name, options) / 1e6 for method in RECIPES}
    ours = [method for method in RECIPES if method != "SRe2L"]
    return {
        "seconds a round": seconds,
        "seconds": whole,
        "SRe2L against": {method: whole["SRe2L"] / whole[method] for method in ours},
        "SRe2L of 1000 steps against": {method: 1000 * seconds["SRe2L"] / whole[method] for method in ours},
        "peak MB": peak,
        "memory, of SRe2L's": {method: peak[method] / max(1e-6, peak["SRe2L"]) for method in ours},
    }


def main() -> None:
    """Run the benches that are asked for, or measure one case's memory."""
    if len(sys.argv) == 3 and sys.argv[1] == "--case":
        method, name, device, small, threads = json.loads(sys.argv[2])
        torch.set_num_threads(threads)
        print(peak_bytes(method, name, torch.device(device), small))
        return
    benches = {name: (lambda options, name=name: bench_network(name, options)) for name in NETWORKS}
    run_benches(benches, __doc__, repeats=3, small="seconds instead of minutes: 20 images of 16 x 16, width 8")


if __name__ == "__main__":
    main()
