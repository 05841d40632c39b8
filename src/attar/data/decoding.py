"""Encoded pictures become uint8 pixels of one shape."""

from __future__ import annotations

import io
import math
import os
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from PIL import Image, ImageOps

from attar.base.device import free_bytes, size_text
from attar.base.errors import InputError, unknown
from attar.base.files import atomic_path, cache_directory, content_key
from attar.base.progress import Progress
from attar.data.image_set import ImageSet
from attar.data.offers import Encoded, Part, Picture

Resize = Literal["refuse", "squash", "crop"]
Channels = Literal["keep", "grey", "rgb"]

_MAX_PIXELS = 89_478_485  # Pillow's own bound for a picture that is not a decompression bomb
_CHUNK = 32
_ORIENTATION = 0x0112
_GREY_MODES = ("1", "L", "LA", "La", "I", "F")


@dataclass(frozen=True)
class Rules:
    """How pictures of any size and colour become arrays of one shape.

    - alpha is composited on white; 16-bit values are scaled by 255/65535; EXIF orientation is applied; animations and
      multi-page files give their first frame.
    - squash scales to the size; crop takes the largest centred part of the size's aspect ratio, then scales. Both are
      bicubic with a support that grows with the reduction, so that nothing aliases.
    - keep leaves grey grey and RGB RGB (a palette of greys is grey) and refuses a mixture.

    Args:
        image_size: (height, width) in pixels, or None: as they are, which must be one size.
        resize: what to do with a picture of another size.
        channels: what to do with grey and colour.
    """

    image_size: tuple[int, int] | None = None
    resize: Resize = "refuse"
    channels: Channels = "keep"

    def __post_init__(self) -> None:
        if self.resize not in get_args(Resize):
            raise unknown("resize rule", str(self.resize), get_args(Resize))
        if self.channels not in get_args(Channels):
            raise unknown("channels", str(self.channels), get_args(Channels))
        if self.image_size is None and self.resize != "refuse":
            raise InputError(f"resize={self.resize!r} needs a size to resize to; give --image-size too, e.g. 32")
        if self.image_size is not None and not all(1 <= side <= 8192 for side in self.image_size):
            raise InputError(f"image size {self.image_size} is out of range; give sides of 1 to 8192 pixels")


def decode_parts(
    parts: Sequence[Part], rules: Rules, memory_limit_bytes: int | None, progress: Progress
) -> list[ImageSet]:
    """Every part as an ImageSet that follows `rules`; parts that do already are returned as they are.

    Raises:
        InputError: a picture that cannot be read, or that differs in size or channels (one line, naming it).
    """
    with warnings.catch_warnings():
        # We refuse such pictures ourselves, by name.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        encoded = {index: _encoded(part, rules) for index, part in enumerate(parts)}
        todo = {index: (part, _read(part, 0, rules).shape) for index, part in encoded.items() if part is not None}
        num_bytes = sum(len(part) * int(np.prod(shape)) for part, shape in todo.values())
        in_memory = _fits_in_memory(num_bytes, memory_limit_bytes, progress)
        done = {index: _decode(part, shape, rules, in_memory, progress) for index, (part, shape) in todo.items()}
    return [done[index] if index in done else cast(ImageSet, part) for index, part in enumerate(parts)]


