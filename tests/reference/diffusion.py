"""LD3M's Algorithm 1, transcribed in float64 without cleverness: one graph over all steps, item by item."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Predict = Callable[[Tensor, int, Tensor], Tensor]


def algorithm_1(
    predict: Predict,
    alpha_bars: Tensor,
    codes: Tensor,
    conditioning: Tensor,
    null: Tensor,
    noise: Callable[[int], Tensor],
    num_steps: int,
    guidance: float = 3.0,
    eta: float = 0.0,
    residual: bool = True,
) -> Tensor:
    """z_0 by Eq. 9 and 12, with sigma_t in the place of sigma_t^2.

    Args:
        predict: f_theta(z, level, c).
        alpha_bars: gamma of the paper at every level.
        codes: Z.
        conditioning: c.
        null: conditioning of no class.
        noise: eps_t; 0 is that of z_T.
        num_steps: T, at the levels (t - 1) floor(S / T) + 1.
        guidance: of the classifier-free kind.
        eta: share of the posterior's deviation.
        residual: whether Eq. 12's residual is there.
    """
    spacing = len(alpha_bars) // num_steps
    gamma = {t: float(alpha_bars[(t - 1) * spacing + 1]) for t in range(1, num_steps + 1)}
    gamma[0] = float(alpha_bars[0])
    level = {t: (t - 1) * spacing + 1 for t in range(1, num_steps + 1)}
    z_T = math.sqrt(gamma[num_steps]) * codes + math.sqrt(1 - gamma[num_steps]) * noise(0)
    z = z_T
    for t in range(num_steps, 0, -1):
        alpha = gamma[t] / gamma[t - 1]
        given = predict(z, level[t], conditioning)
        without = predict(z, level[t], null.expand_as(conditioning))
        f = without + guidance * (given - without)
        mu = (z - (1 - alpha) / math.sqrt(1 - gamma[t]) * f) / math.sqrt(alpha)
        sigma = eta * math.sqrt((1 - gamma[t - 1]) / (1 - gamma[t]) * (1 - alpha))
        if residual:
            mu = (1 - t / num_steps) * mu + (t / num_steps) * z_T
        z = mu + sigma * noise(t)
    return z


def official_steps(
    predict: Predict, alpha_bars: Tensor, codes: Tensor, conditioning: Tensor, null: Tensor, begin: Tensor, steps: int
) -> Tensor:
    """The official code's DDIM at eta 0, guidance 3: pred_x0 blended with the clean latent at index / (S - 1)."""
    spacing = len(alpha_bars) // steps
    levels = [index * spacing + 1 for index in range(steps)]
    alphas = [float(alpha_bars[level]) for level in levels]
    before = [float(alpha_bars[0]), *alphas[:-1]]
    x = begin
    for index in reversed(range(steps)):
        given = predict(x, levels[index], conditioning)
        without = predict(x, levels[index], null.expand_as(conditioning))
        e_t = without + 3.0 * (given - without)
        pred_x0 = (x - math.sqrt(1 - alphas[index]) * e_t) / math.sqrt(alphas[index])
        weight = index / (steps - 1)
        pred_x0 = (1 - weight) * pred_x0 + weight * codes
        x = math.sqrt(before[index]) * pred_x0 + math.sqrt(1 - before[index]) * e_t
    return x


def three_passes(render: Callable[[], Tensor], loss: Callable[[Tensor], Tensor]) -> None:
    """The official recipe of a step: render without graph, find dL/dx, render again and send dL/dx back.

    `render` checkpoints its steps, so that the model runs once for the loss, once for the graph, once to go back.
    """
    with torch.no_grad():
        images = render()
    images.requires_grad_()
    (of_images,) = torch.autograd.grad(loss(images), images)
    render().backward(of_images)
