"""The executor that is this process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from skipcast.bench.executors.base import Make, Runner, WorkerError


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
