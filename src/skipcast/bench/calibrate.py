"""The threshold at which a method that decides by values makes as many evaluations as the others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from skipcast import names
from skipcast.bench.draw import Pair, draw

RUNS = 8  # pipeline calls at most
TOLERANCE = 1  # evaluations beside those asked for that still count as reached
_SPAN = 1000.0  # the threshold is sought between its default divided and multiplied by this
_DEFAULT = 0.1  # where the registry gives no positive default


class Unreached(ValueError):
    """No threshold that was tried comes within one evaluation of those asked for.

    Attributes:
        closest: the specification that came closest.
        evaluations: what it makes.
    """

    def __init__(self, message: str, closest: str, evaluations: float) -> None:
        super().__init__(message)
        self.closest, self.evaluations = closest, evaluations


def dial_of(spec: str) -> str | None:
    """The option that governs how often a method evaluates; larger means more rarely. None where it has none."""
    return getattr(names.REGISTRY.get(names.split(spec)[0]), "dial", None)


def count(pipe: Any, spec: str, pairs: Sequence[Pair], *, steps: int, call: Mapping[str, Any]) -> float:
    """Evaluations per branch that a method makes on these pairs, drawn in one call and thrown away."""
    return draw(pipe, pairs, names.method(spec), steps=steps, call=call, decode=False).evaluations


def calibrate(
    pipe: Any,
    spec: str,
    evaluations: int,
    pairs: Sequence[Pair],
    *,
    steps: int,
    call: Mapping[str, Any],
) -> str:
    """The specification with the threshold at which it makes `evaluations` on these pairs.

    Bisects on a logarithmic scale, stops at an exact hit, and after at most 8 calls takes the closest; of two equally
    close ones that with fewer evaluations. The pairs must not be among those compared afterwards.

    Args:
        pipe: the pipeline.
        spec: a method whose registry entry names a dial, without a value for it.
        evaluations: requested, per branch.
        pairs: of one batch.
        steps: of the run.
        call: further arguments of the pipeline.

    Raises:
        Unreached: the closest is more than one evaluation away; a ValueError that holds it.
        ValueError: the method has no dial, or the specification sets it already.
    """
    dial = dial_of(spec)
    _, given = names.split(spec)
    if dial is None:
        raise ValueError(f"{spec}: nothing to calibrate; its evaluated steps do not follow from a threshold.")
    if dial in given:
        raise ValueError(f"{spec} sets {dial} already; leave it out to have it found.")
    default = _default(spec, dial)
    low, high = math.log(default / _SPAN), math.log(default * _SPAN)
    tried: set[str] = set()
    made: dict[str, float] = {}
    while len(made) < RUNS:
        value = f"{math.exp((low + high) / 2):.3g}"  # three digits: short enough to be copied
        if value in tried:
            break
        tried.add(value)
        candidate = _with(spec, dial, value)
        try:
            names.method(candidate)
        except ValueError:  # beyond the range of the option; its default is inside
            if float(value) == float(f"{default:.3g}"):
                raise
            often = float(value) < default
        else:
            made[candidate] = count(pipe, candidate, pairs, steps=steps, call=call)
            if made[candidate] == evaluations:
                return candidate
            often = made[candidate] > evaluations
        if often:
            low = math.log(float(value))
        else:
            high = math.log(float(value))
    closest = min(made, key=lambda candidate: (abs(made[candidate] - evaluations), made[candidate]))
    if abs(made[closest] - evaluations) > TOLERANCE:
        raise Unreached(
            f"{spec}: no {dial} brings it to {evaluations} evaluations of {steps} steps; "
            f"the closest tried, {closest}, makes {made[closest]:g}.",
            closest,
            made[closest],
        )
    return closest


def _default(spec: str, dial: str) -> float:
    default = names.REGISTRY[names.split(spec)[0]].options()[dial].default
    return float(default) if isinstance(default, int | float) and default > 0 else _DEFAULT


def _with(spec: str, dial: str, value: str) -> str:
    name, given = names.split(spec)
    return f"{name}:" + ",".join(f"{key}={text}" for key, text in {**given, dial: value}.items())
