"""Every test runs on one thread, with a cache of its own, and with shape annotations checked (jaxtyping, beartype)."""

from __future__ import annotations

from attar.base.process import prepare_process

prepare_process()

from jaxtyping import install_import_hook

# The rooms where tensors flow; the doors (sources, registries, command line) are tested with wrong types on purpose.
ROOMS = (
    "methods.initialization",
    "methods.objectives",
    "methods.parameterizations",
    "models.observers",
    "models.real_items",
    "models.training.loop",
    "models.training.testing",
)
CODECS = ("dct", "encoding", "patches", "pca", "pixels", "resample")
CHECKED = [
    *ROOMS,
    *(f"models.codecs.{name}" for name in CODECS),
    "data.augmentation",
    "data.resizing",
    "evaluation.baselines",
]
install_import_hook([f"attar.{room}" for room in CHECKED], "beartype.beartype")

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def module_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The cache of whatever a module's tests share; of every test of a module that says `SHARES_CACHE = True`."""
    folder = tmp_path_factory.mktemp("module_cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTAR_CACHE", str(folder))
        yield folder


@pytest.fixture
def empty_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for one test."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("ATTAR_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def own_cache(request: pytest.FixtureRequest, module_cache: Path) -> Path:
    """The cache of every test is an empty folder of its own, unless its module shares one."""
    shared = getattr(request.module, "SHARES_CACHE", False)
    return module_cache if shared else request.getfixturevalue("empty_cache")


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of `report_pages`, with their runs and scorecards; tests copy what they change."""
    from report_pages import RUNS, make, make_hostile

    path = tmp_path_factory.mktemp("reported")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTAR_CACHE", str(path / "cache"))
        for name in RUNS:
            make(path, name)
        make_hostile(path)
    return path
