"""Where computation happens, what there is of memory there, and what networks take of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attar.base.errors import InputError


def resolve_device(device: str) -> torch.device:
    """The device called `device`; "auto" is CUDA where there is one. Raises InputError for one that is not here."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise InputError(f"unknown device {device!r}; allowed are auto, cpu, cuda, cuda:N") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {device!r} was asked for and no CUDA device is here; use --device cpu")
    return chosen


def free_bytes(device: torch.device) -> int:
    """Memory that may still be taken: of the GPU, or of this machine and the container it runs in."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    bounds = [_machine_bytes()]
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            bounds.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return max(0, min(bounds))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: on a GPU, or on the CPU (which raises a RuntimeError of its own)."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return "can't allocate memory" in text or "not enough memory" in text


class Calling(nn.Module):
    """A function of a module as a module of its own, for whatever is measured or compiled as one."""

    def __init__(self, module: nn.Module, function: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.module, self.function = module, function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(self.module, inputs)


def saved_bytes_per_item(network: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Bytes that autograd keeps of one input from the forward to the backward pass; nothing is computed."""
    shell = deepcopy(network).to("meta").train().requires_grad_(True)
    # Of three inputs less two: a batch norm over one input of one pixel is an error.
    return _saved_bytes(shell, input_shape, 3) - _saved_bytes(shell, input_shape, 2)


def size_text(count: float) -> str:
    """A size for people, e.g. "1.3 GB"."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} bytes" if unit == "bytes" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def _saved_bytes(shell: nn.Module, input_shape: tuple[int, ...], batch: int) -> int:
    storages: dict[int, int] = {}
    alive: list[Tensor] = []  # else a storage could be freed, and its number given to another

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage.nbytes()
        alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        shell(torch.empty(batch, *input_shape, device="meta", requires_grad=True))
    return sum(storages.values())


def _machine_bytes() -> int:
    """What the kernel says is available; elsewhere half of what is built in, or 4 GiB where that is not told either."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except (OSError, ValueError):
        pass
    try:
        return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) // 2
    except (AttributeError, OSError, ValueError):
        return 4 * 2**30
