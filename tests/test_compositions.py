"""Every pair of kinds: it runs on the digits, or the recipe is refused by a need with a name, and never by a list."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from attar.base.config import override
from attar.base.errors import InputError
from attar.data.image_set import ImageSet
from attar.methods.composition import NEEDS
from attar.methods.objectives.objective import NoObjectiveConfig
from attar.methods.objectives.registry import PartConfig
from attar.methods.objectives.sums import SumConfig
from attar.methods.parameterizations.registry import REGISTRY as PARAMETERIZATIONS
from attar.methods.recipes import Recipe, recipe
from attar.runs.distill import distill
from attar.sets.distilled import DistilledSet
from small_diffusion import saved_prior
from small_generator import saved_synthesis
from small_pretrained import saved_autoencoder
from small_sets import digit_images, first_items

SHARES_CACHE = True  # Experts and observers are trained once for all tests

NETWORK: dict[str, Any] = {"kind": "convnet", "depth": 1, "width": 4}
EXPERTS: dict[str, Any] = {"count": 1, "epochs": 2}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "none": {},
    "features": {"network": NETWORK, "real_batch_size": 4},
    "gradients": {"network": NETWORK, "real_batch_size": 4, "train_batch_size": 16},
    "trajectories": {"network": NETWORK, "experts": EXPERTS, "student_steps": 2, "max_start_epoch": 0},
    "discrepancy": {"network": NETWORK, "experts": EXPERTS, "real_batch_size": 4, "estimator": "biased"},
    "characteristic": {"network": NETWORK, "experts": EXPERTS, "real_batch_size": 4, "num_frequencies": 8},
    "alignment": {},
    "inversion": {},
    "sum": {
        "parts": [
            {"kind": "features", "network": NETWORK, "real_batch_size": 4},
            {"kind": "discrepancy", "network": NETWORK, "experts": EXPERTS, "real_batch_size": 4},
        ]
    },
}
LABELS: dict[str, dict[str, Any]] = {
    "hard": {},
    "soft": {"initial": "class", "learning_rate": 1.0},
    "expert": {"kind": "soft", "initial": "expert", "computed": "end"},
    "regions": {"epochs": 2},
}
ITEMS: dict[str, dict[str, Any]] = {
    "codes": {},
    "mosaic": {},
    "priors": {"decoder": {"latent_dim": 4, "width": 8}},
    "fixed": {"kind": "priors", "distribution": "fixed", "decoder": {"latent_dim": 4, "width": 8}},
    "diffusion": {"sampling": {"num_steps": 2}},
    "generator": {"depth": 1},
    "frequencies": {"num_frequencies": 16},
}
OBSERVER: dict[str, Any] = {
    "network": {"kind": "convnet", "depth": 1, "width": 8, "norm": "batch"},
    "training": {"epochs": 1, "batch_size": 40, "min_steps": None},
    "least_accuracy": 0.0,
}
ADAM = {"kind": "adam", "learning_rate": 1e-3}

#: The pairs that cannot make sense, and the needs that say so; all others run.
REFUSED: dict[tuple[str, str], set[str]] = {
    ("alignment", "codes"): {"loss"},  # pixels are their own originals
    **{("alignment", items): {"originals"} for items in ("priors", "fixed", "generator")},
    **{("none", items): {"steps"} for items in ("priors", "fixed")},
    ("inversion", "priors"): {"samples"},
    ("priors", "regions"): {"fixed items"},
    ("none", "soft"): {"steps"},
    ("none", "expert"): {"steps"},
    **{(objective, "expert"): {"experts"} for objective in ("features", "gradients", "alignment", "inversion")},
}


def refusing_needs(items: str, objective: str, labels: str) -> set[str]:
    """The needs that a composition of these is refused for."""
    pairs = itertools.combinations((objective, items, labels), 2)
    found = set().union(*(REFUSED.get(pair, set()) for pair in pairs))
    return found


@pytest.fixture(scope="module")
def few_digits() -> ImageSet:
    return digit_images().select(first_items(digit_images(), 6))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "diffusion": str(saved_prior(folder / "prior.safetensors")),
        "generator": str(saved_synthesis(folder / "generator.safetensors")),
    }


def settings_of(items: str, objective: str, labels: str, models: dict[str, str]) -> dict[str, Any]:
    kind = ITEMS[items].get("kind", items)
    trains = objective != "none"
    observed = objective in ("alignment", "inversion") or labels == "regions"
    return {
        "codec": {"kind": kind, "path": models[kind]} if kind in models else {"kind": "pixels"},
        "initialization": "noise" if kind in ("priors", "generator") else "random",
        "parameterization": {"kind": kind, **ITEMS[items]},
        "objective": {"kind": objective, **OBJECTIVES[objective]},
        "labels": {"kind": labels, **LABELS[labels]},
        "observer": OBSERVER if observed else None,
        "optimizer": ADAM if trains else None,
        "decoder_optimizer": ADAM if trains and kind == "priors" else None,
        "feature_optimizer": ADAM if trains and kind == "generator" else None,
        "steps": 1 if trains else 0,
    }


def composed(items: str, objective: str, labels: str, models: dict[str, str], **changes: Any) -> Recipe:
    return override(recipe("random"), {**settings_of(items, objective, labels, models), **changes})


def test_the_walk_knows_every_kind() -> None:
    """A new kind is walked too, or this fails."""
    kinds = {part.model_fields["kind"].default for part in get_args(PartConfig)}
    assert set(OBJECTIVES) == {NoObjectiveConfig().kind, SumConfig.model_fields["kind"].default, *kinds}
    assert {settings.get("kind", name) for name, settings in ITEMS.items()} == set(PARAMETERIZATIONS)
    labels = {kind.model_fields["kind"].default for kind in get_args(Recipe.model_fields["labels"].annotation)}
    assert {settings.get("kind", name) for name, settings in LABELS.items()} == labels


def check(made: DistilledSet, labels: str) -> None:
    assert bool(made.images().isfinite().all()) and made.num_classes == 10
    assert made.manifest.labels_kind == {"expert": "soft"}.get(labels, labels)
    if made.soft_labels is not None:
        torch.testing.assert_close(made.soft_labels.sum(1), torch.ones(len(made)))
    for inputs, targets in made.loader(64):
        assert bool(inputs.isfinite().all()) and len(inputs) == len(targets)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("items", ITEMS)
def test_every_objective_matches_every_kind_of_items(
    items: str, objective: str, few_digits: ImageSet, models: dict[str, str]
) -> None:
    walked(items, objective, "hard", few_digits, models)


@pytest.mark.parametrize("labels", ["soft", "expert", "regions"])
@pytest.mark.parametrize("items", ITEMS)
def test_every_kind_of_labels_is_for_every_kind_of_items(
    items: str, labels: str, few_digits: ImageSet, models: dict[str, str]
) -> None:
    walked(items, "discrepancy", labels, few_digits, models)


@pytest.mark.parametrize("labels", ["soft", "expert", "regions"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_kind_of_labels_is_for_every_objective(
    objective: str, labels: str, few_digits: ImageSet, models: dict[str, str]
) -> None:
    walked("mosaic", objective, labels, few_digits, models)


def walked(items: str, objective: str, labels: str, images: ImageSet, models: dict[str, str]) -> None:
    """The composition runs, or is refused by exactly the needs that are written down for its pairs."""
    expected = refusing_needs(items, objective, labels)
    if not expected:
        check(distill(images, composed(items, objective, labels, models), "1lpc"), labels)
        return
    with pytest.raises(InputError) as caught:
        composed(items, objective, labels, models)
    told = re.findall(r"\(unmet need: ([a-z ]+)\)", str(caught.value))
    assert set(told) == expected and set(told) <= set(NEEDS)
    assert "\n" not in str(caught.value) and "set " in str(caught.value)


@pytest.mark.parametrize("items", ["mosaic", "frequencies", "diffusion", "generator"])
def test_subtasks_are_for_every_kind(items: str, few_digits: ImageSet, models: dict[str, str]) -> None:
    """Region labels are given to the merged set, by an observer of all classes."""
    made = distill(few_digits, composed(items, "discrepancy", "regions", models), "1lpc", subtasks=2)
    check(made, "regions")
    assert len(made.manifest.shards) == 2
    identities = {shard.regions.observer.identity for shard in made.manifest.shards if shard.regions}  # type: ignore[union-attr]
    assert len(identities) == 1


def test_alignment_restores_what_a_lossy_codec_lost(few_digits: ImageSet, models: dict[str, str]) -> None:
    for items in ("mosaic", "codes"):
        lossy = {"kind": "pca", "factor": 4, "channels": 2}
        made = distill(few_digits, composed(items, "alignment", "hard", models, codec=lossy), "1lpc")
        assert bool(made.images().isfinite().all()) and made.manifest.shards[0].parameterization["kind"] == items


def test_alignment_of_canvases_in_an_autoencoders_latent_space(tmp_path: Path, models: dict[str, str]) -> None:
    """LIC in latent space: canvases are an autoencoder's codes, aligned as an observer sees their tiles."""
    folder = saved_autoencoder(tmp_path / "autoencoder")
    few = digit_images().select(first_items(digit_images(), 6))
    pixels = few.images.expand(-1, 3, -1, -1).repeat_interleave(2, 2).repeat_interleave(2, 3).contiguous()
    coloured = ImageSet(pixels, few.labels, few.classes)
    latent = composed("mosaic", "alignment", "regions", models, codec={"kind": "autoencoder", "path": str(folder)})
    made = distill(coloured, latent, "1lpc")
    start = distill(coloured, override(latent, {"objective": {"kind": "none"}, "optimizer": None, "steps": 0}), "1lpc")
    check(made, "regions")
    assert made.manifest.shards[0].codec.spec["kind"] == "autoencoder" and made.codes.shape == (10, 4, 4, 4)
    assert not torch.equal(made.codes, start.codes)


def test_every_unmet_need_is_told_at_once(models: dict[str, str]) -> None:
    with pytest.raises(InputError) as caught:
        composed("priors", "inversion", "regions", models, initialization="random")
    assert set(re.findall(r"unmet need: ([a-z ]+)", str(caught.value))) == {"start", "samples", "fixed items"}


def test_needs_have_words() -> None:
    page = (Path(__file__).parents[1] / "docs" / "contracts.md").read_text(encoding="utf-8")
    assert all(f"`{need}`" in page for need in NEEDS)
