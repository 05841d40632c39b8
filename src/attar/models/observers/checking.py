"""Whether an observer knows the data it is to observe, and if not, why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from attar.base.errors import InputError
from attar.base.shapes import Int64
from attar.data.image_set import ImageSet
from attar.models.codecs.codec import Codec
from attar.models.observers.config import NORMALISATIONS, pixels_normalised
from attar.models.observers.observer import Observer

CHECKED_IMAGES = 2560
_BATCH = 256
_NAMED_CLASSES = 8
_CLEARLY = 10.0
"""Percentage points by which two faults must explain more than one does."""


def check_observer(observer: Observer, images: ImageSet, least_accuracy: float) -> float:
    """Percent of at most 2,560 training images, class by class, that an observer has right.

    Raises:
        InputError: other classes or image sizes than the observer's, or less than `least_accuracy` percent right: the
            figure, and whether another order of the classes or another normalisation explains it.
    """
    _check_shapes(observer, images)
    sample = images.select(balanced_sample(images, CHECKED_IMAGES))
    accuracy = _trial(observer, observer.preprocess, sample).accuracy
    if accuracy >= least_accuracy:
        return accuracy
    raise InputError(
        f"the observer has {accuracy:.1f} % of {len(sample)} training images right, and {least_accuracy:g} % are "
        "needed: " + _diagnosis(observer, sample, least_accuracy)
    )


def balanced_sample(images: ImageSet, most: int) -> Int64[Tensor, " items"]:
    """Indices of at most `most` images, class-major: about as many of every class, from its first to its last."""
    classes = [indices for indices in images.class_indices if len(indices)][:most]
    count = max(1, most // len(classes))
    places = [torch.linspace(0, len(indices) - 1, min(count, len(indices))).round().long() for indices in classes]
    return torch.cat([indices[chosen] for indices, chosen in zip(classes, places, strict=True)])


def better_normalisation(observer: Observer, images: ImageSet) -> str | None:
    """One line where another normalisation than the observer's gives clearly more training images right; else None.

    Given weights may pass the check under a wrong normalisation, and then be a worse observer than they could be.
    """
    sample = images.select(balanced_sample(images, CHECKED_IMAGES))
    accuracy = _trial(observer, observer.preprocess, sample).accuracy
    name, best = _best_normalisation(observer, sample, "accuracy")
    if best.accuracy < accuracy + _CLEARLY:
        return None
    return (
        f"the observer has {accuracy:.1f} % of {len(sample)} training images right, and {best.accuracy:.1f} % under "
        f"normalisation={name}, which it seems to expect"
    )


@dataclass(frozen=True)
class _Trial:
    """How an observer does on images under one preprocessing, in percent.

    Args:
        accuracy: as the classes stand.
        reordered: after the best one-to-one renaming of its outputs, found on one half of the images and tried on the
            other, both ways: chance alone cannot fit it.
        order: for every output the class that it stands for, after the best renaming by all images.
    """

    accuracy: float
    reordered: float
    order: list[int]


@torch.no_grad()
def _trial(observer: Observer, preprocess: Codec, sample: ImageSet) -> _Trial:
    weights = next(observer.network.parameters())
    predicted = []
    for chosen in torch.arange(len(sample)).split(_BATCH):
        images = sample.images[chosen].to(weights.device, weights.dtype) / 255
        predicted.append(observer.network(preprocess.encode(images)).argmax(1).cpu())
    outputs, labels, count = torch.cat(predicted), sample.labels, sample.num_classes
    right = 0
    for half in (0, 1):
        order = _best_order(outputs[half::2], labels[half::2], count)
        right += int((order[outputs[1 - half :: 2]] == labels[1 - half :: 2]).sum())
    accuracy = 100 * (outputs == labels).double().mean().item()
    return _Trial(accuracy, 100 * right / len(labels), _best_order(outputs, labels, count).tolist())


def _best_order(outputs: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """int64 [K], the class of each output under the one-to-one renaming that has most images right."""
    from scipy.optimize import linear_sum_assignment

    counts = torch.bincount(outputs * num_classes + labels, minlength=num_classes**2).view(num_classes, num_classes)
    _, classes = linear_sum_assignment(counts.numpy(), maximize=True)
    return torch.from_numpy(classes).long()


def _diagnosis(observer: Observer, sample: ImageSet, least_accuracy: float) -> str:
    """The simplest explanation that is about as good as the best, or the statement that there is none."""
    explanations = list(_explanations(observer, sample))
    best = max(figure for figure, _ in explanations)
    # What an untrained network reaches by a lucky renaming falls with the number of classes: a few outputs' worth.
    if best < max(least_accuracy, min(90.0, 500 / sample.num_classes)):
        return (
            f"no other order of its outputs and no other normalisation makes it good ({best:.1f} % at best), so it is "
            "untrained, weak or of other data; train it longer (training.epochs), give other weights, or lower "
            "least_accuracy"
        )
    return next(text for figure, text in explanations if figure >= best - _CLEARLY)


def _explanations(observer: Observer, sample: ImageSet) -> Iterator[tuple[float, str]]:
    """Explanations with the percentage right under each: another normalisation, another order, or both."""
    name, best = _best_normalisation(observer, sample, "accuracy")
    yield (
        best.accuracy,
        f"it expects images normalised otherwise, and under {name!r} has {best.accuracy:.1f} % right; "
        f"take normalisation={name}",
    )
    trial = _trial(observer, observer.preprocess, sample)
    yield trial.reordered, _order_text(trial, sample.classes)
    name, best = _best_normalisation(observer, sample, "reordered")
    yield best.reordered, f"it expects normalisation={name}, and {_order_text(best, sample.classes)}"


def _best_normalisation(
    observer: Observer, sample: ImageSet, figure: Literal["accuracy", "reordered"]
) -> tuple[str, _Trial]:
    weights = next(observer.network.parameters())
    names = [name for name in NORMALISATIONS if name != "imagenet" or sample.image_shape[0] == 3]
    codecs = {name: pixels_normalised(name, sample).to(weights.device, weights.dtype) for name in names}
    trials = [(name, _trial(observer, codec, sample)) for name, codec in codecs.items()]
    return max(trials, key=lambda pair: float(getattr(pair[1], figure)))


def _order_text(trial: _Trial, classes: tuple[str, ...]) -> str:
    names = ", ".join(classes[index] for index in trial.order[:_NAMED_CLASSES])
    more = ", ..." if len(classes) > _NAMED_CLASSES else ""
    return (
        f"its outputs stand for the classes in another order, in which it has {trial.reordered:.1f} % right: "
        f"{names}{more}; load the data with the classes in that order (--classes), or reorder its last layer"
    )


def _check_shapes(observer: Observer, images: ImageSet) -> None:
    if observer.network.num_classes != images.num_classes:
        raise InputError(
            f"the observer tells {observer.network.num_classes} classes apart and the data has {images.num_classes}; "
            "take an observer of these classes"
        )
    if observer.preprocess.image_shape != images.image_shape:
        raise InputError(
            f"the observer looks at images of {observer.preprocess.image_shape} and the data's are "
            f"{images.image_shape}; take --image-size and --channels as it needs them"
        )
    if not len(images):
        raise InputError("there are no images to check the observer on; give at least one")
