"""The study of guided sampling: its exact posterior is one, and its page says what the record holds."""

from __future__ import annotations

import json

import torch

from research.guidance import problems as p
from research.guidance.page import checks
from research.pages.neighbours import FOLDER, page


def test_the_posterior_is_that_of_the_weighted_prior() -> None:
    """Importance weights of draws from the prior give its mean."""
    prior = p.Mixture.made(0, d=3, components=4)
    A, y = torch.eye(3, dtype=torch.float64)[:1], torch.tensor([[0.2]], dtype=torch.float64)  # noqa: N806
    x = prior.draw(400_000, 1)
    weight = torch.exp(-((y - x @ A.mT) ** 2).sum(1) / (2 * 0.3**2))
    posterior = prior.posterior(A, y, 0.3)
    assert torch.allclose(weight @ x / weight.sum(), posterior.weights @ posterior.means, atol=0.02)


def test_the_denoiser_undoes_noise_exactly_on_average() -> None:
    prior, (alpha, sigma) = p.Mixture.made(1, d=3), p.level_of(0.3)
    clean = prior.draw(100_000, 2)
    x = alpha * clean + sigma * torch.randn(clean.shape, generator=p.drawn(3), dtype=torch.float64)
    off = prior.denoiser()(x, 0.3) - clean
    assert (off * x).mean(0).abs().max() < 0.01  # the error of a conditional mean has nothing to do with x
    assert off.mean(0).abs().max() < 0.01
    as_noise = prior.denoiser("epsilon")(x, 0.3)
    assert torch.allclose(alpha * prior.denoiser()(x, 0.3) + sigma * as_noise, x)


def test_the_page_is_made_of_the_record() -> None:
    found = json.loads((FOLDER / "guidance.json").read_text())
    assert FOLDER.with_suffix(".md").read_text() == page()
    held = [holds for *_, holds in checks(found)]
    assert sum(held) >= 20
