"""How long work tells where it is."""

from __future__ import annotations

import sys
import time
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar

WINDOW_SECONDS = 30.0
PLAIN_INTERVAL_SECONDS = 10.0


@runtime_checkable
class Progress(Protocol):
    """What long work reports to; one task at a time."""

    def start(self, description: str, total: int) -> None:
        """A task of `total` steps begins."""

    def advance(self, count: int = 1, **figures: float) -> None:
        """`count` steps are done; `figures` (e.g. loss) are shown beside the bar."""

    def finish(self) -> None:
        """The task is done."""

    def note(self, text: str) -> None:
        """One line the user should see: a decision taken, a warning."""


class Silent:
    """Reports nothing: the library's default."""

    def start(self, description: str, total: int) -> None: ...

    def advance(self, count: int = 1, **figures: float) -> None: ...

    def finish(self) -> None: ...

    def note(self, text: str) -> None: ...


class Within:
    """Passes on steps and notes of a part of the work, whose beginning and end are not the whole's.

    Args:
        progress: of the whole.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def start(self, description: str, total: int) -> None: ...

    def advance(self, count: int = 1, **figures: float) -> None:
        self._progress.advance(count, **figures)

    def finish(self) -> None: ...

    def note(self, text: str) -> None:
        self._progress.note(text)


class Pace:
    """Steps per second over the last half minute, and the time left at that pace.

    Counting begins with the first `advance`, so that neither compilation nor the steps which a resumed run skips count.

    Args:
        total: steps of the task.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self._marks: deque[tuple[float, int]] = deque()

    def advance(self, count: int, now: float) -> None:
        """`count` more steps are done at `now` seconds."""
        self.done += count
        self._marks.append((now, self.done))
        while len(self._marks) > 2 and now - self._marks[0][0] > WINDOW_SECONDS:
            self._marks.popleft()

    @property
    def steps_per_second(self) -> float | None:
        """None until two steps are known."""
        if len(self._marks) < 2:
            return None
        (start, before), (end, after) = self._marks[0], self._marks[-1]
        return (after - before) / (end - start) if end > start else None

    @property
    def seconds_left(self) -> float | None:
        """None until the pace is known."""
        rate = self.steps_per_second
        return (self.total - self.done) / rate if rate else None


class RichProgress:
    """A bar with rate, time left and figures on stderr; without a terminal a plain line at most every ten seconds.

    Use it as a context manager, so that the terminal is left in order when the work stops half way.
    """

    def __init__(self) -> None:
        self._console: Console | None = None
        self._bar: Bar | None = None
        self._description = ""
        self._pace: Pace | None = None
        self._figures: dict[str, float] = {}
        self._last_line = 0.0
        self._began = 0.0

    def __enter__(self) -> RichProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_bar()
        self._pace = None

    def start(self, description: str, total: int) -> None:
        """A task of `total` steps begins; one still open is finished."""
        self.finish()
        self._description, self._pace, self._figures = description, Pace(total), {}
        self._began = self._last_line = time.monotonic()
        if sys.stderr.isatty():
            self._bar = self._open_bar(description, total)

    def advance(self, count: int = 1, **figures: float) -> None:
        """`count` steps are done; `figures` are shown beside the bar."""
        if self._pace is None:
            return
        now = time.monotonic()
        self._pace.advance(count, now)
        self._figures.update(figures)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._pace.done, state=self._state())
        elif now - self._last_line >= PLAIN_INTERVAL_SECONDS:
            self._last_line = now
            self._write_line(f"{self._description}: {self._pace.done}/{self._pace.total}  {self._state()}")

    def finish(self) -> None:
        """The task is done: one line says what it took."""
        if self._pace is None:
            return
        seconds = time.monotonic() - self._began
        self._close_bar()
        self._write_line(
            f"{self._description}: {self._pace.done} in {duration(seconds)}  {figures_text(self._figures)}"
        )
        self._pace = None

    def note(self, text: str) -> None:
        """One line the user should see, above the bar if there is one."""
        self._write_line(text)

    def _state(self) -> str:
        """Rate, time left and figures in one string."""
        assert self._pace is not None
        rate, left = self._pace.steps_per_second, self._pace.seconds_left
        parts = [] if rate is None else [f"{rate:.3g}/s"]
        parts += [] if left is None else [f"{duration(left)} left"]
        return "  ".join([*parts, figures_text(self._figures)])

    def _open_bar(self, description: str, total: int) -> Bar:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}", markup=False),
        )
        bar = Bar(*columns, console=self._stderr(), transient=True, refresh_per_second=4)
        bar.add_task(description, total=total, state="")
        bar.start()
        return bar

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _write_line(self, text: str) -> None:
        if self._bar is not None:
            self._stderr().print(text.rstrip(), markup=False, highlight=False, soft_wrap=True)
        else:
            sys.stderr.write(text.rstrip() + "\n")

    def _stderr(self) -> Console:
        from rich.console import Console

        if self._console is None:
            self._console = Console(stderr=True)
        return self._console


def duration(seconds: float) -> str:
    """Seconds for people.

    Example:
        >>> duration(7.25), duration(75), duration(3700)
        ('7.2 s', '1 min 15 s', '1 h 1 min')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def figures_text(figures: dict[str, float]) -> str:
    """Named figures in four digits.

    Example:
        >>> figures_text({"loss": 0.123456})
        'loss 0.1235'
    """
    return "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
