"""Who does the work: this process, or several processes that share nothing. One interface, the same results."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from driftcast.bench.sweep.spec import Spec
from driftcast.bench.sweep.work import Result, Task, Worker

TRIES = 3  # deaths of a worker over one task before it is given up


class Executor(Protocol):
    """Does tasks in any order and hands back each with its result as soon as it is there."""

    def map(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Result]]:
        """Tasks are taken one by one as workers get free.

        Raises:
            ValueError: a task cannot be done; names it.
            RuntimeError: the workers of a task died again and again.
        """
        ...

    def close(self) -> None:
        """Let all workers go."""
        ...


class InProcess:
    """This process alone."""

    def __init__(self, spec: Spec, command: str) -> None:
        self._make = (spec, command)
        self._worker: Worker | None = None

    def map(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Result]]:
        for task in tasks:
            self._worker = self._worker or Worker(*self._make)
            try:
                result = self._worker.run(task)
            except ValueError as error:
                raise ValueError(f"{task}: {error}") from error
            yield task, result

    def close(self) -> None:
        self._worker = None


class Processes:
    """Several processes of this machine, each on a GPU of its own as far as there are any.

    Args:
        count: of processes.
        spec: the grid.
        command: how it was asked for.
    """

    def __init__(self, count: int, spec: Spec, command: str) -> None:
        self._make = (spec, command)
        self._members: list[_Member] = []
        self._count = count

    def map(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Result]]:
        waiting, again = iter(tasks), deque[Task]()
        deaths: dict[str, int] = {}
        done = False
        while True:
            for place in range(self._count):
                if done and not again:
                    break
                if place < len(self._members) and self._members[place].task is not None:
                    continue
                task = again.popleft() if again else next(waiting, None)
                if task is None:
                    done = True
                    break
                if place == len(self._members):
                    self._members.append(_Member(place, *self._make))
                if not self._members[place].send(task):  # it died while idle, through no fault of the task
                    self._members[place] = _Member(place, *self._make)
                    self._members[place].send(task)
            busy = [member for member in self._members if member.task is not None]
            if not busy:
                return
            ready = wait([member.connection for member in busy])
            for member in busy:
                if member.connection not in ready:
                    continue
                task, member.task = member.task, None
                assert task is not None
                try:
                    kind, answer = member.connection.recv()
                except (EOFError, OSError):
                    member.close()
                    self._members[member.place] = _Member(member.place, *self._make)
                    deaths[str(task)] = deaths.get(str(task), 0) + 1
                    if deaths[str(task)] >= TRIES:
                        raise RuntimeError(
                            f"{task}: its worker died {TRIES} times, as for want of memory; use fewer --workers. "
                            "What is finished is kept."
                        ) from None
                    again.append(task)
                    continue
                if kind == "refused":
                    raise ValueError(f"{task}: {answer}")
                if kind == "failed":
                    raise RuntimeError(f"{task}: {answer}")
                # The worker must not wait while its result is written.
                if (following := again.popleft() if again else next(waiting, None)) is None:
                    done = True
                elif not member.send(following):
                    member.task = None
                    again.append(following)
                yield task, answer

    def close(self) -> None:
        for member in self._members:
            member.close()
        self._members.clear()


class _Member:
    """A worker's process, seen from outside."""

    def __init__(self, place: int, spec: Spec, command: str) -> None:
        context = multiprocessing.get_context("spawn")
        gpus = _gpus()
        self.place = place
        self.connection, far = context.Pipe()
        self.task: Task | None = None
        self.process = context.Process(
            target=_serve, args=(far, gpus[place % len(gpus)] if gpus else None, spec, command), daemon=True
        )
        self.process.start()
        far.close()  # so that its end is seen here

    def send(self, task: Task) -> bool:
        """Whether the process was there to take it."""
        self.task = task
        try:
            self.connection.send(task)
        except OSError:
            return False
        return True

    def close(self) -> None:
        self.connection.close()
        if self.process.is_alive():
            self.process.terminate()
        self.process.join()


def _serve(connection: Connection, gpu: str | None, spec: Spec, command: str) -> None:
    """The life of a worker: it ends when nobody listens any more."""
    if gpu is not None:  # before the first use of any
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    worker = Worker(spec, command)
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        answer: tuple[str, Any]
        try:
            answer = "done", worker.run(task)
        except ValueError as error:
            answer = "refused", str(error)
        except Exception as error:
            answer = "failed", f"{type(error).__name__}: {error}"
        try:
            connection.send(answer)
        except OSError:
            return


def _gpus() -> list[str]:
    """Names of the GPUs that processes may be spread over; none where there is but one to share."""
    import torch

    count = torch.cuda.device_count()
    if count < 2:
        return []
    return os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
