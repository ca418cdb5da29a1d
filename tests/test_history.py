"""History: what is remembered, and the one weighted sum."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from skipcast import History, Point


def filled(window: int, *items: tuple[int, float, object], dtype: torch.dtype = torch.float32) -> History:
    history = History(window)
    for step, node, value in items:
        history.push(step, node, torch.tensor(value, dtype=dtype))
    return history


def test_the_window_forgets_the_oldest() -> None:
    history = History(2)
    assert len(history) == 0
    for step, node in enumerate((0.9, 0.5, 0.1)):
        history.push(step, node, torch.full((2,), float(step)))
    assert len(history) == 2
    assert history.nodes().tolist() == [0.5, 0.1]
    assert history.nodes().dtype == np.float64
    assert history.combine(np.array([10.0, 1.0])).tolist() == [12.0, 12.0]


def test_nodes_since_a_step_never_come_out_empty() -> None:
    history = filled(3, (0, 0.0, [1.0]), (1, 1.0, [2.0]))
    assert history.nodes(1).tolist() == [1.0]
    assert history.nodes(5).tolist() == [1.0]
    history.push(8, 8.0, torch.tensor([4.0]))
    assert history.nodes(1).tolist() == [1.0, 8.0]
    assert history.nodes().tolist() == [0.0, 1.0, 8.0]


def test_fewer_weights_fall_on_the_newest_values_and_zero_takes_nothing() -> None:
    history = filled(3, (0, 0.0, [math.nan]), (1, 1.0, [10.0]), (2, 2.0, [1.0]))
    for weights, total in (([1.0], 1.0), ([-1.0, 2.0], -8.0), ([0.0, 0.0, 1.0], 1.0), ([0.0, 0.0, 0.0], 0.0)):
        assert history.combine(np.array(weights)).tolist() == [total]


@pytest.mark.parametrize(
    "dtype, values, weights, expected",
    [
        (torch.bfloat16, [256.0, 1.0, 1.0], [1, 1, 1], 258.0),  # in bfloat16 itself 256 + 1 + 1 stays 256
        (torch.float16, [60000.0, 60000.0], [-1, 2], 60000.0),  # does not overflow on the way
        (torch.float64, [2.0**-40, 1.0], [1, 1], 1 + 2.0**-40),
    ],
    ids=str,
)
def test_sums_are_exact(dtype: torch.dtype, values: list[float], weights: list[float], expected: float) -> None:
    history = filled(3, *((i, float(i), [value]) for i, value in enumerate(values)), dtype=dtype)
    total = history.combine(np.array(weights, dtype=float))
    assert (total.dtype, total.tolist()) == (dtype, [expected])


@pytest.mark.parametrize("weights", [[0.0, 1.0], [-1.0, 2.0]], ids=str)
def test_a_sum_is_a_new_tensor_and_changes_no_value(weights: list[float]) -> None:
    history = filled(2, (0, 0.0, [5.0]), (1, 1.0, [3.0]))
    before = history.combine(np.array(weights)).clone()
    history.combine(np.array(weights)).fill_(77.0)
    assert torch.equal(history.combine(np.array(weights)), before)


def test_items_and_what_was_evaluated() -> None:
    history = History(2)
    for step in range(3):
        history.push(step, step / 2, torch.ones(1, requires_grad=True) * step, evaluated=step != 1)
    assert (history[0].step, history[-1].step, history[-1].node) == (1, 2, 1.0)
    assert history.evaluated().tolist() == [False, True]
    assert not history.combine(np.ones(1)).requires_grad
    point = Point(1, np.array([0.9, 0.5, 0.1]))
    assert (point.tau, point.steps) == (0.5, 3)


def test_bytes_counts_what_is_held() -> None:
    history = History(2)
    assert history.bytes() == 0
    for step in range(3):
        history.push(step, float(step), torch.zeros(3, 5, dtype=torch.bfloat16))
    assert history.bytes() == 2 * 3 * 5 * 2
    history.memo["basis"] = torch.zeros(3)
    assert history.bytes() == 2 * 3 * 5 * 2 + 12


def test_a_change_of_shape_names_both_shapes_and_the_step() -> None:
    history = filled(2, (0, 0.0, [[1.0, 2.0]]))
    with pytest.raises(ValueError, match=r"step 4 has shape \(2, 2\).*\(1, 2\); batch and resolution must not change"):
        history.push(4, 4.0, torch.zeros(2, 2))
