"""How a network's forward pass is made fast: lower precision, memory format, compilation."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from attar.base.progress import Progress, Silent

Precision: TypeAlias = Literal["auto", "float32", "bfloat16"]

BFLOAT16_FLOPS = 1e12
"""Work of one network below which bfloat16 is not worth its rounding: about ten seconds on two CPU cores."""

COMPILE_FLOPS = {"cpu": 2e13, "cuda": 3e15}
"""Work of one network above which compiling (10 to 60 seconds) is repaid."""

COMPILE_VALUES = {"cpu": 1e10, "cuda": 1e13}
"""Values passed through norm layers above which compiling is repaid too: small networks on small maps spend their time
reading and writing memory, which compiled code does once for norm, activation and pooling together."""

_RECOMPILE_LIMIT = 256


@dataclass(frozen=True)
class Acceleration:
    """How forward and backward passes are computed. Parameters, losses and optimiser states stay in float32.

    Args:
        precision: bfloat16 is autocast: convolutions and matrix products alone.
        compile: torch.compile, for first-order gradients only (it has no double backward).
        channels_last: the memory format of inputs.
        remark: one line for the user, where something wished for is missing; else empty.
    """

    precision: Literal["float32", "bfloat16"]
    compile: bool
    channels_last: bool
    remark: str = ""


def resolve_acceleration(
    precision: Precision, device: torch.device | str, flops: float, norm_values: float = 0.0
) -> Acceleration:
    """The acceleration for one network's work: a rule of capabilities and work alone, never of a timing.

    "auto" takes bfloat16 where the processor computes in it and there is more than BFLOAT16_FLOPS to do. Compiling is
    chosen above COMPILE_FLOPS or COMPILE_VALUES. ConvNet-3 of width 128, 64 inputs of 32 x 32, forward and backward
    took one CPU core 401 ms in float32, 232 compiled; 206 in bfloat16, 129 compiled. Uncompiled on CPUs, channels last
    is left out: it took 490 ms in bfloat16, for instance norm is slow in that format.

    Args:
        precision: "auto", or forced.
        device: where the network runs.
        flops: floating-point operations of the whole work of *one* network (see `forward_flops`): how many networks are
            trained beside it must not change its result.
        norm_values: values that pass through norm layers in the whole work (see `forward_norm_values`).
    """
    kind = torch.device(device).type
    large = flops >= BFLOAT16_FLOPS and has_bfloat16(kind)
    use_bfloat16 = precision == "bfloat16" or (precision == "auto" and large)
    never = float("inf")
    worth_it = flops >= COMPILE_FLOPS.get(kind, never) or norm_values >= COMPILE_VALUES.get(kind, never)
    remark = ""
    if worth_it and not has_compiler(kind):
        worth_it = False
        remark = "no C++ compiler was found (g++ or clang++): training runs uncompiled, up to 2 times slower"
    channels_last = kind == "cuda" or worth_it
    return Acceleration("bfloat16" if use_bfloat16 else "float32", worth_it, channels_last, remark)


def has_bfloat16(kind: str) -> bool:
    """Whether a device of this kind ("cpu", "cuda", ...) computes in bfloat16 itself, without emulation."""
    if kind == "cuda":
        return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)
    if kind == "cpu":
        tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, name, lambda: False)() for name in tests)
    return False


def has_compiler(kind: str) -> bool:
    """Whether torch.compile can work for a device of this kind: a C++ compiler, on CUDA also Triton."""
    names = [os.environ.get("CXX", ""), "g++", "clang++", "cl"]
    has_binary = any(name and shutil.which(name) for name in names)
    return has_binary and (kind != "cuda" or importlib.util.find_spec("triton") is not None)


def forward_flops(network: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Floating-point operations of one input's forward pass; training takes about three times as many.

    Only convolutions and matrix products count. Nothing is computed: shapes alone go through a copy without values.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        pass_shapes(deepcopy(network).to("meta"), input_shape)
    return counter.get_total_flops()


def forward_norm_values(network: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Values that one input sends through the norm layers, counted on shapes alone."""
    values = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal values
        values += inputs[0].numel()

    shell = deepcopy(network).to("meta")
    for layer in shell.modules():
        if isinstance(layer, (nn.GroupNorm, nn.LayerNorm, nn.BatchNorm2d)):
            layer.register_forward_pre_hook(count)
    pass_shapes(shell, input_shape)
    return values


@torch.no_grad()
def pass_shapes(shell: nn.Module, input_shape: tuple[int, int, int]) -> None:
    """Sends one input without values through a network on the meta device, in evaluation mode."""
    shell.eval()(torch.empty(1, *input_shape, device="meta", dtype=next(shell.parameters()).dtype))


def forward_function(
    network: nn.Module, acceleration: Acceleration, progress: Progress | None = None
) -> Callable[[Tensor], Tensor]:
    """inputs [B, c, h, w] -> logits [B, K] in float32, through the network's present parameters.

    Parameters may be changed in place between calls; nothing is compiled again. Compiled code is made for the size of
    the first batch alone: a smaller one is padded to it where rows are independent (no batch norm) and it fills at
    least half, else it runs uncompiled. If compiling fails, a note is made and everything runs uncompiled.
    """

    def eager(inputs: Tensor) -> Tensor:
        if acceleration.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=acceleration.precision == "bfloat16"):
            logits = network(inputs)
        return logits.float() if logits.dtype == torch.bfloat16 else logits

    return _Compiled(eager, network, progress or Silent()) if acceleration.compile else eager


class _Compiled:
    """The compiled forward function for one batch size, falling back to the uncompiled one."""

    def __init__(self, eager: Callable[[Tensor], Tensor], network: nn.Module, progress: Progress) -> None:
        self._eager = eager
        self._compiled: Callable[[Tensor], Tensor] | None = torch.compile(eager, dynamic=False)
        self._rows_are_independent = not any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())
        self._size: int | None = None
        self._progress = progress

    def __call__(self, inputs: Tensor) -> Tensor:
        count = len(inputs)
        self._size = self._size or count
        padded = self._rows_are_independent and count < self._size <= 2 * count
        if self._compiled is None or (count != self._size and not padded):
            return self._eager(inputs)
        try:
            with torch._dynamo.config.patch({_recompile_limit_name(): _RECOMPILE_LIMIT}):
                return self._compiled(inputs if count == self._size else _padded(inputs, self._size))[:count]
        except torch._dynamo.exc.TorchDynamoException as error:
            self._compiled = None
            reason = str(error).strip().splitlines()[0]
            self._progress.note(f"compiling failed, so training runs uncompiled: {reason}"[:200])
            return self._eager(inputs)


def _recompile_limit_name() -> str:
    """The setting's name: older torch calls it cache_size_limit."""
    return "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"


def _padded(inputs: Tensor, size: int) -> Tensor:
    return torch.cat([inputs, inputs.new_zeros(size - len(inputs), *inputs.shape[1:])])
