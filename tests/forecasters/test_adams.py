"""Multistep rules in feature space: PrediT (arXiv:2602.18093) with its corrector, and AB-Cache (arXiv:2504.10540)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from research.fidelity.forecasts import predit
from skipcast import History, Method, Output, Point, Run
from skipcast.controllers import FixedSteps, Periodic, StaticController
from skipcast.forecasters import ABCache, AdamsBashforth, Lagrange, LinearForecaster, TaylorSeer
from support.cases import GRID, newest_first, random, run_of

UNEVEN = (0, 1, 2, 4, 5, 9, 14, 15, 21, 22, 30, 37, 45)


@pytest.mark.parametrize(
    "order, nodes, tau, expected",
    [
        (2, [0, 6, 12], 18, [2.5, -2, 0.5]),
        (2, [5, 9, 15], 18, [1.625, -0.8125, 0.1875]),
        (3, [0, 6, 12, 18], 24, [2.9167, -3.25, 1.75, -0.4167]),
        (3, [0, 6, 12, 18], 21, [1.7083, -1.0, 0.375, -0.0833]),
        (1, [2, 8], 11, [1.5, -0.5]),
        (3, [7], 9, [1]),
        (3, [2, 8], 11, [1.5, -0.5]),
    ],
)
def test_published_weights(order: int, nodes: list[float], tau: float, expected: list[float]) -> None:
    assert newest_first(AdamsBashforth(order), nodes, tau) == pytest.approx(expected, abs=5.1e-5)


def test_order_two_is_taylorseer_at_any_gaps() -> None:
    for gaps in np.random.default_rng(0).uniform(0.01, 8.0, (50, 3)):
        nodes, tau = np.array([0.0, gaps[0], gaps[:2].sum()]), gaps.sum()
        assert AdamsBashforth(2).weights(nodes, tau) == pytest.approx(TaylorSeer(2).weights(nodes, tau), rel=1e-10)


@pytest.mark.parametrize(
    "rule, errors",
    [
        *((rule, [-2, -6, -12]) for rule in (AdamsBashforth(1), TaylorSeer(1))),
        *((rule, [-1, -2, -3]) for rule in (AdamsBashforth(2), AdamsBashforth(3), TaylorSeer(2))),
    ],
    ids=str,
)
def test_no_order_reproduces_a_parabola(rule: LinearForecaster, errors: list[int]) -> None:
    """Backward slopes of t^2 lie on a line half a step off, so that every order beyond 1 misses by k."""
    nodes = np.arange(4.0)[-rule.window :]
    found = [float(rule.weights(nodes, 3.0 + k) @ nodes**2) - (3 + k) ** 2 for k in (1, 2, 3)]
    assert found == pytest.approx(errors, abs=1e-12)


RULES = [(1, 0), (2, 0), (3, 0), (4, 0), (1, 2), (2, 2), (2, 3), (3, 2), (3, 3), (3, 4)]


@pytest.mark.parametrize(
    "order, corrector, controller",
    [*((*rule, FixedSteps(UNEVEN)) for rule in RULES), (4, 0, Periodic(1, 4)), (3, 3, Periodic(4, 6))],
)
def test_a_run_is_the_reconstruction(order: int, corrector: int, controller: StaticController) -> None:
    values = random(6)
    found = run_of(Method(AdamsBashforth(order, corrector), controller), values)
    expected = predit(values, controller.evaluated(50), order, corrector)
    assert np.abs(found - expected).max() < 1e-10 * max(1, np.abs(expected).max())


def corrected(forecaster: AdamsBashforth, nodes: list[int], step: int) -> list[float]:
    """Weights of the corrected value on the evaluation itself and on those before it, newest first."""
    unit, history = torch.eye(len(nodes) + 1, dtype=torch.float64), History(forecaster.window)
    for node, value in zip(nodes, unit, strict=False):
        history.push(node, float(node), value)
    return forecaster.correct(history, Point(step, np.arange(50.0)), unit[-1]).flip(0).tolist()


@pytest.mark.parametrize("corrector, rule", [(2, [1 / 2, 1 / 2]), (3, [5 / 12, 8 / 12, -1 / 12])])
@pytest.mark.parametrize("gap", [1, 6])
def test_adams_moulton_on_even_evaluations(corrector: int, rule: list[float], gap: int) -> None:
    """F_0 + H sum b_j d_j, where d_j of the new point comes from the evaluation."""
    expected = np.zeros(4)
    expected[1] = 1
    for j, weight in enumerate(rule):
        expected[[j, j + 1]] += [weight, -weight]
    found = corrected(AdamsBashforth(2, corrector), [0, gap, 2 * gap], 3 * gap)
    assert found == pytest.approx(expected.tolist(), abs=1e-14)


def test_the_corrector_of_order_two_is_an_average() -> None:
    """Half the evaluation, half the line through the two before it, at any gaps."""
    line = Lagrange(1).weights(np.array([2.0, 4.0]), 9.0)
    assert corrected(AdamsBashforth(1, 2), [2, 4], 9) == pytest.approx([0.5, *(line[::-1] / 2)], abs=1e-14)


def test_the_corrected_value_is_used_and_remembered() -> None:
    run = Run(Method(AdamsBashforth(1, 2), FixedSteps((0, 1, 4)), target=Output()), GRID)
    x = torch.zeros(2)
    values = [torch.tensor([1.0, 0.0]), torch.tensor([2.0, 0.0]), torch.tensor([8.0, 1.0])]
    found = [run.advance(x, lambda i=i: values[min(i, 2)]).tolist() for i in range(6)]
    assert found[:2] == [[1, 0], [2, 0]]  # one slope alone is the evaluation's own
    assert found[4] == [6.5, 0.5]
    assert found[5] == [8.0, pytest.approx(0.5 + 0.5 / 3)]


@pytest.mark.parametrize(
    "terms, count, expected",
    [(2, 2, [2, -1]), (4, 4, [4, -6, 4, -1]), (4, 3, [3, -3, 1]), (4, 2, [2, -1]), (4, 1, [1]), (2, 1, [1])],
)
def test_ab_cache_weighs_alike_at_every_distance(terms: int, count: int, expected: list[float]) -> None:
    nodes = [0.0, 1.0, 2.0, 8.0][-count:]
    for tau in (9, 11, 30):
        assert newest_first(ABCache(terms), nodes, tau) == expected


def test_ab_cache_forecasts_the_same_until_the_next_evaluation() -> None:
    values = random(7)
    found = run_of(Method(ABCache(), Periodic(2, 6)), values)
    for start in range(1, 44, 6):
        before = 0 if start == 1 else start - 6
        expected = 2 * values[start] - values[before]
        assert np.abs(found[start + 1 : start + 6] - expected).max() < 1e-12


def test_what_they_need() -> None:
    assert (AdamsBashforth(3).window, AdamsBashforth(3).min_evaluations) == (4, 4)
    assert (ABCache(4).window, ABCache(4).min_evaluations) == (4, 4)
