"""Gradient matching against its literal loop; the network's training; resuming; distances by hand."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.reference.gradients import absolutes, literal_matching, mean_squares, row_distance
from torch import Tensor

from attar.base.errors import InputError
from attar.base.randomness import generator
from attar.data.augmentation import Dsa, DsaConfig
from attar.data.image_set import ImageSet
from attar.methods.labels import class_major_labels
from attar.methods.objectives.gradients import (
    Gradients,
    GradientsConfig,
    _distance,
    _is_matched,
    _Matching,
    absolute_distance,
    cosine_distance,
    squared_distance,
)
from attar.methods.objectives.objective import Context
from attar.methods.parameterizations.codes import Codes
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import fit_codec
from attar.models.networks.network import NetworkConfig
from attar.models.networks.registry import build_network
from attar.models.real_items import RealItems

TINY = NetworkConfig(depth=1, width=6)
SHAPE = (3, 8, 8)
CASES: dict[str, tuple[dict[str, Any], Callable[[Tensor, Tensor], Tensor]]] = {
    "cosine": ({"distance": "cosine", "matched": "weights"}, row_distance),
    "mse": ({"distance": "mse", "matched": "convolutions"}, mean_squares),
    "l1": ({"distance": "l1", "matched": "all"}, absolutes),
}


def real_items(per_class: int = 5) -> RealItems:
    images = torch.randint(0, 256, (3 * per_class, *SHAPE), generator=generator(1, "images"), dtype=torch.uint8)
    train = ImageSet(images, class_major_labels(3, per_class), ("a", "b", "c"))
    return RealItems(train.labels, 3, images=train, codec=fit_codec(PixelsConfig(), train))


def items(per_class: int = 2, soft: bool = False) -> Codes:
    images = torch.randint(0, 256, (9, *SHAPE), generator=generator(2, "images"), dtype=torch.uint8)
    codec = fit_codec(PixelsConfig(), ImageSet(images, class_major_labels(3, 3), ("a", "b", "c")))
    codes = torch.randn(3 * per_class, *SHAPE, generator=generator(3, "codes"))
    logits = torch.randn(3 * per_class, 3, generator=generator(4, "logits")) if soft else None
    return Codes(codec, codes, class_major_labels(3, per_class), soft_labels=logits)


def objective(settings: dict[str, Any] | None = None, dsa: bool = False, **more: Any) -> Gradients:
    config = GradientsConfig(
        network=TINY,
        real_batch_size=5,
        augmentation=DsaConfig() if dsa else None,
        **{"inner_steps": 2, "outer_steps": 3, "train_batch_size": 4, **(settings or {}), **more},
    )
    return Gradients(config, Context(SHAPE, 3, augmentation=Dsa(DsaConfig()) if dsa else None))


def gradients_of(matcher: Gradients, synthetic: Codes, step: int = 0) -> tuple[float, Tensor]:
    synthetic.zero_grad()
    figures = matcher.accumulate(synthetic, real_items(), generator(7, "step", step))
    assert synthetic.codes.grad is not None
    return figures["loss"], synthetic.codes.grad.clone()


@pytest.mark.parametrize("mode", ["looped", "vectorised"])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_a_matching_is_the_literal_one(name: str, soft: bool, mode: str) -> None:
    settings, distance = CASES[name]
    synthetic = items(soft=soft)
    matcher = objective(settings, per_class=mode)
    loss, found = gradients_of(matcher, synthetic)
    targets = synthetic.soft_labels.detach() if soft else F.one_hot(synthetic.labels, 3).float()  # type: ignore[union-attr]
    logits = targets.clone().requires_grad_()
    wanted = logits.softmax(1) if soft else logits
    codes = synthetic.codes.detach().clone().requires_grad_()
    real = real_items()
    groups = [real.gather(torch.arange(5 * index, 5 * index + 5)) for index in range(3)]
    literal = literal_matching(matcher.network, groups, codes.split(2), wanted.split(2), distance)
    literal.backward()
    assert loss == pytest.approx(literal.item(), rel=1e-5)
    assert torch.allclose(found, codes.grad, rtol=1e-3, atol=1e-5 * float(codes.grad.abs().max()))  # type: ignore[union-attr, arg-type]
    if soft:
        assert synthetic.soft_labels is not None and synthetic.soft_labels.grad is not None
        scale = float(logits.grad.abs().max())  # type: ignore[union-attr]
        assert torch.allclose(synthetic.soft_labels.grad, logits.grad, rtol=1e-3, atol=1e-5 * scale)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", CASES)
def test_every_way_is_exact_in_float64(name: str) -> None:
    """Looped, vectorised and in chunks, of classes and of a class's items: at most 1e-12 from the literal gradient."""
    settings, distance = CASES[name]
    network = build_network(NetworkConfig(depth=2, width=6), SHAPE, 3).double()
    draw = generator(0, "float64")
    real, inputs = (torch.randn(count, *SHAPE, dtype=torch.float64, generator=draw) for count in (15, 12))
    targets = torch.randn(12, 3, dtype=torch.float64, generator=draw).softmax(1)
    leaves = [inputs.clone().requires_grad_(), targets.clone().requires_grad_()]
    literal = literal_matching(network, real.split(5), leaves[0].split(4), leaves[1].split(4), distance)
    expected = [literal.detach(), *torch.autograd.grad(literal, leaves)]
    whole = _Matching(
        network=network,
        gather=lambda rows: real[rows],
        real=torch.arange(15).split(5),
        inputs=inputs.split(4),
        targets=targets.split(4),
        distance=functools.partial(_distance, settings["distance"], _is_matched(network, settings["matched"])),
        chunk_items=100,
    )
    ways = [whole.looped(), whole.vectorised(), dataclasses.replace(whole, chunk_items=5).vectorised()]
    ways += [dataclasses.replace(whole, chunk_items=chunk).looped() for chunk in (1, 3)]
    for found in ways:
        for ours, theirs in zip((torch.tensor(found[0]), *found[1:]), expected, strict=True):
            assert (ours - theirs).norm() <= (1e-6 if ours.ndim == 0 else 1e-12) * theirs.norm()


