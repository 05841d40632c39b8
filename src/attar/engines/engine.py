"""The contract of an engine, and the one that works in this process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

from attar.progress import Progress

Shared = TypeVar("Shared")
Job = TypeVar("Job")
Result = TypeVar("Result")

Work: TypeAlias = Callable[[Shared, Job, Progress], Result]
"""A function of a module, of what all jobs share, of one job and of what to report to.

Its result depends on the first two alone, so that it may run anywhere, and again where a worker was lost."""


class Engine(ABC):
    """Runs jobs that do not depend on one another."""

    @abstractmethod
    def map(
        self,
        work: Work[Shared, Job, Result],
        jobs: Sequence[Job],
        shared: Shared,
        progress: Progress,
        names: Sequence[str] = (),
    ) -> list[Result]:
        """The result of every job, in the order of the jobs; the same with every engine on devices of one kind.

        Args:
            work: a function of a module; work, jobs, shared and results can be pickled.
            jobs: small; each goes to one worker.
            shared: large; goes to every worker once.
            progress: told what the jobs tell theirs.
            names: of the jobs, for people; () where there is nothing to say.

        Raises:
            Whatever a job raises, of the first job in their order that does; no other job is begun then.
        """


class Local(Engine):
    """One job after another in this process."""

    def map(
        self,
        work: Work[Shared, Job, Result],
        jobs: Sequence[Job],
        shared: Shared,
        progress: Progress,
        names: Sequence[str] = (),
    ) -> list[Result]:
        found = []
        for place, job in enumerate(jobs):
            if names:
                progress.note(f"{names[place]} ({place + 1} of {len(jobs)})")
            found.append(work(shared, job, progress))
        return found
