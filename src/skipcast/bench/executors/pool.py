"""Several workers that may die: who gets which task, and what is done again. Where they are is for others to say."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from skipcast.bench.executors.base import TRIES, Answer, WorkerError


class Died(Exception):
    """A worker is gone, with whatever it was at."""


@dataclass
class Job:
    """A task on its way."""

    task: Any
    deaths: int = 0


class Member(ABC):
    """A worker, seen from outside; `begun` once it can take a job, `job` while it is at one."""

    begun = True
    job: Job | None = None

    @abstractmethod
    def send(self, job: Job) -> bool:
        """Give it a job; False where it died while it was idle, through no fault of the job."""

    @abstractmethod
    def begin(self) -> None:
        """Take its first sign of life.

        Raises:
            Died: it did not get so far.
        """

    @abstractmethod
    def answer(self) -> Answer:
        """Take what it has to say of its job.

        Raises:
            Died: before it had done it.
        """

    @abstractmethod
    def close(self) -> None:
        """Let it go, whatever it is at."""


M = TypeVar("M", bound=Member)


class Pool(ABC, Generic[M]):
    """Up to `count` workers; one that died is replaced, and its task done again.

    Args:
        count: of workers.
    """

    def __init__(self, count: int) -> None:
        if count < 1:
            raise ValueError(f"workers={count} must be at least 1.")
        self._count = count
        self._members: list[M] = []
        self._stillborn = 0

    @abstractmethod
    def _start(self) -> M:
        """A new worker, beside those in `_members`."""

    @abstractmethod
    def _ready(self, members: Sequence[M]) -> Sequence[M]:
        """Wait until one of these has something to say, and return all that have."""

    def map(self, tasks: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        source, queue = iter(tasks), deque[Job]()
        try:
            while True:
                self._deal(source, queue)
                awaited = [member for member in self._members if member.job or (queue and not member.begun)]
                if not awaited:
                    return
                for member in self._ready(awaited):
                    if not member.begun:
                        self._begin(member)
                    elif (done := self._take(member, queue)) is not None:
                        job, answer = done
                        result = answer.result(job.task)
                        self._deal(source, queue)  # a worker must not wait while its result is looked at
                        yield job.task, result
        finally:
            for member in [member for member in self._members if member.job]:  # nobody waits for them any more
                self._drop(member)

    def close(self) -> None:
        for member in self._members:
            member.close()
        self._members.clear()

    def _deal(self, source: Iterator[Any], queue: deque[Job]) -> None:
        """Take as many tasks as there are free hands, and start workers where there are more tasks than workers."""
        while True:
            free = [member for member in self._members if member.begun and member.job is None]
            starting = sum(not member.begun for member in self._members)
            absent = self._count - len(self._members)
            while len(queue) < len(free) + starting + absent:
                try:
                    queue.append(Job(next(source)))
                except StopIteration:
                    break
            lost = False
            for member in free[: len(queue)]:
                job = queue.popleft()
                if not member.send(job):
                    queue.appendleft(job)
                    self._drop(member)
                    lost = True
            if lost:
                continue
            begun = False
            for _ in range(min(absent, len(queue) - starting)):
                self._members.append(self._start())
                begun |= self._members[-1].begun
            if not begun:
                return

    def _begin(self, member: M) -> None:
        try:
            member.begin()
            self._stillborn = 0
        except Died as error:
            self._drop(member)
            self._stillborn += 1
            if self._stillborn >= TRIES:
                raise WorkerError(f"no worker could be started, {TRIES} died at once: {error}") from error

    def _take(self, member: M, queue: deque[Job]) -> tuple[Job, Answer] | None:
        job = member.job
        assert job is not None
        try:
            answer = member.answer()
        except Died as error:
            self._drop(member)
            job.deaths += 1
            if job.deaths >= TRIES:
                raise WorkerError(
                    f"{job.task}: its worker died {TRIES} times, as for want of memory; use fewer --workers. "
                    "What is finished is kept."
                ) from error
            queue.append(job)
            return None
        member.job = None
        return job, answer

    def _drop(self, member: M) -> None:
        """A member that is no more; another is started when there is work for it."""
        member.close()
        self._members = [other for other in self._members if other is not member]
