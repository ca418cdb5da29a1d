"""Shipping plans: everything is written once, and a second run only makes what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from research.training import ship
from skipcast.models.load import Model
from skipcast.models.worlds import STILLS
from skipcast.plans.plan import Plan
from skipcast.plans.profile import Profile
from support import tiny


def test_everything_is_written_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = Model("tiny", tiny.flux_pipeline(), call=STILLS.call, revision="abc")
    folder, work = tmp_path / "plans", tmp_path / "work"
    work.mkdir()
    options: dict[str, Any] = {"budgets": (2, 3), "references": ("default",), "pairs": 4, "batch": 4}
    options["guidance"] = (1.5, 3.0)
    options["effort"] = "low"
    ship.ship(model, folder, work, **options)
    first, second, profile = sorted(folder.iterdir())
    assert [path.name for path in (first, second)] == ["default-2.plan.json", "default-3.plan.json"]
    assert profile.name == "default.profile.safetensors"
    plan = Plan.load(second)
    assert (plan.evaluations, plan.origin.revision, len(plan.origin.pairs)) == (3, "abc", 4)
    assert (plan.argument, [knot.value for knot in plan.knots]) == ("true_cfg_scale", [1.5, 3.0])
    assert Profile.load(profile).trajectory is None
    assert Profile.load(work / profile.name).trajectory is not None

    before, lost = first.stat().st_mtime_ns, second.read_bytes()
    second.unlink()
    capsys.readouterr()
    ship.ship(model, folder, work, **options)
    assert first.stat().st_mtime_ns == before
    assert second.read_bytes() == lost
    assert "default-2" not in capsys.readouterr().out
