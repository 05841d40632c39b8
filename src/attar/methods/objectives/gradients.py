"""Gradients: those of synthetic and of real items are made to agree, class by class (DC, DSA, IDC, LatentDC)."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from attar.base.errors import InputError
from attar.base.randomness import generator as make_generator
from attar.data.augmentation import DsaConfig, cutmix
from attar.methods.objectives.objective import (
    SECOND_ORDER,
    Context,
    MatchingConfig,
    Objective,
    Synthetic,
    class_probabilities,
)
from attar.methods.objectives.student import draw_steps
from attar.models.networks.network import NetworkConfig, initialise_parameters
from attar.models.networks.registry import build_network
from attar.models.real_items import RealItems
from attar.models.training.items import Batch, item_losses
from attar.models.training.stacked import is_stackable


class GradientsConfig(MatchingConfig):
    """Settings of gradient matching.

    Args:
        network: whose gradients are matched.
        distance: "cosine" (DC), "mse" or "l1" (IDC, LatentDD).
        matched: "weights" leaves out vectors, i.e. biases and norms (DC); "convolutions" also the linear layer (IDC);
            "all" leaves out nothing.
        real_batch_size: real items of each class in a matching.
        synthetic_batch_size: synthetic items of each class in a matching; None takes all.
        outer_steps: matchings with one network before another is drawn (outer loop M).
        inner_steps: steps that the network is trained between two matchings (inner loop N).
        train_on: what the network is trained on: "synthetic" (DC) or "real" items (IDC, LatentDD).
        train_batch_size: items of a training step.
        learning_rate: of the network.
        momentum: of the network.
        weight_decay: of the network.
        cutmix_probability: of the network's training batches (IDC).
        pretrain_steps: training steps of a fresh network on real items before its first matching (IDC on ImageNet).
        augmentation: siamese DSA of real and synthetic items in a matching; the network's training is augmented too.
        per_class: how the gradients of all classes are found; "auto" is looped on CPUs, and on CUDA what is measured
            to be faster.
        chunk_items: the most items that go through the network at once.
    """

    kind: Literal["gradients"] = "gradients"
    network: NetworkConfig = NetworkConfig()
    distance: Literal["cosine", "mse", "l1"] = "cosine"
    matched: Literal["weights", "convolutions", "all"] = "weights"
    real_batch_size: int = Field(default=256, ge=1)
    synthetic_batch_size: int | None = Field(default=None, ge=1)
    outer_steps: int = Field(default=1, ge=1)
    inner_steps: int = Field(default=1, ge=0)
    train_on: Literal["synthetic", "real"] = "synthetic"
    train_batch_size: int = Field(default=256, ge=1)
    learning_rate: float = Field(default=0.01, gt=0)
    momentum: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    cutmix_probability: float = Field(default=0.0, ge=0, le=1)
    pretrain_steps: int = Field(default=0, ge=0)
    augmentation: DsaConfig | None = None
    per_class: Literal["auto", "looped", "vectorised"] = "auto"
    chunk_items: int = Field(default=2560, ge=1)

    def build(self, context: Context) -> Gradients:
        return Gradients(self, context)

    def network_copies(self, num_classes: int) -> int:
        # Parameters, momentum and gradient; of each class the real gradient, the synthetic one and a direction.
        return 4 + 3 * num_classes

    def items_at_once(self, num_items: int, num_classes: int) -> float:
        largest = max(self.real_batch_size * num_classes, SECOND_ORDER * num_items, self.train_batch_size)
        return float(min(SECOND_ORDER * self.chunk_items, largest))


class Gradients(Objective):
    """DC's objective in whatever space the items live: pixels (DC, DSA, IDC's matching) or codes (LatentDC).

    For the gradients g_c of the mean cross-entropy over items of class c, with respect to a network's parameters,

        L = sum_c D(g_c(synthetic items of c), g_c(real items of c))

    Each step is one matching. `outer_steps` of them share a network, which is trained `inner_steps` steps between two;
    then another is drawn. Training comes before the next matching, so that it sees the items as they were updated.

    A class's graph is freed before the next class's is built. Where a class has more synthetic items than
    `chunk_items`, its gradient is first found without graph; then each chunk adds the gradient of <g_chunk, dD/dg>.

    Raises:
        InputError: a network with batch norm: its gradient would depend on what it saw before.

    Source: Zhao et al. 2021 (DC), Algorithm 1; Kim et al. 2022 (IDC); LatentDD Algorithm 1 and Eq. 5.
    Deviation: one draw of the siamese augmentation serves all classes of a matching (the official codes draw one per
        class). Between the last matching with a network and the first with the next nothing is trained, as in the
        official code; Algorithm 1 trains there too, without effect.
    """

    config: GradientsConfig

    def __init__(self, config: GradientsConfig, context: Context) -> None:
        super().__init__(config, context)
        self.network = build_network(config.network, context.item_shape, context.num_classes).to(context.device)
        if not is_stackable(self.network):
            raise InputError("gradients of networks with batch norm depend on the batch; take norm 'instance'")
        self.matchings = 0
        self._optimizer = self._fresh_optimizer()
        self._matched = _is_matched(self.network, config.matched)
        self._mode: Literal["looped", "vectorised"] | None = None if config.per_class == "auto" else config.per_class

    def accumulate(self, synthetic: Synthetic, real: RealItems, generator: torch.Generator) -> dict[str, float]:
        seed = int(torch.randint(2**62, (1,), generator=generator))
        if self.matchings % self.config.outer_steps == 0:
            initialise_parameters(self.network, make_generator(seed, "network", device=real.device))
            self._optimizer = self._fresh_optimizer()
            self._train_on_real(self.config.pretrain_steps, real, make_generator(seed, "pretraining"))
        elif self.config.train_on == "real":
            self._train_on_real(self.config.inner_steps, real, make_generator(seed, "training"))
        else:
            self._train_on_synthetic(synthetic, make_generator(seed, "training"))
        loss = self._match(synthetic, real, make_generator(seed, "matching"))
        self.matchings += 1
        return {"loss": loss}

    def resume_state(self) -> Mapping[str, Tensor]:
        state = {f"network.{name}": value.detach() for name, value in self.network.named_parameters()}
        for name, value in self.network.named_parameters():
            momentum = self._optimizer.state.get(value, {}).get("momentum_buffer")
            if momentum is not None:
                state[f"momentum.{name}"] = momentum
        return {**super().resume_state(), **state, "matchings": torch.tensor(self.matchings)}

    @torch.no_grad()
    def resume(self, state: Mapping[str, Tensor]) -> None:
        if not state:
            return
        super().resume(state)
        self.matchings = int(state["matchings"])
        self._optimizer = self._fresh_optimizer()
        for name, value in self.network.named_parameters():
            value.copy_(state[f"network.{name}"])
            if f"momentum.{name}" in state:
                self._optimizer.state[value]["momentum_buffer"] = state[f"momentum.{name}"].to(value.device).clone()

    def _fresh_optimizer(self) -> torch.optim.SGD:
        config = self.config
        return torch.optim.SGD(
            self.network.parameters(), config.learning_rate, config.momentum, weight_decay=config.weight_decay
        )

    def _train_on_real(self, num_steps: int, real: RealItems, generator: torch.Generator) -> None:
        self._train(num_steps, len(real.labels), real.shape, real.gather, real.labels, generator)

    def _train_on_synthetic(self, synthetic: Synthetic, generator: torch.Generator) -> None:
        with torch.no_grad():
            items = synthetic(torch.arange(len(synthetic.labels), device=synthetic.labels.device), generator)
            labels = class_probabilities(synthetic, self.num_classes)
        channels, height, width = items.shape[1:]
        shape = (channels, height, width)
        self._train(self.config.inner_steps, len(items), shape, lambda chosen: items[chosen], labels, generator)

    def _train(
        self,
        num_steps: int,
        num_items: int,
        shape: tuple[int, int, int],
        gather: Callable[[Tensor], Tensor],
        labels: Tensor,
        generator: torch.Generator,
    ) -> None:
        """SGD on the network; a permutation of all items is cut into batches, a new one follows when it is used up.

        What an augmentation draws for codes is a matrix, so it is drawn for one batch at a time.
        """
        for step in draw_steps(shape, num_items, num_steps, self.config.train_batch_size, None, generator):
            chosen = step.items.to(labels.device)
            inputs = gather(chosen)
            if self.augment is not None:
                siamese = not self.augment.per_item
                inputs = self.augment.apply(inputs, self.augment.draw(len(chosen), shape, generator, siamese=siamese))
            batch = Batch(inputs, labels[chosen])
            if self.config.cutmix_probability:
                batch = Batch(*cutmix(inputs, batch.labels, generator, self.config.cutmix_probability))
            self._optimizer.zero_grad(set_to_none=True)
            for part in _parts(batch, self.chunk_items):
                losses = item_losses(self.network(part.inputs), part)
                (losses.mean() * (len(losses) / len(chosen))).backward()
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def _match(self, synthetic: Synthetic, real: RealItems, generator: torch.Generator) -> float:
        members = [(synthetic.labels == index).nonzero().squeeze(1) for index in range(self.num_classes)]
        if self.config.synthetic_batch_size is not None:
            members = [_some(rows, self.config.synthetic_batch_size, generator) for rows in members]
        indices, labels = real.class_batches(self.config.real_batch_size, generator)
        views = self.draw_views(real.shape, generator)
        chosen = torch.cat(members)
        items, targets = synthetic(chosen, generator), class_probabilities(synthetic, self.num_classes)[chosen]
        inputs = self.augmented(items, views)
        matching = _Matching(
            network=self.network,
            gather=lambda rows: self.augmented(real.gather(rows), views),
            real=[indices[labels == index] for index in range(self.num_classes)],
            inputs=inputs.detach().split([len(rows) for rows in members]),
            targets=targets.detach().split([len(rows) for rows in members]),
            distance=functools.partial(_distance, self.config.distance, self._matched),
            chunk_items=self.chunk_items,
        )
        loss, of_inputs, of_targets = self._gradients_of(matching)
        torch.autograd.backward(
            [inputs, *([targets] if targets.requires_grad else [])],
            [of_inputs, *([of_targets] if targets.requires_grad else [])],
        )
        return loss

    def _gradients_of(self, matching: _Matching) -> tuple[float, Tensor, Tensor]:
        if self._mode is None:
            self._mode = _faster(matching)
        return matching.vectorised() if self._mode == "vectorised" else matching.looped()


@dataclass(frozen=True)
class _Matching:
    """One matching of all classes: `real` holds indices, `inputs` and `targets` synthetic items, each class by class.

    `gather` gives augmented real items by their indices; `distance` compares two lists of gradients, one tensor for
    each parameter.
    """

    network: nn.Module
    gather: Callable[[Tensor], Tensor]
    real: Sequence[Tensor]
    inputs: Sequence[Tensor]
    targets: Sequence[Tensor]
    distance: Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
    chunk_items: int

    def looped(self) -> tuple[float, Tensor, Tensor]:
        """(loss, its gradient with respect to all inputs, and to all targets), class by class."""
        parts = []
        parameters = list(self.network.parameters())
        for number, (inputs, targets) in enumerate(zip(self.inputs, self.targets, strict=True)):
            real = self._real_gradient(number, parameters)
            parts.append(self._one_class(inputs, targets, real, parameters))
        return _joined(parts)

    def vectorised(self) -> tuple[float, Tensor, Tensor]:
        """The same with as many classes at once as chunks allow; looped where classes differ in size."""
        real_sizes, sizes = {len(rows) for rows in self.real}, {len(items) for items in self.inputs}
        largest = max(real_sizes | sizes)
        if len(real_sizes) > 1 or len(sizes) > 1 or largest > self.chunk_items:
            return self.looped()
        at_once = max(1, self.chunk_items // largest)
        names = [name for name, _ in self.network.named_parameters()]
        parameters = {name: value.detach() for name, value in self.network.named_parameters()}

        def loss_of(values: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
            return _mean_loss(functional_call(self.network, values, (inputs,)), targets)

        def gap(inputs: Tensor, targets: Tensor, real: dict[str, Tensor]) -> Tensor:
            gradient = torch.func.grad(loss_of)(parameters, inputs, targets)
            return self.distance([gradient[name] for name in names], [real[name] for name in names])

        parts = []
        identity = torch.eye(self.targets[0].shape[1], device=self.inputs[0].device)
        for first in range(0, len(self.real), at_once):
            part = slice(first, first + at_once)
            numbers = torch.arange(len(self.real), device=identity.device)[part]
            items = torch.stack([self.gather(rows) for rows in self.real[part]])
            labels = identity[numbers].unsqueeze(1).expand(-1, items.shape[1], -1)
            real = torch.vmap(torch.func.grad(loss_of), (None, 0, 0))(parameters, items, labels)
            both = torch.func.grad_and_value(gap, argnums=(0, 1))
            gradients, gaps = torch.vmap(both)(
                torch.stack([*self.inputs[part]]), torch.stack([*self.targets[part]]), real
            )
            parts.append((gaps.detach().sum(), *(gradient.detach().flatten(0, 1) for gradient in gradients)))
        return _joined(parts)

    def _real_gradient(self, number: int, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
        rows = self.real[number]
        total = [torch.zeros_like(value) for value in parameters]
        for chunk in rows.split(self.chunk_items):
            items = self.gather(chunk)
            labels = torch.full((len(chunk),), number, device=items.device)
            loss = F.cross_entropy(self.network(items), labels, reduction="sum") / len(rows)
            torch._foreach_add_(total, torch.autograd.grad(loss, parameters))
        return total

    def _one_class(
        self, inputs: Tensor, targets: Tensor, real: Sequence[Tensor], parameters: Sequence[nn.Parameter]
    ) -> tuple[Tensor, Tensor, Tensor]:
        chunks = list(zip(inputs.split(self.chunk_items), targets.split(self.chunk_items), strict=True))
        if len(chunks) == 1:
            leaves = [tensor.detach().requires_grad_() for tensor in chunks[0]]
            gradient = self._gradient(leaves, len(inputs), parameters, create_graph=True)
            distance = self.distance(gradient, real)
            of_inputs, of_targets = _derivatives(distance, leaves)
            return distance.detach(), of_inputs, of_targets
        total = [torch.zeros_like(value) for value in parameters]
        for chunk in chunks:
            torch._foreach_add_(total, self._gradient(chunk, len(inputs), parameters))
        total = [value.requires_grad_() for value in total]
        distance = self.distance(total, real)
        directions = _derivatives(distance, total)
        parts = []
        for chunk in chunks:
            leaves = [tensor.detach().requires_grad_() for tensor in chunk]
            gradient = self._gradient(leaves, len(inputs), parameters, create_graph=True)
            along = sum((one * two).sum() for one, two in zip(gradient, directions, strict=True))
            parts.append(_derivatives(torch.as_tensor(along), leaves))
        of_inputs, of_targets = (torch.cat(column) for column in zip(*parts, strict=True))
        return distance.detach(), of_inputs, of_targets

    def _gradient(
        self, chunk: Sequence[Tensor], count: int, parameters: Sequence[nn.Parameter], create_graph: bool = False
    ) -> tuple[Tensor, ...]:
        """A chunk's share of the gradient of the mean loss over `count` items."""
        loss = _mean_loss(self.network(chunk[0]), chunk[1]) * (len(chunk[0]) / count)
        return torch.autograd.grad(loss, parameters, create_graph=create_graph)


