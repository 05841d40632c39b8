"""Frequencies: Fourier coefficients of whole codes under a mask for each class, chosen by variance (FreD)."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from attar.base.errors import InputError
from attar.base.shapes import CodeBatch, Float, Indices, Int64, Labels
from attar.data.resizing import Grid
from attar.methods.initialization.sources import Sources, encoded
from attar.methods.parameterizations.codes import Storage, codes_table, read_codes, store_codes
from attar.methods.parameterizations.parameterization import (
    Draw,
    LabelStorage,
    Material,
    Parameterization,
    ParameterizationConfig,
    Table,
)
from attar.models.codecs.codec import Codec

MASKS = "masks"
LARGEST_PLANE = 2**15 - 1
"""Places of frequencies are stored as int16."""

MOST_IMAGES = 1024
"""Images of a class that its mask is chosen by; variances of more change no more than their order among equals."""


class FrequenciesConfig(ParameterizationConfig):
    """The same few frequencies of every channel, learned for each item; which ones is one choice for each class.

    Args:
        num_frequencies: of each channel, the mask's size (the official code's msz_per_channel).
        storage: of the coefficients; the masks are int16.

    Source: Shin, Shin & Moon 2023 (FreD), section 3.2.
    """

    has_range: ClassVar[bool] = False

    kind: Literal["frequencies"] = "frequencies"
    num_frequencies: int = Field(default=64, ge=1, le=LARGEST_PLANE)
    storage: Storage = "float32"

    def codes_of_images(self, codec: Codec) -> int:
        """As many items as hold an image's values: num_frequencies of each channel in place of h w."""
        return max(1, codec.num_image_values // (codec.code_shape[0] * self.num_frequencies))

    def restores_loss(self, codec: Any) -> bool:
        return True

    def spec(self, codec: Codec, num_classes: int) -> dict[str, Any]:
        return super().spec(codec, num_classes) | {"num_frequencies": self.num_frequencies, "num_masks": num_classes}

    def initial(self, material: Material) -> Frequencies:
        codec, train = material.spaces.codec, material.train
        _, height, width = codec.code_shape
        if not self.num_frequencies <= height * width <= LARGEST_PLANE:
            most = min(height * width, LARGEST_PLANE)
            raise InputError(
                f"codes of {height} x {width} have {height * width} frequencies in a channel and "
                f"{self.num_frequencies} were asked for; set parameterization.num_frequencies to at most {most}"
            )
        masks = []
        for members in train.class_indices:
            images = Sources(train, members[:MOST_IMAGES])
            masks.append(varying_frequencies(encoded(codec, images, Grid(1)), self.num_frequencies))
        labels = material.labels()
        spectra = to_frequencies(material.codes()).flatten(2)
        mask_of_item = torch.stack(masks)[labels]
        values = spectra.gather(2, mask_of_item[:, None].expand(-1, spectra.shape[1], -1))
        return Frequencies(codec, values, torch.stack(masks), labels, self.storage)


class FrequenciesSpec(FrequenciesConfig):
    """What a file says of its items.

    Args:
        num_masks: classes among the items, each with a mask, in the order in which they come.
        label_storage: of soft labels, where there are any.
    """

    num_masks: int = Field(ge=1)
    label_storage: LabelStorage | None = None


class Frequencies(Parameterization):
    """M items, each with n values of every channel's two-dimensional DCT-II; all other coefficients are zero.

        code_i[c] = C_h^T S_i[c] C_w,   S_i[c] zero but at the n frequencies of the item's class

    C is orthonormal, so that a step along the values' gradient is the step along the code's, projected onto the mask.

    Args:
        codec: of the codes.
        values: float32 [M, c, n], the starting point.
        masks: int64 [classes among the items, n], places u w + v of frequencies (u, v), in the items' order of classes.
        labels: int64 [M], the items of a class side by side.
        storage: how `payload` stores the values.

    Source: FreD section 3.1, equations 3 to 5, with the DCT of its experiments.
    Deviation: masks are chosen by the variance over the class's training images; the official code takes those images
        alone that the items start from, which for one item of a class is no variance at all.
    """

    kind = "frequencies"
    spec_type = FrequenciesSpec
    masks: Tensor
    rows: Tensor

    def __init__(
        self,
        codec: Codec,
        values: Float[Tensor, "items c n"],
        masks: Int64[Tensor, "masks n"],
        labels: Labels,
        storage: Storage = "float32",
    ) -> None:
        super().__init__(labels)
        rows = _rows_of(labels)
        if int(rows[-1]) + 1 != len(masks):
            raise InputError(f"{int(rows[-1]) + 1} classes in a row have {len(masks)} masks; the file is damaged")
        _, height, width = codec.code_shape
        if int(masks.min()) < 0 or int(masks.max()) >= height * width:
            raise InputError(f"a mask names a frequency beyond {height} x {width}; the file is damaged")
        self.codec = codec
        self.values = nn.Parameter(values.detach().clone().float())
        self.storage: Storage = storage
        self.register_buffer("masks", masks.clone())
        self.register_buffer("rows", rows)

    def forward(self, items: Indices, generator: Draw = None) -> CodeBatch:
        channels, height, width = self.codec.code_shape
        places = self.masks[self.rows[items]][:, None].expand(-1, channels, -1)
        spectra = self.values.new_zeros(len(items), channels, height * width).scatter(2, places, self.values[items])
        return from_frequencies(spectra.unflatten(2, (height, width)))

    def remade(self, sources: Sources, preprocess: Codec) -> Parameterization:
        spectra = to_frequencies(encoded(self.codec, sources, Grid(1))).flatten(2)
        places = self.masks[self.rows][:, None].expand(-1, spectra.shape[1], -1)
        again = Frequencies(self.codec, spectra.gather(2, places), self.masks, sources.labels, self.storage)
        return Frequencies.restore(self.codec, again.payload(), again.spec())

    def item_payload(self) -> dict[str, Tensor]:
        tensors = store_codes(self.values.detach().cpu().unsqueeze(3), self.storage)
        return tensors | {MASKS: self.masks.cpu().to(torch.int16)}

    def item_spec(self) -> dict[str, Any]:
        num_masks, num_frequencies = self.masks.shape
        sizes = {"num_frequencies": num_frequencies, "num_masks": num_masks}
        return {"kind": self.kind, "storage": self.storage, **sizes}

    @classmethod
    def item_table(cls, spec: Any, num_items: int, code_shape: tuple[int, int, int]) -> Table:
        table = codes_table(spec.storage, num_items, (code_shape[0], spec.num_frequencies, 1))
        return table | {MASKS: ("I16", (spec.num_masks, spec.num_frequencies))}

    @classmethod
    def _rebuilt(cls, codec: Codec, payload: dict[str, Tensor], spec: Any, preprocess: Codec | None) -> Frequencies:
        values = read_codes(payload).squeeze(3)
        return Frequencies(codec, values, payload[MASKS].long(), payload["labels"].long(), spec.storage)


def to_frequencies(codes: Float[Tensor, "items c h w"]) -> Float[Tensor, "items c h w"]:
    """The orthonormal two-dimensional DCT-II of every channel: C_h X C_w^T."""
    height, width = codes.shape[2:]
    return cosines(height).to(codes) @ codes @ cosines(width).to(codes).T


def from_frequencies(spectra: Float[Tensor, "items c h w"]) -> Float[Tensor, "items c h w"]:
    """What `to_frequencies` came from: C_h^T S C_w."""
    height, width = spectra.shape[2:]
    return cosines(height).to(spectra).T @ spectra @ cosines(width).to(spectra)


def cosines(size: int) -> Float[Tensor, "size size"]:
    """C[k, n] = a_k cos(pi (2 n + 1) k / (2 size)),   a_0 = sqrt(1 / size), a_k = sqrt(2 / size); float64."""
    places = torch.arange(size, dtype=torch.float64)
    basis = torch.cos(math.pi * (2 * places + 1) * places[:, None] / (2 * size)) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis


def varying_frequencies(codes: Float[Tensor, "items c h w"], count: int) -> Int64[Tensor, " count"]:
    """The `count` frequencies of largest variance over the items, as places in a plane, ascending.

    Colours are averaged first, so that all channels of a class have one mask. Ties go to the lower place.

    Source: FreD section 3.2, where a frequency's explained variance ratio is its share of the total variance.
    """
    planes = to_frequencies(codes).mean(1).flatten(1).double()
    variances = planes.var(0, correction=0)
    return variances.argsort(descending=True, stable=True)[:count].sort().values


def _rows_of(labels: Tensor) -> Labels:
    """0 for the items of the class that comes first, 1 for the next: the mask's row, whatever a merge renames."""
    changes = (labels[1:] != labels[:-1]).long().cumsum(0)
    return torch.cat([changes.new_zeros(1), changes])
