"""Where every tensor of a set lies in its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from attar.codecs.codec import Codec
from attar.manifest import Manifest


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
