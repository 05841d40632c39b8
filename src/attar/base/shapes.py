"""Shape annotations: jaxtyping's where it is installed (the tests check them), plain names where it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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

__all__ = ["Bool", "Float", "Int", "Int64", "UInt8"]
