"""Shape annotations: jaxtyping's where it is installed (the tests check them), plain names where it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Int64, UInt8
else:
    try:
        from jaxtyping import Bool, Float, Int, Int64, UInt8
    except ImportError:

        class _Annotation:
            def __class_getitem__(cls, item: Any) -> Any:
                return item[0]

        Bool = Float = Int = Int64 = UInt8 = _Annotation

Indices: TypeAlias = Int64[Tensor, " batch"]
Labels: TypeAlias = Int64[Tensor, " items"]
Images: TypeAlias = Float[Tensor, "batch C H W"]
CodeBatch: TypeAlias = Float[Tensor, "batch c h w"]
"""Codes, or network inputs: items in whatever space they are matched in."""

__all__ = ["Bool", "CodeBatch", "Float", "Images", "Indices", "Int", "Int64", "Labels", "UInt8"]
