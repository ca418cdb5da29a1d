"""The order of the work: what is finished stays, the rest is drawn by whoever there is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipcast.bench.draw import Pair
from skipcast.bench.executors import Executor
from skipcast.bench.generation.album import Album
from skipcast.bench.generation.orders import Order, name_of, portions


@dataclass(frozen=True)
class Generated:
    """What was done."""

    folder: Path
    listing: Path
    records: list[dict[str, Any]]  # of all pictures of the folder
    drawn: int
    kept: int
    again: int  # of those drawn
    doubted: int  # of those drawn, by their plan's check
    seconds: float

    @property
    def per_second(self) -> float:
        return self.drawn / self.seconds if self.drawn else 0.0

    def __str__(self) -> str:
        if not self.drawn:
            return f"all {self.kept} pictures were finished already"
        kept = f", {self.kept} finished before" if self.kept else ""
        again = f", {self.again} of them twice" if self.again else ""
        doubted = f", {self.doubted} not to be trusted (see --retry)" if self.doubted > self.again else ""
        return f"{self.drawn} pictures in {self.seconds:.1f} s, {self.per_second:.2f} a second{again}{doubted}{kept}"


def generate(
    folder: Path,
    order: Order,
    every: Sequence[Pair],
    executor: Executor,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Generated:
    """Draw what is not finished yet.

    Args:
        folder: of the pictures.
        order: how they are drawn.
        every: all pictures.
        executor: who draws them; closed at the end.
        progress: told of how many pictures are drawn, and how many are to be.

    Raises:
        ValueError: the folder holds something else, or a picture cannot be drawn; what is finished is kept.
        WorkerError: as of the executor.
    """
    try:
        with Album(folder, order.manifest()).opened(every) as album:
            kept = {name_of(pair) for pair in every if album.has(pair)}
            # A portion is drawn whole even where part of it is there: its pictures may depend on each other's company.
            waiting = [
                one for one in portions(every, order.batch) if any(name_of(pair) not in kept for pair in one.pairs)
            ]
            drawn = again = doubted = 0
            total = len(every) - len(kept)
            progress(0, total)
            started = time.perf_counter()
            for _, found in executor.map(waiting):
                for one in found:
                    if name_of(one.pair) not in kept:
                        album.keep(one)
                        drawn += 1
                        again += one.again
                        doubted += one.trusted is False
                progress(drawn, total)
            seconds = time.perf_counter() - started
            return Generated(folder, album.listing, album.finish(), drawn, len(kept), again, doubted, seconds)
    finally:
        executor.close()
