"""GLaD, literally: attar's own generator layer by layer, and a step of gradient descent through all of it at once."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def style_layer(values: dict[str, Tensor], name: str, maps: Tensor, latents: Tensor, doubled: bool) -> Tensor:
    """leaky(norm(conv(x)) (1 + A w) + B w), each group's mean and variance taken by hand."""
    if doubled:
        maps = maps.repeat_interleave(2, 2).repeat_interleave(2, 3)
    found = F.conv2d(maps, values[f"{name}.convolution.weight"], values[f"{name}.convolution.bias"], padding=1)
    channels = found.shape[1]
    grouped = found.reshape(len(found), 8, -1)
    centred = grouped - grouped.mean(2, keepdim=True)
    normed = (centred / (centred.square().mean(2, keepdim=True) + 1e-5).sqrt()).reshape(found.shape)
    style = latents @ values[f"{name}.style.weight"].T + values[f"{name}.style.bias"]
    scale, shift = style[:, :channels, None, None], style[:, channels:, None, None]
    styled = normed * (1 + scale) + shift
    return torch.where(styled > 0, styled, 0.2 * styled)


def synthesis(
    values: dict[str, Tensor], latents: Tensor, num_layers: int, features: Tensor | None = None, depth: int = 0
) -> Tensor:
    """G(w), or G(w, f) without its first `depth` layers; sides double before layer 3, 5, ..."""
    maps = values["first"].repeat(len(latents), 1, 1, 1) if features is None else features
    for number in range(depth, num_layers):
        maps = style_layer(values, f"layers.{number}", maps, latents, number > 0 and number % 2 == 0)
    maps = style_layer(values, "last", maps, latents, False)
    return 0.5 + F.conv2d(maps, values["to_image.weight"], values["to_image.bias"])


def mapping(values: dict[str, Tensor], noise: Tensor, classes: Tensor) -> Tensor:
    """w of noise and a class."""
    joined = torch.cat([noise, values["classes.weight"][classes]], 1)
    entered = joined @ values["enter.weight"].T + values["enter.bias"]
    return torch.where(entered > 0, entered, 0.2 * entered) @ values["leave.weight"].T + values["leave.bias"]


def two_passes(codes: Tensor, features: Tensor | None, render: Any, loss: Any, split: int) -> list[Tensor]:
    """The official code's gradient: images without graph, dL/dx of them, then rendered again `split` at a time."""
    with torch.no_grad():
        images = render(codes, features)
    leaf = images.clone().requires_grad_(True)
    loss(leaf).backward()
    assert leaf.grad is not None
    learned = [value.detach().clone().requires_grad_(True) for value in (codes, features) if value is not None]
    for start in range(0, len(codes), split):
        part = slice(start, start + split)
        parts = [value[part] for value in learned]
        again = render(parts[0], parts[1] if len(parts) > 1 else None)
        again.backward(leaf.grad[part])
    return [value.grad for value in learned if value.grad is not None]
