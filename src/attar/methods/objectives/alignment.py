"""Alignment: what an observer sees of every item is made to agree with what it sees of the item's original (LIC)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from attar.base.shapes import Float, Int64
from attar.data.augmentation import Dsa, DsaConfig, DsaParameters
from attar.methods.objectives.objective import (
    VALUE_BYTES,
    Context,
    MapsOfImages,
    MatchingConfig,
    Objective,
    Synthetic,
    values_of_layer,
)
from attar.models.networks.network import Network
from attar.models.real_items import RealItems
from attar.models.training.acceleration import Precision

LAYERS = {"deep": -1, "shallow": 0}


class AlignmentConfig(MatchingConfig):
    """Settings of feature alignment.

    Args:
        layer: whose map is compared, before its pooling: a block's number from 0 (negative ones count from the end),
            "deep" the last, "shallow" the first, or the "logits".
        distance: "squared" (LIC) or "absolute" (its official code) differences.
        augmentation: the transformations g, of the observer's inputs; None compares the images as they are.
        chunk_items: the most items that go through the observer at once.
        kept_bytes: originals' features that return unchanged are kept, up to so many bytes on the device: those of
            unchanged images and of mirrored ones. Where all of them would take more, none is kept.
        precision: of the observer; "auto" takes bfloat16 where the device computes in it and there is enough to do.
    """

    asks_for: ClassVar[frozenset[str]] = frozenset({"observer", "originals"})

    kind: Literal["alignment"] = "alignment"
    layer: int | Literal["deep", "shallow", "logits"] = "deep"
    distance: Literal["squared", "absolute"] = "squared"
    augmentation: DsaConfig | None = DsaConfig(strategy="crop_cutout_flip")
    chunk_items: int = Field(default=256, ge=1)
    kept_bytes: int = Field(default=1 << 30, ge=0)
    precision: Precision = "auto"

    def build(self, context: Context) -> Alignment:
        return Alignment(self, context)

    def network_copies(self, num_classes: int) -> int:
        return 2  # the observer, and the fused copy of it

    def extra_bytes(self, network: Network, context: Context, num_items: int) -> dict[str, int]:
        """All originals' features that recur; none where they are more than may be kept."""
        size = values_of_layer(network, "logits" if self.layer == "logits" else layer_number(self.layer))
        needed = VALUE_BYTES * size * num_items * recurring_views(self.augmentation)
        return {"originals' features": needed if needed <= self.kept_bytes else 0}

    def without_flip(self) -> AlignmentConfig:
        """The same without mirrored images."""
        return self.model_copy(update={"augmentation": self.augmentation and self.augmentation.without_flip()})


def layer_number(layer: int | str) -> int:
    """The block that a layer's name stands for."""
    return layer if isinstance(layer, int) else LAYERS[layer]


def feature_distance(
    kind: Literal["squared", "absolute"], one: Float[Tensor, "items features"], two: Float[Tensor, "items features"]
) -> Float[Tensor, " items"]:
    """For each item the mean over features of their squared, or absolute, difference."""
    gap = one - two
    return (gap.square() if kind == "squared" else gap.abs()).mean(1)


def recurring_views(augmentation: DsaConfig | None) -> int:
    """How many of the images' views return unchanged, so that what the observer makes of them can be kept.

    Unchanged images, where nothing is done to them; else unchanged and mirrored ones, where a flip comes by itself.
    """
    if augmentation is None:
        return 1
    alone = augmentation.mode == "single" or augmentation.operations == ("flip",)
    return 2 if alone and "flip" in augmentation.operations else 0


