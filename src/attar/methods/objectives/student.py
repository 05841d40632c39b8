"""A student's training on synthetic items, and the gradient of how far from its target it ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from attar.base.errors import NonFiniteLossError
from attar.base.shapes import Float, Int64
from attar.data.augmentation import Augmentation


@dataclass(frozen=True)
class StudentStep:
    """The items of one step of a student, and what the augmentation drew for them."""

    items: Int64[Tensor, " batch"]
    parameters: Any = None


@dataclass(frozen=True)
class Training:
    """All that a student's end, and so its loss, depends on; every float tensor has the dtype of the items.

        v_{i+1} = mu v_i + grad mean cross-entropy(f(theta_i, augment(X_i)), y_i),   v_0 = 0
        theta_{i+1} = theta_i - beta v_{i+1}
        L = || theta_N - target ||^2 / || theta_0 - target ||^2

    Args:
        network: f; its own parameters are not read, buffers must not change in a forward pass.
        start: theta_0, in the order of `network.named_parameters()`.
        target: where the expert went.
        items: X, without graph.
        labels: y, a probability for every class, without graph.
        rate: beta.
        steps: N batches.
        momentum: mu.
        augmentation: of the batches, whose parameters the steps hold; or None.
        chunk_items: the most items that go through the network at once.
        kept_steps: of the last steps the graph is kept from the forward to the backward sweep, which saves doing it
            again there and costs its memory.
    """

    network: nn.Module
    start: Float[Tensor, " parameters"]
    target: Float[Tensor, " parameters"]
    items: Float[Tensor, "items ..."]
    labels: Float[Tensor, "items classes"]
    rate: Float[Tensor, ""]
    steps: Sequence[StudentStep]
    momentum: float = 0.0
    augmentation: Augmentation | None = None
    chunk_items: int = 1024
    kept_steps: int = 0


@dataclass(frozen=True)
class _Graph:
    """The gradient of the share of `rows` in a batch's mean loss, a function of the leaves: parameters and batch."""

    rows: slice
    parts: list[Tensor]
    batch: list[Tensor]
    gradient: tuple[Tensor, ...]


@dataclass(frozen=True)
class EndGradients:
    """A training's loss L and its derivatives with respect to items, labels (each probability) and rate."""

    loss: float
    items: Tensor
    labels: Tensor
    rate: Tensor


def draw_steps(
    item_shape: tuple[int, int, int],
    num_items: int,
    num_steps: int,
    batch_size: int | None,
    augmentation: Augmentation | None,
    generator: torch.Generator,
    samples: int = 1,
) -> list[StudentStep]:
    """Batches of a student: a permutation of all items is cut into batches, a new one follows when it is used up.

    The last batch of a permutation may be smaller. What is drawn for all steps is kept until the backward sweep.

    Args:
        item_shape: (c, h, w).
        num_items: M.
        num_steps: N.
        batch_size: B; None, or M and more, takes all items in every step.
        augmentation: draws for every item where it can, else for every batch.
        generator: on the CPU.
        samples: how many samples of each item there are, M apart; permutation p is of the samples p mod `samples`.
    """
    batches, num_passes = list[Tensor](), 0
    while len(batches) < num_steps:
        whole = batch_size is None or batch_size >= num_items
        order = torch.arange(num_items) if whole else torch.randperm(num_items, generator=generator)
        order = order + num_items * (num_passes % samples)
        num_passes += 1
        batches.extend(order.split(num_items if batch_size is None else batch_size))
    batches = batches[:num_steps]
    if augmentation is None:
        return [StudentStep(batch) for batch in batches]
    siamese = not augmentation.per_item
    return [
        StudentStep(batch, augmentation.draw(len(batch), item_shape, generator, siamese=siamese)) for batch in batches
    ]


