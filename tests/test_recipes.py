"""Recipes of published methods: every one resolves, cites what is known, and holds the numbers of its source."""

from __future__ import annotations

from pathlib import Path

import pytest

from attar.base.config import override
from attar.base.errors import InputError
from attar.methods.citations import ENTRIES
from attar.methods.labels import HardLabels, SoftLabels
from attar.methods.objectives.discrepancy import DiscrepancyConfig
from attar.methods.objectives.features import FeaturesConfig
from attar.methods.objectives.gradients import GradientsConfig
from attar.methods.objectives.objective import NoObjectiveConfig
from attar.methods.objectives.sums import SumConfig
from attar.methods.objectives.trajectories import TrajectoriesConfig
from attar.methods.parameterizations.diffusion import DiffusionConfig
from attar.methods.parameterizations.priors import PriorsConfig
from attar.methods.recipes import REGISTRY, Recipe, recipe

# Recipes of our own, and published settings for which no figure of the authors was found.
WITHOUT_FIGURES = {
    *("random", "herding", "k-centre", "random-codes", "herding-codes", "k-centre-codes"),
    *("latent-dm", "latent-dc", "latent-mtt", "dm-ipc100", "ftd-tiny-ipc50"),
    *("mtt-bird-128-ipc1", "mtt-yellow-128-ipc1"),  # figures exist, but were not found in a source
    *(f"{method}-{data}" for method in ("dc", "dsa") for data in ("cifar100-ipc50", "tiny-ipc1", "tiny-ipc10")),
    *("dc", "dsa", "dc-tiny-ipc50", "dsa-tiny-ipc50"),
    *("lic", "random-regions", "fred-dc", "ncfm"),
    *("ld3m-dc-official", "ld3m-dm-official", "ld3m-mtt-official"),  # the official code gives none
    *("d3", "d3-fixed", "d3-mtt", "d3-mmd", "d3-alternating"),
    *("d3-cifar100-2lpc", "d3-cifar100-5lpc"),  # figures exist, but were not found in a source
}


@pytest.mark.parametrize("name", REGISTRY)
def test_a_recipe_resolves_and_says_where_it_is_from(name: str) -> None:
    built = recipe(name)
    assert Recipe.model_validate(built.model_dump()) == built  # a copied field escapes validation, so validate again
    assert set(built.citations) <= set(ENTRIES)
    assert bool(built.expected) == (name not in WITHOUT_FIGURES)
    assert "attar distill" in (REGISTRY[name].__doc__ or "") or name in WITHOUT_FIGURES


@pytest.mark.parametrize("name", [name for name in REGISTRY if recipe(name).expected and name != "dm"])
def test_figures_are_for_the_recipes_own_budget_and_stand_in_its_docstring(name: str) -> None:
    built = recipe(name)
    budgets = {each.budget for each in built.expected}
    assert budgets == ({"1ipc", "10ipc", "50ipc"} if built.observer else {built.budget})
    if not name.startswith("latent"):  # there they are whole tables of the paper
        assert all(f" {each.accuracy}" in (REGISTRY[name].__doc__ or "") for each in built.expected)


def test_the_bibliography_is_in_the_package() -> None:
    pyproject = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    assert '"methods/citations.bib"' in pyproject and all(entry.startswith("@") for entry in ENTRIES.values())


@pytest.mark.parametrize("name", REGISTRY)
def test_augmentation_stays_out_of_spaces_that_are_not_affine(name: str) -> None:
    built = recipe(name)
    if built.codec.kind in ("autoencoder", "resample"):
        assert not isinstance(built.objective, NoObjectiveConfig) and built.objective.augmentation is None


@pytest.mark.parametrize(
    ("column", "codec", "batch", "depths", "rates", "student_steps"),
    [
        ("256-f4-ipc1", "resample", 64, (4, 6), (0.05, 0.5, 50), 40),
        ("256-f8-ipc1", "autoencoder", 64, (3, 6), (0.05, 0.1, 1), 60),
        ("256-f4-ipc10", "resample", 64, (4, 6), (0.05, 0.5, 10), 80),
        ("512-f4-ipc1", "resample", 32, (5, 7), (0.25, 0.5, 500), 40),
        ("512-f8-ipc1", "autoencoder", 16, (4, 7), (0.05, 0.1, 20), 60),
    ],
)
def test_table_6_of_latentdd_for_all_three_methods(
    column: str, codec: str, batch: int, depths: tuple[int, int], rates: tuple[float, ...], student_steps: int
) -> None:
    methods = [recipe(f"latent-{method}-{column}") for method in ("dc", "dm", "mtt")]
    gradients, features, trajectories = (built.objective for built in methods)
    assert isinstance(gradients, GradientsConfig) and isinstance(features, FeaturesConfig)
    assert isinstance(trajectories, TrajectoriesConfig)
    for built, rate in zip(methods, rates, strict=True):
        assert built.optimizer is not None and built.optimizer.learning_rate == rate
        assert built.optimizer.rate(48) == pytest.approx(48 * rate)  # Eq. 10
        assert (built.objective.network.depth, built.evaluation_network.depth) == depths
        assert (built.codec.kind, built.image_size, built.labels) == (codec, int(column[:3]), HardLabels())
    assert gradients.real_batch_size == features.real_batch_size == trajectories.student_batch_size == batch
    assert (gradients.outer_steps, gradients.inner_steps, gradients.train_on) == (10, 50, "real")
    assert (gradients.distance, gradients.matched, gradients.learning_rate) == ("mse", "convolutions", 0.01)
    assert (trajectories.expert_epochs, trajectories.student_steps) == (1, student_steps)
    assert (trajectories.max_start_epoch, trajectories.student_rate_learning_rate) == (5, 1e-6)
    assert [built.steps for built in methods] == [1000 * 10, 1000, 5000]


