"""Which process does which part of some work: locks that end with their process, however it ends."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from pathlib import Path
from types import TracebackType

from attar.errors import InputError


class Claims:
    """Byte i of one file, locked, is the claim on part i of the work. Threads of one process are not kept apart.

    A lock that its process leaves behind is gone with the process, so that no claim is ever stale; with a file for each
    claim, somebody would have to guess whether a process of that number still is the same.

    Args:
        path: of the file, made if absent and never removed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)

    def __enter__(self) -> Claims:
        return self

    def close(self) -> None:
        """Give all claims back."""
        os.close(self._handle)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def take(self, number: int) -> bool:
        """Claim a part; False where another process has it. Raises InputError where files cannot be locked."""
        try:
            _lock(self._handle, number)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                return False
            raise InputError(
                f"{self._path} cannot be locked ({error.strerror}), so that two processes could do the same work; "
                "take a disk whose files can be locked (for the cache: ATTAR_CACHE)"
            ) from None
        return True

    def release(self, number: int) -> None:
        """Give a claim back."""
        with contextlib.suppress(OSError):
            _unlock(self._handle, number)


if sys.platform == "win32":
    import msvcrt

    def _lock(handle: int, number: int) -> None:
        os.lseek(handle, number, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

    def _unlock(handle: int, number: int) -> None:
        os.lseek(handle, number, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(handle: int, number: int) -> None:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)

    def _unlock(handle: int, number: int) -> None:
        fcntl.lockf(handle, fcntl.LOCK_UN, 1, number)
