"""The layout holds: imports point downwards, in no circle, and only a kind's own file knows the kind."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
#: From the top: each room may import those below it.
ROOMS = ("cli", "studies", "report", "evaluation", "runs", "sets", "methods", "models", "data", "base")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("house", ROOT / "bench" / "house.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["house"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def house(script: ModuleType) -> Any:
    return script.House(ROOT / "src" / "attar")


def test_rooms_import_downwards_only(house: Any) -> None:
    assert set(house.rooms) == {"__init__", "__main__", *ROOMS}
    upwards = [
        (module, other)
        for module, imported in house.imports.items()
        for other in imported
        if house.room(module) in ROOMS and house.room(other) in ROOMS
        if ROOMS.index(house.room(module)) > ROOMS.index(house.room(other))
    ]
    assert upwards == []
    through_the_door = {house.room(module) for module, imported in house.imports.items() if "attar" in imported}
    assert through_the_door <= {"__main__", "cli"}


def test_the_figures_of_the_house_stay_below_their_limits(script: ModuleType, house: Any) -> None:
    assert script.circles(house) == [] and script.arrows_back_up(house) == [] and script.floors(house) <= 11
    assert script.long_functions(house) == []
    assert len(script.kinds_outside(house)) <= script.LIMITS["kinds"]
    names = list(script.local_names(house))
    assert sum(name in script.VAGUE for _, _, name in names) <= script.LIMITS["vague"] * len(names)


def test_the_script_finds_what_it_looks_for(script: ModuleType, tmp_path: Path) -> None:
    """A house of two rooms that import one another, a kind asked for outside its file, and a name that says nothing."""
    package = tmp_path / "small"
    for name, text in {
        "high/__init__.py": "",
        "high/walk.py": "from small.low.codec import Dct\n\n\ndef walk(x):\n    found = isinstance(x, Dct)\n",
        "low/__init__.py": "",
        "low/codec.py": "class Codec: ...\n\n\nclass Dct(Codec):\n    kind = 'dct'\n\n\n"
        "def late():\n    from small.high.walk import walk\n    return walk\n",
    }.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    house = script.House(package)
    assert script.circles(house) == [["small.high.walk", "small.low.codec"]]
    assert len(script.arrows_back_up(house)) == 1
    assert script.kinds_outside(house) == [("small.high.walk", 5, "Dct")]
    assert [name for _, _, name in script.local_names(house)] == ["found"]
