"""What tables of published settings share: data sets, names of recipes, and figures to hold a recipe against."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from attar.methods.recipes.recipe import Expected, Recipe
from attar.models.networks.network import NetworkConfig

#: Accuracies in percent; None where the authors give none.
Accuracies = Sequence[float | None]
Builder = TypeVar("Builder", bound=Callable[..., Recipe])


class Benchmark(NamedTuple):
    """A data set that published settings are for, and the depth of the ConvNet that the field uses on it."""

    title: str
    num_classes: int
    image_size: int | None
    depth: int | None

    @property
    def network(self) -> NetworkConfig:
        """The field's ConvNet."""
        return NetworkConfig(depth=self.depth)

    def settings(self, budget: str, accuracy: float | None, source: str) -> dict[str, Any]:
        """The fields of a Recipe that say what it is for and what its authors report."""
        return {
            "evaluation_network": self.network,
            "image_size": self.image_size,
            "budget": budget,
            "expected": expected(source, {(self.title, budget): accuracy}),
        }


ANY_IMAGES = Benchmark("any images", num_classes=256, image_size=None, depth=None)
"""Images of any size in up to 256 classes, with a ConvNet as deep as their size asks for."""

_SUBSETS_OF_IMAGENET = {
    "nette": "ImageNette",
    "woof": "ImageWoof",
    "fruit": "ImageFruit",
    "cat": "ImageMeow",
    "bird": "ImageSquawk",
    "yellow": "ImageYellow",
    **{f"imagenet-{letter.lower()}": f"ImageNet-{letter}" for letter in "ABCDE"},
}

BENCHMARKS = {
    "cifar10": Benchmark("CIFAR-10", num_classes=10, image_size=32, depth=3),
    "cifar100": Benchmark("CIFAR-100", num_classes=100, image_size=32, depth=3),
    "tiny": Benchmark("Tiny-ImageNet", num_classes=200, image_size=64, depth=4),
    "imagenet1k": Benchmark("ImageNet-1K 64 px", num_classes=1000, image_size=64, depth=4),
    **{
        f"{name}-128": Benchmark(f"{title} 128 px", num_classes=10, image_size=128, depth=5)
        for name, title in _SUBSETS_OF_IMAGENET.items()
    },
}


IPC = (1, 10, 50)
IPC_COLUMNS = [f"{ipc} IPC" for ipc in IPC]


def by_ipc(method: str, accuracies: Mapping[str, Accuracies]) -> dict[str, float | None]:
    """Accuracies of recipes "METHOD-DATA-ipcN", from a table with a row for each data set and a column for each IPC."""
    return {
        f"{method}-{data}-ipc{ipc}": accuracy
        for data, row in accuracies.items()
        for ipc, accuracy in zip(IPC, row, strict=False)
    }


def data_and_ipc(name: str) -> tuple[str, int]:
    """The data set and the images per class in the name of a recipe of `by_ipc`."""
    data, _, ipc = name.partition("-")[2].rpartition("-ipc")
    return data, int(ipc)


def with_figures(
    columns: Sequence[str], rows: Mapping[str, Sequence[float | Accuracies | None]]
) -> Callable[[Builder], Builder]:
    """A decorator that adds a table of published accuracies, in percent, to the docstring of a recipe's function."""

    def cell(accuracies: float | Accuracies | None) -> str:
        if isinstance(accuracies, Sequence):
            return " / ".join(map(cell, accuracies))
        return "-" if accuracies is None else str(accuracies)

    lines = [["Accuracy", *columns], ["---"] * (1 + len(columns))]
    lines += [[name, *map(cell, row), *["-"] * (len(columns) - len(row))] for name, row in rows.items()]
    table = "".join(f"\n    | {' | '.join(line)} |" for line in lines)

    def decorate(build: Builder) -> Builder:
        build.__doc__ = f"{(build.__doc__ or '').rstrip()}\n{table}\n    "
        return build

    return decorate


def expected(source: str, figures: Mapping[tuple[str, str], float | None]) -> tuple[Expected, ...]:
    """Published figures by data set and budget, without those that the authors do not give."""
    return tuple(
        Expected(data=data, budget=budget, accuracy=accuracy, source=source)
        for (data, budget), accuracy in figures.items()
        if accuracy is not None
    )
