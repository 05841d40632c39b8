"""Experts of a recipe for some data, before or beside the runs that read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attar.base.engines.engine import Engine
from attar.base.errors import InputError
from attar.base.progress import Progress, Silent
from attar.methods.recipes import REGISTRY
from attar.methods.recipes import recipe as recipe_named
from attar.models.experts.buffer import ExpertBuffer
from attar.models.real_items import codes_to_hold, real_items
from attar.runs.loop import experts_of, training_images
from attar.runs.task import fitted_spaces, resolve_task


def make_experts(
    data: Any,
    recipe: str,
    *,
    count: int | None = None,
    device: str = "auto",
    settings: Mapping[str, Any] | None = None,
    codec: str | None = None,
    progress: Progress | None = None,
    engine: Engine | None = None,
    **loading: Any,
) -> ExpertBuffer:
    """The experts that `distill` with these arguments would read, trained as far as the cache lacks them.

    Args:
        data: anything `distill` takes.
        recipe: one that matches trajectories.
        count: how many experts; None is the recipe's.
        device: "auto", "cpu", "cuda", "cuda:1".
        settings: dotted recipe settings to replace, e.g. {"objective.experts.epochs": 20}.
        codec: text of another codec.
        progress: what to report to.
        engine: where they are trained; see `train_experts`.
        **loading: further arguments of `load_images`.

    Raises:
        InputError: data or recipe that will not do.
        KeyboardInterrupt: on Ctrl-C, once the epoch in hand is kept.
    """
    progress = progress or Silent()
    if not _has_experts(recipe):
        raise InputError(f"recipe {recipe!r} needs no experts; take one that does: {', '.join(_one_of_each_method())}")
    changes = dict(settings or {})
    if count is not None:
        if "objective.experts.count" in changes:
            raise InputError("the count is given twice; leave out --count or --set objective.experts.count")
        changes["objective.experts.count"] = count
    task = resolve_task(recipe, device=device, settings=changes, codec=codec)
    if engine is not None:
        engine.check_device(task.device)
    train, _ = training_images(data, progress, loading)
    spaces = fitted_spaces(task.recipe, train)
    codes = codes_to_hold(spaces.matching, train, task.device, progress)
    real = real_items(spaces.matching, train, codes, task.device)
    experts = experts_of(task.recipe, spaces.to(task.device), train, real, progress, engine=engine)
    assert experts is not None, "the recipe reads experts"
    return experts


def summary(buffer: ExpertBuffer) -> str:
    """One line: how many experts, of what size, how fast, how good."""
    last = buffer.num_experts - 1
    figures = buffer.figures(last)
    pace = "" if buffer.pace is None else f", {buffer.pace:.3g} s an epoch"
    return (
        f"{buffer.folder}: {last + 1} experts of {buffer.num_epochs} epochs in {buffer.num_bytes} bytes{pace}; "
        f"expert {last} has {100 * figures.accuracy:.1f} % of the training items right"
    )


def _one_of_each_method() -> list[str]:
    """The first recipe with experts of every table of settings."""
    first: dict[str, str] = {}
    for name in filter(_has_experts, REGISTRY):
        first.setdefault(name.partition("-")[0], name)
    return list(first.values())


def _has_experts(name: str) -> bool:
    return "experts" in recipe_named(name).objective.needs
