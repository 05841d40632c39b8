"""The training loop: agreement with the literal oracle, independence of the mode, schedules, and real digits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from attar.base.errors import InputError, NonFiniteLossError
from attar.base.progress import Silent
from attar.base.randomness import generator
from attar.data.augmentation import DsaConfig
from attar.data.image_set import ImageSet
from attar.models.networks.network import Network, NetworkConfig
from attar.models.networks.registry import build_network, network_from_text
from attar.models.training.acceleration import (
    BFLOAT16_FLOPS,
    COMPILE_FLOPS,
    Acceleration,
    forward_flops,
    forward_function,
    has_bfloat16,
    has_compiler,
    resolve_acceleration,
)
from attar.models.training.items import FixedItems
from attar.models.training.loop import Trainer, train_networks
from attar.models.training.settings import Plan, TrainingConfig, learning_rate_at
from attar.models.training.testing import test_network, test_networks
from reference.training import train

SMALL = NetworkConfig(width=8, depth=2)


def toy_items(dtype: torch.dtype = torch.float32, count: int = 22) -> FixedItems:
    labels = torch.arange(count) % 3
    inputs = torch.randn(count, 2, 8, 8, generator=generator(0, "toy"), dtype=torch.float64)
    return FixedItems((inputs + 0.5 * labels.view(-1, 1, 1, 1)).to(dtype), labels)


def digits() -> tuple[ImageSet, ImageSet]:
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.from_numpy(data.images / 16 * 255).to(torch.uint8).unsqueeze(1)
    every = ImageSet(images, torch.from_numpy(data.target).long(), tuple("0123456789"))
    order = torch.randperm(len(images), generator=generator(0, "split"))
    return every.select(order[:1200]), every.select(order[1200:])


def network_inputs(images: Tensor) -> Tensor:
    return (images.float() / 255 - 0.3) / 0.35


class Recorder(Silent):
    def __init__(self) -> None:
        self.total, self.steps, self.finished = 0, 0, 0
        self.losses: list[float] = []
        self.notes: list[str] = []

    def start(self, description: str, total: int) -> None:
        self.total = total

    def advance(self, count: int = 1, **figures: float) -> None:
        self.steps += count
        self.losses.append(figures["loss"])

    def finish(self) -> None:
        self.finished += 1

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_agrees_with_the_literal_loop(dtype: torch.dtype, reset: bool) -> None:
    items = toy_items(dtype)
    training = TrainingConfig(
        epochs=4, batch_size=8, learning_rate=0.05, weight_decay=0.01, milestones=(0.5,), reset_momentum=reset
    )
    (network,) = train_networks(SMALL, items, 3, training, [5])
    start = build_network(SMALL, (2, 8, 8), 3, generator(5, "network")).state_dict()
    batches = []
    for epoch in range(4):
        order = torch.randperm(22, generator=generator(5, "order", epoch))
        batches += [(items.inputs[part], items.labels[part]) for part in (order[:8], order[8:16], order[16:])]
    expected = train(start, 2, batches, 6 * [0.05] + 6 * [0.005], {6} if reset else set(), 0.9, 0.01)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], rtol=0, atol=tolerance)


@pytest.mark.parametrize(("optimizer", "text"), [("sgd", "convnet:d2w8"), ("adamw", "convnet:d2w8-nonorm")])
def test_stacked_and_looped_give_the_same_networks(optimizer: str, text: str) -> None:
    # AdamW without norm: a bias before a norm has no gradient but rounding, which AdamW would blow up to full steps.
    config = network_from_text(text)
    training = TrainingConfig(
        epochs=3, batch_size=8, optimizer=optimizer, augmentation=DsaConfig(), cutmix_probability=0.5, schedule="cosine"
    )
    items = toy_items(torch.float64)
    looped = train_networks(config, items, 3, training, [0, 1, 2], mode="looped")
    stacked = train_networks(config, items, 3, training, [0, 1, 2], mode="stacked")
    assert same(looped, stacked, 1e-11)
    single = [train_networks(config, toy_items(), 3, training, [0, 1], mode=mode) for mode in ("looped", "stacked")]
    assert same(single[0], single[1], 1e-4)


def same(first: list[Network], second: list[Network], tolerance: float) -> bool:
    return all(
        torch.allclose(a, b, rtol=0, atol=tolerance)
        for one, other in zip(first, second, strict=True)
        for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("text", ["convnet:d2w8", "convnet:d2w8-batch"])
def test_a_seed_gives_the_same_network_alone_and_in_company(text: str) -> None:
    training = TrainingConfig(epochs=2, batch_size=8, augmentation=DsaConfig())
    config = network_from_text(text)
    together = train_networks(config, toy_items(), 3, training, [3, 4])
    torch.manual_seed(99)
    assert same(train_networks(config, toy_items(), 3, training, [4]), together[1:], 0)
    assert not same(together[:1], together[1:], 1e-3)
    assert not together[0].training and all(p.grad is None and p.is_contiguous() for p in together[0].parameters())


def test_items_may_change_with_the_epoch_and_depend_on_the_seed_alone() -> None:
    class Drawn:
        num_items = 10

        def epoch(self, epoch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            return torch.randn(10, 2, 8, 8, generator=generator) + epoch, torch.arange(10) % 3

    training = TrainingConfig(epochs=3, batch_size=4)
    looped = train_networks(SMALL, Drawn(), 3, training, [0, 1], mode="looped")
    stacked = train_networks(SMALL, Drawn(), 3, training, [0, 1], mode="stacked")
    assert same(looped, stacked, 1e-4) and not same(looped[:1], looped[1:], 1e-2)


def test_networks_learn_real_digits() -> None:
    train_set, test_set = digits()
    items = FixedItems(network_inputs(train_set.images), train_set.labels)
    training = TrainingConfig(epochs=8, batch_size=64)
    recorder = Recorder()
    networks = train_networks(NetworkConfig(width=32), items, 10, training, [0, 1], progress=recorder)
    results = test_networks(networks, network_inputs, test_set)
    assert all(result.accuracy > 0.9 for result in results)
    assert recorder.steps == recorder.total == 2 * 8 * 19 and recorder.finished == 1
    assert recorder.losses[-1] < 0.3 < recorder.losses[0]
    augmented = training.model_copy(
        update={"augmentation": DsaConfig(strategy="color_crop_cutout_scale_rotate"), "cutmix_probability": 0.5}
    )
    (network,) = train_networks(NetworkConfig(width=32), items, 10, augmented, [0])
    assert test_network(network, network_inputs, test_set).accuracy > 0.8


def test_results_of_testing_are_consistent() -> None:
    _, test_set = digits()
    network = build_network(network_from_text("convnet:w8-batch"), (1, 8, 8), 10).train()
    result = test_network(network, network_inputs, test_set, batch_size=100)
    assert network.training and result.confusion.dtype == torch.int64
    predicted = network.eval()(network_inputs(test_set.images)).argmax(1)
    assert result.accuracy == pytest.approx((predicted == test_set.labels).double().mean().item())
    for true in range(10):
        row = predicted[test_set.labels == true]
        assert torch.equal(result.confusion[true], torch.bincount(row, minlength=10))
        assert result.per_class[true].item() == pytest.approx((row == true).double().mean().item())


def test_testing_refuses_other_classes() -> None:
    _, test_set = digits()
    with pytest.raises(InputError, match="3 classes is tested on 10"):
        test_network(build_network(SMALL, (1, 8, 8), 3), network_inputs, test_set)


@pytest.mark.parametrize(
    ("settings", "items", "epochs", "steps"),
    [
        ({"epochs": 10, "batch_size": 8}, 20, 10, 30),
        ({"epochs": 10, "batch_size": 8, "min_steps": 100}, 20, 34, 102),
        ({"epochs": 10, "batch_size": 8, "max_steps": 10}, 20, 4, 10),
        ({"epochs": 1, "batch_size": 8, "max_steps": 50}, 1000, 1, 50),
        ({"epochs": 10, "batch_size": 256, "min_steps": 200, "max_steps": 400}, 10, 200, 200),
    ],
)
def test_number_of_steps_stays_within_bounds(settings: dict[str, int], items: int, epochs: int, steps: int) -> None:
    plan = Plan.of(TrainingConfig(**settings), items)
    assert (plan.num_epochs, plan.num_steps) == (epochs, steps)


def test_max_steps_stops_within_an_epoch() -> None:
    recorder = Recorder()
    train_networks(SMALL, toy_items(), 3, TrainingConfig(batch_size=4, max_steps=9), [0], progress=recorder)
    assert recorder.steps == recorder.total == 9


def test_learning_rates_follow_their_schedule() -> None:
    plan = Plan.of(TrainingConfig(epochs=6, batch_size=10), 20)
    step = TrainingConfig(epochs=6, milestones=(2 / 3, 5 / 6), decay=0.5, learning_rate=1.0)
    assert [learning_rate_at(step, plan, n) for n in range(12)] == 8 * [1.0] + 2 * [0.5] + 2 * [0.25]
    cosine = TrainingConfig(schedule="cosine", learning_rate=1.0)
    rates = [learning_rate_at(cosine, plan, n) for n in range(12)]
    assert rates[0] == 1.0 and rates[6] == pytest.approx(0.5) and rates == sorted(rates, reverse=True)
    constant = TrainingConfig(schedule="constant", learning_rate=1.0)
    assert {learning_rate_at(constant, plan, n) for n in range(12)} == {1.0}


def test_dcs_own_off_by_ones_can_be_said() -> None:
    training = TrainingConfig(epochs=301, milestones=(152 / 301,), learning_rate=1.0)
    plan = Plan.of(training, 10)
    assert [learning_rate_at(training, plan, epoch) for epoch in (151, 152)] == pytest.approx([1.0, 0.1])


@pytest.mark.parametrize("mode", ["looped", "stacked"])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(mode: str) -> None:
    items = toy_items()
    broken = items.inputs.clone()
    broken[:] = float("nan")

    class Breaks:
        num_items = 22

        def epoch(self, epoch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            return (broken if epoch == 1 else items.inputs), items.labels

    with pytest.raises(NonFiniteLossError, match="seed 0 is nan at step 4"):
        train_networks(SMALL, Breaks(), 3, TrainingConfig(epochs=3, batch_size=8), [0, 1], mode=mode)


def test_what_cannot_be_trained_is_refused() -> None:
    training = TrainingConfig(epochs=1)
    with pytest.raises(InputError, match="looped"):
        train_networks(network_from_text("convnet:d1w4-batch"), toy_items(), 3, training, [0, 1], mode="stacked")
    with pytest.raises(InputError, match=r"0\.\.1"):
        train_networks(SMALL, toy_items(), 2, training, [0])
    with pytest.raises(InputError, match="no seeds"):
        train_networks(SMALL, toy_items(), 3, training, [])
    with pytest.raises(ValueError, match="ascending"):
        TrainingConfig(milestones=(0.8, 0.4))
    with pytest.raises(ValueError, match="above max_steps"):
        TrainingConfig(min_steps=5, max_steps=4)


@pytest.mark.parametrize(("count", "batch_size"), [(22, 7), (22, 1), (1, 256), (257, 256)])
def test_batch_norm_over_one_value_is_refused_before_the_first_step(count: int, batch_size: int) -> None:
    """Where its maps are larger than 1 x 1, or an epoch is cut short before it, a batch of one is no fault."""
    items, training = toy_items(count=count), TrainingConfig(epochs=1, batch_size=batch_size)
    deep = NetworkConfig(width=8, depth=3, norm="batch", pooling="max")
    last = NetworkConfig(kind="resnet18", norm="batch")
    with pytest.raises(InputError, match=f"^{count} items in batches of {batch_size} leave a batch of one"):
        train_networks(last, items, 3, training, [0])
    train_networks(deep, items, 3, training, [0])
    if count > batch_size > 1:
        cut = training.model_copy(update={"max_steps": count // batch_size})
        train_networks(last, items, 3, cut, [0])


def test_acceleration_is_a_rule_of_work_and_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attar.models.training.acceleration.has_bfloat16", lambda kind: True)
    monkeypatch.setattr("attar.models.training.acceleration.has_compiler", lambda kind: True)
    assert resolve_acceleration("auto", "cpu", BFLOAT16_FLOPS / 2) == Acceleration("float32", False, False)
    assert resolve_acceleration("auto", "cpu", BFLOAT16_FLOPS * 2) == Acceleration("bfloat16", False, False)
    assert resolve_acceleration("auto", "cpu", COMPILE_FLOPS["cpu"]) == Acceleration("bfloat16", True, True)
    assert resolve_acceleration("float32", "cpu", 1e18) == Acceleration("float32", True, True)
    assert resolve_acceleration("float32", "cuda", 1e18) == Acceleration("float32", True, True)
    assert resolve_acceleration("auto", "mps", 1e18).compile is False
    monkeypatch.setattr("attar.models.training.acceleration.has_compiler", lambda kind: False)
    without = resolve_acceleration("auto", "cpu", 1e18)
    assert not without.compile and "C++ compiler" in without.remark
    monkeypatch.setattr("attar.models.training.acceleration.has_bfloat16", lambda kind: False)
    assert resolve_acceleration("auto", "cpu", 1e18).precision == "float32"


def test_flops_count_convolutions_and_matrix_products() -> None:
    network = build_network(NetworkConfig(width=4, depth=1), (3, 8, 8), 5)
    assert forward_flops(network, (3, 8, 8)) == 2 * (64 * 4 * 27 + 64 * 5)


def test_bfloat16_is_close_to_float32() -> None:
    network = build_network(SMALL, (2, 8, 8), 3)
    inputs = toy_items().inputs
    exact = forward_function(network, Acceleration("float32", False, False))(inputs)
    rough = forward_function(network, Acceleration("bfloat16", False, True))(inputs)
    assert rough.dtype == torch.float32 and not torch.equal(exact, rough)
    torch.testing.assert_close(exact, rough, rtol=0, atol=0.05)


def test_a_failing_compiler_leaves_the_eager_path_and_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(function: object, dynamic: bool) -> object:
        def call(inputs: Tensor) -> Tensor:
            raise torch._dynamo.exc.TorchDynamoException("no header was found\nand more")

        return call

    monkeypatch.setattr(torch, "compile", failing)
    network, recorder = build_network(SMALL, (2, 8, 8), 3), Recorder()
    forward = forward_function(network, Acceleration("float32", True, False), recorder)
    inputs = toy_items().inputs
    assert torch.equal(forward(inputs), network(inputs)) and torch.equal(forward(inputs), network(inputs))
    assert recorder.notes == ["compiling failed, so training runs uncompiled: no header was found"]


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_training_agrees_for_every_batch_size(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if backend == "inductor" and not has_compiler("cpu"):
        pytest.skip("no C++ compiler")
    sizes: list[int] = []
    compiler = torch.compile

    def compile_and_record(function: Callable[[Tensor], Tensor], dynamic: bool) -> Callable[[Tensor], Tensor]:
        compiled = compiler(function, dynamic=dynamic, backend=backend)

        def call(inputs: Tensor) -> Tensor:
            sizes.append(len(inputs))
            return compiled(inputs)

        return call

    monkeypatch.setattr(torch, "compile", compile_and_record)
    network = build_network(NetworkConfig(width=4, depth=1), (2, 4, 4), 3)
    plain, fast = (forward_function(network, Acceleration("float32", compiled, True)) for compiled in (False, True))
    inputs = torch.randn(8, 2, 4, 4, generator=generator(0))
    for count in (8, 6, 2, 8):
        grads = []
        for forward in (plain, fast):
            network.zero_grad()
            logits = forward(inputs[:count])
            assert logits.shape == (count, 3)
            logits.square().mean().backward()
            grads.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
        torch.testing.assert_close(grads[0], grads[1])
    assert sizes == [8, 8, 8], "6 rows are padded to 8, 2 rows run uncompiled"


def test_trying_both_modes_picks_one_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    network, recorder = build_network(SMALL, (2, 8, 8), 3), Recorder()
    training = TrainingConfig(epochs=100, batch_size=11)
    trainer = Trainer(network, toy_items(), training, torch.device("cpu"), recorder)
    times = iter([1.0, 2.0, 1.0, 4.0])
    monkeypatch.setattr(
        "attar.models.training.loop._seconds", lambda train, steps, device: (train(steps), next(times))[1]
    )
    assert trainer.faster_mode([0, 1, 2]) == "stacked" and trainer.faster_mode([0, 1, 2]) == "looped"
    assert "trained stacked" in recorder.notes[0] and "trained looped" in recorder.notes[1] and recorder.steps == 0
    assert trainer.faster_mode([0]) == "looped" and len(recorder.notes) == 2


def test_capabilities_are_told_without_error() -> None:
    assert has_bfloat16("mps") is False and isinstance(has_bfloat16("cpu"), bool)
