"""A tiny model with plans of its own, with a study of two images of eight steps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from research.plans.draws import Settings
from research.plans.study import Study
from skipcast.models.load import load_model
from skipcast.pipelines.recording.record import record
from support.reference_model import save_tiny

PROMPTS = ("a large red star on a blue background", "a small green ring on a white background")
STEPS = 8


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    model = replace(load_model(str(save_tiny(tmp_path_factory.mktemp("model")))), name="tiny")
    folder = tmp_path_factory.mktemp("plans")
    given = {"seeds": 5000, "num_inference_steps": STEPS, "progress": False, "revision": model.revision}
    profile = record(model.pipe, ["a blue ring", "a black heart"], **given, **model.call)
    for evaluations in (3, 4):
        profile.plan(evaluations=evaluations, refine=model.pipe, effort="low").save(
            folder / f"default-{evaluations}.plan.json"
        )
    exact = record(model.pipe, ["a blue ring"], reference="converged", **given, **model.call)
    exact.plan(evaluations=4, refine=model.pipe, effort="low").save(folder / "converged-4.plan.json")
    replace(profile, trajectory=None).save(folder / "default.profile.safetensors")
    settings = Settings(
        steps=STEPS,
        prompts=PROMPTS,
        seeds=1,
        seed=1000,
        batch=2,
        call=dict(model.call),
    )
    return Study(model, settings, folder, "python -m research.plans test")