class Alignment(Objective):
    """LIC's compensation: the gradient that restores, in a squeezed image, the features of what it was made from.

        L = sum_i 1/F || phi(g(x_i)) - phi(g(s_i)) ||^2,   g drawn once a step

    for the originals x_i, the expanded tiles s_i, and the observer's F features phi. Summed over items, so that an
    item's gradient is its own: with an optimiser that works value by value, a canvas ends as it would have ended alone,
    whatever its neighbours are and however many items share a pass.

    A step costs a pass forward for each original, without graph, and a pass forward and one back to the inputs for each
    item: three times a forward pass in all, and twice where the originals' features were kept: in a third of the steps
    of "crop_cutout_flip", whose flips are two views only. Nothing is derived with respect to the observer's weights.
    It looks through a fused observer, see `FusedObserver`.

    `Context.augmentation` is not used, because g transforms what the observer is fed with.

    Source: LIC, Eq. 8 and Algorithm 1, stage 2.
    Deviation: the sum over features is a mean, as in the official code (its "l1_mean"), which takes absolute
        differences. Algorithm 1 ascends; this descends. The official code takes one class at a time and draws g for
        each; here one g serves all items of a step. g is applied in the observer's own normalisation.
    """

    config: AlignmentConfig

    def __init__(self, config: AlignmentConfig, context: Context) -> None:
        super().__init__(config, context)
        if context.observer is None or context.originals is None:
            raise ValueError("alignment needs an observer and the items' originals in its context")
        self.observer, self.originals, self.images_of = context.observer, context.originals, context.matched_images
        self.device = torch.device(context.device)
        self.dsa = None if config.augmentation is None else Dsa(config.augmentation)
        self._num_steps = context.num_steps
        self._eye: MapsOfImages | None = None
        self._keeps = recurring_views(config.augmentation) > 0
        self._kept: dict[tuple[bool, int], Tensor] = {}

    def accumulate(self, synthetic: Synthetic, real: RealItems, generator: torch.Generator) -> dict[str, float]:
        drawn = None
        if self.dsa is not None:
            drawn = self.dsa.draw(1, self.observer.preprocess.image_shape, generator, siamese=True)
        losses = []
        count = len(synthetic.labels)
        self._eye = self._eye or self.observer.fused(count * self._num_steps, self.config.precision)
        for items in torch.arange(count).split(self.chunk_items):
            target = self._originals_features(items, count, drawn)
            images = self.images_of(synthetic(items.to(self.device), generator))
            losses.append(self._inject(images, target, drawn))
        return {"loss": float(torch.stack(losses).sum())}

    def resume(self, state: Mapping[str, Tensor]) -> None:
        if "chunk_items" in state:
            self._shrink(min(self.chunk_items, int(state["chunk_items"])))

    def halve_memory(self) -> bool:
        if self.chunk_items == 1 and not self._keeps:
            return False
        self._keeps = False
        self._shrink(max(1, self.chunk_items // 2))
        return True

    def _shrink(self, chunk_items: int) -> None:
        """Kept features are those of chunks of another size, whose roundings differ."""
        self.chunk_items = chunk_items
        self._kept.clear()

    @torch.no_grad()
    def _originals_features(self, items: Int64[Tensor, " batch"], count: int, drawn: DsaParameters | None) -> Tensor:
        mirrored = _mirrored(drawn)
        place = (bool(mirrored), int(items[0]))
        if mirrored is not None and place in self._kept:
            return self._kept[place]
        features = self._features(self.originals(items).to(self.device), drawn)
        needed = features[0].nbytes * count * recurring_views(self.config.augmentation)
        self._keeps = self._keeps and needed <= self.config.kept_bytes
        if self._keeps and mirrored is not None:
            self._kept[place] = features
        return features

    def _inject(self, images: Tensor, target: Tensor, drawn: DsaParameters | None) -> Tensor:
        """Back to the images alone, and from there to the items."""
        inputs = images.detach().requires_grad_()
        loss = feature_distance(self.config.distance, self._features(inputs, drawn), target).sum()
        images.backward(*torch.autograd.grad(loss, inputs))
        return loss.detach()

    def _features(self, images: Tensor, drawn: DsaParameters | None) -> Tensor:
        if self.dsa is not None and drawn is not None:
            preprocess = self.observer.preprocess
            images = preprocess.decode(self.dsa.apply(preprocess.encode(images), drawn))
        layer = self.config.layer
        assert self._eye is not None
        if layer == "logits":
            return self._eye.logits(images)
        return self._eye.maps(images, layer_number(layer)).flatten(1)


def _mirrored(drawn: DsaParameters | None) -> bool | None:
    """Whether the images are seen mirrored, or as they are; None where something else is done to them."""
    if drawn is None:
        return False
    return bool(drawn.values["flipped"]) if drawn.operations == ("flip",) else None
