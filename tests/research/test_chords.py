"""The study of CHORDS: its mixture's velocity, and the page as the record makes it."""

from __future__ import annotations

import json

import torch

from research.chords.__main__ import RESULTS, page
from research.chords.study import SIZE, Mixture


def test_the_velocity_of_the_mixture_leads_to_it() -> None:
    """Against the score of the noisy density by autograd: clean = (x + s^2 score) / (1 - s)."""
    model, s = Mixture(), 0.6
    x = torch.randn(3, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    covariance = model.axes @ torch.diag_embed((1 - s) ** 2 * model.spread + s**2) @ model.axes.mT
    parts = torch.distributions.MultivariateNormal((1 - s) * model.centres, covariance)
    (score,) = torch.autograd.grad(parts.log_prob(x[:, None]).logsumexp(1).sum(), x)
    clean = (x + s**2 * score) / (1 - s)
    torch.testing.assert_close(model(x, torch.tensor(1000 * s)), (x - clean) / s)


def test_the_page_is_that_of_its_record() -> None:
    found = json.loads((RESULTS / "parallel.json").read_text())
    assert page(found) == (RESULTS / "parallel.md").read_text()
