"""Real images as JPEG: how many of them a number of bytes holds, counted byte by byte."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from attar.base.randomness import generator
from attar.base.shapes import Int64, UInt8
from attar.data.image_set import ImageSet

QUALITIES = (75, 50, 25)
"""Pillow's qualities, tried in this order."""

SIZED_IMAGES = 100
"""Images of each class whose sizes say how many fit."""

DRAWS = 200
"""Draws of a seed that are tried until one fits; half of all draws do."""

ABBREVIATED, TABLES_ONLY = 2, 1
"""JPEG's streams without tables, and of tables alone (ITU-T T.81, B.4 and B.5)."""

Draw: TypeAlias = tuple[Tensor, list[bytes]]
"""Indices of images, class-major, and their streams."""


def encoder_version() -> str:
    """The encoder's versions: of Pillow and its libjpeg."""
    from PIL import __version__, features

    return f"Pillow {__version__}, libjpeg {features.version('jpg')}"


def jpeg_stream(image: UInt8[Tensor, "C H W"], quality: int, stream: int = ABBREVIATED) -> bytes:
    """One image as JPEG, by default without the tables that all images of a quality share.

    Args:
        image: 1 or 3 channels.
        quality: Pillow's.
        stream: 0 is a whole file, `TABLES_ONLY` or `ABBREVIATED` a part of one.
    """
    from PIL import Image

    array = image.permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(array[:, :, 0] if len(image) == 1 else array).save(
        buffer, "JPEG", quality=quality, streamtype=stream
    )
    return buffer.getvalue()


def decoded(tables: bytes, stream: bytes) -> UInt8[Tensor, "C H W"]:
    """The image of an abbreviated stream and its tables."""
    from PIL import Image

    # The tables end, and the image begins, with a marker of two bytes that a whole file has once only.
    with Image.open(io.BytesIO(tables[:-2] + stream[2:])) as picture:
        array = np.array(picture)
    return torch.from_numpy(array).unsqueeze(0) if array.ndim == 2 else torch.from_numpy(array).permute(2, 0, 1)


@dataclass(frozen=True)
class JpegDraws:
    """Random images of each class as JPEG of one quality, that fit in a number of bytes.

        bytes = tables + sum of the streams of all images

    Args:
        train: real training images.
        num_bytes: the most that all images and the tables may take.
        quality: Pillow's.
        count: images of each class; a smaller class gives all it has.
    """

    train: ImageSet
    num_bytes: int
    quality: int
    count: int

    @cached_property
    def tables(self) -> bytes:
        """The tables that all images share, stored once."""
        return jpeg_stream(self.train.images[:1][0], self.quality, TABLES_ONLY)

    def drawn(self, seed: int) -> Draw | None:
        """The first of the seed's draws that fits, or None."""
        for attempt in range(DRAWS):
            draw = generator(seed, "baseline", "jpeg", attempt)
            chosen = torch.cat([_some(members, self.count, draw) for members in self.train.class_indices])
            streams = [jpeg_stream(image, self.quality) for image in self.train.images[chosen]]
            if self.num_bytes_of(streams) <= self.num_bytes:
                return chosen, streams
        return None

    def num_bytes_of(self, streams: Sequence[bytes]) -> int:
        """Bytes of the tables and of these streams."""
        return len(self.tables) + sum(map(len, streams))


def fitting_draws(train: ImageSet, num_bytes: int, seeds: Sequence[int]) -> tuple[JpegDraws, dict[int, Draw]] | None:
    """`jpeg_draws` with a draw for each seed; None where not one image of each class fits, even at the lowest quality.

    Where a seed has no draw that fits, one image of each class less is taken, of all seeds; or a lower quality.
    """
    draws = jpeg_draws(train, num_bytes)
    while draws is not None:
        of_seed: dict[int, Draw] = {}
        for seed in seeds:
            draw = draws.drawn(seed)
            if draw is None:
                break
            of_seed[seed] = draw
        else:
            return draws, of_seed
        worse = QUALITIES[QUALITIES.index(draws.quality) + 1 :]
        draws = replace(draws, count=draws.count - 1) if draws.count > 1 else jpeg_draws(train, num_bytes, worse)
    return None


def jpeg_draws(train: ImageSet, num_bytes: int, qualities: Sequence[int] = QUALITIES) -> JpegDraws | None:
    """As many images of each class as fit on average, at the first of the qualities at which one does; None if at none.

        n = floor((bytes - tables) / sum over classes of the mean stream's bytes)

    The quality is chosen by size alone: no accuracy is looked at.
    """
    draw = generator(0, "jpeg sizes")
    samples = [_some(members, SIZED_IMAGES, draw) for members in train.class_indices if len(members)]
    for quality in qualities:
        draws = JpegDraws(train, num_bytes, quality, max(map(len, train.class_indices)))
        sizes = [fmean(len(jpeg_stream(image, quality)) for image in train.images[members]) for members in samples]
        count = int((num_bytes - len(draws.tables)) / sum(sizes))
        if count >= 1:
            return replace(draws, count=min(count, draws.count))
    return None


def _some(members: Tensor, count: int, draw: torch.Generator) -> Int64[Tensor, " chosen"]:
    return members[torch.randperm(len(members), generator=draw)[:count]]
