"""Plans as schedulers: exact, refused where they do not fit, restored, and watched."""

from __future__ import annotations

import copy
import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler, FluxPipeline
from torch import Tensor

import skipcast as sc
from skipcast.models.pipeline import native_defaults
from skipcast.reading import sealed
from support.seams import state
from support.tiny import PROMPT, Stop, at, compiled, edited, image_to_image, latents, stop, twin

STEPS = 12


@pytest.fixture(scope="module")
def plan(pipe: Any) -> sc.Plan:
    """Steps 0, 1, 2, 6 and 10 of 12; rows that weigh up to three outputs."""
    latents(pipe, STEPS)
    return compiled(pipe, "lagrange:order=2,interval=4")


def with_forecasts(plan: sc.Plan, expected: float = 0.5) -> sc.Plan:
    """With a check: every output is expected to equal the one before it."""
    forecasts = tuple(np.eye(n)[-1] if n else np.zeros(0) for n in range(len(plan)))
    return replace(plan, forecasts=forecasts, expected=np.full((len(plan), 2), expected))


def drawn(plan: sc.Plan, batch: int = 3, dtype: torch.dtype = torch.float32) -> tuple[Tensor, list[Tensor]]:
    """A sample and the outputs of a run."""
    noise = torch.randn(len(plan) + 1, batch, 4, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return noise[0].to(dtype), [y.to(dtype) for y in noise[1:]]


def begun(plan: sc.Plan, begin: int = 0, **options: Any) -> sc.PlanScheduler:
    scheduler = sc.PlanScheduler(plan, **{"strict": False, **options})
    scheduler.set_timesteps(plan.origin.steps, mu=0.5)
    scheduler.set_begin_index(begin)
    return scheduler


def walk(scheduler: sc.PlanScheduler, x: Tensor, outputs: list[Tensor]) -> Tensor:
    begin = scheduler.begin_index or 0
    for t, y in zip(scheduler.timesteps[begin:], outputs[begin:], strict=True):
        x = scheduler.step(y, t, x, return_dict=False)[0]
    return x


def by_hand(plan: sc.Plan, x: Tensor, outputs: list[Tensor]) -> Tensor:
    """The plan's rows in float64."""
    x = x.double()
    for n, row in enumerate(plan.rows):
        x = x + row[0] * x + sum(float(w) * y.double() for w, y in zip(row[1:], outputs[: n + 1], strict=True))
    return x


# Rows ---------------------------------------------------------------------------------------------------------------


def random_plan(plan: sc.Plan) -> sc.Plan:
    """The same steps with full rows that also weigh the sample."""
    draw = np.random.default_rng(0)
    return replace(plan, rows=tuple(0.3 * draw.normal(size=n + 2) for n in range(len(plan))))


@pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-14), (torch.float32, 1e-6)])
def test_a_run_is_its_rows_and_leaves_outputs_alone(plan: sc.Plan, dtype: torch.dtype, bound: float) -> None:
    full = random_plan(plan)
    x, outputs = drawn(full, dtype=dtype)
    before = [x.clone(), *[y.clone() for y in outputs]]
    found, expected = walk(begun(full), x, outputs), by_hand(full, x, outputs)
    assert found.dtype == dtype
    assert (found - expected).norm() <= bound * expected.norm()
    assert all(torch.equal(a, b) for a, b in zip(before, [x, *outputs], strict=True))
    scheduler, buffer = begun(full), torch.empty_like(x)
    for t, y in zip(scheduler.timesteps, outputs, strict=True):  # which the network may overwrite
        x = scheduler.step(buffer.copy_(y), t, x).prev_sample
    assert torch.equal(x, found)


def test_one_step_in_half_precision_is_rounded_once(plan: sc.Plan) -> None:
    full = random_plan(plan)
    x, outputs = drawn(full, dtype=torch.bfloat16)
    scheduler = begun(full)
    for n, (t, y) in enumerate(zip(scheduler.timesteps, outputs, strict=True)):
        exact = (1 + full.rows[n][0]) * x.double()
        exact += sum(float(w) * o.double() for w, o in zip(full.rows[n][1:], outputs[: n + 1], strict=True))
        x = scheduler.step(y, t, x).prev_sample
        assert x.dtype == torch.bfloat16  # and float32 stays so, whatever the outputs are in
        assert begun(full).step(y, None, x.float()).prev_sample.dtype == torch.float32
        assert ((x.double() - exact).abs() <= 2**-8 * exact.abs() + 1e-5).all()


