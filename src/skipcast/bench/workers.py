"""Who does the work: this process, several processes that share nothing, or the actors of a Ray cluster.

One interface, and the same results: a task holds everything that its result follows from.
"""

from __future__ import annotations

import importlib.util
import math
import multiprocessing
import os
import pickle
import re
import socket
import sys
import threading
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from typing import Any, Protocol, TypeAlias

TRIES = 3  # deaths of a worker over one task before it is given up
LOCAL = "local"
_MATTER = ("skipcast", "torch", "diffusers")  # packages whose versions images depend on
_ADDRESS = re.compile(r"(ray://)?[^/]+:\d+")
_ANSWERS = 10.0  # seconds for a machine to answer at all
_PATIENCE = 60.0  # seconds without any worker before a warning
_NONE = object()


class Runner(Protocol):
    """Does tasks one by one; what it needs for all of them is made once, when it is."""

    def run(self, task: Any) -> Any:
        """Do one task.

        Raises:
            ValueError: it cannot be done, and why.
        """
        ...


#: Makes a runner wherever it is to work, so it must be picklable: a class, or `functools.partial` of one.
Make: TypeAlias = Callable[[], Runner]


class WorkerError(RuntimeError):
    """A task failed for another reason than a wrong request, or its workers died again and again."""


class Executor(Protocol):
    """Does tasks in any order and hands back each with its result as soon as it is there.

    A task is anything picklable whose `str` names it in errors.
    """

    def map(self, tasks: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """Tasks are taken one by one as workers get free.

        Raises:
            ValueError: a task cannot be done; names it.
            WorkerError: a task failed, with the type of its error, or its workers died again and again.
        """
        ...

    def close(self) -> None:
        """Let all workers go."""
        ...


def executor(make: Make, workers: int | None = None, address: str | None = None) -> Executor:
    """The executor that is meant by options of a command.

    Args:
        make: makes the runner of each worker.
        workers: how many; None for one, or on a cluster as many as it has GPUs.
        address: of a Ray cluster; None for this machine without one.

    Raises:
        ImportError: Ray is not installed.
        ValueError: fewer than one worker.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers={workers} must be at least 1.")
    if address is not None:
        return Ray(address, workers, make)
    return InProcess(make) if workers in (None, 1) else Processes(workers or 1, make)


class Seat:
    """A runner in the process where it works, made with the first task; tasks and results are pickled here.

    So whatever cannot be pickled is an error of its task, and errors are of types that every process can read.

    Args:
        make: a pickled `Make`.
    """

    def __init__(self, make: bytes) -> None:
        self._make = make
        self._runner: Runner | None = None

    def run(self, task: bytes) -> bytes:
        """The pickled result of a pickled task."""
        try:
            self._runner = self._runner or pickle.loads(self._make)()
            return pickle.dumps(self._runner.run(pickle.loads(task)), protocol=pickle.HIGHEST_PROTOCOL)
        except ValueError as error:
            raise ValueError(str(error)) from error
        except Exception as error:
            raise WorkerError(f"{type(error).__name__}: {error}") from error


class InProcess:
    """This process alone.

    Args:
        make: makes the runner, at the first task.
    """

    def __init__(self, make: Make) -> None:
        self._make = make
        self._runner: Runner | None = None

    def map(self, tasks: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        for task in tasks:
            try:
                self._runner = self._runner or self._make()
                result = self._runner.run(task)
            except ValueError as error:
                raise ValueError(f"{task}: {error}") from error
            except Exception as error:
                raise WorkerError(f"{task}: {type(error).__name__}: {error}") from error
            yield task, result

    def close(self) -> None:
        self._runner = None


class Processes:
    """Several processes of this machine, each on a GPU of its own as far as there are any.

    Args:
        count: of processes.
        make: makes the runner of each.
    """

    def __init__(self, count: int, make: Make) -> None:
        self._count, self._make = count, pickle.dumps(make)
        self._pool: ProcessPoolExecutor | None = None

    def map(self, tasks: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        source, running = iter(tasks), dict[Future[bytes], Any]()
        suspects, deaths = deque[Any](), Counter[int]()
        while True:
            self._fill(source, suspects, running)
            if not running:
                return
            future = next(iter(wait(running, return_when=FIRST_COMPLETED).done))
            task = running.pop(future)
            try:
                result = pickle.loads(future.result())
            except BrokenProcessPool:  # a dead process takes the others with it: all that they were at is done again
                self.close()
                lost = [each for each in running if not each.done() or each.exception() is not None]
                for victim in [task, *(running.pop(each) for each in lost)]:
                    deaths[id(victim)] += 1
                    if deaths[id(victim)] >= TRIES:
                        raise _given_up(victim) from None
                    suspects.append(victim)
                continue
            except (ValueError, WorkerError) as error:
                raise type(error)(f"{task}: {error}") from error.__cause__ or error
            del deaths[id(task)]
            self._fill(source, suspects, running)  # a worker must not wait while a result is looked at
            yield task, result

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._pool = None

    @property
    def pids(self) -> list[int]:
        """The processes that have been started."""
        return list(self._pool._processes) if self._pool is not None else []

    def _fill(self, source: Iterator[Any], suspects: deque[Any], running: dict[Future[bytes], Any]) -> None:
        """Hand out tasks; those that a process died over one by one, to see whose fault it was."""
        while len(running) < (1 if suspects else self._count):
            if (task := suspects.popleft() if suspects else next(source, _NONE)) is _NONE:
                return
            running[self._submit(task)] = task

    def _submit(self, task: Any) -> Future[bytes]:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            gpus = context.SimpleQueue()
            for gpu, _ in zip(_gpus() * self._count, range(self._count), strict=False):
                gpus.put(gpu)
            self._pool = ProcessPoolExecutor(self._count, context, _begin, (self._make, gpus))
        content = pickle.dumps(task, protocol=pickle.HIGHEST_PROTOCOL)
        try:
            return self._pool.submit(_run, content)
        except BrokenProcessPool:  # a process died while it was idle
            self.close()
            return self._submit(task)


_seat: Seat  # of a worker's process


def _begin(make: bytes, gpus: Any) -> None:
    """The beginning of a worker's process, which ends with its parent even where that is killed."""
    global _seat
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    if not gpus.empty():  # before the first use of any
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus.get()
    _seat = Seat(make)


def _run(task: bytes) -> bytes:
    return _seat.run(task)


def _gpus() -> list[str]:
    """Names of the GPUs that processes may be spread over; none where there is but one to share."""
    import torch

    count = torch.cuda.device_count()
    if count < 2:
        return []
    return os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")


def _given_up(task: Any) -> WorkerError:
    return WorkerError(
        f"{task}: its worker died {TRIES} times, as for want of memory; use fewer --workers. What is finished is kept."
    )


class Ray:
    """Actors of a Ray cluster, each with a GPU of its own where the cluster has any, else with a CPU.

    Ray itself starts actors that died again and repeats their tasks. Only results come back: what runners read, such
    as the weights of a model, must be on every machine of the cluster, and so must skipcast, in this version. Actors
    work in the folder that this process is in, where their machine has it.

    Args:
        address: "local" starts a cluster on this machine and ends it in the end; "auto", "HOST:PORT" or
            "ray://HOST:PORT" joins one.
        workers: number of actors; None for one per GPU of the cluster, or one.
        make: makes the runner of each.

    Raises:
        ImportError: Ray is not installed.
        ValueError: no address.
    """

    def __init__(self, address: str, workers: int | None, make: Make) -> None:
        if importlib.util.find_spec("ray") is None:
            raise ImportError('--ray needs Ray; run: pip install "skipcast[ray]"')
        if address not in (LOCAL, "auto") and not _ADDRESS.fullmatch(address):
            raise ValueError(f"--ray {address}: give {LOCAL}, auto, HOST:PORT or ray://HOST:PORT.")
        self._address, self._workers, self._make = address, workers, pickle.dumps(make)
        self._actors: list[Any] = []
        self._begun: list[Any] = []  # those that hold the right versions
        self._own = False  # the connection to the cluster

    def map(self, tasks: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        source = iter(tasks)
        for first in source:  # a cluster is not started for nothing
            self._join()
            yield from self._map(chain([first], source))

    def close(self) -> None:
        if self._actors:
            import ray

            if ray.is_initialized():
                for actor in self._actors:
                    ray.kill(actor, no_restart=True)
                if self._own:
                    ray.shutdown()
        self._actors, self._begun, self._own = [], [], False

    def _map(self, source: Iterator[Any]) -> Iterator[tuple[Any, Any]]:
        import ray

        running: dict[Any, tuple[Any, Any]] = {}  # reference -> actor, task
        starting = {actor.versions.remote(_MATTER): actor for actor in self._actors if actor not in self._begun}
        idle = list(self._begun)

        def fill() -> None:
            for task in source if idle else ():
                actor = idle.pop()
                running[actor.run.remote(pickle.dumps(task, protocol=pickle.HIGHEST_PROTOCOL))] = actor, task
                if not idle:
                    return

        fill()
        while running or (starting and not self._begun):
            references = [*running, *starting]
            if not ray.wait(references, timeout=None if self._begun else _PATIENCE)[0]:
                resources = ray.available_resources()
                free = f"{resources.get('GPU', 0):g} GPUs and {resources.get('CPU', 0):g} CPUs"
                warnings.warn(
                    f"no worker has begun for {_PATIENCE:.0f} s: the cluster has {free} free; waiting on.", stacklevel=2
                )
            # All that are ready, or the first ones would always be served before the others.
            finished = []
            for reference in ray.wait(references, num_returns=len(references), timeout=0)[0]:
                if reference in starting:
                    actor = starting.pop(reference)
                    try:
                        machine, theirs = ray.get(reference)
                    except ray.exceptions.RayError as error:
                        raise WorkerError(f"no worker could be started: {error}") from error
                    _check_versions(machine, theirs)
                    self._begun.append(actor)
                else:
                    actor, task = running.pop(reference)
                    finished.append((task, _result(task, reference)))
                idle.append(actor)
            fill()
            yield from finished

    def _join(self) -> None:
        """Connect, and start the actors."""
        if self._actors:
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
        import ray

        if not ray.is_initialized():
            quiet = {"log_to_driver": False, "logging_level": "ERROR"}
            try:
                if self._address == LOCAL:
                    cpus = max(self._workers or 1, os.cpu_count() or 1)
                    ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
                else:
                    _reach(self._address)
                    ray.init(address=self._address, **quiet)
            except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
                raise WorkerError(
                    f"--ray {self._address}: no cluster to join there ({error}); start one with `ray start --head`, "
                    f"or give --ray {LOCAL}."
                ) from error
            self._own = True
        gpus = int(ray.cluster_resources().get("GPU", 0))
        count = self._workers or gpus or 1
        # Several share a GPU where there are more of them than GPUs.
        share = {"num_gpus": 1 / math.ceil(count / gpus), "num_cpus": 0} if gpus else {"num_cpus": 1}
        actor = ray.remote(**share, max_restarts=-1, max_task_retries=TRIES - 1)(_actor())
        self._actors = [actor.remote(self._make, os.getcwd(), _own_paths()) for _ in range(count)]


def _result(task: Any, reference: Any) -> Any:
    """What a task came to on a cluster."""
    import ray

    try:
        return pickle.loads(ray.get(reference))
    except ray.exceptions.RayTaskError as error:
        kind = ValueError if isinstance(error.cause, ValueError) else WorkerError
        raise kind(f"{task}: {error.cause}") from error
    except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError, ray.exceptions.NodeDiedError) as error:
        raise _given_up(task) from error


def _reach(address: str) -> None:
    """Whether anybody is there; Ray itself tries for many minutes.

    Raises:
        OSError: nobody.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), timeout=_ANSWERS).close()


def _check_versions(machine: str, theirs: Mapping[str, str | None]) -> None:
    """Refuse a machine whose versions are not those of this one."""
    ours: dict[str, str | None] = dict.fromkeys(_MATTER)
    for name in _MATTER:
        with suppress(PackageNotFoundError):
            ours[name] = version(name)
    wrong = [
        f"{name} {theirs[name] or 'missing'} instead of {own}" for name, own in ours.items() if theirs[name] != own
    ]
    if wrong:
        raise WorkerError(
            f"the machine {machine} of the cluster has {', '.join(wrong)}; images would differ: install the same "
            "versions on all machines."
        )


def _own_paths() -> list[str]:
    """Where this process finds modules besides what is installed."""
    installed = (sys.prefix, sys.base_prefix)
    return [path for path in map(os.path.abspath, sys.path) if not path.startswith(installed)]


def _actor() -> type:
    """The class of an actor: made here, so that Ray sends its code, and a machine without skipcast can say so."""

    class Worker:
        def __init__(self, make: bytes, folder: str, paths: Sequence[str]) -> None:
            self.make = make
            self.seat: Any = None
            if os.path.isdir(folder):
                os.chdir(folder)
            sys.path += [path for path in paths if os.path.isdir(path) and path not in sys.path]

        def versions(self, names: Sequence[str]) -> tuple[str, dict[str, str | None]]:
            import platform
            from importlib.metadata import PackageNotFoundError, version

            found: dict[str, str | None] = {}
            for name in names:
                try:
                    found[name] = version(name)
                except PackageNotFoundError:
                    found[name] = None
            return platform.node(), found

        def run(self, task: bytes) -> bytes:
            from skipcast.bench.workers import Seat

            self.seat = self.seat or Seat(self.make)
            found: bytes = self.seat.run(task)
            return found

    return Worker
