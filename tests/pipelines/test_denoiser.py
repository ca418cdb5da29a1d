"""Plans of any denoiser, on a mixture of Gaussians whose exact predictions are known."""

from __future__ import annotations

import functools
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

import skipcast as sc
from skipcast.pipelines.denoiser import DenoiserEvaluator
from skipcast.plans.plan import Origin
from skipcast.plans.propagation import first_order
from support.tiny import flux_pipeline

STEPS, SIZE = 20, 16
CENTRES = torch.linspace(-1, 1, 3 * SIZE, dtype=torch.float64).sin().reshape(3, SIZE)
TIMES = np.linspace(5.0, 0.25, STEPS)
#: Variance preserving, as a score network would have it.
VP = sc.TimeGrid(timestep=TIMES, alpha=np.exp(-TIMES / 2), sigma=np.sqrt(1 - np.exp(-TIMES)))
FLOW = sc.TimeGrid.flow(np.linspace(0.98, 0.05, STEPS))


def clean_of(x: Any, alpha: float, sigma: float, spread: float = 0.3) -> Any:
    """E[clean | x] of three Gaussians around `CENTRES`; with torch or NumPy."""
    xp, centres = (torch, CENTRES.to(x.dtype)) if isinstance(x, torch.Tensor) else (np, CENTRES.numpy().astype(x.dtype))
    variance = (alpha * spread) ** 2 + sigma**2
    distance = ((x[:, None] - alpha * centres) ** 2).sum(-1)
    share = xp.exp((distance.min(-1, keepdims=True)[0] if xp is torch else distance.min(-1, keepdims=True)) - distance)
    share = share ** (1 / (2 * variance))
    nearest = (share / share.sum(-1)[:, None]) @ centres
    return nearest + alpha * spread**2 / variance * (x - alpha * nearest)


def network(prediction: str, grid: sc.TimeGrid = VP) -> Any:
    """The exact prediction at any timestep."""

    def denoiser(x: Any, timestep: Any, spread: float = 0.3) -> Any:
        t = float(timestep)
        alpha, sigma = (1 - t / 1000, t / 1000) if grid is FLOW else (np.exp(-t / 2), np.sqrt(1 - np.exp(-t)))
        clean = clean_of(x, float(alpha), float(sigma), spread)
        noise = (x - float(alpha) * clean) / float(sigma)
        return {
            "velocity": noise - clean,
            "epsilon": noise,
            "sample": clean,
            "score": -noise / float(sigma),
            "v_prediction": float(alpha) * noise - float(sigma) * clean,
        }[prediction]

    return denoiser


