"""A plan's steps for other tools: what they read, and what is said to be left."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

import skipcast as sc
from skipcast.cli import app
from skipcast.controllers import FixedSteps
from skipcast.forecasters import Lagrange
from skipcast.hub.export import TARGETS, export
from skipcast.models.shipped import shipped_profile
from skipcast.plans.knots import varied_number
from support.tiny import PROMPT, flux_transformer, latents, twin

os.environ.setdefault("CACHE_DIT_LOG_LEVEL", "error")
MISSING = "cache-dit 1.5 is not installed: pip install --no-deps cache-dit==1.5.3 pyyaml"
PLAN = sc.shipped_plan("shapes-flux", 10)


def run(*args: str) -> Any:
    done = CliRunner().invoke(app, ["export", *args])
    assert done.exit_code == 0, done.output
    return done


def refused(*args: str) -> str:
    done = CliRunner().invoke(app, ["export", *args])
    assert done.exit_code == 2, done.output
    return " ".join(done.output.split())


def test_sigmas_are_an_argument_of_a_call() -> None:
    text = run("plan:evaluations=10", "--to", "sigmas").stdout
    (given,) = [line for line in text.splitlines() if line.startswith("sigmas=")]
    sigmas = eval(given.partition("=")[2])
    assert sigmas == pytest.approx([1 - step / 50 for step in PLAN.steps], abs=1e-6)
    assert "mu=1.15" in given


def test_stable_diffusion_cpp_takes_levels_down_to_zero() -> None:
    text = export(PLAN, "sdcpp").text
    assert text.startswith('--steps 10 --sigmas "1,0.958609,')
    assert text.endswith(',0" --sampling-method dpm++2m\n')
    levels = [float(word) for word in text.split('"')[1].split(",")]
    assert levels[:-1] == pytest.approx([PLAN.timesteps[step] / 1000 for step in PLAN.steps], abs=1e-5)


def test_the_yaml_masks_the_steps_of_the_plan() -> None:
    config = yaml.safe_load(export(PLAN, "cache-dit").text)["cache_config"]
    assert [step for step, on in enumerate(config["steps_computation_mask"]) if on] == list(PLAN.steps)
    assert (config["num_inference_steps"], config["enable_separate_cfg"]) == (50, True)
    once = replace(PLAN.at(2.0), origin=replace(PLAN.origin, call={}, varied={}))
    assert "enable_separate_cfg" not in export(once, "cache-dit").text


@pytest.fixture(scope="module")
def tiny(pipe: Any) -> sc.Profile:
    call: dict[str, Any] = {"true_cfg_scale": 2.0, "negative_prompt": ""}
    return sc.record(pipe, [PROMPT] * 2, seeds=0, num_inference_steps=12, progress=False, **call)


def test_cache_dit_loads_the_yaml_and_evaluates_the_steps(pipe: Any, tiny: sc.Profile, tmp_path: Path) -> None:
    cache_dit = pytest.importorskip("cache_dit", reason=MISSING)
    plan = tiny.plan(steps=[0, 3, 5, 9])
    file = tmp_path / "plan.yaml"
    file.write_text(export(plan, "cache-dit", profile=tiny).text)
    found = cache_dit.load_configs(str(file))
    cache, calibrator = found.pop("cache_config"), found.pop("calibrator_config")
    assert cache.steps_computation_mask == [int(step in plan.steps) for step in range(12)]
    assert (cache.steps_computation_policy, calibrator.taylorseer_order) == ("static", 1)
    assert not any(found.values())
    network = flux_transformer()
    other = twin(pipe, transformer=network)
    cache_dit.enable_cache(network, cache_config=cache, calibrator_config=calibrator)
    try:
        latents(other)
        (context,) = network._context_manager._cached_context_manager.values()
        skipped = [step for step in range(12) if step not in plan.steps]
        assert context.cached_steps == context.cfg_cached_steps == skipped
    finally:
        cache_dit.disable_cache(network)


def test_the_loss_is_told_beside_the_plan(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    done = run("plan:evaluations=10", "--to", "cache-dit", "--guidance", "2", "--out", str(file))
    assert "the plan itself (10 of 50 steps, default reference): 54.5 dB" in done.output
    assert "Taylor forecasts of order 1, taken at the output: at most about 52.1 dB" in done.output
    assert "runs reach less" in done.output
    assert file.read_text().startswith("# The steps of Plan(10 of 50")
    assert "is there already" in refused("plan:evaluations=10", "--to", "cache-dit", "--out", str(file))
    document = json.loads(run("plan:evaluations=10", "--to", "sdcpp", "--json").stdout)
    assert document["predicted"]["psnr"] == PLAN.knots[2].predicted.psnr  # type: ignore[union-attr]
    assert [left["what"] for left in document["left"]] == ["its steps with dpm++2m", "its steps with euler"]
    assert all(left["predicted"]["psnr"] < document["predicted"]["psnr"] for left in document["left"])


def test_where_nothing_can_be_predicted_it_is_said(tiny: sc.Profile, tmp_path: Path) -> None:
    plan, profile = tmp_path / "mine.plan.json", tmp_path / "mine.profile.safetensors"
    made = tiny.plan(evaluations=4)
    made.save(plan)
    tiny.save(profile)
    for target in TARGETS:
        assert (
            "cannot be predicted; give the profile that the plan was solved from"
            in run(str(plan), "--to", target).output
        )
        assert "at most about" in run(str(plan), "--to", target, "--profile", str(profile)).output
    words = refused("plan:evaluations=10", "--to", "sigmas", "--profile", str(profile))
    assert "give the profile that the plan was solved from" in words
    nothing = replace(made, predicted=None)
    assert "predicted of it is nothing" in export(nothing, "sigmas").lines[0]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("plan:evaluations=10", "--to", "comfy"), "--to 'comfy' must be one of sigmas, cache-dit, sdcpp"),
        (("plan:evaluations=11", "--to", "sigmas"), "no default plan of 11 evaluations ships"),
        (("none.plan.json", "--to", "sigmas"), "no plan none.plan.json"),
        (("plan:evaluations=10", "--to", "sigmas", "--guidance", "9"), "outside the 1.5 to 6"),
    ],
)
def test_a_wrong_command_is_one_line(args: tuple[str, ...], words: str) -> None:
    assert words in refused(*args)


def test_runs_reach_no_more_than_is_said() -> None:
    """Measured on recorded pairs of the reference model: the open loop knows no error of its own."""
    profile = sc.Profile.load(shipped_profile("shapes-flux"))
    pairs = varied_number(profile.origin)[1][2.0][:4]  # type: ignore[index]
    some = profile.subset(pairs)
    pipe = sc.load_reference()
    pipe.set_progress_bar_config(disable=True)
    plan = sc.shipped_plan("shapes-flux", 6).at(2.0)

    def images(**call: Any) -> torch.Tensor:
        noise = [torch.Generator().manual_seed(seed) for seed in some.origin.seeds]
        known = {"true_cfg_scale": 2.0, "negative_prompt": [""] * len(pairs), "generator": noise, "output_type": "pt"}
        return pipe(list(some.origin.prompts), **{**known, **call}).images.double()

    def accelerated(method: Any) -> Callable[[], torch.Tensor]:
        def call() -> torch.Tensor:
            with sc.accelerate(pipe, method):
                return images(num_inference_steps=50)

        return call

    expected = images(num_inference_steps=50)
    sigmas = [1 - step / 50 for step in plan.steps]
    runs: dict[str, Callable[[], torch.Tensor]] = {
        "sigmas": lambda: images(sigmas=sigmas),
        "cache-dit": accelerated(sc.Method(Lagrange(1), FixedSteps(plan.steps))),
    }
    reached = {}
    for target, call in runs.items():
        squared = ((call() - expected) ** 2).flatten(1).mean(1)
        reached[target] = float((-10 * torch.log10(squared)).mean())
        (left,) = export(plan, target, profile=some).left  # type: ignore[arg-type]
        assert left.predicted is not None
        assert left.predicted.psnr - 12 < reached[target] < left.predicted.psnr + 1
    assert reached["sigmas"] < reached["cache-dit"] - 3
