"""One plan for every value of an argument: evaluated steps that all values share, and numbers at a few of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from skipcast.plans.closed_loop import Evaluator, Program
from skipcast.plans.plan import Knot, Origin, Plan, middle
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

    def groups(self, pairs: Sequence[int]) -> list[list[int]]:
        """The pairs as they can go together into calls."""
        place = {pair: i for i, pair in enumerate(self.pairs)}
        return [[place[pair] for pair in some] for some in self.whole.groups([self.pairs[i] for i in pairs])]

    def call(self, pairs: Sequence[int], timesteps: Sequence[float], scale: Sequence[float], program: Program) -> None:
        """Run `program` on the pairs."""
        self.whole.call([self.pairs[i] for i in pairs], timesteps, scale, program)


def solve_knots(
    profile: Profile,
    evaluations: int,
    steps: Sequence[int] | None,
    evaluator: Evaluator | None,
    effort: Effort,
    advance: Callable[[str], None] = lambda note: None,
) -> Plan:
    """A plan of m evaluations with a knot at every recorded value of the argument that varies.

    The steps are those of the best plan that the pairs of all values share, closed once without joint sweeps; rows and
    timesteps are then solved on the pairs of each value alone. A sweep costs as much per pair as for one value, so the
    whole costs what a plan for one value costs on as many pairs, and closing the loop once more.

    Args:
        steps: evaluated steps instead of searched ones.
        evaluator: of the profile's pairs; None solves in the open loop.
    """
    found = varied_number(profile.origin)
    assert found is not None
    argument, groups = found

    def solved(pairs: Sequence[int], steps: Sequence[int] | None, effort: Effort, note: str) -> Plan:
        return profile.subset(pairs).plan(
            evaluations=evaluations,
            steps=steps,
            refine=None if evaluator is None else Share(evaluator, pairs),
            effort=effort,
            knots=False,
            advance=lambda words: advance(f"{note}: {words}"),
        )

    if steps is None:
        # In the order of the values, so that the pairs kept out of the fit are an equal share of each.
        everyone = [pair for pairs in groups.values() for pair in pairs]
        steps = solved(everyone, None, replace(effort, sweeps=0), "steps").steps
    return joined(
        argument,
        {value: solved(pairs, steps, effort, f"{argument} {value:g}") for value, pairs in groups.items()},
        profile.origin,
    )


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
