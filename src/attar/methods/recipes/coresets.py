"""Chosen real items, not trained: the baselines, in pixels and through a codec."""

from __future__ import annotations

from typing import Any

from attar.methods.recipes.recipe import Recipe
from attar.models.codecs.pca import PcaConfig
from attar.models.codecs.pixels import PixelsConfig

CORESETS: dict[str, dict[str, Any]] = {
    "random": {"title": "random real images"},
    "herding": {"title": "real images chosen by herding", "citations": ("herding",)},
    "k-centre": {"title": "real images chosen by greedy k-centre", "citations": ("k-centre",)},
    "random-codes": {"title": "codes of random real images, undistilled", "citations": ("latentdd",)},
    "herding-codes": {
        "title": "codes of real images chosen by herding, undistilled",
        "citations": ("latentdd", "herding"),
    },
    "k-centre-codes": {
        "title": "codes of real images chosen by greedy k-centre, undistilled",
        "citations": ("latentdd", "k-centre"),
    },
}


def coreset(name: str) -> Recipe:
    """Real images, or as many of their patch-PCA codes as the bytes hold, undistilled.

    random: each image of a class is equally likely. herding: images whose mean follows the class mean (Welling 2009).
    k-centre: images that cover the class (Sener & Savarese 2018). `-codes` chooses among the codes.

    Command: attar distill PHOTOS --recipe random

    Source: LatentDD Table 7, row "Initial", for `random-codes`.
    """
    codec = PcaConfig() if name.endswith("-codes") else PixelsConfig()
    return Recipe(name=name, codec=codec, initialization=name.removesuffix("-codes"), **CORESETS[name])