def cosine_distance(one: Tensor, two: Tensor) -> Tensor:
    """DC's distance of two gradients of one parameter, row by row.

        sum_r 1 - <a_r, b_r> / (||a_r|| ||b_r|| + 1e-6)

    Args:
        one: [out, ...]; each output's values are a row. A vector is one row.
        two: of the same shape.

    Source: DC, Eq. 12, and `distance_wb` of its code, which has the small term.
    """
    a, b = (values.reshape(len(values) if values.ndim > 1 else 1, -1) for values in (one, two))
    norms = a.square().sum(1).add(1e-24).sqrt() * b.square().sum(1).add(1e-24).sqrt()
    return (1 - (a * b).sum(1) / (norms + 1e-6)).sum()


def squared_distance(one: Tensor, two: Tensor) -> Tensor:
    """IDC's and LatentDC's distance: the sum of squared differences. Source: IDC's code, metric "mse"."""
    return (one - two).square().sum()


def absolute_distance(one: Tensor, two: Tensor) -> Tensor:
    """IDC's distance on ImageNet: the sum of absolute differences. Source: IDC's code, metric "l1"."""
    return (one - two).abs().sum()


DISTANCES = {"cosine": cosine_distance, "mse": squared_distance, "l1": absolute_distance}


def _distance(name: str, matched: Sequence[bool], one: Sequence[Tensor], two: Sequence[Tensor]) -> Tensor:
    """Summed over the matched parameters."""
    pairs = zip(matched, one, two, strict=True)
    return torch.stack([DISTANCES[name](a, b) for is_matched, a, b in pairs if is_matched]).sum()


