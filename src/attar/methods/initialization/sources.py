"""The real image behind each item: a whole training image or a crop of one, read when it is needed."""

from __future__ import annotations

import torch
from torch import Tensor

from attar.base.shapes import Float, Int64
from attar.data.image_set import ImageSet
from attar.data.resizing import Grid, crop_and_resize, squeeze
from attar.methods.initialization.selection import initial_indices
from attar.models.codecs.codec import Codec

SMALLEST_AREA, LARGEST_AREA = 0.08, 1.0
# Images that are encoded at once.
BLOCK = 256


class Sources:
    """T training images or crops of them, at full size; images are read when they are needed.

    Args:
        train: the images, in memory or memory-mapped.
        indices: int64 [T] into it.
        boxes: float [T, 4], rows (top, left, height, width) as fractions of the sides; None takes whole images.
        device: where images are made.
    """

    def __init__(
        self,
        train: ImageSet,
        indices: Int64[Tensor, " sources"],
        boxes: Float[Tensor, "sources 4"] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.indices, self.boxes, self.device = indices, boxes, torch.device(device)
        self._train = train

    @classmethod
    def random(
        cls, train: ImageSet, count: int, generator: torch.Generator, device: torch.device | str = "cpu"
    ) -> Sources:
        """`count` different images of each class, class-major. Raises InputError for a class that has fewer."""
        chosen = initial_indices(
            "random", lambda _: torch.empty(0), train.class_indices, count, generator, train.classes
        )
        return cls(train, chosen, device=device)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def labels(self) -> Int64[Tensor, " sources"]:
        """The class of each source."""
        return self._train.labels[self.indices]

    def select(self, items: Int64[Tensor, " chosen"]) -> Sources:
        """The sources at `items`, in that order."""
        boxes = None if self.boxes is None else self.boxes[items]
        return Sources(self._train, self.indices[items], boxes, self.device)

    def images(self, items: Int64[Tensor, " batch"]) -> Float[Tensor, "batch C H W"]:
        """Images in [0, 1] on the device, crops resized to full size (bilinear); each training image is read once.

        Args:
            items: indices into the T sources, on any device.
        """
        items = items.cpu()
        rows, places = self.indices[items].unique(return_inverse=True)
        images = self._train.images[rows].to(self.device)[places.to(self.device)].float() / 255
        if self.boxes is None:
            return images
        _, height, width = self._train.image_shape
        return crop_and_resize(images, self.boxes[items], (height, width))


def random_crops(count: int, image_shape: tuple[int, int, int], generator: torch.Generator) -> Float[Tensor, "crops 4"]:
    """Random boxes of whole pixels, as fractions of the sides, float64.

        area ~ U(0.08, 1) of the image's, sides sqrt(area) of its sides, place uniform

    Args:
        count: how many.
        image_shape: (C, H, W).
        generator: on the CPU.

    Source: Sun et al. 2024 (RDED), whose code takes torchvision's RandomResizedCrop with ratio 1.
    Deviation: the box has the image's aspect ratio, not that of a square: what is cropped becomes a full image.
    """
    area, row, column = torch.rand(3, count, generator=generator, dtype=torch.float64)
    sides = torch.tensor(image_shape[1:], dtype=torch.float64)
    share = (SMALLEST_AREA + (LARGEST_AREA - SMALLEST_AREA) * area).sqrt().unsqueeze(1)
    lengths = (share * sides).round().clamp_min(1)
    starts = (torch.stack([row, column], 1) * (sides - lengths + 1)).floor()
    return torch.cat([starts / sides, lengths / sides], 1)


@torch.no_grad()
def encoded(codec: Codec, sources: Sources, grid: Grid) -> Tensor:
    """Codes float32 [M, c, h, w] on the CPU of M canvases, each of as many sources as the grid has tiles."""
    frozen = codec.to(sources.device)
    blocks = torch.arange(len(sources)).split(max(1, BLOCK // grid.num_tiles) * grid.num_tiles)
    return torch.cat([frozen.encode(squeeze(sources.images(items), grid)).cpu() for items in blocks])
