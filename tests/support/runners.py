"""Runners and tasks small enough to test executors with; importable, for other processes load them by name."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Sum:
    """Something to do, and something to go wrong with."""

    number: int
    does: str = "add"
    once: Path | None = None  # goes wrong only until this file is there
    seconds: float = 0.0
    content: bytes = b""

    def __str__(self) -> str:
        return f"sum {self.number}"


@dataclass(frozen=True)
class Total:
    number: int
    place: int  # process that did it
    before: int  # tasks that it had done before
    content: bytes


class Adder:
    """Adds `start` to each number."""

    def __init__(self, start: int) -> None:
        if start < 0:
            raise ValueError(f"start={start} must not be negative.")
        self.start, self.done = start, 0

    def run(self, task: Sum) -> Any:
        time.sleep(task.seconds)
        if task.once is None or not task.once.exists():
            if task.once is not None:
                task.once.touch()
            if task.does == "refuse":
                raise ValueError("not a number of mine.")
            if task.does == "fail":
                raise KeyError("spoon")
            if task.does == "die":
                os._exit(9)
        if task.does == "strange":
            return lambda: None  # which cannot be pickled
        self.done += 1
        return Total(self.start + task.number, os.getpid(), self.done - 1, task.content[::-1])
