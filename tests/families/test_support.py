"""Every family at every seam and with plans; `--support-page FILE` writes what came out."""

from __future__ import annotations

import copy
import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ModularPipeline
from torch import Tensor, nn

import skipcast as sc
from families.all import FAMILIES
from families.base import Family
from families.page import Facts
from families.parts import reload
from skipcast.controllers import Periodic
from skipcast.forecasters import Reuse
from skipcast.pipelines.calls import arguments
from skipcast.pipelines.networks import denoisers
from skipcast.pipelines.recording.replay import PipelineEvaluator, prepare
from skipcast.pipelines.seams.layouts import LAYOUTS
from skipcast.plans.profile import Profile
from skipcast.plans.propagation import segments
from skipcast.targets import StagedSpans
from support.seams import counted, state

STEPS = 8
METHOD = "lagrange:order=1,interval=3"


def _marks(family: Family) -> list[Any]:
    return [pytest.mark.skip(reason=family.missing)] if family.missing else []


class Bench:
    """One family with its pipeline, its plain result, and how often each module that holds no other ran for it."""

    def __init__(self, family: Family, facts: Facts) -> None:
        self.family, self.facts = family, facts
        self.pipe = family.build()
        self.plain, self.counts, _ = self.run()
        facts.begin(family, self.pipe)

    def run(self, method: Any = None) -> tuple[Tensor, dict[nn.Module, int], Any]:
        """Final latents, the counts of its networks, and the summary of the accelerated call."""
        parts = [*denoisers(self.pipe), getattr(self.pipe, "controlnet", None)]
        with counted(*(leaf for part in parts if part is not None for leaf in leaves(part))) as counts:
            if method is None:
                return self.family.run(self.pipe, STEPS), counts, None
            with sc.accelerate(self.pipe, method) as acceleration:
                return self.family.run(self.pipe, STEPS), counts, acceleration.summary()

    @property
    def kinds(self) -> set[str]:
        return {type(network).__name__ for network in denoisers(self.pipe)}

    def prepared(self) -> Any:
        """The scheduler as the pipeline prepares it."""
        return prepare(self.pipe, arguments(self.family.call(), [self.family.prompt(0)], [0], STEPS))

    @functools.cached_property
    def recorded(self) -> tuple[Profile, PipelineEvaluator]:
        """A profile of two pairs, and the evaluator that closes its loop."""
        items, call = [self.family.prompt(number) for number in range(2)], self.family.call()
        profile = sc.record(self.pipe, items, seeds=0, num_inference_steps=STEPS, progress=False, **call)
        fixed = {name: value for name, value in call.items() if isinstance(value, Tensor)}
        return profile, PipelineEvaluator(self.pipe, profile.origin, prompts=items, **fixed)

    def near(self, found: Tensor, allowed: float) -> bool:
        return bool((found - self.plain).norm() <= allowed * self.plain.norm())


#: The same on every family, whatever its authors set there.
STACK = "resilphase:order=1,phase=balanced,warmup=3,interval=3"


@pytest.fixture(scope="module", params=[pytest.param(f, marks=_marks(f), id=f.name) for f in FAMILIES])
def bench(request: pytest.FixtureRequest, support: Facts) -> Bench:
    return Bench(request.param, support)


def leaves(part: nn.Module) -> list[nn.Module]:
    return [module for module in part.modules() if not list(module.children())]


def test_it_loads_from_where_it_was_saved(bench: Bench, tmp_path: Path) -> None:
    bench.pipe.save_pretrained(str(tmp_path))
    again = reload(bench.pipe, str(tmp_path))
    for part in again.components.values():
        for parameter in part.parameters() if isinstance(part, nn.Module) else ():
            # A file's header moves its weights in memory, and kernels round by alignment.
            parameter.data = parameter.data.clone()
    assert torch.equal(bench.family.run(again, STEPS), bench.plain)


def test_with_every_step_evaluated_the_output_seam_changes_no_bit(bench: Bench) -> None:
    before = state(bench.pipe)
    found, _, summary = bench.run("reuse:interval=1")
    assert torch.equal(found, bench.plain)
    assert summary.forecasts == 0
    assert state(bench.pipe) == before


def test_forecast_steps_run_no_part_of_the_network(bench: Bench) -> None:
    found, counts, summary = bench.run(METHOD)
    assert len(summary.branches) == {"separate": 2}.get(bench.family.guidance, 1)
    assert summary.evaluated_steps[:3] == (0, 1, 2)
    assert len(summary.evaluated_steps) < summary.steps
    if len(denoisers(bench.pipe)) == 1:
        for leaf, times in bench.counts.items():
            assert counts[leaf] * summary.steps == times * summary.evaluations
    assert sum(counts.values()) < sum(bench.counts.values())
    assert found.isfinite().all()
    assert not torch.equal(found, bench.plain)
    assert torch.equal(bench.family.run(bench.pipe, STEPS), bench.plain)
    bench.facts.note(bench.family, "output", "yes")
    bench.facts.note(bench.family, "distinguished by", "name" if summary.branches[0][:4] != "call" else "call")


