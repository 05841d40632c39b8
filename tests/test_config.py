"""Configurations: strict, overridable, helpful; and the small rooms beside them."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from attar.base.config import override
from attar.base.errors import InputError
from attar.base.files import atomic_path, content_key, refuse_existing
from attar.base.randomness import generator
from attar.methods.labels import SoftLabels
from attar.methods.parameterizations.codes import CodesConfig
from attar.methods.recipes import REGISTRY, Recipe, recipe
from attar.runs.budget import Budget


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_every_recipe_builds_and_survives_json(name: str) -> None:
    made = recipe(name)
    assert made.name == name
    assert Recipe.model_validate_json(made.model_dump_json()) == made
    assert REGISTRY[name].__doc__


def test_table_6_of_latentdd() -> None:
    """Codec factor, depth, batch, rate, steps of every LatentDM column."""
    columns = {
        "latent-dm-256-f4-ipc1": ("resample", 4, 64, 0.5, 6, "1ipc"),
        "latent-dm-256-f8-ipc1": ("autoencoder", 3, 64, 0.1, 6, "1ipc"),
        "latent-dm-256-f4-ipc10": ("resample", 4, 64, 0.5, 6, "10ipc"),
        "latent-dm-512-f4-ipc1": ("resample", 5, 32, 0.5, 7, "1ipc"),
        "latent-dm-512-f8-ipc1": ("autoencoder", 4, 16, 0.1, 7, "1ipc"),
    }
    for name, (codec, depth, batch, rate, test_depth, budget) in columns.items():
        made = recipe(name)
        assert made.codec.kind == codec
        assert made.objective.network.depth == depth
        assert made.objective.real_batch_size == batch
        assert made.optimizer is not None and made.optimizer.learning_rate == rate
        assert made.optimizer.rate(12) == pytest.approx(12 * rate)
        assert (made.evaluation_network.depth, made.budget, made.steps) == (test_depth, budget, 1000)


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'latent-dm'"):
        recipe("latent-md")


def test_override_replaces_and_checks() -> None:
    made = override(recipe("latent-dm"), {"steps": 7, "objective.network.width": 32})
    assert (made.steps, made.objective.network.width) == (7, 32)
    with pytest.raises(
        InputError, match=r"unknown setting 'objective.network.widht'; did you mean 'objective.network.w"
    ):
        override(made, {"objective.network.widht": 3})
    with pytest.raises(InputError, match="steps"):
        override(made, {"steps": "many"})
    with pytest.raises(InputError, match="steps"):
        override(made, {"steps": -1})


def test_impossible_compositions_are_refused() -> None:
    with pytest.raises(InputError, match="needs an optimizer and steps"):
        override(recipe("latent-dm"), {"steps": 0})
    with pytest.raises(InputError, match="nothing is trained"):
        override(recipe("random"), {"steps": 5})
    with pytest.raises(ValidationError):
        recipe("random").title = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [("10ipc", 10, "ipc"), ("120 lpc", 120, "lpc"), ("5MB", 5_000_000, "bytes"), ("1.5KiB", 1536, "bytes")],
)
def test_budgets(text: str, amount: int, unit: str) -> None:
    assert Budget.parse(text) == Budget(amount, unit)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "ipc", "0ipc", "1.5ipc", "-1MB", "5 parsecs", "1e9"])
def test_bad_budgets(text: str) -> None:
    with pytest.raises(InputError, match="budget"):
        Budget.parse(text)


def test_generators_depend_on_seed_and_purpose() -> None:
    def draw(*name: object) -> float:
        return float(torch.rand(1, generator=generator(*name)))  # type: ignore[arg-type]

    assert draw(0, "a") == draw(0, "a")
    assert len({draw(0, "a"), draw(1, "a"), draw(0, "b"), draw(0, "a", 1)}) == 4


def test_atomic_path_leaves_nothing_after_a_failure(tmp_path) -> None:  # type: ignore[no-untyped-def]
    target = tmp_path / "file"
    with pytest.raises(OSError, match="full"), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise OSError("disk full")
    assert list(tmp_path.iterdir()) == []
    with atomic_path(target) as temporary:
        temporary.write_text("whole")
    assert target.read_text() == "whole"
    with pytest.raises(InputError, match="exists"):
        refuse_existing(target)
    with pytest.raises(InputError, match="does not exist"):
        refuse_existing(tmp_path / "absent" / "file")


def test_content_key_ignores_dictionary_order() -> None:
    assert content_key({"a": 1, "b": 2}) == content_key({"b": 2, "a": 1}) != content_key({"a": 1, "b": 3})


def test_settings_of_a_new_kind_are_given_beside_it() -> None:
    changed = override(recipe("mtt-cifar10-ipc1"), {"labels.learning_rate": 2.0, "labels.kind": "soft"})
    assert changed.labels == SoftLabels(learning_rate=2.0)
    with pytest.raises(InputError, match=r"^--set: labels.soft.rate: .*received 2.0$"):
        override(recipe("mtt-cifar10-ipc1"), {"labels.kind": "soft", "labels.rate": 2.0})


def test_a_new_kind_leaves_out_what_it_does_not_know() -> None:
    """Of the old kind's settings; one that was given is still refused."""
    old = recipe("ld3m-dc")
    asked = {"parameterization.kind": "codes", "codec": {"kind": "pixels"}}
    assert override(old, asked).parameterization == CodesConfig(storage=old.parameterization.storage)
    with pytest.raises(InputError, match=r"^--set: parameterization.codes.chunk_items: .*received 4$"):
        override(old, {**asked, "parameterization.chunk_items": 4})
    adam = override(recipe("latent-dm"), {"optimizer.kind": "adam", "optimizer.momentum": 0.0}).optimizer
    sgd = recipe("latent-dm").optimizer
    assert adam is not None and sgd is not None and adam.learning_rate == sgd.learning_rate


def test_a_composition_that_cannot_be_is_told_in_its_own_words() -> None:
    with pytest.raises(InputError, match=r"^--set: nothing asks the observer; set observer=null$"):
        override(recipe("dm"), {"observer": {}})
