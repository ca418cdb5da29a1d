"""The stability of a trajectory: both readings over the angles of TC-Pade (arXiv:2603.02943)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from skipcast.stability import one_plus_cosine, stability_score


def bent(degrees: float, newer: float = 2.0, older: float = 0.5) -> tuple[Tensor, Tensor, Tensor]:
    """r0, r1, r2 in the plane whose two moves are of the lengths given and enclose an angle."""
    angle = math.radians(degrees)
    moves = [[newer * math.cos(angle), newer * math.sin(angle)], [older, 0.0]]
    v, w = (torch.tensor([move], dtype=torch.float64) for move in moves)
    r2 = torch.tensor([[3.0, -1.0]], dtype=torch.float64)
    return r2 + w + v, r2 + w, r2


@pytest.mark.parametrize(
    "degrees, score, cosine",
    [(0, 0, 2), (30, 0.2588, 1.866), (60, 0.5, 1.5), (90, 0.7071, 1), (120, 0.8660, 0.5), (180, 1, 0)],
)
def test_angles(degrees: float, score: float, cosine: float) -> None:
    assert stability_score(*bent(degrees)) == pytest.approx(score, abs=5e-5)
    assert one_plus_cosine(*bent(degrees)) == pytest.approx(cosine, abs=5e-4)


@pytest.mark.parametrize("threshold, degrees", [(0.6, 73.74), (0.4, 47.16), (0.2, 23.07)])
def test_released_thresholds_as_angles(threshold: float, degrees: float) -> None:
    assert stability_score(*bent(degrees - 0.01)) < threshold < stability_score(*bent(degrees + 0.01))


@pytest.mark.parametrize("theta, cosine", [(1.3, 0.3), (1.0, 0.0), (0.7, -0.3)])
def test_printed_thetas_as_cosines(theta: float, cosine: float) -> None:
    assert one_plus_cosine(*bent(math.degrees(math.acos(cosine)))) == pytest.approx(theta, abs=1e-9)


def test_lengths_and_units_do_not_count() -> None:
    expected = stability_score(*bent(40))
    assert stability_score(*bent(40, newer=0.01, older=7.0)) == pytest.approx(expected, abs=1e-9)
    assert stability_score(*(1e3 * r for r in bent(40))) == pytest.approx(expected, abs=1e-9)


def test_a_path_that_stands_still_is_straight_and_a_batch_is_one_path() -> None:
    r = torch.ones(2, 3)
    assert (stability_score(r, r, r), one_plus_cosine(r, r, r)) == (0, 2)
    both = [torch.cat(pair) for pair in zip(bent(0, 1.0, 1.0), bent(180, 1.0, 1.0), strict=True)]
    assert one_plus_cosine(*both) == pytest.approx(1.0, abs=1e-9)
    assert isinstance(stability_score(*both), float)


def test_half_types_are_measured_in_float32() -> None:
    """A norm of 600 squares to more than float16 holds."""
    r2 = torch.zeros(1, 2, dtype=torch.float16)
    r1 = r2 + torch.tensor([[600.0, 0.0]], dtype=torch.float16)
    r0 = r1 + torch.tensor([[0.0, 600.0]], dtype=torch.float16)
    assert stability_score(r0, r1, r2) == pytest.approx(math.sqrt(0.5), abs=1e-6)