def test_the_block_stack_is_skipped_whole_or_refused(bench: Bench) -> None:
    if not bench.kinds <= set(LAYOUTS):
        with pytest.raises(ValueError, match="target=output"):
            sc.accelerate(bench.pipe, STACK)
        bench.facts.note(bench.family, "stack", "no")
        return
    if "controlnet" in bench.pipe.components:
        with pytest.raises(ValueError, match=r"controlnet_block_samples.*ControlNet"):
            bench.run("resilphase:interval=1")
        bench.facts.note(bench.family, "stack", "refused with a ControlNet")
        return
    before = state(bench.pipe)
    for every in ("resilphase:interval=1", sc.Method(Reuse(), Periodic(1, 1), target=StagedSpans())):
        assert torch.equal(bench.run(every)[0], bench.plain)
        assert state(bench.pipe) == before
    found, counts, summary = bench.run(STACK)
    if len(denoisers(bench.pipe)) == 1:
        (network,) = denoisers(bench.pipe)
        lists = LAYOUTS[type(network).__name__].lists
        inside = {leaf for listed in lists for block in getattr(network, listed.name) for leaf in leaves(block)}
        # Some networks ask a block's parts outside the block as well, at every step.
        skipped = [leaf for leaf in inside if counts[leaf] * summary.steps == bench.counts[leaf] * summary.evaluations]
        assert len(skipped) >= 0.8 * len(inside)
    assert summary.forecasts > 0
    assert found.isfinite().all()
    assert not torch.equal(found, bench.plain)
    assert torch.equal(bench.family.run(bench.pipe, STEPS), bench.plain)
    bench.facts.note(bench.family, "stack", "yes")


def test_plans_run_as_schedulers(bench: Bench) -> None:
    scheduler = bench.prepared()
    every = sc.compile_plan(sc.method("reuse:interval=1"), scheduler)
    with sc.accelerate(bench.pipe, every):
        assert bench.near(bench.family.run(bench.pipe, STEPS), 1e-5)
    plan = sc.compile_plan(sc.method(METHOD), scheduler)
    with sc.accelerate(bench.pipe, plan) as acceleration:
        found = bench.family.run(bench.pipe, STEPS)
    assert found.isfinite().all()
    assert acceleration.summary().evaluations <= len(plan) < len(every)
    assert torch.equal(bench.family.run(bench.pipe, STEPS), bench.plain)
    bench.facts.note(bench.family, "compiled", "yes")


def test_plans_are_recorded_and_solved(bench: Bench) -> None:
    family, pipe = bench.family, bench.pipe
    if family.unrecorded:
        with pytest.raises(ValueError):
            _ = bench.recorded
        bench.facts.note(family, "recorded", f"no: {family.unrecorded}")
        return
    profile, evaluator = bench.recorded
    plan = profile.plan(evaluations=4, refine=evaluator, effort="low")
    with sc.accelerate(pipe, copy.deepcopy(plan)) as acceleration:
        found = family.run(pipe, STEPS)
    assert acceleration.summary().evaluations == 4
    with sc.accelerate(pipe, "reuse:schedule=" + ".".join(map(str, plan.steps))) as acceleration:
        reused = family.run(pipe, STEPS)
    if acceleration.summary().evaluations == 4:  # two experts are evaluated once more
        assert (found - bench.plain).norm() < (reused - bench.plain).norm()
    bench.facts.note(family, "recorded", "yes")


def test_passes_of_single_branches(bench: Bench) -> None:
    family, pipe = bench.family, bench.pipe
    if family.unrecorded:
        bench.facts.note(family, "passes", "no")
        return
    profile, evaluator = bench.recorded
    solve = functools.partial(profile.plan, refine=evaluator, branches=True, effort="low")
    if family.guidance in ("none", "distilled"):
        with pytest.raises(ValueError, match=r"two guidance branches"):
            solve(evaluations=4)
        bench.facts.note(family, "passes", "no")
        return
    if family.name == "HiDream-I1":  # whose text encoders have arguments of their own
        with pytest.raises(ValueError, match=r"encoder_hidden_states_t5 is not known to have one row"):
            solve(evaluations=4)
        bench.facts.note(family, "passes", "no")
        return
    plan, steps = solve(steps=(0, 1, 1, 2, 4, 5, 5, 7)), profile.origin.steps
    with sc.accelerate(pipe, plan) as acceleration:
        found = family.run(pipe, STEPS)
    assert found.isfinite().all()
    assert (acceleration.evaluations(), acceleration.summary().passes) == (4, 8)
    assert torch.equal(family.run(pipe, STEPS), bench.plain)
    bench.facts.note(family, "passes", plan.branches)
    # With both branches at every step, and the scheduler's own rows, it is the plain run.
    every = sorted([*range(steps)] * 2)
    rows = []
    for row in segments(profile.states, range(steps)):
        outputs = np.zeros(2 * (len(row) - 1))
        outputs[1::2] = row[1:]
        rows += [np.zeros(len(outputs)), np.concatenate([row[:1], outputs])]
    both = replace(
        plan,
        steps=tuple(every),
        rows=tuple(rows),
        evaluation_timesteps=profile.timesteps[every],
        scale=profile.scale[every],
        forecasts=(),
        expected=None,
        predicted=None,
    )
    if isinstance(pipe, ModularPipeline):  # whose guiders end behind the steps that were asked for
        with sc.accelerate(pipe, both), pytest.raises(ValueError, match=r"called its network 1 times"):
            family.run(pipe, STEPS)
        return
    with sc.accelerate(pipe, both) as acceleration:
        assert bench.near(family.run(pipe, STEPS), 1e-4)
    assert acceleration.summary().evaluations == acceleration.evaluations() == steps
