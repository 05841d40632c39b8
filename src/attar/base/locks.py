"""Which process does which part of some work: locks that end with their process, however it ends."""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from attar.base.errors import InputError

WAIT_SECONDS = 1.0  # between two looks at what another process makes


class Claims(AbstractContextManager["Claims"]):
    """Byte i of one file, locked, is the claim on part i of the work. Threads of one process are not kept apart.

    A lock that its process leaves behind is gone with the process, so that no claim is ever stale; with a file for each
    claim, somebody would have to guess whether a process of that number still is the same.

    Args:
        path: of the file, made if absent and never removed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)

    def close(self) -> None:
        """Give all claims back."""
        os.close(self._handle)

    def __exit__(self, *error: object) -> None:
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
        with suppress(OSError):
            _unlock(self._handle, number)


def made_once(
    path: Path, make: Callable[[], None], claims: Claims, stop: threading.Event, waiting: Callable[[], None]
) -> None:
    """`make()` in one process at a time, until it has left a file at `path`; other processes wait for that.

    Args:
        path: whose name begins with a hexadecimal content key.
        make: called with the claim, where the file is still absent; it may leave none and is then called again.
        claims: of the folder. A claim's place is a number; that two files share one only makes the second wait.
        stop: ends the waiting.
        waiting: called once, before the first wait.

    Raises:
        KeyboardInterrupt: `stop` while waiting.
    """
    number = int(path.stem[:7], 16)
    noted = False
    while not path.exists():
        if claims.take(number):
            try:
                if not path.exists():  # made by another process before the claim was ours
                    make()
            finally:
                claims.release(number)
        elif not noted:
            noted = True
            waiting()
        elif stop.wait(WAIT_SECONDS):
            raise KeyboardInterrupt


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
