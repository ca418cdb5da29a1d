"""Fixed steps: the published schedules step by step, and what is refused."""

from __future__ import annotations

import pytest
import torch

from research.fidelity.decisions import counter
from skipcast import Method, Run, TimeGrid
from skipcast.controllers import Even, FixedSteps, Growing, Multiples, Periodic, Searched, StaticController
from skipcast.forecasters import Lagrange

# First steps, last step and count of the counter rule at 50 steps: arXiv:2503.06923, arXiv:2606.26769.
PUBLISHED = [
    (3, 3, (0, 1, 2, 5, 8), 47, 18),
    (3, 4, (0, 1, 2, 6, 10), 46, 14),
    (3, 5, (0, 1, 2, 7, 12), 47, 12),
    (3, 6, (0, 1, 2, 8, 14, 20, 26, 32, 38, 44), 44, 10),
    (3, 7, (0, 1, 2, 9, 16, 23, 30, 37, 44), 44, 9),
    (3, 8, (0, 1, 2, 10, 18, 26, 34, 42), 42, 8),
    (3, 9, (0, 1, 2, 11, 20, 29, 38, 47), 47, 8),
    (2, 3, (0, 1, 4, 7), 49, 18),
    (2, 4, (0, 1, 5, 9), 49, 14),
    (2, 5, (0, 1, 6), 46, 11),
    (2, 6, (0, 1, 7, 13), 49, 10),
    (1, 5, (0, 5, 10), 45, 10),
]

# (steps, warm-up, interval) -> count
SHORTER = {
    (20, 3, 4): 7, (20, 3, 5): 6, (20, 3, 6): 5, (20, 2, 4): 6, (20, 1, 5): 4,
    (28, 3, 4): 9, (28, 3, 5): 8, (28, 3, 6): 7, (28, 2, 4): 8, (28, 1, 5): 6,
    (30, 3, 4): 9, (30, 3, 5): 8, (30, 3, 6): 7, (30, 2, 4): 9, (30, 1, 5): 6,
}  # fmt: skip


@pytest.mark.parametrize("warmup, interval, first, last, count", PUBLISHED)
def test_periodic_as_published(warmup: int, interval: int, first: tuple[int, ...], last: int, count: int) -> None:
    steps = Periodic(warmup, interval).evaluated(50)
    assert steps[: len(first)] == first
    assert steps[-1] == last
    assert len(steps) == count
    assert {b - a for a, b in zip(steps[warmup - 1 :], steps[warmup:], strict=False)} == {interval}


@pytest.mark.parametrize("steps, warmup, interval", SHORTER)
def test_counts_of_shorter_runs(steps: int, warmup: int, interval: int) -> None:
    assert len(Periodic(warmup, interval).evaluated(steps)) == SHORTER[steps, warmup, interval]


@pytest.mark.parametrize("warmup", [1, 2, 3])
@pytest.mark.parametrize("interval", [1, 2, 5, 60])
def test_periodic_is_the_counter_rule(warmup: int, interval: int) -> None:
    for steps in (3, 4, 20, 50, 51):
        assert Periodic(warmup, interval).evaluated(steps) == counter(steps, warmup, interval)


@pytest.mark.parametrize(
    "evaluations, interval",
    [(50, 1), (18, 3), (14, 4), (12, 5), (10, 6), (9, 7), (8, 8), (13, 5), (11, 6), (4, 24), (3, 48)],
)
def test_evaluations_find_the_closest_count_and_never_the_larger_of_two(evaluations: int, interval: int) -> None:
    """8 is met by intervals 8 and 9; 13 and 11 by none: 12 and 10 evaluations are as close as 14 and 12."""
    assert Periodic(3, evaluations=evaluations).evaluated(50) == Periodic(3, interval).evaluated(50)


@pytest.mark.parametrize("evaluations", range(4, 11))
def test_evaluations_count_the_last_step_too(evaluations: int) -> None:
    steps = Periodic(3, evaluations=evaluations, last=True).evaluated(50)
    assert len(steps) == evaluations
    assert steps[-1] == 49