@pytest.mark.parametrize("chunk", [1, 3])
def test_training_in_chunks_is_training(chunk: int) -> None:
    trained = []
    for size in (100, chunk):
        settings = {"train_on": "real", "cutmix_probability": 0.5, "momentum": 0.9, "learning_rate": 0.1}
        matcher = objective(settings, dsa=True, chunk_items=size)
        for step in range(2):
            gradients_of(matcher, items(), step)
        trained.append([value.detach().clone() for value in matcher.network.parameters()])
    for whole, parts in zip(*trained, strict=True):
        assert torch.allclose(whole, parts, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 3])
def test_chunks_change_nothing_but_roundings(chunk: int) -> None:
    whole = gradients_of(objective(), items(4))
    parts = gradients_of(objective(chunk_items=chunk), items(4))
    assert parts[0] == pytest.approx(whole[0], rel=1e-5)
    assert torch.allclose(parts[1], whole[1], rtol=1e-3, atol=1e-4 * float(whole[1].abs().max()))


def test_augmentation_is_the_same_for_real_and_synthetic_items() -> None:
    """Synthetic items that are the real ones match them exactly, whatever was drawn."""
    real = real_items(2)
    synthetic = items(2)
    synthetic.codes.data.copy_(real.gather(torch.arange(6)))
    for step in range(4):
        figures = objective({"distance": "mse"}, dsa=True).accumulate(synthetic, real, generator(step, "step"))
        assert figures["loss"] < 1e-8


@pytest.mark.parametrize("source", ["real", "synthetic"])
def test_the_network_is_trained_between_matchings_and_replaced_after_the_outer_loop(source: str) -> None:
    matcher, synthetic = objective({"train_on": source, "outer_steps": 2}, dsa=True), items()
    states = []
    for step in range(3):
        gradients_of(matcher, synthetic, step)
        states.append({name: value.clone() for name, value in matcher.resume_state().items()})
    first, trained, fresh = (state["network.classifier.weight"] for state in states)
    assert 0 < (first - trained).abs().max() < 0.05
    assert (fresh - trained).abs().max() > 0.05


