"""The kernel MMD against its literal loops: values, gradients, chunks, size of what is computed, and every refusal."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tests.reference.mmd import (
    literal_loss,
    literal_mean_squared_distance,
    literal_squared_mmd,
    printed_squared_mmd,
)
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from attar.base.errors import InputError
from attar.base.randomness import generator
from attar.data.augmentation import Dsa, DsaConfig
from attar.data.image_set import ImageSet
from attar.methods.labels import class_major_labels
from attar.methods.objectives import discrepancy
from attar.methods.objectives.discrepancy import (
    Discrepancy,
    DiscrepancyConfig,
    Estimator,
    by_class,
    mean_squared_distance,
    squared_mmd,
)
from attar.methods.objectives.objective import Context
from attar.methods.parameterizations.codes import Codes
from attar.methods.recipes import recipe
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import fit_codec
from attar.models.experts.config import ExpertsConfig
from attar.models.networks.network import NetworkConfig
from attar.models.networks.registry import build_network
from attar.models.real_items import RealItems
from attar.runs.memory import plan_memory

SHAPE = (3, 8, 8)
CLASSES = 3
SMALL = NetworkConfig(depth=2, width=4)
EXPERTS = ExpertsConfig(count=2, epochs=4)
BANDWIDTHS = (0.5, 1.0, 3.0)


class FixedExperts:
    """Two experts that drift from starts of their own, and a list of what was asked."""

    num_experts, num_epochs = 2, 4

    def __init__(self, shape: tuple[int, int, int] = SHAPE, num_classes: int = CLASSES) -> None:
        self._shape, self._num_classes = shape, num_classes
        self.asked: list[tuple[int, int]] = []

    def parameters(self, expert: int, epoch: int) -> Tensor:
        self.asked.append((expert, epoch))
        network = build_network(SMALL, self._shape, self._num_classes, generator=generator(expert, "expert"))
        values = nn.utils.parameters_to_vector(network.parameters()).detach()
        return values + 0.02 * epoch * torch.randn(values.shape, generator=generator(expert, "drift"))


class Sampled(nn.Module):
    """Items behind a linear map, with noise that the generator draws; classes may differ in size."""

    def __init__(self, counts: tuple[int, ...] = (3, 2, 4), dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        codes = torch.randn(len(self.labels), *SHAPE, generator=generator(0, "codes"), dtype=dtype)
        self.codes = nn.Parameter(codes)
        self.soft_labels = None
        self.rendered = 0

    def forward(self, items: Tensor, generator: torch.Generator | None = None) -> Tensor:
        self.rendered += 1
        noise = torch.randn(len(items), *SHAPE, generator=generator, dtype=self.codes.dtype)
        return 1.5 * self.codes[items] + 0.3 * noise


def _real(counts: tuple[int, ...] = (9, 5, 12)) -> RealItems:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return RealItems(labels, len(counts), codes=torch.randn(len(labels), *SHAPE, generator=generator(0, "real")))


def _config(**settings: Any) -> DiscrepancyConfig:
    return DiscrepancyConfig(**{"network": SMALL, "experts": EXPERTS, "real_batch_size": 7, **settings})


def _objective(experts: Any = None, **settings: Any) -> Discrepancy:
    config = _config(**settings)
    augmentation = Dsa(config.augmentation) if config.augmentation else None
    return Discrepancy(config, Context(SHAPE, CLASSES, augmentation=augmentation, experts=experts or FixedExperts()))


def _step(objective: Discrepancy, synthetic: Sampled, number: int = 0) -> tuple[float, Tensor]:
    """Loss and gradient of one step."""
    synthetic.codes.grad = None
    figures = objective.accumulate(synthetic, _real(), generator(number, "step"))
    assert synthetic.codes.grad is not None
    return figures["loss"], synthetic.codes.grad


def _features_by_class(counts: tuple[int, ...], purpose: str, features: int = 4, shift: float = 0.0) -> list[Tensor]:
    """float64 features of classes of these sizes, each around a place of its own."""
    draws = generator(0, purpose)
    return [
        shift + label + torch.randn(count, features, generator=draws, dtype=torch.float64)
        for label, count in enumerate(counts)
    ]


@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
def test_all_classes_at_once_agree_with_the_loop_over_pairs(estimator: Estimator) -> None:
    """Values and gradients, for classes of different size."""
    real, synthetic = _features_by_class((5, 2, 7), "real"), _features_by_class((3, 4, 2), "synthetic", shift=0.5)
    leaves = [each.clone().requires_grad_() for each in synthetic]
    flat = torch.cat(synthetic).requires_grad_()
    batched = squared_mmd(
        by_class(torch.cat(real), [5, 2, 7]),
        by_class(flat, [3, 4, 2]),
        torch.tensor([5, 2, 7]),
        torch.tensor([3, 4, 2]),
        BANDWIDTHS,
        estimator,
    )
    literal = [literal_squared_mmd(one, two, BANDWIDTHS, estimator) for one, two in zip(real, leaves, strict=True)]
    torch.testing.assert_close(batched, torch.stack(literal), rtol=1e-9, atol=1e-12)
    found = torch.autograd.grad(batched.sum(), flat)[0]
    wanted = torch.cat(torch.autograd.grad(torch.stack(literal).sum(), leaves))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def test_only_the_unbiased_estimator_is_zero_on_average_for_equal_distributions() -> None:
    """20000 classes are as many draws; their numbers of items differ, and rows beyond them are far away."""
    draws, count = generator(0, "draws"), 20_000
    real, synthetic = (torch.randn(count, size, 2, generator=draws, dtype=torch.float64) for size in (5, 4))
    real[::2, 3:], synthetic[::3, 2:] = 100.0, -50.0
    num_real = torch.full((count,), 5).index_fill_(0, torch.arange(0, count, 2), 3)
    num_synthetic = torch.full((count,), 4).index_fill_(0, torch.arange(0, count, 3), 2)
    errors = {}
    for estimator in ("unbiased", "biased"):
        values = squared_mmd(real, synthetic, num_real, num_synthetic, (1.0, 2.0), estimator)  # type: ignore[arg-type]
        errors[estimator] = float(values.mean() / (values.std() / math.sqrt(count)))
        assert bool((values > 0).all()) == (estimator == "biased")
    assert abs(errors["unbiased"]) < 3.5
    assert errors["biased"] > 100
    printed = [printed_squared_mmd(real[index], synthetic[index], (1.0, 2.0)) for index in (1, 5, 7)]
    assert min(printed) > 1  # as D3 prints it, equal distributions do not give 0


def test_classes_of_one_item_leave_the_undefined_term_out() -> None:
    """What is left has the gradient of the biased estimator, whose term is then a constant."""
    real, synthetic = torch.cat(_features_by_class((6, 6), "real")), torch.cat(_features_by_class((1, 1), "one"))
    gradients = []
    for estimator in ("unbiased", "biased"):
        leaf = synthetic.clone().requires_grad_()
        blocks, counts = (by_class(real, [6, 6]), by_class(leaf, [1, 1])), (torch.tensor([6, 6]), torch.tensor([1, 1]))
        values = squared_mmd(*blocks, *counts, BANDWIDTHS, estimator)  # type: ignore[arg-type]
        assert values.isfinite().all()
        gradients += torch.autograd.grad(values.sum(), leaf)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)
    assert (gradients[0].norm(dim=1) > 0).all()


def test_mean_squared_distance_agrees_with_the_loop_over_pairs() -> None:
    classes = _features_by_class((4, 1, 6), "distances")
    labels = torch.arange(3).repeat_interleave(torch.tensor([4, 1, 6]))
    found = mean_squared_distance(torch.cat(classes), labels, 3)
    assert found == pytest.approx(literal_mean_squared_distance(classes), rel=1e-12)
    assert mean_squared_distance(torch.randn(2, 3), torch.tensor([0, 1]), 2) == 0


def _literal_step(objective: Discrepancy, synthetic: Sampled, number: int) -> tuple[float, Tensor]:
    """The objective's own draws, then one class after another, pair by pair."""
    config, real = objective.config, _real()
    seed = int(torch.randint(2**62, (1,), generator=generator(number, "step")))
    expert = int(torch.randint(2, (1,), generator=generator(seed, "expert")))
    network = build_network(SMALL, SHAPE, CLASSES).double()
    values = FixedExperts().parameters(expert, 4).double()
    nn.utils.vector_to_parameters(values, network.parameters())
    indices, labels = real.class_batches(config.real_batch_size, generator(seed, "real"))
    items = torch.arange(len(synthetic.labels)).repeat_interleave(config.samples)
    rendered = synthetic(items, generator(seed, "items"))

    def embed(inputs: Tensor) -> Tensor:
        return network.features(inputs) if config.layer == "final" else network.maps(inputs, config.layer).flatten(1)

    real_of_class = [embed(real.gather(indices[labels == label]).double()).detach() for label in range(CLASSES)]
    of_class = [embed(rendered[synthetic.labels[items] == label]) for label in range(CLASSES)]
    bandwidths = list(config.bandwidths)
    if config.scale == "mean":
        middle = math.prod(bandwidths) ** (1 / len(bandwidths))
        unit = math.sqrt(literal_mean_squared_distance(real_of_class) / 2) / middle
        bandwidths = [sigma * unit for sigma in bandwidths]
    loss = config.weight * literal_loss(real_of_class, of_class, bandwidths, config.estimator)
    return float(loss.detach()), torch.autograd.grad(loss, synthetic.codes)[0]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"estimator": "biased", "samples": 2, "chunk_items": 5, "weight": 0.3},
        {"scale": "none", "bandwidths": (2.0, 8.0), "layer": 0, "chunk_items": 4},
    ],
    ids=["default", "biased", "block"],
)
def test_loss_and_gradient_agree_with_the_literal_loop(settings: dict[str, Any]) -> None:
    objective, synthetic = _objective(**settings), Sampled()
    loss, gradient = _step(objective, synthetic, 3)
    assert synthetic.rendered == 1
    literal, of_codes = _literal_step(objective, synthetic, 3)
    assert loss == pytest.approx(literal, rel=1e-6)
    torch.testing.assert_close(gradient, of_codes, rtol=1e-6, atol=1e-9 * float(of_codes.abs().max()))
    assert all(value.grad is None for value in objective.network.parameters())


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither those of items, nor those of classes."""
    settings = {"samples": 3, "augmentation": DsaConfig()}
    loss, gradient = _step(_objective(chunk_items=1000, **settings), Sampled())
    for chunk, pairs in ((1, 1 << 20), (7, 1 << 20), (1000, 1), (10, 400)):
        monkeypatch.setattr(discrepancy, "KERNEL_VALUES", pairs)
        again, of_codes = _step(_objective(chunk_items=chunk, **settings), Sampled())
        assert again == pytest.approx(loss, rel=1e-11)
        torch.testing.assert_close(of_codes, gradient, rtol=1e-10, atol=1e-12 * float(gradient.abs().max()))


class Largest(TorchDispatchMode):
    """The most values of any tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, (list, tuple)) else (result,):
            if isinstance(each, Tensor):
                self.values = max(self.values, each.numel())
        return result


