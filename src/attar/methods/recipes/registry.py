"""Recipes by name: one line each, or one for the table of a method."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from attar.base.errors import unknown
from attar.methods.recipes import coresets, d3, dc, dm, glad, idc, latentdd, ld3m, lic, mtt, rded, sre2l
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
    **_table(latentdd.latent_dm_published, latentdd.LATENT_DM),
    **_table(latentdd.latent_dc_published, latentdd.LATENT_DC),
    **_table(latentdd.latent_mtt_published, latentdd.LATENT_MTT),
    "dm": dm.dm,
    "dm-ipc100": dm.dm_ipc100,
    **_table(dc.dc, dc.DC),
    **_table(dc.dsa, dc.DSA),
    "idc": idc.idc,
    "idc-imagenet10": idc.idc_imagenet10,
    "idc-matching": idc.idc_matching,
    "idc-matching-imagenet10": idc.idc_matching_imagenet10,
    **_table(mtt.mtt, mtt.MTT),
    **_table(mtt.mtt_imagenet, mtt.MTT_IMAGENET),
    **_table(mtt.tesla, mtt.TESLA),
    **_table(mtt.ftd, mtt.FTD),
    **_table(mtt.datm, mtt.DATM),
    "d3": d3.d3,
    "d3-fixed": d3.d3_fixed,
    "d3-mtt": d3.d3_mtt,
    "d3-mmd": d3.d3_mmd,
    "d3-alternating": d3.d3_alternating,
    **_table(d3.d3_published, d3.D3),
    **_table(ld3m.ld3m, ld3m.LD3M),
    **_table(glad.glad, glad.GLAD),
    "lic": lic.lic,
    **_table(lic.lic_published, lic.LIC),
    **_table(rded.rded, rded.RDED),
    **_table(sre2l.sre2l, sre2l.SRE2L),
    "random-regions": lic.random_regions,
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
