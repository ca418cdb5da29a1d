"""Shipped plans: found by name, and what is missing is said with what there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from skipcast.bench.metrics import psnr
from skipcast.methods import names
from skipcast.models import shipped as plans
from skipcast.models.load import REFERENCES, load_reference, reference_folder, weights_hash
from skipcast.models.shipped import shipped_budgets, shipped_plan, shipped_profile
from skipcast.models.worlds import STILLS
from skipcast.pipelines.accelerate import accelerate
from skipcast.plans.plan import pair_hash
from skipcast.plans.profile import Profile
from support import toy

UNSEEN = "a large striped red star on a blue background"


@pytest.fixture(scope="module")
def shelves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of plans of one model, next to files that are none."""
    shelves = tmp_path_factory.mktemp("plans")
    folder, profile = shelves / "toy", toy.profile(2)
    for name, evaluations in (("default", 10), ("default", 4), ("converged", 6)):
        profile.plan(evaluations=evaluations).save(folder / f"{name}-{evaluations}.plan.json")
    passes = profile.plan(steps=(0, 4, 4, 9), refine=toy.ToyEvaluator(pairs=2), branches=True, effort="low")
    passes.save(folder / "default-2-passes.plan.json")
    toy.profile(2, keep=False).save(folder / "default.profile.safetensors")
    for name in ("default-x.plan.json", "default-8.json"):
        (folder / name).write_text("{}")
    return shelves


@pytest.fixture
def shelf(shelves: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "plans_folder", lambda: shelves)


@pytest.mark.usefixtures("shelf")
def test_what_ships_is_found() -> None:
    assert shipped_budgets("toy") == (4, 10)
    assert shipped_budgets("toy", "converged") == (6,)
    assert shipped_budgets("toy", branches=True) == (2,)
    assert len(shipped_plan("toy", 10)) == 10
    assert shipped_plan("toy", 2, branches=True).passes == ("lead", "lead", "other", "lead")
    assert names.plan("plan:evaluations=2,branches=true,model=toy").evaluations == 2
    with pytest.raises(ValueError, match="branches='perhaps' must be of type bool"):
        names.plan("plan:evaluations=2,branches=perhaps,model=toy")
    with pytest.raises(
        ValueError, match=r"no default plan of passes of 10 evaluations ships for model 'toy', only of 2"
    ):
        shipped_plan("toy", 10, branches=True)
    assert len(shipped_plan("toy", 6, "converged")) == 6
    assert len(Profile.load(shipped_profile("toy"))) == 2


@pytest.mark.usefixtures("shelf")
@pytest.mark.parametrize("model", ["other", "owner/name", "toy/../toy", "/", ".."])
def test_other_models_have_none(model: str) -> None:
    assert shipped_budgets(model) == ()
    with pytest.raises(ValueError, match=r"no default plan ships.*make plans.*skipcast profile"):
        shipped_plan(model, 10)
    with pytest.raises(ValueError, match=r"no default profile ships.*make plans"):
        shipped_profile(model)


@pytest.mark.usefixtures("shelf")
@pytest.mark.parametrize(
    "arguments, words",
    [
        (("toy", 8), r"default plan of 8 evaluations.*only of 4, 10;.*make plans"),
        (("toy", 4, "converged"), r"converged plan of 4 evaluations.*only of 6;"),
        (("toy", 4, "exact"), r"must be 'default' or 'converged', got 'exact'"),
    ],
)
def test_refusals_name_what_there_is(arguments: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        shipped_plan(*arguments)


@pytest.mark.parametrize("reference", ["default", "converged"])
@pytest.mark.parametrize("model", REFERENCES)
def test_the_shipped_plans_are_for_the_shipped_weights(model: str, reference: Any) -> None:
    for evaluations in shipped_budgets(model, reference):
        plan = shipped_plan(model, evaluations, reference)
        assert len(plan) == evaluations
        assert plan.origin.reference == reference
        assert plan.origin.revision == weights_hash(reference_folder(model))
        assert plan.predicted is not None
        assert plan.predicted.closed
        assert not plan.origin.prompts
        assert pair_hash(UNSEEN, 1000) not in plan.origin.pairs


def test_a_shipped_plan_keeps_its_promise_on_a_picture_it_never_saw() -> None:
    """Not a measurement: a plan that were mixed up, or made for other weights, would be some 20 dB."""
    pipe, plan = load_reference("shapes-flux"), shipped_plan("shapes-flux", 10)
    call = {**STILLS.call, "num_inference_steps": 50, "output_type": "pt"}
    truth = pipe(UNSEEN, generator=torch.Generator().manual_seed(1000), **call).images
    with accelerate(pipe, plan) as acceleration:
        made = pipe(UNSEEN, generator=torch.Generator().manual_seed(1000), **call).images
    assert acceleration.summary().trusted == (True,)
    assert float(psnr(made, truth)) > 40
