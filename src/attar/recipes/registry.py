"""Recipes by name: one line each."""

from __future__ import annotations

from collections.abc import Callable

from attar.errors import unknown
from attar.recipes import coresets, dm, latentdd
from attar.recipes.recipe import Recipe

REGISTRY: dict[str, Callable[[], Recipe]] = {
    "latent-dm": latentdd.latent_dm,
    "latent-dm-256-f4-ipc1": latentdd.latent_dm_256_f4_ipc1,
    "latent-dm-256-f8-ipc1": latentdd.latent_dm_256_f8_ipc1,
    "latent-dm-256-f4-ipc10": latentdd.latent_dm_256_f4_ipc10,
    "latent-dm-512-f4-ipc1": latentdd.latent_dm_512_f4_ipc1,
    "latent-dm-512-f8-ipc1": latentdd.latent_dm_512_f8_ipc1,
    "dm": dm.dm,
    "dm-ipc100": dm.dm_ipc100,
    "random": coresets.random,
    "herding": coresets.herding,
    "k-centre": coresets.k_centre,
    "random-codes": coresets.random_codes,
    "herding-codes": coresets.herding_codes,
    "k-centre-codes": coresets.k_centre_codes,
}


def recipe(name: str) -> Recipe:
    """The recipe called `name`. Raises InputError for an unknown one, with the nearest name."""
    if name not in REGISTRY:
        raise unknown("recipe", name, REGISTRY)
    return REGISTRY[name]()
