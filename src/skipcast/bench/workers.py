"""Who does the work: this process, several processes that share nothing, or the actors of a Ray cluster.

One interface, and the same results: a task holds everything that its result follows from.
"""

from __future__ import annotations

import importlib.util
import math
import multiprocessing
import os
import pickle
import platform
import re
import socket
import sys
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from itertools import chain
from typing import Any, Protocol, TypeAlias

TRIES = 3  # deaths of a worker over one task before it is given up
_ADDRESS = re.compile(r"local|auto|(ray://)?[^/]+:\d+")
_ANSWERS = 10.0  # seconds for a machine to answer at all
_PATIENCE = 60.0  # seconds without any worker before a warning
_LIMIT = 600.0  # seconds without any worker before it is given up
_NONE = object()


class Runner(Protocol):
    """Does tasks one by one; what it needs for all of them is made once, when it is."""

    def run(self, task: Any) -> Any:
        """Do one task; ValueError says why it cannot be done."""
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


class InProcess:
    """This process alone; its runner is made at the first task."""

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


class _Apart(ABC):
    """Workers in other processes, each with one task at a time."""

    _death: type[Exception]  # of a worker
    _loss: type[Exception] | tuple[()] = ()  # of one that has not begun yet, as with its machine

    def __init__(self, make: Make) -> None:
        self._make = pickle.dumps(make)
        self._ready: list[Any] = []  # workers that have begun
        self._starting: dict[Future[Any], Any] = {}  # the others

    @abstractmethod
    def _start(self) -> None:
        """Start the workers."""

    @abstractmethod
    def _replace(self, worker: Any) -> bool:
        """See to another worker in the place of a dead one; whether it can be given a task at once."""

    @abstractmethod
    def _submit(self, worker: Any, task: bytes) -> Future[bytes]:
        """Give a worker a pickled task."""

    def map(self, tasks: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        source = iter(tasks)
        for first in source:  # nothing is started for nothing
            if not self._ready and not self._starting:
                self._start()
            yield from self._map(chain([first], source))

    def _map(self, source: Iterator[Any]) -> Iterator[tuple[Any, Any]]:
        running: dict[Future[bytes], tuple[Any, Any, int]] = {}  # worker, task, how often it was tried
        again: list[tuple[Any, int]] = []  # tasks of dead workers
        idle: list[Any] = []
        waited, losses = 0.0, 0  # seconds without any worker, and workers that were lost before they began

        def give_next(worker: Any) -> None:
            task, tries = again.pop() if again else (next(source, _NONE), 1)
            if task is _NONE:
                idle.append(worker)
                return
            content = pickle.dumps(task, protocol=pickle.HIGHEST_PROTOCOL)
            running[self._submit(worker, content)] = worker, task, tries

        for worker in self._ready:
            give_next(worker)
        while running or again or (self._starting and not self._ready):
            futures = [*running, *self._starting]
            done = wait(futures, None if self._ready else _PATIENCE, FIRST_COMPLETED).done
            waited = 0.0 if done else waited + _PATIENCE
            if waited >= _LIMIT:
                raise WorkerError(
                    f"no worker has begun for {waited:.0f} s: the machines of the cluster are gone, busy or too small. "
                    "What is finished is kept: give the command again once they are back, or without --ray."
                )
            if waited == _PATIENCE:
                warnings.warn(
                    f"no worker has begun for {_PATIENCE:.0f} s, for want of free GPUs or CPUs; waiting on.",
                    stacklevel=2,
                )
            for future in done:
                if future in self._starting:
                    try:
                        future.result()
                    except self._death as error:
                        losses += 1
                        if isinstance(error, self._loss) and losses < TRIES:
                            self._replace(self._starting.pop(future))
                            continue
                        raise WorkerError(f"no worker could be started: {getattr(error, 'cause', error)}") from error
                    self._ready.append(self._starting.pop(future))
                    give_next(self._ready[-1])
                    continue
                worker, task, tries = running.pop(future)
                try:
                    result = pickle.loads(future.result())
                except (ValueError, WorkerError) as error:
                    kind = ValueError if isinstance(error, ValueError) else WorkerError
                    raise kind(f"{task}: {getattr(error, 'cause', error)}") from error
                except self._death as error:
                    if self._replace(worker):
                        idle.append(worker)
                    if tries >= TRIES:
                        raise WorkerError(
                            f"{task}: its worker died {TRIES} times, as for want of memory; use fewer --workers. What "
                            "is finished is kept."
                        ) from error
                    again.append((task, tries + 1))
                    if idle:
                        give_next(idle.pop())
                    continue
                give_next(worker)  # a worker must not wait while a result is looked at
                yield task, result


class Processes(_Apart):
    """Several processes of this machine, each on a GPU of its own as far as there are any.

    Each is a pool of its own, so that it takes no other with it when it dies.
    """

    _death = BrokenProcessPool

    def __init__(self, count: int, make: Make) -> None:
        super().__init__(make)
        self._count = count
        self._pools: dict[int, ProcessPoolExecutor] = {}

    def close(self) -> None:
        for pool in self._pools.values():
            pool.shutdown(cancel_futures=True)
        self._pools.clear()

    @property
    def pids(self) -> list[int]:
        """The processes that have been started."""
        return [pid for pool in self._pools.values() for pid in pool._processes or ()]

    def _start(self) -> None:
        self._ready = list(range(self._count))

    def _replace(self, worker: int) -> bool:
        return True  # its pool is made anew when it gets a task

    def _submit(self, worker: int, task: bytes) -> Future[bytes]:
        try:
            return self._pools[worker].submit(run_pickled, self._make, task)
        except (KeyError, BrokenProcessPool):  # not there yet, or dead
            gpus = _gpus()
            gpu = gpus[worker % len(gpus)] if gpus else None
            spawn = multiprocessing.get_context("spawn")
            self._pools[worker] = ProcessPoolExecutor(1, spawn, _begin, (gpu,))
            return self._pools[worker].submit(run_pickled, self._make, task)


def _begin(gpu: str | None) -> None:
    """The beginning of a worker's process, which ends with its parent even where that is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    if gpu is not None:  # before the first use of any
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu


def _gpus() -> list[str]:
    """Names of the GPUs that processes may be spread over; none where there is but one to share."""
    import torch

    count = torch.cuda.device_count()
    if count < 2:
        return []
    return os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")


def run_pickled(make: bytes, task: bytes) -> bytes:
    """The pickled result of a task, by the one runner of this process.

    What cannot be pickled is an error of its task, and errors are of types that every process can read.
    """
    try:
        return pickle.dumps(_runner(make).run(pickle.loads(task)), protocol=pickle.HIGHEST_PROTOCOL)
    except ValueError as error:
        raise ValueError(str(error)) from error
    except Exception as error:
        raise WorkerError(f"{type(error).__name__}: {error}") from error


@lru_cache(maxsize=1)
def _runner(make: bytes) -> Runner:
    made: Runner = pickle.loads(make)()
    return made


class Ray(_Apart):
    """Actors of a Ray cluster, each with a GPU of its own where the cluster has any, else with a CPU.

    In the place of an actor that died, alone or with its machine, another begins wherever there is room, and the tasks
    go on with the others meanwhile. Only results come back: what runners read, such as the weights of a model, must be
    on every machine of the cluster, and so must skipcast and what it needs, in the versions of this machine. Actors
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
        if not _ADDRESS.fullmatch(address):
            raise ValueError(f"--ray {address}: give local, auto, HOST:PORT or ray://HOST:PORT.")
        super().__init__(make)
        self._address, self._workers = address, workers
        self._own = False  # the connection to the cluster

    def close(self) -> None:
        if actors := [*self._ready, *self._starting.values()]:
            import ray

            if ray.is_initialized():
                for actor in actors:
                    ray.kill(actor, no_restart=True)
                if self._own:
                    ray.shutdown()
        self._ready, self._starting, self._own = [], {}, False

    def _start(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
        import ray

        from skipcast.bench.provenance import versions

        self._death, self._loss = ray.exceptions.RayError, ray.exceptions.RayActorError
        if not ray.is_initialized():
            try:
                self._connect(ray.init)
            except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
                raise WorkerError(
                    f"--ray {self._address}: no cluster to join there ({error}); start one with `ray start --head`, "
                    "or give --ray local."
                ) from error
            self._own = True
        gpus = int(ray.cluster_resources().get("GPU", 0))
        count = self._workers or gpus or 1
        # Several share a GPU where there are more of them than GPUs.
        share = {"num_gpus": 1 / math.ceil(count / gpus), "num_cpus": 0} if gpus else {"num_cpus": 1}
        actor = ray.remote(**share)(_actor())
        installed = (sys.prefix, sys.base_prefix)
        paths = [path for path in map(os.path.abspath, sys.path) if not path.startswith(installed)]

        def begin() -> None:
            worker = actor.remote(self._make, os.getcwd(), paths)
            self._starting[worker.begin.remote(versions()).future()] = worker

        self._begin_one = begin
        for _ in range(count):
            begin()

    def _replace(self, worker: Any) -> bool:
        self._ready = [other for other in self._ready if other is not worker]
        self._begin_one()
        return False

    def _connect(self, init: Callable[..., Any]) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if self._address == "local":
            options |= {"num_cpus": max(self._workers or 1, os.cpu_count() or 1), "include_dashboard": False}
        host, colon, port = self._address.removeprefix("ray://").rpartition(":")
        if colon:  # whether anybody is there; Ray itself tries for many minutes
            socket.create_connection((host, int(port)), timeout=_ANSWERS).close()
        init(address=self._address, **options)

    def _submit(self, worker: Any, task: bytes) -> Future[bytes]:
        found: Future[bytes] = worker.run.remote(task).future()
        return found


def _actor() -> type:
    """The class of an actor: made here, so that Ray sends its code, and skipcast is found by the paths of this process.

    Its `begin` fails where the machine lacks skipcast.
    """

    class Worker:
        def __init__(self, make: bytes, folder: str, paths: Sequence[str]) -> None:
            self.make = make
            if os.path.isdir(folder):
                os.chdir(folder)
            sys.path += [path for path in paths if os.path.isdir(path) and path not in sys.path]

        def begin(self, needed: Mapping[str, str]) -> None:
            from skipcast.bench.workers import check_versions

            check_versions(needed)

        def run(self, task: bytes) -> bytes:
            from skipcast.bench.workers import run_pickled

            return run_pickled(self.make, task)

    return Worker


def check_versions(needed: Mapping[str, str]) -> None:
    """Refuse a machine whose versions are others than those of the machine that hands out the work."""
    from skipcast.bench.provenance import versions

    own = versions()
    if wrong := [f"{name} {own[name]} instead of {given}" for name, given in needed.items() if own[name] != given]:
        raise WorkerError(
            f"the machine {platform.node()} of the cluster has {', '.join(wrong)}; images would differ: install the "
            "same versions on all machines."
        )
