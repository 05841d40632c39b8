"""The memory planner: what it counts, how it chunks, what it refuses, and what happens when memory runs out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from attar.base.device import free_bytes, is_out_of_memory, saved_bytes_per_item, size_text
from attar.base.errors import InputError
from attar.data.image_set import ImageSet
from attar.methods.labels import class_major_labels
from attar.methods.objectives.features import Features, FeaturesConfig
from attar.methods.objectives.objective import Context
from attar.methods.objectives.trajectories import TrajectoriesConfig
from attar.methods.parameterizations.codes import Codes
from attar.methods.parameterizations.diffusion import Diffusion
from attar.methods.parameterizations.generator import GeneratorItems
from attar.methods.recipes import recipe
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import fit_codec
from attar.models.networks.network import NetworkConfig
from attar.models.networks.registry import build_network
from attar.models.real_items import RealItems
from attar.runs.budget import num_bytes
from attar.runs.distill import distill
from attar.runs.memory import plan_memory
from small_diffusion import digit_items, saved_prior
from small_generator import digit_generator_items, saved_synthesis
from small_sets import digit_images

WIDE = NetworkConfig(depth=2, width=64)


class Notes:
    """Keeps what was noted."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def start(self, description: str, total: int) -> None: ...

    def advance(self, count: int = 1, **figures: float) -> None: ...

    def finish(self) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)


def small_images() -> ImageSet:
    images = torch.randint(0, 256, (40, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return ImageSet(images, class_major_labels(2, 20), ("a", "b"))


def planned(objective: Any, memory: str | None) -> Any:
    train = small_images()
    codec = fit_codec(PixelsConfig(), train)
    synthetic = Codes(codec, torch.randn(20, 3, 16, 16), class_major_labels(2, 10))
    real = RealItems(train.labels, 2, images=train, codec=codec)
    changed = recipe("dm").model_copy(update={"objective": objective, "steps": 3})
    return plan_memory(changed, Context(real.shape, 2, "cpu", 3), synthetic, real, memory)


def test_saved_bytes_are_those_autograd_keeps() -> None:
    network = build_network(NetworkConfig(depth=1, width=8, norm="none"), (3, 16, 16), 2)
    # input, convolution's output after its activation (kept once, in place of both), pooled map
    least = 4 * (3 * 256 + 8 * 256 + 8 * 64)
    assert least <= saved_bytes_per_item(network, (3, 16, 16)) <= 2 * least


def test_what_autograd_keeps_where_batch_norms_see_one_pixel() -> None:
    config = NetworkConfig(kind="resnet18", norm="batch", stem="imagenet")
    assert saved_bytes_per_item(build_network(config, (3, 32, 32), 10), (3, 32, 32)) > 100_000


def test_chunks_are_halved_until_the_run_fits() -> None:
    config = FeaturesConfig(network=WIDE, chunk_items=256)
    free = planned(config, "10GB")
    tight = planned(config, "80MB")
    assert free.config.chunk_items == 256
    assert 10 <= tight.config.chunk_items < 256 and tight.num_bytes <= 80_000_000
    assert "in chunks of 256 items" in free.line and "of 10 GB" in free.line


def test_what_never_fits_is_refused_with_a_mend() -> None:
    with pytest.raises(InputError, match=r"even one item at a time, and 100 kB may be taken; take a smaller network"):
        planned(FeaturesConfig(network=WIDE), "100kB")
    unrolled = TrajectoriesConfig(network=WIDE, student_steps=200, gradient="unrolled")
    with pytest.raises(InputError, match=r"objective.gradient=adjoint"):
        planned(unrolled, "300MB")
    assert planned(unrolled.model_copy(update={"gradient": "adjoint"}), "300MB").num_bytes < 3e8


@pytest.mark.parametrize("text", ["8", "lots", "3ipc", "-1GB"])
def test_memory_that_is_not_understood(text: str) -> None:
    with pytest.raises(InputError, match=r"give e\.g\. 8GB"):
        num_bytes(text, "memory")


def test_sizes() -> None:
    assert num_bytes("1.5GB", "memory") == 1_500_000_000
    assert [size_text(n) for n in (12, 3400, 5_670_000, 1_234_000_000)] == ["12 bytes", "3.4 kB", "5.67 MB", "1.23 GB"]
    assert free_bytes(torch.device("cpu")) > 1_000_000


def test_out_of_memory_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError()) and not is_out_of_memory(RuntimeError("shapes differ"))


def test_a_run_goes_on_in_smaller_chunks_when_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"steps": 3, "objective.network.width": 4, "objective.real_batch_size": 8}
    whole = distill(small_images(), "dm", "1ipc", settings=settings)
    accumulate = Features.accumulate

    def failing(self: Features, *arguments: Any) -> dict[str, float]:
        figures = accumulate(self, *arguments)
        if self.chunk_items > 64:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return figures

    monkeypatch.setattr(Features, "accumulate", failing)
    notes = Notes()
    halved = distill(small_images(), "dm", "1ipc", settings=settings, progress=notes)
    assert sum("half the size" in note for note in notes.notes) == 2
    assert torch.equal(whole.codes, halved.codes)

    def always(self: Features, *arguments: Any) -> dict[str, float]:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(Features, "accumulate", always)
    with pytest.raises(InputError, match="memory ran out with chunks of one item"):
        distill(small_images(), "dm", "1ipc", settings=settings)