def test_only_outputs_that_are_weighed_later_are_held(plan: sc.Plan) -> None:
    """Euler forgets at once; three nodes need two outputs besides the newest."""
    x, outputs = drawn(plan)
    euler = replace(plan, rows=tuple(np.append(np.zeros(n + 1), 0.1) for n in range(len(plan))))
    for one, expected in ((euler, [0, 0, 0, 0, 0]), (plan, [1, 2, 2, 2, 0])):
        scheduler, held = begun(one, check=False), []
        for t, y in zip(scheduler.timesteps, outputs, strict=True):
            scheduler.step(y, t, x)
            held.append(scheduler.bytes() // (x.numel() * 4))
        assert held == expected


def tensors(value: Any) -> list[Tensor]:
    """Every tensor that an object holds, however deep."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for v in value.values() for t in tensors(v)]
    if isinstance(value, list | tuple):
        return [t for v in value for t in tensors(v)]
    return tensors(vars(value)) if type(value).__module__.startswith("skipcast") and hasattr(value, "__dict__") else []


@pytest.mark.parametrize("check", [False, True])
def test_nothing_of_a_sample_outlives_a_run_which_takes_no_further_step(plan: sc.Plan, check: bool) -> None:
    x, outputs = drawn(plan)
    scheduler = begun(with_forecasts(plan, 100.0), check=check)
    walk(scheduler, x, outputs)
    assert max(t.ndim for t in tensors(scheduler)) == 1  # the grid, and one number per sample and evaluation
    assert scheduler.bytes() == 0
    assert scheduler.step_index == len(plan)
    with pytest.raises(ValueError, match=r"5 evaluations are over; call set_timesteps"):
        scheduler.step(outputs[0], scheduler.timesteps[0], x)


@pytest.mark.parametrize("option", [{"per_token_timesteps": torch.ones(3)}, {"eta": 0.5}, {"s_churn": 1.0}])
def test_options_that_no_plan_can_follow_are_refused(plan: sc.Plan, option: dict[str, Any]) -> None:
    x, outputs = drawn(plan)
    with pytest.raises(ValueError, match=f"step\\({next(iter(option))}="):
        begun(plan).step(outputs[0], None, x, **option)
    begun(plan).step(outputs[0], None, x, eta=0.0, s_churn=0.0, per_token_timesteps=None)


# Parts of a run -----------------------------------------------------------------------------------------------------


def part(plan: sc.Plan, begin: int, end: int | None = None, **options: Any) -> sc.PlanScheduler:
    """The plan's run between two steps of the grid."""
    scheduler = begun(plan, **options)
    scheduler.cut(begin, end)
    return scheduler


@pytest.mark.parametrize("begin, end", [(1, None), (2, None), (7, None), (11, None), (0, 9), (0, 10), (3, 4), (5, 11)])
def test_a_part_goes_from_its_noise_level_to_its_other(plan: sc.Plan, begin: int, end: int | None) -> None:
    x, outputs = drawn(plan)
    scheduler = part(plan, begin, end)
    levels = [*plan.timesteps / 1000, 0.0]
    until = STEPS if end is None else end
    assert scheduler.steps == tuple(dict.fromkeys((begin, *(s for s in plan.steps if begin < s < until))))
    assert scheduler.sigmas.tolist() == pytest.approx([levels[step] for step in (*scheduler.steps, until)], abs=1e-6)
    found = walk(scheduler, x, outputs[:1] * len(scheduler.steps))
    assert torch.allclose(found, x + (levels[until] - levels[begin]) * outputs[0], atol=1e-5)


def test_a_part_that_begins_with_the_run_keeps_the_rows_of_the_plan(plan: sc.Plan) -> None:
    full = random_plan(plan)
    x, outputs = drawn(full)
    expected = by_hand(replace(full, rows=(*full.rows[:3], np.zeros(5), np.zeros(6))), x, outputs)
    assert torch.allclose(walk(part(full, 0, 6), x, outputs[:3]).double(), expected, atol=1e-5)


def test_the_first_timestep_tells_where_a_run_begins(plan: sc.Plan) -> None:
    x, outputs = drawn(plan)
    expected = walk(part(plan, plan.steps[3]), x, outputs[3:])
    scheduler = sc.PlanScheduler(plan, strict=False)
    scheduler.set_timesteps(STEPS, mu=0.5)
    for t, y in zip([*scheduler.timesteps][3:], outputs[3:], strict=True):
        x = scheduler.step(y, t, x).prev_sample
    assert torch.equal(x, expected)
    with pytest.raises(ValueError, match="none of the plan's"):
        scheduler.index_for_timestep(37.0)


def test_an_aborted_run_leaves_nothing_behind(plan: sc.Plan) -> None:
    """Also if only the index of its step was cleared."""
    x, outputs = drawn(plan)
    scheduler = begun(plan)
    expected = walk(scheduler, x, outputs)
    for clear in (lambda: scheduler.set_timesteps(STEPS, mu=0.5), lambda: setattr(scheduler, "_step_index", None)):
        scheduler.set_timesteps(STEPS, mu=0.5)
        for t in [*scheduler.timesteps][2:4]:
            scheduler.step(outputs[4], t, x)
        clear()
        assert torch.equal(walk(scheduler, x, outputs), expected)


@pytest.mark.parametrize("cut", [slice(3, None), slice(None, 3), slice(-2, None), slice(7, None)])
def test_a_scheduler_alone_refuses_a_cut_before_the_network(plan: sc.Plan, cut: slice) -> None:
    scheduler = begun(plan)
    assert type(scheduler.timesteps[:1]) is type(scheduler.timesteps[0]) is Tensor
    for copied in (scheduler, copy.deepcopy(scheduler)):
        with pytest.raises(ValueError, match=r"within a plan .* sc.accelerate.* scheduler.cut"):
            copied.timesteps[cut]
    with pytest.raises(ValueError, match="begins or ends within a plan"):
        scheduler.set_begin_index(3)
    for begin, end in ((STEPS, None), (4, 4), (0, STEPS + 1)):
        with pytest.raises(ValueError, match="leaves none of the plan's 12 steps"):
            scheduler.cut(begin, end)
    with pytest.raises(ValueError, match="call set_timesteps"):
        sc.PlanScheduler(plan).cut(3)


def test_image_to_image_begins_where_the_plain_run_does(pipe: Any, plan: sc.Plan) -> None:
    latents(pipe, STEPS)
    every, other = compiled(pipe, "reuse:interval=1"), image_to_image(pipe)
    plain = edited(other, STEPS, strength=0.6)
    alone = image_to_image(pipe, scheduler=sc.PlanScheduler(every))
    assert torch.allclose(edited(alone, STEPS, strength=0.6), plain, atol=1e-5)
    with pytest.raises(ValueError, match="begins or ends within a plan"):
        edited(image_to_image(pipe, scheduler=sc.PlanScheduler(plan)), STEPS, strength=0.6)
    with sc.accelerate(other, plan) as acceleration:
        found = edited(other, STEPS, strength=0.6)
    assert acceleration.summary().evaluated_steps == (4, 6, 10)  # int(12 - 0.6 * 12) = 4
    assert (found - plain).norm() < 0.1 * plain.norm()
    with sc.accelerate(other, plan), pytest.raises(ValueError, match="larger strength"):
        edited(other, STEPS, strength=0.0)


def test_noise_is_added_at_the_level_of_the_grid(plan: sc.Plan) -> None:
    moved = replace(plan, evaluation_timesteps=plan.evaluation_timesteps + np.array([0.0, 3.0, -2.0, 1.0, 2.0]))
    scheduler = begun(moved)
    x, (noise, *_) = drawn(plan)
    assert scheduler.timesteps.tolist() == pytest.approx(moved.evaluation_timesteps.tolist(), rel=1e-6)
    for n, step in enumerate(plan.steps):
        level = float(plan.timesteps[step]) / 1000
        times = scheduler.timesteps[n].repeat(3)
        expected = level * noise + (1 - level) * x
        assert torch.allclose(scheduler.scale_noise(x, times, noise), expected, atol=1e-5)
        assert torch.equal(scheduler.add_noise(x, noise, times), scheduler.scale_noise(x, times, noise))


# Other samplers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "base", [EulerDiscreteScheduler(), DDIMScheduler(clip_sample=False)], ids=lambda base: type(base).__name__
)
def test_it_stands_in_for_the_recorded_scheduler(base: Any) -> None:
    base.set_timesteps(20)
    made = sc.compile_plan(sc.method("lagrange:order=1,interval=5"), base)
    scheduler = sc.PlanScheduler(made)
    scheduler.set_timesteps(20)
    steps = list(made.steps)
    x, (noise, *_) = drawn(made)
    assert torch.equal(scheduler.timesteps, base.timesteps[steps])
    assert scheduler.timesteps.dtype == base.timesteps.dtype
    assert scheduler.init_noise_sigma == base.init_noise_sigma
    assert scheduler.config.prediction_type == "epsilon"
    for n in (0, 2):
        at = base.timesteps[steps[n]]
        assert torch.allclose(scheduler.scale_model_input(x, at), base.scale_model_input(x, at), rtol=1e-5)
        base._step_index = None
        assert torch.equal(scheduler.add_noise(x, noise, at.repeat(3)), base.add_noise(x, noise, at.repeat(3)))


