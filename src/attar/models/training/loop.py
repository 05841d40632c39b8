"""The one loop that trains networks: evaluation, baselines and experts all come through here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from attar.base.config import Config
from attar.base.errors import InputError, NonFiniteLossError
from attar.base.progress import Progress, Silent
from attar.base.randomness import generator
from attar.data.augmentation import Augmentation
from attar.models.networks.network import Network, NetworkConfig, initialise_parameters
from attar.models.networks.registry import build_network
from attar.models.training.acceleration import Acceleration, forward_flops, forward_function, resolve_acceleration
from attar.models.training.items import (
    Batch,
    TrainingItems,
    at_precision,
    check_items,
    gives_logits,
    item_losses,
    training_batches,
)
from attar.models.training.settings import (
    Plan,
    TrainingConfig,
    flatten_gradients,
    learning_rate_at,
    make_optimizer,
    num_decays,
)
from attar.models.training.snapshots import Snapshot
from attar.models.training.stacked import StackedNetworks, is_stackable

Mode: TypeAlias = Literal["auto", "stacked", "looped"]

Callback: TypeAlias = Callable[[Snapshot], None]
"""Receives, between epochs, a snapshot of each looped network, or of all stacked ones."""

_CHECK_STEPS = {"cpu": 1}
"""Steps between looks at the loss, by device: elsewhere 50, because each look waits for the device."""


def train_networks(
    network_config: NetworkConfig,
    items: TrainingItems,
    num_classes: int,
    training: TrainingConfig,
    seeds: Sequence[int],
    *,
    device: torch.device | str = "cpu",
    mode: Mode = "auto",
    augmentation: Augmentation | None = None,
    callback: Callback | None = None,
    callback_epochs: Collection[int] | None = None,
    start: Snapshot | None = None,
    progress: Progress | None = None,
) -> list[Network]:
    """Networks trained from scratch, one for each seed, in evaluation mode on `device`.

    Initial values, order, augmentation and drawn items of a network depend on its seed alone: it comes out the same
    whether trained alone, after others, or (up to rounding) stacked with others.

    Args:
        network_config: the architecture.
        items: what to train on; float64 inputs train in float64, all others in float32 (see `Precision`).
        num_classes: K.
        training: optimiser, schedule, augmentation.
        seeds: one for each network.
        device: where to train.
        mode: "looped" trains one after another, "stacked" all together (not with batch norm, whose running statistics
            cannot be stacked). "auto" is looped on CPUs, where stacking three ConvNets took 1.4 to 1.6 times as long;
            on CUDA both are tried for a few steps, the faster is taken and noted.
        augmentation: in place of that of `training`, e.g. of codes; drawn for every item where it can be.
        callback: receives the networks between epochs; what it raises ends the training.
        callback_epochs: after how many epochs it is called; None: before the first and after every one.
        start: of the same seeds, from `callback`; training goes on there, on CPUs to the same bits as unbroken.
        progress: told every step's loss.

    Raises:
        InputError: no items or seeds, labels outside 0..K-1, stacking networks with batch norm, or a batch of one item
            whose spread batch norm would need.
        ValueError: a start of other seeds, or of another network or optimiser.
        NonFiniteLossError: a loss became infinite or not a number; the step is named.
    """
    if not len(seeds):
        raise InputError("no seeds were given; give one for each network to train")
    hooks = Hooks(augmentation, callback, callback_epochs, start)
    trainer = trainer_for(network_config, items, num_classes, training, seeds, device, progress, hooks)
    if start is not None and start.seeds != tuple(seeds):
        raise ValueError(f"a snapshot of seeds {start.seeds} cannot start seeds {tuple(seeds)}")
    return trainer.train(seeds, mode)


def trainer_for(
    network_config: NetworkConfig,
    items: TrainingItems,
    num_classes: int,
    training: TrainingConfig,
    seeds: Sequence[int],
    device: torch.device | str,
    progress: Progress | None = None,
    hooks: Hooks | None = None,
) -> Trainer:
    """Checks the items, and makes what `train_networks` trains with."""
    inputs, labels = items.epoch(0, generator(seeds[0], "items", 0))
    check_items(inputs, labels, items.num_items, num_classes, gives_logits(items))
    channels, height, width = inputs.shape[1:]
    network = build_network(network_config, (channels, height, width), num_classes)
    _check_smallest_batch(network, Plan.of(training, items.num_items), training.batch_size, items.num_items)
    network.to(device, torch.float64 if inputs.dtype == torch.float64 else torch.float32)
    return Trainer(network, items, training, torch.device(device), progress or Silent(), hooks or Hooks())


IdentityType = TypeVar("IdentityType", bound="TrainingIdentity")


class TrainingIdentity(Config):
    """Everything that determines the bytes of a trained network; its content key names what is cached.

    The kind of device and the resolved precision are among it: the same seed gives other roundings there, and a
    distilled file must not depend on where a network came from. The versions of attar and torch are not: they change
    roundings alone, and a patch release should not cost days. `data` is the fingerprint of the real images.
    """

    data: str
    num_classes: int = Field(ge=2)
    network: NetworkConfig
    training: TrainingConfig
    compiled: bool
    device: str
    seed: int

    @classmethod
    def of(
        cls: type[IdentityType],
        architecture: Network,
        num_items: int,
        training: TrainingConfig,
        device: torch.device,
        **others: Any,
    ) -> IdentityType:
        """The identity of this training; `others` are the fields that do not follow from the other arguments."""
        acceleration = training_acceleration(architecture, num_items, training, device)
        training = training.model_copy(update={"precision": acceleration.precision})
        return cls(
            num_classes=architecture.num_classes,
            training=training,
            compiled=acceleration.compile,
            device=device.type,
            **others,
        )


def training_acceleration(
    network: Network, num_items: int, training: TrainingConfig, device: torch.device | str
) -> Acceleration:
    """How a network's training is computed on a device; see `resolve_acceleration`."""
    plan = Plan.of(training, num_items)
    passes = 2.0 if training.flat_radius else 1.0
    items_per_step = min(training.batch_size, num_items)
    flops = 3.0 * passes * forward_flops(network, network.input_shape) * items_per_step * plan.num_steps
    precision = "float32" if next(network.parameters()).dtype == torch.float64 else training.precision
    return resolve_acceleration(precision, device, flops)