@pytest.mark.parametrize("kind", ["diffusion", "generator"])
def test_what_renders_goes_on_in_smaller_chunks_too(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rendering runs out of memory above 4 items at once: 16 or 10 are halved, and the run stays with the smaller."""
    settings: dict[str, Any] = {"steps": 3, "objective.network.width": 4, "objective.real_batch_size": 4}
    if kind == "diffusion":
        name, items, file = "ld3m-dm", Diffusion, saved_prior(tmp_path / "prior.safetensors")
        settings |= {"parameterization.sampling.num_steps": 2}
    else:
        name, items, file = "glad-dm", GeneratorItems, saved_synthesis(tmp_path / "generator.safetensors")
        settings |= {"parameterization.depth": 2}
    settings["codec.path"] = str(file)
    whole = distill(digit_images(), name, "2ipc", settings=settings)
    chunk, sizes = items._chunk, []

    def failing(self: Any, numbers: torch.Tensor) -> torch.Tensor:
        sizes.append(len(numbers))
        if len(numbers) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return chunk(self, numbers)

    monkeypatch.setattr(items, "_chunk", failing)
    notes = Notes()
    halved = distill(digit_images(), name, "2ipc", settings=settings, progress=notes)
    assert sum("half the size" in note for note in notes.notes) == 2
    assert [size for size in sizes if size > 4] == ({"diffusion": [16, 8], "generator": [10, 5]}[kind])
    for one, two in zip(whole.payloads()[0].values(), halved.payloads()[0].values(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-2, atol=1e-2)


def test_chunks_stay_whole_where_their_size_changes_nothing() -> None:
    """Without checkpoints everything exists at once: chunks of one item took as much, and many times as long."""
    items, train = digit_items(count=8, checkpointed=False, num_steps=10), digit_images()
    objective = FeaturesConfig(network=NetworkConfig(depth=1, width=4), real_batch_size=4)
    changed = recipe("ld3m-dm").model_copy(update={"objective": objective})
    real = RealItems(train.labels, 10, images=train, codec=items.preprocess)
    limit = int(1.9 * items.rendering_bytes()["rendering"])
    plan = plan_memory(changed, Context(real.shape, 10, "cpu", 3), items, real, f"{limit}B")
    assert limit // 2 < items.rendering_bytes()["rendering"] and plan.num_bytes <= limit
    assert items.chunk_items == 16


def test_a_resumed_run_keeps_the_smaller_chunks_of_rendering() -> None:
    first, again = digit_generator_items(), digit_generator_items()
    assert first.halve_memory() and first.chunk_items == 5
    again.resume(first.resume_state())
    assert again.chunk_items == 5
    again.resume({"chunk_items": torch.tensor(10)})
    again.resume({})
    assert again.chunk_items == 5 and [again.halve_memory() for _ in range(3)] == [True, True, False]
    unchecked = digit_items(checkpointed=False)
    assert not unchecked.halve_memory() and digit_items().halve_memory()
    assert not Codes(first.preprocess, torch.zeros(1, 1, 8, 8), torch.zeros(1).long()).halve_memory()


def test_sizes_of_chunks_are_part_of_what_is_resumed() -> None:
    train = small_images()
    real = RealItems(train.labels, 2, images=train, codec=fit_codec(PixelsConfig(), train))
    objective = Features(FeaturesConfig(network=WIDE, chunk_items=64), Context(real.shape, 2))
    objective.halve_memory()
    again = Features(FeaturesConfig(network=WIDE, chunk_items=64), Context(real.shape, 2))
    again.resume(objective.resume_state())
    assert again.chunk_items == 32
    again.resume({"chunk_items": torch.tensor(64)})
    assert again.chunk_items == 32