@pytest.mark.parametrize(
    ("name", "accuracies"),
    [
        ("latent-dc-256-f4-ipc1", (46.72, 30.12, 28.96, 38.08, 55.92)),
        ("latent-dc-512-f8-ipc1", (69.46, 37.22)),
        ("latent-mtt-256-f4-ipc1", (52.86, 37.82, 39.84, 41.42, 62.86)),
        ("latent-mtt-256-f4-ipc10", (78.44, 52.46)),
        ("latent-mtt-512-f8-ipc1", (69.20, 42.84)),
    ],
)
def test_latentdds_figures(name: str, accuracies: tuple[float, ...]) -> None:
    expected = recipe(name).expected
    assert tuple(each.accuracy for each in expected) == accuracies
    subsets = [each.data.split()[0] for each in expected]
    assert subsets == ["Bird", "Fruit", "Woof", "Cat", "Nette"][: len(accuracies)]


@pytest.mark.parametrize("method", ["dc", "dsa"])
@pytest.mark.parametrize(
    ("data", "images_per_class", "outer", "inner"),
    [
        ("cifar10", 1, 1, 1),
        ("cifar10", 10, 10, 50),  # 100 images are one batch of 256, 500 are two, 1000 four, 10,000 forty
        ("cifar10", 50, 50, 10 * 2),
        ("cifar100", 10, 10, 50 * 4),
        ("tiny", 50, 50, 10 * 40),
    ],
)
def test_dc_counts_matchings_and_steps(method: str, data: str, images_per_class: int, outer: int, inner: int) -> None:
    built = recipe(f"{method}-{data}-ipc{images_per_class}")
    assert isinstance(built.objective, GradientsConfig)
    assert (built.objective.outer_steps, built.objective.inner_steps) == (outer, inner)
    assert built.steps == 1000 * outer
    assert (built.objective.augmentation is None) == (method == "dc")


def test_idcs_rate_is_that_of_normalised_pixels() -> None:
    built = recipe("idc-matching")
    assert built.optimizer is not None and isinstance(built.objective, GradientsConfig)
    assert built.optimizer.rate(10) * 0.25**2 == pytest.approx(0.005)
    assert (built.steps, built.objective.inner_steps, built.objective.train_batch_size) == (200_000, 32, 64)
    large = recipe("idc-matching-imagenet10")
    assert isinstance(large.objective, GradientsConfig)
    assert (large.steps, large.objective.inner_steps, large.objective.pretrain_steps) == (50_000, 8, 2040)


def test_corrections_to_published_settings_are_in_force() -> None:
    built = recipe("mtt-cifar10-ipc10")  # mtt-distillation#31
    assert built.optimizer is not None and built.optimizer.learning_rate == 100
    assert isinstance(built.objective, TrajectoriesConfig)
    assert (built.objective.student_rate, built.objective.max_start_epoch) == (0.001, 19)
    grown = recipe("datm-cifar100-ipc1").objective  # DATM#7
    assert isinstance(grown, TrajectoriesConfig)
    assert (grown.initial_max_start_epoch, grown.max_start_epoch) == (9, 19)
    assert recipe("mtt-tiny-ipc1").evaluation_network.depth == 4


@pytest.mark.parametrize("name", [name for name in REGISTRY if isinstance(recipe(name).objective, TrajectoriesConfig)])
def test_experts_are_long_enough_for_every_start(name: str) -> None:
    objective = recipe(name).objective
    assert isinstance(objective, TrajectoriesConfig)
    assert objective.max_start_epoch + objective.expert_epochs <= objective.experts.epochs


def test_what_distinguishes_the_kin_of_mtt() -> None:
    tesla, ftd, datm = (recipe(f"{method}-cifar10-ipc10") for method in ("tesla", "ftd", "datm"))
    objectives = [built.objective for built in (tesla, ftd, datm)]
    assert all(isinstance(objective, TrajectoriesConfig) for objective in objectives)
    assert [objective.gradient for objective in objectives] == ["tesla", "adjoint", "adjoint"]
    assert [objective.experts.flat_radius for objective in objectives] == [0.0, 0.01, 0.01]
    assert [built.optimizer.average for built in (tesla, ftd, datm) if built.optimizer] == [0.0, 0.9995, 0.0]
    assert datm.labels == SoftLabels(initial="expert", learning_rate=2.0, momentum=0.9)
    assert recipe("tesla-imagenet1k-ipc1").labels == SoftLabels(initial="expert", learning_rate=0.0)


