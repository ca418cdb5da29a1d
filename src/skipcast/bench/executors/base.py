"""What executors have in common: tasks and results of any kind, and errors that name their task."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

TRIES = 3  # deaths of a worker over one task before it is given up


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


@dataclass(frozen=True)
class Answer:
    """What became of a task, in values that every process can read."""

    kind: Literal["done", "refused", "failed"]
    value: Any  # the result, or what is wrong
    trace: str = ""  # where it went wrong

    def result(self, task: Any) -> Any:
        """The result, or the error of the task with its name."""
        if self.kind == "done":
            return self.value
        kind = ValueError if self.kind == "refused" else WorkerError
        raise kind(f"{task}: {self.value}") from (_Elsewhere(self.trace) if self.trace else None)


class Desk:
    """Where a worker sits, in its own process: its runner is made with the first task, and errors become answers.

    Tasks and answers are pickled here and in `packed`, so that what cannot be is an error like any other.

    Args:
        make: a packed `Make`.
    """

    def __init__(self, make: bytes) -> None:
        self._make = make
        self._runner: Runner | None = None

    def answer(self, task: bytes) -> bytes:
        """A packed `Answer` to a packed task."""
        try:
            self._runner = self._runner or pickle.loads(self._make)()
            return packed(Answer("done", self._runner.run(pickle.loads(task))))
        except ValueError as error:
            return packed(Answer("refused", str(error), traceback.format_exc()))
        except Exception as error:
            return packed(Answer("failed", f"{type(error).__name__}: {error}", traceback.format_exc()))


def packed(what: Any) -> bytes:
    """As bytes for another process."""
    return pickle.dumps(what, protocol=pickle.HIGHEST_PROTOCOL)


class _Elsewhere(Exception):
    """Shows the traceback of another process as the cause of an error."""

    def __str__(self) -> str:
        return f"in the worker:\n{self.args[0]}"
