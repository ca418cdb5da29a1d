"""The study of told times: its grids and its page."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from research.guidance.problems import Mixture, level_of
from research.pages import render
from research.pages.neighbours import FOLDER, page
from research.tuning import study


def test_grids_end_where_they_begin_and_are_refined_within() -> None:
    for spacing in study.SPACINGS:
        t = study.times(spacing, 5)
        assert (t[0], len(t)) == (1.0, 6)
        assert t[-1] == pytest.approx(0.002)
        assert (np.diff(t) < 0).all()
        fine = study.refined(t, 4)
        np.testing.assert_allclose(fine[::4], t)
        assert (np.diff(fine) < 0).all()
    log_snr = [np.log(a / s) for a, s in map(level_of, study.times("log-SNR", 8))]
    np.testing.assert_allclose(np.diff(log_snr), np.mean(np.diff(log_snr)), rtol=1e-4)


def test_the_mixture_may_be_differentiated_in_its_time() -> None:
    network, x = Mixture.made(0).denoiser("epsilon"), torch.randn(3, 16, dtype=torch.float64)
    t = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(network(x, t).detach(), network(x, 0.4))
    (slope,) = torch.autograd.grad(network(x, t).sum(), [t])
    expected = (network(x, 0.4001) - network(x, 0.3999)).sum() / 2e-4
    assert float(slope) == pytest.approx(float(expected), rel=1e-4)


def test_a_measurement_makes_its_section() -> None:
    found = {
        "about": {"command": "python -m research.tuning"},
        "mixture": study.mixture(1, 32, 2, lambda note: None),
        "reference": {"rows": [], "pairs": 4, "batches": 1, "batch": 1, "images": 2},
    }
    text = render("neighbours-tuning", **found)
    assert text.count("DPM-Solver++(2M)") == len(study.SPACINGS) * len(study.STEPS)


def test_the_page_is_made_of_the_records() -> None:
    assert FOLDER.with_suffix(".md").read_text() == page()
