"""Sums of objectives: exact weights, independent parts, turns that are resumed in phase, and every refusal."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from attar.base.config import override, parse_config
from attar.base.errors import InputError
from attar.base.randomness import generator
from attar.data.augmentation import Dsa, DsaConfig
from attar.data.image_set import ImageSet
from attar.methods.labels import class_major_labels
from attar.methods.objectives.alignment import AlignmentConfig
from attar.methods.objectives.discrepancy import Discrepancy, DiscrepancyConfig
from attar.methods.objectives.features import FeaturesConfig
from attar.methods.objectives.gradients import GradientsConfig
from attar.methods.objectives.inversion import InversionConfig
from attar.methods.objectives.objective import Context, NoObjectiveConfig
from attar.methods.objectives.sums import Sum, SumConfig
from attar.methods.objectives.trajectories import TrajectoriesConfig
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
SMALL = NetworkConfig(depth=1, width=4)
EXPERTS = ExpertsConfig(count=2, epochs=4)

FEATURES = FeaturesConfig(network=SMALL, real_batch_size=4)
DISCREPANCY = DiscrepancyConfig(network=SMALL, experts=EXPERTS, real_batch_size=4)
TRAJECTORIES = TrajectoriesConfig(
    network=SMALL, experts=EXPERTS, student_steps=2, max_start_epoch=1, student_rate=0.1, student_rate_learning_rate=0.1
)
GRADIENTS = GradientsConfig(network=SMALL, real_batch_size=4, outer_steps=2)


class Items(nn.Module):
    """Two items of each class with soft labels."""

    def __init__(self) -> None:
        super().__init__()
        draws = generator(0, "items")
        self.codes = nn.Parameter(torch.randn(6, *SHAPE, generator=draws))
        self.labels = class_major_labels(CLASSES, 2)
        self.soft_labels = nn.Parameter(torch.randn(6, CLASSES, generator=draws))

    def forward(self, items: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.codes[items]


class DriftingExperts:
    num_experts, num_epochs = 2, 4

    def parameters(self, expert: int, epoch: int) -> Tensor:
        network = build_network(SMALL, SHAPE, CLASSES, generator=generator(expert, "expert"))
        values = nn.utils.parameters_to_vector(network.parameters()).detach()
        return values + 0.03 * epoch * torch.randn(values.shape, generator=generator(expert, "drift"))


def _context(augmentation: DsaConfig | None = None, num_steps: int = 1) -> Context:
    dsa = Dsa(augmentation) if augmentation else None
    return Context(SHAPE, CLASSES, num_steps=num_steps, augmentation=dsa, experts=DriftingExperts())


def _real() -> RealItems:
    codes = torch.randn(18, *SHAPE, generator=generator(0, "real"))
    return RealItems(class_major_labels(CLASSES, 6), CLASSES, codes=codes)


def _sum(*parts: Any, **settings: Any) -> Sum:
    return Sum(SumConfig(parts=parts, **settings), _context())


def _gradients(objective: Any, generator: torch.Generator, items: Items | None = None) -> tuple[Any, list[Tensor]]:
    """Figures, and the gradients of items, labels and the student's rate (0 where there is none)."""
    items = items or Items()
    own = [value for group in objective.parameter_groups() for value in group["params"]]
    figures = objective.accumulate(items, _real(), generator)
    leaves = [items.codes, items.soft_labels, *own, *[nn.Parameter(torch.zeros(()))] * (1 - len(own))]
    return figures, [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad.clone() for leaf in leaves]


def _alone(config: Any, name: str, number: int = 0) -> tuple[Any, list[Tensor]]:
    """A part by itself, with the generator that a sum's step gives it."""
    seed = int(torch.randint(2**62, (1,), generator=generator(number, "step")))
    return _gradients(config.build(_context()), generator(seed, name))


def test_the_gradient_is_the_weighted_sum_of_the_parts_gradients() -> None:
    """Bit for bit, of items, of labels and of a part's own parameter."""
    parts, weights = (TRAJECTORIES, DISCREPANCY, FEATURES), (0.7, 3.0, 0.1)
    figures, found = _gradients(_sum(*parts, weights=weights), generator(0, "step"))
    separate = [_alone(part, part.kind) for part in parts]
    for index, gradient in enumerate(found):
        wanted = torch.zeros_like(gradient)
        for (_, gradients), weight in zip(separate, weights, strict=True):
            wanted = wanted + weight * gradients[index]
        assert torch.equal(gradient, wanted)
        assert (gradient != 0).any()
    losses = [alone["loss"] for alone, _ in separate]
    assert figures["loss"] == sum(weight * loss for weight, loss in zip(weights, losses, strict=True))
    assert figures["discrepancy.loss"] == losses[1]
    assert set(figures) == {
        "loss",
        "trajectories.loss",
        "trajectories.student_rate",
        "discrepancy.loss",
        "features.loss",
    }


