"""Trajectory matching: the adjoint against the literal unrolled loop, memory, draws, and every refusal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tests.reference.trajectories import literal_convnet, literal_trajectory_loss
from torch import Tensor, nn
from torch.func import functional_call

from attar.base.errors import InputError, NonFiniteLossError
from attar.base.randomness import generator
from attar.data.augmentation import Dsa, DsaConfig
from attar.methods.labels import class_major_labels
from attar.methods.objectives.objective import Context
from attar.methods.objectives.student import (
    EndGradients,
    Training,
    adjoint_gradients,
    draw_steps,
    unrolled_gradients,
)
from attar.methods.objectives.trajectories import Trajectories, TrajectoriesConfig, latest_start
from attar.models.experts.config import ExpertsConfig
from attar.models.networks.network import NetworkConfig, num_parameters
from attar.models.networks.registry import build_network
from attar.models.real_items import RealItems

SHAPE = (3, 8, 8)
CLASSES = 3
SMALL = NetworkConfig(depth=2, width=4)


class Items(nn.Module):
    """Six items behind a linear map, so that gradients must pass through the parameterization."""

    def __init__(self, dtype: torch.dtype = torch.float64, soft: bool = False) -> None:
        super().__init__()
        draws = generator(0, "items")
        self.codes = nn.Parameter(torch.randn(6, *SHAPE, generator=draws, dtype=dtype))
        self.labels = class_major_labels(CLASSES, 2)
        logits = torch.randn(6, CLASSES, generator=draws, dtype=dtype)
        self.soft_labels = nn.Parameter(logits) if soft else None
        self.rendered = 0

    def forward(self, items: Tensor, generator: torch.Generator | None = None) -> Tensor:
        self.rendered += 1
        return 1.5 * self.codes[items]


class FixedExperts:
    """Experts that drift at random from a common start."""

    def __init__(self, num_experts: int = 2, num_epochs: int = 6, scale: float = 0.03, network: Any = SMALL) -> None:
        self.num_experts, self.num_epochs, self.scale = num_experts, num_epochs, scale
        self.network = build_network(network, SHAPE, CLASSES)
        self.asked: list[tuple[int, int]] = []

    def parameters(self, expert: int, epoch: int) -> Tensor:
        self.asked.append((expert, epoch))
        start = nn.utils.parameters_to_vector(self.network.parameters()).detach()
        drift = torch.randn(len(start), generator=generator(expert, "drift"))
        return start + self.scale * epoch * drift


def _config(**settings: Any) -> TrajectoriesConfig:
    chosen = {"network": SMALL, "student_steps": 4, "max_start_epoch": 3, "student_rate": 0.3, **settings}
    return TrajectoriesConfig(**chosen)


def _matching(experts: FixedExperts | None = None, **settings: Any) -> Trajectories:
    config = _config(**settings)
    augmentation = Dsa(config.augmentation) if config.augmentation else None
    context = Context(SHAPE, CLASSES, augmentation=augmentation, experts=experts or FixedExperts())
    return Trajectories(config, context)


def _real() -> RealItems:
    """The objective never reads them."""
    return RealItems(class_major_labels(CLASSES, 1), CLASSES, codes=torch.zeros(CLASSES, *SHAPE))


def _gradients(objective: Trajectories, items: Items) -> dict[str, Tensor]:
    """Loss and gradients of one step with a fixed generator."""
    figures = objective.accumulate(items, _real(), generator(3, "step"))
    assert items.codes.grad is not None
    found = {"loss": torch.tensor(figures["loss"], dtype=torch.float64), "items": items.codes.grad}
    if items.soft_labels is not None:
        assert items.soft_labels.grad is not None
        found["labels"] = items.soft_labels.grad
    if objective.student_rate.grad is not None:
        found["rate"] = objective.student_rate.grad
    return found


def _worst(one: Tensor, two: Tensor) -> float:
    """Relative difference of two tensors."""
    return float((one.double() - two.double()).norm() / two.double().norm())


def _perceptron() -> nn.Module:
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(192, 5), nn.Tanh(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, CLASSES)
    )
    for index, parameter in enumerate(network.parameters()):
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator(index, "perceptron"))
    return network


def _training(network: nn.Module, num_steps: int = 5, **settings: Any) -> Training:
    """A float64 training of six items with soft labels."""
    draws = generator(1, "training")
    start = nn.utils.parameters_to_vector(network.parameters()).detach().double()
    return Training(
        network=network,
        start=start,
        target=start + 0.1 * torch.randn(len(start), generator=draws, dtype=torch.float64),
        items=torch.randn(6, *SHAPE, generator=draws, dtype=torch.float64),
        labels=torch.randn(6, CLASSES, generator=draws, dtype=torch.float64).softmax(1),
        rate=torch.tensor(0.2, dtype=torch.float64),
        steps=draw_steps(SHAPE, 6, num_steps, 4, settings.get("augmentation"), draws),
        **settings,
    )


def _literal(training: Training, forward: Any) -> EndGradients:
    """What the literal loop gives for a training; augmentation is replayed from the steps."""
    items, labels, rate = (value.clone().requires_grad_() for value in (training.items, training.labels, training.rate))
    shapes = [parameter.shape for parameter in training.network.parameters()]

    def parts(flat: Tensor) -> list[Tensor]:
        pieces = flat.split([shape.numel() for shape in shapes])
        return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]

    batches = []
    for step in training.steps:
        inputs = items[step.items]
        if training.augmentation is not None:
            inputs = training.augmentation.apply(inputs, step.parameters)
        batches.append((inputs, labels[step.items]))
    target = parts(training.target)
    loss = literal_trajectory_loss(forward, parts(training.start), target, batches, rate, training.momentum)
    return EndGradients(float(loss.detach()), *torch.autograd.grad(loss, [items, labels, rate]))


def _forward_of(network: nn.Module) -> Callable[..., Tensor]:
    names = [name for name, _ in network.named_parameters()]
    return lambda parameters, items: functional_call(network, dict(zip(names, parameters, strict=True)), (items,))


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("kind", ["convnet", "perceptron"])
def test_gradients_are_those_of_the_literal_loop(kind: str, momentum: float, augmented: bool, chunk: int) -> None:
    network = build_network(SMALL, SHAPE, CLASSES) if kind == "convnet" else _perceptron()
    forward = literal_convnet(2) if kind == "convnet" else _forward_of(network)
    dsa = Dsa(DsaConfig(mode="multiple")) if augmented else None
    training = _training(network, momentum=momentum, augmentation=dsa, chunk_items=chunk)
    literal = _literal(training, forward)
    for found in (adjoint_gradients(training), unrolled_gradients(training)):
        assert found.loss == pytest.approx(literal.loss, rel=1e-12)
        for name in ("items", "labels", "rate"):
            assert _worst(getattr(found, name), getattr(literal, name)) < 1e-9, name


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_gradients_are_those_of_finite_differences(momentum: float) -> None:
    """A smooth network, so that differences see no kink."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.Tanh(), nn.Linear(4, CLASSES))
    training = _training(network, momentum=momentum)
    found = adjoint_gradients(training)
    draws = generator(2, "directions")
    for name in ("items", "labels", "rate"):
        value = getattr(training, name)
        along = torch.randn(value.shape, generator=draws, dtype=torch.float64)
        ends = [adjoint_gradients(replace(training, **{name: value + h * along})).loss for h in (1e-5, -1e-5)]
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(float((getattr(found, name) * along).sum()), rel=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_without_the_hessian_only_one_step_is_exact(momentum: float) -> None:
    for num_steps, exact in ((1, True), (6, False)):
        training = _training(_perceptron(), num_steps, momentum=momentum)
        adjoint, tesla = adjoint_gradients(training), adjoint_gradients(training, hessian=False)
        assert tesla.loss == adjoint.loss
        for name in ("items", "labels"):
            error = _worst(getattr(tesla, name), getattr(adjoint, name))
            assert error < 1e-12 if exact else error > 1e-3


class _Counted:
    """A tensor that autograd keeps, counted as long as it does."""

    live = 0
    peak = 0

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()  # an output that holds its own node would never be freed
        self.bytes = tensor.numel() * tensor.element_size()
        _Counted.live += self.bytes
        _Counted.peak = max(_Counted.peak, _Counted.live)

    def __del__(self) -> None:
        _Counted.live -= self.bytes


def _peak_bytes(gradients: Callable[[Training], EndGradients], num_steps: int) -> int:
    training = _training(build_network(NetworkConfig(depth=1, width=2), SHAPE, CLASSES), num_steps)
    _Counted.live = _Counted.peak = 0
    with torch.autograd.graph.saved_tensors_hooks(_Counted, lambda counted: counted.tensor):
        gradients(training)
    return _Counted.peak


def test_activation_memory_does_not_grow_with_the_steps() -> None:
    few, many = _peak_bytes(adjoint_gradients, 10), _peak_bytes(adjoint_gradients, 200)
    assert many == pytest.approx(few, rel=0.1)
    assert _peak_bytes(unrolled_gradients, 10) > 5 * few


@pytest.mark.parametrize("augmentation", [None, DsaConfig()])
@pytest.mark.parametrize("batch", [None, 4])
def test_a_step_of_the_objective_is_exact(batch: int | None, augmentation: DsaConfig | None) -> None:
    """Through the parameterization, with soft labels, averaged over two students."""
    found = []
    for gradient in ("adjoint", "unrolled"):
        items = Items(soft=True)
        settings = {"student_batch_size": batch, "student_momentum": 0.5, "augmentation": augmentation}
        objective = _matching(trajectories_per_step=2, gradient=gradient, **settings)
        objective.student_rate.data = objective.student_rate.data.double()
        found.append(_gradients(objective, items))
        assert items.rendered == 1
    for name in ("loss", "items", "labels", "rate"):
        assert _worst(found[0][name], found[1][name]) < 1e-9, name


def test_chunks_do_not_change_the_gradient() -> None:
    whole, parts = _matching(), _matching(chunk_items=4)
    expected, found = _gradients(whole, Items()), _gradients(parts, Items())
    assert all(_worst(found[name], expected[name]) < 1e-7 for name in expected)
    assert whole.halve_memory()
    assert whole.chunk_items == 3
    assert whole.halve_memory()
    assert not whole.halve_memory()
    assert not _matching(gradient="unrolled").halve_memory()


@pytest.mark.parametrize("kept", [1, 3, 99])
@pytest.mark.parametrize("chunk", [3, 100])
def test_keeping_graphs_does_not_change_the_gradient(kept: int, chunk: int) -> None:
    training = _training(_perceptron(), momentum=0.9, chunk_items=chunk)
    anew, keeping = adjoint_gradients(training), adjoint_gradients(replace(training, kept_steps=kept))
    for name in ("items", "labels", "rate"):
        assert _worst(getattr(keeping, name), getattr(anew, name)) < 1e-12


def test_a_soft_label_of_almost_one_is_the_hard_label() -> None:
    hard, soft = Items(), Items(soft=True)
    assert soft.soft_labels is not None
    soft.soft_labels.data = 50.0 * torch.eye(CLASSES, dtype=torch.float64)[soft.labels]
    expected, found = _gradients(_matching(), hard), _gradients(_matching(), soft)
    assert _worst(found["items"], expected["items"]) < 1e-9


def test_the_same_generator_gives_the_same_float32_gradients() -> None:
    settings: dict[str, Any] = {"augmentation": DsaConfig(), "student_batch_size": 4}
    runs = [_gradients(_matching(**settings), Items(torch.float32)) for _ in range(2)]
    assert runs[0]["items"].dtype == torch.float32
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_the_rate_is_learned_unless_told_otherwise() -> None:
    objective = _matching(student_rate_learning_rate=0.01)
    _gradients(objective, Items())
    (group,) = objective.parameter_groups()
    optimizer = torch.optim.SGD([group])
    before = objective.learned()["student_rate"]
    assert before == pytest.approx(0.3)
    optimizer.step()
    assert objective.learned()["student_rate"] != before
    fixed = _matching(student_rate_learning_rate=0)
    assert not fixed.parameter_groups()
    assert "rate" not in _gradients(fixed, Items())


def test_batches_cut_permutations() -> None:
    steps = draw_steps(SHAPE, 6, 5, 4, None, generator(0, "steps"))
    assert [len(step.items) for step in steps] == [4, 2, 4, 2, 4]
    for first in (0, 2):
        assert sorted(torch.cat([step.items for step in steps[first : first + 2]]).tolist()) == list(range(6))
    assert not torch.equal(steps[0].items, steps[2].items)
    assert [step.items.tolist() for step in draw_steps(SHAPE, 3, 2, None, None, generator(0, "steps"))] == [
        [0, 1, 2]
    ] * 2


@pytest.mark.parametrize(("per_item", "count"), [(True, 4), (False, 1)])
def test_parameters_are_drawn_for_items_or_for_the_batch(per_item: bool, count: int) -> None:
    dsa = Dsa(DsaConfig(strategy="rotate"))
    dsa.per_item = per_item
    one, _, two = draw_steps(SHAPE, 6, 3, 4, dsa, generator(0, "steps"))
    assert one.parameters.values["angle"].shape == two.parameters.values["angle"].shape == (count,)
    assert not torch.equal(one.parameters.values["angle"], two.parameters.values["angle"])


def test_the_range_of_starts_grows_evenly_and_is_resumed() -> None:
    config = _config(min_start_epoch=1, initial_max_start_epoch=2, max_start_epoch=4, growth_steps=4)
    assert [latest_start(config, step) for step in range(6)] == [2, 2, 3, 3, 4, 4]
    assert latest_start(config.model_copy(update={"initial_max_start_epoch": None}), 0) == 1
    experts = FixedExperts()
    objective = Trajectories(config, Context(SHAPE, CLASSES, experts=experts))
    starts: dict[int, set[int]] = {}
    for step in (0, 4):
        objective.resume({"step": torch.tensor(step)})
        experts.asked.clear()
        for draw in range(60):
            objective._segment(generator(draw, "segment"), torch.zeros(()))
        starts[step] = {epoch for _, epoch in experts.asked[::2]}
        assert {expert for expert, _ in experts.asked} == {0, 1}
        assert all(second[1] == first[1] + 2 for first, second in zip(*[iter(experts.asked)] * 2, strict=True))
    assert starts == {0: {1, 2}, 4: {1, 2, 3, 4}}
    _gradients(objective, Items())
    assert int(objective.resume_state()["step"]) == 5


def test_experts_may_become_more() -> None:
    experts = FixedExperts(num_experts=1)
    objective = _matching(experts)
    experts.num_experts = 5
    for draw in range(40):
        objective._segment(generator(draw, "segment"), torch.zeros(()))
    assert {expert for expert, _ in experts.asked} == set(range(5))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "batch norm": ({"network": NetworkConfig(depth=1, norm="batch")}, "take norm 'instance'"),
    "an empty range": ({"min_start_epoch": 4}, "lower min_start_epoch or raise max_start_epoch"),
    "no growth": ({"initial_max_start_epoch": 1}, "give both or neither"),
    "growth to where it is": ({"initial_max_start_epoch": 3, "growth_steps": 5}, "leave it 0"),
    "growth from outside": ({"initial_max_start_epoch": 9, "growth_steps": 5}, "must be from"),
    "short experts": ({"experts": ExpertsConfig(epochs=4)}, "train them for 5 epochs"),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_settings_that_cannot_work_are_refused(name: str) -> None:
    settings, mend = REFUSED[name]
    with pytest.raises(ValidationError, match=mend):
        _config(**settings)


def test_experts_that_cannot_be_matched_are_refused() -> None:
    with pytest.raises(InputError, match="train some first"):
        Trajectories(_config(), Context(SHAPE, CLASSES))
    with pytest.raises(InputError, match="train them for 5 epochs"):
        _matching(FixedExperts(num_epochs=4))
    others = {
        "train at least one": FixedExperts(num_experts=0),
        f"the network {num_parameters(FixedExperts().network)}": FixedExperts(network=NetworkConfig(width=3)),
        "moved by 0 ": FixedExperts(scale=0.0),
        "moved by nan": FixedExperts(scale=float("nan")),
    }
    for mend, experts in others.items():
        items = Items()
        with pytest.raises(InputError, match=mend):
            _gradients(_matching(experts), items)
        assert items.codes.grad is None


@pytest.mark.parametrize("gradient", ["adjoint", "unrolled", "tesla"])
def test_a_student_that_diverges_stops_the_run(gradient: str) -> None:
    items = Items()
    with pytest.raises(NonFiniteLossError, match=r"lower objective\.student_rate or optimizer"):
        _gradients(_matching(student_rate=1e38, gradient=gradient), items)
    assert items.codes.grad is None


@pytest.mark.parametrize("rate", [0.0, -0.1, float("nan")])
def test_a_rate_that_was_learned_below_zero_is_refused(rate: float) -> None:
    objective = _matching()
    objective.student_rate.data.fill_(rate)
    with pytest.raises(InputError, match=r"lower objective\.student_rate_learning_rate"):
        _gradients(objective, Items())
    with pytest.raises(InputError, match="must stay above 0"):
        objective.learned()
