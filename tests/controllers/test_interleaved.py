"""Single steps forecast between several evaluations."""

from __future__ import annotations

import pytest

from skipcast.controllers import Interleaved


@pytest.mark.parametrize(
    "controller, steps, forecast",
    [
        (Interleaved(), 20, (4, 7, 10, 13, 16)),
        (Interleaved(2, 2, 2, 4), 20, (4, 7, 10, 13)),
        (Interleaved(3), 20, (6, 10, 14)),
        (Interleaved(4), 20, (8, 13)),
        (Interleaved(4, 5, 6, 2), 20, (11, 17)),
        (Interleaved(2, 1, 1, 0), 8, (3, 5, 7)),
        (Interleaved(), 5, ()),
    ],
)
def test_which_steps_are_forecast(controller: Interleaved, steps: int, forecast: tuple[int, ...]) -> None:
    assert tuple(step for step in range(steps) if step not in controller.evaluated(steps)) == forecast


def test_a_count_is_met_as_closely_as_it_can_be() -> None:
    assert len(Interleaved(evaluations=35).evaluated(50)) == 35
    assert Interleaved(evaluations=28).evaluated(50) == Interleaved(2, 1).evaluated(50)
    assert Interleaved(evaluations=10).evaluated(50) == (0, 1, 2, 11, 20, 29, 38, 47, 48, 49)
    assert len(Interleaved(evaluations=50).evaluated(50)) == 50


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"takes calls=... or evaluations=..., not both"):
        Interleaved(2, 2, evaluations=20)
    with pytest.raises(ValueError, match=r"Interleaved\(calls=...\) must be at least 1, got 0"):
        Interleaved(2, 0)
    with pytest.raises(ValueError, match=r"Interleaved\(evaluations=...\) must be at least 5, got 4"):
        Interleaved(evaluations=4)
    with pytest.raises(ValueError, match="num_inference_steps=4 is fewer than the warm-up of 5"):
        Interleaved().evaluated(4)
