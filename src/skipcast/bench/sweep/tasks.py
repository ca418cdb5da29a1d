"""What a worker may be asked for, and what it hands back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from skipcast.bench.rows import Row
from skipcast.bench.sweep.cells import Cell, State


@dataclass(frozen=True)
class Prepare:
    """Load what a state needs, refuse what does not suit it, find thresholds."""

    state: State
    rows: Sequence[Row]

    def __str__(self) -> str:
        return self.state.label


@dataclass(frozen=True)
class Draw:
    """Draw the pictures of a cell and measure them against the samples of other cells, by the labels of their rows."""

    cell: Cell
    samples: Mapping[str, bytes] = field(default_factory=dict)

    def __str__(self) -> str:
        return str(self.cell)


@dataclass(frozen=True)
class Count:
    """Count the floating-point operations of one call for one picture."""

    state: State
    row: Row

    def __str__(self) -> str:
        return f"operations of {self.row.label} ({self.state.label})"


@dataclass(frozen=True)
class Time:
    """Time all rows of a state on one picture, interleaved."""

    state: State
    rows: Sequence[Row]

    def __str__(self) -> str:
        return f"timing ({self.state.label})"


Task: TypeAlias = Prepare | Draw | Count | Time


@dataclass(frozen=True)
class Result:
    """What a task came to: plain values to be kept as JSON, and of a cell its sample and its pictures as files."""

    values: dict[str, Any]
    sample: bytes | None = None
    pictures: tuple[bytes, ...] = ()
