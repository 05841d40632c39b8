"""What importing attar costs and needs: nothing heavy at the door, no optional package anywhere, names that stay."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

import attar

SOURCE = Path(attar.__file__).parent
OPTIONAL = (
    "diffusers",
    "accelerate",
    "pyarrow",
    "datasets",
    "huggingface_hub",
    "torchvision",
    "timm",
    "ray",
    "jaxtyping",
    "beartype",
)
HOMES = {
    "diffusers": {"models/codecs/autoencoder.py"},
    "pyarrow": {"data/tables.py", "sets/exports/parquet.py"},
    "datasets": {"data/hub.py"},
    "jaxtyping": {"base/shapes.py"},
    "torchvision": {"models/observers/cache.py"},
    "timm": {"models/observers/cache.py"},
    "ray": {"base/engines/ray.py"},
}
LATE = (
    "sklearn",
    "scipy",
    "torchvision",
    "timm",
    "matplotlib",
    "diffusers",
    "pyarrow",
    "datasets",
    "ray",
    "rich",
    "typer",
)

IMPORT_EVERYTHING = f"""
import importlib, pkgutil, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {OPTIONAL!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
import attar
names = [module.name for module in pkgutil.walk_packages(attar.__path__, "attar.")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_every_module_imports_without_the_extras() -> None:
    done = _python(IMPORT_EVERYTHING)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(
        [path for path in SOURCE.rglob("*.py") if path.parent != SOURCE or path.stem != "__init__"]
    )


@pytest.mark.parametrize("code", ["import attar", "import attar.cli", "import attar; attar.cite, attar.doctor"])
def test_the_door_is_light(code: str) -> None:
    heavy = _python(f"import sys; {code}; print([m for m in ('torch', 'pydantic', 'numpy') if m in sys.modules])")
    assert heavy.stdout.strip() == "[]", heavy.stderr


def test_help_imports_neither_torch_nor_pydantic() -> None:
    code = (
        "import sys; from attar.cli import main; status = main(['--help']); "
        "print(status, [m for m in ('torch', 'pydantic', 'numpy') if m in sys.modules])"
    )
    done = _python(code)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr


def _imported(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


@cache
def _modules() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}


@pytest.mark.parametrize("package", sorted(HOMES))
def test_an_optional_package_has_one_home(package: str) -> None:
    users = {path.relative_to(SOURCE).as_posix() for path, tree in _modules().items() if package in _imported(tree)}
    assert users == HOMES[package]


def test_slow_packages_are_imported_where_they_are_used() -> None:
    early = []
    for path, tree in _modules().items():
        for node in tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom) and path.parent != SOURCE / "cli":
                early += [f"{path.name}: {name}" for name in _imported(node) & set(LATE)]
    assert early == []


def test_every_public_name_is_there() -> None:
    for name in attar.__all__:
        assert getattr(attar, name) is not None
    assert set(attar.__all__) <= set(dir(attar))
    with pytest.raises(AttributeError, match="no attribute 'distil'"):
        attar.distil  # noqa: B018


@pytest.mark.parametrize("module", ["attar.runs.distill", "attar.runs.doctor", "attar.sets.exports.export"])
def test_functions_are_not_replaced_by_the_modules_of_the_same_name(module: str) -> None:
    assert isinstance(importlib.import_module(module), ModuleType)
    assert isinstance(getattr(attar, module.rpartition(".")[2]), FunctionType)
