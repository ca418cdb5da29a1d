"""One plan for every value of an argument: evaluated steps that all values share, and numbers at a few of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from skipcast.plans.closed_loop import Evaluator, Program
from skipcast.plans.open_loop import Matrix, OpenLoop, Steps
from skipcast.plans.plan import Knot, Origin, Plan, middle
from skipcast.plans.propagation import Levels
from skipcast.plans.refine import Effort

if TYPE_CHECKING:
    from skipcast.plans.profile import Profile


def varied_number(origin: Origin) -> tuple[str, dict[float, list[int]]] | None:
    """The one argument that differs from pair to pair, and the pairs of each of its values, rising.

    None where nothing differs, several arguments do, or one that is no number.
    """
    if len(origin.varied) != 1:
        return None
    ((name, values),) = origin.varied.items()
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return None
    found = {value: [i for i, other in enumerate(values) if other == value] for value in sorted(set(values))}
    return (name, found) if len(found) > 1 else None


@dataclass
class Share:
    """The evaluator of some of the pairs of another one.

    Args:
        whole: the other.
        pairs: its pairs, in the order of these.
    """

    whole: Evaluator
    pairs: Sequence[int]

    @property
    def evaluations(self) -> int:
        """Those of the whole."""
        return self.whole.evaluations

    @property
    def coarse(self) -> bool:
        """Whether outputs are rounded to half precision."""
        return self.whole.coarse

    @property
    def levels(self) -> Levels | None:
        """Where the recorded steps lie."""
        return self.whole.levels

    def groups(self, pairs: Sequence[int]) -> list[list[int]]:
        """The pairs as they can go together into calls."""
        place = {pair: i for i, pair in enumerate(self.pairs)}
        return [[place[pair] for pair in some] for some in self.whole.groups([self.pairs[i] for i in pairs])]

    def call(self, pairs: Sequence[int], timesteps: Sequence[float], scale: Sequence[float], program: Program) -> None:
        """Run `program` on the pairs."""
        self.whole.call([self.pairs[i] for i in pairs], timesteps, scale, program)


class JointLoop(OpenLoop):
    """The open loop of several Gram matrices, whose error is the geometric mean of theirs, each with rows of its own.

    So every value of the argument counts as many dB, however large its outputs are.

    Args:
        grams: one per value, (K, K) each.
        states: as for `OpenLoop`.
    """

    def __init__(self, grams: Sequence[Matrix], states: Matrix) -> None:
        super().__init__(np.mean(grams, axis=0), states)
        self._each = [OpenLoop(gram, states) for gram in grams]

    def error(self, steps: Steps) -> float:
        """The objective of the search."""
        return float(np.exp(np.mean([np.log(max(loop.error(steps), 1e-30)) for loop in self._each])))


def solve_knots(
    profile: Profile,
    sets: Sequence[Steps],
    evaluator: Evaluator | None,
    effort: Effort,
    advance: Callable[[str], None] = lambda note: None,
) -> Plan:
    """A plan with a knot at every recorded value of the argument that varies, all on the same steps.

    Each candidate set of steps is closed at every knot, on the pairs of this knot alone, and that of the best mean over
    the knots is swept there. A pair takes part in one knot, so the whole costs what a plan for one value costs on as
    many pairs, and with sweeps closing the loop once more.

    Args:
        sets: candidates, the most promising first.
        evaluator: of the profile's pairs; None takes the first set and solves in the open loop.
    """
    found = varied_number(profile.origin)
    assert found is not None
    argument, groups = found

    def solved(steps: Steps, effort: Effort) -> dict[float, Plan]:
        return {
            value: profile.subset(pairs).plan(
                steps=steps,
                refine=None if evaluator is None else Share(evaluator, pairs),
                effort=effort,
                advance=lambda note, value=value: advance(f"{argument} {value:g}, {note}"),  # type: ignore[misc]
            )
            for value, pairs in groups.items()
        }

    def promise(plans: Mapping[float, Plan]) -> float:
        return float(np.mean([plan.predicted.psnr for plan in plans.values() if plan.predicted is not None]))

    tried = sets[: 1 if evaluator is None else effort.candidates]
    best = max((solved(steps, replace(effort, sweeps=0)) for steps in tried), key=promise)
    if evaluator is not None and effort.sweeps:
        best = solved(next(iter(best.values())).steps, effort)
    return joined(argument, best, profile.origin)


def joined(argument: str, plans: Mapping[float, Plan], origin: Origin) -> Plan:
    """One plan with a knot for each of several plans on the same steps.

    Args:
        argument: of the pipeline's call, whose values the plans were made for.
        plans: by value.
        origin: of all of them.

    Raises:
        ValueError: the plans do not evaluate the same steps.
    """
    if len({plan.steps for plan in plans.values()}) != 1:
        raise ValueError("joined(plans=...) must evaluate the same steps; solve them with plan(steps=...).")
    knots = tuple(Knot.of(value, plans[value]) for value in sorted(plans))
    return replace(plans[middle(knots).value], origin=origin, argument=argument, knots=knots)
