"""Samples in a student's training: exact gradients through the decoder, which step sees which, and every refusal."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tests.reference.trajectories import literal_convnet, literal_trajectory_loss
from torch import Tensor, nn

from attar.base.config import override
from attar.base.errors import InputError
from attar.base.randomness import generator
from attar.data.augmentation import Dsa, DsaConfig
from attar.methods.labels import class_logits
from attar.methods.objectives.discrepancy import Discrepancy, DiscrepancyConfig
from attar.methods.objectives.objective import Context
from attar.methods.objectives.student import draw_steps
from attar.methods.objectives.trajectories import Trajectories, TrajectoriesConfig
from attar.methods.parameterizations.decoders import DecoderConfig
from attar.methods.parameterizations.priors import Priors, PriorsConfig
from attar.methods.recipes import recipe
from attar.models.codecs.pixels import Pixels, PixelsSpec
from attar.models.experts.config import ExpertsConfig
from attar.models.networks.network import NetworkConfig
from attar.models.networks.registry import build_network
from attar.models.real_items import RealItems

SHAPE = (3, 8, 8)
CLASSES, PER_CLASS = 3, 2
NUM_ITEMS = CLASSES * PER_CLASS
SMALL = NetworkConfig(depth=2, width=4)
START, END, RATE = 1, 2, 0.3


class TwoPoints:
    """One expert of two epochs, so that nothing of a segment is drawn by chance."""

    num_experts, num_epochs = 1, 2

    def __init__(self) -> None:
        self.network = build_network(SMALL, SHAPE, CLASSES)

    def parameters(self, expert: int, epoch: int) -> Tensor:
        start = nn.utils.parameters_to_vector(self.network.parameters()).detach()
        return start + 0.03 * epoch * torch.randn(len(start), generator=generator(0, "drift"))


def _priors(training: bool = True) -> Priors:
    """In float64, with running statistics of their own and soft labels."""
    codec = Pixels(PixelsSpec(image_shape=SHAPE), {"mean": torch.full((3,), 0.5), "std": torch.full((3,), 0.25)})
    config = PriorsConfig(decoder=DecoderConfig(latent_dim=5, width=6, narrowest=2), initial_log_variance="normal")
    items = Priors.initial(config, codec, CLASSES, PER_CLASS, generator(0, "priors")).double()
    with torch.no_grad():
        for turn in range(3):
            items(torch.arange(NUM_ITEMS), generator(turn, "settling"))
    items.take_soft_labels(class_logits(items.labels, CLASSES, 2.0))
    return items.double().train(training)


def _config(**settings: Any) -> TrajectoriesConfig:
    chosen = {
        "network": SMALL,
        "experts": ExpertsConfig(count=1, epochs=2),
        "student_steps": 3,
        "expert_epochs": END - START,
        "min_start_epoch": START,
        "max_start_epoch": START,
        "student_rate": RATE,
    }
    return TrajectoriesConfig(**{**chosen, **settings})


def _matching(config: TrajectoriesConfig) -> Trajectories:
    augmentation = Dsa(config.augmentation) if config.augmentation else None
    return Trajectories(config, Context(SHAPE, CLASSES, augmentation=augmentation, experts=TwoPoints()))


def _real() -> RealItems:
    """The objective never reads them."""
    return RealItems(torch.arange(CLASSES), CLASSES, codes=torch.zeros(CLASSES, *SHAPE))


def _literal_gradients(items: Priors, samples: int, steps: int, batch: int) -> tuple[float, dict[str, Tensor]]:
    """One graph from the loss through all student steps and the decoder, with the draws of an outer step replayed."""
    draws = generator(3, "step")
    rendered = items(torch.arange(NUM_ITEMS).repeat(samples), draws)
    for _ in range(2):  # which expert, and where it starts: there is one of each
        torch.randint(1, (1,), generator=draws)
    order = torch.cat([torch.randperm(NUM_ITEMS, generator=draws) for _ in range(-(-steps * batch // NUM_ITEMS))])
    assert items.soft_labels is not None
    labels = items.soft_labels.softmax(1)
    batches = []
    for step in range(steps):
        chosen = order[step * batch : (step + 1) * batch]
        number = step * batch // NUM_ITEMS  # of the pass through all items
        batches.append((rendered[(number % samples) * NUM_ITEMS + chosen], labels[chosen]))
    experts = TwoPoints()
    shapes = [parameter.shape for parameter in experts.network.parameters()]

    def parts(flat: Tensor) -> list[Tensor]:
        pieces = flat.double().split([shape.numel() for shape in shapes])
        return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]

    ends = [parts(experts.parameters(0, epoch)) for epoch in (START, END)]
    rate = torch.tensor(RATE).double()  # float32, as the objective keeps it
    loss = literal_trajectory_loss(literal_convnet(2), ends[0], ends[1], batches, rate)
    names = dict(items.named_parameters())
    return float(loss.detach()), dict(zip(names, torch.autograd.grad(loss, list(names.values())), strict=True))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("samples", [1, 2, 3])
@pytest.mark.parametrize("chunk", [2, 100])
def test_gradients_are_those_of_one_graph(training: bool, samples: int, chunk: int) -> None:
    """Batches of 3 of 6 items, 5 steps; the norms take the statistics of all samples, or running ones."""
    items = _priors(training)
    literal = deepcopy(items)
    loss, expected = _literal_gradients(literal, samples, 5, 3)
    matching = _matching(_config(samples=samples, student_steps=5, student_batch_size=3, chunk_items=chunk))
    figures = matching.accumulate(items, _real(), generator(3, "step"))
    assert figures["loss"] == pytest.approx(loss, rel=1e-12)
    for name, value in items.named_parameters():
        assert value.grad is not None
        gap = float((value.grad - expected[name]).norm())
        assert gap <= 1e-9 * float(expected[name].norm()) + 1e-14, name
    for name, statistic in items.statistics().items():
        assert torch.equal(statistic, literal.statistics()[name])
    assert all(float(value.norm()) > 0 for value in (items.mean.grad, items.log_variance.grad) if value is not None)


def test_every_student_step_may_see_fresh_samples_and_all_are_rendered_at_once() -> None:
    asked: list[Tensor] = []

    class Watched(Priors):
        def forward(self, items: Tensor, generator: torch.Generator | None = None) -> Tensor:
            asked.append(items)
            return super().forward(items, generator)

    items = _priors()
    items.__class__ = Watched
    _matching(_config(samples=3)).accumulate(items, _real(), generator(3, "step"))
    assert len(asked) == 1 and torch.equal(asked[0], torch.arange(NUM_ITEMS).repeat(3))
    steps = draw_steps(SHAPE, 4, 9, 3, None, generator(0, "steps"), samples=3)
    for number, step in enumerate(steps):  # two batches, of 3 and of 1, go through all four
        assert bool((step.items // 4 == (number // 2) % 3).all())
    plain = draw_steps(SHAPE, 4, 9, 3, None, generator(0, "steps"))
    assert all(torch.equal(one.items % 4, two.items) for one, two in zip(steps, plain, strict=True))


def test_augmentation_may_be_the_experts_alone() -> None:
    seen = []
    for settings in ({}, {"augmentation": DsaConfig(), "augmented": "experts"}, {"augmentation": DsaConfig()}):
        items = _priors()
        seen.append(_matching(_config(**settings)).accumulate(items, _real(), generator(3, "step"))["loss"])
    assert seen[0] == seen[1] != seen[2]
    context = Context(SHAPE, CLASSES, augmentation=Dsa(DsaConfig()), experts=TwoPoints())
    compared = DiscrepancyConfig(network=SMALL, experts=ExpertsConfig(epochs=2), augmentation=DsaConfig())
    assert Discrepancy(compared, context).augment is not None
    alone = compared.model_copy(update={"augmented": "experts"})
    assert Discrepancy(alone, context).augment is None


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"samples": 4}, "4 samples are more than the 3 student steps"),
        ({"samples": 2, "augmentation": DsaConfig()}, "set augmented=experts, or samples=1"),
        ({"augmented": "experts"}, "augmented has no effect without augmentation"),
    ],
)
def test_settings_of_a_student_without_effect_are_refused(settings: dict[str, Any], fault: str) -> None:
    with pytest.raises((InputError, ValidationError), match=fault):
        _config(**settings)
    assert _config(samples=2, augmentation=DsaConfig(), augmented="experts").samples == 2
    with pytest.raises(InputError, match="3 samples are more than the 2 times that a student of 3 steps of 4 items"):
        _matching(_config(samples=3, student_batch_size=4)).accumulate(_priors(), _real(), generator(3, "step"))


DECODER_ADAM = {"kind": "adam", "learning_rate": 0.001}


@pytest.mark.parametrize(
    ("name", "settings", "fault"),
    [
        ("d3", {"initialization": "herding"}, "set initialization=noise"),
        ("d3", {"optimizer.average": 0.5}, "set optimizer.average=0"),
        ("d3", {"decoder_optimizer.average": 0.5}, "set decoder_optimizer.average=0"),
        ("d3", {"optimizer.valid_range": True}, "set optimizer.valid_range=false"),
        ("d3", {"decoder_optimizer.learning_rate_unit": "per-item"}, "learning_rate_unit=absolute"),
        ("d3", {"decoder_optimizer": None}, "of kind .priors. needs an optimizer of its own; set decoder_optimizer="),
        ("d3", {"labels": {"kind": "regions"}}, "observer"),
        ("d3", {"labels": {"kind": "soft"}}, "set labels.computed=end"),
        ("d3", {"labels.initial": "class"}, "set labels.initial=expert"),
        ("d3", {"labels.learning_rate": 1.0}, "set labels.learning_rate=0, or labels.computed=start"),
        ("d3", {"parameterization.distribution": "fixed"}, "10 samples of items of kind .priors. that are not sampled"),
        ("d3", {"parameterization": {"kind": "codes"}}, "10 samples of items of kind .codes. that are not sampled"),
        ("latent-mtt", {"objective.samples": 2, "objective.augmentation": None}, "set samples=1"),
        ("latent-mtt", {"decoder_optimizer": DECODER_ADAM}, "set decoder_optimizer=null"),
        ("dm", {"parameterization": {"kind": "priors"}}, "set initialization=noise"),
        ("random", {"parameterization": {"kind": "priors"}, "initialization": "noise"}, "set objective.kind"),
    ],
)
def test_recipes_refuse_what_priors_cannot_do(name: str, settings: dict[str, Any], fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        override(recipe(name), settings)