def test_levels_are_shown_where_the_recorded_scheduler_has_them(plan: sc.Plan) -> None:
    assert begun(plan).sigmas.tolist() == pytest.approx([*plan.timesteps[list(plan.steps)] / 1000, 0.0], abs=1e-6)


# Files --------------------------------------------------------------------------------------------------------------


def test_files_and_configurations_keep_every_bit(tmp_path: Path, plan: sc.Plan, caplog: Any) -> None:
    checked = with_forecasts(plan, 1 / 3)
    scheduler = sc.PlanScheduler(checked, strict=False)
    scheduler.save_pretrained(tmp_path)
    for again in (
        sc.PlanScheduler.from_pretrained(tmp_path),
        sc.PlanScheduler.from_config(scheduler.config),
        sc.PlanScheduler(checked.as_dict(), strict=False),
        copy.deepcopy(scheduler),
    ):
        assert again.plan.as_dict() == checked.as_dict()
        assert again.config.strict is False
        x, outputs = drawn(plan)
        again.set_timesteps(STEPS, mu=0.5)
        assert torch.equal(walk(again, x, outputs), walk(begun(plan), x, outputs))
    assert "not expected" not in caplog.text
    assert sc.PlanScheduler.from_config(scheduler.config, strict=True).config.strict is True


