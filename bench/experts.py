"""Training experts, in one process: `python bench/experts.py [--json OUT] [--only spaces stacking]`.

Steps of 256 items are timed as experts of CIFAR-10 take them: 10 classes, 3 x 32 x 32, precision and compilation as for
50 epochs of 50,000 items, though only 2,560 random images are held. Runs alternate; medians are printed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from attar.base.process import prepare_process

prepare_process()

import torch
from bench.reporting import on_device, run_benches
from bench.run import Run, cifar_shaped, median_seconds
from torch import Tensor

from attar.base.progress import Silent
from attar.data.augmentation import Augmentation, DsaConfig
from attar.data.image_set import ImageSet
from attar.methods.objectives.trajectories import TrajectoriesConfig
from attar.models.codecs.augmenting import siamese_augmentation
from attar.models.codecs.pixels import Pixels, PixelsConfig
from attar.models.codecs.registry import codec_from_text, fit_codec
from attar.models.experts.training import training_of
from attar.models.networks.network import NetworkConfig
from attar.models.networks.registry import build_network
from attar.models.real_items import GatheredInputs, RealItems, codes_to_hold, real_items
from attar.models.training.loop import Hooks, Trainer
from attar.models.training.settings import Plan

NUM_ITEMS = 50_000
STEPS = 10
CODEC = "pca:f4c4"


class RepeatedItems:
    """50,000 items of which only some are different."""

    num_items = NUM_ITEMS

    def __init__(self, real: RealItems) -> None:
        self._held = len(real.labels)
        self._inputs = GatheredInputs(real)
        self._labels = real.labels[torch.arange(NUM_ITEMS, device=real.device) % self._held]
        self.shape = torch.Size([NUM_ITEMS, *real.shape])
        self.dtype = torch.float32

    def __len__(self) -> int:
        return NUM_ITEMS

    def __getitem__(self, indices: Tensor) -> Tensor:
        return self._inputs[indices % self._held]

    def epoch(self, epoch: int, generator: torch.Generator) -> tuple[RepeatedItems, Tensor]:
        return self, self._labels


def trainer(train: ImageSet, codec_text: str, depth: int, augmented: bool, device: torch.device) -> Trainer:
    """What `train_experts` trains one expert with."""
    codec = fit_codec(codec_from_text(codec_text), train)
    preprocess = codec if isinstance(codec, Pixels) else fit_codec(PixelsConfig(), train)
    real = real_items(codec, train, codes_to_hold(codec, train, device, Silent()), device)
    dsa = DsaConfig() if augmented else None
    augmentation: Augmentation | None = siamese_augmentation(dsa, codec.to(device), preprocess.to(device))
    config = TrajectoriesConfig(network=NetworkConfig(depth=depth), augmentation=dsa)
    network = build_network(config.network, real.shape, 10).to(device)
    return Trainer(network, RepeatedItems(real), training_of(config), device, Silent(), Hooks(augmentation))


def described(each: Trainer, seconds: float) -> dict[str, Any]:
    """An epoch of 50,000 items, from the time of STEPS steps."""
    how = each.acceleration
    return {
        "seconds an epoch": seconds / STEPS * Plan.of(each.training, NUM_ITEMS).steps_per_epoch,
        "computed in": how.precision + (", compiled" if how.compile else ""),
    }


def bench_spaces(device: torch.device, repeats: int) -> dict[str, Any]:
    """An expert's epoch in pixel space against code space."""
    train = cifar_shaped(256)
    trainers = {
        "pixels, ConvNet-3, DSA": trainer(train, "pixels", 3, True, device),
        f"{CODEC}, ConvNet-1, DSA": trainer(train, CODEC, 1, True, device),
        f"{CODEC}, ConvNet-1": trainer(train, CODEC, 1, False, device),
        f"{CODEC}, ConvNet-2, DSA": trainer(train, CODEC, 2, True, device),
        f"{CODEC}, ConvNet-2": trainer(train, CODEC, 2, False, device),
    }
    runs: dict[str, Run] = {name: (lambda each=each: each.alone(0, STEPS)) for name, each in trainers.items()}
    seconds = median_seconds(runs, repeats, device)
    pixels, *codes = runs
    return {
        **{name: described(each, seconds[name]) for name, each in trainers.items()},
        "pixels against codes": {name: seconds[pixels] / seconds[name] for name in codes},
    }


def bench_stacking(device: torch.device, repeats: int) -> dict[str, Any]:
    """Experts a minute, of 50 epochs of 50,000 items, stacked and one after another."""
    train = cifar_shaped(256)
    sizes = (2, 4) if device.type == "cpu" else (4, 8, 16)
    found: dict[str, Any] = {}
    for text, depth in ((CODEC, 1), ("pixels", 3)):
        each = trainer(train, text, depth, True, device)
        runs: dict[str, Run] = {"looped": lambda each=each: each.alone(0, STEPS)}
        for size in sizes:
            runs[f"{size} stacked"] = lambda each=each, size=size: each.stacked(range(size), STEPS)
        seconds = median_seconds(runs, repeats, device)
        counts = {"looped": 1, **{f"{size} stacked": size for size in sizes}}
        steps = Plan.of(each.training, NUM_ITEMS).num_steps
        found[f"{text}, ConvNet-{depth}"] = {
            "experts a minute": {name: 60 * counts[name] * STEPS / steps / seconds[name] for name in runs},
            "against looped": {name: counts[name] * seconds["looped"] / seconds[name] for name in runs},
        }
    return found


BENCHES = {"spaces": bench_spaces, "stacking": bench_stacking}


def main() -> None:
    """Run the benches that are asked for."""
    run_benches({name: on_device(bench) for name, bench in BENCHES.items()}, __doc__, repeats=3)


if __name__ == "__main__":
    main()