def _largest(num_classes: int) -> int:
    """While loss and gradient of so many classes of 20 real and 10 synthetic items are computed from features."""
    objective = Discrepancy(_config(), Context(SHAPE, num_classes, experts=FixedExperts(num_classes=num_classes)))
    real, synthetic = (torch.randn(num_classes * size, 3, generator=generator(0, "size")) for size in (20, 10))
    counts = [torch.full((num_classes,), size) for size in (20, 10)]
    with Largest() as largest:
        objective._compare(real, *counts, list(BANDWIDTHS), synthetic)
    return largest.values


def test_what_is_computed_grows_with_the_number_of_classes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [_largest(count) for count in (8, 16, 32)] == [8 * 400, 16 * 400, 32 * 400]
    monkeypatch.setattr(discrepancy, "KERNEL_VALUES", 4 * 900)
    assert [_largest(count) for count in (8, 16)] == [4 * 400, 4 * 400]


@pytest.mark.slow
def test_a_hundred_classes_are_much_faster_than_the_loop() -> None:
    """A broad margin: the ratio is in the thousands."""
    real, synthetic = (torch.randn(100, size, 32, generator=generator(0, "time")) for size in (10, 5))
    counts = torch.full((100,), 10), torch.full((100,), 5)
    squared_mmd(real, synthetic, *counts, BANDWIDTHS)
    begin = time.perf_counter()
    batched = squared_mmd(real, synthetic, *counts, BANDWIDTHS)
    between = time.perf_counter()
    literal = literal_loss(list(real), list(synthetic), BANDWIDTHS, "unbiased")
    assert time.perf_counter() - between > 5 * (between - begin)
    assert float(batched.sum()) == pytest.approx(float(literal), rel=1e-3)


