"""Sums: several objectives match the same items, all in every step or each in its turn (D3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeAlias

import torch
from pydantic import Field, model_validator
from torch import Tensor

from attar.base.errors import InputError
from attar.base.randomness import generator as make_generator
from attar.data.augmentation import DsaConfig
from attar.methods.objectives.objective import Context, MatchingConfig, NoObjectiveConfig, Objective, Synthetic
from attar.methods.objectives.registry import PartConfig
from attar.models.experts.config import ReadsExperts
from attar.models.real_items import RealItems

Weight: TypeAlias = Annotated[float, Field(gt=0)]


class SumConfig(MatchingConfig):
    """Settings of several objectives together.

    Args:
        parts: settings of each objective; a kind may come more than once, trajectories only once.
        weights: one factor for each part's loss; empty: 1 for each.
        mode: "sum": every step adds up the gradients of all parts. "alternating": step t (from 0) is one of part t mod
            n alone, as in D3's official code, whose iteration is a step by trajectories and then one by discrepancy:
            two steps here.

    Raises:
        InputError: no parts, one that alternates with none, weights that are not one for each, parts that ask for
            different experts or augment differently, or two parts that learn the student's rate.
    """

    kind: Literal["sum"] = "sum"
    parts: tuple[Annotated[PartConfig, Field(discriminator="kind")], ...]
    weights: tuple[Weight, ...] = ()
    mode: Literal["sum", "alternating"] = "sum"

    @property
    def names(self) -> tuple[str, ...]:
        """One for each part: its kind, from the second of a kind on with a number: "discrepancy", "discrepancy_2"."""
        kinds = [part.kind for part in self.parts]
        counts = [kinds[: index + 1].count(kind) for index, kind in enumerate(kinds)]
        return tuple(kind if count == 1 else f"{kind}_{count}" for kind, count in zip(kinds, counts, strict=True))

    @property
    def factors(self) -> tuple[float, ...]:
        """The weight of every part."""
        return self.weights or (1.0,) * len(self.parts)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset().union(*(part.needs for part in self.parts))

    @property
    def learned_names(self) -> tuple[str, ...]:
        return tuple(name for part in self.parts for name in part.learned_names)

    @property
    def components(self) -> tuple[MatchingConfig, ...]:
        return self.parts

    @property
    def expert_settings(self) -> ReadsExperts | None:
        """Those of the part that learns numbers with its experts (trajectories), else of the first that reads some."""
        readers = sorted(self._readers, key=lambda part: not part.learned_names)
        return readers[0].expert_settings if readers else None

    @property
    def views(self) -> DsaConfig | None:
        """The one of the parts that augment what they match; it is `Context.augmentation` of those parts alone."""
        return next(iter(self._views()), None)

    @property
    def chunk_size(self) -> int:
        """The largest of the parts'."""
        return max(part.chunk_size for part in self.parts)

    def without_flip(self) -> SumConfig:
        return self.with_parts([part.without_flip() for part in self.parts])

    def halved(self) -> SumConfig:
        return self.with_parts([part.halved() for part in self.parts])

    def with_parts(self, parts: Sequence[MatchingConfig]) -> SumConfig:
        """The same with other settings of its parts."""
        return self.model_copy(update={"parts": tuple(parts)})

    def build(self, context: Context) -> Sum:
        return Sum(self, context)

    @property
    def _readers(self) -> list[MatchingConfig]:
        """Parts that read experts."""
        return [part for part in self.parts if part.expert_settings is not None]

    @model_validator(mode="after")
    def _refuse_what_cannot_work(self) -> SumConfig:
        if not self.parts:
            raise InputError("a sum without parts matches nothing; give it at least one objective in parts")
        if self.mode == "alternating" and len(self.parts) == 1:
            raise InputError("one part has none to alternate with; set mode=sum, or give two parts or more")
        if self.weights and len(self.weights) != len(self.parts):
            raise InputError(
                f"there are {len(self.weights)} weights for {len(self.parts)} parts; give one for each, or none"
            )
        learned = self.learned_names
        if len(set(learned)) < len(learned):
            raise InputError("two parts of kind trajectories would each learn the student's rate; give one")
        self._check_experts()
        if len(self._views()) > 1:
            raise InputError("the parts augment differently; give those that augment the same augmentation")
        return self

    def _check_experts(self) -> None:
        first = min(self._readers, key=lambda part: not part.learned_names, default=None)
        for name, part in zip(self.names, self.parts, strict=True):
            if first is None or part.expert_settings is None:
                continue
            for setting in ("network", "experts"):
                if getattr(part, setting) != getattr(first, setting):
                    raise InputError(
                        f"parts {first.kind} and {name} read the same experts and differ in {setting}; "
                        f"give both the same {setting}"
                    )

    def _views(self) -> list[DsaConfig]:
        """The different augmentations among the parts."""
        return list(dict.fromkeys(part.views for part in self.parts if part.views is not None))


