"""Evaluating seeds and architectures in one call against one by one: `python bench/judging.py [--device cuda]`.

The set is 2 random images a class of 3 x 32 x 32, tested on 300. Each way trains and tests the same networks to the
same scores, without the cache; ways are run alternately, and medians and ratios of medians are printed. On CPUs the
ratios are of processor seconds, which other work on the machine disturbs less.

- "seeds": 3 seeds of a ConvNet-3, in one call of `evaluate` and in three.
- "architectures": 3 seeds of each of three networks, in one call and in nine.
- "modes": the 3 seeds' training alone: stacked, one after another, and as `train_networks` chooses by itself.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from attar.base.process import prepare_process

prepare_process()

import torch
from bench.reporting import on_device, run_benches
from bench.run import cifar_shaped

from attar.data.image_set import Splits
from attar.evaluation.evaluate import evaluate
from attar.evaluation.protocol import Protocol, protocol
from attar.methods.labels import class_major_labels
from attar.methods.parameterizations.codes import Codes
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import fit_codec
from attar.models.networks.network import NetworkConfig
from attar.models.training.loop import train_networks
from attar.sets.distilled import DistilledSet

SEEDS = (0, 1, 2)
SEVERAL = ("convnet:w32", "convnet:d2w32", "convnet:w32-nonorm")
STEPS = 20


def bench_seeds(device: torch.device, repeats: int) -> dict[str, Any]:
    """One architecture, several seeds."""
    return _together_and_singly(("convnet:w32",), device, repeats)


def bench_architectures(device: torch.device, repeats: int) -> dict[str, Any]:
    """Several of both."""
    return _together_and_singly(SEVERAL, device, repeats)


def bench_modes(device: torch.device, repeats: int) -> dict[str, Any]:
    """What stacking itself costs or gains, and what is chosen."""
    small, _ = _set_and_data()
    items, training = small.training_items(device), _protocol().training

    def trained(mode: Any) -> Callable[[], Any]:
        return lambda: train_networks(NetworkConfig(width=32), items, 10, training, SEEDS, device=device, mode=mode)

    medians = _medians({mode: trained(mode) for mode in ("looped", "stacked", "auto")}, repeats, device)
    return {**medians, **{f"looped / {mode}": _ratio(medians, "looped", mode, device) for mode in ("stacked", "auto")}}


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
    medians = _medians(runs, repeats, device)
    return {**medians, "one by one / together": _ratio(medians, "one by one", "together", device), "same scores": same}


def _medians(runs: dict[str, Callable[[], Any]], repeats: int, device: torch.device) -> dict[str, dict[str, float]]:
    """Of the clock's and of the processor's seconds; all are warmed up once, then run in turn."""
    clocks = {"seconds": time.perf_counter, "processor seconds": time.process_time}
    times: dict[str, dict[str, list[float]]] = {clock: {name: [] for name in runs} for clock in clocks}
    for number in range(repeats + 1):
        for name, run in runs.items():
            begins = {clock: read() for clock, read in clocks.items()}
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            for clock, read in clocks.items():
                times[clock][name] += [read() - begins[clock]] * bool(number)
    return {clock: {name: statistics.median(all_) for name, all_ in found.items()} for clock, found in times.items()}


def _ratio(medians: dict[str, dict[str, float]], above: str, below: str, device: torch.device) -> float:
    found = medians["processor seconds" if device.type == "cpu" else "seconds"]
    return found[above] / found[below]


def _protocol() -> Protocol:
    quick = protocol("quick")
    steps = {"min_steps": STEPS, "max_steps": STEPS, "epochs": STEPS, "precision": "float32"}
    return quick.model_copy(update={"training": quick.training.model_copy(update=steps)})


def _set_and_data() -> tuple[DistilledSet, Splits]:
    train, test = cifar_shaped(30), cifar_shaped(30)
    codec = fit_codec(PixelsConfig(), train)
    codes = Codes(codec, torch.randn(20, 3, 32, 32), class_major_labels(10, 2))
    facts: dict[str, Any] = {"classes": train.classes, "data": ("bench", train), "initial": ("noise", [])}
    small = DistilledSet.build(codes, codec, recipe={"name": "bench"}, **facts)
    return small, Splits(train, test, "bench")


BENCHES: dict[str, Callable[[torch.device, int], dict[str, Any]]] = {
    "seeds": bench_seeds,
    "architectures": bench_architectures,
    "modes": bench_modes,
}


if __name__ == "__main__":
    run_benches({name: on_device(bench) for name, bench in BENCHES.items()}, __doc__, repeats=5)
