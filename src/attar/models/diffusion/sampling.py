"""The reverse process with a residual: a learned code and its conditioning become the code that is decoded."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from attar.base.randomness import Counter
from attar.base.shapes import Float
from attar.models.diffusion.model import DiffusionModel
from attar.models.diffusion.schedule import SamplingConfig, Step, steps_of

_HALF_SPACING = 2.0**-54
_LARGEST = 1 - 2.0**-53
"""They put the multiples of 2^-53 in [0, 1) into the open interval."""


def item_noise(seed: int, items: Sequence[int], step: int, shape: tuple[int, int, int]) -> Float[Tensor, "items c h w"]:
    """Standard normal values for each item and step on the CPU, whatever other items are drawn with it.

        eps = Phi^{-1}(u),   u = `Counter`(seed, item, step)

    Args:
        seed: of the set.
        items: their numbers.
        step: t of the noise that step t adds; 0 for that of z_T.
        shape: (c, h, w).
    """
    drawn = [Counter(seed, "diffusion noise", item, step).uniform(math.prod(shape)) for item in items]
    uniform = (torch.stack(drawn) + _HALF_SPACING).clamp_max(_LARGEST)  # the last multiple is rounded up to 1
    return torch.special.ndtri(uniform).float().unflatten(1, shape)


def sampled(
    model: DiffusionModel,
    config: SamplingConfig,
    codes: Float[Tensor, "batch c h w"],
    conditioning: Float[Tensor, "batch d"],
    noise: Callable[[int], Tensor],
    checkpointed: bool = True,
) -> Float[Tensor, "batch c h w"]:
    """z_0 of learned codes Z and conditioning c, differentiable with respect to both.

        z_T = sqrt(alpha_bar_T) Z + sqrt(1 - alpha_bar_T) eps_0
        z_{t-1} = (1 - w_t) mu(c, z_t) + w_t z_T + sigma_t eps_t,   t = T, ..., 1

    or, with the clean target, z_{t-1} = mu of ((1 - w_t) prediction + w_t Z). mu is the mean of the solver's step.

    Args:
        model: frozen.
        config: steps, solver, guidance and residual.
        codes: Z.
        conditioning: c.
        noise: eps by step; 0 is that of z_T.
        checkpointed: store z_t alone of every step and take the step again in the backward pass, which needs the
            activations of one step at a time, whatever T is.

    Source: LD3M Eq. 9-12, Algorithm 1.
    Deviation: sigma_t eps_t, where Eq. 10 and 12 have sigma_t^2 eps_t, which is not N(mu, sigma_t^2) as Eq. 8 says.
        mu is DDIM's by default (as in the official code), "ddpm" is Eq. 9's. A step whose weight is 1 is z_T: the
        model is not asked. The official code blends with the quantised code, this one with Z itself.
    """
    steps = steps_of(config, model.alpha_bars)
    first = steps[0]
    begin = math.sqrt(first.alpha_bar) * codes + math.sqrt(1 - first.alpha_bar) * noise(0)
    now, earlier = begin, None
    before: Step | None = None
    for step in steps:
        if step.weight == 1 and config.residual_target == "noisy":
            now = begin
        else:
            take_step = functools.partial(_step, model, config, step, before)
            tensors = (now, begin, codes, conditioning, *([] if earlier is None else [earlier]))
            recompute = checkpointed and torch.is_grad_enabled()
            now, clean = recomputed(take_step, *tensors) if recompute else take_step(*tensors)
            earlier = clean if config.solver == "dpm" else None  # every tensor that is handed on is stored
            before = step
        if step.deviation:
            now = now + step.deviation * noise(step.number)
    return now


def _step(
    model: DiffusionModel,
    config: SamplingConfig,
    step: Step,
    before: Step | None,
    now: Tensor,
    begin: Tensor,
    codes: Tensor,
    conditioning: Tensor,
    earlier: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return z_{t-1} without its noise, and the prediction of z_0 that the next step may use."""
    eps = guided(model, now, step.level, conditioning, config.guidance)
    clean = (now - math.sqrt(1 - step.alpha_bar) * eps) / math.sqrt(step.alpha_bar)
    if config.residual_target == "clean":
        clean = (1 - step.weight) * clean + step.weight * codes
    mean = step_mean(config.solver, step, before, now, eps, clean, earlier)
    if config.residual_target == "noisy":
        mean = (1 - step.weight) * mean + step.weight * begin
    return mean, clean