def test_gradients_matching_is_weighted_like_the_others() -> None:
    """It goes through the items by class and twice through a network."""
    figures, (of_items, *_) = _gradients(_sum(GRADIENTS, FEATURES, weights=(0.3, 2.0)), generator(0, "step"))
    wanted = 0.3 * _alone(GRADIENTS, "gradients")[1][0] + 2.0 * _alone(FEATURES, "features")[1][0]
    assert torch.equal(of_items, wanted)
    assert figures["gradients.loss"] == _alone(GRADIENTS, "gradients")[0]["loss"]


def test_what_was_there_before_is_not_weighted() -> None:
    objective, items = _sum(TRAJECTORIES, DISCREPANCY, weights=(0.25, 4.0)), Items()
    _, once = _gradients(objective, generator(0, "step"), items)
    _, twice = _gradients(objective, generator(0, "step"), items)
    for one, two in zip(once, twice, strict=True):
        torch.testing.assert_close(two, 2 * one, rtol=1e-6, atol=0)


def test_what_a_part_draws_does_not_depend_on_the_others() -> None:
    _, one = _gradients(_sum(FEATURES, DISCREPANCY), generator(0, "step"))
    _, two = _gradients(_sum(DISCREPANCY, FEATURES), generator(0, "step"))
    assert torch.equal(one[0], two[0])
    figures = _sum(DISCREPANCY, DISCREPANCY).accumulate(Items(), _real(), generator(0, "step"))
    assert figures["discrepancy.loss"] != figures["discrepancy_2.loss"]


def test_alternating_takes_each_part_in_its_turn() -> None:
    objective = _sum(TRAJECTORIES, DISCREPANCY, FEATURES, weights=(0.5, 2.0, 1.0), mode="alternating")
    names = ("trajectories", "discrepancy", "features")
    for step in range(7):
        number = step % 3
        figures, gradients = _gradients(objective, generator(step, "step"))
        assert {name.partition(".")[0] for name in figures} == {"loss", names[number]}
        alone, wanted = _alone(objective.config.parts[number], names[number], step)
        weight = objective.config.weights[number]
        assert figures["loss"] == weight * alone["loss"]
        assert torch.equal(gradients[0], weight * wanted[0])
        assert bool(gradients[1].any()) == (number == 0)


def test_a_resumed_alternation_goes_on_with_the_part_whose_turn_it_is() -> None:
    growing = TRAJECTORIES.model_copy(update={"growth_steps": 3})
    unbroken, broken = (_sum(growing, DISCREPANCY, mode="alternating") for _ in range(2))
    for step in range(3):
        for objective in (unbroken, broken):
            objective.accumulate(Items(), _real(), generator(step, "step"))
    resumed = _sum(growing, DISCREPANCY, mode="alternating")
    resumed.resume({name: value.clone() for name, value in broken.resume_state().items()})
    assert resumed.step == 3 and int(resumed.resume_state()["trajectories.step"]) == 2
    unbroken.zero_grad()
    for step in range(3, 6):
        one, two = (_gradients(objective, generator(step, "step")) for objective in (unbroken, resumed))
        assert one[0] == two[0]
        assert all(torch.equal(*pair) for pair in zip(one[1], two[1], strict=True))


def test_a_step_that_failed_is_taken_again_by_the_same_part() -> None:
    """As the outer loop does when memory runs out."""
    objective = _sum(FEATURES, DISCREPANCY, mode="alternating")
    before = {name: value.clone() for name, value in objective.resume_state().items()}
    objective.accumulate(Items(), _real(), generator(0, "step"))
    objective.resume(before)
    assert objective.halve_memory()
    assert "features.loss" in objective.accumulate(Items(), _real(), generator(0, "step"))


def test_members_are_those_of_the_parts() -> None:
    objective = _sum(TRAJECTORIES, DISCREPANCY)
    assert objective.config.needs == {"experts"}
    assert objective.config.learned_names == ("student_rate",) and objective.learned() == {
        "student_rate": pytest.approx(0.1)
    }
    assert [group["lr"] for group in objective.parameter_groups()] == [0.1]
    small = TRAJECTORIES.model_copy(update={"chunk_items": 1})
    last = _sum(small, DISCREPANCY.model_copy(update={"chunk_items": 2}))
    assert [last.halve_memory(), last.halve_memory()] == [True, False]
    assert {name: int(value) for name, value in last.resume_state().items()} == {
        "step": 0,
        "trajectories.step": 0,
        "trajectories.chunk_items": 1,
        "trajectories.kept_steps": 0,
        "discrepancy.chunk_items": 1,
    }


def test_the_augmentation_reaches_the_parts_that_have_one() -> None:
    dsa = DsaConfig()
    config = SumConfig(parts=(TRAJECTORIES, DISCREPANCY.model_copy(update={"augmentation": dsa})))
    trajectories, matching = Sum(config, _context(dsa)).parts
    assert config.views == dsa
    assert isinstance(matching, Discrepancy) and matching.augment is not None
    assert trajectories.augment is None