def test_the_table_of_the_docs_names_every_method() -> None:
    text = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text()
    assert {name for name in REGISTRY if name.count("-") < 2 and f"`{name}`" not in text} == set()
    starts = {name.rpartition("-ipc")[0] for name in REGISTRY if name.endswith("-ipc1")}
    assert {start for start in starts - _TOGETHER if f"`{start}-ipc1`" not in text} == set()


# Written as "also ..." in a row of their kin.
_TOGETHER = {f"mtt-{subset}-128" for subset in ("woof", "fruit", "cat", "bird", "yellow")} | {
    *(f"mtt-imagenet-{letter}-128" for letter in "bcde"),
    *(f"latent-{method}-{column}" for method in ("dc", "dm", "mtt") for column in ("256-f8", "512-f4", "512-f8")),
}


@pytest.mark.parametrize(
    ("name", "size", "priors", "samples"),
    [
        ("d3-cifar10-10lpc", "S", 10, (30, 3)),
        ("d3-cifar10-50lpc", "S", 50, (30, 1)),
        ("d3-cifar100-5lpc", "M", 5, (10, 6)),  # 20 steps of 250 go ten times through 500 priors
        ("d3-imagewoof", "S", 5, (20, 6)),
        ("d3-tiny-m", "M", 2, (5, 15)),
        ("d3-tiny-l", "L", 10, (3, 3)),
    ],
)
def test_d3_takes_table_9_and_fresh_samples(name: str, size: str, priors: int, samples: tuple[int, int]) -> None:
    built = recipe(name)
    assert isinstance(built.parameterization, PriorsConfig) and isinstance(built.objective, SumConfig)
    trajectories, discrepancy = built.objective.parts
    assert isinstance(trajectories, TrajectoriesConfig) and isinstance(discrepancy, DiscrepancyConfig)
    assert (built.parameterization.decoder.size, built.budget) == (size, f"{priors}lpc")
    assert (trajectories.samples, discrepancy.samples) == samples
    assert trajectories.augmented == "experts" and built.objective.mode == "sum"
    assert built.labels == SoftLabels(initial="expert", computed="end")
    optimizers = (built.optimizer, built.decoder_optimizer)
    assert [each and (each.kind, each.momentum, each.weight_decay) for each in optimizers] == [
        ("sgd", 0.5, 0.0),
        ("adam", 0.0, 1e-5),
    ]


def test_what_distinguishes_d3_from_its_ablations() -> None:
    whole, fixed, turns = (recipe(name) for name in ("d3", "d3-fixed", "d3-alternating"))
    assert isinstance(whole.objective, SumConfig) and isinstance(turns.objective, SumConfig)
    assert turns.objective.model_copy(update={"mode": "sum"}) == whole.objective and turns.steps == 2 * whole.steps
    assert isinstance(fixed.parameterization, PriorsConfig) and fixed.parameterization.distribution == "fixed"
    assert recipe("d3-mtt").objective == whole.objective.parts[0]
    assert recipe("d3-mmd").objective == whole.objective.parts[1]


def test_ld3ms_table_8_and_its_official_code() -> None:
    paper = {name: recipe(f"ld3m-{name}") for name in ("dc", "dm", "mtt", "dc-256")}
    official = {name: recipe(f"ld3m-{name}-official") for name in ("dc", "dm", "mtt")}
    for built, wanted in ((paper, (1e-3, 1e-2, 10.0, 1e-3)), (official, (0.1, 1.0, 1000.0))):
        rates = [each.optimizer and (each.optimizer.learning_rate, each.optimizer.momentum) for each in built.values()]
        assert rates == [(rate, 0.5) for rate in wanted]
    for name, built in (*paper.items(), *official.items()):
        assert isinstance(built.parameterization, DiffusionConfig) and built.codec.kind == "diffusion"
        sampling = built.parameterization.sampling
        assert (sampling.num_steps, built.steps) == ((20, 10_000) if name == "dc-256" else (10, 5000))
        assert (sampling.guidance, sampling.eta, sampling.residual) == (3, 0, "linear")
    assert {each.parameterization.sampling.residual_target for each in official.values()} == {"clean"}
    matchings = [built["mtt"].objective for built in (paper, official)]
    assert all(isinstance(each, TrajectoriesConfig) for each in matchings)
    assert [(each.student_steps, each.expert_epochs, each.max_start_epoch) for each in matchings] == [
        (20, 3, 5),
        (10, 2, 1),
    ]
    assert all(each.objective.real_batch_size == 256 for each in (paper["dc"], paper["dm"]))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("dm", {"parameterization.kind": "diffusion"}, "belong together"),
        ("dm", {"codec": {"kind": "diffusion"}}, "belong together"),
        ("ld3m-dm", {"optimizer.valid_range": True}, "valid range"),
        ("ld3m-dm", {"parameterization.sampling.guidance": 0}, "learned=codes"),
    ],
)
def test_what_a_diffusion_model_cannot_be_composed_with(name: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        override(recipe(name), changes)
