"""Inversion: items that an observer is sure of, with the statistics that it saw in its own training (SRe2L)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from attar.base.errors import InputError
from attar.base.randomness import generator as make_generator
from attar.base.shapes import Float, Int64
from attar.data.augmentation import DsaConfig
from attar.methods.objectives.moments import channel_moments
from attar.methods.objectives.objective import Context, MatchingConfig, Objective, Synthetic
from attar.models.real_items import RealItems

LARGEST_ASPECT = 4 / 3
CROP_ATTEMPTS = 10

Share = Annotated[float, Field(gt=0, le=1)]


class InversionConfig(MatchingConfig):
    """Settings of SRe2L's recovery.

    Args:
        r_bn: weight of the statistics against the cross-entropy.
        first_factor: of the first batch norm, against 1 of all others.
        group_size: items whose statistics are taken together, at most; they are spread over the classes. Part of the
            method, whatever memory there is.
        crop: least and largest share of the area of a random crop, enlarged to the full size; None leaves it out.
        flip: probability of a horizontal flip.
        jitter: largest shift, as a fraction of the side; what leaves on one side comes in on the other.
        chunk_items: the most items that go through the observer at once; a group of more costs a second pass forward.

    Attributes:
        augmentation: always None: what is drawn here is drawn for each group, and there is nothing real beside it.
    """

    augmentation: ClassVar[DsaConfig | None] = None
    asks_for: ClassVar[frozenset[str]] = frozenset({"observer"})
    draws_samples: ClassVar[bool] = False

    kind: Literal["inversion"] = "inversion"
    r_bn: float = Field(default=0.01, ge=0)
    first_factor: float = Field(default=10.0, ge=0)
    group_size: int = Field(default=100, ge=1)
    crop: tuple[Share, Share] | None = (0.08, 1.0)
    flip: float = Field(default=0.5, ge=0, le=1)
    jitter: float = Field(default=1 / 7, ge=0, le=1)
    chunk_items: int = Field(default=256, ge=1)

    def build(self, context: Context) -> Inversion:
        return Inversion(self, context)

    def without_flip(self) -> InversionConfig:
        """The same without mirrored images."""
        return self.model_copy(update={"flip": 0.0})

    @model_validator(mode="after")
    def _crop_is_an_interval(self) -> InversionConfig:
        if self.crop is not None and self.crop[0] > self.crop[1]:
            raise ValueError(f"crop runs from {self.crop[0]} to {self.crop[1]}; give the smaller share first")
        return self


@dataclass(frozen=True)
class View:
    """How the images of one group are seen in one step.

    Args:
        box: rows and columns (top, left, bottom, right) that are enlarged to the full size, ends excluded.
        flipped: whether left and right change places.
        shifts: pixels down and to the right, cyclic.
    """

    box: tuple[int, int, int, int]
    flipped: bool
    shifts: tuple[int, int]

    def apply(self, images: Float[Tensor, "items C H W"]) -> Float[Tensor, "items C H W"]:
        """The images as they are seen, differentiable with respect to the images."""
        height, width = images.shape[2:]
        top, left, bottom, right = self.box
        if self.box != (0, 0, height, width):
            images = F.interpolate(images[:, :, top:bottom, left:right], (height, width), mode="bilinear")
        return (images.flip(3) if self.flipped else images).roll(self.shifts, (2, 3))


def draw_view(config: InversionConfig, height: int, width: int, generator: torch.Generator) -> View:
    """A crop, a flip and a shift.

        area ~ U(crop) of the image's, ln(aspect) ~ U(-ln 4/3, ln 4/3), place uniform; shifts ~ U{0..jitter}

    A crop that does not fit is drawn again; after ten attempts it is the whole image.

    Source: the augmentation of SRe2L's recovery, with torchvision's RandomResizedCrop by its defaults.
    Deviation: torchvision's last resort is the largest centred crop of an allowed aspect: the whole image, unless that
        is more oblong than 4:3.
    """
    box = (0, 0, height, width) if config.crop is None else _draw_crop(config.crop, height, width, generator)
    flipped = bool(torch.rand((), generator=generator) < config.flip)
    down, across = (_integer(round(config.jitter * side), generator) for side in (height, width))
    return View(box, flipped, (down, across))


def groups_of(labels: Int64[Tensor, " items"], group_size: int) -> list[Int64[Tensor, " members"]]:
    """Items in as few groups of at most `group_size` as will do, of sizes that differ by at most 1.

    They are dealt out class by class: the first item of every class, then the second of every class, and so on.

    Source: the batches of SRe2L's recovery, which are runs of classes with one image each.
    Deviation: with few classes a group holds several images of each, and sizes are even; the official code leaves a
        smaller batch for the last classes.
    """
    counts = torch.bincount(labels)
    order = torch.argsort(labels, stable=True)
    rank = torch.empty_like(labels)
    rank[order] = torch.arange(len(labels)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    dealt = torch.argsort(rank * len(counts) + labels)
    return list(dealt.tensor_split(math.ceil(len(labels) / group_size)))


@dataclass
class Moments:
    """Mean and variance (over n) of each channel, over items, rows and columns; joined without loss of digits.

    Args:
        count: values of each channel.
        mean: [c].
        deviation: [c], the sum of squared differences from the mean.
    """

    count: int
    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, inputs: Float[Tensor, "items c h w"]) -> Moments:
        """Differentiable with respect to the inputs."""
        count = inputs.numel() // inputs.shape[1]
        mean, variance = channel_moments(inputs)
        return cls(count, mean, variance * count)

    @property
    def variance(self) -> Tensor:
        return self.deviation / self.count

    def joined(self, other: Moments) -> Moments:
        """The moments of both together. Source: Chan, Golub & LeVeque 1979."""
        count, gap = self.count + other.count, other.mean - self.mean
        mean = self.mean + gap * (other.count / count)
        deviation = self.deviation + other.deviation + gap.square() * (self.count * other.count / count)
        return Moments(count, mean, deviation)


class Inversion(Objective):
    """SRe2L's recovery: cross-entropy of the observer, and its batch norms' statistics.

        L = sum_groups CE(phi(g(s)), y) + r_bn sum_l w_l (||mean_l - running mean_l|| + ||var_l - running var_l||)

    over the inputs of every batch norm l, with w_l = `first_factor` for the first and 1 for all others. Means and
    variances are those of one group, so the images of a group depend on each other; groups do not. Each group is seen
    through a crop, a flip and a shift of its own, drawn anew in every step.

    The observer itself normalises by its running statistics, so items of a group meet in the moments alone. Where a
    group has more items than `chunk_items`, a pass without graph finds the moments; then each chunk adds its share of
    their gradient. A group costs a pass forward and one back to its inputs; in chunks, another pass forward.

    Raises:
        InputError: an observer without batch norm.

    Source: Yin, Xing & Shen 2023 (SRe2L), section 3.1, "recover", and the settings of its official code.
    Deviation: total variation and the norm of images are left out; the official commands set their weights to 0.
    """

    config: InversionConfig

    def __init__(self, config: InversionConfig, context: Context) -> None:
        super().__init__(config, context)
        if context.observer is None:
            raise ValueError("inversion needs an observer in its context")
        self.observer, self.images_of = context.observer, context.matched_images
        self.device = torch.device(context.device)
        self._layers = [layer for layer in self.observer.batch_statistics() if layer.running_mean is not None]
        if not self._layers:
            raise InputError(
                "the observer has no batch norm, and its statistics are what this method inverts; take an observer "
                "with norm 'batch', e.g. convnet:batch or resnet18:batch"
            )

    def accumulate(self, synthetic: Synthetic, real: RealItems, generator: torch.Generator) -> dict[str, float]:
        seed = int(torch.randint(2**62, (1,), generator=generator))
        labels = synthetic.labels.cpu()
        _, height, width = self.observer.preprocess.image_shape
        parts = []
        for number, items in enumerate(groups_of(labels, self.config.group_size)):
            view = draw_view(self.config, height, width, make_generator(seed, "group", number))
            parts.append(self._one_group(synthetic, items, view))
        entropies, gaps = torch.stack(parts).double().sum(0).tolist()
        count = len(parts)
        return {"loss": entropies + gaps, "cross_entropy": entropies / count, "statistics": gaps / count}

    def _one_group(self, synthetic: Synthetic, items: Int64[Tensor, " members"], view: View) -> Tensor:
        """[2], cross-entropy and weighted gap of one group; its gradient goes to the items."""
        chunks = [chunk.to(self.device) for chunk in items.split(self.chunk_items)]
        if len(chunks) > 1:
            return self._in_chunks(synthetic, chunks, view)
        images, labels = self.images_of(synthetic(chunks[0])), synthetic.labels[chunks[0]]
        inputs = images.detach().requires_grad_()
        logits, seen = self._observe(view.apply(inputs))
        entropy = F.cross_entropy(logits, labels)
        gap = self._gap([Moments.of(values) for values in seen])
        images.backward(*torch.autograd.grad(entropy + gap, inputs))
        return torch.stack([entropy, gap]).detach()

    def _in_chunks(self, synthetic: Synthetic, chunks: Sequence[Tensor], view: View) -> Tensor:
        """d var / d x = 2 (x - mean) / n: the mean is held fixed in it, for differences from it add up to nothing."""
        with torch.no_grad():
            moments = self._moments_of(synthetic, chunks, view)
        gap, of_means, of_variances = self._gap_and_gradients(moments)
        count = sum(len(chunk) for chunk in chunks)
        entropy = torch.zeros_like(gap)
        for chunk in chunks:
            images = self.images_of(synthetic(chunk))
            inputs = images.detach().requires_grad_()
            logits, seen = self._observe(view.apply(inputs))
            part = F.cross_entropy(logits, synthetic.labels[chunk], reduction="sum") / count
            along = [part]
            for values, whole, of_mean, of_variance in zip(seen, moments, of_means, of_variances, strict=True):
                centred = values - whole.mean[:, None, None]
                along.append((centred.sum((0, 2, 3)) * of_mean).sum() / whole.count)
                along.append((centred.square().sum((0, 2, 3)) * of_variance).sum() / whole.count)
            images.backward(*torch.autograd.grad(torch.stack(along).sum(), inputs))
            entropy += part.detach()
        return torch.stack([entropy, gap])

    def _moments_of(self, synthetic: Synthetic, chunks: Sequence[Tensor], view: View) -> list[Moments]:
        joined: list[Moments] = []
        for chunk in chunks:
            _, seen = self._observe(view.apply(self.images_of(synthetic(chunk))))
            more = [Moments.of(values) for values in seen]
            joined = [one.joined(two) for one, two in zip(joined, more, strict=True)] if joined else more
        return joined

    def _gap_and_gradients(self, moments: Sequence[Moments]) -> tuple[Tensor, Sequence[Tensor], Sequence[Tensor]]:
        """The gap, and its gradients with respect to means and variances."""
        means = [layer.mean.clone().requires_grad_() for layer in moments]
        variances = [layer.variance.clone().requires_grad_() for layer in moments]
        # Of one value, so that the sum of squared differences is the variance.
        gap = self._gap([Moments(1, *pair) for pair in zip(means, variances, strict=True)])
        gradients = torch.autograd.grad(gap, means + variances)
        return gap.detach(), gradients[: len(means)], gradients[len(means) :]

    def _gap(self, moments: Sequence[Moments]) -> Tensor:
        """r_bn sum_l w_l (||mean_l - running mean_l|| + ||var_l - running var_l||)"""
        gaps = []
        for number, (layer, seen) in enumerate(zip(self._layers, moments, strict=True)):
            assert layer.running_mean is not None and layer.running_var is not None
            gap = (seen.mean - layer.running_mean).norm() + (seen.variance - layer.running_var).norm()
            gaps.append(gap * (self.config.first_factor if number == 0 else 1.0))
        return self.config.r_bn * torch.stack(gaps).sum()

    def _observe(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The logits, and what went into each batch norm."""
        with _listening(self._layers) as heard:
            logits = self.observer.logits(images)
        return logits, [heard[number] for number in range(len(self._layers))]


@contextmanager
def _listening(layers: Sequence[nn.Module]) -> Iterator[dict[int, Tensor]]:
    """What goes into each layer, by its number, while the context lasts."""
    heard: dict[int, Tensor] = {}

    def hear(number: int, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        heard[number] = inputs[0]

    with ExitStack() as stack:
        for number, layer in enumerate(layers):
            stack.enter_context(layer.register_forward_pre_hook(partial(hear, number)))
        yield heard


def _draw_crop(
    share: tuple[float, float], height: int, width: int, generator: torch.Generator
) -> tuple[int, int, int, int]:
    for _ in range(CROP_ATTEMPTS):
        area, aspect = torch.rand(2, generator=generator).tolist()
        area = height * width * (share[0] + area * (share[1] - share[0]))
        aspect = math.exp((2 * aspect - 1) * math.log(LARGEST_ASPECT))
        rows, columns = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < rows <= height and 0 < columns <= width:
            top, left = _integer(height - rows, generator), _integer(width - columns, generator)
            return top, left, top + rows, left + columns
    return 0, 0, height, width


def _integer(largest: int, generator: torch.Generator) -> int:
    """Uniform in 0..largest."""
    return int(torch.randint(largest + 1, (), generator=generator))