class _PixelPictures:
    """An ImageSet's own pixels as pictures, for resizing and colour conversion."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def read(self, position: int) -> Image.Image:
        pixels = self.images.images[position].permute(1, 2, 0).numpy()
        return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))

    def name(self, position: int) -> str:
        return f"image {position}"

    def identity(self, positions: Sequence[int]) -> list[Any]:
        return [self.images.fingerprint]


def _encoded(part: Part, rules: Rules) -> Encoded | None:
    """The part to decode, or None where it is decoded and follows the rules already."""
    if isinstance(part, Encoded):
        return part
    channels, *size = part.image_shape
    same_size = rules.image_size in (None, tuple(size))
    if (same_size and channels in {"keep": (1, 3), "grey": (1,), "rgb": (3,)}[rules.channels]) or not len(part):
        return None
    return Encoded(_PixelPictures(part), torch.arange(len(part)), part.labels, part.classes)


def _fits_in_memory(num_bytes: int, limit_bytes: int | None, progress: Progress) -> bool:
    """Whether `num_bytes` of pixels stay within `limit_bytes` (None: half of the available memory); noted where not."""
    if limit_bytes is not None and limit_bytes < 0:
        raise InputError(f"memory_limit_bytes is {limit_bytes}; give 0 (always memory-map) or more")
    limit = free_bytes(torch.device("cpu")) // 2 if limit_bytes is None else limit_bytes
    if num_bytes <= limit:
        return True
    progress.note(
        f"{size_text(num_bytes)} of pixels exceed the limit of {size_text(limit)}: memory-mapping them in the cache"
    )
    return False


def _decode(part: Encoded, shape: tuple[int, ...], rules: Rules, in_memory: bool, progress: Progress) -> ImageSet:
    """The part's pixels in memory, or in a map of the cache's `images/KEY.uint8`, which a later call reuses."""
    shape = (len(part), *shape)
    if in_memory:
        pixels = np.empty(shape, dtype=np.uint8)
        _fill(pixels, part, rules, progress)
        return ImageSet(torch.from_numpy(pixels), part.labels, part.classes)
    settings = [rules.image_size, rules.resize, rules.channels, Image.__version__]
    key = content_key("images", list(shape[1:]), settings, part.pictures.identity(part.positions.tolist()))
    path = cache_directory("images") / f"{key}.uint8"
    if not (path.exists() and path.stat().st_size == math.prod(shape)):
        _check_disk(path.parent, math.prod(shape))
        with atomic_path(path) as temporary:
            pixels = np.memmap(temporary, dtype=np.uint8, mode="w+", shape=shape)
            _fill(pixels, part, rules, progress)
            pixels.flush()
            del pixels  # some platforms do not rename a file that is still mapped
    pixels = np.memmap(path, dtype=np.uint8, mode="r", shape=shape)
    with warnings.catch_warnings():
        # A read-only map is what we want: an ImageSet is never written to.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return ImageSet(torch.from_numpy(pixels), part.labels, part.classes)


def _check_disk(folder: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise InputError(
            f"the decoded images need {size_text(num_bytes)} in the cache {folder} and {size_text(free)} are free; "
            "set ATTAR_CACHE to a larger disk, or give a smaller --image-size"
        )


def _fill(pixels: np.ndarray, part: Encoded, rules: Rules, progress: Progress) -> None:
    def work(start: int) -> int:
        stop = min(start + _CHUNK, len(part))
        for index in range(start, stop):
            picture = _read(part, index, rules)
            if picture.shape != pixels.shape[1:]:
                raise _Different(index, picture.shape)
            pixels[index] = picture
        return stop - start

    progress.start("decoding images", len(part))
    executor = ThreadPoolExecutor(_num_threads())
    try:
        # In order, so that the fault reported is the first one of the listing whatever thread met it.
        for count in executor.map(work, range(0, len(part), _CHUNK)):
            progress.advance(count)
    except _Different as different:
        index, shape = different.args
        raise _shape_fault(part, index, shape, pixels.shape[1:]) from None
    finally:
        executor.shutdown(cancel_futures=True)
        progress.finish()


class _Different(Exception):
    """The index and the shape of a picture whose shape is not the first one's."""


def _num_threads() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return min(len(affinity(0)) if affinity else os.cpu_count() or 1, 32)


def _name(part: Encoded, index: int) -> str:
    return part.pictures.name(int(part.positions[index]))


def _read(part: Encoded, index: int, rules: Rules) -> np.ndarray:
    """uint8 [C, H, W] of one picture."""
    name = _name(part, index)
    image = _coloured(_opened(part.pictures.read(int(part.positions[index])), name, rules), rules.channels, name)
    pixels = np.asarray(_resized(image, rules, name))
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0)


def _opened(picture: Picture, name: str, rules: Rules) -> Image.Image:
    """The loaded picture, upright. Whatever a damaged file makes Pillow raise becomes one line that names the file."""
    if isinstance(picture, Image.Image):
        return picture
    try:
        with _file(picture) as image:
            num_pixels = image.width * image.height
            if num_pixels <= _MAX_PIXELS:
                _shrink_early(image, rules)
                image.load()
                return ImageOps.exif_transpose(image) if image.getexif().get(_ORIENTATION, 1) != 1 else image
    except Image.DecompressionBombError:
        num_pixels = 0
    except Exception as error:  # a hostile file reaches any corner of any of Pillow's decoders
        reason = str(error).partition("\n")[0][:100] or type(error).__name__
        raise InputError(f"{name} cannot be read as an image ({reason}); repair or remove it") from error
    size = f"{num_pixels:,} pixels, more than" if num_pixels else "more pixels than"
    raise InputError(f"{name} claims {size} the {_MAX_PIXELS:,} allowed in one picture; shrink or remove it")


