"""attar distils a labelled image dataset into one small file, and says honestly what the file is worth."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.base.errors import InputError
from attar.base.version import __version__

if TYPE_CHECKING:
    from attar.data.sources import load_images as load_images
    from attar.evaluation.compare import compare as compare
    from attar.evaluation.evaluate import evaluate as evaluate
    from attar.methods import recipes as recipes
    from attar.report.citing import cite as cite
    from attar.report.contact_sheet import show as show
    from attar.runs.distill import distill as distill
    from attar.runs.doctor import doctor as doctor
    from attar.sets.distilled import DistilledSet as DistilledSet
    from attar.sets.exports.export import export as export
    from attar.sets.imports.importing import import_set as import_set
    from attar.sets.merging import merge as merge
    from attar.studies.audit.auditing import audit as audit
    from attar.studies.continual.continual import continual as continual
    from attar.studies.ranking.ranking import rank as rank

# Where each public name lives; importing attar imports none of them, and so neither torch nor pydantic.
_PLACES = {
    "DistilledSet": "attar.sets.distilled",
    "audit": "attar.studies.audit.auditing",
    "cite": "attar.report.citing",
    "compare": "attar.evaluation.compare",
    "continual": "attar.studies.continual.continual",
    "distill": "attar.runs.distill",
    "doctor": "attar.runs.doctor",
    "evaluate": "attar.evaluation.evaluate",
    "export": "attar.sets.exports.export",
    "import_set": "attar.sets.imports.importing",
    "load_images": "attar.data.sources",
    "merge": "attar.sets.merging",
    "rank": "attar.studies.ranking.ranking",
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
    from attar.sets.distilled import DistilledSet

    return DistilledSet.load(Path(path))


def info(path: Path | str) -> dict[str, Any]:
    """What the file `path` says of itself: classes, sizes, recipe, data, provenance, scores; JSON-able."""
    return load(path).describe()


def __getattr__(name: str) -> Any:
    if name == "recipes":
        return importlib.import_module("attar.methods.recipes")
    if name not in _PLACES:
        raise AttributeError(f"module 'attar' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
