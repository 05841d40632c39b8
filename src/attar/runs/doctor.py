"""What this machine offers to attar, and whether the essential works."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

Status = Literal["ok", "note", "fault"]

EXTRAS = {
    "diffusers": ("autoencoder codecs", "diffusion"),
    "pyarrow": ("parquet files", "parquet"),
    "datasets": ("hf:NAME data sets", "hub"),
    "ray": ("jobs on a cluster", "ray"),
}


@dataclass(frozen=True)
class Check:
    """One finding.

    Args:
        name: what was looked at.
        status: "note" costs a feature or speed, "fault" means that attar does not work here.
        text: what was found and, unless ok, how to mend it.
    """

    name: str
    status: Status
    text: str


def doctor(self_check: bool = True) -> list[Check]:
    """Look at Python, torch, devices, threads, memory, cache, extras and compiler; distil a little if asked to.

    Args:
        self_check: distil and store the built-in digits in memory; a few seconds.

    Returns:
        The findings, in the order to show. attar works here where no status is "fault".
    """
    checks = [_python(), _torch(), _device(), _threads(), _memory(), _cache(), _compiler()]
    checks += [_extra(package) for package in EXTRAS]
    return [*checks, _guarded("self-check", _self_check)] if self_check else checks


def _python() -> Check:
    good = sys.version_info >= (3, 10)
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Check("python", "ok" if good else "fault", text if good else f"{text}; attar needs 3.10 or newer")


def _torch() -> Check:
    import torch

    return Check("torch", "ok", torch.__version__)


def _device() -> Check:
    import torch

    from attar.base.device import size_text

    if not torch.cuda.is_available():
        return Check("device", "note", "cpu only; recipes with thousands of steps want a CUDA GPU")
    names = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        names.append(f"cuda:{index} {properties.name}, {size_text(properties.total_memory)}")
    return Check("device", "ok", "; ".join(names))


def _threads() -> Check:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    text = f"{threads} threads on {cores} cores"
    if threads > cores:
        return Check("threads", "note", f"{text}; set OMP_NUM_THREADS={cores}")
    return Check("threads", "ok", text)


def _memory() -> Check:
    from attar.base.device import size_text

    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return Check("memory", "note", "its size cannot be read on this system")
    return Check("memory", "ok", size_text(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))


def _cache() -> Check:
    from attar.base.device import size_text
    from attar.base.files import cache_directory

    try:
        folder = cache_directory("codes").parent
    except OSError as error:
        return Check("cache", "fault", f"cannot be made: {error}; set ATTAR_CACHE to a folder you may write to")
    if not os.access(folder, os.W_OK):
        return Check("cache", "fault", f"{folder} cannot be written to; set ATTAR_CACHE to a folder you may write to")
    used = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    free = shutil.disk_usage(folder).free
    return Check("cache", "ok", f"{folder}: {size_text(used)} used, {size_text(free)} free; deleting it is safe")


def _compiler() -> Check:
    compiler = os.environ.get("CXX") or next((name for name in ("g++", "clang++", "cl") if shutil.which(name)), None)
    if compiler is None:
        return Check("C++ compiler", "note", "none; torch.compile is not used on the CPU, which is slower. Install g++")
    return Check("C++ compiler", "ok", f"{compiler}, for torch.compile")


def _extra(package: str) -> Check:
    purpose, extra = EXTRAS[package]
    if importlib.util.find_spec(package) is None:
        return Check(package, "note", f"absent: no {purpose}; pip install 'attar[{extra}]'")
    try:
        return Check(package, "ok", f"{version(package)}, for {purpose}")
    except PackageNotFoundError:
        return Check(package, "note", f"found without its version, for {purpose}; pip install 'attar[{extra}]'")


def _self_check() -> Check:
    from attar.runs.distill import distill

    start = time.perf_counter()
    small = distill("digits", "latent-dm", "1ipc", settings={"steps": 3, "objective.network.width": 16}, device="cpu")
    finite = bool(small.images().isfinite().all())
    text = f"distilled the built-in digits for 3 steps in {time.perf_counter() - start:.1f} s"
    return Check("self-check", "ok" if finite else "fault", text if finite else f"{text}, and images are not finite")


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    """A check whose failure, of whatever kind, is its finding."""
    try:
        return check()
    except Exception as error:
        return Check(
            name,
            "fault",
            f"{type(error).__name__}: {error}; attar distill digits --out check.attar.safetensors shows where",
        )