def _shrink_early(image: Image.Image, rules: Rules) -> None:
    """Let a JPEG be decoded at 1/2, 1/4 or 1/8, never below twice the wanted size: several times faster."""
    if rules.image_size is not None and rules.resize != "refuse":
        side = 2 * max(rules.image_size)
        image.draft(None, (side, side))


def _coloured(image: Image.Image, channels: Channels, name: str) -> Image.Image:
    grey = _is_grey(image)
    image = _eight_bit(image, name)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        image = white.convert("RGB")
    mode = {"keep": "L" if grey else "RGB", "grey": "L", "rgb": "RGB"}[channels]
    return image if image.mode == mode else image.convert(mode)


def _is_grey(image: Image.Image) -> bool:
    if image.mode in ("P", "PA"):
        palette = np.array(image.getpalette("RGB") or [], dtype=np.uint8).reshape(-1, 3)
        return bool((palette == palette[:, :1]).all())
    return image.mode in _GREY_MODES or image.mode.startswith("I;16")


def _eight_bit(image: Image.Image, name: str) -> Image.Image:
    if not (image.mode in ("I", "F") or image.mode.startswith("I;16")):
        return image
    values = np.asarray(image).astype(np.float64)
    top = 1.0 if image.mode == "F" else 65535.0
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= top):
        raise InputError(f"{name} holds values outside 0..{top:g}; rescale it, or save it with 8 or 16 bits")
    return Image.fromarray(np.floor(values * (255 / top) + 0.5).astype(np.uint8))


def _resized(image: Image.Image, rules: Rules, name: str) -> Image.Image:
    if rules.image_size is None or image.size == rules.image_size[::-1]:
        return image
    height, width = rules.image_size
    if rules.resize == "refuse":
        raise InputError(
            f"{name} is {_by(image.size)} pixels and {_by((width, height))} were asked for; "
            "add --resize crop (cut to the aspect ratio) or --resize squash"
        )
    box = None if rules.resize == "squash" else _centred(image.size, width / height)
    return image.resize((width, height), Image.Resampling.BICUBIC, box=box)


def _centred(size: tuple[int, int], aspect: float) -> tuple[float, float, float, float]:
    width, height = size
    wide, high = min(width, height * aspect), min(height, width / aspect)
    left, upper = (width - wide) / 2, (height - high) / 2
    return left, upper, left + wide, upper + high


def _by(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]}"


def _shape_fault(part: Encoded, index: int, shape: tuple[int, ...], expected: tuple[int, ...]) -> InputError:
    """What differs, and the mend: asked only once something does, so that a good folder is read once."""
    this, first = _name(part, index), _name(part, 0)
    if shape[0] != expected[0]:
        kind = {1: "grey", 3: "RGB"}
        return InputError(
            f"grey and RGB images are mixed: {this} is {kind[shape[0]]}, {first} is {kind[expected[0]]}; "
            "add --channels rgb (or --channels grey)"
        )
    sizes = Counter(_sizes(part))
    common, smallest = sizes.most_common(1)[0][0], min(sizes, key=lambda size: (min(size), size))
    return InputError(
        f"images differ in size: {this} is {_by(shape[:0:-1])}, {first} is {_by(expected[:0:-1])} "
        f"(most common {_by(common)}, smallest {_by(smallest)}); "
        f"give one size, e.g. --image-size {min(common)} --resize crop"
    )


def _sizes(part: Encoded, at_most: int = 2000) -> Iterator[tuple[int, int]]:
    """(width, height) of the pictures (of evenly spaced ones where there are many) that can be read."""
    for index in np.unique(np.linspace(0, len(part) - 1, at_most).astype(np.int64)):
        picture = part.pictures.read(int(part.positions[index]))
        # This survey only words a message: a damaged file must not replace it.
        with suppress(Exception), _file(picture) as image:
            on_its_side = image.getexif().get(_ORIENTATION, 1) >= 5
            yield (image.height, image.width) if on_its_side else (image.width, image.height)


def _file(picture: Picture) -> Image.Image:
    """The picture, not read beyond its header yet."""
    if isinstance(picture, Image.Image):
        return picture
    return Image.open(picture if isinstance(picture, Path) else io.BytesIO(picture))
