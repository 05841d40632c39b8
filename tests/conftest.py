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


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The cache of every test is an empty folder of its own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("ATTAR_CACHE", str(folder))
    yield folder
