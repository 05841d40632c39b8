"""The house in figures: rooms, floors, imports that run back up, circles, knowledge of kinds outside their files.

python bench/house.py [FOLDER]      of the package in FOLDER (src/attar where it is left out)
python bench/house.py --list        also every place that is counted against a limit

rooms       names at the top of the package: folders and modules
floors      rooms in the longest chain of imports between rooms, circles counted as one floor
back up     imports of a file by a file of a lower room: an import whose room stands at or above the importer's,
            in the order of rooms that has the fewest of them (0 for a graph without circles)
circles     groups of files that import one another in a loop; imports inside functions and of types count too
kinds       isinstance() and match-case on a class that is, or configures, one kind of a part, outside the files
            where the kind is defined or built on
long        functions of more than 60 lines
vague       local names that say nothing of what they hold, as a share of all assignments to local names
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

VAGUE = frozenset(
    {
        *("found", "told", "own", "each", "made", "kept", "wanted", "known", "seen"),
        *("asked", "called", "taken", "shown", "begun", "named", "thing", "things", "stuff"),
    }
)
"""Participles and pronouns that were used for anything: `found` may be a path, a tensor or a list of faults."""

LONGEST_FUNCTION = 60
PARTS = ("Parameterization", "Objective", "Codec", "Network", "Codes", "Rendered", "Config")
"""A kind is a class that has one of these among its bases, however far up, and a `kind` of its own."""

LIMITS = {"rooms": 13, "floors": 11, "back up": 0, "circles": 0, "kinds": 12, "lines": 30_000, "long": 0, "vague": 0.02}


class House:
    """A package's files, parsed, and the imports among them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.package = folder, folder.name
        self.trees = {self._module(path): ast.parse(path.read_text(encoding="utf-8")) for path in folder.rglob("*.py")}
        self.paths = {self._module(path): path for path in folder.rglob("*.py")}
        self.imports = {module: set(self._imports(module)) for module in self.trees}

    def _module(self, path: Path) -> str:
        parts = (self.package, *path.relative_to(self.folder).with_suffix("").parts)
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def _imports(self, module: str) -> Iterator[str]:
        for node in ast.walk(self.trees[module]):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
                # A name of a package's __init__ that is a module of its own is an import of that module.
                if f"{node.module}.{node.names[0].name}" in self.trees:
                    names = names[:-1]
            for name in names:
                if name in self.trees and name != module:
                    yield name

    def room(self, module: str) -> str:
        """The name at the top of the package that a module lies in."""
        return [*module.split("."), "__init__"][1]

    @property
    def rooms(self) -> list[str]:
        return sorted({self.room(module) for module in self.trees})

    def arrows(self) -> Counter[tuple[str, str]]:
        """How many imports of files run from one room to another; the package's own door is left out."""
        count: Counter[tuple[str, str]] = Counter()
        for module, imported in self.imports.items():
            for other in imported:
                pair = self.room(module), self.room(other)
                if pair[0] != pair[1] and "__init__" not in pair:
                    count[pair] += 1
        return count


