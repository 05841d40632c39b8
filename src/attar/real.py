"""Real images as the items that are matched and trained on: codes where they pay, else images encoded by the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from attar.codecs.codec import Codec
from attar.codecs.encoding import encode_images
from attar.data.image_set import ImageSet
from attar.objectives.objective import RealItems
from attar.progress import Progress


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