def test_siamese_augmentation_is_shared() -> None:
    """Synthetic items equal to the real ones have no discrepancy, whatever the augmentation draws."""
    images = torch.randn(6, *SHAPE, generator=generator(2, "images"))
    labels = class_major_labels(CLASSES, 2)
    objective = _objective(estimator="biased", augmentation=DsaConfig())
    real = RealItems(labels, CLASSES, codes=images)
    codec = fit_codec(PixelsConfig(), _noise(CLASSES, 2, 8))  # never called: items are matched as codes
    for step in range(4):
        assert abs(objective.accumulate(Codes(codec, images, labels), real, generator(step, "step"))["loss"]) < 1e-5
    assert objective.accumulate(Codes(codec, images.flip(0), labels), real, generator(0, "step"))["loss"] > 1e-3


@pytest.mark.parametrize("scale", ["none", "mean"])
def test_steps_along_the_gradient_bring_items_nearer(scale: str) -> None:
    synthetic = Sampled(dtype=torch.float32)
    objective = _objective(scale=scale, samples=2)
    optimizer = torch.optim.Adam([synthetic.codes], lr=0.03)
    losses = []
    for step in range(40):
        optimizer.zero_grad()
        losses.append(objective.accumulate(synthetic, _real(), generator(step, "step"))["loss"])
        optimizer.step()
    assert sum(losses[-8:]) < 0.7 * sum(losses[:8])


