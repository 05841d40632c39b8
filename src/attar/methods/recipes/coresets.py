"""Chosen real items, not trained: the baselines, in pixels and through a codec (LatentDD's "Initial")."""

from __future__ import annotations

from attar.methods.recipes.recipe import Recipe
from attar.models.codecs.pca import PcaConfig
from attar.models.codecs.pixels import PixelsConfig


def random() -> Recipe:
    """Random real images of each class. Command: attar distill PHOTOS --recipe random."""
    return Recipe(name="random", title="random real images", codec=PixelsConfig())


def herding() -> Recipe:
    """Real images whose mean follows the class mean (Welling 2009). Command: attar distill PHOTOS --recipe herding."""
    return Recipe(
        name="herding",
        title="real images chosen by herding",
        codec=PixelsConfig(),
        initialization="herding",
        citations=("herding",),
    )


def k_centre() -> Recipe:
    """Real images that cover the class (Sener & Savarese 2018). Command: attar distill PHOTOS --recipe k-centre."""
    return Recipe(
        name="k-centre",
        title="real images chosen by greedy k-centre",
        codec=PixelsConfig(),
        initialization="k-centre",
        citations=("k-centre",),
    )


def random_codes() -> Recipe:
    """Random real images as codes, as many as the bytes hold: LatentDD Table 7, row "Initial"."""
    return Recipe(
        name="random-codes",
        title="codes of random real images, undistilled",
        codec=PcaConfig(),
        citations=("latentdd",),
    )


def herding_codes() -> Recipe:
    """Codes of real images chosen by herding among the codes, undistilled."""
    return Recipe(
        name="herding-codes",
        title="codes of real images chosen by herding, undistilled",
        codec=PcaConfig(),
        initialization="herding",
        citations=("latentdd", "herding"),
    )


def k_centre_codes() -> Recipe:
    """Codes of real images chosen by greedy k-centre among the codes, undistilled."""
    return Recipe(
        name="k-centre-codes",
        title="codes of real images chosen by greedy k-centre, undistilled",
        codec=PcaConfig(),
        initialization="k-centre",
        citations=("latentdd", "k-centre"),
    )