def adjoint_gradients(training: Training, hessian: bool = True) -> EndGradients:
    """The exact gradient of a student's end in constant activation memory, by sweeping its adjoint backwards.

    The forward sweep keeps the theta_i and the graphs of the last `kept_steps` steps. With lambda = dL/dtheta_{i+1},
    and s_i = <g_i, kappa_i> for the gradient g_i of step i as a function of its parameters, items and labels, the
    backward sweep is

        kappa_i = lambda + mu kappa_{i+1}
        dL/dbeta -= s_i
        dL/dX_i -= beta ds_i/dX_i,   dL/dy_i -= beta ds_i/dy_i
        lambda <- lambda - beta ds_i/dtheta_i

    A velocity is not stored: dL/dv_{i+1} = -beta kappa_i. Each s_i is differentiated by a second backward pass, which
    on a CPU core took half the time of forward-over-reverse (ConvNet-3 of width 128, 10 images: 142 against 310 ms).

    Args:
        training: the student's.
        hessian: False leaves out the last line (TESLA): then exact for one step only. On softmax regression over 20
            steps its median error was 0.4 / 3.5 / 32 / 92 % at rates of .001 / .01 / .1 / .5 with cosines of 1 / 1 /
            .98 / .91, and 78 % with momentum; that of the rate was wrong by up to 2.7 times, at times in sign.

    Raises:
        NonFiniteLossError: the student diverged.

    Source: the loss is LatentDD Eq. 9 and Algorithm 3, line 11; the two sweeps without the Hessian are TESLA's
        (Cui et al. 2023), whose released code halves the gradient.
    """
    path, kept = _path(training)
    rate = training.rate
    gap = path.pop() - training.target
    distance = (training.start - training.target).square().sum()
    loss = gap.square().sum() / distance
    adjoint = gap.mul_(2 / distance)
    direction = torch.zeros_like(adjoint)
    of_items, of_labels = torch.zeros_like(training.items), torch.zeros_like(training.labels)
    of_rate = torch.zeros_like(rate)
    for step in reversed(training.steps):
        direction.mul_(training.momentum).add_(adjoint)
        chosen = step.items.to(training.items.device)
        theta, graphs = path.pop(), kept.pop() if kept else None
        value, items, labels, parameters = _directional(training, theta, step, graphs, direction, hessian)
        of_rate -= value
        of_items.index_add_(0, chosen, items.mul_(-rate))
        of_labels.index_add_(0, chosen, labels.mul_(-rate))
        if parameters is not None:
            adjoint.sub_(parameters.mul_(rate))
    return EndGradients(float(loss), of_items, of_labels, of_rate)


def unrolled_gradients(training: Training) -> EndGradients:
    """The same gradient through one graph over all steps: memory grows with their number.

    Raises:
        NonFiniteLossError: the student diverged.

    Source: LatentDD Algorithm 3; Cazenavette et al. 2022 (MTT), Algorithm 1.
    """
    items, labels, rate = (
        tensor.detach().requires_grad_() for tensor in (training.items, training.labels, training.rate)
    )
    theta = _parts(training.network, training.start)
    velocity = [torch.zeros_like(part) for part in theta]
    for number, step in enumerate(training.steps):
        chosen = step.items.to(items.device)
        inputs = _augmented(training, items[chosen], step)
        chunks = zip(*(rows.split(training.chunk_items) for rows in (inputs, labels[chosen])), strict=True)
        loss = sum((_summed_loss(training.network, theta, *chunk) for chunk in chunks), inputs.new_zeros(()))
        gradient = _grad(loss / len(chosen), theta, create_graph=True)
        velocity = [training.momentum * old + new for old, new in zip(velocity, gradient, strict=True)]
        theta = [part - rate * moved for part, moved in zip(theta, velocity, strict=True)]
        if number + 1 == len(training.steps):
            _check_finite(training, [_flat(theta).detach()])
    distance = (training.start - training.target).square().sum()
    end = (_flat(theta) - training.target).square().sum() / distance
    return EndGradients(float(end.detach()), *_grad(end, [items, labels, rate]))


def _path(training: Training) -> tuple[list[Tensor], list[list[_Graph]]]:
    """theta_0 to theta_N, flat, and the graphs that are kept of the last steps."""
    theta, path = training.start, [training.start]
    kept: list[list[_Graph]] = []
    velocity = torch.zeros_like(theta)
    for number, step in enumerate(training.steps):
        graphs = None
        if number >= len(training.steps) - training.kept_steps:
            inputs = _augmented(training, training.items[step.items.to(training.items.device)], step)
            graphs = list(_graphs(training, theta, step, inputs))
            kept.append(graphs)
        velocity.mul_(training.momentum).add_(_gradient(training, theta, step, graphs))
        theta = theta - training.rate * velocity
        path.append(theta)
    _check_finite(training, path)
    return path, kept