def test_views_for_those_who_read_a_config() -> None:
    config = SumConfig(parts=(FEATURES, DISCREPANCY, TRAJECTORIES, DISCREPANCY))
    assert config.names == ("features", "discrepancy", "trajectories", "discrepancy_2")
    assert config.factors == (1.0, 1.0, 1.0, 1.0)
    assert config.expert_settings == TRAJECTORIES  # it says how experts are augmented
    assert config.views is None and config.chunk_size == 1024
    assert config.needs == {"experts"}
    assert config.learned_names == ("student_rate",)
    observed = SumConfig(parts=(AlignmentConfig(), InversionConfig()))
    assert observed.needs == {"observer", "originals"}
    assert observed.expert_settings is None and observed.views is None
    still = observed.without_flip()
    assert still.parts == (AlignmentConfig().without_flip(), InversionConfig().without_flip())
    assert NoObjectiveConfig().expert_settings is None and FEATURES.expert_settings is None
    assert DISCREPANCY.expert_settings == DISCREPANCY and not NoObjectiveConfig().needs


def test_a_recipe_holds_a_sum_and_reads_it_back() -> None:
    config = SumConfig(parts=(TRAJECTORIES, DISCREPANCY), weights=(1.0, 0.5), mode="alternating")
    made = recipe("latent-mtt").model_copy(update={"objective": config})
    again = override(made, {"steps": 7})
    assert again.objective == config and again.steps == 7
    assert parse_config(SumConfig, config.model_dump_json(), "sum") == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"parts": ()}, "a sum without parts matches nothing; give it at least one objective in parts"),
        ({"parts": (FEATURES,), "weights": (1.0, 2.0)}, "there are 2 weights for 1 parts; give one for each, or none"),
        ({"parts": (FEATURES,), "weights": (0.0,)}, "greater than 0"),
        ({"parts": (FEATURES,), "mode": "alternating"}, "one part has none to alternate with; set mode=sum"),
        ({"parts": (TRAJECTORIES, TRAJECTORIES)}, "would each learn the student's rate; give one"),
        (
            {"parts": (TRAJECTORIES, DISCREPANCY.model_copy(update={"network": NetworkConfig(depth=2)}))},
            "parts trajectories and discrepancy read the same experts and differ in network; give both the same",
        ),
        (
            {"parts": (DISCREPANCY, DISCREPANCY.model_copy(update={"experts": ExpertsConfig(seed=1)}))},
            "parts discrepancy and discrepancy_2 read the same experts and differ in experts; give both the same",
        ),
        (
            {
                "parts": (
                    FEATURES.model_copy(update={"augmentation": DsaConfig()}),
                    DISCREPANCY.model_copy(update={"augmentation": DsaConfig(strategy="crop")}),
                )
            },
            "the parts augment differently; give those that augment the same augmentation",
        ),
    ],
)
def test_what_cannot_be_added_up_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SumConfig(**settings)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "a sum without parts"),
        ([{"kind": "featurs"}], "'featurs' found using 'kind' does not match any of the expected tags"),
        ([{"kind": "none"}], "does not match any of the expected tags"),
        ([{"kind": "sum", "parts": []}], "does not match any of the expected tags"),
        ([{"kind": "features", "widht": 3}], r"parts\.0\.features\.widht"),
    ],
)
def test_parts_that_do_not_exist_are_refused_in_one_line(parts: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse_config(SumConfig, json.dumps({"parts": parts}), "--set")
    assert "\n" not in str(caught.value)


def test_the_planner_counts_the_parts_together() -> None:
    images = torch.randint(0, 256, (40, 3, 16, 16), generator=generator(0, "images"), dtype=torch.uint8)
    train = ImageSet(images, class_major_labels(2, 20), ("a", "b"))
    codec = fit_codec(PixelsConfig(), train)
    real = RealItems(train.labels, 2, images=train, codec=codec)
    synthetic = Codes(codec, torch.randn(20, 3, 16, 16), class_major_labels(2, 10))
    wide = {"network": NetworkConfig(depth=2, width=64), "experts": EXPERTS}
    trajectories = TrajectoriesConfig(**wide, max_start_epoch=1, student_steps=3)
    matching = DiscrepancyConfig(**wide)

    def plan(config: Any, memory: str = "10GB") -> Any:
        changed = recipe("dm").model_copy(update={"objective": config, "steps": 3})
        return plan_memory(changed, Context(real.shape, 2, "cpu", 3), synthetic, real, memory)

    both = plan(SumConfig(parts=(trajectories, matching)))
    alone = [plan(config) for config in (trajectories, matching)]
    assert both.parts["networks"] == sum(one.parts["networks"] for one in alone)
    assert both.parts["activations"] == max(one.parts["activations"] for one in alone)
    assert both.parts["kept graphs"] == alone[0].parts["kept graphs"] > 0
    assert both.config.parts[0].kept_steps == 3
    tight = plan(SumConfig(parts=(trajectories, matching)), "90MB")
    assert tight.num_bytes <= 90_000_000 and all(part.chunk_items < 1024 for part in tight.config.parts)
    assert f"in chunks of {tight.config.chunk_size} items" in tight.line
