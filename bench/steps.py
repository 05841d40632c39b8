"""Accuracy and seconds against diffusion steps (LD3M Figure 5), and what each part of LD3M adds (Table 7).

`python bench/steps.py DATA --codec diffusion:prior.safetensors [--only steps ladder] [--out PNG] [--json OUT] [...]`.
`steps` distils and evaluates at each T of --counts, all else as --recipe and --set say; `ladder` learns conditioning
alone without the residual, then the codes too, then with the residual (`parameterization.learned` and
`.sampling.residual`), at the recipe's T. Accuracy is the distilled row's of --protocol, averaged over its networks:
mean and standard deviation over seeds. Seconds are of a distilling step: the median after the first; on a CPU with one
thread they are the process's own, which other processes do not lengthen. Every set is distilled anew; scores come from
the cache where they are there. All settings are checked before the first set, and --json is written after each.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from attar.base.process import prepare_process

prepare_process()

import torch

import attar
from attar.base.device import resolve_device
from attar.base.errors import InputError
from attar.base.files import atomic_path, refuse_existing, write_text
from attar.base.progress import Silent
from attar.cli.options import assignments
from attar.evaluation.evaluate import evaluate
from attar.evaluation.scorecard import DISTILLED
from attar.runs.task import resolve_task

LEAST_SPAN = 6.0
"""Points of accuracy that an axis shows at least, so that noise does not look like a trend."""

STEPS = "parameterization.sampling.num_steps"
LEARNED, RESIDUAL = "parameterization.learned", "parameterization.sampling.residual"
WITHOUT = {RESIDUAL: "none", "parameterization.sampling.residual_target": "noisy"}
LADDER: dict[str, dict[str, Any]] = {
    "conditioning": {LEARNED: "conditioning", **WITHOUT},
    "conditioning and codes": {LEARNED: "both", **WITHOUT},
    "and residual": {LEARNED: "both", RESIDUAL: "linear"},
}


class Stopwatch(Silent):
    """When each step of the last task was done, by a clock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock, self.times = clock, list[float]()

    def start(self, description: str, total: int) -> None:
        self.times = []

    def advance(self, count: int = 1, **figures: float) -> None:
        if count:
            self.times.append(self.clock())

    def seconds(self) -> float:
        """Of a step; the first is not counted, whose beginning is not known."""
        return median(after - before for before, after in pairwise(self.times))


def settings_of(options: argparse.Namespace, changes: dict[str, Any]) -> dict[str, Any]:
    """What every set of these options is distilled with, apart from what changes."""
    return {"codec": options.codec, "settings": {**assignments(options.set), **changes}}


def check(options: argparse.Namespace, wanted: dict[str, dict[Any, dict[str, Any]]]) -> None:
    """Refuse in one line, before any work, settings and files that would stop it later."""
    for path in (options.out, options.json):
        if path is not None:
            refuse_existing(path)
    for changes in (each for settings in wanted.values() for each in settings.values()):
        told = settings_of(options, changes)
        task = resolve_task(
            options.recipe, options.budget, options.seed, options.device, told["settings"], told["codec"], None, 1
        )
        if task.recipe.steps < 2:
            raise InputError(f"steps={task.recipe.steps} leaves no step to time; take at least 2")


def measured(options: argparse.Namespace, changes: dict[str, Any]) -> dict[str, float]:
    """A set distilled with these settings: its accuracy, and what a step took."""
    alone = resolve_device(options.device).type == "cpu" and options.threads == 1
    watch = Stopwatch(time.process_time if alone else time.perf_counter)
    made = attar.distill(
        options.data,
        options.recipe,
        options.budget,
        seed=options.seed,
        device=options.device,
        progress=watch,
        **settings_of(options, changes),
    )
    card = evaluate(
        made,
        options.data,
        options.protocol,
        networks=options.networks,
        seeds=options.seeds,
        baselines=False,
        device=options.device,
    )
    rows = [row.accuracies for row in card.rows if row.name == DISTILLED]
    accuracies = [mean(each) for each in zip(*rows, strict=True)]
    spread = stdev(accuracies) if len(accuracies) > 1 else 0.0
    return {"accuracy": mean(accuracies), "std": spread, "seconds": watch.seconds(), "bytes": made.file_bytes}


