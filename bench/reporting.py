"""What all benches share: their options, and how figures are printed and written."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

Bench = Callable[[argparse.Namespace], dict[str, Any]]


def run_benches(benches: Mapping[str, Bench], description: str | None, repeats: int, small: str | None = None) -> None:
    """Run the benches that the command line asks for, print their figures, write them where asked.

    Args:
        benches: each gets the options: device, repeats, threads, and small where `small` is given.
        description: of the command.
        repeats: by default.
        small: what --small does; None offers no such option.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--only", nargs="+", choices=sorted(benches), default=sorted(benches))
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    if small is not None:
        parser.add_argument("--small", action="store_true", help=small)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    report: dict[str, Any] = {"device": name, "threads": options.threads, "torch": torch.__version__, "benches": {}}
    print(f"{name}, {options.threads} threads, torch {torch.__version__}, medians of {options.repeats} alternate runs")
    for bench in options.only:
        report["benches"][bench] = benches[bench](options)
        print(bench, json.dumps(report["benches"][bench], indent=1))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
        print(f"written to {options.json}")


def on_device(bench: Callable[[torch.device, int], dict[str, Any]]) -> Bench:
    """A bench of device and repeats as one of options."""
    return lambda options: bench(torch.device(options.device), options.repeats)


def peak_of(step: Callable[[], Any], device: torch.device) -> int:
    """Bytes that a step takes at its peak above what was there before: on CUDA of what is allocated, else resident.

    On a CPU the process should be a fresh one in which a smaller step has been taken.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).malloc_trim(0)  # what the warm-up freed must not hide what the step takes
    before = _status_bytes("VmRSS")
    step()
    return max(0, _status_bytes("VmHWM") - before)  # in small cases the warm-up's peak may be the higher one


def _status_bytes(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])
