"""Figures of many images, exactly."""

from __future__ import annotations

import numpy as np
import pytest

from research.plans.figures import correlation, fidelity, ranks


def test_fidelity_is_mean_worst_twentieth_and_worst() -> None:
    found = fidelity(np.arange(40.0))
    assert found == {"mean": 19.5, "worst5": 0.5, "worst": 0.0, "images": 40, "identical": 0}
    identical = fidelity([30.0, float("inf")])
    assert (identical["mean"], identical["identical"]) == (30, 1)
    with pytest.raises(ValueError, match="at least one image"):
        fidelity([])


def test_ranks_share_ties_and_correlation_is_of_ranks() -> None:
    assert ranks([3.0, 1.0, 3.0]).tolist() == [1.5, 0.0, 1.5]
    assert correlation([1.0, 2.0, 3.0], [1.0, 10.0, 1e6]) == pytest.approx(1)
    assert correlation([1.0, 2.0, 3.0], [3.0, 2.0, -1.0]) == pytest.approx(-1)
    assert correlation([1.0, 1.0], [0.0, 1.0]) is None
