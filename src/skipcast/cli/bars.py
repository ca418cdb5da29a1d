"""A bar that knows how long the rest takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from skipcast.cli.base import err


class Bar:
    """Progress of work whose parts weigh what their time is likely to be."""

    def __init__(self, bar: Any, task: Any) -> None:
        self._bar, self._task = bar, task

    def total(self, weight: float) -> None:
        self._bar.update(self._task, total=weight)

    def advance(self, label: str, weight: float) -> None:
        self._bar.update(self._task, advance=weight, description=label)

    def reached(self, done: float, total: float) -> None:
        """So far, of how much."""
        self._bar.update(self._task, completed=done, total=total)


@contextmanager
def shown(label: str) -> Iterator[Bar]:
    """A bar on the standard error stream while something is at work."""
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
