"""Recipes by name: one line each, or one for the table of a method."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from attar.base.errors import unknown
from attar.methods.recipes import condensation, coresets, d3, fred, generative, latentdd, mtt, ncfm, observed
from attar.methods.recipes.recipe import Recipe


def _table(build: Callable[[str], Recipe], names: Iterable[str]) -> dict[str, Callable[[], Recipe]]:
    """A function for each name of a method's table, with the method's docstring."""

    def named(name: str) -> Callable[[], Recipe]:
        def recipe() -> Recipe:
            return build(name)

        recipe.__doc__ = build.__doc__
        return recipe

    return {name: named(name) for name in names}


REGISTRY: dict[str, Callable[[], Recipe]] = {
    "latent-dm": latentdd.latent_dm,
    "latent-dc": latentdd.latent_dc,
    "latent-mtt": latentdd.latent_mtt,
    **_table(latentdd.latent_published, latentdd.TABLE_6),
    "dm": condensation.dm,
    "dm-ipc100": condensation.dm_ipc100,
    **_table(condensation.dc, condensation.DC),
    **_table(condensation.dsa, condensation.DSA),
    **_table(condensation.idc, condensation.IDC),
    **_table(mtt.mtt, mtt.MTT),
    **_table(mtt.mtt_imagenet, mtt.MTT_IMAGENET),
    **_table(mtt.tesla, mtt.TESLA),
    **_table(mtt.ftd, mtt.FTD),
    **_table(mtt.datm, mtt.DATM),
    **_table(fred.fred, fred.FRED),
    **_table(ncfm.ncfm, ncfm.NCFM),
    **_table(d3.d3_small, d3.D3_SMALL),
    **_table(d3.d3_published, d3.D3),
    **_table(generative.ld3m, generative.LD3M),
    **_table(generative.glad, generative.GLAD),
    "lic": observed.lic,
    **_table(observed.lic_published, observed.LIC),
    **_table(observed.rded, observed.RDED),
    **_table(observed.sre2l, observed.SRE2L),
    "random-regions": observed.random_regions,
    **_table(coresets.coreset, coresets.CORESETS),
}


def recipe(name: str) -> Recipe:
    """The recipe called `name`. Raises InputError for an unknown one, with the nearest name."""
    if name not in REGISTRY:
        raise unknown("recipe", name, REGISTRY)
    return REGISTRY[name]()
