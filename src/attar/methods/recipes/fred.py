"""FreD (Shin, Shin & Moon, NeurIPS 2023): a few frequencies of each item, chosen for each class by variance."""

from __future__ import annotations

from attar.data.augmentation import DsaConfig
from attar.methods.objectives.gradients import GradientsConfig
from attar.methods.objectives.trajectories import TrajectoriesConfig
from attar.methods.optimizer import OptimizerConfig
from attar.methods.parameterizations.frequencies import FrequenciesConfig
from attar.methods.recipes.published import BENCHMARKS
from attar.methods.recipes.recipe import Recipe
from attar.models.codecs.pixels import PixelsConfig

#: The official code moves coefficients of a DCT that is not orthonormal, 2 N times as large along N x N pixels as the
#: orthonormal one's: a rate for ours is theirs divided by (2 N)^2.
_OFFICIAL_UNIT = (2 * 32) ** 2

FRED = ("fred-dc", "fred-cifar10-ipc1")


def fred(name: str) -> Recipe:
    """FreD with the settings of the official scripts: by gradients for images of any size, by trajectories on CIFAR-10.

    `fred-cifar10-ipc1` matches trajectories: 60.6 % at 1 IPC. `fred-dc` has 32 frequencies of each channel.

    Command: attar distill CIFAR10 --recipe fred-dc --budget 1ipc
             attar distill CIFAR10 --recipe fred-cifar10-ipc1

    Source: sdh0818/FreD at 60b16ac: DC/scripts/run_DC_FreD.sh, TM/scripts/run_TM_FreD.sh, TM/hyper_params.py; the
        figure: FreD Table 1, as DD-RUO's plot has it.
    Deviation: rates are for an orthonormal DCT; the official one scales coefficients of frequency 0 apart, which move
        half as far here along each axis. The latest start is one less than `max_start_epoch`, as in MTT.
    """
    return _by_trajectories(name) if name == "fred-cifar10-ipc1" else _by_gradients(name)


def _by_gradients(name: str) -> Recipe:
    return Recipe(
        name=name,
        title="FreD: gradients of a few frequencies",
        codec=PixelsConfig(),
        parameterization=FrequenciesConfig(num_frequencies=32),
        objective=GradientsConfig(real_batch_size=256, train_batch_size=256, learning_rate=0.01),
        optimizer=OptimizerConfig(learning_rate=1e3 / _OFFICIAL_UNIT, momentum=0.5),
        steps=1000,
        citations=("fred", "dc"),
    )


def _by_trajectories(name: str) -> Recipe:
    benchmark = BENCHMARKS["cifar10"]
    return Recipe(
        name=name,
        title="FreD: trajectories of a few frequencies, CIFAR-10, 1 IPC",
        codec=PixelsConfig(),
        parameterization=FrequenciesConfig(num_frequencies=64),
        objective=TrajectoriesConfig(
            network=benchmark.network,
            student_steps=50,
            max_start_epoch=4,
            student_rate_learning_rate=1e-7,
            augmentation=DsaConfig(),
        ),
        optimizer=OptimizerConfig(learning_rate=1e8 / _OFFICIAL_UNIT, momentum=0.5),
        steps=15_000,
        citations=("fred", "mtt", "dsa"),
        **benchmark.settings("1ipc", 60.6, "FreD Table 1, as in DD-RUO's figure"),
    )
