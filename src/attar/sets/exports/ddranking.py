"""What DD-Ranking evaluates: network inputs and labels as tensors, class after class, and its settings."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attar.base.errors import InputError, unknown
from attar.models.codecs.pixels import DEFAULT_EPSILON, Pixels, PixelsSpec
from attar.models.networks.network import depth_for
from attar.sets.distilled import DistilledSet
from attar.sets.exports.folders import atomic_folder, refuse_folder
from attar.sets.exports.rendering import ABOUT, SIZE_LOST, Rendered, about, write_json

IMAGES, LABELS, RATE, SETTINGS = "images.pt", "labels.pt", "lr.pt", "config.yaml"
CIFAR_NORMALISATION = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
IMAGENET_NORMALISATION = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Benchmark:
    """A data set as DD-Ranking 0.2.0 loads it.

    Args:
        num_classes: how many.
        side: of its images in pixels; None: whatever `im_size` says.
        normalisation: of its images, mean and standard deviation of each channel.
        may_whiten: whether its images are whitened as they are; elsewhere they are normalised first.
    """

    num_classes: int
    side: int | None
    normalisation: tuple[tuple[float, ...], tuple[float, ...]]
    may_whiten: bool = False


_SUBSETS = ("ImageNette", "ImageWoof", "ImageFruit", "ImageYellow", "ImageMeow", "ImageSquawk")
BENCHMARKS = {
    "CIFAR10": Benchmark(10, 32, CIFAR_NORMALISATION, may_whiten=True),
    "CIFAR100": Benchmark(100, 32, CIFAR_NORMALISATION, may_whiten=True),
    "TinyImageNet": Benchmark(200, 64, IMAGENET_NORMALISATION, may_whiten=True),
    **{name: Benchmark(10, None, IMAGENET_NORMALISATION) for name in _SUBSETS},
    "ImageNet1K": Benchmark(1000, None, IMAGENET_NORMALISATION),
}


def export_ddranking(distilled: DistilledSet, out: Path, overwrite: bool, dataset: str | None) -> None:
    """See `attar.sets.exports.export.export`.

    Raises:
        InputError: what DD-Ranking cannot express: region labels, classes of different sizes, a whitening that is not
            its own, images or classes that its data set does not have; it is named.

    Source: DD-Ranking 0.2.0, utils/data.py (`get_dataset`) for the data sets' normalisations, metrics/ for what
        `compute_metrics` takes.
    """
    if dataset is None:
        raise InputError(f"--to dd-ranking needs --dataset, its name for the data: {', '.join(BENCHMARKS)}")
    if dataset not in BENCHMARKS:
        raise unknown("data set of DD-Ranking", dataset, BENCHMARKS)
    benchmark = BENCHMARKS[dataset]
    _check(distilled, dataset, benchmark)
    refuse_folder(out, overwrite)
    whitened = _whitened(distilled)
    codec = distilled.preprocess if whitened else _normalisation(distilled.image_shape, benchmark)
    rendered = Rendered(distilled)
    images = torch.cat([codec.encode(distilled.images(part)) for part in rendered.order.split(256)])
    soft = rendered.soft_labels
    lost = [SIZE_LOST, "class names are left out: labels count the classes of DD-Ranking's data set"]
    if not whitened:
        lost.append(f"images are normalised as DD-Ranking has {dataset}, whatever the set's own preprocessing is")
    with atomic_folder(out) as temporary:
        _save(images, temporary / IMAGES)
        _save(torch.tensor(rendered.labels) if soft is None else _logits(soft), temporary / LABELS)
        rate = distilled.learned.get("student_rate")
        if rate is not None:
            _save(torch.tensor(rate), temporary / RATE)
        settings = _settings(distilled, dataset, whitened, soft is not None)
        (temporary / SETTINGS).write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in settings.items()))
        write_json(temporary / ABOUT, about(distilled, "dd-ranking", lost))


def _check(distilled: DistilledSet, dataset: str, benchmark: Benchmark) -> None:
    channels, height, width = distilled.image_shape
    if distilled.manifest.labels_kind == "regions":
        raise InputError("DD-Ranking has no stored region labels; export to npz, or distil with hard or soft labels")
    if len(set(distilled.num_per_class)) > 1:
        raise InputError(
            f"DD-Ranking needs as many images of each class and the set has {min(distilled.num_per_class)} to "
            f"{max(distilled.num_per_class)}; export to npz, which may differ"
        )
    if channels != 3 or benchmark.side not in (None, height) or height != width:
        side = benchmark.side or "any side"
        raise InputError(
            f"DD-Ranking's {dataset} has square colour images of {side} pixels and the set's are {channels} x {height} "
            f"x {width}; export to npz"
        )
    if distilled.num_classes != benchmark.num_classes:
        raise InputError(
            f"DD-Ranking's {dataset} has {benchmark.num_classes} classes and the set {distilled.num_classes}; "
            "export to npz"
        )
    if _whitened(distilled) and not (benchmark.may_whiten and _as_published(distilled)):
        raise InputError(
            f"the set is whitened and DD-Ranking whitens {dataset} in another way (ZCA of images in [0, 1], epsilon "
            f"{DEFAULT_EPSILON}, and of CIFAR10, CIFAR100 and TinyImageNet only); export to npz"
        )


def _whitened(distilled: DistilledSet) -> bool:
    return distilled.manifest.preprocess.spec.get("whitening") == "zca"


def _as_published(distilled: DistilledSet) -> bool:
    """Whether inputs are W (image - mean), of images as they are."""
    spec, tensors = distilled.manifest.preprocess.spec, distilled.preprocess.stored_tensors()
    return spec.get("epsilon") == DEFAULT_EPSILON and bool((tensors["std"] == 1).all())


def _normalisation(image_shape: tuple[int, int, int], benchmark: Benchmark) -> Pixels:
    mean, std = (torch.tensor(values) for values in benchmark.normalisation)
    return Pixels(PixelsSpec(image_shape=image_shape), {"mean": mean, "std": std})


def _logits(soft: Tensor) -> Tensor:
    """Whose softmax, at DD-Ranking's temperature 1, are the probabilities."""
    return soft.clamp_min(torch.finfo(torch.float32).tiny).log()


def _save(tensor: Tensor, path: Path) -> None:
    torch.save(tensor.clone(), path)


def _settings(distilled: DistilledSet, dataset: str, whitened: bool, soft: bool) -> dict[str, Any]:
    """Every key that its scores read: DC-BENCH's training, with its DSA."""
    side = distilled.image_shape[1]
    usual = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    of_soft_labels = usual.pop("soft_labels")
    settings: dict[str, Any] = {
        "dataset": dataset,
        "ipc": distilled.num_per_class[0],
        "im_size": [side, side],
        "model_name": f"ConvNet-{depth_for(side)}",
        "use_zca": whitened,
        **usual,
    }
    if soft:
        settings |= of_soft_labels | {"teacher_model_names": [settings["model_name"]]}
    return settings
