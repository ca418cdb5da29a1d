"""What is measured, row by row, as plain JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import skipcast as sc
from research.guidance import problems as p
from skipcast import guidance as g
from skipcast.controllers import FixedSteps
from skipcast.forecasters import Lagrange
from skipcast.history import History, Point

Report = Callable[[str], None]
NOISE = 0.05


@dataclass(frozen=True)
class AfterCorrection(Lagrange):
    """The wrong history: what the correction made of the evaluations."""

    kept: dict[int, Tensor] = field(default_factory=dict)

    def forecast(self, history: History, point: Point) -> Tensor:
        weights = self.weights(history.nodes(), point.tau).tolist()
        return torch.stack([w * self.kept[item.step] for w, item in zip(weights, list(history), strict=True)]).sum(0)  # type: ignore[call-overload]


class Keeping(g.Proximal):
    """Tells what it makes of evaluated estimates."""

    kept: dict[int, Tensor]

    def denoised(self, call: g.Call) -> Tensor:
        found = super().denoised(call)
        if call.evaluated:
            self.kept[call.step] = found
        return found


def steps(count: int, every: int) -> tuple[int, ...]:
    """The first 5 and the last 2 steps, and every so many."""
    return tuple(sorted({*range(5), count - 2, count - 1, *range(0, count, every)}))


# A mixture, whose posterior is known: sliced Wasserstein-2 distance, mean over problems.


@dataclass(frozen=True)
class Row:
    """One row of the table of the mixture."""

    group: str
    name: str
    correction: Callable[[Any, Tensor], g.Correction]
    steps: int = 60
    every: int | None = None
    order: int = 1
    eta: float = 0.0
    prediction: Any = "sample"
    wrong: bool = False


def proximal(operator: Any, y: Tensor) -> g.Correction:
    return g.Proximal(operator, y, noise=NOISE)


def dps(policy: Any) -> Callable[[Any, Tensor], g.Correction]:
    return lambda operator, y: g.DPS(operator, y, on_forecast=policy)


def mcg(scale: float, policy: Any = None) -> Callable[[Any, Tensor], g.Correction]:
    return lambda operator, y: g.MCG(operator, y, scale=scale, on_forecast=policy)


def mixture_rows() -> Iterator[Row]:
    for eta in (0.0, 0.5):
        group = f"Proximal, eta {eta:g}"
        yield Row(group, "all evaluated", proximal, eta=eta)
        for order in (0, 1, 2):
            yield Row(group, f"1 in 3, estimate, order {order}", proximal, every=3, order=order, eta=eta)
        if eta:
            for order in (0, 1, 2):
                yield Row(
                    group,
                    f"1 in 3, noise, order {order}",
                    proximal,
                    every=3,
                    order=order,
                    eta=eta,
                    prediction="epsilon",
                )
        yield Row(group, "1 in 3, order 1, corrected history", proximal, every=3, eta=eta, wrong=True)
        yield Row(group, "fewer steps", proximal, steps=25, eta=eta)
    yield Row("Proximal, eta 1", "all evaluated", proximal, eta=1.0)
    yield Row("Proximal, eta 1", "1 in 3, estimate, order 1", proximal, every=3, eta=1.0)
    yield Row("Proximal, eta 1", "fewer steps", proximal, steps=25, eta=1.0)
    yield Row("DPS, eta 0.5", "all evaluated", dps(None), eta=0.5)
    for every, count in ((2, 34), (3, 25)):
        for policy in ("drop", "hold", "forecast", "identity"):
            yield Row("DPS, eta 0.5", f"1 in {every}, {policy}", dps(policy), every=every, eta=0.5)
        yield Row("DPS, eta 0.5", f"fewer steps, {count}", dps(None), steps=count, eta=0.5)
    yield Row("MCG, eta 0.5", "all evaluated", mcg(0.3), eta=0.5)
    for policy in ("drop", "forecast"):
        yield Row("MCG, eta 0.5", f"1 in 3, {policy}", mcg(0.3, policy), every=3, eta=0.5)
    yield Row("MCG, eta 0.5", "fewer steps", mcg(0.3), steps=25, eta=0.5)
    yield Row("MCG, 100 steps", "scale 1", mcg(1.0), steps=100, eta=0.5)
    yield Row("MCG, 100 steps", "projection alone", mcg(0.0), steps=100, eta=0.5)


def mixture(problems: int, samples: int, report: Report) -> dict[str, Any]:
    """Every row over the same problems and noises."""
    found, known = [], [p.posterior_problem(seed) for seed in range(problems)]
    for row in mixture_rows():
        distances, grid_and_end = [], p.vp_levels(row.steps)
        evaluated = steps(row.steps, row.every) if row.every else tuple(range(row.steps))
        for seed, (prior, operator, y, posterior) in enumerate(known):
            correction, forecaster = row.correction(operator, y), Lagrange(row.order)
            if row.wrong:
                forecaster = AfterCorrection(row.order)
                correction = Keeping(operator, y, noise=NOISE)
                vars(correction)["kept"] = forecaster.kept
            method = sc.Method(forecaster, FixedSteps(evaluated)) if row.every else None
            start = torch.randn(samples, 16, generator=p.drawn(seed + 10), dtype=torch.float64)
            x = g.sample(
                prior.denoiser(row.prediction), start, grid=grid_and_end[0], end=grid_and_end[1],
                prediction=row.prediction, method=method, correction=correction, eta=row.eta,
                forecasts="clean" if row.prediction == "sample" else "output", generator=p.drawn(seed + 20),
            )  # fmt: skip
            distances.append(p.sliced(x, posterior.draw(samples, seed + 30)))
        mean = sum(distances) / problems
        found.append({
            "group": row.group, "name": row.name, "evaluations": len(evaluated), "distance": round(mean, 3),
            "each": [round(d, 3) for d in distances],
        })  # fmt: skip
        report(f"{row.group}, {row.name}: {mean:.3f}")
    floor = [p.sliced(post.draw(samples, 1), post.draw(samples, 2)) for *_, post in known]
    return {"rows": found, "floor": round(sum(floor) / problems, 3), "problems": problems, "samples": samples}


# A blob's video.


def videos(count: int, report: Report) -> list[dict[str, Any]]:
    """PSNR of SVI in dB, and the error of the frames' differences with and without shared noise."""
    prior, found = p.blobs(), []
    forecast = (0, 1, 2, 3, *range(4, 20, 2), 19)
    rows: list[tuple[str, int, int | None, bool]] = [
        ("all evaluated", 20, None, True), ("13 of 20, order 0", 20, 0, True), ("13 of 20, order 1", 20, 1, True),
        ("13 steps", 13, None, True), ("all evaluated, noise not shared", 20, None, False),
        ("no network", 0, None, True),
    ]  # fmt: skip
    for kind in ("mask", "super-resolution"):
        operator = p.Filmed(kind)
        for name, n, order, shared in rows:
            reached, moved = [], []
            for seed in range(count):
                truth = p.video(prior, seed)
                clean = operator.A(truth)
                y = clean + 0.005 * torch.randn(clean.shape, generator=p.drawn(50 + seed), dtype=torch.float64)
                correction = g.SVI(operator, y)
                start = torch.randn(truth.shape, generator=p.drawn(100 + seed), dtype=torch.float64)
                if not n:
                    x = correction.denoised(g.Call(0, start, torch.zeros_like(truth), 0.0, 1.0, 1.0, 0.0))
                else:
                    grid, end = p.vp_levels(n)
                    method = None if order is None else sc.Method(Lagrange(order), FixedSteps(forecast))
                    x = g.sample(
                        prior, start, grid=grid, end=end, prediction="sample", method=method, correction=correction,
                        eta=0.15, share="batch" if shared else None, generator=p.drawn(200 + seed),
                    )  # fmt: skip
                reached.append(p.psnr(x, truth))
                moved.append(float((x.diff(dim=0) - truth.diff(dim=0)).abs().mean()))
            found.append({
                "kind": kind, "name": name, "evaluations": len(forecast) if order is not None else n,
                "psnr": round(sum(reached) / count, 2), "each": [round(each, 1) for each in reached],
                "temporal": round(sum(moved) / count, 4),
            })  # fmt: skip
            report(f"video, {kind}, {name}: {found[-1]['psnr']:.2f} dB")
    return found


