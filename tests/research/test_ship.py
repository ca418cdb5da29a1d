"""Shipping plans: everything is written once, and a second run only makes what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from research.training import ship
from skipcast.models.load import Model
from skipcast.models.worlds import STILLS
from skipcast.pipelines.recording.replay import PipelineEvaluator
from skipcast.plans.plan import Plan
from skipcast.plans.profile import Profile
from support import tiny


def test_everything_is_written_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = Model("tiny", tiny.flux_pipeline(), call=STILLS.call, revision="abc")
    folder, work = tmp_path / "plans", tmp_path / "work"
    work.mkdir()
    options: dict[str, Any] = {"budgets": (2, 3), "references": ("default",), "pairs": 4, "batch": 4}
    options["guidance"] = (1.5, 3.0)
    options |= {"effort": "low", "judging": 8}
    ship.ship(model, folder, work, **options)
    first, second, profile = sorted(folder.iterdir())
    assert [path.name for path in (first, second)] == ["default-2.plan.json", "default-3.plan.json"]
    assert profile.name == "default.profile.safetensors"
    plan = Plan.load(second)
    assert (plan.evaluations, plan.origin.revision, len(plan.origin.pairs)) == (3, "abc", 4)
    assert (plan.argument, [knot.value for knot in plan.knots]) == ("true_cfg_scale", [1.5, 3.0])
    assert [knot.predicted.pairs for knot in plan.knots if knot.predicted] == [4, 4]
    others = Profile.load(work / "default-from-4.profile.safetensors")
    assert not {*others.origin.pairs} & {*plan.origin.pairs}
    assert Profile.load(profile).trajectory is None
    assert Profile.load(work / profile.name).trajectory is not None

    before, lost = first.stat().st_mtime_ns, second.read_bytes()
    second.unlink()
    capsys.readouterr()
    ship.ship(model, folder, work, **options)
    assert first.stat().st_mtime_ns == before
    assert second.read_bytes() == lost
    assert "default-2" not in capsys.readouterr().out


def test_a_plan_is_not_judged_by_what_it_was_solved_on(tmp_path: Path) -> None:
    model = Model("tiny", tiny.flux_pipeline(), call=STILLS.call, revision="abc")
    profile = ship.recorded(model, "default", 4, tmp_path, 4, 8, (1.5, 3.0))
    plan, evaluator = profile.plan(evaluations=2), PipelineEvaluator(model.pipe, profile.origin, 4)
    with pytest.raises(ValueError, match="solved on some of these pairs"):
        ship.judged(plan, profile, evaluator)
    with pytest.raises(ValueError, match="must be a multiple of the 2 scales"):
        ship.recorded(model, "default", 4, tmp_path, 4, 8, (1.5, 3.0), first=3)