def guided(model: DiffusionModel, codes: Tensor, level: int, conditioning: Tensor, guidance: float) -> Tensor:
    """Noise under classifier-free guidance, both predictions in one batch.

        eps = eps_null + s (eps_c - eps_null)

    Source: Ho & Salimans 2022; LD3M appendix A.3, s = 3.
    """
    if guidance == 1:
        return model.predict(codes, level, conditioning)
    both = torch.cat([model.null.expand_as(conditioning), conditioning])
    without, given = model.predict(codes.repeat(2, 1, 1, 1), level, both).chunk(2)
    return without + guidance * (given - without)


def step_mean(
    solver: str, step: Step, before: Step | None, now: Tensor, eps: Tensor, clean: Tensor, earlier: Tensor | None
) -> Tensor:
    """mu: the mean of z_{t-1}, from alpha_bar a at t and b at t - 1.

        ddim: sqrt(b) z_0 + sqrt(1 - b - sigma^2) eps
        ddpm: (sqrt(b) (1 - a/b) z_0 + sqrt(a/b) (1 - b) z_t) / (1 - a), which is Eq. 9's
            (z_t - (1 - a/b) / sqrt(1 - a) eps) / sqrt(a/b) where z_0 is the prediction
        dpm: sqrt((1 - b) / (1 - a)) z_t - sqrt(b) (e^{-h} - 1) ((1 + 1/(2r)) z_0 - 1/(2r) z_0 of the step before)

    with h = lambda_{t-1} - lambda_t, lambda = log sqrt(alpha_bar / (1 - alpha_bar)), r = h of the step before / h. The
    first step that asks the model, and the last, are of first order.

    Source: Song et al. 2021, Eq. 12; Ho et al. 2020, Eq. 7; Lu et al. 2022 (DPM-Solver++), Algorithm 2.
    """
    a, b = step.alpha_bar, step.alpha_bar_after
    if solver == "ddpm":
        share = a / b
        return (math.sqrt(b) * (1 - share) * clean + math.sqrt(share) * (1 - b) * now) / (1 - a)
    if solver == "ddim":
        return math.sqrt(b) * clean + math.sqrt(max(0.0, 1 - b - step.deviation**2)) * eps
    if b == 1:
        return clean
    length = _half_log_ratio(b) - _half_log_ratio(a)
    if earlier is not None and before is not None and step.number > 1:
        ratio = (_half_log_ratio(before.alpha_bar_after) - _half_log_ratio(before.alpha_bar)) / length
        clean = (1 + 0.5 / ratio) * clean - 0.5 / ratio * earlier
    return math.sqrt((1 - b) / (1 - a)) * now - math.sqrt(b) * math.expm1(-length) * clean


def _half_log_ratio(alpha_bar: float) -> float:
    return 0.5 * math.log(alpha_bar / (1 - alpha_bar))


def recomputed(function: Callable[..., Any], *tensors: Tensor) -> Any:
    """`function(*tensors)`, for which only `tensors` are stored until the backward pass.

    The function runs without a graph, and in the backward pass again with one, both times under the autocast of this
    call. It must be deterministic and return a tensor or a tuple; tensors that it takes from elsewhere get no gradient.

    Raises:
        RuntimeError: in a backward pass with create_graph, for there is no graph of the first one.

    Source: Chen et al. 2016; LD3M section 3.3.
    Deviation: not torch.utils.checkpoint, with which resident memory on a CPU grew by 1.8 to 2.9 MB a step (denoiser of
        width 64, eight codes of 3 x 16 x 16), against 0.5 to 0.6 MB here.
    """
    return _Recomputed.apply(function, *tensors)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Any], *tensors: Tensor) -> Any:
        ctx.function, ctx.kind = function, tensors[0].device.type
        ctx.lowered, ctx.dtype = torch.is_autocast_enabled(ctx.kind), torch.get_autocast_dtype(ctx.kind)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        return function(*tensors)

    @staticmethod
    def backward(ctx: Any, *output_gradients: Tensor | None) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError("what is recomputed cannot be differentiated twice; leave out create_graph")
        flags = ctx.needs_input_grad[1:]
        inputs = [tensor.detach().requires_grad_(flag) for tensor, flag in zip(ctx.saved_tensors, flags, strict=True)]
        with torch.enable_grad(), torch.autocast(ctx.kind, ctx.dtype, enabled=ctx.lowered):
            outputs = ctx.function(*inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        used = [index for index, gradient in enumerate(output_gradients) if gradient is not None]
        gradients = torch.autograd.grad(
            [outputs[index] for index in used],
            [tensor for tensor in inputs if tensor.requires_grad],
            [output_gradients[index] for index in used],
            allow_unused=True,
        )
        remaining = iter(gradients)
        return None, *(next(remaining) if flag else None for flag in flags)
