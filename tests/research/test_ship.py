"""Shipping plans: everything is written once, and a second run only makes what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from research.shapes_flux import ship
from skipcast.models.load import Model
from skipcast.models.pipeline import CALL
from skipcast.plans.plan import Plan
from skipcast.plans.profile import Profile
from support import tiny


@pytest.fixture(scope="module")
def model() -> Model:
    return Model("tiny", tiny.flux_pipeline(), call=CALL, revision="abc")


@pytest.fixture
def shipped(model: Model, tmp_path: Path) -> tuple[Path, Path, dict[str, Any]]:
    folder, work = tmp_path / "plans", tmp_path / "work"
    work.mkdir()
    options: dict[str, Any] = {
        "budgets": (2, 3),
        "references": ("default",),
        "pairs": 4,
        "batch": 4,
        "efforts": {"default": "low"},
    }
    ship.ship(model, folder, work, **options)
    return folder, work, options


def test_plans_and_a_profile_without_states_are_written(shipped: tuple[Path, Path, dict[str, Any]]) -> None:
    folder, work, _ = shipped
    assert sorted(path.name for path in folder.iterdir()) == [
        "default-2.plan.json",
        "default-3.plan.json",
        "default.profile.safetensors",
    ]
    plan = Plan.load(folder / "default-3.plan.json")
    assert plan.evaluations == 3
    assert plan.origin.revision == "abc"
    assert len(plan.origin.pairs) == 4
    assert Profile.load(folder / "default.profile.safetensors").trajectory is None
    assert Profile.load(work / "default.profile.safetensors").trajectory is not None


def test_a_second_run_makes_only_what_is_missing(
    model: Model, shipped: tuple[Path, Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, work, options = shipped
    before = (folder / "default-2.plan.json").stat().st_mtime_ns
    lost = (folder / "default-3.plan.json").read_bytes()
    (folder / "default-3.plan.json").unlink()
    capsys.readouterr()
    ship.ship(model, folder, work, **options)
    assert (folder / "default-2.plan.json").stat().st_mtime_ns == before
    assert (folder / "default-3.plan.json").read_bytes() == lost
    assert "default-2" not in capsys.readouterr().out
