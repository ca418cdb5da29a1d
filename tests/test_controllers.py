"""Controllers: the published schedules step by step, and what is refused."""

from __future__ import annotations

import pytest
import torch

from driftcast import FixedSteps, Lagrange, Method, Periodic, Run, TimeGrid

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


def counter_rule(steps: int, warmup: int, interval: int) -> tuple[int, ...]:
    """The released rule: evaluate during the warm-up, and whenever the counter of forecasts reaches interval - 1."""
    evaluated, counter = [], 0
    for step in range(steps):
        if step < warmup or counter == interval - 1:
            evaluated.append(step)
            counter = 0
        else:
            counter += 1
    return tuple(evaluated)


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
        assert Periodic(warmup, interval).evaluated(steps) == counter_rule(steps, warmup, interval)


def test_the_last_step_on_request() -> None:
    assert Periodic(3, 6, last=True).evaluated(20) == (0, 1, 2, 8, 14, 19)
    assert Periodic(3, 6, last=True).evaluated(21) == (0, 1, 2, 8, 14, 20)


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


@pytest.mark.parametrize("controller", [Periodic(2, 4), Periodic(1, evaluations=4), FixedSteps((0, 3, 11))], ids=str)
def test_a_run_evaluates_exactly_these_steps(controller: FixedSteps | Periodic) -> None:
    called: list[int] = []
    run = Run(Method(Lagrange(1), controller), TimeGrid.shifted(12))
    for step in range(12):
        run.advance(torch.zeros(1), lambda step=step: called.append(step) or torch.ones(1))
    assert tuple(called) == controller.evaluated(12)
    assert tuple(record.step for record in run.trace if record.evaluated) == controller.evaluated(12)


def test_fixed_steps_are_kept_as_given() -> None:
    assert FixedSteps((0, 1, 2, 4, 7, 13, 20, 39, 49)).evaluated(50) == (0, 1, 2, 4, 7, 13, 20, 39, 49)
    assert FixedSteps([0, 3]) == FixedSteps((0, 3))
    assert hash(FixedSteps([0, 3])) == hash(FixedSteps((0, 3)))


@pytest.mark.parametrize("steps", [(), (1, 2), (0, 2, 2), (0, 3, 1)], ids=str)
def test_fixed_steps_must_ascend_from_zero(steps: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"FixedSteps\(steps=\.\.\.\) must ascend from 0, .*nothing to forecast from"):
        FixedSteps(steps)


@pytest.mark.parametrize("steps", [10, 12])
def test_fixed_steps_beyond_the_run(steps: int) -> None:
    message = rf"step 12, but the run has only steps 0 to {steps - 1}; run at least 13 steps or leave"
    with pytest.raises(ValueError, match=message):
        FixedSteps((0, 4, 12)).check(steps)
    assert FixedSteps((0, 4, 12)).evaluated(13) == (0, 4, 12)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"warmup": 0}, r"Periodic\(warmup=\.\.\.\) must be at least 1, got 0; step 0 is always evaluated"),
        ({"interval": 0}, r"Periodic\(interval=\.\.\.\) must be at least 1, got 0; 1 evaluates every step"),
        ({"evaluations": 2}, r"Periodic\(evaluations=\.\.\.\) must be at least 3 .*, got 2; lower warmup"),
        ({"evaluations": 3, "last": True}, r"at least 4 \(warm-up of 3 and the last step\), got 3; lower warmup"),
    ],
    ids=str,
)
def test_periodic_refuses_at_once(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Periodic(**options)


def test_a_run_too_short_is_refused_before_anything_is_evaluated() -> None:
    method = Method(Lagrange(1), Periodic(3, 6))
    with pytest.raises(ValueError, match=r"num_inference_steps=2 is fewer than the warm-up of 3.*lower warmup"):
        Run(method, TimeGrid.shifted(2))
    with pytest.raises(ValueError, match=r"evaluations=10 is more than num_inference_steps=8; ask for at most 8"):
        Periodic(3, evaluations=10).check(8)
