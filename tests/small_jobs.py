"""Jobs for the tests of engines, in a module of their own that workers import."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch
from torch import Tensor

from attar.base.errors import InputError
from attar.base.progress import Progress


def power(base: float, exponent: int, progress: Progress) -> float:
    progress.advance(exponent, loss=float(exponent))
    return base**exponent


def slow_when_first(shared: None, job: int, progress: Progress) -> int:
    """The first job ends last."""
    time.sleep(0.6 if job == 0 else 0.0)
    return job


def process(shared: Tensor, job: int, progress: Progress) -> tuple[int, int, float]:
    """Which process this is, torch's threads in it, and a sum over what is shared."""
    time.sleep(0.1)
    return os.getpid(), torch.get_num_threads(), float(shared.sum())


def cache_folder(shared: None, job: int, progress: Progress) -> str:
    return os.environ["ATTAR_CACHE"]


def refused(shared: None, job: int, progress: Progress) -> int:
    """Odd jobs are refused; the later ones at once, the first after a while."""
    if job % 2:
        time.sleep(0.5 if job == 1 else 0.0)
        raise InputError(f"job {job} is odd; give even ones")
    return job


class Unsendable(Exception):
    """Cannot be made again from its arguments."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def raises_unsendable(shared: None, job: int, progress: Progress) -> None:
    raise Unsendable("cannot", "travel")


def dies_first(folder: str, job: int, progress: Progress) -> float:
    """Job 1 kills its process half way through its first attempt; every job tells 5 steps."""
    progress.advance(3)
    marker = Path(folder, "died")
    if job == 1 and not marker.exists():
        time.sleep(0.5)  # so that the three steps are told
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    progress.advance(2)
    draw = torch.Generator().manual_seed(job)
    return float(torch.randn(1000, generator=draw).sum())


def always_dies(shared: None, job: int, progress: Progress) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def waits(folder: str, job: int, progress: Progress) -> None:
    """Says who it is and waits for a minute."""
    Path(folder, str(os.getpid())).touch()
    time.sleep(60)


def opens_a_task(shared: None, job: int, progress: Progress) -> int:
    progress.start("reading", 2)
    progress.advance(2)
    progress.finish()
    progress.start("working", 10)
    progress.note(f"job {job} works")
    for _ in range(10):
        progress.advance()
    progress.finish()
    return job
