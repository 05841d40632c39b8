"""The contract of an engine, and the one that works in this process."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, closing
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from attar.base.progress import Progress

if TYPE_CHECKING:
    import torch

Shared = TypeVar("Shared")
Job = TypeVar("Job")
Result = TypeVar("Result")

Work: TypeAlias = Callable[[Shared, Job, Progress], Result]
"""A function of a module, of what all jobs share, of one job and of what to report to.

Its result depends on the first two alone, so that it may run anywhere, and again where a worker was lost. It writes to
neither.
"""

Results: TypeAlias = Generator[tuple[int, Result], None, None]
"""(place of a job, its result), in whatever order they come."""


class Engine(AbstractContextManager["Engine"]):
    """Runs jobs that do not depend on one another. Used as a context manager it gives back at the end what it took."""

    @abstractmethod
    def results(
        self,
        work: Work[Shared, Job, Result],
        jobs: Sequence[Job],
        shared: Shared,
        progress: Progress,
        names: Sequence[str] = (),
    ) -> Results[Result]:
        """The result of every job as it comes, so that it can be kept before the others are there.

        Closing the generator, or Ctrl-C, ends all jobs: iterate within `contextlib.closing`.

        Args:
            work: a function of a module; work, jobs, shared and results can be pickled.
            jobs: small; each goes to one worker. A job is asked for when it is begun, so that a sequence may make it.
            shared: large; goes to every worker once.
            progress: told what the jobs tell theirs.
            names: of the jobs, for people; () where there is nothing to say.

        Raises:
            Whatever a job raises, of the first job in their order that does; no other job is begun then.
        """

    def map(
        self,
        work: Work[Shared, Job, Result],
        jobs: Sequence[Job],
        shared: Shared,
        progress: Progress,
        names: Sequence[str] = (),
    ) -> list[Result]:
        """The result of every job, in the order of the jobs; the same with every engine on devices of one kind.

        Args and errors are those of `results`.
        """
        with closing(self.results(work, jobs, shared, progress, names)) as results:
            return [result for _, result in sorted(results, key=lambda pair: pair[0])]

    def check_device(self, device: torch.device) -> None:
        """Raise InputError unless the workers have a device of that kind."""

    def close(self) -> None:
        """Give back what was taken; the next job takes it again."""

    def __exit__(self, *error: object) -> None:
        self.close()


class Local(Engine):
    """One job after another in this process."""

    def results(
        self,
        work: Work[Shared, Job, Result],
        jobs: Sequence[Job],
        shared: Shared,
        progress: Progress,
        names: Sequence[str] = (),
    ) -> Results[Result]:
        for place in range(len(jobs)):
            if names:
                progress.note(announcement(names, place))
            yield place, work(shared, jobs[place], progress)


def announcement(names: Sequence[str], place: int) -> str:
    """What is noted when a job begins."""
    return f"{names[place]} ({place + 1} of {len(names)})"
