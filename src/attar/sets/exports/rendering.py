"""What every layout shares: items class after class, 8-bit pictures, and what an export says of itself."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from attar.base.shapes import Float, Int64
from attar.sets.distilled import DistilledSet

ABOUT = "attar-export.json"
CLASSES = "classes.json"
REGIONS_LOST = "region labels are left out: the items are here as whole images with their hard labels"
SIZE_LOST = "codes and decoder are replaced by pixels, so the size is no longer the distilled file's"
PREPROCESSING_LOST = "the preprocessing of network inputs is not applied and not in the pictures"
CHUNK = 256


class Rendered:
    """The items of a set, class after class: their labels, and their pictures one by one.

    Args:
        distilled: any set whose codecs are complete.
    """

    def __init__(self, distilled: DistilledSet) -> None:
        self._distilled = distilled
        self._cut, self._seen, self._largest = 0, 0, 0.0
        self.order: Int64[Tensor, " items"] = torch.argsort(distilled.labels, stable=True)
        self.labels: list[int] = distilled.labels[self.order].tolist()

    @property
    def soft_labels(self) -> Float[Tensor, "items classes"] | None:
        """In the same order; None where the set has none."""
        soft = self._distilled.soft_labels
        return None if soft is None else soft[self.order]

    def pictures(self) -> Iterator[Image.Image]:
        """Each item cut to [0, 1] and rounded to 8 bits."""
        for part in self.order.split(CHUNK):
            images = self._distilled.images(part)
            pixels = images.clamp(0, 1).mul(255).round().to(torch.uint8)
            self._cut += int(((images < 0) | (images > 1)).sum())
            self._seen += images.numel()
            self._largest = max(self._largest, float((pixels / 255 - images).abs().max()))
            for picture in pixels:
                array = picture.permute(1, 2, 0).numpy()
                yield Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)

    @property
    def rounding(self) -> str:
        """What `pictures` changed, once it has given all of them."""
        return (
            f"values were cut to [0, 1] ({self._cut / self._seen:.2%} lay outside) and rounded to 8 bits; the largest "
            f"change is {self._largest:.4f}"
        )


def png_bytes(picture: Image.Image) -> bytes:
    """The picture as a PNG file."""
    content = io.BytesIO()
    picture.save(content, format="PNG")
    return content.getvalue()


def lost_with_pictures(rendered: Rendered) -> list[str]:
    """What is lost wherever items become 8-bit pictures, after the last of them."""
    return [rendered.rounding, PREPROCESSING_LOST, SIZE_LOST]


def about(distilled: DistilledSet, target: str, lost: list[str]) -> dict[str, Any]:
    """What an export says of itself, JSON-able.

    Args:
        distilled: the set.
        target: the layout.
        lost: what the layout cannot hold, a line each.
    """
    if distilled.manifest.labels_kind == "regions":
        lost = [*lost, REGIONS_LOST]
    if distilled.stochastic:
        lost = [*lost, "items that are distributions are here as one sample each"]
    return {
        "format": target,
        "made_by": f"attar {distilled.manifest.attar_version}",
        "set": distilled.name,
        "content_sha256": distilled.manifest.content_sha256,
        "num_images": len(distilled),
        "image_shape": list(distilled.image_shape),
        "preprocess": distilled.manifest.preprocess.spec,
        "labels_kind": distilled.manifest.labels_kind,
        "learned": distilled.learned,
        "lost": lost,
        "privacy": distilled.manifest.privacy,
    }


def json_text(value: Any) -> str:
    """JSON as a person reads it."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write `json_text` to a file."""
    path.write_text(json_text(value), encoding="utf-8")
