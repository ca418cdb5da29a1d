"""Several plans of one model: which of them a count and a quality mean, and one scheduler that runs each."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import skipcast as sc
from skipcast.engines.tiered import TieredScheduler, tiered
from skipcast.engines.tiers import VARIABLE, Tiers
from skipcast.plans.plan import Plan
from support.engines import MU, STEPS
from support.tiny import latents, twin

#: The network here is another one than the plans were recorded with.
pytestmark = pytest.mark.filterwarnings("ignore:this plan was made for")


def test_counts_and_qualities_mean_plans(tiers: Tiers, plans: tuple[Plan, ...]) -> None:
    assert (tiers.evaluations, tiers.steps) == ((3, 5, 8), STEPS)
    assert [tiers.counted(count) for count in (3, 5, 8, STEPS)] == [*plans, plans[1]]
    assert [tiers.named(name) for name in ("low", "medium", "high", "auto")] == [*plans, plans[1]]
    assert replace(tiers, psnr=45.0).named("auto") is plans[2]
    assert replace(tiers, psnr=60.0).named("auto") is plans[2]  # nothing reaches it
    assert Tiers(plans[:1]).named("medium") is plans[0]
    assert copy.deepcopy(tiers) is tiers


def test_a_folder_is_read_and_names_may_stand_in_it(tmp_path: Path, plans: tuple[Plan, ...]) -> None:
    for name, plan in zip(("low", "b", "high"), (plans[1], plans[0], plans[2]), strict=True):
        plan.save(tmp_path / f"{name}.plan.json")
    (tmp_path / "notes.json").write_text("{}")
    found = Tiers.load(tmp_path)
    assert found.evaluations == (3, 5, 8)
    assert [len(found.named(name)) for name in ("low", "medium", "high")] == [5, 5, 8]
    assert Tiers.load(tmp_path / "b.plan.json").evaluations == (3,)


def test_a_folder_of_published_plans_is_read(tmp_path: Path, plans: tuple[Plan, ...]) -> None:
    for name, plan in {"3": plans[0], "high": plans[1]}.items():
        (tmp_path / name).mkdir()
        plan.save(tmp_path / name / "plan.json")
    (tmp_path / "plans.json").write_text("{}")
    found = Tiers.load(tmp_path)
    assert (found.evaluations, len(found.named("high"))) == ((3, 5), 5)
    plans[2].save(tmp_path / "high.plan.json")
    with pytest.raises(ValueError, match="has two plans of one name"):
        Tiers.load(tmp_path)


def test_the_shipped_plans_are_tiers() -> None:
    tiers = Tiers.shipped("shapes-flux")
    assert tiers.evaluations == (4, 5, 6, 8, 10, 13, 17, 25)
    assert [len(tiers.named(name)) for name in ("low", "medium", "high", "auto")] == [4, 10, 25, 8]
    with pytest.raises(ValueError, match="no default plan ships for model 'other'"):
        Tiers.shipped("other")


def test_the_environment_names_plans(served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Tiers.of_environment()
    assert found is not None
    assert found.evaluations == (3, 5, 8)
    monkeypatch.setenv(VARIABLE, str(served / "b.plan.json"))
    with pytest.raises(FileNotFoundError, match=r"no plan .*b\.plan\.json"):
        Tiers.of_environment()
    monkeypatch.delenv(VARIABLE)
    assert Tiers.of_environment() is None


def test_plans_that_do_not_belong_together_are_refused(tmp_path: Path, plans: tuple[Plan, ...]) -> None:
    few, more, plain = plans
    with pytest.raises(ValueError, match="at least one plan"):
        Tiers(())
    with pytest.raises(ValueError, match="have the same evaluations"):
        Tiers((few, few))
    with pytest.raises(ValueError, match="are for different pipelines"):
        Tiers((few, replace(more, origin=replace(more.origin, pipeline="OtherPipeline"))))
    with pytest.raises(ValueError, match="'best' must be a quality"):
        Tiers((few, more), {"best": few})
    with pytest.raises(ValueError, match="'low' must be a quality, and its plan one of"):
        Tiers((few, more), {"low": plain})
    with pytest.raises(FileNotFoundError, match=r"no plan in .*; make some with"):
        Tiers.load(tmp_path)
    with pytest.raises(ValueError, match=r"Tiers.named\(quality=\.\.\.\) must be one of 'low', 'medium'"):
        Tiers(plans).named("best")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_inference_steps=7 means none of the plans here: give 3, 5, 8, the eval"):
        Tiers(plans).counted(7)


def test_every_count_runs_its_plan_as_alone(pipe: Any, tiers: Tiers, plans: tuple[Plan, ...]) -> None:
    served = twin(pipe, transformer=pipe.transformer, scheduler=TieredScheduler(tiers))
    for count, plan in [(8, plans[2]), (3, plans[0]), (STEPS, plans[1]), (8, plans[2]), (5, plans[1])]:
        served.scheduler.tell({"true_cfg_scale": 2.5, "guidance_scale": 9.0})
        told = {"guidance": 2.5} if plan.argument else {}
        alone = twin(pipe, transformer=pipe.transformer, scheduler=sc.PlanScheduler(plan, **told))
        found = latents(served, count, true_cfg_scale=2.5)
        assert torch.equal(found, latents(alone, count, true_cfg_scale=2.5))
        assert served.scheduler.num_inference_steps == len(plan)


def test_a_scale_that_is_not_told_or_lies_outside_is_refused_before_the_network(tiers: Tiers) -> None:
    scheduler = TieredScheduler(tiers)
    with pytest.raises(ValueError, match="needs the true_cfg_scale of the request"):
        scheduler.set_timesteps(3, mu=MU)
    scheduler.tell({"true_cfg_scale": 7.0})
    with pytest.raises(ValueError, match=r"true_cfg_scale=7 lies outside the 1\.5 to 3"):
        scheduler.set_timesteps(3, mu=MU)
    with pytest.raises(ValueError, match="num_inference_steps=7 means none"):
        scheduler.set_timesteps(7, mu=MU)
    with pytest.raises(ValueError, match=r"needs num_inference_steps: \(3, 5, 8\)"):
        scheduler.set_timesteps()


def test_copies_of_one_scheduler_take_turns(plans: tuple[Plan, ...], tiers: Tiers) -> None:
    """As requests of a continuous batch do, each with a deep copy that was made after its `set_timesteps`."""
    shared = TieredScheduler(tiers)

    def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x) * (t / 1000) + 0.3 * x.roll(1)

    def begun(seed: int, count: int, scale: float) -> dict[str, Any]:
        shared.tell({"true_cfg_scale": scale})
        shared.set_timesteps(sigmas=np.linspace(1.0, 1 / count, count), mu=MU)
        own = copy.deepcopy(shared)
        own.set_begin_index(0)
        x = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(seed))
        return {"scheduler": own, "x": x, "times": own.timesteps}

    def step(run: dict[str, Any], i: int) -> None:
        t = run["times"][i]
        run["x"] = run["scheduler"].step(network(run["x"], t), t, run["x"], return_dict=False)[0]

    requests = [(0, 3, 1.5), (1, 8, 2.0), (2, 3, 3.0), (3, 5, 2.5)]
    alone = []
    for request in requests:
        run = begun(*request)
        for i in range(len(run["times"])):
            step(run, i)
        alone.append(run["x"])
    together = [begun(*request) for request in requests]
    for i in range(8):
        for run in together[:: 1 if i % 2 else -1]:
            if i < len(run["times"]):
                step(run, i)
    assert all(torch.equal(run["x"], x) for run, x in zip(together, alone, strict=True))
    assert not torch.equal(alone[0], alone[2])


def test_what_a_pipeline_sets_on_its_scheduler_stays(tiers: Tiers) -> None:
    """As Z-Image sets the smallest level."""
    scheduler = TieredScheduler(tiers)
    scheduler.sigma_min = 0.25
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / 8, 8), mu=MU)
    assert (scheduler.sigma_min, scheduler.num_inference_steps) == (0.25, 8)


def test_only_the_recorded_scheduler_is_replaced(tiers: Tiers, pipe: Any, tmp_path: Path) -> None:
    assert isinstance(tiered(tiers, pipe.scheduler, "Here"), TieredScheduler)
    other = type(pipe.scheduler).from_config(pipe.scheduler.config, base_shift=0.7)
    with pytest.raises(ValueError, match=r"Here cannot run these plans: this plan was made for base_shift=0\.5"):
        tiered(tiers, other, "Here")
    with pytest.raises(ValueError, match=r"save PlanScheduler\(plan\) with a pipeline"):
        TieredScheduler(tiers).save_pretrained(tmp_path)
