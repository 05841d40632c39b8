"""Evaluating seeds and architectures in one call against one by one: `python bench/judging.py [--device cuda]`.

The set is 10 random images a class of 3 x 32 x 32, tested on 1,000. Each way trains and tests the same networks to the
same scores, without the cache; ways are run alternately, and medians and ratios of medians are printed.

- "seeds": 3 seeds of a ConvNet-3, in one call of `evaluate` and in three.
- "architectures": 3 seeds of each of three networks, in one call and in nine.
- "modes": the 3 seeds' training alone: stacked, one after another, and as `train_networks` chooses by itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from attar.process import prepare_process

prepare_process()

import torch
from bench.reporting import on_device, run_benches
from bench.run import cifar_shaped, median_seconds

from attar.codecs.pixels import PixelsConfig
from attar.codecs.registry import fit_codec
from attar.data.image_set import Splits
from attar.distilled import DistilledSet
from attar.evaluation.evaluate import evaluate
from attar.evaluation.protocol import Protocol, protocol
from attar.labels import class_major_labels
from attar.networks.network import NetworkConfig
from attar.parameterizations.codes import Codes
from attar.training.loop import train_networks

SEEDS = (0, 1, 2)
SEVERAL = ("convnet:w64", "convnet:d2w64", "alexnet")
STEPS = 30


def bench_seeds(device: torch.device, repeats: int) -> dict[str, Any]:
    """One architecture, several seeds."""
    return _together_and_singly(("convnet:w64",), device, repeats)


def bench_architectures(device: torch.device, repeats: int) -> dict[str, Any]:
    """Several of both."""
    return _together_and_singly(SEVERAL, device, repeats)


def bench_modes(device: torch.device, repeats: int) -> dict[str, Any]:
    """What stacking itself costs or gains, and what is chosen."""
    small, _ = _set_and_data()
    items, training = small.training_items(device), _protocol().training

    def trained(mode: Any) -> Callable[[], Any]:
        return lambda: train_networks(NetworkConfig(width=64), items, 10, training, SEEDS, device=device, mode=mode)

    seconds = median_seconds({mode: trained(mode) for mode in ("looped", "stacked", "auto")}, repeats, device)
    return {
        "seconds": seconds,
        "looped / stacked": seconds["looped"] / seconds["stacked"],
        "looped / auto": seconds["looped"] / seconds["auto"],
    }


def _together_and_singly(networks: Sequence[str], device: torch.device, repeats: int) -> dict[str, Any]:
    small, splits = _set_and_data()
    short = _protocol()

    def accuracies(networks: Sequence[str], seeds: Sequence[int]) -> list[float]:
        card = evaluate(
            small, splits, short, networks=networks, seeds=seeds, baselines=False, device=device.type, cache=False
        )
        return [accuracy for row in card.rows for accuracy in row.accuracies]

    def singly() -> list[float]:
        return [accuracy for network in networks for seed in SEEDS for accuracy in accuracies([network], [seed])]

    same = accuracies(networks, SEEDS) == singly()
    runs = {"together": lambda: accuracies(networks, SEEDS), "one by one": singly}
    seconds = median_seconds(runs, repeats, device)
    return {"seconds": seconds, "one by one / together": seconds["one by one"] / seconds["together"], "same": same}


def _protocol() -> Protocol:
    quick = protocol("quick")
    steps = {"min_steps": STEPS, "max_steps": STEPS, "epochs": STEPS, "precision": "float32"}
    return quick.model_copy(update={"training": quick.training.model_copy(update=steps)})


def _set_and_data() -> tuple[DistilledSet, Splits]:
    train, test = cifar_shaped(100), cifar_shaped(100)
    codec = fit_codec(PixelsConfig(), train)
    codes = Codes(codec, torch.randn(100, 3, 32, 32), class_major_labels(10, 10))
    recipe = {"name": "bench"}
    small = DistilledSet.build(codes, codec, classes=train.classes, recipe=recipe, data=("bench", train))
    return small, Splits(train, test, "bench")


BENCHES: dict[str, Callable[[torch.device, int], dict[str, Any]]] = {
    "seeds": bench_seeds,
    "architectures": bench_architectures,
    "modes": bench_modes,
}


if __name__ == "__main__":
    run_benches({name: on_device(bench) for name, bench in BENCHES.items()}, __doc__, repeats=5)
