"""DM's step as its paper writes it: a loop over classes, each with its own real batch, its own forward passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def literal_loss(
    embed: Callable[[Tensor], Tensor],
    real_of_class: Sequence[Tensor],
    synthetic_of_class: Sequence[Tensor],
    augment: Callable[[Tensor, int], Tensor] | None = None,
) -> Tensor:
    """Sum over classes of the squared distance between mean embeddings (Zhao & Bilen 2023; LatentDD Algorithm 2).

    Args:
        embed: features of a batch, [B, ...] -> [B, F].
        real_of_class, synthetic_of_class: for each class its items.
        augment: (items, class) -> items; must use the same parameters for both calls of a class.
    """
    loss = torch.zeros((), dtype=synthetic_of_class[0].dtype)
    for number, (real, synthetic) in enumerate(zip(real_of_class, synthetic_of_class, strict=True)):
        if augment is not None:
            real, synthetic = augment(real, number), augment(synthetic, number)
        mean_of_real = embed(real).detach().mean(dim=0)
        mean_of_synthetic = embed(synthetic).mean(dim=0)
        loss = loss + torch.sum((mean_of_real - mean_of_synthetic) ** 2)
    return loss


def literal_convnet_features(parameters: dict[str, Tensor], depth: int) -> Callable[[Tensor], Tensor]:
    """ConvNet features written out: conv 3x3, instance norm with scale and shift, ReLU, 2x2 mean; then flattened.

    Args:
        parameters: "weight0", "bias0", "scale0", "shift0", "weight1", ...
        depth: number of blocks.
    """

    def embed(items: Tensor) -> Tensor:
        for block in range(depth):
            items = torch.nn.functional.conv2d(
                items, parameters[f"weight{block}"], parameters[f"bias{block}"], padding=1
            )
            mean = items.mean(dim=(2, 3), keepdim=True)
            variance = ((items - mean) ** 2).mean(dim=(2, 3), keepdim=True)
            items = (items - mean) / torch.sqrt(variance + 1e-5)
            items = items * parameters[f"scale{block}"][:, None, None] + parameters[f"shift{block}"][:, None, None]
            items = torch.clamp(items, min=0)
            height, width = items.shape[2] // 2 * 2, items.shape[3] // 2 * 2
            top, bottom = items[:, :, 0:height:2, :width], items[:, :, 1:height:2, :width]
            items = (top[..., 0::2] + top[..., 1::2] + bottom[..., 0::2] + bottom[..., 1::2]) / 4
        return items.flatten(1)

    return embed