def draws(count: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(count, SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def recorded(prediction: str = "epsilon", grid: sc.TimeGrid = VP, count: int = 12, **options: Any) -> sc.Profile:
    given = {"grid": grid, "prediction": prediction, "progress": False, **options}
    return sc.record(network(prediction, grid), draws(count), **given)


@pytest.fixture(scope="module")
def profile() -> sc.Profile:
    return recorded()


@pytest.mark.parametrize("grid", [VP, FLOW], ids=["vp", "flow"])
def test_every_prediction_of_one_network_takes_the_same_steps(grid: sc.TimeGrid) -> None:
    """DDIM's formula, by hand."""
    alpha, sigma = np.append(grid.alpha, 1.0), np.append(grid.sigma, 0.0)
    x = draws(12)
    states = [x]
    for i in range(STEPS):
        clean = clean_of(x, alpha[i], sigma[i])
        x = alpha[i + 1] * clean + sigma[i + 1] * (x - alpha[i] * clean) / sigma[i]
        states.append(x)
    for prediction in ("epsilon", "sample", "score", "velocity" if grid is FLOW else "v_prediction"):
        found = recorded(prediction, grid)
        torch.testing.assert_close(found.trajectory, torch.stack(states, 1), rtol=1e-9, atol=1e-9)
        basis = found.states[-1] @ found.grams @ found.states[-1]
        np.testing.assert_allclose(basis, found.trajectory[:, -1].square().mean(-1), rtol=1e-8)


def test_a_single_gaussian_shrinks_as_it_must() -> None:
    """For data of variance s^2 the score is -x / (alpha^2 s^2 + sigma^2), and DDIM multiplies by a known factor."""
    end = (0.995, 0.1)
    found = sc.record(
        lambda x, t: -x / (np.exp(-float(t)) * 0.25 + 1 - np.exp(-float(t))),
        draws(2), grid=VP, prediction="score", end=end, progress=False,
    )  # fmt: skip
    alpha, sigma = np.append(VP.alpha, end[0]), np.append(VP.sigma, end[1])
    factors = (alpha[1:] * alpha[:-1] * 0.25 + sigma[1:] * sigma[:-1]) / (alpha[:-1] ** 2 * 0.25 + sigma[:-1] ** 2)
    torch.testing.assert_close(found.trajectory[:, -1], draws(2) * factors.prod(), rtol=1e-10, atol=0)


def test_a_plan_of_every_step_is_the_unaccelerated_run(profile: sc.Profile) -> None:
    """To rounding where it is compiled, to the ridge of the fit where it is solved."""
    made = sc.compile_plan("reuse:schedule=even,evaluations=20", VP, states=first_order(VP, prediction="epsilon"))
    solved = profile.plan(steps=range(STEPS), refine=network("epsilon"), effort="low")
    for plan, allowed in ((made, 1e-10), (solved, 1e-3)):
        found = sc.sample(network("epsilon"), plan, draws(12))
        torch.testing.assert_close(found, profile.trajectory[:, -1], rtol=0, atol=allowed)


def test_a_plan_beats_the_sampler_and_the_forecaster_at_equal_evaluations(profile: sc.Profile) -> None:
    unseen = draws(40, seed=1)
    goal = sc.record(network("epsilon"), unseen, grid=VP, prediction="epsilon", progress=False).trajectory[:, -1]
    plan = recorded(count=24).plan(evaluations=6, refine=network("epsilon"))
    few = sc.TimeGrid(*(np.interp(np.arange(6) * STEPS / 6, np.arange(STEPS), v) for v in (TIMES, VP.alpha, VP.sigma)))
    coarse = sc.record(network("epsilon"), unseen, grid=few, prediction="epsilon", progress=False).trajectory[:, -1]
    line = sc.compile_plan("lagrange:order=1,schedule=even,evaluations=6", VP, states=profile.states)
    errors = [
        float((found - goal).square().mean())
        for found in (sc.sample(network("epsilon"), plan, unseen), coarse, sc.sample(network("epsilon"), line, unseen))
    ]
    assert 10 * errors[0] < min(errors[1:])


@pytest.mark.parametrize("prediction", ["velocity", "epsilon"])
def test_sampling_is_the_scheduler_s_run(prediction: str, profile: sc.Profile) -> None:
    grid = FLOW if prediction == "velocity" else VP
    denoiser = network(prediction, grid)
    source = recorded(prediction, grid) if grid is FLOW else profile
    plan = sc.Plan.from_dict(source.plan(evaluations=5, refine=denoiser, effort="low").as_dict())
    scheduler = sc.PlanScheduler(plan)
    scheduler.set_timesteps(STEPS)
    x = draws(12, dtype=torch.float32)
    for t in scheduler.timesteps:
        x = scheduler.step(denoiser(scheduler.scale_model_input(x, t), t), t, x).prev_sample
    torch.testing.assert_close(sc.sample(denoiser, plan, draws(12, dtype=torch.float32)), x, rtol=1e-4, atol=1e-4)
    if grid is FLOW:
        level = float(FLOW.sigma[plan.steps[2]])
        got = scheduler.add_noise(draws(1), draws(1, 1), torch.tensor([float(scheduler.timesteps[2])]))
        torch.testing.assert_close(got, (1 - level) * draws(1) + level * draws(1, 1), rtol=1e-5, atol=1e-5)
    else:
        with pytest.raises(ValueError, match="is no flow's"):
            scheduler.add_noise(draws(1), draws(1, 1), scheduler.timesteps[:1])
    with pytest.raises(ValueError, match="made for a denoiser without a pipeline"):
        sc.enable(flux_pipeline(), plan)


def test_a_scheduler_as_sampler() -> None:
    scheduler = DPMSolverMultistepScheduler(solver_order=2, timestep_spacing="trailing", final_sigmas_type="zero")
    scheduler.set_timesteps(10)
    signal = scheduler.alphas_cumprod.numpy()

    def denoiser(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        alpha, sigma = np.sqrt(signal[int(t)]), np.sqrt(1 - signal[int(t)])
        return (x - alpha * clean_of(x, alpha, sigma)) / sigma

    found = sc.record(denoiser, draws(6, dtype=torch.float32), sampler=scheduler, progress=False)
    x = draws(6, dtype=torch.float32)
    for t in scheduler.timesteps:
        x = scheduler.step(denoiser(x, t), t, x).prev_sample
    torch.testing.assert_close(found.trajectory[:, -1], x, rtol=1e-4, atol=1e-4)
    plan = found.plan(evaluations=4)
    planned = sc.PlanScheduler(plan)
    planned.set_timesteps(10)
    assert torch.equal(planned.timesteps, scheduler.timesteps[list(plan.steps)])
    assert (plan.origin.scheduler, plan.origin.pipeline) == ("DPMSolverMultistepScheduler", "")


def test_a_table_as_sampler(profile: sc.Profile) -> None:
    found = recorded(sampler=profile.states)
    torch.testing.assert_close(found.trajectory, profile.trajectory, rtol=0, atol=0)


def test_numpy_goes_in_and_comes_out(profile: sc.Profile, tmp_path: Any) -> None:
    seen = set()

    def denoiser(x: Any, t: Any) -> Any:
        seen.add((type(x), x.dtype, type(t), t.dtype, t.shape))
        return network("epsilon")(x, t)

    noise = draws(12).numpy()
    made = sc.record(denoiser, noise, grid=VP, prediction="epsilon", batch=5, progress=False)
    np.testing.assert_allclose(made.trajectory, profile.trajectory, rtol=1e-9, atol=1e-9)
    made.save(tmp_path / "x.safetensors")
    plan = sc.Profile.load(tmp_path / "x.safetensors").plan(evaluations=5, refine=denoiser, effort="low")
    images = sc.sample(denoiser, plan, noise.astype(np.float32))
    assert isinstance(images, np.ndarray)
    assert images.dtype == np.float32
    kinds = {(np.ndarray, np.dtype(name), np.ndarray, np.dtype(name), ()) for name in ("float32", "float64")}
    assert seen == kinds


class Foreign:
    """An array of another library: what `__array__` and the array API standard ask for, and no more."""

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values)
        self.shape, self.dtype, self.ndim = self.values.shape, self.values.dtype, self.values.ndim

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.values.astype(dtype or self.dtype)

    def __array_namespace__(self) -> Any:
        return sys.modules[__name__]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, key: Any) -> Foreign:
        return Foreign(self.values[key])

    def __float__(self) -> float:
        return float(self.values)


def asarray(values: Any) -> Foreign:
    return Foreign(values)


def test_other_arrays_go_in_and_come_out(profile: sc.Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or sys.modules[Foreign.__module__])

    def denoiser(x: Foreign, t: Foreign) -> Foreign:
        assert isinstance(x, Foreign)
        return Foreign(network("epsilon")(x.values, t))

    made = sc.record(denoiser, Foreign(draws(12)), grid=VP, prediction="epsilon", progress=False)
    np.testing.assert_allclose(made.trajectory, profile.trajectory, rtol=1e-9, atol=1e-9)
    plan = made.plan(evaluations=5, refine=denoiser, effort="low")
    found = sc.sample(denoiser, plan, Foreign(draws(12)))
    assert isinstance(found, Foreign)
    np.testing.assert_allclose(found, sc.sample(network("epsilon"), plan, draws(12)), rtol=1e-9, atol=1e-9)


def test_half_precision_is_seen_by_the_denoiser_alone() -> None:
    seen = set()

    def denoiser(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.add((x.dtype, t.dtype))
        return network("epsilon")(x.double(), t).bfloat16()

    made = sc.record(denoiser, draws(4).bfloat16(), grid=VP, prediction="epsilon", progress=False)
    assert seen == {(torch.bfloat16, torch.float32)}
    assert made.trajectory.dtype == torch.float32
    assert DenoiserEvaluator(denoiser, made).coarse
    assert sc.sample(denoiser, made.plan(evaluations=4), draws(2).bfloat16()).dtype == torch.bfloat16


def test_arguments_of_the_recording(profile: sc.Profile) -> None:
    def denoiser(x: torch.Tensor, t: torch.Tensor, labels: Any, table: Any, shift: float = 0.0) -> torch.Tensor:
        assert len(labels) == len(x)
        return network("epsilon")(x, t) + shift * table[torch.as_tensor(labels)][:, None]

    labels, table = torch.arange(12) % 3, torch.tensor([0.0, 0.1, 0.2])
    given = {"grid": VP, "prediction": "epsilon", "progress": False, "varied": {"labels": labels}, "batch": 5}
    made = sc.record(denoiser, draws(12), table=table, shift=0.5, **given)
    assert dict(made.origin.call) == {"table": "<Tensor>", "shift": 0.5, "labels": "<Tensor>"}
    whole = sc.record(denoiser, draws(12), table=table, shift=0.5, **{**given, "batch": 12})
    torch.testing.assert_close(made.trajectory, whole.trajectory, rtol=1e-12, atol=1e-12)
    evaluator = DenoiserEvaluator(denoiser, made, 8, varied={"labels": labels.tolist()}, table=table)
    made.plan(evaluations=4, refine=evaluator, effort="low")
    with pytest.raises(ValueError, match=r"recorded with table=<Tensor>.*pass refine=DenoiserEvaluator"):
        made.plan(evaluations=4, refine=denoiser)
    with pytest.raises(ValueError, match=r"at step 0 the output of the first sample is off by .*functools.partial"):
        profile.plan(evaluations=4, refine=functools.partial(network("epsilon"), spread=0.5))


def test_an_evaluator_knows_the_levels_and_counts(profile: sc.Profile) -> None:
    evaluator = DenoiserEvaluator(network("epsilon"), profile, batch=12)
    assert evaluator.levels is not None
    np.testing.assert_array_equal(evaluator.levels.at(range(STEPS))[1], [*VP.sigma, 0.0])
    assert evaluator.levels.prediction == "epsilon"
    assert DenoiserEvaluator(network("epsilon"), recorded(sampler=profile.states)).levels is None
    assert evaluator.evaluations == 2
    profile.plan(steps=(0, 5, 9, 15), refine=evaluator, effort="low")
    assert evaluator.evaluations == 2 + 4 * 12


def test_a_converged_reference_is_a_finer_run() -> None:
    times = np.linspace(TIMES[0], 0.01, 101)[:-1]
    fine = sc.TimeGrid(timestep=times, alpha=np.exp(-times / 2), sigma=np.sqrt(1 - np.exp(-times)))
    made, whole = recorded(grid=fine, substeps=5), recorded(grid=fine)
    assert (made.origin.reference, made.origin.steps, len(made.timesteps)) == ("converged", 20, 20)
    torch.testing.assert_close(made.trajectory, whole.trajectory[:, ::5], rtol=0, atol=0)
    np.testing.assert_array_equal(made.timesteps, times[::5])
    assert len(made.origin.config["sigma"]) == 21
    plan = made.plan(evaluations=8, refine=network("epsilon"), effort="low")
    coarse = recorded(grid=sc.TimeGrid(times[::5], fine.alpha[::5], fine.sigma[::5])).trajectory[:, -1]
    goal, found = whole.trajectory[:, -1], sc.sample(network("epsilon"), plan, draws(12))
    assert (found - goal).square().mean() < (coarse - goal).square().mean()


def test_a_profile_of_taped_runs(profile: sc.Profile) -> None:
    outputs = [network("epsilon")(profile.trajectory[:, i], t) for i, t in enumerate(TIMES)]
    tape = profile.trajectory, torch.stack(outputs, 1)
    given: dict[str, Any] = {"timesteps": TIMES, "states": profile.states}
    made = sc.Profile.taped([(tape[0][:7], tape[1][:7]), (tape[0][7:], tape[1][7:])], **given)
    for name in ("grams", "gain", "scale", "states"):
        np.testing.assert_allclose(getattr(made, name), getattr(profile, name), rtol=1e-10, atol=1e-12)
    assert made.origin.pairs == profile.origin.pairs
    plan = made.plan(evaluations=5, refine=DenoiserEvaluator(network("epsilon"), made, like=draws(1)), effort="low")
    assert plan.steps == profile.plan(evaluations=5, refine=network("epsilon"), effort="low").steps
    with pytest.raises(ValueError, match=r"final samples are off by .* give that of the sampler that ran"):
        sc.Profile.taped([tape], **{**given, "states": first_order(VP, (0.9, 0.1), "epsilon")})
    with pytest.raises(ValueError, match=r"its outputs must be \(12, 20, 16\), got \(12, 19, 16\)"):
        sc.Profile.taped([(tape[0], tape[1][:, 1:])], **given)
    with pytest.raises(ValueError, match=r"a trajectory of 20 timesteps is \(B, 21, \*shape\), got \(12, 20, 16\)"):
        sc.Profile.taped([tape[::-1]], **given)
    with pytest.raises(ValueError, match="holds no pair"):
        sc.Profile.taped([], **given)
    with pytest.raises(ValueError, match="not finite"):
        sc.Profile.taped([(tape[0], tape[1] * float("nan"))], **given)


def test_a_psnr_is_over_the_range_of_the_samples(profile: sc.Profile) -> None:
    final = profile.trajectory[:, -1]
    np.testing.assert_allclose(profile.gain, (final.amax(1) - final.amin(1)) ** -2.0, rtol=1e-12)
    assert set(recorded(count=3, data_range=2.0).gain) == {0.25}


EPSILON = network("epsilon")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"grid": None}, r"record\(grid=...\) must be a TimeGrid"),
        ({"sampler": DDIMScheduler()}, r"record\(grid=...\) must be a TimeGrid"),
        ({"prediction": "noise"}, "must be one of 'velocity', 'epsilon', 'sample', 'v_prediction', 'score'"),
        ({"prediction": "velocity"}, r'is that of a flow.*prediction="v_prediction"'),
        ({"end": (1.0, 0.9)}, r"0 <= sigma < 0.47"),
        ({"end": 0.0}, r"record\(end=...\) must be 2 values"),
        ({"grid": sc.TimeGrid.shifted(5)}, "says nothing of the clean sample where alpha = 0"),
        ({"sampler": np.eye(4)}, r"table of a sampler's states, \(21, 21\)"),
        ({"substeps": 3}, "must divide the 20 steps"),
        ({"batch": 0}, r"record\(batch=...\) must be at least 1"),
        ({"varied": {"labels": [1]}}, "1 values of labels for 4 samples"),
        ({"data_range": 0.0}, "must be positive"),
        ({"noise": ["a cat"]}, "prompts and seeds are for a pipeline"),
        ({"noise": torch.zeros(4)}, r"must be floating-point initial samples \(M, \*shape\)"),
        ({"noise": np.zeros((4, 2), int)}, "floating-point"),
        ({"denoiser": None}, "needs a pipeline of diffusers, which has a scheduler, or a callable"),
    ],
)
def test_what_cannot_be_recorded_is_refused_before_any_evaluation(options: dict[str, Any], words: str) -> None:
    def never(x: Any, t: Any) -> Any:
        raise AssertionError("evaluated")

    given = {"denoiser": never, "noise": draws(4), "grid": VP, "prediction": "epsilon", "progress": False, **options}
    with pytest.raises(ValueError, match=words):
        sc.record(**given)


