"""One progress for jobs that run at the same time in other processes."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from attar.base.progress import Progress, Silent


@dataclass
class Message:
    """One call of a job's progress."""

    kind: Literal["start", "advance", "note"]
    text: str = ""  # of a note; what a task is called
    count: int = 0  # of a task's steps, or of those that are done
    figures: dict[str, float] = field(default_factory=dict)


class Messages(Silent):
    """A job's progress: keeps what is reported until it is taken. Steps that follow one another become one message."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._messages: list[Message] = []

    def start(self, description: str, total: int) -> None:
        self._add(Message("start", description, total))

    def advance(self, count: int = 1, **figures: float) -> None:
        self._add(Message("advance", "", count, figures))

    def note(self, text: str) -> None:
        self._add(Message("note", text))

    def take(self) -> list[Message]:
        """What was reported since the last time."""
        with self._lock:
            messages, self._messages = self._messages, []
        return messages

    def _add(self, message: Message) -> None:
        with self._lock:
            last = self._messages[-1] if self._messages else None
            if last is not None and last.kind == message.kind == "advance":
                last.count += message.count
                last.figures.update(message.figures)
            else:
                self._messages.append(message)


class Tally:
    """Sums the steps of all jobs into one bar, and puts a job's name before its notes.

    Steps of jobs that open no task of their own count in the task that is open already. Where jobs open tasks, the bar
    is the task that was opened last for the first time, with its total for every job. A job that begins anew counts
    again only where it passes what it had reported before.

    Args:
        progress: of the whole.
        num_jobs: that open the same tasks.
    """

    def __init__(self, progress: Progress, num_jobs: int) -> None:
        self._progress, self._num_jobs = progress, num_jobs
        self._opened: list[str] = []
        self._task: dict[int, str] = {}
        self._now: Counter[tuple[int, str]] = Counter()
        self._counted: Counter[tuple[int, str]] = Counter()

    def take(self, place: int, name: str, messages: list[Message]) -> None:
        """What job `place` has reported."""
        for message in messages:
            if message.kind == "note":
                self._progress.note(f"{name}: {message.text}")
            elif message.kind == "start":
                self._task[place] = message.text
                if message.text not in self._opened:
                    self._opened.append(message.text)
                    self._progress.start(message.text, message.count * self._num_jobs)
            else:
                self._advance(place, message)

    def begin_anew(self, place: int) -> None:
        """Job `place` begins again."""
        self._task.pop(place, None)
        for key in [key for key in self._now if key[0] == place]:
            del self._now[key]

    def finish(self) -> None:
        """All jobs have ended: the task that they opened is done."""
        if self._opened:
            self._progress.finish()

    def _advance(self, place: int, message: Message) -> None:
        task = self._task.get(place, "")
        key = place, task
        self._now[key] += message.count
        new = max(0, self._now[key] - self._counted[key])
        self._counted[key] += new
        if new and task == (self._opened[-1] if self._opened else ""):
            self._progress.advance(new, **message.figures)
