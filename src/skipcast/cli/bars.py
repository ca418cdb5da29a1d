"""A progress bar that estimates the remaining time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from skipcast.cli.base import err


class Bar:
    """The progress of work whose parts are weighted by their expected time."""

    def __init__(self, bar: Any, task: Any) -> None:
        self._bar, self._task = bar, task

    def total(self, weight: float) -> None:
        self._bar.update(self._task, total=weight)

    def advance(self, label: str, weight: float) -> None:
        self._bar.update(self._task, advance=weight, description=label)

    def reached(self, done: float, total: float) -> None:
        """Set the finished and the total weight."""
        self._bar.update(self._task, completed=done, total=total)


@contextmanager
def shown(label: str) -> Iterator[Bar]:
    """Show a progress bar on the standard error stream within the context."""
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=err, speed_estimate_period=300) as bar:
        yield Bar(bar, bar.add_task(label, total=None))
