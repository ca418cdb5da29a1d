"""Plans of the tiny FLUX pipeline, as an engine's server would have them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import skipcast as sc
from skipcast.engines.tiers import VARIABLE, Tiers
from skipcast.plans.plan import Plan, Prediction
from support.engines import STEPS
from support.tiny import compiled, flux_pipeline, latents


def predicted(plan: Plan, psnr: float) -> Plan:
    found = Prediction.of([psnr], held_out=True, closed=True)
    return replace(plan, predicted=found, knots=tuple(replace(knot, predicted=found) for knot in plan.knots))


@pytest.fixture(scope="package")
def plans() -> tuple[Plan, ...]:
    """Of 3, 5 and 8 evaluations, the first two with knots over the guidance scale."""
    pipe = flux_pipeline()
    latents(pipe, STEPS)
    plain = compiled(pipe, "lagrange:order=1,schedule=even,evaluations=8")
    call = {"seeds": 3, "num_inference_steps": STEPS, "progress": False}
    profile = sc.record(pipe, ["a red star", "a blue ring", "a green heart"], guidance=[3.0, 1.5, 2.0], **call)
    few, more = (profile.plan(evaluations=m) for m in (3, 5))
    return predicted(few, 25.0), predicted(more, 41.0), replace(predicted(plain, 50.0), origin=few.origin)


@pytest.fixture(scope="package")
def tiers(plans: tuple[Plan, ...]) -> Tiers:
    return Tiers(plans[::-1])


@pytest.fixture
def served(tmp_path: Path, plans: tuple[Plan, ...], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the plans, which SKIPCAST_PLANS names."""
    for plan in plans:
        plan.save(tmp_path / f"{len(plan)}.plan.json")
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    return tmp_path
