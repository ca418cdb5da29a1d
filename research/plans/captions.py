"""The prompts of the measurements, and those that further plans are recorded on; no prompt is both."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from skipcast.bench.prompts import SHAPES_CALIBRATION, SHAPES_PROMPTS
from skipcast.models.scenes import captions, sample_scene

#: The held-out prompts, as `held_out` makes them.
FILE = Path("docs/results/plan-prompts.txt")
_HELD_OUT, _RECORDED, _OF_RECORD = 8128, 9001, 28  # seeds of the captions
DRAWN = 10
OF_RECORD = 64


def drawn(count: int, seed: Sequence[int], *, held_out: bool = False, without: Collection[str] = ()) -> tuple[str, ...]:
    """Distinct captions from a fixed seed; more only adds.

    Args:
        count: how many.
        seed: of the draw.
        held_out: only the combinations of shape and colour that training never shows; otherwise none of them.
        without: captions that must not come.
    """
    rng, found = np.random.default_rng([*seed, int(held_out)]), list[str]()
    while len(found) < count:
        (line,) = captions(sample_scene(1, rng, held_out=held_out), rng)
        if line not in found and line not in without:
            found.append(line)
    return tuple(found)


def held_out(further: Sequence[str], recorded: Collection[str] = ()) -> tuple[str, ...]:
    """The prompts of the measurements: those of the comparisons, `further` ones, and ten drawn.

    Half of the drawn ones ask for a shape and a colour that training never shows together.

    Args:
        further: the prompts of docs/results/prompts.txt.
        recorded: captions that plans are recorded on, which must not come.
    """
    known = (*SHAPES_PROMPTS, *further)
    without = {*known, *recorded, *SHAPES_CALIBRATION}
    usual = drawn(DRAWN // 2, [_HELD_OUT], without=without)
    unseen = drawn(DRAWN - DRAWN // 2, [_HELD_OUT], held_out=True, without=without)
    return (*known, *usual, *unseen)


def recorded(count: int, draw: int, without: Collection[str]) -> tuple[str, ...]:
    """Captions for a recording of its own, one list per number of the draw, none of them in `without`."""
    return drawn(count, [_RECORDED, draw], without=without)


def of_record(first: Sequence[str], recorded: Collection[str] = ()) -> tuple[str, ...]:
    """The prompts of the benchmark of record: `first` ones, and as many drawn as make OF_RECORD.

    A quarter of the drawn ones ask for a shape and a colour that training never shows together.

    Args:
        first: the prompts of FILE.
        recorded: captions that plans are recorded on, which must not come.
    """
    without = {*first, *recorded, *SHAPES_CALIBRATION}
    count = OF_RECORD - len(first)
    usual = drawn(count - count // 4, [_OF_RECORD], without=without)
    unseen = drawn(count // 4, [_OF_RECORD], held_out=True, without=without)
    return (*first, *usual, *unseen)
