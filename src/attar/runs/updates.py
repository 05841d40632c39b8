"""Updates of everything that an outer step learns: items, soft labels, the objective's own numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from attar.methods.objectives.objective import Objective
from attar.methods.parameterizations.parameterization import Parameterization
from attar.methods.recipes import OptimizerConfig, Recipe

LABELS = "soft_labels"

NAMES_OF_STATE = {
    "momentum": "momentum_buffer",
    "mean": "exp_avg",
    "square": "exp_avg_sq",
    "count": "step",
}
"""Names in a checkpoint -> the optimisers' own."""


class Updates:
    """Descent with a rate for each kind of parameter, and the items' running average.

    Items are updated value by value as the recipe's optimizer says: what becomes of one does not depend on the others.
    A decoder that is learned with them is updated as `decoder_optimizer` says, and features of a generator as
    `feature_optimizer` does. Soft labels and the objective's own parameters are updated by stochastic gradient descent.

    Raises:
        InputError: items that are to stay in a range and have none.
    """

    def __init__(self, recipe: Recipe, synthetic: Parameterization, objective: Objective, items_per_class: int) -> None:
        assert recipe.optimizer is not None
        self._objective, self._synthetic = objective, synthetic
        self._items_per_class = items_per_class
        self._bounded = recipe.optimizer.valid_range
        if self._bounded:
            synthetic.valid_range()  # what has none is refused before the first step
        trainable = {name: value for name, value in synthetic.named_parameters() if value.requires_grad}
        labels = trainable.pop(LABELS, None)
        self._statistics = synthetic.statistics()
        groups: list[dict[str, Any]] = list(objective.parameter_groups())
        self._named: dict[str, nn.Parameter] = dict(trainable)
        for index, value in enumerate(value for group in groups for value in group["params"]):
            self._named[f"objective.{index}"] = value
        of_labels = None if labels is None else recipe.labels.parameter_group(labels)
        if labels is not None and of_labels is not None:
            groups.insert(0, of_labels)
            self._named[LABELS] = labels
        elif labels is not None:
            labels.requires_grad_(False)
        self._scheduled: list[tuple[OptimizerConfig, torch.optim.Optimizer]] = []
        self._owners: dict[str, torch.optim.Optimizer] = {}
        self._averages: dict[str, tuple[Tensor, float]] = {}
        for config, names in _by_optimizer(recipe, trainable):
            optimizer = _optimizer(config, [trainable[name] for name in names])
            self._scheduled.append((config, optimizer))
            self._owners |= dict.fromkeys(names, optimizer)
            if config.average:
                self._averages |= {name: (trainable[name].detach().clone(), config.average) for name in names}
        self._optimizers = [optimizer for _, optimizer in self._scheduled]
        for kind in dict.fromkeys(group.get("optimizer", "sgd") for group in groups):
            optimizer = _own_optimizer(kind, [group for group in groups if group.get("optimizer", "sgd") == kind])
            of_group = {id(value) for group in optimizer.param_groups for value in group["params"]}
            self._owners |= {name: optimizer for name, value in self._named.items() if id(value) in of_group}
            self._optimizers.append(optimizer)

    def clear(self) -> None:
        """Forget the gradients."""
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def take(self, progress: float) -> None:
        """One step along the gradients, when `progress` of the steps (0 to 1) are done.

        average <- d average + (1 - d) items
        """
        for config, optimizer in self._scheduled:
            optimizer.param_groups[0]["lr"] = config.rate(self._items_per_class, progress)
        for optimizer in self._optimizers:
            optimizer.step()
        if self._bounded:
            self._synthetic.cut_to_valid_range()
        for name, (average, decay) in self._averages.items():
            average.lerp_(self._named[name], 1 - decay)

    @torch.no_grad()
    def finish(self) -> None:
        """The items become their average, where the recipe says so."""
        for name, (average, _) in self._averages.items():
            self._named[name].copy_(average)

    def before_step(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Copies of what a step's forward pass changes, for `put_back` where the step is not taken after all."""
        state = self._objective.resume_state()
        return {name: value.clone() for name, value in state.items()}, {
            name: value.clone() for name, value in self._statistics.items()
        }

    @torch.no_grad()
    def put_back(self, before: tuple[Mapping[str, Tensor], Mapping[str, Tensor]]) -> None:
        """The objective's state and the items' statistics become what they were."""
        state, statistics = before
        self._objective.resume(state)
        for name, value in self._statistics.items():
            value.copy_(statistics[name])

    def halve_memory(self) -> bool:
        """Render and match in chunks of half the size from now on; False where neither can become smaller."""
        return any([self._objective.halve_memory(), self._synthetic.halve_memory()])

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs."""
        tensors = {f"item.{name}": value.detach() for name, value in self._named.items()}
        for name, value in self._named.items():
            state = self._owners[name].state.get(value, {})
            for ours, theirs in NAMES_OF_STATE.items():
                if state.get(theirs) is not None:
                    tensors[f"{ours}.{name}"] = state[theirs]
        tensors |= {f"average.{name}": value for name, (value, _) in self._averages.items()}
        tensors |= {f"statistics.{name}": value for name, value in self._statistics.items()}
        tensors |= {f"rendering.{name}": value for name, value in self._synthetic.resume_state().items()}
        return tensors | {f"state.{name}": value for name, value in self._objective.resume_state().items()}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` gave, which stays as it is; from the beginning where there are none."""
        if not tensors:
            return
        for name, value in self._named.items():
            value.data.copy_(tensors[f"item.{name}"])
            for ours, theirs in NAMES_OF_STATE.items():
                if f"{ours}.{name}" in tensors:
                    # Adam counts its steps on the CPU.
                    device = torch.device("cpu") if ours == "count" else value.device
                    stored = tensors[f"{ours}.{name}"].detach().to(device, copy=True)
                    self._owners[name].state[value][theirs] = stored
        for name, (average, _) in self._averages.items():
            average.copy_(tensors[f"average.{name}"])
        for name, statistic in self._statistics.items():
            statistic.copy_(tensors[f"statistics.{name}"])
        for part, prefix in ((self._synthetic, "rendering."), (self._objective, "state.")):
            part.resume({name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)})


def _by_optimizer(recipe: Recipe, trainable: Iterable[str]) -> list[tuple[OptimizerConfig, list[str]]]:
    """Names of the items' tensors, those that one optimizer updates together."""
    groups: dict[int, tuple[OptimizerConfig, list[str]]] = {}
    for name in trainable:
        config = recipe.optimizer_of(name)
        assert config is not None
        groups.setdefault(id(config), (config, []))[1].append(name)
    return list(groups.values())


def _optimizer(config: OptimizerConfig, items: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The rate is set at every step."""
    if config.betas is None:
        return torch.optim.SGD(items, lr=0.0, momentum=config.momentum, weight_decay=config.weight_decay)
    kind = torch.optim.AdamW if config.kind == "adamw" else torch.optim.Adam
    return kind(items, lr=0.0, betas=config.betas, weight_decay=config.weight_decay)


def _own_optimizer(kind: str, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Of soft labels and of an objective's own parameters; see `Objective.parameter_groups`."""
    groups = [{name: value for name, value in group.items() if name != "optimizer"} for group in groups]
    return torch.optim.AdamW(groups) if kind == "adamw" else torch.optim.SGD(groups)