def test_the_configuration_is_that_of_the_recorded_scheduler_and_the_plan(pipe: Any, plan: sc.Plan) -> None:
    config = sc.PlanScheduler(plan).config
    for key in ("num_train_timesteps", "base_image_seq_len", "max_shift", "use_dynamic_shifting"):
        assert config[key] == pipe.scheduler.config[key]
    kept = json.loads(json.dumps(config["plan"]))
    assert kept == sealed(plan.as_dict())
    with pytest.raises(ValueError, match="is not what was saved"):
        sc.PlanScheduler({**kept, "scale": [2.0, *kept["scale"][1:]]})
    assert repr(sc.PlanScheduler(plan)) == f"PlanScheduler({plan!r})"


@pytest.mark.parametrize("value", ["x", [], {}, 10**400])
def test_settings_that_no_scheduler_takes_are_refused(plan: sc.Plan, value: Any) -> None:
    config = {**plan.origin.config, "shift": 2.0, "shift_terminal": value, "use_karras_sigmas": None}
    with pytest.raises(ValueError, match=r"cannot be set as this plan has it .*solve the plan again"):
        sc.PlanScheduler(replace(plan, origin=replace(plan.origin, config=config))).set_timesteps(STEPS, mu=0.5)


def test_a_saved_pipeline_keeps_its_plan(tmp_path: Path, pipe: Any, plan: sc.Plan) -> None:
    used = twin(pipe, scheduler=sc.PlanScheduler(plan))
    expected = latents(used, STEPS)
    used.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["scheduler"] == ["skipcast", "PlanScheduler"]
    again = native_defaults(FluxPipeline.from_pretrained(tmp_path))
    again.set_progress_bar_config(disable=True)
    assert isinstance(again.scheduler, sc.PlanScheduler)
    assert again.scheduler.plan.as_dict() == plan.as_dict()
    assert torch.equal(latents(again, STEPS), expected)


def test_what_is_no_plan_is_refused(plan: sc.Plan) -> None:
    with pytest.raises(ValueError, match="must be a Plan or its dict, got str"):
        sc.PlanScheduler("plan.json")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not a plan"):
        sc.PlanScheduler({"steps": [0]})
    unknown = replace(plan, origin=replace(plan.origin, scheduler="NoSuchScheduler"))
    with pytest.raises(ValueError, match=r"'NoSuchScheduler', which diffusers .* does not have"):
        sc.PlanScheduler(unknown)


# Grids that do not fit ----------------------------------------------------------------------------------------------


def test_another_number_of_steps_is_refused(pipe: Any, plan: sc.Plan) -> None:
    with sc.accelerate(pipe, plan):
        with pytest.raises(ValueError, match=r"num_inference_steps=20 differs from the 12 .* give 12, or the 5 eval"):
            latents(pipe, 20)
        assert torch.equal(latents(pipe, 5), latents(pipe, STEPS))  # m evaluations are the N recorded steps


