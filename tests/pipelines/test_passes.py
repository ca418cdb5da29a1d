"""Plans of passes in pipelines: which branch is evaluated when, what it costs, and what a pipeline cannot do."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import skipcast as sc
from families.all import NAMED
from skipcast.pipelines.passes import Passes
from skipcast.pipelines.recording.replay import PipelineEvaluator
from support.seams import state
from support.tiny import edited, image_to_image, latents

STEPS = 12
PROMPTS = ["a red star", "a blue ring", "a green heart"]
PASSES = (0, 3, 3, 5, 8, 10)


@pytest.fixture(scope="module")
def profile(pipe: Any) -> sc.Profile:
    return sc.record(
        pipe,
        [f"{colour} {shape}" for colour in ("red", "blue") for shape in ("star", "ring", "cross")],
        seeds=0,
        num_inference_steps=STEPS,
        guidance=[2.0, 4.0],
        negative_prompt="",
        height=64,
        width=64,
        progress=False,
    )


@pytest.fixture(scope="module")
def plan(pipe: Any, profile: sc.Profile) -> sc.Plan:
    return profile.plan(steps=PASSES, refine=pipe, branches=True, effort="low")


@contextmanager
def calls(pipe: Any) -> Iterator[list[int]]:
    """How many rows each evaluation of the network has, at a part of it."""
    found: list[int] = []
    hook = pipe.transformer.x_embedder.register_forward_hook(lambda module, args, output: found.append(len(output)))
    try:
        yield found
    finally:
        hook.remove()


def test_a_pass_evaluates_one_branch_and_six_passes_are_three_evaluations(pipe: Any, plan: sc.Plan) -> None:
    assert (plan.branches, plan.evaluations, plan.argument) == ("first call", 3, "true_cfg_scale")
    before = state(pipe)
    with sc.accelerate(pipe, plan) as acceleration, calls(pipe) as rows:
        found = latents(pipe, STEPS, PROMPTS, true_cfg_scale=3.0)
    assert rows == [3] * 6
    assert acceleration.calls == {"cond": [0, 1, 3, 4, 5], "uncond": [2]}
    summary = acceleration.summary()
    assert (acceleration.evaluations(), summary.evaluations, summary.passes) == (3, 3, 6)
    assert summary.evaluated_steps == (0, 3, 5, 8, 10)
    assert "evaluated 3 of 12, in 6 passes" in str(summary)
    assert found.isfinite().all()
    assert state(pipe) == before


def test_it_runs_as_its_rows_say(pipe: Any, plan: sc.Plan) -> None:
    """The rows applied by hand to the branches of the network, taken from calls that evaluate both."""
    outputs: list[torch.Tensor] = []
    states: list[torch.Tensor] = []
    at = plan.at(3.0)
    with sc.accelerate(pipe, plan) as acceleration:
        original = acceleration.scheduler.step

        def step(y: torch.Tensor, timestep: Any, sample: torch.Tensor, **kwargs: Any) -> Any:
            outputs.append(y.clone())
            states.append(sample.clone())
            return original(y, timestep, sample, **kwargs)

        acceleration.scheduler.step = step
        final = latents(pipe, STEPS, PROMPTS[:1], true_cfg_scale=3.0)
    x = states[0]
    for n, row in enumerate(at.rows):
        torch.testing.assert_close(states[n], x, rtol=1e-5, atol=1e-5)
        x = x + float(row[0]) * x + sum(float(w) * y for w, y in zip(row[1:], outputs, strict=False))
    torch.testing.assert_close(final, x, rtol=1e-5, atol=1e-5)
    assert torch.equal(states[1], states[2])
    # The guided output is u + w (c - u) of both; behind a leading pass it is c.
    assert not torch.allclose(outputs[1], outputs[2])


def test_the_guidance_need_not_be_a_knot_and_must_be_known(pipe: Any, plan: sc.Plan) -> None:
    with sc.accelerate(pipe, plan), pytest.raises(ValueError, match=r"true_cfg_scale=5 lies outside the 2 to 4"):
        latents(pipe, STEPS, true_cfg_scale=5.0)
    with sc.accelerate(pipe, plan.at(3.0)):
        latents(pipe, STEPS, true_cfg_scale=3.0)


def test_without_a_second_branch_the_run_is_refused_at_the_first_step(pipe: Any, plan: sc.Plan) -> None:
    before = state(pipe)
    with (
        sc.accelerate(pipe, plan.at(2.0)),
        calls(pipe) as rows,
        pytest.raises(ValueError, match=r"called its network 1 times.*give the guidance"),
    ):
        latents(pipe, STEPS, true_cfg_scale=1.0)
    assert len(rows) == 1
    assert state(pipe) == before


def test_a_run_after_an_aborted_one_begins_anew(pipe: Any, plan: sc.Plan) -> None:
    def stop(pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if step == 1:  # between the two passes of one step
            raise KeyboardInterrupt
        return values

    with sc.accelerate(pipe, plan):
        whole = latents(pipe, STEPS, PROMPTS, true_cfg_scale=3.0)
        with pytest.raises(KeyboardInterrupt):
            latents(pipe, STEPS, PROMPTS, true_cfg_scale=3.0, callback_on_step_end=stop)
        assert torch.equal(latents(pipe, STEPS, PROMPTS, true_cfg_scale=3.0), whole)


def test_late_starts_and_copies_are_refused(pipe: Any, plan: sc.Plan) -> None:
    edit = image_to_image(pipe)
    with sc.accelerate(edit, plan), pytest.raises(ValueError, match=r"plan of passes: run a plan of whole evaluations"):
        edited(edit, STEPS, true_cfg_scale=3.0, negative_prompt="")
    with sc.accelerate(pipe, plan) as acceleration:
        with pytest.raises(ValueError, match=r"cut\(begin=3, end=None\) cannot be followed by a plan of passes"):
            acceleration.scheduler.cut(3)
        with pytest.raises(ValueError, match="the pipeline copies its scheduler"):
            copy.deepcopy(acceleration.scheduler)


def test_the_check_is_of_passes_too(pipe: Any, plan: sc.Plan) -> None:
    assert len(plan.forecasts) == 6
    assert plan.expected is not None
    with sc.accelerate(pipe, plan) as acceleration:
        latents(pipe, STEPS, PROMPTS[:1], true_cfg_scale=2.0)
    assert acceleration.summary().trusted is not None
    tight = replace(plan.at(2.0), expected=np.full((6, 2), 1e-9))
    with sc.accelerate(pipe, tight), pytest.warns(UserWarning, match="departs"):
        latents(pipe, STEPS, PROMPTS[:1], true_cfg_scale=2.0)


def test_passes_reach_more_than_whole_evaluations_of_the_same_effort(pipe: Any, profile: sc.Profile) -> None:
    whole, passes = (
        profile.plan(evaluations=3, refine=pipe, effort="low", branches=branches, batch=6) for branches in (False, True)
    )
    assert passes.evaluations == whole.evaluations == 3
    means = [np.mean([knot.predicted.psnr for knot in found.knots if knot.predicted]) for found in (whole, passes)]
    assert means[1] > means[0]


def test_a_solve_says_before_the_first_candidate_that_there_is_one_branch_alone(pipe: Any) -> None:
    plain = sc.record(
        pipe, PROMPTS, seeds=0, num_inference_steps=STEPS, height=64, width=64, progress=False, true_cfg_scale=1.0
    )
    with pytest.raises(ValueError, match=r"two guidance branches.*calls its network 1 times"):
        plain.plan(evaluations=3, refine=pipe, branches=True)
    with pytest.raises(ValueError, match=r"branches=True\) needs refine= with the recorded pipeline"):
        plain.plan(evaluations=3, branches=True)
    with pytest.raises(ValueError, match="names 3 passes; give an even number"):
        plain.plan(steps=(0, 1, 1), refine=pipe, branches=True)


@pytest.mark.parametrize("name", ["Stable Diffusion XL", "DiT", "Qwen-Image"])
def test_halves_of_a_batch_are_told_apart(name: str) -> None:
    family = NAMED[name]
    pipe = family.build()
    items = [family.prompt(number) for number in range(2)]
    made = sc.record(pipe, items, seeds=0, num_inference_steps=8, progress=False, **family.call())
    evaluator = PipelineEvaluator(pipe, made.origin, prompts=items)
    # DiT's first half is the one with the labels; of the others the second is, or the calls are two.
    expected = {"Stable Diffusion XL": "second half", "DiT": "first half", "Qwen-Image": "first call"}
    assert evaluator.branches == expected[name]


def test_a_run_of_passes_must_begin_with_a_leading_one() -> None:
    passes = Passes("first call", ("other",))
    with pytest.raises(ValueError, match="begins with one of its leading"):
        passes.answer(lambda **given: None, lambda: torch.zeros(1), {"x": torch.zeros(1)}, "x")
    with pytest.raises(ValueError, match="branches='third'"):
        Passes("third", ("lead",))
