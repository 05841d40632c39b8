"""LatentDD's Table 2 in its own setting: ImageNet's Bird at 256 pixels against Stable Diffusion's codes, f = 4, 1 IPC.

`python bench/published.py [--json OUT] [--only experts gradients trajectories] [--small]`. Pixels are 3 x 256 x 256 and
trained on with ConvNet-6 under DSA; codes are 4 x 64 x 64, 12 in the bytes of an image, with ConvNet-4 and no
augmentation. Runs alternate, medians are printed. Images and codes are random: times do not depend on them. Memory is
planned as `attar distill` plans it. Each space has the settings of its recipe, but for the real batch: both take the 64
items of the codes' recipe, because what 256 images of this size keep for the backward pass fits few machines.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from attar.base.process import prepare_process

prepare_process()

import torch
from bench.experts import RepeatedItems
from bench.reporting import run_benches
from bench.run import Run, median_seconds
from bench.trajectories import DriftingExperts

from attar.base.progress import Silent
from attar.base.randomness import generator
from attar.data.augmentation import Dsa
from attar.data.image_set import ImageSet
from attar.methods.labels import class_major_labels
from attar.methods.objectives.objective import Context, MatchingConfig
from attar.methods.objectives.trajectories import TrajectoriesConfig
from attar.methods.parameterizations.codes import Codes
from attar.methods.recipes import recipe
from attar.models.codecs.codec import Codec
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import fit_codec
from attar.models.experts.training import training_of
from attar.models.networks.registry import build_network
from attar.models.real_items import RealItems
from attar.models.training.loop import Hooks, Trainer
from attar.runs.memory import plan_memory

BATCH = 64
EXPERT_STEPS = 2
CODES_PER_IMAGE = 12


class Space(NamedTuple):
    """Pixels or codes: the recipes whose settings count there, and the sizes.

    Args:
        dc: recipe of gradient matching.
        mtt: recipe of trajectory matching.
        depth: of the ConvNet.
        shape: of an item.
        per_class: synthetic items of each class.
    """

    dc: str
    mtt: str
    depth: int
    shape: tuple[int, int, int]
    per_class: int


PIXELS = Space("dsa-cifar10-ipc1", "mtt-bird-128-ipc1", 6, (3, 256, 256), 1)
CODES = Space("latent-dc-256-f4-ipc1", "latent-mtt-256-f4-ipc1", 4, (4, 64, 64), CODES_PER_IMAGE)
SMALL_PIXELS = PIXELS._replace(depth=3, shape=(3, 32, 32))
SMALL_CODES = CODES._replace(depth=1, shape=(4, 8, 8))


class Made(NamedTuple):
    """A space with its random items."""

    synthetic: Codes
    real: RealItems
    codec: Codec


def made(space: Space, device: torch.device, small: bool) -> Made:
    """Random items; pixels are held as uint8 images, codes as float32."""
    count = 4 if small else BATCH
    labels = class_major_labels(10, count)
    sides = 32 if small else 256
    images = torch.randint(0, 256, (10 * count, 3, sides, sides), generator=generator(0, "images"), dtype=torch.uint8)
    train = ImageSet(images, labels, tuple(f"class {index}" for index in range(10)))
    codec = fit_codec(PixelsConfig(), train).to(device)
    items = torch.randn(10 * space.per_class, *space.shape, generator=generator(0, "items"))
    synthetic = Codes(codec, items, class_major_labels(10, space.per_class)).to(device)
    if space.shape[0] == 3:
        return Made(synthetic, RealItems(labels, 10, images=train, codec=codec, device=device), codec)
    codes = torch.randn(len(labels), *space.shape, generator=generator(0, "real"))
    return Made(synthetic, RealItems(labels, 10, codes=codes, device=device), codec)


def settings(name: str, space: Space, small: bool, **changes: Any) -> MatchingConfig:
    """The recipe's objective with this space's network."""
    config = recipe(name).objective
    width = 8 if small else 128
    network = config.network.model_copy(update={"depth": space.depth, "width": width})  # type: ignore[union-attr]
    return config.model_copy(update={"network": network, **changes})  # type: ignore[return-value]


def outer_step(space: Space, name: str, config: MatchingConfig, device: torch.device, small: bool) -> Run:
    """One step of the objective, composed and planned as `distill` does it."""
    items = made(space, device, small)
    augmentation = Dsa(config.augmentation) if config.augmentation else None
    experts = DriftingExperts(config.network, space.shape) if isinstance(config, TrajectoriesConfig) else None
    context = Context(space.shape, 10, device, 1, augmentation, experts)
    planned = plan_memory(recipe(name).model_copy(update={"objective": config}), context, items.synthetic, items.real)
    objective = planned.config.build(context)

    def step() -> None:
        objective.accumulate(items.synthetic, items.real, generator(0, "step"))
        items.synthetic.codes.grad = None

    return step


def expert_steps(space: Space, device: torch.device, small: bool) -> Run:
    """`EXPERT_STEPS` steps of one expert, in batches of 64, computed as its 50 epochs would be."""
    config = settings(space.mtt, space, small)
    assert isinstance(config, TrajectoriesConfig)
    config = config.model_copy(update={"experts": config.experts.model_copy(update={"batch_size": BATCH})})
    items = RepeatedItems(made(space, device, small).real)
    network = build_network(config.network, space.shape, 10).to(device)
    augmentation = Dsa(config.augmentation) if config.augmentation else None
    trainer = Trainer(network, items, training_of(config), device, Silent(), Hooks(augmentation))
    return lambda: trainer.alone(0, EXPERT_STEPS) and None


def compared(runs: dict[str, Run], options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of both spaces and their ratio."""
    seconds = median_seconds(runs, options.repeats, torch.device(options.device))
    return {"seconds": seconds, "pixels against codes": seconds["pixels"] / seconds["codes"]}


def bench_experts(options: argparse.Namespace) -> dict[str, Any]:
    """Two steps of an expert; one of 50 epochs of 13,000 items takes 5,080 times as long."""
    device = torch.device(options.device)
    runs = {name: expert_steps(space, device, options.small) for name, space in _spaces(options).items()}
    return compared(runs, options)


def bench_gradients(options: argparse.Namespace) -> dict[str, Any]:
    """One matching of DSA and of LatentDC, without the network's training."""
    runs = {}
    for name, space in _spaces(options).items():
        batch = 4 if options.small else BATCH
        changes = {"real_batch_size": batch, "outer_steps": 10**9, "inner_steps": 0}
        config = settings(space.dc, space, options.small, **changes)
        runs[name] = outer_step(space, space.dc, config, torch.device(options.device), options.small)
    return compared(runs, options)


def bench_trajectories(options: argparse.Namespace) -> dict[str, Any]:
    """One step of MTT (20 student steps of 10 images) and of LatentMTT (40 of 64 codes)."""
    runs = {}
    for name, space in _spaces(options).items():
        config = settings(space.mtt, space, options.small, **({"student_steps": 2} if options.small else {}))
        runs[name] = outer_step(space, space.mtt, config, torch.device(options.device), options.small)
    return compared(runs, options)


def main() -> None:
    """Run the benches that are asked for."""
    run_benches(BENCHES, __doc__, repeats=3, small="seconds instead of minutes: 32 pixels, width 8")


def _spaces(options: argparse.Namespace) -> dict[str, Space]:
    return {"pixels": SMALL_PIXELS, "codes": SMALL_CODES} if options.small else {"pixels": PIXELS, "codes": CODES}


BENCHES = {"experts": bench_experts, "gradients": bench_gradients, "trajectories": bench_trajectories}

if __name__ == "__main__":
    main()
