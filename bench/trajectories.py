"""Trajectory matching: the adjoint against unrolling, LatentMTT against MTT.

`python bench/trajectories.py [--json OUT] [--small]`. Times are medians of alternate runs in one process. Peak memory
is above what was there before the step: on CUDA of what was allocated, on a CPU of what was resident, in a process of
its own for every case. Experts are made up; neither time nor memory depends on them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from attar.base.process import prepare_process

prepare_process()

import torch
from bench.reporting import peak_of
from bench.run import Run, cifar_shaped, median_seconds

from attar.base.randomness import generator
from attar.data.augmentation import DsaConfig
from attar.methods.labels import class_major_labels
from attar.methods.objectives.objective import Context
from attar.methods.objectives.trajectories import Trajectories, TrajectoriesConfig
from attar.methods.parameterizations.codes import Codes
from attar.models.codecs.augmenting import siamese_augmentation
from attar.models.codecs.pca import PcaConfig
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import fit_codec
from attar.models.networks.network import NetworkConfig
from attar.models.networks.registry import build_network
from attar.models.real_items import RealItems


class Case(NamedTuple):
    """One outer step: of 10 images (MTT), or of 120 codes in batches of `batch` (LatentMTT), which take as many bytes.

    Its gradient is "adjoint" without kept graphs, "kept" (the adjoint with all graphs kept), or "unrolled".
    """

    space: str
    gradient: str
    student_steps: int
    width: int
    batch: int = 64


class DriftingExperts:
    """One expert that drifts at random."""

    num_experts = 1
    num_epochs = 50

    def __init__(self, network: NetworkConfig, item_shape: tuple[int, int, int]) -> None:
        built = build_network(network, item_shape, 10)
        self._start = torch.nn.utils.parameters_to_vector(built.parameters()).detach()
        self._drift = torch.randn(len(self._start), generator=generator(0, "drift"))

    def parameters(self, expert: int, epoch: int) -> torch.Tensor:
        return self._start + 1e-3 * epoch * self._drift


def outer_step(case: Case, device: torch.device) -> Run:
    """One step of the objective with DSA, composed as `distill` composes it."""
    train = cifar_shaped(20)
    pixels = fit_codec(PixelsConfig(), train).to(device)
    latent = case.space == "latent"
    codec = fit_codec(PcaConfig(), train).to(device) if latent else pixels
    network = NetworkConfig(depth=2 if latent else 3, width=case.width)
    config = TrajectoriesConfig(
        network=network,
        student_steps=case.student_steps,
        student_batch_size=case.batch if latent else None,
        gradient="unrolled" if case.gradient == "unrolled" else "adjoint",
        kept_steps=case.student_steps if case.gradient == "kept" else 0,
        augmentation=DsaConfig(),
    )
    codes = torch.randn(120 if latent else 10, *codec.code_shape, generator=generator(0, "codes"))
    synthetic = Codes(codec, codes, class_major_labels(10, len(codes) // 10)).to(device)
    real = RealItems(train.labels, 10, images=train, codec=codec, device=device)
    augmentation = siamese_augmentation(config.augmentation, codec, pixels)
    experts = DriftingExperts(network, real.shape)
    objective = Trajectories(config, Context(real.shape, 10, device, 1, augmentation, experts))

    def step() -> None:
        objective.accumulate(synthetic, real, generator(0, "step"))
        synthetic.codes.grad = None

    return step


def peak_bytes(case: Case, device: torch.device) -> int:
    """What one outer step takes at its peak, measured in this process, which should be a fresh one."""
    outer_step(Case(case.space, "adjoint", 1, case.width, case.batch), device)()
    return peak_of(outer_step(case, device), device)


def peak_bytes_elsewhere(case: Case, options: argparse.Namespace) -> int:
    """`peak_bytes` in a fresh process."""
    words = ["--device", options.device, "--threads", str(options.threads), "--case", json.dumps(case)]
    command = [sys.executable, str(Path(__file__).resolve()), *words]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def bench_gradients(options: argparse.Namespace) -> dict[str, Any]:
    """Adjoint and unrolled over few and many student steps; what would take over half of the memory is left out."""
    device, width = torch.device(options.device), 16 if options.small else 128
    results: dict[str, Any] = {}
    per_step = 0.0
    for num_steps in (2, 5, 10) if options.small else options.steps:
        fits = per_step * num_steps < _free_bytes(device) / 2
        names = ("adjoint", "kept", "unrolled") if fits else ("adjoint",)
        cases = {name: Case("pixel", name, num_steps, width) for name in names}
        peak = {name: peak_bytes_elsewhere(case, options) for name, case in cases.items()}
        per_step = max(per_step, peak.get("unrolled", 0) / num_steps)
        seconds = median_seconds(
            {name: outer_step(case, device) for name, case in cases.items()}, options.repeats, device
        )
        found: dict[str, Any] = {"seconds": seconds, "peak MB": {name: peak[name] / 1e6 for name in names}}
        if fits:
            found["time, adjoint against unrolled"] = seconds["adjoint"] / seconds["unrolled"]
            found["time, kept graphs against unrolled"] = seconds["kept"] / seconds["unrolled"]
            found["memory, unrolled against adjoint"] = peak["unrolled"] / max(1, peak["adjoint"])
        results[f"{num_steps} steps"] = found
        print(num_steps, json.dumps(found))
    return results


def bench_latent(options: argparse.Namespace) -> dict[str, Any]:
    """MTT of 10 images over 50 steps, as its recipe has it, against LatentMTT of 120 codes, which take as many bytes.

    LatentMTT's student takes as many steps times items either way: 20 steps of 128, its recipe's, or 40 of 64.
    """
    device, width, part = torch.device(options.device), 16 if options.small else 128, 10 if options.small else 1
    cases = {
        "MTT": Case("pixel", "kept", 50 // part, width),
        "LatentMTT": Case("latent", "kept", 20 // part, width, 128),
        "LatentMTT, 40 steps of 64": Case("latent", "kept", 40 // part, width),
    }
    peak = {name: peak_bytes_elsewhere(case, options) / 1e6 for name, case in cases.items()}
    seconds = median_seconds({name: outer_step(case, device) for name, case in cases.items()}, options.repeats, device)
    ratios = {name: seconds["MTT"] / seconds[name] for name in cases if name != "MTT"}
    return {"seconds": seconds, "peak MB": peak, "MTT against": ratios}


def main() -> None:
    """Run the benches, print their figures, write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--small", action="store_true", help="seconds instead of minutes: width 16, few steps")
    parser.add_argument("--only-latent", action="store_true", help="leave out the adjoint against unrolling")
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 50, 200], help="student steps")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.case:
        print(peak_bytes(Case(*json.loads(options.case)), torch.device(options.device)))
        return
    report: dict[str, Any] = {"device": options.device, "threads": options.threads, "torch": torch.__version__}
    report["latent"] = bench_latent(options)
    print("latent", json.dumps(report["latent"]))
    if not options.only_latent:
        report["gradients"] = bench_gradients(options)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
        print(f"written to {options.json}")


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    assert found is not None
    return 1024 * int(found[1])


if __name__ == "__main__":
    main()
