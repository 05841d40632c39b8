"""Jobs on Ray: worker processes of this machine, or of a cluster."""

from __future__ import annotations

import logging
import math
import os
import pickle
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING, Any

from attar.base.engines.engine import Engine, Job, Result, Results, Shared, Work, begun
from attar.base.engines.tally import Tally, Telling
from attar.base.errors import InputError, WorkerLostError
from attar.base.process import prepare_process
from attar.base.progress import Progress

if TYPE_CHECKING:
    import torch

POLL_SECONDS = 0.2
"""Between two looks at Ctrl-C here, and between two messages of a worker."""

LEAST_STORE_BYTES = 200 * 2**20
"""Of the object store of a Ray that is started here; it grows with what the first jobs share."""

CAPACITY_SECONDS = 5.0
"""Between two looks at how many jobs the cluster holds."""

CANCEL_SECONDS = 30.0
"""How long cancelled jobs are waited for."""


class RayEngine(Engine):
    """Jobs in Ray's worker processes, as many at a time as fit; a job whose worker dies is begun again.

    Ray is connected to, or started, at the first job, and stopped by `close` if it was started here. Where the program
    has called `ray.init` itself, that Ray is used and left running. Workers compute with as many threads as this
    process, because results depend on it, and find attar where this process does.

    Args:
        address: of a cluster that this machine is a node of: "auto" or "HOST:6379"; None is $RAY_ADDRESS, or else a
            Ray started on this machine.
        workers: how many jobs at a time; None is as many as the cluster's processors hold.
        cpus: processors of one job, which may be a fraction.
        gpus: GPUs of one job: 0, a fraction, or a whole number.
        retries: how often a job is begun again after its worker died.

    Raises:
        InputError: numbers out of range, or Ray is not installed.
    """

    def __init__(
        self,
        address: str | None = None,
        workers: int | None = None,
        cpus: float = 1.0,
        gpus: float = 0.0,
        retries: int = 3,
    ) -> None:
        if workers is not None and workers < 1:
            raise InputError(f"{workers} workers were asked for; at least 1 is needed")
        if not (cpus > 0 and math.isfinite(cpus)):
            raise InputError(f"{cpus} processors of a job were asked for; give a number above 0")
        if not (0 <= gpus < math.inf) or (gpus > 1 and gpus != int(gpus)):
            raise InputError(f"{gpus} GPUs of a job were asked for; give a fraction up to 1, or a whole number")
        if retries < 0:
            raise InputError(f"{retries} retries were asked for; give 0 or more")
        if address is not None and "://" in address:
            raise InputError(f"{address!r} is a Ray client's address; run on a node of the cluster and give HOST:6379")
        self.address, self.workers, self.cpus, self.gpus, self.retries = address, workers, cpus, gpus, retries
        self._connected_here = False
        _import_ray()

    def results(
        self,
        work: Work[Shared, Job, Result],
        jobs: Sequence[Job],
        shared: Shared,
        progress: Progress,
        names: Sequence[str] = (),
    ) -> Results[Result]:
        from attar.base.engines.packing import pack
        from attar.base.interrupts import stop_requested

        if not len(jobs):
            return
        with stop_requested() as stop:
            packed = pack(shared)
            ray = self._connected(packed.num_bytes, progress)
            run = _Run(ray, self, work, jobs, packed, progress, names)
            del packed
            try:
                while run.unfinished:
                    run.begin_more()
                    yield from run.arrived()
                    if stop.is_set():
                        raise KeyboardInterrupt
                run.raise_failure()
            finally:
                run.cancel()

    def check_device(self, device: torch.device) -> None:
        """Raise InputError unless the workers have a device of that kind."""
        if device.type == "cuda" and not self.gpus:
            raise InputError("workers on Ray see no GPU unless they ask for one; give --gpus 1 or a fraction, 0.5")
        if device.type == "cpu" and self.gpus:
            raise InputError(f"--gpus {self.gpus:g} has no effect on device cpu; leave it out, or give --device cuda")

    def close(self) -> None:
        """Leave the cluster, or stop the Ray that was started here."""
        if self._connected_here:
            self._connected_here = False
            _import_ray().shutdown()

    def _connected(self, shared_bytes: int, progress: Progress) -> Any:
        ray = _import_ray()
        if not ray.is_initialized():
            self._connect(ray, shared_bytes)
            self._connected_here = True
            nodes = sum(bool(node["Alive"]) for node in ray.nodes())
            progress.note(f"Ray: {self.capacity(ray)} jobs at a time on {nodes} node{'s' * (nodes > 1)}")
            _warn_of_threads(self.cpus, progress)
        return ray

    def _connect(self, ray: Any, shared_bytes: int) -> None:
        address = self.address or os.environ.get("RAY_ADDRESS") or "local"
        settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address == "local":
            processors = self.workers and math.ceil(self.workers * self.cpus)
            store_bytes = max(LEAST_STORE_BYTES, LEAST_STORE_BYTES // 2 + 5 * shared_bytes // 4)
            settings |= {
                "num_cpus": processors,
                "include_dashboard": False,
                "object_store_memory": store_bytes,
            }
        try:
            ray.init(address=address, **settings)
        except (ConnectionError, RuntimeError, ValueError, AssertionError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise InputError(
                f"no Ray is reached at {address!r} ({reason}); start one with ray start --head and give the address "
                "that it prints, or leave the address out; a cluster with a token needs RAY_AUTH_TOKEN here too"
            ) from error

    def capacity(self, ray: Any) -> int:
        """How many jobs the cluster holds now, at most `workers`. Raises InputError where none fits any node."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        fitting = sum(self._fitting(node) for node in nodes)
        if not fitting:
            processors, devices = (sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
            raise InputError(
                f"a job needs {self.cpus:g} CPUs and {self.gpus:g} GPUs of one node, which none of the cluster's "
                f"{len(nodes)} has ({processors:g} CPUs and {devices:g} GPUs in all); ask for less"
            )
        return fitting if self.workers is None else min(fitting, self.workers)

    def _fitting(self, node: dict[str, float]) -> int:
        fitting = int(node.get("CPU", 0) / self.cpus + 1e-6)
        return min(fitting, _fitting_gpus(node.get("GPU", 0), self.gpus)) if self.gpus else fitting


@dataclass
class _Run:
    """The jobs of one call, begun, running and arriving."""

    ray: Any
    engine: RayEngine
    work: Any
    jobs: Sequence[Any]
    packed: InitVar[Any]
    progress: Progress
    names: Sequence[str]
    _running: dict[int, Any] = field(default_factory=dict)
    _failed: tuple[int, BaseException] | None = None
    _begun: int = 0
    _looked: float = -math.inf
    _jobs_at_once: int = 0

    def __post_init__(self, packed: Any) -> None:
        options = {"num_returns": "streaming", "max_retries": 0, "num_cpus": self.engine.cpus}
        self._perform = self.ray.remote(_entrance()).options(**options, num_gpus=self.engine.gpus)
        self._shared = self.ray.put(packed)
        self._packed_work = self.ray.cloudpickle.dumps(self.work)
        self._surroundings = _surroundings()
        self._lost = [0] * len(self.jobs)
        self._again: deque[int] = deque()
        self._tally = Tally(self.progress, len(self.jobs))

    @property
    def unfinished(self) -> bool:
        """Whether a job is running, or still to be begun."""
        return bool(self._running or self._again) or (self._failed is None and self._begun < len(self.jobs))

    def begin_more(self) -> None:
        """Begin as many jobs as there is room for: those again whose worker died, then the next ones."""
        room = self._capacity() - len(self._running)
        while room > 0 and self._again:
            self._begin(self._again.popleft())
            room -= 1
        while room > 0 and self._failed is None and self._begun < len(self.jobs):
            if self.names:
                self.progress.note(begun(self.names, self._begun))
            self._begin(self._begun)
            self._begun += 1
            room -= 1

    def _capacity(self) -> int:
        """Looked at now and then, for nodes come and go; a cluster that has none left may get one again."""
        now = time.monotonic()
        if now - self._looked > CAPACITY_SECONDS:
            with suppress(InputError) if self._begun else nullcontext():
                self._jobs_at_once = self.engine.capacity(self.ray)
            self._looked = now
        return self._jobs_at_once

    def _begin(self, place: int) -> None:
        from attar.base.engines.packing import pack

        job = pickle.dumps(pack(self.jobs[place]), protocol=5)
        self._running[place] = self._perform.remote(self._surroundings, self._packed_work, [self._shared], job)

    def arrived(self) -> Iterator[tuple[int, Any]]:
        """Wait a moment for a message; the results among what has come."""
        streams = list(self._running.values())
        ready, _ = self.ray.wait(streams, num_returns=1, timeout=POLL_SECONDS)
        for stream in ready:
            place = next(place for place, each in self._running.items() if each is stream)
            outcome = self._next(place, stream)
            if outcome is None:
                continue
            del self._running[place]
            if isinstance(outcome, _Raised):
                self._fail(place, outcome.as_exception())
            elif isinstance(outcome, _Done):
                yield place, outcome.result

    def _next(self, place: int, stream: Any) -> _Done | _Raised | _Gone | None:
        """The outcome of a job, `_Gone` where it is begun again, or None where it goes on."""
        try:
            message = self.ray.get(next(stream))
        except self.ray.exceptions.RayTaskError as error:
            return _Raised(error.cause if isinstance(error.cause, Exception) else error, str(error))
        except (self.ray.exceptions.RayError, StopIteration) as error:
            return self._lose(place, error)
        if isinstance(message, _Done | _Raised):
            return message
        self._tally.take(place, self._name(place), message)
        return None

    def _lose(self, place: int, error: Exception) -> _Raised | _Gone:
        self._lost[place] += 1
        reason = " ".join((str(error) or type(error).__name__).split())[:200]
        if self._lost[place] > self.engine.retries:
            told = f"{self._name(place)}: its worker died {self._lost[place]} times; the last time: {reason}"
            return _Raised(WorkerLostError(told), "")
        self.progress.note(
            f"{self._name(place)}: its worker died and the job begins anew "
            f"({self._lost[place]} of {self.engine.retries} retries): {reason}"
        )
        self._tally.begin_anew(place)
        self._again.append(place)
        return _Gone()

    def _fail(self, place: int, error: BaseException) -> None:
        """Remember the first failure in the jobs' order, and end the jobs after it."""
        if self._failed is None or place < self._failed[0]:
            self._failed = place, error
        self._again = deque(each for each in self._again if each < self._failed[0])
        self._end([each for each in self._running if each > self._failed[0]])

    def raise_failure(self) -> None:
        """Raise what the first job that failed has raised."""
        if self._failed is not None:
            raise self._failed[1]
        self._tally.finish()

    def cancel(self) -> None:
        """End what is running, and wait until it has ended."""
        self._end(list(self._running))

    def _end(self, places: Sequence[int]) -> None:
        streams = [self._running.pop(place) for place in places]
        for stream in streams:
            self.ray.cancel(stream, force=True)
        if streams:
            self.ray.wait([stream.completed() for stream in streams], num_returns=len(streams), timeout=CANCEL_SECONDS)

    def _name(self, place: int) -> str:
        return self.names[place] if self.names else f"job {place + 1}"


@dataclass(frozen=True)
class _Done:
    result: Any


class _Gone:
    """The worker is gone and the job waits for another."""


@dataclass(frozen=True)
class _Raised:
    """What a job raised, with the text of its trace where it ran."""

    error: BaseException
    trace: str

    def as_exception(self) -> BaseException:
        """The exception, with the worker's trace as its cause."""
        if self.trace:
            self.error.__cause__ = _WorkerTrace(f"\n{self.trace}")
        return self.error


class _WorkerTrace(Exception):
    """The trace of an exception in the process that raised it."""


def _surroundings() -> dict[str, Any]:
    """What of this process a job's result, its imports or its cache depend on, in plain types."""
    import torch

    variables = {name: value for name, value in os.environ.items() if name.startswith("ATTAR_")}
    return {"path": [each for each in sys.path if each], "threads": torch.get_num_threads(), "variables": variables}


def _entrance() -> Any:
    """What Ray calls in a worker. It is sent by value, being nested, and makes attar importable where it is here."""

    def attar_job(surroundings: Any, packed_work: Any, shared: Any, packed_job: Any) -> Any:
        import sys

        path = surroundings["path"]
        sys.path[:] = [*path, *(each for each in sys.path if each not in path)]
        import attar.base.engines.ray  # in the worker: this very module, which the driver sends no copy of

        yield from attar.base.engines.ray._perform(surroundings, packed_work, shared, packed_job)

    return attar_job


def _perform(
    surroundings: dict[str, Any], packed_work: bytes, shared: list[Any], packed_job: bytes
) -> Generator[Any, None, None]:
    """In a worker: what a job tells, as it tells it, and its outcome.

    The job runs in a thread of its own, so that messages leave while it computes. Nothing is unpacked, and so torch not
    imported, before the process is prepared.
    """
    prepare_process()
    os.environ.update(surroundings["variables"])
    telling, outcome = Telling(), list[_Done | _Raised]()

    def run() -> None:
        try:
            import torch

            from attar.base.engines.packing import unpack

            torch.set_num_threads(surroundings["threads"])
            work, job = pickle.loads(packed_work), unpack(pickle.loads(packed_job))
            outcome.append(_Done(work(_held(shared[0]), job, telling)))
        except BaseException as error:
            outcome.append(_raised(error))

    thread = threading.Thread(target=run, name="attar job", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(POLL_SECONDS)
        if told := telling.take():
            yield told
    if told := telling.take():
        yield told
    yield outcome[0]


def _raised(error: BaseException) -> _Raised:
    trace = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever an exception's class does when it is pickled
        return _Raised(RuntimeError(f"{type(error).__name__}: {error}"), trace)
    return _Raised(error, trace)


_HELD: dict[Any, Any] = {}
"""In a worker: what the jobs of the last call share, by its reference."""


def _held(reference: Any) -> Any:
    from attar.base.engines.packing import unpack

    if reference not in _HELD:
        _HELD.clear()
        _HELD[reference] = unpack(_import_ray().get(reference))
    return _HELD[reference]


def _fitting_gpus(devices: float, each: float) -> int:
    """Jobs that fit a node's GPUs: a fraction of one never spans two."""
    return int(devices) * int(1 / each + 1e-6) if each <= 1 else int(devices // each)


def _warn_of_threads(cpus: float, progress: Progress) -> None:
    import torch

    threads = torch.get_num_threads()
    if threads > cpus:
        progress.note(
            f"workers compute with {threads} threads as this process does, on {cpus:g} CPUs each; OMP_NUM_THREADS="
            f"{max(1, int(cpus))} before the command fits them, here and wherever results should be the same"
        )


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what Ray warns will be so
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise InputError(f"engine 'ray' needs Ray ({error}); pip install 'attar[ray]'") from None
    return ray