def _is_matched(network: nn.Module, matched: str) -> list[bool]:
    least = {"all": 1, "weights": 2, "convolutions": 4}[matched]
    return [parameter.ndim >= least for parameter in network.parameters()]


def _parts(batch: Batch, size: int) -> Iterator[Batch]:
    """The batch cut into parts of at most `size` items."""
    for first in range(0, len(batch.inputs), size):
        rows = slice(first, first + size)
        columns = (batch.inputs, batch.labels, batch.other_labels, batch.weight)
        yield Batch(*(None if column is None else column[rows] for column in columns))  # type: ignore[arg-type]


def _joined(parts: Sequence[tuple[Tensor, Tensor, Tensor]]) -> tuple[float, Tensor, Tensor]:
    """The sum of all losses, looked at once in the end because a look waits for the device, and all gradients."""
    losses, of_inputs, of_targets = zip(*parts, strict=True)
    return float(torch.stack(losses).sum()), torch.cat(of_inputs), torch.cat(of_targets)


def _mean_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy with class probabilities."""
    return -(targets * logits.log_softmax(-1)).sum(-1).mean()


def _derivatives(output: Tensor, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Zero where the output does not depend on the input."""
    return torch.autograd.grad(output, inputs, allow_unused=True, materialize_grads=True)


def _some(items: Tensor, count: int, generator: torch.Generator) -> Tensor:
    order = torch.randperm(len(items), generator=generator)[:count]
    return items[order.to(items.device)]


def _faster(matching: _Matching) -> Literal["looped", "vectorised"]:
    """On a CPU looped, so that files do not depend on timing; on CUDA what one matching takes, after one to warm up.

    Looped is also the faster there. One core took for a matching of 10 classes, looped and vectorised: 12 and 45 s with
    DC's 256 real images and 1 synthetic each, .54 and .55 s with 64 real codes and 12, 1.6 and 2.0 s with 120.
    """
    if matching.inputs[0].device.type != "cuda":
        return "looped"
    seconds = {}
    for name, run in (("looped", matching.looped), ("vectorised", matching.vectorised)):
        try:
            run()
            torch.cuda.synchronize()
            begin = time.perf_counter()
            run()
            torch.cuda.synchronize()
            seconds[name] = time.perf_counter() - begin
        except torch.OutOfMemoryError:
            seconds[name] = math.inf
    return "vectorised" if seconds["vectorised"] < seconds["looped"] else "looped"
