"""Updates of everything that an outer step learns: items, soft labels, the objective's own numbers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from attar.labels import SoftLabels
from attar.objectives.objective import Objective
from attar.parameterizations.parameterization import Parameterization
from attar.recipes import OptimizerConfig, Recipe

LABELS = "soft_labels"


class Updates:
    """Stochastic gradient descent with a rate for each kind of parameter, and the items' running average.

    Args:
        recipe: with an optimizer, and labels.
        synthetic: whose trainable tensors are learned; those of an autoencoder are frozen.
        objective: its own parameters bring their own rates.
        items_per_class: for rates per item.
    """

    def __init__(self, recipe: Recipe, synthetic: Parameterization, objective: Objective, items_per_class: int) -> None:
        assert recipe.optimizer is not None
        self._config: OptimizerConfig = recipe.optimizer
        self._objective = objective
        self._items_per_class = items_per_class
        trainable = {name: value for name, value in synthetic.named_parameters() if value.requires_grad}
        labels = trainable.pop(LABELS, None)
        self._items = trainable
        groups = [{"params": list(trainable.values()), "lr": 0.0, "momentum": self._config.momentum}]
        self._named: dict[str, nn.Parameter] = dict(trainable)
        if labels is not None and isinstance(recipe.labels, SoftLabels) and recipe.labels.learning_rate:
            groups.append({"params": [labels], "lr": recipe.labels.learning_rate, "momentum": recipe.labels.momentum})
            self._named[LABELS] = labels
        elif labels is not None:
            labels.requires_grad_(False)
        own = objective.parameter_groups()
        for index, value in enumerate(value for group in own for value in group["params"]):
            self._named[f"objective.{index}"] = value
        self._optimizer = torch.optim.SGD([*groups, *own])
        self._average = {name: value.detach().clone() for name, value in trainable.items()} if self._decay else {}

    @property
    def _decay(self) -> float:
        return self._config.average

    def clear(self) -> None:
        """Forget the gradients."""
        self._optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def take(self, progress: float) -> None:
        """One step along the gradients, when `progress` of the steps (0 to 1) are done.

        average <- d average + (1 - d) items
        """
        self._optimizer.param_groups[0]["lr"] = self._config.rate(self._items_per_class, progress)
        self._optimizer.step()
        for name, average in self._average.items():
            average.lerp_(self._items[name], 1 - self._decay)

    @torch.no_grad()
    def finish(self) -> None:
        """The items become their average, where the recipe says so."""
        for name, average in self._average.items():
            self._items[name].copy_(average)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs."""
        tensors = {f"item.{name}": value.detach() for name, value in self._named.items()}
        for name, value in self._named.items():
            momentum = self._optimizer.state.get(value, {}).get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum.{name}"] = momentum
        tensors |= {f"average.{name}": value for name, value in self._average.items()}
        return tensors | {f"state.{name}": value for name, value in self._objective.resume_state().items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` gave; from the beginning where there are none."""
        if not tensors:
            return
        for name, value in self._named.items():
            value.data.copy_(tensors[f"item.{name}"])
            if f"momentum.{name}" in tensors:
                self._optimizer.state[value]["momentum_buffer"] = tensors[f"momentum.{name}"].to(value.device)
        for name, average in self._average.items():
            average.copy_(tensors[f"average.{name}"])
        prefix = "state."
        self._objective.resume({name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)})
