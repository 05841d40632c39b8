"""The images of a set inside the page: how many there is room for, and as what they are written."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from attar.base.errors import InputError
from attar.base.shapes import Float, UInt8
from attar.data.image_set import ImageSet
from attar.report.interpolation import images_between, item_name
from attar.sets.distilled import DistilledSet

SMALL_SIDE = 96  # images up to it are PNG, pixel by pixel; larger ones JPEG
LARGEST_SIDE, SMALLEST_SIDE = 256, 64  # of a JPEG
SMALL_PIXELS, LARGE_PIXELS = 2_000_000, 12_000_000  # of all images of a page: about 8 MB of it at the most
MOST_PER_CLASS = 12
MOST_CLASSES = 1000
QUALITY = 85
NUM_SAMPLES, MOST_PRIORS, MOST_SAMPLED_CLASSES = 6, 2, 20
STEPS, MOST_PAIRS = 8, 6
NUM_REGIONS, TOLD_CLASSES = 12, 3
MOST_REGION_VALUES = 2**28


@dataclass(frozen=True)
class Room:
    """How much of a set is shown.

    Args:
        num_classes: the first so many.
        per_class: at most so many images of each.
        side: longest side as written, in pixels.
        num_images: of that side there is room for so many in each part.
    """

    num_classes: int
    per_class: int
    side: int
    num_images: int

    @classmethod
    def of(cls, image_shape: tuple[int, int, int], num_classes: int, shares: int) -> Room:
        """Return the room of one of `shares` equal parts of a page."""
        longest = max(image_shape[1:])
        small = longest <= SMALL_SIDE
        pixels = (SMALL_PIXELS if small else LARGE_PIXELS) // shares
        classes = min(num_classes, MOST_CLASSES)
        side = longest if small else max(SMALLEST_SIDE, min(longest, LARGEST_SIDE, math.isqrt(pixels // classes)))
        images = max(1, pixels // side**2)
        return cls(min(classes, images), max(1, min(MOST_PER_CLASS, images // classes)), side, images)


@dataclass(frozen=True)
class Canvas:
    """One stored image: its shard, its place in it, and the class of each of its tiles."""

    shard: int
    place: int
    labels: tuple[int, ...]


@dataclass(frozen=True)
class Strip:
    """Pictures beside one another, as sources and captions, and classes of the box around them."""

    pictures: list[tuple[str, str]]
    style: str = "strip"


@dataclass(frozen=True)
class Block:
    """Strips of one class or item, below its name."""

    name: str
    strips: list[Strip]


@dataclass(frozen=True)
class Sheet:
    """Blocks, and a note on what they are; without blocks the note says why there are none."""

    blocks: list[Block]
    note: str
    width: str = "wide"


@dataclass(frozen=True)
class Region:
    """A region of a stored image, as source and caption, and its likeliest classes."""

    picture: tuple[str, str]
    lines: list[str]


def contact_sheet(distilled: DistilledSet, real: ImageSet | None, room: Room) -> Sheet:
    """Return every class with its stored images, and real ones below.

    Items that share a stored image, as the tiles of a mosaic do, are seen in it. Of distributions it is the mean.
    """
    groups = _by_class(distilled)
    caption_of = _Captions(distilled)
    widest = max(min(len(group), room.per_class) for group in groups[: room.num_classes])
    blocks = []
    for label in range(room.num_classes):
        canvases = groups[label][: room.per_class]
        captions = [caption_of(canvas, place) for place, canvas in enumerate(canvases)]
        strips = [_strip(_canvas_images(distilled, canvases), room, captions)]
        if real is not None:
            members = real.class_indices[label][:widest]
            captions = [f"{distilled.classes[label]}: a real image"] * len(members)
            strips.append(_strip(real.images[members], room, captions, "strip real"))
        blocks.append(Block(distilled.classes[label], strips))
    note = _what_is_drawn(distilled, groups, room)
    if real is not None:
        note += " Below them, framed in dashes, are real images of the same class."
    # The fewer images a class has, the more classes stand beside one another.
    width = "narrow" if widest <= 2 else "medium" if widest <= 5 else "wide"
    return Sheet(blocks, f"{note} A click makes an image large.", width)


def samples(distilled: DistilledSet, room: Room) -> Sheet:
    """Return the mean and samples of epochs 0, 1, ... of the first distributions of each class."""
    labels = distilled.labels.cpu()
    rows = max(1, room.num_images // (1 + NUM_SAMPLES))
    num_classes = min(distilled.num_classes, MOST_SAMPLED_CLASSES, rows)
    num_priors = min(MOST_PRIORS, rows // num_classes)
    items = torch.cat([(labels == label).nonzero()[:num_priors, 0] for label in range(num_classes)])
    columns = [distilled.images(items, epoch) for epoch in (None, *range(NUM_SAMPLES))]
    blocks = []
    for row, item in enumerate(items.tolist()):
        title = item_name(distilled, item)
        captions = [f"{title}: mean", *(f"{title}: sample of epoch {epoch}" for epoch in range(NUM_SAMPLES))]
        images = torch.stack([column[row] for column in columns])
        blocks.append(Block(title, [_strip(images, room, captions, "strip first")]))
    part = (
        ""
        if num_classes == distilled.num_classes
        else f" of the first {num_classes} of {distilled.num_classes} classes"
    )
    note = (
        f"Each row is one distribution: its mean, framed, and {NUM_SAMPLES} samples. "
        f"Shown {'are' if num_priors > 1 else 'is'} at most {num_priors} of each class{part}."
    )
    return Sheet(blocks, note)


def between_classes(distilled: DistilledSet, room: Room) -> Sheet:
    """Return what lies between the first items of classes 0 and 1, 2 and 3, ..."""
    classes = distilled.classes
    pairs = list(zip(classes[0::2], classes[1::2], strict=False))
    blocks = []
    try:
        for first, last in pairs[: max(1, min(MOST_PAIRS, room.num_images // STEPS))]:
            _, images = images_between(distilled, [first, last], STEPS, "linear")
            captions = [f"{first} to {last}: {100 * place / (STEPS - 1):.0f} %" for place in range(STEPS)]
            blocks.append(Block(f"{first} to {last}", [_strip(images[0], room, captions)]))
    except InputError as error:
        return Sheet([], f"Nothing is drawn between classes: {error}.")
    return Sheet(
        blocks,
        f"The code of one class's first distribution goes in {STEPS} equal steps to that of another, and each step is "
        "decoded as any code is: the means are at the ends.",
    )


def labelled_regions(distilled: DistilledSet, room: Room) -> tuple[list[Region], str]:
    """Return some regions of the first epoch with their likeliest classes, and a note; or only the note."""
    if any(shard.regions and shard.regions.online for shard in distilled.manifest.shards):
        return [], "The labels are not stored: whoever trains asks the observer, so that none are drawn here."
    if distilled.num_training_items * math.prod(distilled.image_shape) > MOST_REGION_VALUES:
        return [], "The set is too large for drawing the regions of an epoch here."
    images, probabilities = next(distilled.loader(min(NUM_REGIONS, room.num_images), epoch=0, seed=0))
    regions = []
    for source, label in zip(_sources(images, room.side), probabilities, strict=True):
        lines = most_likely(label, distilled.classes)
        regions.append(Region((source, f"region: {', '.join(lines)}"), lines))
    note = (
        f"{len(regions)} regions of stored images as a network sees them in the first epoch of training, each with the "
        f"{min(TOLD_CLASSES, distilled.num_classes)} classes to which its stored label gives most."
    )
    return regions, note


def _by_class(distilled: DistilledSet) -> list[list[Canvas]]:
    """Return the stored images of each class; one with tiles of several classes counts for its first."""
    groups: list[list[Canvas]] = [[] for _ in range(distilled.num_classes)]
    for shard, part in enumerate(distilled.parameterizations()):
        tiles = part.labels.cpu().reshape(part.num_canvases, -1).tolist()
        for place, labels in enumerate(tiles):
            groups[labels[0]].append(Canvas(shard, place, tuple(labels)))
    return groups


def _canvas_images(distilled: DistilledSet, canvases: Sequence[Canvas]) -> Tensor:
    images = torch.empty(len(canvases), *distilled.image_shape)
    for shard, part in enumerate(distilled.parameterizations()):
        rows = [row for row, canvas in enumerate(canvases) if canvas.shard == shard]
        if rows:
            places = torch.tensor([canvases[row].place for row in rows], device=part.labels.device)
            with torch.no_grad():
                images[rows] = part.canvases(places, None).float().cpu()
    return images


class _Captions:
    """What stands below a stored image: its class, what it began as, and its soft label, where the file has them."""

    def __init__(self, distilled: DistilledSet) -> None:
        initialization, shards = distilled.manifest.initialization, distilled.manifest.shards
        self._classes, self._soft = distilled.classes, distilled.soft_labels
        self._first = [sum(shard.num_items for shard in shards[:place]) for place in range(len(shards))]
        traceable = len(shards) == 1 and len(initialization.indices) == len(distilled)
        self._indices, self._kind = initialization.indices if traceable else (), initialization.kind

    def __call__(self, canvas: Canvas, place: int) -> str:
        classes = ", ".join(dict.fromkeys(self._classes[label] for label in canvas.labels))
        if len(canvas.labels) > 1:
            return f"{classes}: stored image {place + 1} of {len(canvas.labels)} tiles"
        parts = [f"{classes}: stored image {place + 1}"]
        if self._indices:
            parts.append(f"began as training image {self._indices[canvas.place]:,} ({self._kind})")
        if self._soft is not None:
            label = self._soft[self._first[canvas.shard] + canvas.place]
            parts.append(f"label {', '.join(most_likely(label, self._classes))}")
        return "; ".join(parts)


def most_likely(probabilities: Tensor, classes: Sequence[str]) -> list[str]:
    """Return the few classes that a label gives most to, and how much.

    Example:
        >>> most_likely(torch.tensor([0.25, 0.75]), ["cat", "dog"])
        ['dog: 75 %', 'cat: 25 %']
    """
    best = probabilities.sort(descending=True, stable=True).indices[:TOLD_CLASSES].tolist()
    return [f"{classes[place]}: {100 * float(probabilities[place]):.0f} %" for place in best]


def _what_is_drawn(distilled: DistilledSet, groups: Sequence[Sequence[Canvas]], room: Room) -> str:
    most, num_canvases = max(len(group) for group in groups), sum(len(group) for group in groups)
    counted = "image" if num_canvases == len(distilled) else "image of several tiles"
    if distilled.stochastic:
        counted = "mean of a distribution"
    sentences = [f"Each is the {counted} that the file stores, decoded; values beyond black and white are cut."]
    if most > room.per_class:
        sentences.append(f"Shown are the first {room.per_class} of at most {most} of each class.")
    if room.num_classes < distilled.num_classes:
        sentences.append(f"Shown are the first {room.num_classes} of {distilled.num_classes} classes.")
    if max(distilled.image_shape[1:]) > room.side:
        sentences.append(f"Images of {max(distilled.image_shape[1:])} pixels are reduced to {room.side}.")
    return " ".join(sentences)


def _sources(images: Float[Tensor, "items C H W"] | UInt8[Tensor, "items C H W"], side: int) -> list[str]:
    """Return each image as a data URI."""
    if images.dtype != torch.uint8:
        images = (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    arrays = images.cpu().permute(0, 2, 3, 1).contiguous().numpy()
    return [_uri(Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array), side) for array in arrays]


def _uri(picture: Image.Image, side: int) -> str:
    longest = max(picture.size)
    if longest > side:
        size = (max(1, picture.width * side // longest), max(1, picture.height * side // longest))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    kind = "PNG" if longest <= SMALL_SIDE else "JPEG"
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **({"optimize": True} if kind == "PNG" else {"quality": QUALITY}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _strip(images: Tensor, room: Room, captions: Sequence[str], style: str = "strip") -> Strip:
    return Strip(list(zip(_sources(images, room.side), captions, strict=True)), style)
