"""Chosen real items, not trained: the baselines, in pixels and through a codec."""

from __future__ import annotations

from attar.methods.initialization import Choice
from attar.methods.recipes.recipe import Recipe
from attar.models.codecs.pca import PcaConfig
from attar.models.codecs.pixels import PixelsConfig

# Name -> title, works, and how items are chosen.
CORESETS: dict[str, tuple[str, tuple[str, ...], Choice]] = {
    "random": ("random real images", (), "random"),
    "herding": ("real images chosen by herding", ("herding",), "herding"),
    "k-centre": ("real images chosen by greedy k-centre", ("k-centre",), "k-centre"),
    "random-codes": ("codes of random real images", ("latentdd",), "random"),
    "herding-codes": ("codes of real images chosen by herding", ("latentdd", "herding"), "herding"),
    "k-centre-codes": ("codes of real images chosen by greedy k-centre", ("latentdd", "k-centre"), "k-centre"),
}


def coreset(name: str) -> Recipe:
    """Real images, or as many of their patch-PCA codes as the bytes hold, undistilled.

    random: each image of a class is equally likely. herding: images whose mean follows the class mean (Welling 2009).
    k-centre: images that cover the class (Sener & Savarese 2018). `-codes` chooses among the codes.

    Command: attar distill PHOTOS --recipe random

    Source: LatentDD Table 7, row "Initial", for `random-codes`.
    """
    title, citations, initialization = CORESETS[name]
    in_codes = name.endswith("-codes")
    return Recipe(
        name=name,
        title=f"{title}, undistilled" if in_codes else title,
        codec=PcaConfig() if in_codes else PixelsConfig(),
        initialization=initialization,
        citations=citations,
    )
