"""What Ray costs and gains beside this process: `python bench/engines.py [--workers N] [--trainings N]`.

Trivial jobs show the cost of a job. Trainings are of a ConvNet-3 of width 32 on 500 random images of 3 x 32 x 32 for 20
epochs, a thread each. Each way is run three times, alternately, and its median is printed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

from attar.base.process import prepare_process

prepare_process()

import torch

from attar.base.engines import Engine, Local, engine_named
from attar.base.progress import Progress, Silent, Within
from attar.models.networks.network import NetworkConfig
from attar.models.training.items import FixedItems
from attar.models.training.loop import train_networks
from attar.models.training.settings import TrainingConfig

ROUNDS = 3


def double(shared: None, job: int, progress: Progress) -> int:
    """A trivial job."""
    return 2 * job


def train(items: FixedItems, seed: int, progress: Progress) -> float:
    """One training; the sum of what it learned."""
    training = TrainingConfig(epochs=20, batch_size=100, learning_rate=0.01)
    config = NetworkConfig(depth=3, width=32)
    (network,) = train_networks(config, items, 10, training, [seed], progress=Within(progress))
    return float(sum(parameter.detach().double().sum() for parameter in network.parameters()))


def seconds(engine: Engine, work: Any, jobs: range, shared: Any) -> tuple[float, list[Any]]:
    """How long the jobs take, and their results."""
    start = time.perf_counter()
    found = engine.map(work, jobs, shared, Silent())
    return time.perf_counter() - start, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--trainings", type=int, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    items = FixedItems(torch.randn(500, 3, 32, 32), torch.arange(500) % 10)
    tasks = {"1000 trivial jobs": (double, range(1000), None), "trainings": (train, range(arguments.trainings), items)}
    with engine_named("ray", workers=arguments.workers) as ray:
        print(f"start of Ray and its first jobs: {seconds(ray, train, range(arguments.workers), items)[0]:.1f} s")
        for name, (work, jobs, shared) in tasks.items():
            rounds = [(seconds(Local(), work, jobs, shared), seconds(ray, work, jobs, shared)) for _ in range(ROUNDS)]
            here, there = (statistics.median(each[way][0] for each in rounds) for way in (0, 1))
            same = all(local[1] == remote[1] for local, remote in rounds)
            print(f"{name}: here {here:.3f} s, on Ray {there:.3f} s; results equal: {same}")


if __name__ == "__main__":
    main()