def _gradient(training: Training, theta: Tensor, step: StudentStep, graphs: list[_Graph] | None) -> Tensor:
    """Gradient of the batch's mean cross-entropy at theta; from its graphs, where there are some."""
    if graphs is not None:
        return torch.stack([_flat(graph.gradient).detach() for graph in graphs]).sum(0)
    chosen = step.items.to(training.items.device)
    inputs = _augmented(training, training.items[chosen], step)
    total = torch.zeros_like(theta)
    for rows in _chunks(training, len(chosen)):
        parts = _parts(training.network, theta)
        loss = _summed_loss(training.network, parts, inputs[rows], training.labels[chosen[rows]])
        total += _flat(_grad(loss / len(chosen), parts))
    return total


def _graphs(training: Training, theta: Tensor, step: StudentStep, inputs: Tensor) -> Iterator[_Graph]:
    """Chunk by chunk: only the one in hand exists, unless the caller keeps them."""
    chosen = step.items.to(training.items.device)
    for rows in _chunks(training, len(chosen)):
        parts = _parts(training.network, theta)
        batch = [inputs[rows].detach().requires_grad_(), training.labels[chosen[rows]].requires_grad_()]
        loss = _summed_loss(training.network, parts, *batch) / len(chosen)
        yield _Graph(rows, parts, batch, _grad(loss, parts, create_graph=True))
        del parts, batch, loss


def _directional(
    training: Training,
    theta: Tensor,
    step: StudentStep,
    graphs: list[_Graph] | None,
    direction: Tensor,
    hessian: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """<g, direction> of a batch's gradient g, and its derivatives with respect to items, labels and theta."""
    chosen = step.items.to(training.items.device)
    items = training.items[chosen].requires_grad_(training.augmentation is not None)
    inputs = _augmented(training, items, step)
    value = torch.zeros_like(training.rate)
    of_inputs, of_labels = torch.empty_like(inputs), torch.empty_like(training.labels[chosen])
    of_theta = torch.zeros_like(theta) if hessian else None
    directions = _parts(training.network, direction, leaves=False)
    pending = iter(graphs if graphs is not None else _graphs(training, theta, step, inputs))
    while (graph := next(pending, None)) is not None:
        pairs = zip(graph.gradient, directions, strict=True)
        along = torch.stack([(one * two).sum() for one, two in pairs]).sum()
        leaves = graph.batch + (graph.parts if hessian else [])
        of_inputs[graph.rows], of_labels[graph.rows], *rest = _grad(along, leaves)
        value += along.detach()
        if of_theta is not None:
            of_theta += _flat(rest)
        del graph, along, pairs, rest
    of_items = _grad(inputs, [items], of_inputs)[0] if inputs.requires_grad else of_inputs
    return value, of_items, of_labels, of_theta


def _augmented(training: Training, items: Tensor, step: StudentStep) -> Tensor:
    return items if training.augmentation is None else training.augmentation.apply(items, step.parameters)


def _summed_loss(network: nn.Module, parts: Sequence[Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with class probabilities, summed over items."""
    names = (name for name, _ in network.named_parameters())
    logits = functional_call(network, dict(zip(names, parts, strict=True)), (inputs,))
    return -(labels * logits.log_softmax(1)).sum()


def _grad(
    output: Tensor, inputs: Sequence[Tensor], cotangent: Tensor | None = None, create_graph: bool = False
) -> tuple[Tensor, ...]:
    """Gradients, zero where the output does not depend on the input."""
    return torch.autograd.grad(
        output, inputs, cotangent, create_graph=create_graph, allow_unused=True, materialize_grads=True
    )


def _chunks(training: Training, count: int) -> Iterator[slice]:
    for first in range(0, count, training.chunk_items):
        yield slice(first, min(first + training.chunk_items, count))


def _parts(network: nn.Module, flat: Tensor, leaves: bool = True) -> list[Tensor]:
    """The flat parameters as the network's, each a leaf of its own: views without a graph between them."""
    shapes = [parameter.shape for parameter in network.parameters()]
    parts = flat.detach().split([shape.numel() for shape in shapes])
    return [part.view(shape).requires_grad_(leaves) for part, shape in zip(parts, shapes, strict=True)]


def _flat(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.reshape(-1) for part in parts])


def _check_finite(training: Training, path: Sequence[Tensor]) -> None:
    """Once infinite or not a number, parameters stay so: the last ones tell."""
    if path[-1].isfinite().all():
        return
    first = next(number for number, theta in enumerate(path) if not theta.isfinite().all())
    where = f"in step {first} of {len(training.steps)} " if len(path) > 1 else ""
    raise NonFiniteLossError(
        f"the student diverged {where}at a student rate of {float(training.rate):.3g}; "
        "lower objective.student_rate or optimizer.learning_rate"
    )
