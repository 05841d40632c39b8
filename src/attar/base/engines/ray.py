"""Jobs on Ray: worker processes of this machine, or of a cluster."""

from __future__ import annotations

import bisect
import logging
import math
import os
import pickle
import sys
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attar.base.engines.engine import Engine, Job, Result, Results, Shared, Work, announcement
from attar.base.engines.tally import Messages, Tally
from attar.base.errors import InputError, WorkerLostError
from attar.base.interrupts import stop_requested
from attar.base.process import prepare_process
from attar.base.progress import Progress

if TYPE_CHECKING:
    import torch

POLL_SECONDS = 0.2  # between two looks at Ctrl-C here, and between two messages of a worker
LEAST_STORE_BYTES = 200 * 2**20  # of a Ray that is started here; it grows with what the first jobs share
CAPACITY_SECONDS = 5.0  # between two looks at how many jobs the cluster holds
CANCEL_SECONDS = 30.0  # how long cancelled jobs are waited for


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

        if not len(jobs):
            return
        with stop_requested() as stop:
            packed = pack(shared)
            ray = self._connected(packed.num_bytes, progress)
            run = _Run(ray, self, jobs, progress, names, (ray.cloudpickle.dumps(work), [ray.put(packed)]))
            del packed  # the cluster has it now
            try:
                while run.unfinished:
                    run.begin_more()
                    yield from run.arrived()
                    if stop.is_set():
                        raise KeyboardInterrupt
                run.finish()
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
            settings |= {
                "num_cpus": self.workers and math.ceil(self.workers * self.cpus),
                "include_dashboard": False,
                "object_store_memory": max(LEAST_STORE_BYTES, LEAST_STORE_BYTES // 2 + 5 * shared_bytes // 4),
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
        jobs = sum(self._fitting(node.get("CPU", 0), node.get("GPU", 0)) for node in nodes)
        if not jobs:
            processors, devices = (sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
            raise InputError(
                f"a job needs {self.cpus:g} CPUs and {self.gpus:g} GPUs of one node, which none of the cluster's "
                f"{len(nodes)} has ({processors:g} CPUs and {devices:g} GPUs in all); ask for less"
            )
        return jobs if self.workers is None else min(jobs, self.workers)

    def _fitting(self, processors: float, devices: float) -> int:
        """How many jobs a node holds. A fraction of a GPU never spans two of them."""
        jobs = int(processors / self.cpus + 1e-6)
        if not self.gpus:
            return jobs
        return min(jobs, int(devices) * int(1 / self.gpus + 1e-6) if self.gpus <= 1 else int(devices // self.gpus))


@dataclass
class _Run:
    """The jobs of one call: to be begun, running, arriving.

    Args:
        sent: what every job is sent beside itself: the work, pickled, and the reference to what is shared, in a list
            so that Ray does not fetch it.
    """

    ray: Any
    engine: RayEngine
    jobs: Sequence[Any]
    progress: Progress
    names: Sequence[str]
    sent: tuple[bytes, list[Any]]

    def __post_init__(self) -> None:
        options = {"num_cpus": self.engine.cpus, "num_gpus": self.engine.gpus}
        self._perform = self.ray.remote(_entrance()).options(num_returns="streaming", max_retries=0, **options)
        self._surroundings = _surroundings()
        self._running: dict[Any, int] = {}  # the stream of a job's messages -> its place
        self._waiting = list(range(len(self.jobs)))  # ascending, those among them whose worker died
        self._losses = [0] * len(self.jobs)
        self._failure: tuple[int, BaseException] | None = None
        self._capacity, self._capacity_time = 0, -math.inf
        self._tally = Tally(self.progress, len(self.jobs))

    @property
    def unfinished(self) -> bool:
        """Whether a job is running, or still to be begun."""
        return bool(self._running or self._waiting)

    def begin_more(self) -> None:
        """Begin as many jobs as there is room for."""
        from attar.base.engines.packing import pack

        room = self._room()
        for place in self._waiting[:room]:
            if self.names and not self._losses[place]:
                self.progress.note(announcement(self.names, place))
            job = pickle.dumps(pack(self.jobs[place]), protocol=5)
            self._running[self._perform.remote(self._surroundings, *self.sent, job)] = place
        del self._waiting[:room]

    def _room(self) -> int:
        """How many more jobs the cluster holds; looked at now and then, since nodes come and go.

        A cluster that has no node left may get one again, so that only before the first job it is an error.
        """
        now = time.monotonic()
        if now - self._capacity_time > CAPACITY_SECONDS:
            with suppress(InputError) if self._capacity else nullcontext():
                self._capacity = self.engine.capacity(self.ray)
            self._capacity_time = now
        return max(0, self._capacity - len(self._running))

    def arrived(self) -> Iterator[tuple[int, Any]]:
        """Wait a moment for a message; the results among what has come."""
        ready, _ = self.ray.wait(list(self._running), num_returns=1, timeout=POLL_SECONDS)
        for stream in ready:
            place = self._running[stream]
            try:
                message = self.ray.get(next(stream))
            except self.ray.exceptions.RayTaskError as error:
                del self._running[stream]
                error.cause.__cause__ = error  # the trace in the worker
                self._fail(place, error.cause)
            except (self.ray.exceptions.RayError, StopIteration) as error:
                del self._running[stream]
                self._lose(place, " ".join((str(error) or type(error).__name__).split())[:200])
            else:
                if isinstance(message, _Done):
                    del self._running[stream]
                    yield place, message.result
                else:
                    self._tally.take(place, self._name(place), message)

    def _lose(self, place: int, reason: str) -> None:
        """The job begins anew, unless its workers have died too often."""
        self._losses[place] += 1
        losses, retries, name = self._losses[place], self.engine.retries, self._name(place)
        if losses > retries:
            self._fail(place, WorkerLostError(f"{name}: its worker died {losses} times; the last time: {reason}"))
            return
        self.progress.note(f"{name}: its worker died and the job begins anew ({losses} of {retries} retries): {reason}")
        self._tally.begin_anew(place)
        bisect.insort(self._waiting, place)

    def _fail(self, place: int, error: BaseException) -> None:
        """Remember the first failure in the jobs' order, and end the jobs after it."""
        if self._failure is None or place < self._failure[0]:
            self._failure = place, error
        self._waiting = [waiting for waiting in self._waiting if waiting < self._failure[0]]
        self.cancel(after=self._failure[0])

    def finish(self) -> None:
        """Raise what the first job that failed has raised, or close the bar."""
        if self._failure is not None:
            raise self._failure[1]
        self._tally.finish()

    def cancel(self, after: int = -1) -> None:
        """End the running jobs behind a place, and wait until they have ended."""
        streams = [stream for stream, place in self._running.items() if place > after]
        for stream in streams:
            del self._running[stream]
            self.ray.cancel(stream, force=True)
        if streams:
            self.ray.wait([stream.completed() for stream in streams], num_returns=len(streams), timeout=CANCEL_SECONDS)

    def _name(self, place: int) -> str:
        return self.names[place] if self.names else f"job {place + 1}"


@dataclass(frozen=True)
class _Done:
    result: Any


def _surroundings() -> dict[str, Any]:
    """What of this process a job's result, its imports or its cache depend on, in plain types."""
    import torch

    variables = {name: value for name, value in os.environ.items() if name.startswith("ATTAR_")}
    path = [folder for folder in sys.path if folder]
    return {"path": path, "threads": torch.get_num_threads(), "variables": variables}


def _entrance() -> Any:
    """What Ray calls in a worker. It is sent by value, being nested, and makes attar importable where it is here."""

    def attar_job(surroundings: Any, packed_work: Any, shared: Any, packed_job: Any) -> Any:
        import sys

        path = surroundings["path"]
        sys.path[:] = [*path, *(folder for folder in sys.path if folder not in path)]
        import attar.base.engines.ray  # in the worker: this very module, which the driver sends no copy of

        yield from attar.base.engines.ray._perform(surroundings, packed_work, shared, packed_job)

    return attar_job


def _perform(
    surroundings: dict[str, Any], packed_work: bytes, shared: list[Any], packed_job: bytes
) -> Generator[Any, None, None]:
    """In a worker: what a job reports, as it reports it, and its result; or what it raised.

    The job runs in a thread of its own, so that messages leave while it computes. Nothing is unpacked, and so torch not
    imported, before the process is prepared.
    """
    prepare_process()
    os.environ.update(surroundings["variables"])
    messages, outcome = Messages(), list[_Done | Exception]()

    def run() -> None:
        try:
            import torch

            from attar.base.engines.packing import unpack

            torch.set_num_threads(surroundings["threads"])
            work, job = pickle.loads(packed_work), unpack(pickle.loads(packed_job))
            outcome.append(_Done(work(_shared_value(shared[0]), job, messages)))
        except BaseException as error:
            outcome.append(_sendable(error))

    thread = threading.Thread(target=run, name="attar job", daemon=True)
    thread.start()
    running = True
    while running:
        thread.join(POLL_SECONDS)
        running = thread.is_alive()  # before the last messages are taken, which may come until then
        if batch := messages.take():
            yield batch
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    yield outcome[0]


def _sendable(error: BaseException) -> Exception:
    """The error; or its text, where its class cannot be pickled and made again."""
    with suppress(Exception):  # whatever an exception's class does when it is pickled
        if isinstance(pickle.loads(pickle.dumps(error)), Exception) and isinstance(error, Exception):
            return error
    return RuntimeError(f"{type(error).__name__}: {error}").with_traceback(error.__traceback__)


_SHARED: dict[Any, Any] = {}
"""In a worker: what the jobs of the last call share, by its reference."""


def _shared_value(reference: Any) -> Any:
    from attar.base.engines.packing import unpack

    if reference not in _SHARED:
        _SHARED.clear()
        _SHARED[reference] = unpack(_import_ray().get(reference))
    return _SHARED[reference]


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
