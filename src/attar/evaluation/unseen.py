"""Accuracy on architectures that a set was not distilled with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from attar.evaluation.rows import ONE_SEED, Row
from attar.evaluation.statistics import mean_and_std, spread_text
from attar.models.networks.network import NetworkConfig

SOURCES = ("objective", "observer")


def networks_of(recipe: Mapping[str, Any]) -> tuple[NetworkConfig, ...]:
    """The networks that a resolved recipe distils with: its objective's and its observer's, each once.

    Example:
        >>> networks_of({"objective": {"kind": "features", "network": {"kind": "convnet", "width": 64}}})[0].name
        'convnet:w64'
    """
    return tuple(dict.fromkeys(network for source in SOURCES for network in _networks(recipe.get(source))))


@dataclass(frozen=True)
class UnseenMean:
    """The mean accuracy of one row over unseen networks, seed by seed.

        a_s = 1/N sum over networks of accuracy(network, seed s);   mean and std over seeds

    Source: LD3M Table 1, the mean over AlexNet, ResNet18, VGG11 and ViT.
    """

    name: str
    networks: tuple[NetworkConfig, ...]
    accuracies: tuple[float, ...]

    @property
    def text(self) -> str:
        """E.g. "41.2 ± 0.8"."""
        return spread_text(*mean_and_std(self.accuracies), ONE_SEED)


def unseen_means(rows: Sequence[Row], distilled_with: Sequence[NetworkConfig]) -> list[UnseenMean]:
    """The means of every row that was measured on all unseen networks, in the rows' order.

    Unseen is a network of another family (`kind`) than any that the set was distilled with; none is where that is not
    known.
    Deviation: papers call every network but the one they distil with unseen. Here a ConvNet of another width, depth or
        norm counts as seen.
    """
    families = {network.kind for network in distilled_with}
    networks = tuple(dict.fromkeys(row.network for row in rows if families and row.network.kind not in families))
    means = []
    for name in dict.fromkeys(row.name for row in rows):
        measured = [row for row in rows if row.name == name and row.network in networks and row.absent is None]
        if measured and len(measured) == len(networks):
            columns = zip(*(row.accuracies for row in measured), strict=True)
            means.append(UnseenMean(name, networks, tuple(mean_and_std(column)[0] for column in columns)))
    return means


def _networks(tree: Any) -> Iterator[NetworkConfig]:
    """Every valid network that stands under a key "network", however deep."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            if key == "network" and isinstance(value, Mapping):
                with suppress(ValueError):  # pydantic's errors are ValueErrors
                    yield NetworkConfig.model_validate(dict(value))
            else:
                yield from _networks(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _networks(value)
