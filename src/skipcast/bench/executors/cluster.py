"""The actors of a Ray cluster, one runner in each."""

from __future__ import annotations

import importlib.util
import math
import os
import pickle
import re
import socket
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from typing import Any

from skipcast.bench.executors.base import Answer, Make, WorkerError, packed
from skipcast.bench.executors.pool import Died, Job, Member, Pool

LOCAL = "local"
_MATTER = ("skipcast", "torch", "diffusers")  # packages whose versions pictures depend on
_ADDRESS = re.compile(r"(ray://)?[^/]+:\d+")
_KNOCKING = 10.0  # seconds for a machine to answer at all
_PATIENCE = 60.0  # seconds without any worker before a word about it


class Ray(Pool["_Seat"]):
    """Actors of a Ray cluster, each with a GPU of its own where the cluster has any, else with a CPU.

    Only results come back: what runners read, such as the weights of a model, must be on every machine of the
    cluster, and so must skipcast, in this version. Actors work in the folder that this process is in, where their
    machine has it.

    Args:
        address: "local" starts a cluster on this machine and ends it in the end; "auto", "HOST:PORT" or
            "ray://HOST:PORT" joins one.
        workers: number of actors; None for one per GPU of the cluster, or one.
        make: makes the runner of each.

    Raises:
        ImportError: Ray is not installed.
        ValueError: `workers` below 1, or no address.
    """

    def __init__(self, address: str, workers: int | None, make: Make) -> None:
        if importlib.util.find_spec("ray") is None:
            raise ImportError('--ray needs Ray; run: pip install "skipcast[ray]"')
        if address not in (LOCAL, "auto") and not _ADDRESS.fullmatch(address):
            raise ValueError(f"--ray {address}: give {LOCAL}, auto, HOST:PORT or ray://HOST:PORT.")
        super().__init__(1 if workers is None else workers)
        self._address, self._workers = address, workers
        self._make = packed(make)
        self._actor: Any = None
        self._own = False  # the connection to the cluster

    def _start(self) -> _Seat:
        return _Seat(self._actor.remote(self._make, os.getcwd(), _own_paths()))

    def map(self, tasks: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        waiting = iter(tasks)
        for first in waiting:  # a cluster is not started for nothing
            self._join()
            yield from super().map(chain([first], waiting))

    def _ready(self, members: Sequence[_Seat]) -> Sequence[_Seat]:
        import ray

        refs = [member.ref for member in members]
        if any(member.begun for member in self._members):
            ray.wait(refs)
        elif not ray.wait(refs, timeout=_PATIENCE)[0]:
            warnings.warn(
                f"no worker has begun for {_PATIENCE:.0f} s: the cluster has {_told(ray.available_resources())} free; "
                "waiting on.",
                stacklevel=2,
            )
        # All of them, or the first ones would always be served before the others.
        speaking, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        return [member for member in members if member.ref in speaking]

    def close(self) -> None:
        super().close()
        if self._own:
            import ray

            ray.shutdown()
        self._actor, self._own = None, False

    def _join(self) -> None:
        """Connect, and see what there is."""
        if self._actor is not None:
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
        import ray

        if not ray.is_initialized():
            quiet = {"log_to_driver": False, "logging_level": "ERROR"}
            try:
                if self._address == LOCAL:
                    cpus = max(self._count, os.cpu_count() or 1)
                    ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
                else:
                    _knock(self._address)
                    ray.init(address=self._address, **quiet)
            except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
                raise WorkerError(
                    f"--ray {self._address}: no cluster to join there ({error}); start one with `ray start --head`, "
                    f"or give --ray {LOCAL}."
                ) from error
            self._own = True
        gpus = int(ray.cluster_resources().get("GPU", 0))
        self._count = self._workers or gpus or 1
        # Several share a GPU where there are more of them than GPUs.
        share = {"num_gpus": 1 / math.ceil(self._count / gpus), "num_cpus": 0} if gpus else {"num_cpus": 1}
        self._actor = ray.remote(**share, max_restarts=0)(_actor())


class _Seat(Member):
    """An actor, seen from outside."""

    begun = False

    def __init__(self, actor: Any) -> None:
        self._handle = actor
        self.ref = actor.versions.remote(_MATTER)

    def send(self, job: Job) -> bool:
        self.job, self.ref = job, self._handle.answer.remote(packed(job.task))
        return True  # a dead one says so when it is asked

    def begin(self) -> None:
        machine, theirs = self._get()
        if wrong := _differences(theirs):
            raise WorkerError(
                f"the machine {machine} of the cluster has {', '.join(wrong)}; pictures would differ: install the "
                "same versions on all machines."
            )
        self.begun = True

    def answer(self) -> Answer:
        found = pickle.loads(self._get())
        assert isinstance(found, Answer)
        return found

    def close(self) -> None:
        import ray

        if ray.is_initialized():
            ray.kill(self._handle, no_restart=True)

    def _get(self) -> Any:
        import ray

        try:
            return ray.get(self.ref)
        except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError, ray.exceptions.NodeDiedError) as error:
            raise Died(str(error)) from error


def _knock(address: str) -> None:
    """Whether anybody is there; Ray itself asks for many minutes.

    Raises:
        OSError: nobody.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), timeout=_KNOCKING).close()


def _differences(theirs: Mapping[str, str | None]) -> list[str]:
    """Where another machine's versions are not those of this one."""
    ours: dict[str, str | None] = dict.fromkeys(_MATTER)
    for name in _MATTER:
        with suppress(PackageNotFoundError):
            ours[name] = version(name)
    return [f"{name} {theirs[name] or 'missing'} instead of {own}" for name, own in ours.items() if theirs[name] != own]


def _own_paths() -> list[str]:
    """Where this process finds modules beside what is installed."""
    installed = (sys.prefix, sys.base_prefix)
    return [path for path in map(os.path.abspath, sys.path) if not path.startswith(installed)]


def _told(resources: Mapping[str, float]) -> str:
    return f"{resources.get('GPU', 0):g} GPUs and {resources.get('CPU', 0):g} CPUs"


def _actor() -> type:
    """The class of an actor: made here, so that Ray sends its code, and a machine without skipcast can say so."""

    class Worker:
        def __init__(self, make: bytes, folder: str, paths: Sequence[str]) -> None:
            self.make = make
            self.desk: Any = None
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

        def answer(self, task: bytes) -> bytes:
            from skipcast.bench.executors.base import Desk

            self.desk = self.desk or Desk(self.make)
            found: bytes = self.desk.answer(task)
            return found

    return Worker