def components(graph: dict[str, set[str]]) -> list[list[str]]:
    """Tarjan's strongly connected components, those that are imported first."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    result: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = lowest[node] = len(order)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in order:
                visit(other)
                lowest[node] = min(lowest[node], lowest[other])
            elif other in stack:
                lowest[node] = min(lowest[node], order[other])
        if lowest[node] == order[node]:
            group: list[str] = []
            while not group or group[-1] != node:
                group.append(stack.pop())
            result.append(group)

    sys.setrecursionlimit(10_000)
    for node in sorted(graph):
        if node not in order:
            visit(node)
    return result


def floors(house: House) -> int:
    """Rooms in the longest chain of imports, circles counted as one."""
    graph: dict[str, set[str]] = {room: set() for room in house.rooms}
    for importer, imported in house.arrows():
        graph[importer].add(imported)
    group_of = {room: index for index, group in enumerate(components(graph)) for room in group}
    height: dict[int, int] = {}
    for index, group in enumerate(components(graph)):
        below = {group_of[other] for room in group for other in graph[room]} - {index}
        height[index] = 1 + max((height[other] for other in below), default=0)
    return max(height.values())


def arrows_back_up(house: House) -> list[tuple[str, str]]:
    """Imports against the order of rooms that has few of them (greedy, Eades, Lin and Smyth 1993)."""
    arrows = house.arrows()
    left, top, bottom = set(house.rooms), list[str](), list[str]()
    while left:
        out = {room: sum(n for (a, b), n in arrows.items() if a == room and b in left) for room in left}
        into = {room: sum(n for (a, b), n in arrows.items() if b == room and a in left) for room in left}
        sinks = sorted(room for room in left if not out[room])
        sources = sorted(room for room in left if not into[room])
        if sinks:
            bottom.insert(0, sinks[0])
        elif sources:
            top.append(sources[0])
        else:
            top.append(max(sorted(left), key=lambda room: out[room] - into[room]))
        left -= {top[-1] if top else "", bottom[0] if bottom else ""}
    place = {room: index for index, room in enumerate(top + bottom)}
    return [
        (module, other)
        for module, imported in sorted(house.imports.items())
        for other in sorted(imported)
        if "__init__" not in (house.room(module), house.room(other))
        and place[house.room(module)] > place[house.room(other)]
    ]


def circles(house: House) -> list[list[str]]:
    """Groups of files in a loop of imports."""
    return [sorted(group) for group in components(house.imports) if len(group) > 1]


def kinds(house: House) -> dict[str, str]:
    """Classes that are one kind of a part, and the module that defines each."""
    bases: dict[str, set[str]] = {}
    defined: dict[str, str] = {}
    with_kind: set[str] = set()
    for module, tree in house.trees.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.ClassDef):
                continue
            bases[node.name] = {ast.unparse(base).partition("[")[0].split(".")[-1] for base in node.bases}
            defined[node.name] = module
            for line in node.body:
                targets = [line.target] if isinstance(line, ast.AnnAssign) else getattr(line, "targets", [])
                has_value = getattr(line, "value", None) is not None
                if has_value and any(isinstance(target, ast.Name) and target.id == "kind" for target in targets):
                    with_kind.add(node.name)

    def all_bases(name: str) -> set[str]:
        return {name}.union(*(all_bases(base) for base in bases.get(name, ())))

    return {
        name: module
        for name, module in defined.items()
        if all_bases(name) & with_kind and (all_bases(name) - {name}) & set(PARTS)
    }


def kinds_outside(house: House) -> list[tuple[str, int, str]]:
    """Every place that asks what kind a part is, in a file that neither defines the kind nor builds on it."""
    defined = kinds(house)
    places = []
    for module, tree in house.trees.items():
        here = {name for name, home in defined.items() if home == module}
        built_on = {
            ast.unparse(base).split(".")[-1]
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef)
            for base in node.bases
        }
        for node in ast.walk(tree):
            asked: set[str] = set()
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
                asked = {name.id for name in ast.walk(node.args[1]) if isinstance(name, ast.Name)}
            elif isinstance(node, ast.MatchClass):
                asked = {ast.unparse(node.cls).split(".")[-1]}
            for name in sorted(asked & defined.keys() - here - built_on):
                places.append((module, getattr(node, "lineno", 0), name))
    return places


def functions(house: House) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for module, tree in house.trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield module, node


def long_functions(house: House) -> list[tuple[str, str, int]]:
    """Functions over `LONGEST_FUNCTION` lines, decorators apart, docstring and signature included."""
    lengths = [(module, node.name, (node.end_lineno or 0) - node.lineno + 1) for module, node in functions(house)]
    return [entry for entry in lengths if entry[2] > LONGEST_FUNCTION]


def local_names(house: House) -> Iterator[tuple[str, int, str]]:
    """Every assignment to a local name: =, for, with, comprehensions."""
    for module, tree in house.trees.items():
        reported: set[tuple[int, int]] = set()
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for name in ast.walk(node):
                if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store):
                    place = name.lineno, name.col_offset
                    if place not in reported:
                        reported.add(place)
                        yield module, name.lineno, name.id


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", default=Path(__file__).parents[1] / "src" / "attar", type=Path)
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    house = House(options.folder)
    names = list(local_names(house))
    vague = [entry for entry in names if entry[2] in VAGUE]
    back, loops, outside = arrows_back_up(house), circles(house), kinds_outside(house)
    long = long_functions(house)
    figures = {
        "rooms": len(house.rooms),
        "floors": floors(house),
        "back up": len(back),
        "circles": len(loops),
        "kinds": len(outside),
        "lines": sum(len(path.read_text(encoding="utf-8").splitlines()) for path in house.paths.values()),
        "long": len(long),
        "vague": len(vague) / max(1, len(names)),
    }
    for name, value in figures.items():
        text, limit = (
            (f"{value:.1%}", f"{LIMITS[name]:.0%}") if name == "vague" else (f"{value:,}", f"{LIMITS[name]:,}")
        )
        print(f"{name:8} {text:>7}   at most {limit}{'' if value <= LIMITS[name] else '   <- over'}")
    print(f"files    {len(house.paths):>7,}")
    if options.list:
        print("\nback up:", *(f"  {a} -> {b}" for a, b in back), sep="\n")
        print("circles:", *(f"  {' '.join(group)}" for group in loops), sep="\n")
        print("kinds outside:", *(f"  {module}:{line} {name}" for module, line, name in sorted(outside)), sep="\n")
        print("long:", *(f"  {module}.{name} {lines}" for module, name, lines in long), sep="\n")
        by_module: dict[str, list[str]] = defaultdict(list)
        for module, line, name in vague:
            by_module[module].append(f"{line}:{name}")
        print("vague:", *(f"  {module}: {' '.join(places)}" for module, places in sorted(by_module.items())), sep="\n")
    return int(any(value > LIMITS[name] for name, value in figures.items()))


if __name__ == "__main__":
    raise SystemExit(main())