def test_another_grid_is_refused_with_its_distance(pipe: Any, plan: sc.Plan) -> None:
    with sc.accelerate(pipe, plan):
        with pytest.raises(ValueError, match=r"differ from the plan's by up to [0-9.]+ \(step \d+: .* resolution"):
            latents(pipe, STEPS, height=512, width=512)
        with pytest.raises(ValueError, match="other sigmas"):
            latents(pipe, STEPS, sigmas=np.linspace(1.0, 0.3, STEPS))
    with pytest.raises(ValueError, match="needs num_inference_steps=12"):
        sc.PlanScheduler(plan).set_timesteps()


def test_a_lenient_plan_keeps_its_own_grid(pipe: Any, plan: sc.Plan) -> None:
    used = twin(pipe, scheduler=sc.PlanScheduler(plan, strict=False))
    for steps in (STEPS, 7):
        found = latents(used, steps, height=128, width=64)
        assert found.isfinite().all()
        assert used.scheduler.timesteps.tolist() == pytest.approx(plan.evaluation_timesteps.tolist(), rel=1e-6)
        levels = (plan.evaluation_timesteps / 1000).tolist()
        assert used.scheduler.sigmas[:-1].tolist() == pytest.approx(levels, rel=1e-5)


@pytest.mark.parametrize(
    "scheduler, says",
    [
        (EulerDiscreteScheduler(), "made for scheduler FlowMatchEulerDiscreteScheduler, the pipeline has EulerDisc"),
        (FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, max_shift=0.7), "max_shift=.*max_shift=0.7"),
    ],
)
def test_another_scheduler_is_refused_by_name(pipe: Any, plan: sc.Plan, scheduler: Any, says: str) -> None:
    other = twin(pipe, scheduler=scheduler)
    with pytest.raises(ValueError, match=says):
        sc.accelerate(other, plan)
    assert other.scheduler is scheduler


def test_another_prediction_type_is_refused_by_name(pipe: Any) -> None:
    base = DDIMScheduler(clip_sample=False)
    base.set_timesteps(20)
    scheduler = sc.PlanScheduler(sc.compile_plan(sc.method("reuse"), base))
    other = DDIMScheduler(clip_sample=False, prediction_type="v_prediction")
    with pytest.raises(ValueError, match=r"prediction_type='epsilon', .* prediction_type='v_prediction'"):
        scheduler.check_pipeline(twin(pipe, scheduler=other))


# In a pipeline ------------------------------------------------------------------------------------------------------


def test_a_scheduler_and_an_accelerated_block_do_the_same(pipe: Any, plan: sc.Plan) -> None:
    with sc.accelerate(pipe, plan) as acceleration:
        expected = latents(pipe, STEPS)
        assert torch.equal(latents(pipe, STEPS), expected)
    summary = acceleration.summary()
    assert (summary.steps, summary.evaluated_steps, summary.branches) == (12, (0, 1, 2, 6, 10), ("cond", "uncond"))
    assert "evaluated 5 of 12" in str(summary)
    assert summary.trusted is None
    assert summary.cached_bytes == 2 * expected.numel() * 4
    assert torch.equal(latents(twin(pipe, scheduler=sc.PlanScheduler(plan)), STEPS), expected)


def test_batches_are_pairs_on_their_own(pipe: Any, plan: sc.Plan) -> None:
    with sc.accelerate(pipe, with_forecasts(plan, 10.0)) as acceleration:
        both = latents(pipe, STEPS, [PROMPT, "a small blue circle"])
        assert acceleration.summary().trusted == (True, True)
        assert "trusted: 2 of 2 samples" in str(acceleration.summary())
        assert torch.allclose(both[:1], latents(pipe, STEPS, [PROMPT]), atol=1e-5)
        noise = [torch.Generator().manual_seed(7 + i) for i in range(4)]
        assert torch.allclose(latents(pipe, STEPS, num_images_per_prompt=4, generator=noise)[:1], both[:1], atol=1e-5)


def test_restored_exactly_also_after_an_exception(pipe: Any, plan: sc.Plan) -> None:
    plain, before, own = latents(pipe, STEPS), state(pipe), pipe.scheduler
    with pytest.raises(Stop), sc.accelerate(pipe, plan):
        expected = latents(pipe, STEPS)
        with pytest.raises(Stop):
            latents(pipe, STEPS, callback_on_step_end=at(2, stop))
        assert torch.equal(latents(pipe, STEPS), expected)
        latents(pipe, STEPS, callback_on_step_end=at(2, stop))
    assert pipe.scheduler is own
    assert state(pipe) == before
    assert torch.equal(latents(pipe, STEPS), plain)