def test_what_a_denoiser_must_not_return(profile: sc.Profile) -> None:
    given: dict[str, Any] = {"grid": VP, "prediction": "epsilon", "progress": False}
    with pytest.raises(ValueError, match=r"one array of x's shape \(4, 16\), got tuple"):
        sc.record(lambda x, t: (x,), draws(4), **given)
    with pytest.raises(ValueError, match=r"got shape \(4, 8\)"):
        sc.record(lambda x, t: x[:, :8], draws(4), **given)
    with pytest.raises(ValueError, match="not finite at step 0"):
        sc.record(lambda x, t: x / 0, draws(4), **given)
    plan = profile.plan(evaluations=4)
    with pytest.warns(UserWarning, match="the final samples of this run are not finite: half precision"):
        sc.sample(lambda x, t: x / 0, plan, draws(4))
    with pytest.raises(ValueError, match=r"recorded on samples of shape \(16,\), not \(8,\)"):
        sc.sample(EPSILON, plan, draws(2)[:, :8])
    with pytest.raises(ValueError, match=r"sample\(plan=...\) must be a Plan .* got Profile"):
        sc.sample(EPSILON, profile, draws(2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be callable"):
        sc.sample(None, plan, draws(2))  # type: ignore[arg-type]


def test_what_cannot_be_refined(profile: sc.Profile) -> None:
    with pytest.raises(ValueError, match=r"plan\(refine=...\) must be the recorded pipeline, the recorded denoiser"):
        profile.plan(evaluations=4, refine=3)
    with pytest.raises(ValueError, match="does not hold"):
        replace(profile, trajectory=None).plan(evaluations=4, refine=EPSILON)
    piped = replace(profile, origin=replace(profile.origin, pipeline="FluxPipeline"))
    with pytest.raises(ValueError, match="recorded from FluxPipeline"):
        piped.plan(evaluations=4, refine=EPSILON)
    with pytest.raises(ValueError, match="made for a denoiser without a pipeline"):
        profile.plan(evaluations=4, refine=flux_pipeline())


def test_a_scheduler_makes_a_pipeline() -> None:
    """And an origin without a scheduler is saved as one."""
    with pytest.raises(ValueError, match=r"record\(prompts=...\) must be a list, each text or a mapping"):
        sc.record(flux_pipeline(), "a cat", seeds=0)
    assert Origin(**Origin("", "", {}, 5).as_dict()) == Origin("", "", {}, 5)
    assert FlowMatchEulerDiscreteScheduler.__name__ not in str(recorded(count=2).origin)


def test_no_diffusers_is_needed() -> None:
    script = """
import sys
sys.modules["diffusers"] = None
import torch, skipcast as sc
grid = sc.TimeGrid.shifted(10)
denoiser = lambda x, t: torch.tanh(x) * (1 + t / 1000)
profile = sc.record(denoiser, torch.randn(4, 8), grid=grid, progress=False)
plan = profile.plan(evaluations=4, refine=denoiser, effort="low")
print(tuple(sc.sample(denoiser, plan, torch.randn(2, 8)).shape))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(2, 8)"
