"""What an outer step does to items, soft labels and an objective's own numbers, and that it can be resumed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from tests.reference.optimisers import literal_adam
from torch import Tensor, nn

from attar.base.config import override
from attar.base.errors import InputError
from attar.base.randomness import generator
from attar.methods.objectives.features import FeaturesConfig
from attar.methods.objectives.objective import Context, Objective, Synthetic
from attar.methods.parameterizations.codes import Codes
from attar.methods.recipes import OptimizerConfig, Recipe, recipe
from attar.models.codecs.pca import PcaConfig
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import fit_codec
from attar.models.real_items import RealItems
from attar.runs.updates import Updates
from small_sets import digit_images, first_items, logits_for

ITEMS_PER_CLASS = 2
SOFT = {"kind": "soft", "learning_rate": 3.0, "momentum": 0.9}
ADAM = {"kind": "adam", "momentum": 0.0, "learning_rate": 0.1, "learning_rate_unit": "absolute"}


class Own(Objective):
    """An objective with a number of its own, and a count that a resumed run needs."""

    def __init__(self) -> None:
        super().__init__(FeaturesConfig(), Context((1, 8, 8), 10))
        self.number = nn.Parameter(torch.tensor(0.5))
        self.steps = 0

    def accumulate(self, synthetic: Synthetic, real: RealItems | None, generator: torch.Generator) -> dict[str, float]:
        raise NotImplementedError

    def parameter_groups(self) -> Sequence[dict[str, Any]]:
        return ({"params": [self.number], "lr": 0.01, "momentum": 0.5},)

    def resume_state(self) -> Mapping[str, Tensor]:
        return {"steps": torch.tensor(self.steps)}

    def resume(self, state: Mapping[str, Tensor]) -> None:
        self.steps = int(state["steps"])


def settings(**changes: Any) -> Recipe:
    return override(recipe("latent-mtt"), {f"optimizer.{name}": value for name, value in changes.items()})


def soft(config: Recipe, **changes: Any) -> Recipe:
    return override(config, {"labels": {**SOFT, **changes}})


def items(labels: bool = True) -> Codes:
    images = digit_images()
    codec = fit_codec(PcaConfig(factor=4, channels=4), images)
    chosen = first_items(images, ITEMS_PER_CLASS)
    codes = codec.encode(images.images[chosen].float() / 255)
    return Codes(codec, codes, images.labels[chosen], "int8", logits_for(ITEMS_PER_CLASS) if labels else None)


def take(updates: Updates, synthetic: Codes, objective: Own, steps: range, num_steps: int) -> list[dict[str, Tensor]]:
    """Steps along random gradients, which are returned."""
    taken = []
    for step in steps:
        updates.clear()
        draw = generator(0, "gradient", step)
        named = {"codes": synthetic.codes, "number": objective.number}
        if synthetic.soft_labels is not None and synthetic.soft_labels.requires_grad:
            named["soft_labels"] = synthetic.soft_labels  # type: ignore[assignment]
        for value in named.values():
            value.grad = torch.randn(value.shape, generator=draw)
        taken.append({name: value.grad.clone() for name, value in named.items() if value.grad is not None})
        objective.steps += 1
        updates.take(step / num_steps)
    return taken


def literal(start: Tensor, gradients: Sequence[Tensor], rates: Sequence[float], momentum: float) -> list[Tensor]:
    """v <- momentum v + g,  x <- x - rate v, in float64; every x."""
    value, velocity, path = start.double(), torch.zeros_like(start).double(), []
    for gradient, rate in zip(gradients, rates, strict=True):
        velocity = momentum * velocity + gradient.double()
        value = value - rate * velocity
        path.append(value)
    return path


@pytest.mark.parametrize("unit", ["absolute", "per-item"])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_every_kind_of_parameter_has_its_own_rate_and_momentum(unit: str, schedule: str) -> None:
    config = soft(settings(learning_rate=0.2, learning_rate_unit=unit, momentum=0.25, schedule=schedule))
    synthetic, objective, steps = items(), Own(), 5
    start = {name: value.detach().clone() for name, value in synthetic.named_parameters()}
    updates = Updates(config, synthetic, objective, ITEMS_PER_CLASS)
    taken = take(updates, synthetic, objective, range(steps), steps)
    updates.finish()
    base = 0.2 * (ITEMS_PER_CLASS if unit == "per-item" else 1)
    falling = [base * (1 + math.cos(math.pi * step / steps)) / 2 for step in range(steps)]
    rates = falling if schedule == "cosine" else [base] * steps
    expected = {
        "codes": literal(start["codes"], [each["codes"] for each in taken], rates, 0.25),
        "soft_labels": literal(start["soft_labels"], [each["soft_labels"] for each in taken], [3.0] * steps, 0.9),
        "number": literal(torch.tensor(0.5), [each["number"] for each in taken], [0.01] * steps, 0.5),
    }
    found = {**dict(synthetic.named_parameters()), "number": objective.number}
    assert found.keys() == expected.keys()
    for name, path in expected.items():
        torch.testing.assert_close(found[name].detach().double(), path[-1], rtol=1e-5, atol=1e-5)


def test_labels_at_rate_zero_are_kept_and_need_no_gradient() -> None:
    synthetic, objective = items(), Own()
    assert synthetic.soft_labels is not None
    before = synthetic.soft_labels.detach().clone()
    updates = Updates(soft(settings(), learning_rate=0.0), synthetic, objective, ITEMS_PER_CLASS)
    assert not synthetic.soft_labels.requires_grad
    take(updates, synthetic, objective, range(2), 2)
    assert torch.equal(synthetic.soft_labels, before)
    assert not any("soft_labels" in name for name in updates.tensors())


def test_the_result_is_the_running_average_of_the_items_alone() -> None:
    """a_0 = x_0,  a_k = d a_{k-1} + (1 - d) x_k; labels and the objective's number are those of the last step."""
    decay, steps = 0.75, 4
    config = soft(settings(learning_rate=0.2, learning_rate_unit="absolute", average=decay))
    synthetic, objective = items(), Own()
    start = synthetic.codes.detach().clone()
    updates = Updates(config, synthetic, objective, ITEMS_PER_CLASS)
    average, last = start.double(), start
    for step in range(steps):
        take(updates, synthetic, objective, range(step, step + 1), steps)
        last = synthetic.codes.detach().clone()
        average = decay * average + (1 - decay) * last.double()
    assert synthetic.soft_labels is not None
    labels, number = synthetic.soft_labels.detach().clone(), float(objective.number.detach())
    updates.finish()
    torch.testing.assert_close(synthetic.codes.detach().double(), average, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(synthetic.codes, last)
    assert torch.equal(synthetic.soft_labels, labels)
    assert float(objective.number.detach()) == number


def test_without_an_average_the_result_is_the_last_step() -> None:
    synthetic, objective = items(labels=False), Own()
    updates = Updates(settings(), synthetic, objective, ITEMS_PER_CLASS)
    take(updates, synthetic, objective, range(2), 2)
    last = synthetic.codes.detach().clone()
    updates.finish()
    assert torch.equal(synthetic.codes, last)
    assert not any(name.startswith("average.") for name in updates.tensors())


@pytest.mark.parametrize("optimizer", [{}, ADAM, {**ADAM, "kind": "adamw", "weight_decay": 0.1}])
@pytest.mark.parametrize("average", [0.0, 0.9])
@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("done", [0, 1, 3])
def test_a_resumed_run_goes_on_exactly(average: float, labels: bool, done: int, optimizer: dict[str, Any]) -> None:
    config = settings(average=average, schedule="cosine", **optimizer)
    config = soft(config) if labels else config
    synthetic, objective = items(labels), Own()
    updates = Updates(config, synthetic, objective, ITEMS_PER_CLASS)
    take(updates, synthetic, objective, range(done), 5)
    saved = {name: value.clone() for name, value in updates.tensors().items()}
    copies = {name: value.clone() for name, value in saved.items()}

    again, other = items(labels), Own()
    with torch.no_grad():
        again.codes.add_(7)
    resumed = Updates(config, again, other, ITEMS_PER_CLASS)
    resumed.restore(saved)
    assert resumed.tensors().keys() == saved.keys()
    assert all(torch.equal(value, saved[name]) for name, value in resumed.tensors().items())

    for run, run_items, run_objective in ((updates, synthetic, objective), (resumed, again, other)):
        take(run, run_items, run_objective, range(done, 5), 5)
    whole, parts = updates.tensors(), resumed.tensors()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert other.steps == objective.steps == 5
    for run in (updates, resumed):
        run.finish()
    assert torch.equal(synthetic.codes, again.codes)
    assert all(torch.equal(value, copies[name]) for name, value in saved.items()), "what was saved has not moved"


def test_nothing_to_restore_is_the_beginning() -> None:
    synthetic, objective = items(), Own()
    before = synthetic.codes.detach().clone()
    Updates(soft(settings()), synthetic, objective, ITEMS_PER_CLASS).restore({})
    assert torch.equal(synthetic.codes, before)


def test_frozen_tensors_of_the_codec_are_not_learned() -> None:
    synthetic, objective = items(), Own()
    frozen = nn.Parameter(torch.ones(3), requires_grad=False)
    synthetic.register_parameter("decoder", frozen)
    updates = Updates(soft(settings(average=0.5)), synthetic, objective, ITEMS_PER_CLASS)
    names = {name.partition(".")[2] for name in updates.tensors()}
    assert names == {"codes", "soft_labels", "objective.0", "steps"}


@pytest.mark.parametrize("kind", ["adam", "adamw"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_adam_updates_items_alone(kind: str, weight_decay: float) -> None:
    """With the recipe's betas, rate and schedule; soft labels and the objective's number stay with SGD."""
    changes = {**ADAM, "kind": kind, "betas": [0.5, 0.9], "weight_decay": weight_decay, "schedule": "cosine"}
    config, steps = soft(settings(**changes)), 6
    synthetic, objective = items(), Own()
    start = {name: value.detach().clone() for name, value in synthetic.named_parameters()}
    updates = Updates(config, synthetic, objective, ITEMS_PER_CLASS)
    taken = take(updates, synthetic, objective, range(steps), steps)
    rates = [0.1 * (1 + math.cos(math.pi * step / steps)) / 2 for step in range(steps)]
    codes = literal_adam(
        start["codes"], [each["codes"] for each in taken], rates, (0.5, 0.9), weight_decay, kind == "adamw"
    )
    labels = literal(start["soft_labels"], [each["soft_labels"] for each in taken], [3.0] * steps, 0.9)
    number = literal(torch.tensor(0.5), [each["number"] for each in taken], [0.01] * steps, 0.5)
    assert synthetic.soft_labels is not None
    for found, path in ((synthetic.codes, codes), (synthetic.soft_labels, labels), (objective.number, number)):
        torch.testing.assert_close(found.detach().double(), path[-1], rtol=1e-5, atol=1e-5)


def test_sgd_decays_weights() -> None:
    """v <- m v + g + w x,  x <- x - rate v"""
    config = settings(momentum=0.5, weight_decay=0.2, learning_rate=0.1, schedule="constant", average=0.0)
    synthetic, objective = items(labels=False), Own()
    value, velocity = synthetic.codes.detach().double(), torch.zeros(())
    updates = Updates(config, synthetic, objective, ITEMS_PER_CLASS)
    for gradient in take(updates, synthetic, objective, range(3), 3):
        velocity = 0.5 * velocity + gradient["codes"].double() + 0.2 * value
        value = value - config.optimizer.rate(ITEMS_PER_CLASS) * velocity  # type: ignore[union-attr]
    torch.testing.assert_close(synthetic.codes.detach().double(), value, rtol=1e-5, atol=1e-5)


def test_an_item_is_updated_as_if_it_were_alone() -> None:
    """Adam's moments are the item's own: 3 of 20 items, to the last bits."""
    config, results = settings(**ADAM), []
    for chosen in (slice(None), slice(4, 7)):
        whole, objective = items(labels=False), Own()
        synthetic = Codes(whole.codec, whole.codes[chosen], whole.labels[chosen], "int8")
        updates = Updates(config, synthetic, objective, ITEMS_PER_CLASS)
        for step in range(8):
            drawn = torch.randn(whole.codes.shape, generator=generator(0, "gradient", step))
            synthetic.codes.grad, objective.number.grad = drawn[chosen], torch.zeros(())
            updates.take(step / 8)
        results.append(synthetic.codes.detach())
    torch.testing.assert_close(results[0][4:7], results[1], rtol=1e-6, atol=1e-7)


def pixel_items() -> Codes:
    images = digit_images()
    codec = fit_codec(PixelsConfig(), images)
    chosen = first_items(images, ITEMS_PER_CLASS)
    return Codes(codec, codec.encode(images.images[chosen].float() / 255), images.labels[chosen])


@pytest.mark.parametrize("optimizer", [{**ADAM, "kind": "sgd"}, ADAM])
def test_items_stay_in_the_valid_range(optimizer: dict[str, Any]) -> None:
    """Cut after every step, so their average is in range too; what the cut does not reach is left as it is."""
    config = settings(**{**optimizer, "valid_range": True, "average": 0.5, "learning_rate": 0.5})
    free = override(config, {"optimizer.valid_range": False, "optimizer.average": 0.0})
    synthetic, other, objective = pixel_items(), pixel_items(), Own()
    updates = Updates(config, synthetic, objective, ITEMS_PER_CLASS)
    everything = torch.arange(len(synthetic))
    take(updates, synthetic, objective, range(1), 1)
    take(Updates(free, other, Own(), ITEMS_PER_CLASS), other, Own(), range(1), 1)
    outside = (other.images(everything) < 0) | (other.images(everything) > 1)
    assert 0.1 < outside.float().mean() < 0.9
    assert torch.equal(synthetic.codes[~outside], other.codes[~outside])
    torch.testing.assert_close(synthetic.images(everything), other.images(everything).clamp(0, 1))
    take(updates, synthetic, objective, range(1, 5), 5)
    updates.finish()
    images = synthetic.images(everything)
    assert images.min() >= -1e-6 and images.max() <= 1 + 1e-6


def test_codes_without_a_range_of_each_value_are_refused() -> None:
    config = settings(valid_range=True)
    images = digit_images()
    whitened = fit_codec(PixelsConfig(whitening="zca"), images)
    for synthetic in (items(), Codes(whitened, torch.zeros(10, 1, 8, 8), images.labels[:10])):
        with pytest.raises(InputError, match=r"valid_range.*mixes pixels; set optimizer.valid_range=false"):
            Updates(config, synthetic, Own(), ITEMS_PER_CLASS)


def test_settings_that_the_kind_would_ignore_are_refused() -> None:
    assert OptimizerConfig(learning_rate=1.0).betas is None
    assert OptimizerConfig(kind="adam", learning_rate=1.0).betas == (0.9, 0.999)
    assert OptimizerConfig(kind="adamw", learning_rate=1.0, betas=(0.5, 0.9)).momentum == 0
    with pytest.raises(InputError, match=r"adam has betas and no momentum; set optimizer.momentum=0"):
        settings(kind="adam", momentum=0.5)
    with pytest.raises(InputError, match=r"sgd has no betas; set optimizer.betas=null"):
        settings(betas=[0.5, 0.9])
    with pytest.raises(InputError, match="betas"):
        settings(kind="adam", momentum=0.0, betas=[0.5, 1.0])
    adam = settings(kind="adam", momentum=0.0)
    assert override(adam, {"steps": 3}).optimizer == adam.optimizer
    assert override(adam, {"optimizer.kind": "sgd", "optimizer.betas": None}).optimizer.betas is None  # type: ignore[union-attr]
