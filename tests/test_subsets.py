"""The named subsets of ImageNet, and how wanted classes find their folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from attar.base.errors import InputError
from attar.data import load_images
from attar.data.subsets import SUBSETS, match_classes, subset


@pytest.mark.parametrize("name", SUBSETS)
def test_indices_are_the_order_of_wordnet_ids(name: str) -> None:
    members = SUBSETS[name]
    assert sorted(members, key=lambda m: m.wnid) == sorted(members, key=lambda m: m.imagenet_index)
    assert len({m.name for m in members}) == len(members) == (100 if name == "imagenet-100" else 10)


def test_the_whole_table_is_consistent() -> None:
    every = {member for members in SUBSETS.values() for member in members}
    assert len({m.wnid for m in every}) == len({m.imagenet_index for m in every}) == len({m.name for m in every})
    assert sorted(every, key=lambda m: m.wnid) == sorted(every, key=lambda m: m.imagenet_index)


def test_known_members() -> None:
    assert SUBSETS["nette"][0] == ("tench", "n01440764", 0)
    assert SUBSETS["bird"][-1] == ("sulphur-crested cockatoo", "n01819313", 89)
    # fastai's published folders of ImageWoof and ImageNette.
    woof = "n02086240 n02087394 n02088364 n02089973 n02093754 n02096294 n02099601 n02105641 n02111889 n02115641"
    nette = "n01440764 n02102040 n02979186 n03000684 n03028079 n03394916 n03417042 n03425413 n03445777 n03888257"
    assert sorted(m.wnid for m in SUBSETS["woof"]) == woof.split()
    assert sorted(m.wnid for m in SUBSETS["nette"]) == nette.split()
    assert [m.imagenet_index for m in SUBSETS["yellow"]] == [309, 986, 954, 951, 987, 779, 599, 291, 72, 11]
    assert SUBSETS["imagenet-100"][:10] == SUBSETS["imagenet-10"]


@pytest.mark.parametrize(
    ("given_name", "canonical"),
    [
        ("Squawk", "bird"),
        ("ImageMeow", "cat"),
        ("ImageYellow", "yellow"),
        ("ImageNet-Birds", "bird"),
        ("imagenet_a", "imagenet-a"),
        ("E", "imagenet-e"),
    ],
)
def test_the_papers_other_names(given_name: str, canonical: str) -> None:
    assert subset(given_name) is SUBSETS[canonical]


def test_an_unknown_subset_names_the_nearest() -> None:
    with pytest.raises(InputError, match="unknown subset 'birt'; did you mean 'bird'"):
        subset("birt")


@pytest.mark.parametrize(
    "spell",
    [
        lambda m: m.wnid,
        lambda m: m.name,
        lambda m: m.name.upper().replace(" ", "_"),
        lambda m: f"{m.wnid}-{m.name}",
        lambda m: m.name.replace("-", " ").title().replace(" ", ""),
    ],
)
@pytest.mark.parametrize("name", SUBSETS)
def test_folders_are_found_however_they_are_named(name: str, spell) -> None:  # type: ignore[no-untyped-def]
    folders = sorted(["zzz", "n99999999", *(spell(member) for member in SUBSETS[name])])
    places, names = match_classes(name, folders)
    assert [folders[place] for place in places] == [spell(member) for member in SUBSETS[name]]
    assert names == [member.name for member in SUBSETS[name]]


def test_what_is_missing_is_named() -> None:
    folders = [member.wnid for member in SUBSETS["cat"][:-2]]
    with pytest.raises(InputError, match=r"2 are missing: snow leopard \(n02128757\), lynx \(n02127052\)"):
        match_classes("meow", folders)


def test_single_classes_are_found_by_name_alias_and_index() -> None:
    folders = ["n02071294", "x", "n02099601"]
    assert match_classes(["Orca", "golden_retriever", 1], folders) == ([0, 2, 1], ["Orca", "golden_retriever", "x"])


def test_an_exact_name_wins_and_an_ambiguous_one_is_refused() -> None:
    assert match_classes(["b c", "b_c"], ["b_c", "b c"])[0] == [1, 0]
    with pytest.raises(InputError, match="could be 'b_c' or 'b c'; give the exact name"):
        match_classes(["B-C", "d"], ["b_c", "b c", "d"])


def test_a_class_is_asked_for_once() -> None:
    with pytest.raises(InputError, match="listed twice"):
        match_classes(["a", "A"], ["a", "b"])


@given(st.lists(st.text(min_size=1, max_size=6), min_size=2, max_size=8, unique=True), st.randoms())
def test_exact_names_always_find_themselves(names: list[str], random) -> None:  # type: ignore[no-untyped-def]
    wanted = random.sample(names, len(names))
    places, called = match_classes(wanted, names)
    assert [names[place] for place in places] == wanted == called


def test_a_subset_of_an_imagenet_style_folder(tmp_path: Path) -> None:
    for label, member in enumerate(SUBSETS["fruit"]):
        for part in ("train", "val"):
            folder = tmp_path / part / member.wnid
            folder.mkdir(parents=True)
            Image.fromarray(np.full((4, 4), label, dtype=np.uint8)).save(folder / "0.png")
    (tmp_path / "train" / "n00000000").mkdir()
    splits = load_images(tmp_path, classes="fruit")
    assert splits.train.classes == tuple(member.name for member in SUBSETS["fruit"])
    assert splits.train.images[:, 0, 0, 0].tolist() == splits.train.labels.tolist()
    assert splits.test.images[:, 0, 0, 0].tolist() == splits.test.labels.tolist()
    assert sorted(splits.test.labels.tolist()) == list(range(10))
