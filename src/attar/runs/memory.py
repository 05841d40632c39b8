"""How much memory a run will take, and in what chunks it fits the device."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass

import torch

from attar.base.errors import InputError
from attar.base.footprint import free_bytes, saved_bytes_per_item, size_text
from attar.methods.objectives.alignment import AlignmentConfig, layer_number, recurring_views
from attar.methods.objectives.discrepancy import KERNEL_VALUES, DiscrepancyConfig
from attar.methods.objectives.features import FeaturesConfig
from attar.methods.objectives.gradients import GradientsConfig
from attar.methods.objectives.inversion import InversionConfig
from attar.methods.objectives.objective import Context, NoObjectiveConfig
from attar.methods.objectives.registry import MatchingConfig, parts_of
from attar.methods.objectives.sums import PartConfig, SumConfig
from attar.methods.objectives.trajectories import TrajectoriesConfig
from attar.methods.parameterizations.diffusion import Diffusion, rendering_bytes
from attar.methods.parameterizations.generator import GeneratorItems, generating_bytes
from attar.methods.parameterizations.parameterization import Parameterization
from attar.methods.parameterizations.priors import Priors
from attar.methods.recipes import Recipe
from attar.models.networks.network import Network, num_parameters
from attar.models.networks.registry import build_network
from attar.models.observers import Observer
from attar.models.real_items import RealItems
from attar.runs.budget import num_bytes

SHARE = 0.8
"""Of the free memory, what a run may plan with."""

SECOND_ORDER = 2.2
"""Activations of a pass that is differentiated twice, against those of one backward pass: measured, docs/memory.md."""

WORKSPACE_BYTES = 64 << 20
"""What libraries take for themselves once they compute."""

VALUE_BYTES = 4

KERNEL_COPIES = 5
"""Tensors of one value a pair of items that a mixture of kernels takes, beside one for each bandwidth: measured."""

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
        return f"memory: {total} ({parts}), in chunks of {self.config.chunk_items} items"


def plan_memory(
    recipe: Recipe, context: Context, synthetic: Parameterization, real: RealItems, memory: str | None = None
) -> MemoryPlan:
    """The largest chunk, halving the recipe's own, with which the run fits.

    Args:
        recipe: with an objective.
        context: what the objective is built for.
        synthetic: the items.
        real: the real items.
        memory: e.g. "8GB"; None is `SHARE` of what the device has free.

    Raises:
        InputError: `memory` is not understood, or the run does not fit even one item at a time.
    """
    config = recipe.objective
    assert not isinstance(config, NoObjectiveConfig)
    limit = num_bytes(memory, "memory") if memory else int(SHARE * free_bytes(torch.device(context.device)))
    networks = [_network(part, context) for part in parts_of(config)]
    if isinstance(synthetic, Diffusion | GeneratorItems):
        while _rendering(synthetic) > limit // 2 and synthetic.halve_memory():
            pass
    while True:
        found = zip(parts_of(config), networks, strict=True)
        parts = [_parts(recipe, part, network, context, synthetic, real) for part, network in found]
        plan = MemoryPlan(config, _together(parts), limit)
        if plan.num_bytes <= limit:
            return _with_kept_graphs(plan, networks, context, len(synthetic))
        if config.chunk_items == 1:
            raise InputError(_does_not_fit(plan, config))
        config = _halved(config)


def _halved(config: MatchingConfig) -> MatchingConfig:
    """In chunks of half the size, every part of a sum."""
    parts = [part.model_copy(update={"chunk_items": max(1, part.chunk_items // 2)}) for part in parts_of(config)]
    return config.with_parts(parts) if isinstance(config, SumConfig) else parts[0]


def _together(parts: list[dict[str, int]]) -> dict[str, int]:
    """Bytes by purpose of a sum, whose parts work one after another."""
    names = list(dict.fromkeys(name for part in parts for name in part))
    counts = {name: [part.get(name, 0) for part in parts] for name in names}
    return {name: sum(each) if name in ADDED_UP else max(each) for name, each in counts.items()}


def _network(config: PartConfig, context: Context) -> Network:
    """The network that items go through: the observer's, or one like those that are trained."""
    if isinstance(config, AlignmentConfig | InversionConfig):
        assert isinstance(context.observer, Observer)
        return context.observer.network
    return build_network(config.network, context.item_shape, context.num_classes)


def _parts(
    recipe: Recipe,
    config: PartConfig,
    network: Network,
    context: Context,
    synthetic: Parameterization,
    real: RealItems,
) -> dict[str, int]:
    parameters = VALUE_BYTES * num_parameters(network)
    per_item = saved_bytes_per_item(network, context.item_shape)
    parts = {
        "real items": real.num_bytes,
        "synthetic items": VALUE_BYTES * _values_of_items(recipe, synthetic),
        "networks": parameters * _network_copies(config, context.num_classes),
        "libraries": WORKSPACE_BYTES,
        "activations": int(per_item * _items_at_once(config, len(synthetic), context.num_classes)),
    }
    if isinstance(config, AlignmentConfig):
        parts["originals' features"] = _kept_features(config, network, len(synthetic))
    if isinstance(synthetic, Priors):
        parts["decoding"] = _decoding(config, synthetic)
    if isinstance(synthetic, Diffusion | GeneratorItems):
        parts["rendering"] = _rendering(synthetic)
    if isinstance(config, DiscrepancyConfig):
        parts["features"] = _compared_features(config, network, context, len(synthetic))
    return parts


