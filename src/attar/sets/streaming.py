"""A distilled set as networks are trained on it: items fixed, drawn anew each epoch, or regions with their labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from attar.base.errors import InputError
from attar.base.shapes import Float, Int64
from attar.methods.labels.region_logits import check_columns, read_region_logits
from attar.methods.labels.regions import Labeller, ObserverFacts, RegionParameters, Regions
from attar.methods.parameterizations.parameterization import Parameterization
from attar.models.codecs.codec import Codec
from attar.sets.manifest import SOFT_LABELS, RegionSpec

LARGEST_KEPT_LOGITS = 2**26
"""Logits of an observer that is asked while training are kept up to so many (256 MiB), for the next seed."""


class DecodedItems:
    """Network inputs that are the same in every epoch.

    Args:
        inputs: float32 [M, c, h, w].
        labels: int64 [M], or probabilities float32 [M, K].
    """

    def __init__(self, inputs: Tensor, labels: Tensor) -> None:
        self.inputs, self.labels, self.num_items = inputs, labels, len(labels)

    def epoch(self, epoch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """All items in their own order."""
        return self.inputs, self.labels


class SampledItems:
    """Network inputs of stochastic items, drawn anew for each epoch.

    Args:
        draw: generator -> float32 [M, c, h, w], one sample of every item, in the items' order.
        labels: int64 [M], or probabilities float32 [M, K].
        means: float32 [M, c, h, w], which every epoch has beside the samples, under the same labels; or None.

    Source: D3's official evaluation, an epoch of which has a sample and the mean of every prior.
    """

    def __init__(self, draw: Callable[[torch.Generator], Tensor], labels: Tensor, means: Tensor | None = None) -> None:
        self._draw, self._means = draw, means
        self.labels = labels if means is None else torch.cat([labels, labels])
        self.num_items = len(self.labels)

    def at(self, precision: Precision) -> SampledItems:
        """The same items, sampled in the precision that networks are trained in where a `Sampler` draws them."""
        other = copy(self)
        if isinstance(self._draw, Sampler):
            other._draw = self._draw.at(precision)
        return other

    def epoch(self, epoch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One sample of every item, and then the means where there are some."""
        drawn = self._draw(generator)
        return drawn if self._means is None else torch.cat([drawn, self._means]), self.labels


@dataclass(frozen=True)
class LabelledRegions:
    """One shard's regions with their labels.

    Args:
        regions: where they come from.
        spec: the shard's region labels.
        tensors: stored logits, as `label_regions` gives them.
    """

    regions: Regions
    spec: RegionSpec
    tensors: Mapping[str, Tensor]


class RegionItems:
    """A region of every canvas, another in each epoch, with the observer's logits of it as its label.

    An item is a canvas. Inputs are cropped when a batch is asked for. Labels are logits, of which training makes
    probabilities at its temperature, or which it meets as they are; nothing may be augmented on top.

    Args:
        parts: the shards.
        preprocess: images to network inputs, on `device`.
        num_classes: K.
        device: where training takes place.
        observer: on `device`; asked where logits are not stored.

    Source: LIC equation 9; Shen & Xing 2022 (FKD).
    """

    augmented = True
    gives_logits = True

    def __init__(
        self,
        parts: Sequence[LabelledRegions],
        preprocess: Codec,
        num_classes: int,
        device: torch.device | str = "cpu",
        observer: Labeller | None = None,
    ) -> None:
        self._parts, self._preprocess, self._num_classes = list(parts), preprocess, num_classes
        self._device, self._observer = device, observer
        self._asked: dict[tuple[int, int], Tensor] = {}
        self.num_items = sum(part.regions.num_canvases for part in parts)

    def epoch(self, epoch: int, generator: torch.Generator) -> tuple[RegionInputs, Tensor]:
        """The regions of an epoch; the generator is not used, because the labels are those of these regions alone."""
        return self.regions(epoch, self._preprocess), self.logits(epoch)

    def regions(self, epoch: int, encode: Codec | None = None) -> RegionInputs:
        """The regions of an epoch as network inputs, or without a codec as images."""
        return RegionInputs([(part.regions, part.regions.draw(epoch)) for part in self._parts], encode)

    def logits(self, epoch: int) -> Float[Tensor, "canvases classes"]:
        """The labels of an epoch, float32 on the device."""
        return torch.cat([self._logits(place, epoch).to(self._device) for place in range(len(self._parts))])

    def _logits(self, place: int, epoch: int) -> Tensor:
        part = self._parts[place]
        config = part.spec.labels
        if not part.spec.online:
            return read_region_logits(part.tensors, config, epoch, self._num_classes)
        assert self._observer is not None
        key = place, epoch % config.epochs
        if key in self._asked:
            return self._asked[key]
        logits = part.regions.logits(self._observer, epoch)
        check_columns(logits, self._num_classes)
        if (len(self._asked) + 1) * logits.numel() <= LARGEST_KEPT_LOGITS:
            self._asked[key] = logits
        return logits


