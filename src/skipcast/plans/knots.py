"""One plan for every value of an argument: evaluated steps that all values share, and numbers at a few of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from skipcast.plans.closed_loop import Evaluator, Pass, Program
from skipcast.plans.open_loop import Matrix, OpenLoop, Steps
from skipcast.plans.plan import Knot, Origin, Plan, middle
from skipcast.plans.propagation import Levels


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
    def evaluations(self) -> float:
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

    def call(
        self,
        pairs: Sequence[int],
        timesteps: Sequence[float],
        scale: Sequence[float],
        program: Program,
        **asked: Sequence[Pass],
    ) -> None:
        """Run `program` on the pairs."""
        self.whole.call([self.pairs[i] for i in pairs], timesteps, scale, program, **asked)


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
