"""NCFM (Wang et al., CVPR 2025): characteristic functions of features, on canvases of four images."""

from __future__ import annotations

from attar.data.augmentation import DsaConfig
from attar.methods.labels import SoftLabels
from attar.methods.objectives.characteristic import CharacteristicConfig
from attar.methods.optimizer import OptimizerConfig
from attar.methods.parameterizations.mosaic import MosaicConfig
from attar.methods.recipes.published import (
    ANY_IMAGES,
    BENCHMARKS,
    IPC_COLUMNS,
    by_ipc,
    data_and_ipc,
    with_figures,
)
from attar.methods.recipes.recipe import Recipe
from attar.models.codecs.pixels import PixelsConfig
from attar.models.experts.config import ExpertsConfig

_NCFM = {"cifar10": (49.5, 71.8, 77.4), "cifar100": (34.4, 48.7, 54.7)}
NCFM = {"ncfm": None, **by_ipc("ncfm", _NCFM)}

#: Spread of pixels in [0, 1] by which items are normalised: official rates are for pixels.
_PIXEL_SPREAD = 0.25


@with_figures(IPC_COLUMNS, _NCFM)
def ncfm(name: str) -> Recipe:
    """NCFM with its official settings; `ncfm` has fewer frequencies, experts and steps, for images of any size.

    Four images to a canvas, twenty experts of sixty epochs, a network that proposes frequencies, calibration by a
    trained expert, and that expert's labels in the end.

    Command: attar distill CIFAR10 --recipe ncfm-cifar10-ipc10

    Source: gszfwsb/NCFM at 074ca28: config/sampling_net/ipc1/cifar10.yaml and its kin, condenser/.
    Deviation: see `Characteristic`; rates are for normalised pixels (spread 0.25), without AdamW's weight decay. Labels
        are those of one expert for the finished tiles; the official evaluation asks its teacher anew in every batch.
    """
    small = name == "ncfm"
    data, ipc = ("", 1) if small else data_and_ipc(name)
    benchmark = BENCHMARKS.get(data, ANY_IMAGES)
    experts = ExpertsConfig(
        count=5 if small else 20, epochs=10 if small else 60, batch_size=128, learning_rate=0.01, momentum=0.9
    )
    return Recipe(
        name=name,
        title=f"NCFM: characteristic functions of features, {benchmark.title}, {ipc} IPC",
        codec=PixelsConfig(),
        parameterization=MosaicConfig(grid=2),
        objective=CharacteristicConfig(
            network=benchmark.network,
            experts=experts,
            num_frequencies=1024 if small else 4096,
            real_batch_size=64 if small else 1024,
            augmentation=DsaConfig(strategy="color_crop_cutout", mode="multiple"),
        ),
        labels=SoftLabels(initial="expert", computed="end"),
        optimizer=OptimizerConfig(kind="adamw", learning_rate=1e-3 / _PIXEL_SPREAD, valid_range=True),
        steps=1000 if small else 20_000,
        citations=("ncfm", "idc"),
        **benchmark.settings(f"{ipc}ipc", NCFM[name], "NCFM Table 1"),
    )