def _values_of_items(recipe: Recipe, synthetic: Parameterization) -> int:
    """Values, gradients, and what the optimisers and the average keep beside them."""
    total = 0
    for name, value in synthetic.named_parameters():
        optimizer = recipe.optimizer_of(name)
        if value.requires_grad and optimizer is not None:
            total += value.numel() * ((3 if optimizer.kind == "sgd" else 4) + (optimizer.average > 0))
    return total


def _decoding(config: PartConfig, priors: Priors) -> int:
    """Bytes of the decoder's graph over all samples of a step, which exists as a whole, and of their gradients."""
    each = saved_bytes_per_item(priors.decoder, (priors.decoder.config.num_latents,))
    images = 3 * VALUE_BYTES * math.prod(priors.decoder.image_shape)
    return len(priors) * getattr(config, "samples", 1) * (each + images)


def _rendering(synthetic: Diffusion | GeneratorItems) -> int:
    return rendering_bytes(synthetic) if isinstance(synthetic, Diffusion) else generating_bytes(synthetic)


def _kept_features(config: AlignmentConfig, network: Network, num_items: int) -> int:
    """Bytes of all originals' features that recur, or none where they are more than may be kept."""
    shell = deepcopy(network).to("meta")
    image = torch.empty(1, *network.input_shape, device="meta")
    found = shell(image) if config.layer == "logits" else shell.maps(image, layer_number(config.layer))
    needed = VALUE_BYTES * found.numel() * num_items * recurring_views(config.augmentation)
    return needed if needed <= config.kept_bytes else 0


def _compared_features(config: DiscrepancyConfig, network: Network, context: Context, num_items: int) -> int:
    """Bytes of all items' features, of the rendered items, each with its gradient, and of the kernels in hand."""
    shell = deepcopy(network).to("meta")
    image = torch.empty(1, *network.input_shape, device="meta")
    found = shell.features(image) if config.layer == "final" else shell.maps(image, config.layer)
    num_real, num_rendered = config.real_batch_size * context.num_classes, config.samples * num_items
    features = found.numel() * (num_real + 3 * num_rendered)
    pairs = (config.real_batch_size + math.ceil(num_rendered / context.num_classes)) ** 2
    kernels = max(pairs, min(KERNEL_VALUES, pairs * context.num_classes))
    copies = KERNEL_COPIES + len(config.bandwidths)
    return VALUE_BYTES * (features + 3 * image.numel() * num_rendered + copies * kernels)


def _with_kept_graphs(plan: MemoryPlan, networks: list[Network], context: Context, num_items: int) -> MemoryPlan:
    """The plan with as many of a student's graphs kept as half of what is left holds, where the recipe names none."""
    parts = list(parts_of(plan.config))
    for index, (config, network) in enumerate(zip(parts, networks, strict=True)):
        if not isinstance(config, TrajectoriesConfig) or config.gradient == "unrolled":
            continue
        batch = min(num_items, config.student_batch_size or num_items)
        each = int(SECOND_ORDER * batch * saved_bytes_per_item(network, context.item_shape))
        fitting = int((plan.limit - plan.num_bytes) // 2 // max(1, each))
        kept = min(config.student_steps, fitting if config.kept_steps is None else config.kept_steps)
        parts[index] = config.model_copy(update={"kept_steps": kept})
        whole = plan.config.with_parts(parts) if isinstance(plan.config, SumConfig) else parts[index]
        return MemoryPlan(whole, {**plan.parts, "kept graphs": kept * each}, plan.limit)
    return plan


def _network_copies(config: PartConfig, num_classes: int) -> int:
    """Vectors of the network's size that exist at once."""
    if isinstance(config, AlignmentConfig | DiscrepancyConfig):
        return 2  # the observer, and the swift one; an expert's parameters, read and in the network
    if isinstance(config, FeaturesConfig | InversionConfig):
        return 1
    if isinstance(config, GradientsConfig):
        return 4 + 3 * num_classes  # parameters, momentum, gradient; for each class real, synthetic and direction
    return 6 + config.student_steps * (1 if config.gradient != "unrolled" else 2)


def _items_at_once(config: PartConfig, num_items: int, num_classes: int) -> float:
    """Items whose activations exist at once, in units of one backward pass."""
    if isinstance(config, DiscrepancyConfig):
        return min(config.chunk_items, max(config.samples * num_items, config.real_batch_size * num_classes))
    if isinstance(config, FeaturesConfig):
        return max(config.chunk_items, num_items / num_classes)
    if isinstance(config, AlignmentConfig | InversionConfig):
        return min(num_items, config.chunk_items)
    if isinstance(config, GradientsConfig):
        largest = max(config.real_batch_size * num_classes, SECOND_ORDER * num_items, config.train_batch_size)
        return min(SECOND_ORDER * config.chunk_items, largest)
    batch = min(num_items, config.student_batch_size or num_items)
    if config.gradient == "unrolled":
        return SECOND_ORDER * batch * config.student_steps
    return SECOND_ORDER * min(batch, config.chunk_items)


def _does_not_fit(plan: MemoryPlan, config: MatchingConfig) -> str:
    mend = "take a smaller network or --memory"
    if any(isinstance(part, TrajectoriesConfig) and part.gradient == "unrolled" for part in parts_of(config)):
        mend = "take objective.gradient=adjoint, which gives the same result in constant activation memory"
    return (
        f"the run needs about {size_text(plan.num_bytes)} even one item at a time, and {size_text(plan.limit)} may be "
        f"taken; {mend}"
    )