# (steps, interval) -> steps that TC-Pade always evaluates after 0 to 4: arXiv:2603.02943, released code.
ALWAYS_EVALUATED = {
    (20, 4): (8, 12, 16, 19),
    (20, 8): (8, 16, 19),
    (20, 10): (10, 19),
    (28, 8): (8, 16, 24, 27),
    (30, 8): (8, 16, 24, 29),
    (50, 8): (8, 16, 24, 32, 40, 48, 49),
    (50, 10): (10, 20, 30, 40, 49),
    (50, 13): (13, 26, 39, 49),
    (50, 17): (17, 34, 49),
}


@pytest.mark.parametrize("steps, interval", ALWAYS_EVALUATED)
def test_multiples_as_published(steps: int, interval: int) -> None:
    found = Multiples(interval=interval).evaluated(steps)
    assert found == (0, 1, 2, 3, 4, *ALWAYS_EVALUATED[steps, interval])
    assert found == tuple(s for s in range(steps) if not 4 < s < steps - 1 or s % interval == 0)


@pytest.mark.parametrize("evaluations, interval", [(12, 8), (10, 10), (9, 13), (8, 17), (50, 1), (6, 49)])
def test_multiples_find_the_closest_count_and_a_published_or_short_interval(evaluations: int, interval: int) -> None:
    """The README's 10, 9 and 8 evaluations are intervals 10, 13 to 16 and 17 to 24; 7 too makes 12."""
    assert Multiples(evaluations=evaluations).evaluated(50) == Multiples(5, interval).evaluated(50)
    assert len(Multiples(5, interval).evaluated(50)) == evaluations


@pytest.mark.parametrize(
    "controller, steps, expected",
    [
        (Periodic(3, 6, last=True), 20, (0, 1, 2, 8, 14, 19)),
        (Periodic(3, 6, last=True), 21, (0, 1, 2, 8, 14, 20)),
        (Multiples(1, 4, last=False), 20, (0, 4, 8, 12, 16)),  # as in the paper
        (Even(4), 10, (0, 2, 5, 7)),
        (Even(5), 50, (0, 10, 20, 30, 40)),
        (Even(4, last=True), 10, (0, 3, 6, 9)),
        (Even(3, last=True), 50, (0, 25, 49)),
        (Even(1), 50, (0,)),
        (FixedSteps((0, 1, 2, 4, 7, 13, 20, 39, 49)), 50, (0, 1, 2, 4, 7, 13, 20, 39, 49)),
        (FixedSteps((0, 4, 12)), 13, (0, 4, 12)),
    ],
    ids=str,
)
def test_steps_by_hand(controller: StaticController, steps: int, expected: tuple[int, ...]) -> None:
    assert controller.evaluated(steps) == expected


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("steps", [2, 7, 20, 50])
def test_even_steps_meet_every_count(steps: int, last: bool) -> None:
    for evaluations in range(2, steps + 1):
        found = Even(evaluations, last).evaluated(steps)
        assert len(set(found)) == evaluations == Even(evaluations, last).planned
        assert found[0] == 0
        assert found[-1] == steps - 1 or not last
        gaps = [b - a for a, b in zip(found, (*found[1:], steps - last), strict=True)][: len(found) - last]
        assert max(gaps) - min(gaps) <= 1


STATIC = [
    Periodic(2, 4),
    Periodic(1, evaluations=4),
    FixedSteps((0, 3, 11)),
    Multiples(2, 5),
    Even(4),
    Growing(2, 2, 1.0),
    Searched("golden", 5),
]


@pytest.mark.parametrize("controller", STATIC, ids=str)
def test_a_run_evaluates_exactly_these_steps(controller: StaticController) -> None:
    called: list[int] = []
    run = Run(Method(Lagrange(1), controller), TimeGrid.shifted(12))
    for step in range(12):
        run.advance(torch.zeros(1), lambda step=step: called.append(step) or torch.ones(1))
    assert tuple(called) == controller.evaluated(12)
    assert tuple(record.step for record in run.trace if record.evaluated) == controller.evaluated(12)


def test_what_is_equal() -> None:
    assert Multiples() == Multiples(5, 8, True)  # the published interval
    assert FixedSteps([0, 3]) == FixedSteps((0, 3))
    assert hash(FixedSteps([0, 3])) == hash(FixedSteps((0, 3)))
