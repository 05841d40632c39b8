"""What a file leaves out because it follows from the rest, and how it comes back."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from attar.base.config import override
from attar.base.errors import InputError
from attar.methods.recipes.recipe import Recipe
from attar.methods.recipes.registry import REGISTRY, recipe
from attar.report.facts import facts
from attar.sets import composing, stored_recipe
from attar.sets.distilled import DistilledSet
from attar.sets.manifest_text import index_text, manifest_text, read_indices
from attar.sets.merging import merge
from attar.sets.storages import STORAGES, Storage, TensorSpec, storages_of
from attar.sets.stored_recipe import read_recipe
from small_sets import build, digit_images

CHANGED = {"optimizer.learning_rate": 3.0}
FINGERPRINT = "73ed21ca18b95d3282374a3f8dc4c1f5221590776e83da2b005de98135a4aadc"
INDICES = (0, 10, 1)


def tree_of(name: str) -> dict[str, Any]:
    return recipe(name).model_dump(mode="json")


def latent_dm() -> Recipe:
    return override(recipe("latent-dm"), CHANGED)


def text_of(built: DistilledSet) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(manifest_text(built.manifest))
    return tree


@pytest.mark.parametrize("name", REGISTRY)
def test_every_recipe_is_stored_by_name_and_comes_back_whole(name: str) -> None:
    tree = tree_of(name) | {"budget": "7lpc", "subtasks": 5, "split": "random"}
    stored = stored_recipe.stored_recipe(tree)
    assert stored.keys() == {"name", "digest", "settings"} and read_recipe(stored) == tree
    assert stored["settings"] == {"budget": "7lpc", "subtasks": 5, "split": "random"}
    usual = stored_recipe.stored_recipe(tree_of(name))
    assert usual.keys() == {"name", "digest"} and read_recipe(usual) == tree_of(name)


def test_settings_are_dotted_keys_and_a_branch_of_another_kind_is_stored_whole() -> None:
    tree = override(recipe("latent-dm"), {**CHANGED, "labels": {"kind": "soft", "initial": "class"}}).model_dump(
        mode="json"
    )
    settings = stored_recipe.stored_recipe(tree)["settings"]
    assert settings.keys() == {"optimizer.learning_rate", "labels"} and settings["labels"] == tree["labels"]


def test_a_recipe_of_ones_own_is_stored_by_what_differs_from_the_defaults() -> None:
    tree = latent_dm().model_copy(update={"name": "mine"}).model_dump(mode="json")
    stored = stored_recipe.stored_recipe(tree)
    assert read_recipe(stored) == tree and stored["name"] == "mine"
    assert stored["settings"]["optimizer"]["learning_rate"] == 3.0
    assert "weight_decay" not in stored["settings"]["optimizer"]
    assert "steps" in stored["settings"] and "budget" not in stored["settings"]


@pytest.mark.parametrize(
    "tree",
    [
        {"name": "latent-dm", "steps": 20},
        {"name": "foreign", "source": "x.pt", "assumed": ["a.b"]},
        {},
        {"name": ["latent-dm"]},
        tree_of("latent-dm") | {"a.b": 1},
    ],
)
def test_what_is_no_recipe_of_attars_is_stored_as_it_is(tree: dict[str, Any]) -> None:
    assert stored_recipe.stored_recipe(tree) == tree == read_recipe(tree)


def test_a_recipe_that_changed_since_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    built = build(digit_images(), recipe=latent_dm().model_dump(mode="json"))
    built.save(tmp_path / "set.safetensors")
    assert not any(name == "recipe" for name, _ in facts(built))
    content, stored = built.to_bytes(), text_of(built)["recipe"]
    later = tree_of("latent-dm") | {"steps": 7}
    monkeypatch.setattr(stored_recipe, "_usual", lambda name: later)
    read = DistilledSet.load(tmp_path / "set.safetensors")
    assert read.manifest.recipe == stored and read.fingerprint == built.fingerprint
    assert read.to_bytes() == content and read.manifest.citations == built.manifest.citations
    (line,) = [text for name, text in facts(read) if name == "recipe"]
    assert "'latent-dm' is not the one that made this set" in line and '"optimizer.learning_rate":3.0' in line
    scored = read.replace(scores=[{"accuracy": 1}])
    assert text_of(scored)["recipe"] == stored, "what is not known is not made up"


def test_facts_that_follow_are_left_out_and_others_are_not(tmp_path: Path) -> None:
    built = build(digit_images(), recipe=latent_dm().model_dump(mode="json"))
    assert not {"citations", "privacy", "network", "learned", "scores"} & text_of(built).keys()
    assert built.manifest.citations == ("latentdd", "dm", "dsa") and "may still show" in built.manifest.privacy
    assert built.manifest.network == latent_dm().evaluation_network.model_dump(mode="json")
    other = built.replace(citations=["dm"], privacy="Nobody may see this.", network=None)
    assert text_of(other)["citations"] == ["dm"] and text_of(other)["network"] is None
    other.save(tmp_path / "set.safetensors")
    read = DistilledSet.load(tmp_path / "set.safetensors").manifest
    assert read == other.manifest and read.privacy == "Nobody may see this." and read.network is None


def test_parts_of_a_merged_set_name_their_recipes_too(tmp_path: Path) -> None:
    whole = merge([build(digit_images(), recipe=tree_of(name)) for name in ("latent-dm", "dm")])
    assert all(part["recipe"].keys() == {"name", "digest"} for part in text_of(whole)["recipe"]["parts"])
    whole.save(tmp_path / "set.safetensors")
    assert DistilledSet.load(tmp_path / "set.safetensors").manifest == whole.manifest


@pytest.mark.parametrize("indices", [[0], [63, 64], [1, 4095, 7], [2**40, 0]])
def test_indices_come_back(indices: list[int]) -> None:
    assert read_indices(index_text(indices)) == tuple(indices) and read_indices("") == ()


def test_labels_that_follow_from_the_number_of_items_take_no_bytes() -> None:
    labels = torch.arange(10, dtype=torch.int32).repeat_interleave(3)
    assert storages_of({"labels": labels}, 10) == {"labels": "class-major"}
    assert storages_of({"labels": labels.flip(0)}, 10) == storages_of({"labels": labels}, 11) == {}
    assert torch.equal(STORAGES["class-major"].unpack({}, TensorSpec.of(labels), 10), labels)


def test_a_new_storage_is_one_entry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def pack(tensor: Tensor, _: int) -> dict[str, Tensor]:
        squeezed = zlib.compress(tensor.numpy().tobytes())
        return {".zlib": torch.frombuffer(bytearray(squeezed), dtype=torch.int8)}

    def unpack(parts: dict[str, Tensor], spec: TensorSpec, _: int) -> Tensor:
        content = zlib.decompressobj().decompress(parts[".zlib"].numpy().tobytes(), spec.num_bytes)
        if len(content) != spec.num_bytes:
            raise InputError("codes are cut short")
        return torch.frombuffer(bytearray(content), dtype=torch.int8).reshape(spec.shape)

    def table(spec: TensorSpec, _: int) -> dict[str, TensorSpec]:
        return {".zlib": TensorSpec(dtype="I8", shape=(spec.num_bytes + 64,), at_most=True)}

    plain = build(digit_images())
    monkeypatch.setitem(STORAGES, "zlib", Storage(table, pack, unpack))
    monkeypatch.setattr(composing, "storages_of", lambda *items: {"codes": "zlib"} | storages_of(*items))
    built, path = build(digit_images()), tmp_path / "set.safetensors"
    built.save(path)
    read = DistilledSet.load(path)
    assert "shards.0.codes.zlib" in read.stored_tensors() and "shards.0.codes" not in read.stored_tensors()
    assert torch.equal(read.codes, plain.codes) and read.fingerprint == plain.fingerprint
    assert read.to_bytes() == path.read_bytes() and read.file_bytes == path.stat().st_size


def test_the_demos_file_weighs_little() -> None:
    built = build(digit_images(), "pca:f4c4-whiten", count=4, recipe=latent_dm().model_dump(mode="json"))
    assert built.payloads()[0]["codes"].numel() == 640 and len(built.to_bytes()) < 2500


def test_the_first_schemas_file_is_read_for_ever() -> None:
    """Made by `build` of small_sets.py in attar 0.1.0; no later version may refuse it or change its items."""
    path = Path(__file__).parent / "files" / "schema-1.safetensors"
    read = DistilledSet.load(path)
    assert read.manifest.schema_version == 1 and read.manifest.labels_kind == "soft" and len(read) == 20
    assert read.labels.tolist() == torch.arange(10).repeat_interleave(2).tolist()
    assert read.fingerprint == FINGERPRINT and read.to_bytes() == path.read_bytes()
    assert read.learned == {"student_rate": 0.01} and read.manifest.initialization.kind == "random"
    assert read.manifest.initialization.indices[:3] == INDICES
