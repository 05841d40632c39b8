"""attar distils a labelled image dataset into one small file, and says honestly what the file is worth."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from attar.errors import InputError

if TYPE_CHECKING:
    from attar import recipes as recipes
    from attar.applications.audit.auditing import audit as audit
    from attar.applications.continual import continual as continual
    from attar.applications.ranking.ranking import rank as rank
    from attar.citations import cite as cite
    from attar.data.sources import load_images as load_images
    from attar.distill import distill as distill
    from attar.distilled import DistilledSet as DistilledSet
    from attar.doctor import doctor as doctor
    from attar.evaluation.compare import compare as compare
    from attar.evaluation.evaluate import evaluate as evaluate
    from attar.export import export as export
    from attar.foreign.importing import import_set as import_set
    from attar.merging import merge as merge
    from attar.report.contact_sheet import show as show

__version__ = "0.1.0"

# Where each public name lives; importing attar imports none of them, and so neither torch nor pydantic.
_PLACES = {
    "DistilledSet": "attar.distilled",
    "audit": "attar.applications.audit.auditing",
    "cite": "attar.citations",
    "compare": "attar.evaluation.compare",
    "continual": "attar.applications.continual",
    "distill": "attar.distill",
    "doctor": "attar.doctor",
    "evaluate": "attar.evaluation.evaluate",
    "export": "attar.export",
    "import_set": "attar.foreign.importing",
    "load_images": "attar.data.sources",
    "merge": "attar.merging",
    "rank": "attar.applications.ranking.ranking",
    "show": "attar.report.contact_sheet",
}

__all__ = [
    "DistilledSet",
    "InputError",
    "__version__",
    "audit",
    "cite",
    "compare",
    "continual",
    "distill",
    "doctor",
    "evaluate",
    "export",
    "import_set",
    "info",
    "load",
    "load_images",
    "merge",
    "rank",
    "recipes",
    "show",
]


def load(path: Path | str) -> DistilledSet:
    """The distilled set in the file `path`. Raises InputError for a file that is damaged or not a distilled set."""
    from attar.distilled import DistilledSet

    return DistilledSet.load(Path(path))


def info(path: Path | str) -> dict[str, Any]:
    """What the file `path` says of itself: classes, sizes, recipe, data, provenance, scores; JSON-able."""
    return load(path).describe()


def __getattr__(name: str) -> Any:
    if name == "recipes":
        return importlib.import_module("attar.recipes")
    if name not in _PLACES:
        raise AttributeError(f"module 'attar' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _FrontDoor(ModuleType):
    """Keeps `attar.distill`, `.doctor` and `.export` functions: importing a submodule would put the module there."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _PLACES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _FrontDoor
