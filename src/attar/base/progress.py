"""How long work tells where it is."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import Task

WINDOW_SECONDS = 30.0  # over which the rate is taken
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


class Within(Silent):
    """Passes the steps and notes of a part of the work on to the whole's progress, but not its beginning and end."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def advance(self, count: int = 1, **figures: float) -> None:
        self._progress.advance(count, **figures)

    def note(self, text: str) -> None:
        self._progress.note(text)


class RichProgress(AbstractContextManager["RichProgress"]):
    """A bar with rate, time left and figures on stderr; without a terminal a plain line at most every ten seconds.

    Use it as a context manager, so that the terminal is left in order when the work stops half way. Counting begins
    with the first `advance`, so that neither compilation nor the steps which a resumed run skips count for the rate.
    """

    def __init__(self) -> None:
        self._bar: Bar | None = None
        self._figures: dict[str, float] = {}
        self._now = self._last_line = self._began = 0.0

    def __exit__(self, *error: object) -> None:
        self._close_bar()

    def start(self, description: str, total: int) -> None:
        self.finish()  # of a task that is still open
        self._figures = {}
        self._now = self._began = self._last_line = time.monotonic()
        self._bar = self._new_bar()
        self._bar.add_task(description, total=total, state="")
        if sys.stderr.isatty():
            self._bar.start()

    def advance(self, count: int = 1, **figures: float) -> None:
        if self._bar is None:
            return
        self._now = time.monotonic()
        self._figures.update(figures)
        self._bar.advance(self._bar.task_ids[0], count)
        task = self._bar.tasks[0]
        if self._bar.live.is_started:
            self._bar.update(task.id, state=self._state(task))
        elif self._now - self._last_line >= PLAIN_INTERVAL_SECONDS:
            self._last_line = self._now
            self.note(f"{task.description}: {task.completed:g}/{task.total:g}  {self._state(task)}")

    def finish(self) -> None:
        if self._bar is None:
            return
        seconds, task = time.monotonic() - self._began, self._bar.tasks[0]
        self._close_bar()
        self.note(f"{task.description}: {task.completed:g} in {duration(seconds)}  {figures_text(self._figures)}")

    def note(self, text: str) -> None:
        if self._bar is not None and self._bar.live.is_started:
            self._bar.console.print(text.rstrip(), markup=False, highlight=False, soft_wrap=True)
        else:
            sys.stderr.write(text.rstrip() + "\n")

    def _state(self, task: Task) -> str:
        parts = [] if task.speed is None else [f"{task.speed:.3g}/s"]
        parts += [] if task.time_remaining is None else [f"{duration(task.time_remaining)} left"]
        return "  ".join([*parts, figures_text(self._figures)])

    def _new_bar(self) -> Bar:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}", markup=False),
        )
        return Bar(
            *columns,
            console=Console(stderr=True),
            transient=True,
            refresh_per_second=4,
            speed_estimate_period=WINDOW_SECONDS,
            get_time=lambda: self._now,
        )

    def _close_bar(self) -> None:
        if self._bar is not None and self._bar.live.is_started:
            self._bar.stop()
        self._bar = None


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