@pytest.mark.parametrize("epoch", ["last", "random", 0, 3])
def test_the_expert_and_epoch_that_give_the_features(epoch: str | int) -> None:
    experts = FixedExperts()
    objective = _objective(experts, feature_epoch=epoch)
    for step in range(24):
        _step(objective, Sampled(), step)
    assert {expert for expert, _ in experts.asked} == {0, 1}
    wanted = {"last": {4}, "random": {0, 1, 2, 3, 4}}.get(str(epoch), {epoch})
    assert {found for _, found in experts.asked} == wanted


def test_the_size_of_chunks_is_halved_and_resumed() -> None:
    objective = _objective(chunk_items=8)
    assert [objective.halve_memory() for _ in range(4)] == [True, True, True, False]
    again = _objective(chunk_items=8)
    again.resume(objective.resume_state())
    assert again.chunk_items == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"feature_epoch": 5}, "features of epoch 5 were asked for and the experts have 4 epochs; lower"),
        ({"network": NetworkConfig(norm="batch")}, "batch norm keeps running statistics; take norm 'instance'"),
        ({"bandwidths": ()}, "at least 1 item"),
        ({"bandwidths": (1.0, 0.0)}, "greater than 0"),
        ({"real_batch_size": 1}, "greater than or equal to 2"),
        ({"weight": 0.0}, "greater than 0"),
        ({"layer": "last"}, "'final'"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        _config(**settings)


def test_experts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="needs experts and was given none"):
        Discrepancy(_config(), Context(SHAPE, CLASSES))
    short = FixedExperts()
    short.num_epochs = 2
    with pytest.raises(InputError, match="the experts have 2 epochs"):
        _objective(short, feature_epoch=4)
    with pytest.raises(InputError, match="train experts of this network on these items"):
        _step(_objective(FixedExperts(num_classes=5)), Sampled())
    with pytest.raises(InputError, match=r"layer 7 was asked for"):
        _step(_objective(layer=7), Sampled())
    none = FixedExperts()
    none.num_experts = 0
    with pytest.raises(InputError, match="there are no experts to match"):
        _step(_objective(none), Sampled())


def test_real_items_without_distance_are_refused() -> None:
    same = RealItems(class_major_labels(CLASSES, 4), CLASSES, codes=torch.zeros(12, *SHAPE))
    with pytest.raises(InputError, match=r"set objective\.scale=none"):
        _objective().accumulate(Sampled(), same, generator(0, "step"))


def test_the_planner_counts_features_and_halves_chunks() -> None:
    wide = NetworkConfig(depth=2, width=64)
    train = _noise(2, 20, 16)
    codec = fit_codec(PixelsConfig(), train)
    real = RealItems(train.labels, 2, images=train, codec=codec)
    synthetic = Codes(codec, torch.randn(20, 3, 16, 16), class_major_labels(2, 10))

    def plan(memory: str, **settings: Any) -> Any:
        config = DiscrepancyConfig(network=wide, experts=EXPERTS, **settings)
        changed = recipe("dm").model_copy(update={"objective": config, "steps": 3})
        return plan_memory(changed, Context(real.shape, 2, "cpu", 3), synthetic, real, memory)

    free, tight = plan("10GB", samples=8), plan("90MB", samples=8)
    assert free.config.chunk_items == 1024 and tight.config.chunk_items < 256
    assert tight.num_bytes <= 90_000_000
    values_per_item = 64 * 4 * 4
    assert free.parts["features"] > 4 * values_per_item * (2 * 64 + 3 * 160)
    assert plan("10GB", samples=16).parts["features"] > free.parts["features"]
    with pytest.raises(InputError, match="take a smaller network or --memory"):
        plan("70MB", samples=8)


def _noise(num_classes: int, num_per_class: int, side: int) -> ImageSet:
    labels = class_major_labels(num_classes, num_per_class)
    images = torch.randint(0, 256, (len(labels), 3, side, side), generator=generator(0, "noise"), dtype=torch.uint8)
    return ImageSet(images, labels, tuple("abc"[:num_classes]))
