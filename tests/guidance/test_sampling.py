"""Guided sampling: exact where the posterior is a Gaussian, rules of what is remembered, and every refusal by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import skipcast as sc
from skipcast import guidance as g
from skipcast.controllers import FixedSteps
from skipcast.forecasters import Lagrange
from skipcast.plans.propagation import first_order
from support import toy

NOISE = 0.3
STEPS = 40
SIGMA = np.linspace(1, 0.01, STEPS)
GRID = sc.TimeGrid(timestep=SIGMA, alpha=np.sqrt(1 - SIGMA**2), sigma=SIGMA)
EVERY_THIRD = sc.Method(Lagrange(1), FixedSteps((0, 1, 2, *range(3, STEPS, 3))))


@dataclass
class Rows:
    """The first so many values, times a factor."""

    count: int = 2
    factor: float = 1.0

    def A(self, x: Tensor) -> Tensor:  # noqa: N802
        return self.factor * x[:, : self.count]

    def A_adjoint(self, y: Tensor) -> Tensor:  # noqa: N802
        return self.factor * torch.nn.functional.pad(y, (0, 4 - self.count))


@dataclass
class Normal:
    """E[x_0 | x] of a standard normal prior, which is alpha x for alpha^2 + sigma^2 = 1; counts its calls."""

    calls: int = 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        return (1 - t**2).sqrt() * x


Y = torch.tensor([[0.5, -1.0]], dtype=torch.float64)


def noise(count: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sampled(correction: Any, start: Tensor | None = None, **options: Any) -> Tensor:
    denoiser, drawn = options.pop("denoiser", Normal()), torch.Generator().manual_seed(1)
    given: dict[str, Any] = {"grid": GRID, "prediction": "sample", "correction": correction, **options}
    return g.sample(denoiser, noise() if start is None else start, generator=drawn, **given)


# The exact posterior of a standard normal prior: mean y / (1 + noise^2), variance noise^2 / (1 + noise^2).


class Posterior(g.Proximal):
    """Goes on with the posterior's own noise too, E[noise | x, y], so that nothing but the step size is approximate."""

    def stepped(self, call: g.Call, mean: Tensor) -> Tensor:
        spread = (call.sigma_next**2 - call.added**2) ** 0.5
        return mean + spread * call.alpha / call.sigma * (call.clean - self.denoised(call))


@pytest.mark.parametrize("method", [None, EVERY_THIRD], ids=["evaluated", "forecast"])
def test_a_gaussian_posterior(method: sc.Method | None) -> None:
    """With the posterior's noise it is met; with that of the uncorrected estimate, as DDS has it, nearly."""
    exact = sampled(Posterior(Rows(), Y, noise=NOISE), noise(4000), method=method)
    mean, spread = Y[0] / (1 + NOISE**2), NOISE / (1 + NOISE**2) ** 0.5
    assert (exact[:, :2].mean(0) - mean).abs().max() < 0.02
    assert (exact[:, :2].std(0) - spread).abs().max() < 0.03
    near = sampled(g.Proximal(Rows(), Y, noise=NOISE), noise(4000), method=method, eta=0.3)
    assert (near[:, :2].mean(0) - mean).abs().max() < 0.12
    assert near[:, :2].std(0).max() < 0.4
    for found in (exact, near):  # what is not measured keeps its prior
        assert found[:, 2:].mean(0).abs().max() < 0.05
        assert (found[:, 2:].std(0) - 1).abs().max() < 0.1


def test_without_noise_the_measurement_is_met() -> None:
    for correction in (g.Proximal(Rows(), Y), g.DDS(Rows(), Y), g.SVI(Rows(), Y), g.Proximal(Rows(factor=2.0), 2 * Y)):
        assert torch.allclose(sampled(correction, method=EVERY_THIRD)[:, :2], Y.expand(6, 2), atol=1e-6)
    for policy in ("drop", "hold", "forecast"):
        found = sampled(g.MCG(Rows(), Y, scale=0.3, on_forecast=policy), method=EVERY_THIRD, eta=0.2)
        assert torch.allclose(found[:, :2], Y.expand(6, 2), atol=1e-6)


