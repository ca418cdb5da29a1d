"""RA-CFGCache's rule against a transcription of the release, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from research.fidelity.decisions import racfgcache
from skipcast.controllers import GuidedRisk

FLUX = (0.4806165972188018, 0.4782565130260521, 0.06411702055286407)
WAN = (1.214, 3.832, 0.2463)
ONES = (1.0, 1.0, 1.0)
ALIKE: dict[str, Any] = {"conditional": ONES, "unconditional": ONES, "alignment": (ONES,) * 3, "scale": 3.5, "first": 1}


@pytest.mark.parametrize("steps", [20, 50])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scale, tau, gain, warm", [(3.5, 0.18, FLUX, 5), (5.0, 0.4, WAN, 10), (1.5, 0.1, FLUX, 0)])
def test_it_is_the_released_rule(
    steps: int, seed: int, scale: float, tau: float, gain: tuple[float, float, float], warm: int
) -> None:
    rng = np.random.default_rng(seed)
    gammas = [np.append(1.0, 1 + 0.03 * rng.standard_normal(steps - 1)) for _ in range(2)]
    rho = rng.uniform(-1, 1, (steps, steps))
    controller = GuidedRisk(gammas[0].tolist(), gammas[1].tolist(), rho.tolist(), scale, tau, gain, warm + 1)
    expected = racfgcache((gammas[0], gammas[1], rho), scale, tau, gain, warm)
    assert controller.evaluated(steps) == expected
    assert warm + 1 < len(expected) < steps


def test_equal_branches_that_change_alike_risk_what_one_of_them_does() -> None:
    """(w - (w - 1)) e = e: 1.1 - 1 = 0.1 a step, at a gain of 1 everywhere; opposite ones risk 2 w - 1 times that."""
    ratios, alike = (1.0, *(1.1,) * 7), ((1.0,) * 8,) * 8
    opposite = tuple(tuple(-c for c in row) for row in alike)
    flat = (0.0, 1.0, 1.0)
    found = GuidedRisk(ratios, ratios, alike, 3.5, 0.35, flat, 1).evaluated(
        8
    )  # 0.1 + 0.21 <= 0.35 < 0.1 + 0.21 + 0.331
    assert found == (0, 3, 6)
    assert GuidedRisk(ratios, ratios, opposite, 3.5, 0.35, flat, 1).evaluated(8) == tuple(range(8))


def test_where_nothing_changes_all_but_the_start_is_forecast() -> None:
    assert GuidedRisk(**ALIKE).evaluated(3) == (0,)


@pytest.mark.parametrize(
    "given, words",
    [
        ({"conditional": ()}, "positive ratios"),
        ({"unconditional": (1.0, 1.0)}, "as many as the other branch has"),
        ({"unconditional": (1.0, -1.0, 1.0)}, "positive ratios"),
        ({"alignment": (ONES, ONES)}, "3 rows of 3 cosines"),
        ({"alignment": ((1.0, 2.0, 1.0),) * 3}, "3 rows of 3 cosines"),
        ({"scale": float("nan")}, "must be the guidance scale"),
        ({"gain": (1.0, 2.0)}, "must be 3 values"),
        ({"threshold": -0.1}, "must be >= 0"),
        ({"first": 0}, "at least 1"),
    ],
)
def test_what_is_no_table_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GuidedRisk(**{**ALIKE, **given})


def test_a_run_of_another_length_than_the_tables_is_refused() -> None:
    with pytest.raises(ValueError, match=r"num_inference_steps=4, but the tables .* measured at 3"):
        GuidedRisk(**ALIKE).check(4)
