"""Real images as the items that are matched and trained on: codes where they pay, else images encoded by the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from attar.base.progress import Progress
from attar.base.shapes import Float, Int64
from attar.data.image_set import ImageSet
from attar.models.codecs.codec import Codec
from attar.models.codecs.encoding import encode_images


def codes_to_hold(codec: Codec, train: ImageSet, device: torch.device, progress: Progress) -> Tensor | None:
    """Every image's code; None where encoding is cheap and float32 codes would be larger than the uint8 images."""
    if codec.cheap and 4 * codec.num_code_values > codec.num_image_values:
        return None
    return encode_images(codec, train, device=device, progress=progress)


def real_items(codec: Codec, train: ImageSet, codes: Tensor | None, device: torch.device) -> RealItems:
    """The items on the device, from `codes_to_hold`; a codec that encodes by the batch is moved there."""
    if codes is not None:
        return RealItems(train.labels, train.num_classes, codes=codes, device=device)
    return RealItems(train.labels, train.num_classes, images=train, codec=codec.to(device), device=device)


class RealItems:
    """Real items in matching space with their labels, resident on one device; the same in every epoch of training.

    Codes are held as they are; images of a cheap codec are held as uint8, four times smaller, and encoded by the batch.

    Args:
        labels: int64 [N].
        num_classes: K; every class must have a member.
        codes: float [N, c, h, w], or None with `images` and `codec` given.
    """

    def __init__(
        self,
        labels: Int64[Tensor, " items"],
        num_classes: int,
        codes: Float[Tensor, "items c h w"] | None = None,
        images: ImageSet | None = None,
        codec: Codec | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if (codes is None) == (images is None):
            raise ValueError("give either codes, or images with their codec")
        self.num_items, self.num_classes = len(labels), num_classes
        self.labels = labels.to(device)
        self.device = torch.device(device)
        self._codec = codec
        self._stored = codes.to(device) if codes is not None else images.images.to(device)  # type: ignore[union-attr]
        order = torch.argsort(labels, stable=True)
        counts = torch.bincount(labels, minlength=num_classes)
        self._members = torch.full((num_classes, int(counts.max())), -1, dtype=torch.int64)
        for index, members in enumerate(order.split(counts.tolist())):
            self._members[index, : len(members)] = members

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of one item in matching space."""
        c, h, w = self._stored.shape[1:] if self._codec is None else self._codec.code_shape
        return c, h, w

    @property
    def num_bytes(self) -> int:
        """Bytes of the items as they are held, without labels."""
        return self._stored.numel() * self._stored.element_size()

    def gather(self, indices: Int64[Tensor, " batch"]) -> Float[Tensor, "batch c h w"]:
        """The items at `indices`, float32, on the device."""
        stored = self._stored[indices.to(self._stored.device)]
        return stored.float() if self._codec is None else self._codec.encode(stored.float() / 255)

    def epoch(self, epoch: int, generator: torch.Generator) -> tuple[GatheredInputs, Tensor]:
        """The items and their labels, as networks are trained on them, whatever the epoch."""
        return GatheredInputs(self), self.labels

    def class_batches(
        self, num_per_class: int, generator: torch.Generator
    ) -> tuple[Int64[Tensor, " batch"], Int64[Tensor, " batch"]]:
        """Indices and labels of up to `num_per_class` different members of every class, class-major.

        A class with fewer members gives all it has. `generator` must be on the CPU.
        """
        keys = torch.rand(self._members.shape, generator=generator).masked_fill_(self._members < 0, 2.0)
        drawn = keys.topk(min(num_per_class, keys.shape[1]), dim=1, largest=False).indices
        indices = self._members.gather(1, drawn)
        real = indices >= 0
        labels = torch.arange(self.num_classes).unsqueeze(1).expand_as(indices)
        return indices[real], labels[real]


class GatheredInputs:
    """Real items [N, c, h, w] that are encoded when a batch is asked for."""

    dtype = torch.float32

    def __init__(self, real: RealItems) -> None:
        self._real = real
        self.shape = torch.Size([real.num_items, *real.shape])

    def __len__(self) -> int:
        return self.shape[0]

    @torch.no_grad()
    def __getitem__(self, indices: Int64[Tensor, " batch"]) -> Float[Tensor, "batch c h w"]:
        return self._real.gather(indices)
