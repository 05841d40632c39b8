"""Where every tensor of a set lies in its file, and the codecs that are made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from attar.codecs.codec import Codec
from attar.codecs.registry import restore_codec
from attar.container import one_line
from attar.errors import InputError
from attar.manifest import CodecSpec, Manifest


def codec_tensors(manifest: Manifest, codecs: Mapping[str, Codec]) -> dict[str, Tensor]:
    """The tensors of codecs, by identity, at the first place that names each."""
    return {
        manifest.codec_prefix(identity) + name: at_rest(tensor)
        for identity, codec in codecs.items()
        for name, tensor in codec.stored_tensors().items()
    }


def shard_tensors(payloads: Sequence[Mapping[str, Tensor]], prefix: str = "") -> dict[str, Tensor]:
    """One mapping for each shard, as one of full names."""
    return {
        f"shards.{i}.{prefix}{name}": tensor for i, payload in enumerate(payloads) for name, tensor in payload.items()
    }


def at_rest(tensor: Tensor) -> Tensor:
    """A copy of its own memory on the CPU."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def restored_codec(
    spec: CodecSpec, tensors: Mapping[str, Tensor], image_shape: tuple[int, int, int], where: str
) -> Codec:
    """The codec that a manifest describes.

    Args:
        spec: the description.
        tensors: what the file holds of it.
        image_shape: of the set.
        where: what error messages call the set.

    Raises:
        InputError: public weights that are absent, or a codec that is not the one announced.
    """
    kind = str(spec.spec.get("kind"))[:80]
    try:
        codec = restore_codec(spec.spec, dict(tensors))
    except InputError as error:
        raise InputError(f"{where}: {_absence(spec, kind)}: {error}") from None
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{where}: codec {kind!r} cannot be restored: {one_line(error)}") from None
    if codec.identity() != spec.identity or codec.external() != spec.external:
        raise InputError(f"{where}: codec {kind!r} is not the one this file was made with")
    if codec.code_shape != spec.code_shape or codec.image_shape != image_shape:
        raise InputError(f"{where}: codec {kind!r} makes images or codes of another shape than announced")
    return codec


def _absence(spec: CodecSpec, kind: str) -> str:
    if spec.external is None:
        return f"codec {kind!r}"
    needed = spec.external
    return f"images need the weights {needed.id!r} (sha256 {needed.sha256}, {needed.num_bytes} bytes)"