def measure_all(options: argparse.Namespace, wanted: dict[str, dict[Any, dict[str, Any]]], report: Any) -> None:
    """Measure one set after another into `report`, print each, and write what there is where asked."""
    for bench, settings in wanted.items():
        report[bench] = {}
        for name, changes in settings.items():
            found = report[bench][name] = measured(options, changes)
            figures = f"{found['accuracy']:.1f} +- {found['std']:.1f} %, {found['seconds']:.3f} s a step"
            print(f"{bench} {name}: {figures}, {found['bytes']} bytes", flush=True)
            if options.json:
                write_text(options.json, json.dumps(report, indent=1))


def plot_steps(found: dict[int, dict[str, float]], ladder: dict[str, dict[str, float]], out: Path) -> None:
    """A PNG: accuracy with its spread and seconds against T, and the ladder's bars beside them."""
    from matplotlib.figure import Figure

    from attar.evaluation.plots import COLOURS, MARKERS

    figure = Figure(figsize=(4.5 * (bool(found) + bool(ladder)), 3.2), layout="constrained")
    panels = list(figure.subplots(1, bool(found) + bool(ladder), squeeze=False)[0])
    if found:
        axes, counts = panels.pop(0), list(found)
        told = [[row[name] for row in found.values()] for name in ("accuracy", "std", "seconds")]
        axes.errorbar(counts, told[0], told[1], color=COLOURS[0], marker=MARKERS[0], capsize=3)
        axes.set(xlabel="diffusion steps T", xscale="log", xticks=counts, xticklabels=counts)
        axes.minorticks_off()
        low, high = axes.get_ylim()
        missing = max(0.0, LEAST_SPAN - (high - low)) / 2
        axes.set_ylim(low - missing, high + missing)
        axes.set_ylabel("accuracy, %", color=COLOURS[0])
        beside = axes.twinx()
        beside.plot(counts, told[2], color=COLOURS[1], marker=MARKERS[1], linestyle="--")
        beside.set_ylabel("seconds a step", color=COLOURS[1])
        beside.set_ylim(bottom=0)
        for each in (axes, beside):
            each.spines["top"].set_visible(False)
    if ladder:
        axes, heights = panels.pop(0), [row["accuracy"] for row in ladder.values()]
        spreads = [row["std"] for row in ladder.values()]
        bars = axes.bar(list(ladder), heights, yerr=spreads, color=COLOURS[0], capsize=3)
        axes.margins(y=0.15)
        axes.bar_label(bars, fmt="%.1f", fontsize=8, padding=2)
        axes.set(ylabel="accuracy, %")
        axes.tick_params(axis="x", labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_path(out) as temporary:
        figure.savefig(temporary, dpi=150, format="png", metadata={"Software": None})


def main() -> None:
    """Measure what the command line asks for, print it, draw and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--codec", required=True, help="diffusion:prior.safetensors or diffusion:FOLDER")
    parser.add_argument("--recipe", default="ld3m-dm")
    parser.add_argument("--budget", default="1ipc")
    parser.add_argument("--counts", nargs="+", type=int, default=[2, 5, 10, 20, 40], help="T of each set")
    parser.add_argument("--only", nargs="+", choices=["steps", "ladder"], default=["steps", "ladder"])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="settings of the recipe")
    parser.add_argument("--protocol", default="quick")
    parser.add_argument("--networks", nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="draw the figure here")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    report: dict[str, Any] = {"options": {name: str(value) for name, value in vars(options).items()}}
    wanted = {
        "steps": {count: {STEPS: count} for count in sorted(set(options.counts))} if "steps" in options.only else {},
        "ladder": LADDER if "ladder" in options.only else {},
    }
    try:
        check(options, wanted)
        measure_all(options, wanted, report)
    except InputError as error:
        parser.error(str(error))
    if options.out:
        plot_steps(report["steps"], report["ladder"], options.out)


if __name__ == "__main__":
    main()