def test_closed_form_and_conjugate_gradients_agree() -> None:
    call = g.Call(0, noise(), noise(seed=1), 0.6, 0.8, 0.7, 0.7)
    closed, solved = g.Proximal(Rows(), Y, noise=0.2), g.Proximal(Rows(), Y, noise=0.2)
    assert closed.multiple(call.clean) == pytest.approx(1.0)
    solved._multiples[torch.float64] = None
    assert torch.allclose(closed.denoised(call), solved.denoised(call))
    r = 0.64
    exact = call.clean.clone()
    exact[:, :2] += r / (r + 0.04) * (Y - call.clean[:, :2])
    assert torch.allclose(closed.denoised(call), exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_more_conjugate_gradients_than_there_are_to_make_change_nothing(dtype: torch.dtype) -> None:
    """After one step on orthonormal rows the residual is rounding, partly where A is zero."""

    class Skew:
        rows = torch.linalg.qr(noise(2, 7).mT)[0].mT.to(dtype)

        def A(self, x: Tensor) -> Tensor:  # noqa: N802
            return x @ self.rows.mT

        def A_adjoint(self, y: Tensor) -> Tensor:  # noqa: N802
            return y @ self.rows

    call = g.Call(0, noise().to(dtype), noise(seed=1).to(dtype), 0.6, 0.8, 0.7, 0.7)
    one, many = (g.DDS(Skew(), Y, iterations=count).denoised(call) for count in (1, 30))
    assert torch.allclose(many, one, atol=1e-5)
    assert torch.allclose(Skew().A(many), Y.to(dtype).expand(6, 2), atol=1e-5)


def test_conjugate_gradients_of_a_video_are_those_of_one_vector() -> None:
    class Mixed:
        def A(self, x: Tensor) -> Tensor:  # noqa: N802
            return x + 0.5 * x.roll(1, 0)

        def A_adjoint(self, y: Tensor) -> Tensor:  # noqa: N802
            return y + 0.5 * y.roll(-1, 0)

    truth = noise(6, 3)
    solved = g.SVI(Mixed(), Mixed().A(truth), iterations=24).denoised(g.Call(0, noise(), noise(), 0.6, 0.8, 0.7, 0.7))
    assert torch.allclose(solved, truth, atol=1e-8)


# Rules.


def test_raw_outputs_are_remembered_and_every_step_is_corrected() -> None:
    seen: list[g.Call] = []

    class Far(g.Correction):
        def denoised(self, call: g.Call) -> Tensor:
            seen.append(call)
            return call.clean + 100

    denoiser = Normal()
    evaluated: list[Tensor] = []

    def noted(x: Tensor, t: Tensor) -> Tensor:
        evaluated.append(denoiser(x, t))
        return evaluated[-1]

    g.sample(noted, noise(), grid=GRID, prediction="sample", method=EVERY_THIRD, correction=Far())
    steps = sc.evaluated_steps(EVERY_THIRD, GRID)
    assert [call.step for call in seen] == list(range(STEPS))
    assert [call.step for call in seen if call.evaluated] == list(steps)
    for place in (3, 4):  # the forecasts between steps 3, 6 and 9: on lines through what the denoiser returned
        for ahead in (1, 2):
            line = evaluated[place] + ahead / (steps[place] - steps[place - 1]) * (
                evaluated[place] - evaluated[place - 1]
            )
            assert torch.allclose(seen[steps[place] + ahead].clean, line)


def test_without_a_correction_it_is_the_first_order_sampler() -> None:
    states = first_order(toy.GRID)
    start = toy.noise(3)
    x, outputs = start, list[Tensor]()
    for i, t in enumerate(toy.GRID.timestep):
        outputs.append(toy.network(x, float(t)))
        x = sum((w * y for w, y in zip(states[i + 1, 1:].tolist(), outputs, strict=False)), states[i + 1, 0] * start)
    assert torch.allclose(g.sample(toy.network, start, grid=toy.GRID), x)
    assert torch.allclose(g.sample(toy.network, start, grid=toy.GRID, method="lagrange:evaluations=20"), x)


@pytest.mark.parametrize("prediction", ["velocity", "v_prediction", "sample"])
def test_a_plan_s_rows_are_undone_exactly(prediction: Any) -> None:
    grid = toy.GRID if prediction == "velocity" else GRID

    def denoiser(x: Tensor, t: Tensor) -> Tensor:
        return toy.network(x, float(t)) if prediction == "velocity" else torch.tanh(x.roll(1, -1) * (1 + t))

    first, start = (noise(8, 4), noise(3, 9)) if prediction != "velocity" else (toy.noise(8), toy.noise(3, 9))
    plan = sc.record(denoiser, first, grid=grid, prediction=prediction, progress=False).plan(evaluations=5)
    undone = g.sample(denoiser, start, grid=grid, prediction=prediction, method=plan)
    assert torch.allclose(undone, sc.sample(denoiser, plan, start))

    class Counting(g.Correction):
        steps = 0

        def stepped(self, call: g.Call, mean: Tensor) -> Tensor:
            Counting.steps += 1
            return mean

    g.sample(denoiser, start, grid=grid, prediction=prediction, method=plan, correction=Counting())
    assert Counting.steps == len(grid)


def test_a_plan_that_does_not_hold_under_a_correction_is_doubted() -> None:
    def denoiser(x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(3 * x) / (1 + t)

    plan = sc.record(denoiser, noise(8, 4), grid=GRID, prediction="sample", progress=False).plan(evaluations=5)
    assert len(plan.forecasts) == 5
    start = noise(3, 9)
    g.sample(denoiser, start, grid=GRID, prediction="sample", method=plan)  # uncorrected there is nothing to doubt
    with pytest.warns(UserWarning, match="the correction led where"):
        sampled(g.Proximal(Rows(), 100 * Y), start, denoiser=denoiser, method=plan)


def test_policies_at_forecast_steps() -> None:
    gradients: dict[str, list[Tensor]] = {}

    def run(policy: Any) -> list[Tensor]:
        found = gradients[policy] = []

        class Watched(g.Correction):
            needs_vjp = True
            on_forecast = policy

            def stepped(self, call: g.Call, mean: Tensor) -> Tensor:
                found.append(call.vjp(torch.ones_like(mean)))
                return mean

        sampled(Watched(), method=EVERY_THIRD)
        return found

    alpha = GRID.alpha
    exact = [torch.full((6, 4), float(a), dtype=torch.float64) for a in alpha]  # J of alpha x
    for policy in ("drop", "hold", "forecast", "identity"):
        found = run(policy)
        for step in (6, 9):
            assert torch.allclose(found[step], exact[step])
        expected = {
            "drop": 0 * exact[10],
            "hold": exact[9],
            "forecast": exact[9] + (exact[9] - exact[6]) / 3,
            "identity": torch.ones(6, 4, dtype=torch.float64) / float(alpha[10]),
        }
        assert torch.allclose(found[10], expected[policy])


def test_dps_goes_down_the_gradient_of_the_norm() -> None:
    moved: list[Tensor] = []

    class Shown(g.DPS):
        def stepped(self, call: g.Call, mean: Tensor) -> Tensor:
            found = super().stepped(call, mean)
            with torch.enable_grad():
                x = call.x.detach().requires_grad_()
                error = (Y - call.alpha * x[:, :2]).norm(dim=1).sum()
                moved.append((mean - found - 0.7 * torch.autograd.grad(error, x)[0]).abs().max())
            return found

    sampled(Shown(Rows(), Y, scale=0.7))
    assert len(moved) == STEPS
    assert max(moved) < 1e-12


def test_an_operator_without_an_adjoint_is_differentiated() -> None:
    class Bare:
        def A(self, x: Tensor) -> Tensor:  # noqa: N802
            return x[:, :2]

    with_adjoint, without = (sampled(g.DPS(operator, Y)) for operator in (Rows(), Bare()))
    assert torch.allclose(with_adjoint, without)


def test_a_nonlinear_operator_with_an_adjoint_of_its_own_is_differentiated() -> None:
    class Squared(Rows):
        def A(self, x: Tensor) -> Tensor:  # noqa: N802
            return super().A(x) ** 2

    clean = noise()
    residual = Y - clean[:, :2] ** 2
    expected = torch.zeros_like(clean)
    expected[:, :2] = -2 * clean[:, :2] * residual / residual.norm(dim=1, keepdim=True)
    assert torch.allclose(g.DPS(Squared(), Y).slope(clean), expected)


def test_an_operator_outside_autograd_has_its_adjoint_taken() -> None:
    class Arrays(Rows):
        def A(self, x: Tensor) -> Tensor:  # noqa: N802
            return torch.from_numpy(super().A(x).detach().numpy().copy())

    with_arrays, without = (sampled(g.DPS(operator, Y)) for operator in (Arrays(), Rows()))
    assert torch.allclose(with_arrays, without)


def test_a_measurement_in_another_precision_than_the_operator_s() -> None:
    class Single(Rows):
        def A(self, x: Tensor) -> Tensor:  # noqa: N802
            return x @ torch.eye(4, 2)

    start = noise().float()
    for correction in (g.Proximal(Single(), Y, noise=0.1), g.DDS(Single(), Y), g.DPS(Single(), Y), g.MCG(Single(), Y)):
        assert sampled(correction, start).dtype == torch.float32


def test_trust_sampling_evaluates_its_inner_steps_and_stops_at_its_bound() -> None:
    def calls(**options: Any) -> int:
        denoiser = Normal()
        correction = g.TrustSampling(Rows(), Y, size=0.05, on_forecast="drop", **options)
        g.sample(denoiser, noise(), grid=GRID, prediction="sample", correction=correction, eta=0.3)
        return denoiser.calls

    assert calls(iterations=3) == STEPS + 3 * (STEPS - 1)
    assert calls(iterations=(1, *[0] * (STEPS - 1))) == STEPS + 1
    assert calls(iterations=3, bound=1e-6) == STEPS + (STEPS - 1)  # the evaluation that finds the noise too large


def test_trust_sampling_leaves_forecast_steps_alone() -> None:
    denoiser, correction = Normal(), g.TrustSampling(Rows(), Y, size=0.05, iterations=2, on_forecast="drop")
    g.sample(denoiser, noise(), grid=GRID, prediction="sample", correction=correction, method=EVERY_THIRD)
    steps = sc.evaluated_steps(EVERY_THIRD, GRID)
    assert denoiser.calls == len(steps) + 2 * sum(step < STEPS - 1 for step in steps)


def test_shared_noise_is_one_draw() -> None:
    found = sampled(None, eta=0.5, share="batch")
    assert torch.equal(found, found[:1].expand(6, 4))
    assert not torch.allclose(sampled(None, eta=0.5)[0], sampled(None, eta=0.5)[1])


def test_ancestral_noise_is_that_of_ddpm() -> None:
    added: list[float] = []

    class Shown(g.Correction):
        def denoised(self, call: g.Call) -> Tensor:
            added.append(call.added)
            return call.clean

    sampled(Shown(), eta="ancestral")
    kept, behind = GRID.alpha[:-1] ** 2, GRID.alpha[1:] ** 2
    ddpm = np.sqrt((1 - behind) / (1 - kept) * (1 - kept / behind))
    assert added == pytest.approx([*ddpm, 0.0])


# Refusals, by name and before any evaluation.


class Never(nn.Module):
    """A network that must not be called."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4).double()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        raise AssertionError("the network was called")


class WrongAdjoint(Rows):
    def A_adjoint(self, y: Tensor) -> Tensor:  # noqa: N802
        return 3 * super().A_adjoint(y)


DPS = g.DPS(Rows(), Y)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"correction": g.Proximal(Rows(3), Y)}, "Proximal(y=...) has shape (1, 2), but operator.A makes (6, 3)"),
        ({"correction": g.DPS(Rows(3), Y)}, "DPS(y=...) has shape (1, 2)"),
        ({"correction": g.DDS(object(), Y)}, "DDS(operator=...) needs a method A"),
        ({"correction": g.DDS(WrongAdjoint(), Y)}, "A_adjoint is not the adjoint of A"),
        ({"correction": g.DDS(nn.Linear(3, 2), Y)}, "needs a method A"),
        ({"correction": g.SVI(Rows(), Y * torch.nan)}, "SVI(y=...) holds values that are not finite"),
        ({"correction": DPS, "method": EVERY_THIRD}, "DPS(on_forecast=...) must say"),
        (
            {"correction": g.MCG(Rows(), Y, on_forecast="identity"), "method": EVERY_THIRD},
            "across the measured subspace",
        ),
        (
            {"correction": g.TrustSampling(Rows(), Y, on_forecast="hold"), "method": EVERY_THIRD},
            "must be one of 'drop'",
        ),
        ({"correction": g.TrustSampling(Rows(), Y, iterations=(1, 2))}, "has 2 numbers for 40 steps"),
        ({"correction": "dps"}, "must be a Correction"),
        ({"method": "euler:evaluations=10"}, "a plain sampler"),
        ({"method": "resilphase:evaluations=10"}, "inside the network"),
        ({"method": "lagrange:evaluations=90"}, "evaluations=90"),
        ({"eta": 1.5}, "sample(eta=...)"),
        ({"share": "frames"}, "sample(share=...)"),
        ({"forecasts": "noise"}, "sample(forecasts=...)"),
        ({"prediction": "v"}, "prediction='v'"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_refusals(options: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {"grid": GRID, "prediction": "sample", **options}
    with pytest.raises(ValueError) as raised:
        g.sample(Never(), noise(), **given)
    assert words in str(raised.value)


def test_refused_networks() -> None:
    compiled, wrapper, quantised = Never(), nn.Module(), Never()
    compiled._compiled_call_impl = compiled.forward  # as compiled.compile() sets it, without its seconds
    wrapper._orig_mod = Never()  # as torch.compile(...) does
    quantised.register_buffer("packed", torch.zeros(2, dtype=torch.int8))
    for network, word in ((compiled, "compiled"), (wrapper, "compiled"), (quantised, "quantised")):
        with pytest.raises(ValueError, match=word):
            sampled(DPS, denoiser=network)

    def cut(x: Tensor, t: Tensor) -> Tensor:
        return Normal()(x.detach(), t)

    with pytest.raises(ValueError, match="no gradient flows through the denoiser"):
        sampled(DPS, denoiser=cut)


def test_no_gradient_through_a_forecast() -> None:
    """Neither in a correction of one's own, nor where the forecasts are made inside the denoiser."""

    class Own(g.Correction):
        def stepped(self, call: g.Call, mean: Tensor) -> Tensor:
            return mean - call.vjp(mean)

    with pytest.raises(RuntimeError, match="needs_vjp"):
        sampled(Own(), method=EVERY_THIRD)
    wrapped = sc.wrap(Normal(), EVERY_THIRD, GRID)
    with pytest.raises(RuntimeError, match="gradients do not flow through remembered outputs"):
        sampled(DPS, denoiser=wrapped)


def test_full_noise_under_a_method_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="eta=1 replaces all noise"):
        sampled(g.Proximal(Rows(), Y), method=EVERY_THIRD, eta=1.0)


def test_half_precision_and_other_predictions() -> None:
    half = g.sample(
        lambda x, t: (x * (1 - t**2).sqrt()).to(torch.bfloat16), noise().to(torch.bfloat16), grid=GRID,
        prediction="sample", correction=g.Proximal(Rows(), Y.float()), method=EVERY_THIRD,
    )  # fmt: skip
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half[:, :2].double(), Y.expand(6, 2), atol=0.02)
