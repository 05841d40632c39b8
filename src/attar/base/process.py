"""How this process treats threads and memory: decided once, before torch is imported."""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's names: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
_KEPT_BYTES = 1 << 30


def prepare_process() -> bool:
    """Waiting threads sleep, and freed memory up to 1 GiB a block is kept for the next step instead of given back.

    The command line, the tests and the benches call this; programs that use attar as a library may. By default glibc
    gives large blocks back to the system at every free and takes them, page by page, at every allocation: on a
    virtual machine a group norm of 256 x 128 x 32 x 32 values took 310 ms instead of 29. Waiting OpenMP threads that
    spin cost 10 to 30 times on shared cores. Neither changes any result.

    Returns:
        Whether the allocator could be told (glibc on Linux only).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return keep_freed_blocks(_KEPT_BYTES)


def keep_freed_blocks(num_bytes: int) -> bool:
    """Tell glibc to keep freed blocks of up to `num_bytes`; 32 MiB is the most it keeps of its own accord.

    Returns:
        Whether it could be told.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL(None)
        return all(libc.mallopt(option, num_bytes) for option in (_TRIM_THRESHOLD, _MMAP_THRESHOLD))
    except (OSError, AttributeError):
        return False