class RegionInputs:
    """One epoch's regions, which exist batch by batch.

    Args:
        parts: each shard's regions and what was drawn for the epoch.
        encode: images to network inputs; None leaves images.
    """

    def __init__(self, parts: Sequence[tuple[Regions, RegionParameters]], encode: Codec | None) -> None:
        self._parts, self._encode = list(parts), encode
        counts = [regions.num_canvases for regions, _ in self._parts]
        shape = self._parts[0][0].image_shape if encode is None else encode.code_shape
        self.shape, self.dtype = torch.Size([sum(counts), *shape]), torch.float32

    def __len__(self) -> int:
        return self.shape[0]

    @torch.no_grad()
    def __getitem__(self, indices: Int64[Tensor, " batch"]) -> Float[Tensor, "batch c h w"]:
        images = self._images(indices)
        return images if self._encode is None else self._encode.encode(images)

    def _images(self, indices: Tensor) -> Tensor:
        if len(self._parts) == 1:
            regions, parameters = self._parts[0]
            return regions.images(parameters, indices.to(regions.device))
        first, images = 0, torch.empty(len(indices), *self._parts[0][0].image_shape, device=indices.device)
        for regions, parameters in self._parts:
            here = ((indices >= first) & (indices < first + regions.num_canvases)).nonzero()[:, 0]
            if len(here):
                places = (indices[here] - first).to(regions.device)
                images[here] = regions.images(parameters, places).to(images)
            first += regions.num_canvases
        return images


def labelled_regions(
    parts: Sequence[Parameterization],
    specs: Sequence[RegionSpec],
    tensors: Sequence[Mapping[str, Tensor]],
    preprocess: Codec,
    device: torch.device | str,
) -> list[LabelledRegions]:
    """Each shard's regions, made on `device`, where the preprocess is, wherever the shard may be moved."""
    return [
        LabelledRegions(_regions_of(part, spec, preprocess, device), spec, stored)
        for part, spec, stored in zip(parts, specs, tensors, strict=True)
    ]


def _regions_of(part: Parameterization, spec: RegionSpec, preprocess: Codec, device: torch.device | str) -> Regions:
    def render(places: Tensor) -> Tensor:
        return part.canvases(places.to(part.labels.device)).to(device)

    shape, count, grid = part.codec.image_shape, part.num_canvases, int(part.spec().get("grid", 1))
    return Regions(render, count, shape, spec.labels, preprocess, grid, spec.seed, device)


def check_observer_of(needed: Sequence[ObserverFacts], observer: Labeller | None, where: str) -> None:
    """Raise InputError unless the observer is the one that labels are asked of."""
    for facts in needed:
        title = f"{facts.network or 'network'} {facts.identity[:12]}... ({facts.num_bytes:,} bytes)"
        if observer is None:
            raise InputError(
                f"{where} stores no labels: training needs the observer {title}, identity {facts.identity}; give it, "
                "or label the set again with another storage"
            )
        identity = getattr(observer, "identity", None)
        if identity != facts.identity:
            raise InputError(
                f"{where} has labels of the observer {title}; the one given is {str(identity)[:12]}...: give that one"
            )


def label_probabilities(payload: Mapping[str, Tensor], num_classes: int) -> Float[Tensor, "items classes"]:
    """Each item's probabilities, float32.

    p = softmax(logits) where the payload has soft labels, else 1 at the item's class and 0 elsewhere
    """
    if SOFT_LABELS in payload:
        return payload[SOFT_LABELS].float().softmax(1)
    return torch.nn.functional.one_hot(payload["labels"].long(), num_classes).float()


# Input values made at once: 8 MiB of float32, because a deep decoder needs a hundred times its output.
CHUNK_VALUES = 2**21


LARGEST_CHUNK = 512


Precision = Literal["float32", "bfloat16"]


class Sampler:
    """A sample of every item as network inputs, equal to `preprocess.encode(part.images(items))` up to rounding.

    Priors are decoded by a copy of their decoder without norms, once a pass over the items, however many batches it
    gives. Where network inputs are the decoder's own space, the way to images and back, two products with a matrix of
    all pixels for ZCA, is left out.

    Args:
        parts: the shards on `device`, in the order of their items; nothing of them may change afterwards.
        preprocess: images to network inputs, on `device`.
        device: where inputs are made.
        precision: "bfloat16" is autocast of the decoder: convolutions and matrix products alone; results are float32.
    """

    def __init__(
        self,
        parts: Sequence[Parameterization],
        preprocess: Codec,
        device: torch.device,
        precision: Precision = "float32",
    ) -> None:
        self._parts = [part.for_sampling() for part in parts]
        self._preprocess, self._device, self.precision = preprocess, device, precision

    def at(self, precision: Precision) -> Sampler:
        """The same in another precision."""
        other = Sampler([], self._preprocess, self._device, precision)
        other._parts = self._parts
        return other

    @torch.no_grad()
    def __call__(self, draw: torch.Generator | None) -> Float[Tensor, "items c h w"]:
        """A sample of every item, in the items' order; without a generator the items' means.

        Args:
            draw: on the CPU; gives the same samples as `DistilledSet.images` of all items.
        """
        c, h, w = self._preprocess.code_shape
        lowered = self.precision == "bfloat16"
        inputs = torch.empty(sum(map(len, self._parts)), c, h, w, device=self._device)
        size, first = min(LARGEST_CHUNK, max(1, CHUNK_VALUES // (c * h * w))), 0
        for part in self._parts:
            for items in torch.arange(len(part), device=part.labels.device).split(size):
                inputs[first : first + len(items)] = part.sampled_inputs(items, draw, self._preprocess, lowered)
                first += len(items)
        return inputs
