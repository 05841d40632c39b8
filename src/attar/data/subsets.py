"""Named subsets of ImageNet-1k, and how the name of a class finds its folder."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from attar.base.errors import InputError, unknown


class Member(NamedTuple):
    """One class of ImageNet-1k: its name, its WordNet id, and its index in 0..999 (the place of its id in order)."""

    name: str
    wnid: str
    imagenet_index: int


# Rows of "classes": index, WordNet id, the name that ImageNet gives first, other names under which a folder is found.
_TABLE = json.loads(Path(__file__).with_name("imagenet.json").read_text(encoding="utf-8"))
_OTHER_NAMES = {Member(name, wnid, index): others for index, wnid, name, *others in _TABLE["classes"]}
_BY_INDEX = {member.imagenet_index: member for member in _OTHER_NAMES}

#: Subset name -> its classes, in the order of the papers.
#:
#: Source: bird, fruit, woof, cat, nette: LatentDD appendix A.4, with its indices (first of MTT, Cazenavette et al.
#:     2022; woof and nette: Howard 2019). yellow: MTT's code. imagenet-a to -e: LD3M table 9 (first of GLaD,
#:     Cazenavette et al. 2023); its birds, fruits and cats are the same classes. imagenet-10, -100: IDC, Kim et al.
#:     2022, after Tian et al. 2020.
#: Deviation: the papers' tables print some names freely. LD3M's "Bengal cat" is ImageNet's tiger cat (282), its
#:     "English sheepdog" the Old English sheepdog (229), its "cockatoo" the sulphur-crested one (89), its "snowbird"
#:     the junco (13), its "orca" the killer whale (148). Its "hyena" is, by the index lists in circulation, 275, the
#:     African hunting dog ("hyena dog"), and not ImageNet's hyena (276): we follow the lists.
SUBSETS: dict[str, tuple[Member, ...]] = {
    name: tuple(_BY_INDEX[index] for index in entry["indices"]) for name, entry in _TABLE["subsets"].items()
}


def subset(name: str) -> tuple[Member, ...]:
    """The classes of a named subset; case, spaces, hyphens and the papers' other names (squawk, meow) do not matter.

    Raises:
        InputError: no subset has that name (the nearest is named).
    """
    plain = _plain(name)
    for canonical, entry in _TABLE["subsets"].items():
        if plain == _plain(canonical) or plain in entry["other_names"]:
            return SUBSETS[canonical]
    raise unknown("subset", name, SUBSETS)


def match_classes(wanted: Sequence[str | int] | str, available: Sequence[str]) -> tuple[list[int], list[str]]:
    """Where each wanted class is among the available ones, and what it is called from now on.

    A named subset (a str) and ImageNet's class names match folders by WordNet id (alone or leading the name), by name
    or by the name without case, spaces, hyphens and underscores. Classes keep the name by which they were asked for.

    Args:
        wanted: the name of a subset, or class names and indices.
        available: the class names at hand.

    Raises:
        InputError: what is missing, ambiguous or listed twice; fewer than two classes.
    """
    if isinstance(wanted, str):
        places, names = _match_subset(wanted, available)
    else:
        places = [_find(item, available) for item in wanted]
        pairs = zip(wanted, places, strict=True)
        names = [item if isinstance(item, str) and not item.isdigit() else available[place] for item, place in pairs]
    if len(set(places)) != len(places):
        raise InputError(f"a class is listed twice in {_some([str(name) for name in names])}; list each once")
    if len(places) < 2:
        raise InputError(f"{len(places)} class was asked for; name at least 2")
    return places, names


def _match_subset(name: str, available: Sequence[str]) -> tuple[list[int], list[str]]:
    members = subset(name)
    places = [_find_member(member, available) for member in members]
    missing = [f"{member.name} ({member.wnid})" for member, place in zip(members, places, strict=True) if place is None]
    if missing:
        raise InputError(
            f"subset {name!r} needs {len(members)} classes and {len(missing)} are missing: {_some(missing)}; "
            f"at hand are {_some(available)}"
        )
    return [place for place in places if place is not None], [member.name for member in members]


def _find(item: str | int, available: Sequence[str]) -> int:
    """The place of a class. A name at hand comes before the names of ImageNet, and these before an index."""
    if isinstance(item, str):
        if item in available:
            return list(available).index(item)
        member = next((member for member in _OTHER_NAMES if _plain(item) in map(_plain, _names(member))), None)
        place = _find_member(member, available) if member else None
        place = _find_plain([item], available) if place is None else place
        if place is not None:
            return place
        if not item.lstrip("-").isdigit():
            raise unknown("class", item, available)
    if not 0 <= int(item) < len(available):
        raise InputError(f"class index {int(item)} is out of range; there are {len(available)}, counted from 0")
    return int(item)


def _find_member(member: Member, available: Sequence[str]) -> int | None:
    for place, name in enumerate(available):
        if re.match(rf"{member.wnid}(?!\d)", name):
            return place
    return _find_plain([member.name, *_OTHER_NAMES[member]], available)


def _names(member: Member) -> list[str]:
    return [member.name, *_OTHER_NAMES[member], member.wnid]


def _find_plain(names: Sequence[str], available: Sequence[str]) -> int | None:
    """The place of the first of `names` that is at hand, exactly or else without case and separators."""
    for name in names:
        if name in available:
            return list(available).index(name)
    for name in names:
        places = [place for place, other in enumerate(available) if _plain(other) == _plain(name)]
        if len(places) > 1:
            both = [available[place] for place in places]
            raise InputError(f"class {name!r} could be {' or '.join(map(repr, both))}; give the exact name")
        if places:
            return places[0]
    return None


def _plain(name: str) -> str:
    return re.sub(r"[\s_\-'’.]+", "", name).casefold()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
