"""Adaptive plans in pipelines: who is evaluated, how often, and what a pipeline cannot do."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import skipcast as sc
from families.all import NAMED
from skipcast.pipelines.calls import batched
from skipcast.pipelines.networks import denoisers
from skipcast.plans.knots import joined
from support.seams import state
from support.tiny import Stop, at, compiled, edited, image_to_image, latents, stop, twin

STEPS = 12
PROMPTS = ["a red star", "a blue ring", "a green heart"]


@pytest.fixture(scope="module")
def plans(pipe: Any) -> tuple[sc.Plan, sc.Plan]:
    """Steps 0, 3, 5 and 0, 2, 4, 6: only y_0 is made by both."""
    latents(pipe, STEPS)
    return compiled(pipe, "lagrange:order=1,schedule=0.3.5"), compiled(pipe, "lagrange:order=1,schedule=0.2.4.6")


def limited(plan: sc.Plan, limit: float) -> sc.Plan:
    """Every output is expected to equal the one before it, within a relative limit."""
    forecasts = tuple(np.eye(n)[-1] if n else np.zeros(0) for n in range(len(plan)))
    return replace(plan, forecasts=forecasts, expected=np.full((len(plan), 2), limit / 3))


def between(pipe: Any, plan: sc.Plan, run: Callable[[], Any], share: float = 0.5) -> sc.Plan:
    """With a limit between the residuals of the samples of a run."""
    with sc.accelerate(pipe, limited(plan, 1e9)) as acceleration:
        run()
    most = acceleration.scheduler.residuals[1:].max(dim=0).values.unique()
    return limited(plan, float(most[0] + share * (most[-1] - most[0])))


@contextmanager
def rows(pipe: Any) -> Iterator[list[int]]:
    """How many rows each evaluation of the network has, within the context: at a part, since hooks may leave it out."""
    found: list[int] = []
    hooks = [
        network.x_embedder.register_forward_hook(lambda module, args, output: found.append(len(output)))
        for network in denoisers(pipe)
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def test_nobody_everybody_and_some(pipe: Any, plans: tuple[sc.Plan, sc.Plan]) -> None:
    """The network has exactly the rows that samples need, of each of the two guidance branches."""
    cheap, dear = plans

    def run() -> Tensor:
        return latents(pipe, STEPS, PROMPTS)

    alone = []
    for plan in plans:
        with sc.accelerate(pipe, plan):
            alone.append(run())
    for limit, expected, counts, calls in (
        (1e9, alone[0], [3] * 3, [3] * 6),
        (1e-9, alone[1], [5] * 3, [3] * 10),
    ):
        with sc.accelerate(pipe, sc.AdaptivePlan([limited(cheap, limit), dear])) as acceleration, rows(pipe) as found:
            assert torch.equal(run(), expected)
        assert found == calls
        assert acceleration.summary().per_sample == tuple(counts)
    with sc.accelerate(pipe, sc.AdaptivePlan([between(pipe, cheap, run), dear])) as acceleration, rows(pipe) as found:
        mixed = run()
    summary = acceleration.summary()
    assert summary.trusted is not None
    assert summary.per_sample is not None
    assert 0 < sum(summary.trusted) < 3
    for i, trusted in enumerate(summary.trusted):
        torch.testing.assert_close(mixed[i], alone[0 if trusted else 1][i], atol=1e-5, rtol=1e-5)
        assert (summary.per_sample[i] == 3) == trusted
    assert sum(found) == 2 * sum(summary.per_sample)
    assert acceleration.evaluations() == pytest.approx(np.mean(summary.per_sample))
    assert "evaluations per sample: 3 to " in str(summary)
    assert summary.evaluated_steps[:2] == (0, 3)


@pytest.mark.parametrize("count", [STEPS, 3])
def test_the_bar_ends_full(
    pipe: Any, plans: tuple[sc.Plan, sc.Plan], monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    bars: list[Any] = []
    original = type(pipe).progress_bar

    def kept(self: Any, *args: Any, **kwargs: Any) -> Any:
        bars.append(original(self, *args, **kwargs))
        return bars[-1]

    monkeypatch.setattr(type(pipe), "progress_bar", kept)
    pipe.set_progress_bar_config(disable=False)
    try:
        for limit in (1e9, 1e-9):
            with sc.accelerate(pipe, sc.AdaptivePlan([limited(plans[0], limit), plans[1]])):
                latents(pipe, count, PROMPTS)
    finally:
        pipe.set_progress_bar_config(disable=True)
    assert [bar.n for bar in bars] == [bar.total for bar in bars]


def test_a_pipeline_is_restored_and_the_next_run_begins_anew(plans: tuple[sc.Plan, sc.Plan], pipe: Any) -> None:
    own = twin(pipe)
    latents(own, STEPS)  # pipelines note their newest call
    before, adaptive = state(own), sc.AdaptivePlan([limited(plans[0], 1e-9), plans[1]])
    with pytest.raises(Stop), sc.accelerate(own, adaptive):
        latents(own, STEPS, callback_on_step_end=at(1, stop))
    assert state(own) == before
    acceleration = sc.enable(own, adaptive)
    with pytest.raises(Stop):
        latents(own, STEPS, callback_on_step_end=at(3, stop))
    assert acceleration.summary().per_sample == (3,)  # y_0 and y_1 of the cheap plan, one of the dear one
    again = latents(own, STEPS)
    assert acceleration.summary().per_sample == (5,)
    assert acceleration.scheduler.bytes() == 0
    assert acceleration.scheduler.last is None
    acceleration.disable()
    assert state(own) == before
    with sc.accelerate(own, plans[1]):
        assert torch.equal(latents(own, STEPS), again)


FAMILIES = (
    "FLUX.1", "FLUX.1 ControlNet", "Stable Diffusion 3", "Qwen-Image", "DiT", "Z-Image", "Wan 2.2",
    "Stable Diffusion 1.5, DDIM", "Wan 2.1, modular",
)  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_is_divided_only_where_that_is_safe(name: str) -> None:
    """Guidance in one call or two, lists of samples, two experts, arguments that hold the batch together."""
    family = NAMED[name]
    if family.missing:
        pytest.skip(family.missing)
    pipe = family.build()
    call = {**family.fixed, **family.prompt(0), "num_inference_steps": STEPS}
    schedules = ("0.3.5", "0.2.4.6")
    cheap, dear = (sc.compile_plan(f"lagrange:order=1,schedule={steps}", pipe, **call) for steps in schedules)
    three = batched([family.prompt(i) for i in range(3)])

    def run() -> Tensor:
        noise = [torch.Generator().manual_seed(i) for i in range(3)]
        return family.run(pipe, STEPS, **{**three, "generator": noise})

    alone = []
    for plan in (cheap, dear):
        with sc.accelerate(pipe, plan):
            alone.append(run())
    adaptive = sc.AdaptivePlan([between(pipe, cheap, run), dear])
    with sc.accelerate(pipe, adaptive) as acceleration:
        found = run()
    trusted = acceleration.summary().trusted
    assert trusted is not None
    assert 0 < sum(trusted) < len(trusted)
    for i, sample in enumerate(found):
        expected = alone[0 if trusted[i] else 1][i]
        assert (sample - expected).abs().max() <= 1e-5 * expected.abs().max()


# What cannot be done ------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*did nothing")
def test_runs_that_begin_late_are_refused_before_the_network(pipe: Any, plans: tuple[sc.Plan, sc.Plan]) -> None:
    adaptive = sc.AdaptivePlan([limited(plans[0], 1.0), plans[1]])
    other = image_to_image(pipe)
    with rows(other) as found, sc.accelerate(other, adaptive) as acceleration:
        with pytest.raises(ValueError, match=r"within an AdaptivePlan.*run one of its plans"):
            edited(other, STEPS)
        with pytest.raises(ValueError, match=r"cut\(begin=3, end=None\) cannot be followed by an AdaptivePlan"):
            acceleration.scheduler.cut(3)
    assert not found


def test_schedulers_alone_and_copies_are_refused(pipe: Any, plans: tuple[sc.Plan, sc.Plan]) -> None:
    adaptive = sc.AdaptivePlan([limited(plans[0], 1.0), plans[1]])
    with pytest.raises(ValueError, match=r"PlanScheduler\(plan=\.\.\.\) of an AdaptivePlan .*use sc\.accelerate"):
        sc.PlanScheduler(adaptive)  # type: ignore[arg-type]
    with sc.accelerate(pipe, adaptive):
        for copied in (pipe.scheduler, vars(pipe.scheduler)):  # for a second value, or view by view
            with pytest.raises(ValueError, match="copies its scheduler"):
                copy.deepcopy(copied)


def test_rows_that_are_no_samples_are_refused(pipe: Any, plans: tuple[sc.Plan, sc.Plan]) -> None:
    """As where a scheduler moves every frame of a video by itself."""
    adaptive = sc.AdaptivePlan([limited(plans[0], 1.0), plans[1]])
    with sc.accelerate(pipe, adaptive) as acceleration:
        scheduler = acceleration.scheduler
        step = scheduler.step
        scheduler.step = lambda y, t, x, **_: (step(y[0], t, x[0], return_dict=False)[0][None],)
        try:
            with pytest.raises(ValueError, match="1 rows where the scheduler moves 16 samples"):
                latents(pipe, STEPS)
        finally:
            scheduler.step = step


def test_plans_with_knots_take_the_scale_of_the_call(pipe: Any, plans: tuple[sc.Plan, sc.Plan]) -> None:
    cheap, dear = plans

    def knotted(plan: sc.Plan) -> sc.Plan:
        other = replace(plan, rows=tuple(1.1 * row for row in plan.rows))
        return joined("true_cfg_scale", {1.5: plan, 3.0: other}, plan.origin)

    adaptive = sc.AdaptivePlan([knotted(limited(cheap, 1e-9)), knotted(dear)])
    with sc.accelerate(pipe, knotted(dear)):
        expected = latents(pipe, STEPS, PROMPTS, true_cfg_scale=2.0)
    with sc.accelerate(pipe, adaptive) as acceleration:
        assert torch.equal(latents(pipe, STEPS, PROMPTS, true_cfg_scale=2.0), expected)
        assert acceleration.scheduler.guidance == 2.0
        with pytest.raises(ValueError, match=r"lies outside the 1\.5 to 3"):
            latents(pipe, STEPS, PROMPTS, true_cfg_scale=4.0)