# A spiral.


def spiral(samples: int, report: Report) -> list[dict[str, Any]]:
    """DPS and Trust Sampling at 300 evaluations: how far the constraint is missed, and the spiral."""
    prior, found, none = p.spiral(), [], torch.zeros(1, 1)
    for kind in ("line", "cubic"):
        operator = p.Constraint(kind)
        rows: list[tuple[str, g.Correction, int]] = [
            (f"DPS, scale {scale:g}", g.DPS(operator, none, scale=scale), 300) for scale in (0.05, 0.1, 0.2)
        ]
        for bound in (None, "sqrt", 0.7):
            trust = g.TrustSampling(operator, none, size=0.05, iterations=5, bound=bound)
            rows.append((f"Trust, size 0.05, bound {bound}", trust, 50))
        for name, correction, n in rows:
            start = torch.randn(samples, 2, generator=p.drawn(1), dtype=torch.float64)
            x = g.sample(
                prior, start, grid=p.vp_levels(n, whole=True)[0], prediction="sample", correction=correction,
                eta="ancestral", generator=p.drawn(2),
            )  # fmt: skip
            missed, off = operator.A(x).abs(), p.off_spiral(x)
            figures = {"mean": missed.mean(), "median": missed.median(), "distance": off.mean()}
            figures = {key: round(float(value), 3) for key, value in figures.items()}  # type: ignore[misc]
            found.append({"kind": kind, "name": name, **figures})
            report(f"spiral, {kind}, {name}: {figures}")
    return found