def test_training_on_real_items_is_plain_sgd() -> None:
    settings = {"train_on": "real", "train_batch_size": 100, "inner_steps": 3, "momentum": 0.9, "learning_rate": 0.1}
    matcher, synthetic, real = objective(settings), items(), real_items()
    gradients_of(matcher, synthetic)
    weights = [value.detach().clone().requires_grad_() for value in matcher.network.parameters()]
    optimizer = torch.optim.SGD(weights, 0.1, momentum=0.9)
    names = [name for name, _ in matcher.network.named_parameters()]
    everything = real.gather(torch.arange(15))
    for _ in range(3):
        logits = torch.func.functional_call(matcher.network, dict(zip(names, weights, strict=True)), (everything,))
        optimizer.zero_grad()
        F.cross_entropy(logits, real.labels).backward()
        optimizer.step()
    gradients_of(matcher, synthetic, 1)
    for ours, theirs in zip(matcher.network.parameters(), weights, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_pretraining_and_cutmix_change_the_network() -> None:
    plain = gradients_of(objective(), items())
    pretrained = gradients_of(objective({"pretrain_steps": 3}), items())
    assert not torch.allclose(plain[1], pretrained[1])
    mixed, unmixed = (objective({"train_on": "real", "cutmix_probability": p}) for p in (1.0, 0.0))
    for step in range(2):
        gradients_of(mixed, items(), step), gradients_of(unmixed, items(), step)
    assert not torch.equal(mixed.network.classifier.weight, unmixed.network.classifier.weight)  # type: ignore[union-attr, arg-type]


def test_a_resumed_objective_goes_on_as_if_nothing_had_been() -> None:
    settings = {"train_on": "real", "momentum": 0.5}
    synthetic, matcher = items(), objective(settings, dsa=True)
    for step in range(2):
        gradients_of(matcher, synthetic, step)
    saved = {name: value.clone() for name, value in matcher.resume_state().items()}
    expected = [gradients_of(matcher, synthetic, step) for step in (2, 3)]
    again = objective(settings, dsa=True)
    again.resume(saved)
    for step, (loss, gradient) in zip((2, 3), expected, strict=True):
        found = gradients_of(again, synthetic, step)
        assert found[0] == loss and torch.equal(found[1], gradient)


def test_only_some_synthetic_items_are_matched_where_asked() -> None:
    _, found = gradients_of(objective({"synthetic_batch_size": 1}), items(4))
    assert (found.flatten(1).abs().sum(1) > 0).sum() == 3


def test_classes_with_few_real_items_give_all_they_have() -> None:
    labels = torch.tensor([0, 0, 0, 1, 2, 2])
    real = RealItems(labels, 3, codes=torch.randn(6, *SHAPE, generator=generator(1, "codes")))
    synthetic = items()
    for mode in ("looped", "vectorised"):
        figures = objective(per_class=mode).accumulate(synthetic, real, generator(0, "step"))
        assert figures["loss"] > 0


def test_distances_by_hand() -> None:
    a, b = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[4.0, 3.0], [0.0, 2.0]])
    assert float(cosine_distance(a, b)) == pytest.approx((1 - 24 / 25) + 1, abs=1e-5)
    assert float(squared_distance(a, b)) == 7 and float(absolute_distance(a, b)) == 5
    zero = torch.zeros(2, 2, requires_grad=True)
    cosine_distance(zero, b).backward()
    assert zero.grad is not None and zero.grad.isfinite().all()


def test_batch_norm_is_refused() -> None:
    config = GradientsConfig(network=NetworkConfig(depth=1, width=4, norm="batch"))
    with pytest.raises(InputError, match="take norm 'instance'"):
        Gradients(config, Context(SHAPE, 3))


def test_memory_is_halved_down_to_one_item() -> None:
    matcher = objective(chunk_items=4)
    assert [matcher.halve_memory() for _ in range(3)] == [True, True, False] and matcher.chunk_items == 1
