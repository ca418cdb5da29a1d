"""The threshold at which a method that decides by values makes as many evaluations as the others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from skipcast.bench.draw import How, Pair, draw
from skipcast.methods import names

RUNS = 8  # pipeline calls at most
TOLERANCE = 1  # evaluations more or less than requested that still count as reached
_SPAN = 1000.0  # the threshold is sought between its default divided and multiplied by this
_DEFAULT = 0.1  # where the registry gives no positive default


class Unreached(ValueError):
    """No threshold that was tried comes within one evaluation of those requested.

    Attributes:
        closest: the specification that came closest.
        evaluations: what it makes.
    """

    def __init__(self, message: str, closest: str, evaluations: float) -> None:
        super().__init__(message)
        self.closest, self.evaluations = closest, evaluations


def threshold_of(name: str) -> str | None:
    """The option that governs how often a method evaluates; larger means more rarely. None where it has none."""
    return getattr(names.REGISTRY.get(name), "threshold_option", None)


def count(pipe: Any, method: How, pairs: Sequence[Pair], *, steps: int, call: Mapping[str, Any]) -> float:
    """Evaluations per branch that a method makes on these pairs, drawn in one call and thrown away."""
    return draw(pipe, pairs, method, steps=steps, call=call, decode=False).evaluations


def calibrate(
    pipe: Any,
    name: str,
    options: Mapping[str, str],
    evaluations: int,
    pairs: Sequence[Pair],
    *,
    steps: int,
    call: Mapping[str, Any],
    family: str | None = None,
) -> dict[str, str]:
    """The options with the threshold at which it makes `evaluations` on these pairs.

    Bisects on a logarithmic scale, stops at an exact hit, and after at most 8 calls takes the closest; of two equally
    close ones that with fewer evaluations. The pairs must not be among those compared afterwards.

    Args:
        pipe: the pipeline.
        name: of a method whose registry entry has a threshold.
        options: of it as texts, without the threshold.
        evaluations: requested, per branch.
        pairs: of one batch.
        steps: of the run.
        call: further arguments of the pipeline.
        family: of its network, whose settings stand for the options that are left out.

    Raises:
        Unreached: the closest is more than one evaluation away; a ValueError that holds it.
        ValueError: the method has no threshold, or the options set it already.
    """
    spec, threshold = names.joined(name, options), threshold_of(name)
    if threshold is None:
        raise ValueError(f"{spec}: nothing to calibrate; its evaluated steps do not follow from a threshold.")
    if threshold in options:
        raise ValueError(f"{spec} sets {threshold} already; leave it out to have it found.")
    default = names.default_threshold(name, options, family) or _DEFAULT
    low, high = math.log(default / _SPAN), math.log(default * _SPAN)
    tried: set[str] = set()
    made: dict[str, float] = {}
    while len(made) < RUNS:
        value = f"{math.exp((low + high) / 2):.3g}"  # three digits: short enough to be copied
        if value in tried:
            break
        tried.add(value)
        try:
            method = names.made(name, {**options, threshold: value}, family)
        except ValueError:  # beyond the range of the option; its default is inside
            if float(value) == float(f"{default:.3g}"):
                raise
            often = float(value) < default
        else:
            made[value] = count(pipe, method, pairs, steps=steps, call=call)
            if made[value] == evaluations:
                break
            often = made[value] > evaluations
        if often:
            low = math.log(float(value))
        else:
            high = math.log(float(value))
    closest = min(made, key=lambda value: (abs(made[value] - evaluations), made[value]))
    found = {**options, threshold: closest}
    if abs(made[closest] - evaluations) > TOLERANCE:
        raise Unreached(
            f"{spec}: no {threshold} brings it to {evaluations} evaluations of {steps} steps; "
            f"the closest tried, {names.joined(name, found)}, makes {made[closest]:g}.",
            names.joined(name, found),
            made[closest],
        )
    return found
