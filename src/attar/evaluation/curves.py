"""Accuracy on test images while networks train: for looking at, never for choosing an epoch."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from attar.data.image_set import ImageSet
from attar.models.networks.network import NetworkConfig
from attar.models.training.acceleration import Precision
from attar.models.training.snapshots import Snapshot
from attar.models.training.testing import test_networks

MOST_POINTS = 12


def curve_epochs(num_epochs: int) -> tuple[int, ...]:
    """After how many epochs networks are tested: at most 12 evenly spaced numbers, the last of which is always E.

        e_i = ceil(i E / n),   i = 1..n,   n = min(12, E)

    Example:
        >>> curve_epochs(3), curve_epochs(30)
        ((1, 2, 3), (3, 5, 8, 10, 13, 15, 18, 20, 23, 25, 28, 30))
    """
    count = min(MOST_POINTS, num_epochs)
    return tuple(-(-number * num_epochs // count) for number in range(1, count + 1))


class CurveWatch:
    """Tests copies of networks between epochs; their training goes on as if it were not there.

    Args:
        network: their architecture.
        input_shape: (c, h, w) of what they are trained on.
        inputs_of: uint8 [B, C, H, W] on `device` -> network inputs.
        test: the test images.
        precision: see `test_networks`.
        device: where they are tested.
    """

    def __init__(
        self,
        network: NetworkConfig,
        input_shape: tuple[int, int, int],
        inputs_of: Callable[[Tensor], Tensor],
        test: ImageSet,
        precision: Precision,
        device: torch.device,
    ) -> None:
        self._network, self._input_shape, self._inputs_of = network, input_shape, inputs_of
        self._test, self._precision, self._device = test, precision, device
        self._percents: dict[int, list[float]] = {}
        self.seconds = 0.0

    def __call__(self, snapshot: Snapshot) -> None:
        """Test the networks as they are."""
        start = time.perf_counter()
        networks = snapshot.networks(self._network, self._input_shape, self._test.num_classes, self._device)
        results = test_networks(networks, self._inputs_of, self._test, precision=self._precision)
        for seed, result in zip(snapshot.seeds, results, strict=True):
            self._percents.setdefault(seed, []).append(100 * result.accuracy)
        self.seconds += time.perf_counter() - start

    def percents(self, seed: int) -> list[float]:
        """Of one network, in the order of its epochs."""
        return self._percents.get(seed, [])
