"""A codec as a file holds it, and out of a file that nobody vouches for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from attar.base.container import one_line
from attar.base.errors import InputError
from attar.base.files import canonical_json
from attar.models.codecs.codec import Codec, ExternalWeights
from attar.models.codecs.registry import restore_codec
from attar.sets.manifest import CodecSpec
from attar.sets.storages import describe_tensors


def describe_codec(codec: Codec) -> CodecSpec:
    """What a manifest says of `codec`."""
    return CodecSpec(
        spec=json.loads(canonical_json(codec.spec())),
        identity=codec.identity(),
        code_shape=codec.code_shape,
        external=codec.external(),
        tensors=describe_tensors(codec.stored_tensors()),
    )


def restored_codec(spec: dict[str, Any], tensors: Mapping[str, Tensor], external: ExternalWeights | None) -> Codec:
    """The codec with this spec and these tensors, as a file says them.

    Raises:
        InputError: anything malformed, or public weights that are absent (their id and hash are named).
    """
    kind = str(spec.get("kind"))[:80]
    try:
        codec = restore_codec(spec, dict(tensors))
    except InputError as error:
        raise InputError(f"{_absence(kind, external)}: {error}") from None
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"codec {kind!r} cannot be restored: {one_line(error)}") from None
    if codec.external() != external:
        raise InputError(f"codec {kind!r} is not the one this file was made with")
    return codec


def announced_codec(spec: CodecSpec, tensors: Mapping[str, Tensor], image_shape: tuple[int, int, int]) -> Codec:
    """The codec that a manifest describes.

    Raises:
        InputError: as of `restored_codec`, or a codec that is not the one announced.
    """
    codec = restored_codec(spec.spec, tensors, spec.external)
    if codec.identity() != spec.identity:
        raise InputError(f"codec {codec.kind!r} is not the one this file was made with")
    if codec.code_shape != spec.code_shape or codec.image_shape != image_shape:
        raise InputError(f"codec {codec.kind!r} makes images or codes of another shape than announced")
    return codec


def _absence(kind: str, external: ExternalWeights | None) -> str:
    if external is None:
        return f"codec {kind!r}"
    return f"images need the weights {external.id!r} (sha256 {external.sha256}, {external.num_bytes} bytes)"