def _check_smallest_batch(network: Network, plan: Plan, batch_size: int, num_items: int) -> None:
    """Batch norm over maps of 1 x 1 has nothing to average over in a batch of one item."""
    reached = plan.num_steps >= plan.steps_per_epoch
    if is_stackable(network) or min(batch_size, num_items % batch_size or batch_size if reached else batch_size) > 1:
        return
    shell = deepcopy(network).to("meta").train()
    try:
        shell(torch.empty(1, *network.input_shape, device="meta"))
    except ValueError as error:
        raise InputError(
            f"{num_items} items in batches of {batch_size} leave a batch of one, of which batch norm cannot take a "
            "spread; take another batch size, or a network with norm 'instance'"
        ) from error


@dataclass(frozen=True)
class Hooks:
    """What a caller adds to the loop; see `train_networks`."""

    augmentation: Augmentation | None = None
    callback: Callback | None = None
    callback_epochs: Collection[int] | None = None
    start: Snapshot | None = None


class Trainer:
    """One module that is initialised anew for every seed, so that compiled code is reused."""

    def __init__(
        self,
        network: Network,
        items: TrainingItems,
        training: TrainingConfig,
        device: torch.device,
        progress: Progress,
        hooks: Hooks = Hooks(),
    ) -> None:
        self.network, self.training, self.device, self.progress = network, training, device, progress
        self.hooks = hooks
        self.plan = Plan.of(training, items.num_items)
        self.acceleration = training_acceleration(network, items.num_items, training, device)
        self.items = at_precision(items, self.acceleration.precision)
        self.forward = forward_function(network, self.acceleration, progress)
        if self.acceleration.remark:
            progress.note(self.acceleration.remark)

    def train(self, seeds: Sequence[int], mode: Mode) -> list[Network]:
        """A trained network for each seed."""
        if mode == "stacked" and not is_stackable(self.network):
            raise InputError("networks with batch norm cannot be stacked; take mode 'looped' or norm 'instance'")
        if mode == "auto":
            mode = self.faster_mode(seeds) if self.device.type == "cuda" else "looped"
        count = len(seeds)
        self.progress.start(f"training {count} network{'s' * (count > 1)}", self.plan.num_steps * count)
        try:
            return self.stacked(seeds) if mode == "stacked" else [self.alone(seed) for seed in seeds]
        finally:
            self.progress.finish()

    def alone(self, seed: int, num_steps: int | None = None) -> Network:
        """A trained copy for one seed; `num_steps` stops earlier, for a trial."""
        initialise_parameters(self.network, generator(seed, "network"))
        self.network.train()
        self._optimise(list(self.network.parameters()), [seed], self._loss, num_steps)
        self.network.zero_grad(set_to_none=True)
        return deepcopy(self.network).eval()

    def stacked(self, seeds: Sequence[int], num_steps: int | None = None) -> list[Network]:
        """Trained copies for all seeds, stepped together."""
        copies = []
        for seed in seeds:
            initialise_parameters(self.network, generator(seed, "network"))
            copies.append(deepcopy(self.network))
        stack = StackedNetworks(copies, self.acceleration)
        self._optimise(stack.parameters(), seeds, stack.losses, num_steps)
        return [network.eval() for network in stack.networks()]

    def faster_mode(self, seeds: Sequence[int], trial_steps: int = 5) -> Literal["stacked", "looped"]:
        """The mode that takes less time for a few steps after warming up; notes what it found."""
        if len(seeds) == 1 or self.plan.num_steps < 20 * trial_steps or not is_stackable(self.network):
            return "looped"
        looped = len(seeds) * _seconds(lambda steps: self.alone(seeds[0], steps), trial_steps, self.device)
        try:
            stacked = _seconds(lambda steps: self.stacked(seeds, steps), trial_steps, self.device)
        except torch.OutOfMemoryError:
            stacked = math.inf
        faster: Literal["stacked", "looped"] = "stacked" if stacked < looped else "looped"
        self.progress.note(
            f"{len(seeds)} networks are trained {faster}: a step of all took {1000 * looped / trial_steps:.1f} ms "
            f"looped, {1000 * stacked / trial_steps:.1f} ms stacked"
        )
        return faster

    def _loss(self, batches: list[Batch]) -> Tensor:
        return item_losses(self.forward(batches[0].inputs), batches[0]).mean()

    def _optimise(
        self,
        parameters: list[Tensor],
        seeds: Sequence[int],
        loss_of: Callable[[list[Batch]], Tensor],
        num_steps: int | None,
    ) -> None:
        """Runs the plan, or a trial of `num_steps`. The gradient of the losses' sum is each network's own."""
        trial = num_steps is not None
        optimizer = make_optimizer(parameters, self.training)
        monitor = _LossMonitor(seeds, self.device, Silent() if trial else self.progress)

        def report(epoch: int) -> None:
            hooks = self.hooks
            if hooks.callback and (hooks.callback_epochs is None or epoch in hooks.callback_epochs):
                losses = monitor.means() if epoch else None
                buffers = list(self.network.buffers())
                hooks.callback(Snapshot.take(seeds, epoch, parameters, optimizer, losses, buffers))

        first_epoch, start, augmentation = 0, self.hooks.start, self.hooks.augmentation
        if start is not None and not trial:
            snapshot = start if len(seeds) == len(start.seeds) else start.row(start.seeds.index(seeds[0]))
            snapshot.restore(parameters, optimizer, list(self.network.buffers()))
            first_epoch = start.epoch
            monitor.skip(min(first_epoch * self.plan.steps_per_epoch, self.plan.num_steps))
        elif not trial:
            report(0)
        streams = [
            training_batches(self.items, self.training, self.plan, seed, self.device, augmentation, first_epoch)
            for seed in seeds
        ]
        for step, batches in enumerate(zip(*streams, strict=True), first_epoch * self.plan.steps_per_epoch):
            if step == num_steps:
                break
            _schedule(optimizer, self.training, self.plan, step)
            batch_losses = partial(loss_of, list(batches))
            losses = batch_losses()
            optimizer.zero_grad(set_to_none=True)
            losses.sum().backward()
            monitor.record(losses.detach())
            if self.training.flat_radius:
                flatten_gradients(parameters, self.training.flat_radius, batch_losses, len(seeds))
            optimizer.step()
            if not trial and self.plan.ends_epoch(step):
                report(step // self.plan.steps_per_epoch + 1)
        monitor.flush()


class _LossMonitor:
    """Looks at the losses every few steps: reports their mean and refuses what is not finite."""

    def __init__(self, seeds: Sequence[int], device: torch.device, progress: Progress) -> None:
        self._seeds, self._progress = seeds, progress
        self._interval = _CHECK_STEPS.get(device.type, 50)
        self._losses: list[Tensor] = []
        self._num_steps = 0
        self._sum, self._num_summed = torch.zeros(len(seeds)), 0

    def skip(self, num_steps: int) -> None:
        """Counts steps of each network that were done before."""
        self._num_steps = num_steps
        self._progress.advance(num_steps * len(self._seeds))

    def means(self) -> Tensor:
        """[networks], the mean losses since the last call. Waits for the device."""
        self.flush()
        means = self._sum / self._num_summed
        self._sum, self._num_summed = torch.zeros_like(means), 0
        return means

    def record(self, losses: Tensor) -> None:
        """Takes the losses of one step, [] or [networks]."""
        self._losses.append(losses.reshape(-1))
        if len(self._losses) >= self._interval:
            self.flush()

    def flush(self) -> None:
        """Checks and reports the losses so far. Waits for the device."""
        if not self._losses:
            return
        losses = torch.stack(self._losses).cpu()
        bad = (~losses.isfinite()).nonzero()
        if len(bad):
            step, network = bad[0].tolist()
            raise NonFiniteLossError(
                f"the loss of seed {self._seeds[network]} is {losses[step, network].item()} at step "
                f"{self._num_steps + step + 1}; lower the learning rate, or take precision float32"
            )
        self._progress.advance(losses.numel(), loss=losses[-1].mean().item())
        self._num_steps += len(self._losses)
        self._sum, self._num_summed = self._sum + losses.float().sum(0), self._num_summed + len(losses)
        self._losses = []


def _schedule(optimizer: torch.optim.Optimizer, training: TrainingConfig, plan: Plan, step: int) -> None:
    """Gives the optimiser the rate of a step, and forgets its state where a milestone resets it."""
    decays_now = step > 0 and num_decays(training, plan, step) > num_decays(training, plan, step - 1)
    if decays_now and training.reset_momentum:
        optimizer.state.clear()
    for group in optimizer.param_groups:
        group["lr"] = learning_rate_at(training, plan, step)


def _seconds(train: Callable[[int], object], num_steps: int, device: torch.device) -> float:
    train(2)
    _wait(device)
    start = time.perf_counter()
    train(num_steps)
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
