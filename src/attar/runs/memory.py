"""How much memory a run will take, and in what chunks it fits the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from attar.base.device import free_bytes, saved_bytes_per_item, size_text
from attar.base.errors import InputError
from attar.methods.objectives.objective import VALUE_BYTES, Context, MatchingConfig
from attar.methods.parameterizations.parameterization import Parameterization
from attar.methods.recipes import Recipe
from attar.models.networks.network import Network, num_parameters
from attar.models.real_items import RealItems
from attar.runs.budget import num_bytes

SHARE = 0.8
"""Of the free memory, what a run may plan with."""

WORKSPACE_BYTES = 64 << 20
"""What libraries take for themselves once they compute."""

ADDED_UP = ("networks", "originals' features")
"""What every part of a sum keeps for itself; of the rest, what the largest part takes exists at a time."""


@dataclass(frozen=True)
class MemoryPlan:
    """What a run is expected to take beyond the process itself, at its peak.

    Args:
        config: the objective's settings, with the chunk size that fits.
        parts: bytes by purpose: "real items", "synthetic items", "networks", "activations".
        limit: bytes that may be taken.
    """

    config: MatchingConfig
    parts: dict[str, int]
    limit: int

    @property
    def num_bytes(self) -> int:
        """All parts together."""
        return sum(self.parts.values())

    @property
    def line(self) -> str:
        """What the user is told before the run."""
        parts = ", ".join(f"{name} {size_text(count)}" for name, count in self.parts.items())
        total = f"about {size_text(self.num_bytes)} of {size_text(self.limit)}"
        return f"memory: {total} ({parts}), in chunks of {self.config.chunk_size} items"


def plan_memory(
    recipe: Recipe, context: Context, synthetic: Parameterization, real: RealItems, memory: str | None = None
) -> MemoryPlan:
    """The largest chunk, halving the recipe's own, with which the run fits.

    Args:
        recipe, context, synthetic, real: what the objective is built for.
        memory: e.g. "8GB"; None is `SHARE` of what the device has free.

    Raises:
        InputError: `memory` is not understood, or the run does not fit even one item at a time.
    """
    config: MatchingConfig = recipe.objective
    limit = num_bytes(memory, "memory") if memory else int(SHARE * free_bytes(torch.device(context.device)))
    networks = [part.network_in(context) for part in config.components]
    while sum(synthetic.rendering_bytes().values()) > limit // 2 and synthetic.halve_memory():
        pass
    while True:
        pairs = zip(config.components, networks, strict=True)
        parts = [_parts(recipe, part, network, context, synthetic, real) for part, network in pairs]
        plan = MemoryPlan(config, _together(parts), limit)
        if plan.num_bytes <= limit:
            return _with_spare_memory(plan, networks, context, len(synthetic))
        if config.chunk_size == 1:
            raise InputError(_does_not_fit(plan))
        config = config.halved()


def _together(parts: list[dict[str, int]]) -> dict[str, int]:
    """Bytes by purpose of a sum, whose parts work one after another."""
    names = list(dict.fromkeys(name for part in parts for name in part))
    counts = {name: [part.get(name, 0) for part in parts] for name in names}
    return {name: sum(values) if name in ADDED_UP else max(values) for name, values in counts.items()}


def _parts(
    recipe: Recipe,
    config: MatchingConfig,
    network: Network,
    context: Context,
    synthetic: Parameterization,
    real: RealItems,
) -> dict[str, int]:
    """Bytes by purpose of one objective."""
    num_items, num_classes = len(synthetic), context.num_classes
    per_item = saved_bytes_per_item(network, network.input_shape)  # an observer sees images, not codes
    return {
        "real items": real.num_bytes,
        "synthetic items": VALUE_BYTES * _values_of_items(recipe, synthetic),
        "networks": VALUE_BYTES * num_parameters(network) * config.network_copies(num_classes),
        "libraries": WORKSPACE_BYTES,
        "activations": int(per_item * config.items_at_once(num_items, num_classes)),
        **config.extra_bytes(network, context, num_items),
        **synthetic.rendering_bytes(config.num_samples),
    }


def _values_of_items(recipe: Recipe, synthetic: Parameterization) -> int:
    """Values, gradients, and what the optimisers and the average keep beside them."""
    total = 0
    for name, value in synthetic.named_parameters():
        optimizer = recipe.optimizer_of(name)
        if value.requires_grad and optimizer is not None:
            total += value.numel() * ((3 if optimizer.kind == "sgd" else 4) + (optimizer.average > 0))
    return total


def _with_spare_memory(plan: MemoryPlan, networks: list[Network], context: Context, num_items: int) -> MemoryPlan:
    """The plan with half of what is left given to the first part that makes use of it."""
    components = list(plan.config.components)
    for index, (part, network) in enumerate(zip(components, networks, strict=True)):
        spare = (plan.limit - plan.num_bytes) // 2
        components[index], taken_bytes = part.with_spare_memory(spare, network, context, num_items)
        if taken_bytes:
            return MemoryPlan(plan.config.with_parts(components), {**plan.parts, **taken_bytes}, plan.limit)
    return plan


def _does_not_fit(plan: MemoryPlan) -> str:
    mend = "take a smaller network or --memory"
    if any(getattr(part, "gradient", None) == "unrolled" for part in plan.config.components):
        mend = "take objective.gradient=adjoint, which gives the same result in constant activation memory"
    return (
        f"the run needs about {size_text(plan.num_bytes)} even one item at a time, and {size_text(plan.limit)} may be "
        f"taken; {mend}"
    )