def test_a_pipeline_that_runs_a_plan_takes_another_but_no_method(pipe: Any, plan: sc.Plan) -> None:
    with sc.accelerate(pipe, plan):
        expected = latents(pipe, STEPS)
    running = sc.PlanScheduler(random_plan(plan))
    used = twin(pipe, scheduler=running)
    with sc.accelerate(used, plan):
        assert torch.equal(latents(used, STEPS), expected)
    assert used.scheduler is running
    with pytest.raises(ValueError, match=r"runs Plan.* already"):
        sc.accelerate(used, "taylorseer")


# Trust --------------------------------------------------------------------------------------------------------------


def test_residuals_are_relative_and_per_sample(plan: sc.Plan) -> None:
    x, outputs = drawn(plan)
    scheduler = begun(with_forecasts(plan, 10.0))
    walk(scheduler, x, outputs)
    found = scheduler.residuals
    assert found.shape == (5, 3)
    assert found[0].isnan().all()  # nothing forecasts the first output
    for n in range(1, 5):
        expected = (outputs[n] - outputs[n - 1]).flatten(1).norm(dim=1) / outputs[n].flatten(1).norm(dim=1)
        assert torch.allclose(found[n], expected, rtol=1e-5)
    assert scheduler.trusted() == [True, True, True]
    assert scheduler.trusted(factor=0.0) == [False, False, False]


def test_a_sample_out_of_range_is_named_at_the_end(plan: sc.Plan) -> None:
    x, outputs = drawn(plan)
    steady = [outputs[0] + 0.01 * y for y in outputs]
    scheduler = begun(with_forecasts(plan, 0.05))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        walk(scheduler, x, steady)
    assert scheduler.trusted() == [True, True, True]
    steady[3][1] += outputs[4][1]
    scheduler.set_timesteps(STEPS, mu=0.5)
    with pytest.warns(UserWarning, match=r"sample 1 departs [0-9.]+ times more .* evaluation [34]") as heard:
        walk(scheduler, x, steady)
    assert len(heard) == 1
    assert scheduler.trusted() == [True, False, True]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("evaluation", [0, 2, 4])
def test_what_is_not_finite_is_not_trusted(plan: sc.Plan, evaluation: int, value: float) -> None:
    x, outputs = drawn(plan)
    outputs = [y.clone() for y in outputs]
    outputs[evaluation][1].view(-1)[0] = value
    scheduler = begun(with_forecasts(plan, 1e3))
    with pytest.warns(UserWarning, match=f"not finite for sample 1 at evaluation {max(1, evaluation)}: half") as heard:
        walk(scheduler, x, outputs)
    assert len(heard) == 1
    assert scheduler.trusted() == [True, False, True]


def test_rounding_is_not_a_departure(plan: sc.Plan) -> None:
    x, outputs = drawn(plan, dtype=torch.bfloat16)
    still = [(1 + 1e-3 * n) * outputs[0] for n in range(len(plan))]
    scheduler = begun(with_forecasts(plan, 1e-5))
    walk(scheduler, x, still)
    assert scheduler.trusted() == [True, True, True]


def test_parts_of_a_run_are_checked_where_they_can_be(plan: sc.Plan) -> None:
    x, outputs = drawn(plan)
    for begin, compared in ((2, [3, 4]), (4, [4]), (7, [])):  # the plan's steps are 0, 1, 2, 6 and 10
        scheduler = part(with_forecasts(plan, 10.0), begin)
        walk(scheduler, x, outputs[: len(scheduler.steps)])
        assert scheduler.checked == bool(compared)
        assert scheduler.residuals[:, 0].isfinite().nonzero().flatten().tolist() == compared
        assert scheduler.trusted() == [True, True, True]


def test_what_is_not_checked_says_so(plan: sc.Plan) -> None:
    x, outputs = drawn(plan)
    for scheduler in (begun(plan), begun(with_forecasts(plan), check=False)):
        walk(scheduler, x, outputs)
        assert not scheduler.checked
        with pytest.raises(RuntimeError, match="not checked"):
            _ = scheduler.residuals
    with pytest.raises(RuntimeError, match="run the pipeline first"):
        begun(with_forecasts(plan)).trusted()
