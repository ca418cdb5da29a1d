"""Answers of CHORDS and of one device in as many rounds: on a mixture of Gaussians, and on shapes-flux."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

import skipcast as sc
from skipcast.models.shipped import shipped_budgets, shipped_plan

STEPS = 50
#: (cores, init) as published, and the even starts that the paper's ablation finds slower.
CORES = ((4, "chords"), (8, "chords"), (8, "uniform"))
COARSE = ("reuse", "lagrange:order=1", "lagrange:order=2")
Row = dict[str, Any]


def row(kind: str, name: str, rounds: int, samples: Tensor, exact: Tensor, **more: Any) -> Row:
    """Relative error of every sample to the sequential run: median and mean."""
    error = (samples - exact).flatten(1).norm(dim=1).double() / exact.flatten(1).norm(dim=1).double()
    return {
        "kind": kind,
        "name": name,
        "rounds": rounds,
        "median": float(error.median()),
        "mean": float(error.mean()),
    } | more


# A mixture of Gaussians, whose velocity is known.

SIZE, COMPONENTS, RANK = 64, 12, 4


class Mixture:
    """The velocity of the flow from noise to sum_k N(mu_k, F_k F_k^T + 0.02^2 I) / 12 in 64 dimensions, float64."""

    def __init__(self) -> None:
        made = torch.Generator().manual_seed(0)
        draw = partial(torch.randn, generator=made, dtype=torch.float64)
        self.centres = 4 / SIZE**0.5 * draw(COMPONENTS, SIZE)
        factors = 0.2 * draw(COMPONENTS, SIZE, RANK)
        covariance = factors @ factors.mT + 0.02**2 * torch.eye(SIZE, dtype=torch.float64)
        self.spread, self.axes = torch.linalg.eigh(covariance)

    def __call__(self, x: Tensor, timestep: Tensor) -> Tensor:
        """(noise - clean) expected at x = (1 - s) clean + s noise."""
        s = float(timestep) / 1000
        a = 1 - s
        variance = a**2 * self.spread + s**2  # (K, d)
        apart = torch.einsum("mkd,kde->mke", x[:, None] - a * self.centres, self.axes)
        fit = -0.5 * (apart.square() / variance + variance.log()).sum(-1)
        inside = torch.einsum("mke,kde->mkd", apart * a * self.spread / variance, self.axes)
        clean = (fit.softmax(-1)[..., None] * (self.centres + inside)).sum(1)
        return (x - clean) / s


def mixture(count: int, recorded: int, report: Callable[[str], None]) -> dict[str, Any]:
    """Rows on the mixture."""
    model, grid = Mixture(), sc.TimeGrid.shifted(STEPS)
    noise = torch.randn(count, SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    other = torch.randn(recorded, SIZE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    profile = sc.record(model, other, grid=grid, progress=False)
    exact = sc.sample(model, sc.compile_plan(f"reuse:evaluations={STEPS}", grid), noise)
    first = profile.plan(evaluations=8, refine=model)
    report("profile, plan of 8")
    rows, streams = [], []
    for cores, init in CORES:
        for coarse in COARSE:
            answers = list(sc.chords(model, noise, grid=grid, cores=cores, init=init, coarse=coarse))
            rows += [answered(a, exact, cores, init, coarse) for a in answers[1:2]]
            streams += [answered(a, exact, cores, init, coarse) for a in answers if (cores, init) == CORES[1]]
            assert torch.equal(answers[-1].samples, exact)
    answers = list(sc.chords(model, noise, grid=grid, cores=8, coarse=first))
    assert torch.equal(answers[-1].samples, exact)
    rows.append(answered(answers[1], exact, 8, "the plan's", "plan"))
    streams += [answered(a, exact, 8, "the plan's", "plan") for a in answers]
    report("chords")
    for rounds in sorted({one["rounds"] for one in rows}):
        short = sc.TimeGrid.shifted(rounds)
        plain = sc.sample(model, sc.compile_plan(f"reuse:evaluations={rounds}", short), noise)
        rows.append(row("one device", "fewer steps (Euler)", rounds, plain, exact))
        for order in (1, 2):
            name = f"lagrange:order={order}"
            forecast = sc.compile_plan(f"{name},evaluations={rounds},schedule=even", grid)
            rows.append(row("one device", name, rounds, sc.sample(model, forecast, noise), exact))
        solved = sc.sample(model, profile.plan(evaluations=rounds, refine=model), noise)
        rows.append(row("one device", "plan", rounds, solved, exact))
        report(f"{rounds} rounds")
    return {"rows": rows, "streams": streams, "samples": count, "recorded": recorded}


def answered(answer: Any, exact: Tensor, cores: int, init: str, coarse: str) -> Row:
    """The row of an answer."""
    change = None if answer.change is None else float(answer.change.median())
    more = {"cores": cores, "init": init, "core": answer.core, "evaluations": answer.evaluations, "change": change}
    return row("CHORDS", coarse, answer.rounds, answer.samples, exact, **more)


# The reference model.


def shapes_flux(count: int, report: Callable[[str], None]) -> dict[str, Any]:
    """Rows on shapes-flux at guidance 2, by its final latents."""
    pipe = sc.load_reference("shapes-flux")
    pipe.set_progress_bar_config(disable=True)
    words = ("a large red star on a blue background", "a small dotted green triangle", "two yellow circles", "a cross")

    def call(**more: Any) -> dict[str, Any]:
        seeds = [torch.Generator().manual_seed(100 + i) for i in range(count)]
        prompts = [words[i % len(words)] for i in range(count)]
        fixed = {"num_inference_steps": STEPS, "true_cfg_scale": 2.0, "negative_prompt": [""] * count}
        return {"prompt": prompts, "generator": seeds, "output_type": "latent", **fixed, **more}

    exact = pipe(**call()).images
    report("50 steps")
    rows, streams = [], []
    for init, coarse in (("chords", "reuse"), ("chords", "lagrange:order=2"), (None, "plan")):
        given = shipped_plan("shapes-flux", 8).at(2.0) if coarse == "plan" else coarse
        found = list(sc.chords(pipe, cores=8, init=init, coarse=given, stop=1, **call()))
        streams += [answered(a, exact, 8, init or "the plan's", coarse) for a in found]
        rows.append(streams[-1])
        report(f"8 cores, {coarse}")
    shipped = shipped_budgets("shapes-flux")
    for rounds in sorted({one["rounds"] for one in rows}):
        names = [
            f"euler:evaluations={rounds}",
            *(f"lagrange:order={k},evaluations={rounds},schedule=even" for k in (1, 2)),
        ]
        names += [f"plan:evaluations={max(m for m in shipped if m <= rounds)}"]
        for name in names:
            with sc.accelerate(pipe, name):
                samples = pipe(**call()).images
            shown = name.replace(f",evaluations={rounds},schedule=even", "").replace(
                f"euler:evaluations={rounds}", "fewer steps (Euler)"
            )
            rows.append(row("one device", shown, rounds, samples, exact))
        report(f"{rounds} rounds")
    return {"rows": rows, "streams": streams, "samples": count}


def by_rounds(rows: list[Row]) -> Iterator[tuple[int, list[Row]]]:
    """The rows of each number of rounds, the closest first."""
    for rounds in sorted({one["rounds"] for one in rows}):
        yield rounds, sorted((one for one in rows if one["rounds"] == rounds), key=lambda one: float(one["median"]))
