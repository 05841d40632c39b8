"""Accuracy of trained networks on real test images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attar.base.errors import InputError
from attar.base.progress import Progress, Silent
from attar.base.shapes import Float, Int64
from attar.data.image_set import ImageSet
from attar.models.networks.network import Network
from attar.models.training.acceleration import Precision, forward_flops, forward_function, resolve_acceleration


@dataclass(frozen=True)
class TestResult:
    """How a network classified the test images.

    Args:
        accuracy: fraction of images whose largest logit is their class's.
        confusion: int64 [K, K], rows the true and columns the predicted classes.
        per_class: [K], each class's own accuracy; NaN for a class without images.
    """

    __test__ = False  # not a test case, whatever pytest makes of the name

    accuracy: float
    confusion: Int64[Tensor, "classes classes"]
    per_class: Float[Tensor, " classes"]

    @classmethod
    def of(cls, confusion: Int64[Tensor, "classes classes"]) -> TestResult:
        """The result with this confusion matrix."""
        right = confusion.diagonal()
        return cls(int(right.sum()) / int(confusion.sum()), confusion, right.float() / confusion.sum(1))


def test_network(
    network: Network,
    inputs_of: Callable[[Tensor], Tensor],
    images: ImageSet,
    *,
    batch_size: int = 512,
    precision: Precision = "auto",
    progress: Progress | None = None,
) -> TestResult:
    """`test_networks` for a single network."""
    return test_networks([network], inputs_of, images, batch_size=batch_size, precision=precision, progress=progress)[0]


def test_networks(
    networks: Sequence[Network],
    inputs_of: Callable[[Tensor], Tensor],
    images: ImageSet,
    *,
    batch_size: int = 512,
    precision: Precision = "auto",
    progress: Progress | None = None,
) -> list[TestResult]:
    """Tests networks in evaluation mode, without augmentation; every batch is read and prepared once for all of them.

    Args:
        networks: all on one device; they are left in the mode they came in.
        inputs_of: uint8 [B, C, H, W] on that device -> network inputs.
        images: the test images, in memory or memory-mapped.
        batch_size: images at a time.
        precision: see `resolve_acceleration`; "auto" judges by the work of one network.
        progress: told how many images are done.

    Raises:
        InputError: no images, or networks for another number of classes.
    """
    progress, num_classes = progress or Silent(), images.num_classes
    if not len(images) or not networks:
        raise InputError(f"{len(networks)} networks and {len(images)} test images; at least one of each is needed")
    device = next(networks[0].parameters()).device
    modes = [network.training for network in networks]
    forwards = []
    for network in networks:
        if network.num_classes != num_classes:
            raise InputError(
                f"a network for {network.num_classes} classes is tested on {num_classes}; "
                "test it on the classes it was trained for"
            )
        flops = float(forward_flops(network, network.input_shape)) * len(images)
        acceleration = resolve_acceleration(precision, device, flops)
        if acceleration.remark:
            progress.note(acceleration.remark)
        forwards.append(forward_function(network.eval(), acceleration, progress))
    counts = torch.zeros(len(networks), num_classes**2, dtype=torch.int64, device=device)
    progress.start("testing", len(images))
    with torch.no_grad():
        for chosen in torch.arange(len(images)).split(batch_size):
            inputs = inputs_of(images.images[chosen].to(device))
            rows = images.labels[chosen].to(device) * num_classes
            for index, forward in enumerate(forwards):
                counts[index] += torch.bincount(rows + forward(inputs).argmax(1), minlength=num_classes**2)
            progress.advance(len(chosen))
    progress.finish()
    for network, mode in zip(networks, modes, strict=True):
        network.train(mode)
    return [TestResult.of(table.view(num_classes, -1)) for table in counts.cpu()]


test_network.__test__ = test_networks.__test__ = False  # type: ignore[attr-defined]
