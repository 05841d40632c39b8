"""One picture of a distilled set: a row for each class, its name at the left, its items beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from attar.base.errors import InputError
from attar.base.files import atomic_path, refuse_existing
from attar.base.shapes import Float, UInt8
from attar.data.image_set import ImageSet
from attar.report.interpolation import Interpolation, images_between, item_name

if TYPE_CHECKING:
    from attar.sets.distilled import DistilledSet

PAPER, INK, FAINT = (255, 255, 255), (34, 34, 34), (110, 110, 110)
SMALL_SIDE, LARGE_SIDE = 72, 160  # smaller images are magnified to about the first, larger ones reduced to the second
GAP, MARGIN, DIVIDER = 3, 14, 22
LABEL_WIDTH = 170
SHEET_WIDTH = 1800
ONE_BLOCK_CLASSES = 20
SHAPE = 1.3  # width over height aimed at where there are many classes
LARGEST_PIXELS = 120_000_000
TEXT, HEADING = 13, 15
STEPS = 8


def show(
    distilled: DistilledSet,
    out: Path | str,
    *,
    overwrite: bool = False,
    per_class: int | None = None,
    scale: float | None = None,
    real: ImageSet | None = None,
    epoch: int | None = None,
    samples: int | None = None,
    between: Sequence[str] | str | None = None,
    steps: int | None = None,
    interpolation: Interpolation | None = None,
    title: str | None = None,
) -> Path:
    """Write a PNG contact sheet: rows are classes, columns are items; real images of the same classes at the right.

    With `samples` rows are items that are distributions: the mean, and samples beside it. With `between` there is one
    row, or a square, of images on the way from one item's code to another's.

    Values outside [0, 1] are clamped. Small images are magnified without smoothing, so that every pixel is seen.

    Args:
        distilled: the set.
        out: path of the PNG.
        overwrite: replace an existing file.
        per_class: at most so many items of each class, at least 1; None shows as many as a page is wide.
        scale: screen pixels for one pixel of an image: a whole number, or a fraction below 1; None chooses.
        real: real images to set beside them, the first ones of every class.
        epoch: which sample of items that are distributions; None shows their means.
        samples: how many of each item, those of epochs 0, 1, ...
        between: two or four items, e.g. ["cat:3", "dog"] or "cat:3,dog"; see `images_between`.
        steps: images along a side from one item to another; 8 where nothing is said.
        interpolation: "linear", where nothing is said, or "spherical".
        title: None says data, recipe, items and bytes.

    Raises:
        InputError: an existing or impossible `out`, a number out of range or without effect, real images of other
            classes, items between which nothing lies.

    Source: D3 section 3.2, Figures 3 (`samples`) and 4 (`between`).
    """
    path = Path(out)
    refuse_existing(path, overwrite)
    if path.suffix.lower() != ".png":
        raise InputError(f"a contact sheet is a PNG and {path.name!r} is not; name it e.g. {path.stem}.png")
    _check_numbers(distilled, per_class, scale, real, epoch, samples)
    of_classes = {"real images": real, "epoch": epoch, "per_class": per_class}
    _check_effects(between, samples, {"steps": steps, "interpolation": interpolation}, of_classes)
    sheet = _Sheet(distilled, scale or _scale_for(distilled.image_shape), title or _title(distilled))
    if between is not None:
        image = sheet.between(between, steps or STEPS, interpolation or "linear")
    elif samples is not None:
        image = sheet.samples(samples, per_class)
    else:
        image = sheet.classes(per_class, real, epoch)
    return _save(image, path)


@dataclass(frozen=True)
class _Sheet:
    """The kinds of sheets of one set, whose images are magnified `scale` times."""

    distilled: DistilledSet
    scale: float
    title: str

    def classes(self, per_class: int | None, real: ImageSet | None, epoch: int | None) -> Image.Image:
        """Draw a row for each class: its items, and real images beside them."""
        most = _most_items(self.distilled)
        count = min(per_class or _columns_for(self.distilled.image_shape, self.scale, real), most)
        self._refuse_cells(count * (1 if real is None else 2), len(self.distilled.classes))
        labels = self.distilled.labels.cpu()
        members = [(labels == label).nonzero()[:count, 0] for label in range(len(self.distilled.classes))]
        groups = [
            [_pictures(self.distilled.images(items, epoch), self.scale) if len(items) else [] for items in members]
        ]
        if real is not None:
            groups.append([_pictures(real.images[items[:count]], self.scale) for items in real.class_indices])
        return draw_sheet(self._titled(count, most), self.distilled.classes, groups, ("distilled", "real"))

    def samples(self, samples: int, per_class: int | None) -> Image.Image:
        """Draw a row for each item: its mean, and so many samples."""
        labels, most = self.distilled.labels.cpu(), _most_items(self.distilled)
        count = per_class or most
        members = [(labels == label).nonzero()[:count, 0] for label in range(len(self.distilled.classes))]
        items = torch.cat(members)
        self._refuse_cells(1 + samples, len(items))
        columns = [_pictures(self.distilled.images(items, epoch), self.scale) for epoch in range(samples)]
        means = _pictures(self.distilled.images(items, None), self.scale)
        groups = [[[mean] for mean in means], [list(row) for row in zip(*columns, strict=True)]]
        names = [item_name(self.distilled, int(item)) for item in items]
        return draw_sheet(self._titled(count, most), names, groups, ("mean", "samples"))

    def between(self, between: Sequence[str] | str, steps: int, interpolation: Interpolation) -> Image.Image:
        """Draw one row from an item to another, or a square of rows."""
        items, images = images_between(self.distilled, between, steps, interpolation)
        self._refuse_cells(images.shape[1], len(images))
        names = [item_name(self.distilled, item) for item in items]
        ends = [f"{one} to {other}" for one, other in zip(names[::2], names[1::2], strict=True)]
        rows = [ends[0], *[""] * (len(images) - 2), ends[-1]] if len(images) > 1 else ends
        title = f"{self.title}, {interpolation} between {' and '.join(names) if len(names) == 2 else 'four items'}"
        return draw_sheet(title, rows, [[_pictures(row, self.scale) for row in images]], ("between",))

    def _titled(self, count: int, most: int) -> str:
        return self.title if count >= most else f"{self.title}  (the first {count} of {most} of each class)"

    def _refuse_cells(self, columns: int, rows: int) -> None:
        """Refuse a sheet that is too large before anything is decoded."""
        _, height, width = (round(side * self.scale) for side in self.distilled.image_shape)
        _refuse_large(width * columns, height * rows)


def _save(image: Image.Image, path: Path) -> Path:
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG")
    return path


def show_beside(
    out: Path,
    names: Sequence[str],
    columns: Sequence[Tensor],
    headings: Sequence[str],
    title: str,
    *,
    overwrite: bool = False,
) -> Path:
    """Write a PNG with one row for each name: an image of every column.

    Args:
        out: path of the PNG.
        names: of the rows.
        columns: images [rows, C, H, W] each, all of one shape; uint8, or in [0, 1].
        headings: of the columns.
        title: above the picture.
        overwrite: replace an existing file.

    Raises:
        InputError: an existing `out`, or a sheet of more than `LARGEST_PIXELS` pixels.
    """
    refuse_existing(out, overwrite)
    channels, height, width = columns[0].shape[1:]
    scale = _scale_for((channels, height, width))
    _refuse_large(round(width * scale) * len(columns), round(height * scale) * len(names))
    groups = [[[picture] for picture in _pictures(images, scale)] for images in columns]
    return _save(draw_sheet(title, names, groups, headings), out)


def draw_sheet(
    title: str,
    classes: Sequence[str],
    groups: Sequence[Sequence[Sequence[Image.Image]]],
    headings: Sequence[str],
) -> Image.Image:
    """Draw the sheet of `groups[group][class][column]`, pictures of one size; two or more groups have headings above.

    Raises:
        InputError: a sheet of more than `LARGEST_PIXELS` pixels.
    """
    layout = _Layout.of(classes, groups)
    font, heading = _font(TEXT), _font(HEADING, bold=True)
    title_lines = wrap(title, heading, layout.width - 2 * MARGIN, 3)
    top = MARGIN + len(title_lines) * (HEADING + 6) + (TEXT + 8 if len(groups) > 1 else 4)
    height = top + layout.rows * layout.pitch + MARGIN
    _refuse_large(layout.width, height)
    sheet = Image.new("RGB", (layout.width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(title_lines):
        draw.text((MARGIN, MARGIN + number * (HEADING + 6)), line, INK, heading)
    if len(groups) > 1:
        _draw_headings(draw, layout, headings, top - TEXT - 6, font)
    for index, name in enumerate(classes):
        left, upper = layout.place(index, top)
        _draw_name(draw, name, (left, upper), layout, font)
        for group, start in zip(groups, layout.starts, strict=True):
            for column, picture in enumerate(group[index]):
                sheet.paste(picture, (left + start + column * (layout.cell_width + GAP), upper))
    return sheet


def wrap(text: str, font: ImageFont.FreeTypeFont, width: float, num_lines: int) -> list[str]:
    """Break `text` into at most `num_lines` lines of at most `width` pixels.

    Lines break at spaces, then after hyphens and underscores; what is still too long loses its middle, because the
    beginning and the end tell long names apart.
    """
    pieces = text.replace("-", "-\0").replace("_", "_\0").replace(" ", " \0").split("\0")
    lines = [""]
    for piece in pieces:
        if font.getlength((lines[-1] + piece).rstrip()) <= width or not lines[-1]:
            lines[-1] += piece
        else:
            lines.append(piece)
    lines = [line.rstrip() for line in lines]
    if len(lines) > num_lines:
        lines = [*lines[: num_lines - 1], "".join(_rest(text, lines[: num_lines - 1]))]
    return [_without_middle(line, font, width) for line in lines]


@dataclass(frozen=True)
class _Layout:
    """Where rows and columns lie, in pixels. Many classes are drawn in blocks that stand side by side."""

    cell_width: int
    pitch: int
    label_width: int
    starts: tuple[int, ...]
    block_width: int
    num_blocks: int
    rows: int

    @classmethod
    def of(cls, classes: Sequence[str], groups: Sequence[Sequence[Sequence[Image.Image]]]) -> _Layout:
        pictures = [picture for group in groups for row in group for picture in row]
        cell_width, cell_height = pictures[0].size
        font = _font(TEXT)
        label = min(LABEL_WIDTH, max(math.ceil(font.getlength(name)) for name in classes))
        pitch = max(cell_height, TEXT + 4) + GAP
        starts, right = [], label + 10
        for group in groups:
            starts.append(right)
            right += max(len(row) for row in group) * (cell_width + GAP) - GAP + DIVIDER
        width = right - DIVIDER
        blocks = _num_blocks(len(classes), width + 2 * DIVIDER, pitch)
        rows = math.ceil(len(classes) / blocks)
        return cls(cell_width, pitch, label, tuple(starts), width, math.ceil(len(classes) / rows), rows)

    @property
    def width(self) -> int:
        return max(320, 2 * MARGIN + self.num_blocks * (self.block_width + 2 * DIVIDER) - 2 * DIVIDER)

    def place(self, index: int, top: int) -> tuple[int, int]:
        """Return the left and upper corner of the row of class `index`."""
        block, row = divmod(index, self.rows)
        return MARGIN + block * (self.block_width + 2 * DIVIDER), top + row * self.pitch


def _num_blocks(num_classes: int, width: int, pitch: int) -> int:
    if num_classes <= ONE_BLOCK_CLASSES:
        return 1

    def misfit(blocks: int) -> float:
        return abs(math.log(blocks * width / (math.ceil(num_classes / blocks) * pitch) / SHAPE))

    return min(range(1, num_classes + 1), key=misfit)


def _draw_headings(
    draw: ImageDraw.ImageDraw, layout: _Layout, headings: Sequence[str], upper: int, font: ImageFont.FreeTypeFont
) -> None:
    for block in range(layout.num_blocks):
        left, _ = layout.place(block * layout.rows, 0)
        for start, heading in zip(layout.starts, headings, strict=False):
            draw.text((left + start, upper), heading, FAINT, font)


def _draw_name(
    draw: ImageDraw.ImageDraw, name: str, corner: tuple[int, int], layout: _Layout, font: ImageFont.FreeTypeFont
) -> None:
    """Draw the name at the right of its column, in the middle of its row."""
    lines = wrap(name, font, layout.label_width, max(1, (layout.pitch - GAP) // (TEXT + 3)))
    upper = corner[1] + (layout.pitch - GAP - len(lines) * (TEXT + 3)) / 2
    for number, line in enumerate(lines):
        left = corner[0] + layout.label_width - font.getlength(line)
        draw.text((left, upper + number * (TEXT + 3)), line, INK, font)


def _refuse_large(width: int, height: int) -> None:
    if width * height > LARGEST_PIXELS:
        raise InputError(
            f"a sheet of {width} x {height} pixels is too much; show fewer items a class, or a smaller scale"
        )


def _check_numbers(
    distilled: DistilledSet,
    per_class: int | None,
    scale: float | None,
    real: ImageSet | None,
    epoch: int | None,
    samples: int | None,
) -> None:
    """Refuse what no sheet of the set can be drawn with."""
    if per_class is not None and per_class < 1:
        raise InputError(f"per_class is {per_class}; at least 1 item of each class must be shown")
    if samples is not None and samples < 1:
        raise InputError(f"{samples} samples were asked for; at least 1 of each item must be shown")
    for option, value in (("epoch", epoch), ("samples", samples)):
        if value is not None and not distilled.stochastic:
            raise InputError(f"{option} has no effect: the set's items are the same in every epoch; leave it out")
    if scale is not None and not (0 < scale < 1 or (scale >= 1 and scale == int(scale))):
        raise InputError(f"scale is {scale}; a whole number, or a fraction between 0 and 1, is needed")
    shape = tuple(distilled.image_shape)
    if real is not None and (real.classes, real.image_shape) != (tuple(distilled.classes), shape):
        raise InputError(
            f"the real images ({real.num_classes} classes of {real.image_shape}) do not fit the set "
            f"({len(distilled.classes)} classes of {shape}); load them as for distilling"
        )


def _check_effects(
    between: object, samples: int | None, of_between: Mapping[str, object], of_classes: Mapping[str, object]
) -> None:
    """Refuse an option that has no effect on the kind of sheet that is asked for."""
    if between is None and any(value is not None for value in of_between.values()):
        raise InputError("steps and interpolation have no effect without between; name two items, e.g. cat,dog")
    if between is not None:
        sheet, others = "between", {"samples": samples, **of_classes}
    elif samples is not None:
        sheet, others = "samples", {**of_classes, "per_class": None}
    else:
        return
    for option, value in others.items():
        if value is not None:
            raise InputError(f"{option} has no effect on a picture of {sheet}; leave one of them out")


def _title(distilled: DistilledSet) -> str:
    manifest = distilled.manifest
    recipe = manifest.recipe.get("name") or "unknown recipe"
    size = f"{distilled.storage.file_bytes:,} bytes"
    return f"{manifest.data.name}, {recipe}: {len(distilled)} items, {len(distilled.classes)} classes, {size}"


def _scale_for(image_shape: tuple[int, int, int]) -> float:
    side = max(image_shape[1:])
    return LARGE_SIDE / side if side > LARGE_SIDE else max(1, round(SMALL_SIDE / side))


def _columns_for(image_shape: tuple[int, int, int], scale: float, real: ImageSet | None) -> int:
    fitting = (SHEET_WIDTH - LABEL_WIDTH) // (round(image_shape[2] * scale) + GAP)
    return max(1, int(fitting // (1 if real is None else 2)))


def _most_items(distilled: DistilledSet) -> int:
    return max(1, int(torch.bincount(distilled.labels.cpu(), minlength=len(distilled.classes)).max()))


def _pictures(images: Float[Tensor, "items C H W"] | UInt8[Tensor, "items C H W"], scale: float) -> list[Image.Image]:
    if images.dtype != torch.uint8:
        images = (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    arrays = images.cpu().permute(0, 2, 3, 1).expand(-1, -1, -1, 3).contiguous().numpy()
    return [_scaled(Image.fromarray(array), scale) for array in arrays]


def _scaled(picture: Image.Image, scale: float) -> Image.Image:
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS)


def _rest(text: str, shown: Sequence[str]) -> str:
    """Return what follows in `text` after the first lines."""
    position = 0
    for line in shown:
        position = text.index(line, position) + len(line)
    return text[position:].strip()


def _without_middle(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    if font.getlength(text) <= width:
        return text
    for length in range(len(text) - 1, 1, -1):
        shortened = f"{text[: math.ceil(length / 2)].rstrip()}…{text[len(text) - length // 2 :].lstrip()}"
        if font.getlength(shortened) <= width:
            return shortened
    return "…"


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Load DejaVu Sans, which comes with matplotlib: the same letters on every machine, well beyond Latin."""
    import matplotlib

    name: Literal["DejaVuSans-Bold.ttf", "DejaVuSans.ttf"] = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)