ObjectiveConfig = Annotated[NoObjectiveConfig | PartConfig | SumConfig, Field(discriminator="kind")]
"""What a recipe may have as its objective: none, one, or a sum."""


class Sum(Objective):
    """Several objectives of the same items.

        L = sum_i weight_i L_i   in every step,   or   L = weight_i L_i, i = t mod n, in step t ("alternating")

    Each part sees the items through its own weight, so what others have accumulated is not scaled with it. Each draws
    from a generator of its own: what a part draws does not depend on which others there are. In turns, a part counts
    its own steps alone, e.g. for a growing range of starts; the items' optimiser goes on through all turns.

    Attributes:
        parts: the objectives, in the settings' order.
        step: how many steps were taken.

    Source: Qin et al. 2024 (D3), appendix B.3, "comprised of two distinct terms"; its official code alternates.
    """

    config: SumConfig

    def __init__(self, config: SumConfig, context: Context) -> None:
        super().__init__(config, context)
        self.step = 0
        in_turns = len(config.parts) if config.mode == "alternating" else 1
        self.parts: list[Objective] = [
            part.build(
                replace(
                    context,
                    augmentation=None if part.views is None else context.augmentation,
                    num_steps=-(-context.num_steps // in_turns),
                )
            )
            for part in config.parts
        ]
        for name, part in zip(config.names, self.parts, strict=True):
            self.add_module(name, part)

    def accumulate(self, synthetic: Synthetic, real: RealItems, generator: torch.Generator) -> dict[str, float]:
        # A part's draws are its own by its name, so that a part added or left out moves no other's.
        seed = int(torch.randint(2**62, (1,), generator=generator))
        count = len(self.parts)
        turn = range(count) if self.config.mode == "sum" else [self.step % count]
        loss, figures = 0.0, dict[str, float]()
        for index in turn:
            name, weight = self.config.names[index], self.config.factors[index]
            of_part = self._weighted(index, synthetic, real, make_generator(seed, name))
            loss += weight * of_part["loss"]
            figures |= {f"{name}.{figure}": value for figure, value in of_part.items()}
        self.step += 1
        return {"loss": loss, **figures}

    def parameter_groups(self) -> Sequence[dict[str, Any]]:
        return tuple(group for part in self.parts for group in part.parameter_groups())

    def resume_state(self) -> Mapping[str, Tensor]:
        state = {"step": torch.tensor(self.step)}
        for name, part in zip(self.config.names, self.parts, strict=True):
            state |= {f"{name}.{key}": value for key, value in part.resume_state().items()}
        return state

    def resume(self, state: Mapping[str, Tensor]) -> None:
        self.step = int(state.get("step", self.step))
        for name, part in zip(self.config.names, self.parts, strict=True):
            prefix = f"{name}."
            part.resume({key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)})

    def learned(self) -> Mapping[str, float]:
        return {name: value for part in self.parts for name, value in part.learned().items()}

    def halve_memory(self) -> bool:
        """Every part that can; which one memory ran out in is not known."""
        halved = [part.halve_memory() for part in self.parts]
        return any(halved)

    def _weighted(
        self, index: int, synthetic: Synthetic, real: RealItems, generator: torch.Generator
    ) -> dict[str, float]:
        """One part's step; the gradients of its own parameters are weighted too."""
        part, weight = self.parts[index], self.config.factors[index]
        parameters = [value for group in part.parameter_groups() for value in group["params"]]
        before = [value.grad for value in parameters]
        for value in parameters:
            value.grad = None
        figures = part.accumulate(_Weighted(synthetic, weight), real, generator)
        for value, old in zip(parameters, before, strict=True):
            added = None if value.grad is None else value.grad * weight
            value.grad = old if added is None else added if old is None else old + added
        return figures


class _Weighted:
    """Items whose gradients are multiplied by a weight on their way back."""

    def __init__(self, synthetic: Synthetic, weight: float) -> None:
        self._synthetic, self._weight = synthetic, weight
        self.labels = synthetic.labels
        self.soft_labels = None if synthetic.soft_labels is None else self._scaled(synthetic.soft_labels)

    def __call__(self, items: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self._scaled(self._synthetic(items, generator))

    def _scaled(self, values: Tensor) -> Tensor:
        view = values.view_as(values)
        if view.requires_grad:
            weight = self._weight
            view.register_hook(lambda gradient: gradient * weight)
        return view
