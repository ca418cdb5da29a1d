"""The command line on a tiny model."""

from __future__ import annotations

import json
import pydoc
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

import skipcast as sc
from skipcast.bench.prompts import GENERAL_CALIBRATION, prompts_to_record
from skipcast.card import decides_by_values
from skipcast.cli import app
from skipcast.methods import names
from skipcast.methods.beside import BESIDE
from skipcast.models import shipped as plans
from skipcast.models.load import load_model
from skipcast.pipelines.recording import record as recording
from skipcast.plans.adaptive import AdaptivePlan, read_plan
from skipcast.plans.plan import Plan
from skipcast.plans.profile import Profile
from support.reference_model import save_tiny

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def profile(model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Four pairs of twelve steps."""
    path = tmp_path_factory.mktemp("profile") / "tiny.profile.safetensors"
    run("profile", model, "--pairs", "4", "--steps", "12", "--out", str(path))
    return str(path)


@pytest.fixture(scope="module")
def plan(profile: str) -> str:
    """Four evaluations, open loop."""
    return str(json.loads(run("plan", profile, "--nfe", "4", "--json"))["file"])


def run(*args: str) -> str:
    result = RUNNER.invoke(app, list(args))
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*args: str) -> str:
    result = RUNNER.invoke(app, list(args))
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


def test_compare_takes_several_budgets(model: str, tmp_path: Path) -> None:
    command = ["compare", model, "--evaluations", "4,6", "--method", "resilphase", "--method", "ab2", "--steps", "12"]
    document = json.loads(run(*command, "--seeds", "1", "--converged-steps", "24", "--out", str(tmp_path), "--json"))
    assert {row["method"] for row in document["rows"]} == {
        "reference",
        *(f"{name}:evaluations={n}" for name in ("resilphase", "ab2") for n in (4, 6)),
    }
    assert {path.name for path in tmp_path.iterdir()} >= {"results.jsonl", "grid.png", "report.html", "images"}
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 5 * 4
    assert len(list((tmp_path / "images").iterdir())) == 5 * 4


def test_compare_takes_the_whole_registry_and_measures_step_by_step(model: str, tmp_path: Path) -> None:
    known = {name: replace(names.REGISTRY[name], variants=(name,)) for name in ("resilphase", "reuse", "ab2")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(names, "REGISTRY", known)
        text = run(
            "compare", "--method", "all", model, "--evaluations", "2", "--steps", "8", "--seeds", "1",
            "--converged-steps", "0", "--per-step", "--out", str(tmp_path),
        )  # fmt: skip
    assert "left out: resilphase:evaluations=2: " in text
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert Counter(kinds) == {"reference": 4, "forecast": 4, "sampler": 4, "left out": 1, "trace": 1}


def test_report_is_made_from_the_records_alone(model: str, tmp_path: Path) -> None:
    text = run(
        "compare", model, "--evaluations", "4", "--method", "euler", "--steps", "8", "--seeds", "1",
        "--converged-steps", "0", "--out", str(tmp_path),
    )  # fmt: skip
    assert "euler" in text
    assert "report.html" in text
    before = (tmp_path / "report.html").read_text()
    assert "euler" in run("report", str(tmp_path / "results.jsonl"))
    assert (tmp_path / "report.html").read_text() == before
    assert run("report", str(tmp_path / "results.jsonl"), "--markdown").startswith("|")


def test_generate_writes_pictures(model: str, tmp_path: Path) -> None:
    prompt = "a small red ring on a black background"
    command = ["generate", model, "--prompt", prompt, "--out", str(tmp_path)]
    text = run(*command, "--method", "resilphase:interval=3", "--steps", "8")
    assert (tmp_path / "0.png").exists()
    assert "evaluated 4 of 8" in text
    assert f"{tmp_path / '0.png'} is there already; remove it, or give another path" in refused(*command)
    document = json.loads(run(*command, "--steps", "3", "--json", "--overwrite"))
    assert document["evaluations"] == 3


def test_show_tells_what_would_run_on_a_model() -> None:
    def parts(*options: str) -> str:
        return str(json.loads(run("show", "taylorseer", *options, "--json"))["parts"])

    flux = "TaylorSeer(order=1, start=1), controller=Periodic(warmup=3, interval=None"
    assert flux.replace("None", "6") in parts()
    assert parts("--model", "shapes-flux") == parts("--model", "flux") == parts()
    video = "TaylorSeer(order=1, start=0), controller=Periodic(warmup=1, interval=5"
    for model in ("wan", "WanTransformer3DModel", "hunyuan-video"):
        assert video in parts("--model", model)
    refused = RUNNER.invoke(app, ["show", "taylorseer", "--model", "nothing"])
    assert refused.exit_code == 2
    assert "is neither the folder of a pipeline nor one of" in refused.output


def test_methods_lists_all() -> None:
    assert run("--version") == f"skipcast {sc.__version__}\n"
    listing = json.loads(run("methods", "--json"))
    assert set(listing) == set(names.REGISTRY)
    assert listing["resilphase"]["options"]["alpha"] == 0.55
    listed = run("methods")
    assert "taylorseer" in listed
    for each in BESIDE:
        assert pydoc.locate(each.call) is not None
        assert each.paper in listed
    found = listing["teacache"]
    assert (found["decides_by_values"], found["needs_calibration"], found["weighs_by_values"]) == (True, True, False)
    assert listing["tc-pade"]["weighs_by_values"]
    assert not listing["resilphase"]["decides_by_values"]
    memory = {"tensors": 2, "of": "image tokens x width", "bytes_per_token_and_channel": 4}
    assert listing["resilphase"]["memory"] == memory
    assert listing["euler"]["memory"] is None
    assert listing["predit"]["checked_against"].startswith("text only")
    assert "checked against  argsss/DPCache@59f08a4" in run("show", "dpcache")


@pytest.mark.parametrize("spec", names.EVERYTHING)
def test_show_gives_a_card_for_every_method(spec: str) -> None:
    driven = decides_by_values(names.method(spec))
    document = json.loads(run("show", spec if driven else names.with_evaluations(spec, 10), "--json"))
    assert document["data_driven"] == driven
    if not driven:
        assert document["evaluations"] == 10
    assert document["paper"] == names.REGISTRY[names.split(spec)[0]].paper
    run("show", spec, "--steps", "20")


def test_show_prints_the_published_weights() -> None:
    document = json.loads(run("show", "resilphase", "--json"))
    assert document["evaluated_steps"] == [0, 1, 2, 8, 14, 20, 26, 32, 38, 44]
    assert document["weights"]["11"] == pytest.approx({"2": -0.2997, "8": 1.2997}, abs=1e-4)
    assert document["cached_tensors"] == 2


def test_show_prints_a_plan(tmp_path: Path) -> None:
    path = tmp_path / "mine.plan.json"
    plan = sc.compile_plan(names.method("lagrange:order=1,evaluations=4"), sc.TimeGrid.shifted(12))
    plan.save(path)
    assert json.loads(run("show", str(path), "--json")) == plan.as_dict()
    text = run("show", str(path))
    assert "12 steps" in text
    assert all(str(step) in text for step in plan.steps)
    shipped = json.loads(run("show", "plan:evaluations=10", "--json"))
    assert shipped == sc.shipped_plan("shapes-flux", 10).as_dict()
    assert "10 of 50" in run("show", "plan:evaluations=10")


def test_a_plan_s_words_cannot_move_the_cursor(tmp_path: Path) -> None:
    path = tmp_path / "theirs.plan.json"
    plan = sc.compile_plan(names.method("lagrange:order=1,evaluations=4"), sc.TimeGrid.shifted(12))
    theirs = "[red]\x1b[2J\x1b]0;owned\x07"
    replace(plan, origin=replace(plan.origin, pipeline=theirs, revision=theirs)).save(path)
    for text in (run("show", str(path)), refused("generate", str(tmp_path / theirs), "--prompt", "x")):
        assert "[red]" in text
        assert "\\x1b" in text
        assert not {"\x1b", "\x07"} & set(text)


def test_profile_records_what_compare_never_draws(model: str, profile: str) -> None:
    found = Profile.load(profile)
    loaded = load_model(model)
    assert found.origin.prompts == prompts_to_record(loaded, 4)
    assert found.origin.seeds == (0, 1, 2, 3)
    assert found.origin.call == loaded.call
    assert found.origin.revision == loaded.revision
    assert (found.origin.steps, found.origin.reference) == (12, "default")
    assert found.trajectory is not None


def test_profile_says_what_it_made(model: str, tmp_path: Path) -> None:
    prompts, path = tmp_path / "prompts.txt", tmp_path / "deep" / "mine.profile.safetensors"
    prompts.write_text("a red star\n\na blue ring\n")
    options = ("--prompts", str(prompts), "--steps", "6", "--seed", "5", "--guidance", "1.5", "--no-trajectory")
    text = run("profile", model, *options, "--reference", "converged", "--pairs", "3", "--out", str(path))
    assert "3 pairs of 6 steps, converged reference, in " in text
    assert f"profile: {path} (" in text
    assert f"skipcast plan {path} --evaluations 1\n" in text  # without states the loop cannot be closed
    found = Profile.load(path)
    assert found.origin.prompts == ("a red star", "a blue ring", "a red star")
    assert found.origin.seeds == (5, 6, 7)
    assert found.origin.call["true_cfg_scale"] == 1.5
    assert found.trajectory is None
    assert "mine.profile.safetensors is there already" in refused("profile", "no-such-model", "--out", str(path))
    path.unlink()
    document = json.loads(run("profile", model, *options, "--out", str(path), "--json"))
    assert (document["pairs"], document["steps"], document["bytes"]) == (2, 6, path.stat().st_size)
    assert document["seconds"] > 0


def test_profile_calls_record_as_agreed(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def record(pipe: Any, prompts: Any, **given: Any) -> Profile:
        seen.update(given, prompts=prompts)
        raise ValueError("seen")

    monkeypatch.setattr(recording, "record", record)
    path = tmp_path / "x.profile.safetensors"
    result = RUNNER.invoke(app, ["profile", model, "--batch", "3", "--size", "32", "--out", str(path)])
    assert "seen" in result.output
    loaded = load_model(model)
    assert seen == {
        "prompts": prompts_to_record(loaded, 8),
        "seeds": list(range(8)),
        "num_inference_steps": 50,
        "reference": "default",
        "keep_trajectory": True,
        "batch": 3,
        "path": path,
        "progress": True,
        "revision": loaded.revision,
        "height": 32,
        "width": 32,
        **loaded.call,
    }


def test_a_model_without_a_world_is_recorded_on_general_prompts(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = replace(load_model(model), judge=None, world=None)
    monkeypatch.setattr("skipcast.models.load.load_model", lambda *args, **given: loaded)
    path = tmp_path / "x.profile.safetensors"
    run("profile", "any", "--pairs", "2", "--steps", "4", "--out", str(path))
    assert Profile.load(path).origin.prompts == GENERAL_CALIBRATION[:2]


def test_plan_says_steps_promise_file_and_use(profile: str, plan: str) -> None:
    assert f"{plan} is there already" in refused("plan", profile, "--evaluations", "4")
    text = run("plan", profile, "--evaluations", "4", "--overwrite")
    found = Plan.load(plan)
    assert plan == profile.removesuffix(".profile.safetensors") + "-4.plan.json"
    assert f"evaluated 4 of 12 steps: {', '.join(map(str, found.steps))}" in text
    assert found.predicted is not None
    assert f"mean {found.predicted.psnr:.1f} dB, 5 % worst {found.predicted.worst5:.1f}, worst" in text
    assert "open loop: solved from the recording alone; --refine MODEL" in text
    assert f"plan: {plan}" in text
    assert f'skipcast generate MODEL --plan {plan} --prompt "..."' in text


def test_plan_closes_the_loop(model: str, profile: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.plan.json"
    options = ("--speedup", "3", "--refine", model, "--effort", "low", "--batch", "2", "--out", str(path))
    text = run("plan", profile, *options)
    found = Plan.load(path)
    assert (len(found), found.label) == (4, "refined")
    assert "(1 pair; closed loop, held-out pairs)" in text
    assert "open loop" not in text
    assert f"skipcast generate {model} --plan {path}" in text
    document = json.loads(run("plan", profile, *options, "--json", "--overwrite"))
    assert document["steps"] == list(found.steps)
    assert (document["evaluations"], document["of"], document["speedup"]) == (4, 12, 3.0)
    assert document["predicted"]["held_out"]


def test_a_quality_of_mean_and_worst_gives_a_plan_or_two(model: str, tmp_path: Path) -> None:
    recorded, path = tmp_path / "tiny.profile.safetensors", tmp_path / "tiny.plan.json"
    run("profile", model, "--pairs", "2", "--steps", "8", "--out", str(recorded))
    options = ("--psnr", "5", "--worst", "4", "--refine", model, "--effort", "low", "--out", str(path))
    assert "use it: skipcast generate" in run("plan", str(recorded), *options)
    assert isinstance(read_plan(path), Plan | AdaptivePlan)


def test_evaluations_are_spent_as_passes(model: str, tmp_path: Path) -> None:
    recorded, path = tmp_path / "tiny.profile.safetensors", tmp_path / "tiny.plan.json"
    run("profile", model, "--guidance", "2", "--pairs", "2", "--steps", "8", "--out", str(recorded))
    options = ("--evaluations", "3", "--refine", model, "--branches", "--effort", "low", "--out", str(path))
    text = run("plan", str(recorded), *options)
    found = Plan.load(path)
    assert (len(found), found.evaluations, found.branches) == (6, 3, "first call")
    assert "6 passes, 3 of 8 evaluations; both guidance branches at the steps" in text
    assert "with skipcast.accelerate(pipe, skipcast.Plan.load(" in text
    text = " ".join(run("show", str(path)).split())
    assert "6 of one guidance branch each, the leading one (first call of a step) alone where it says so" in text
    assert "0 alone" in text
    run("plan", str(recorded), *options, "--start", str(path), "--overwrite")
    assert Plan.load(path).branches == "first call"
    drawn = run("generate", model, "--plan", str(path), "--steps", "8", "--guidance", "2", "--prompt", "a star",
                "--out", str(tmp_path / "image"))  # fmt: skip
    assert "3 of 8" in drawn


def test_one_plan_for_every_guidance_scale(model: str, tmp_path: Path) -> None:
    recorded, path = tmp_path / "tiny.profile.safetensors", tmp_path / "tiny.plan.json"
    run("profile", model, "--guidance", "1.5,3", "--steps", "6", "--out", str(recorded))
    origin = Profile.load(recorded).origin
    assert origin.varied == {"true_cfg_scale": (1.5, 3.0) * 8}
    text = run("plan", str(recorded), "--evaluations", "3", "--out", str(path))
    assert "at true_cfg_scale 1.5: mean " in text
    assert "at true_cfg_scale 3: mean " in text
    assert ", guidance=...)" in text
    again = ("--evaluations", "3", "--out", str(path), "--overwrite", "--json")
    document = json.loads(run("plan", str(recorded), *again))
    assert (document["argument"], [knot["value"] for knot in document["knots"]]) == ("true_cfg_scale", [1.5, 3.0])
    assert "true_cfg_scale 1.5, 3; the table is that of 3" in run("show", str(path))
    drawn = ("generate", model, "--plan", str(path), "--prompt", "a red star", "--out", str(tmp_path))
    made = json.loads(run(*drawn, "--guidance", "2.25", "--json"))
    assert made["evaluations"] == 3
    assert "outside the 1.5 to 3" in refused(*drawn, "--guidance", "3.5", "--seed", "1")
    assert "such as 1.5,2,4" in refused("profile", model, "--guidance", "1.5,low", "--out", str(tmp_path / "new"))


def test_plan_calls_the_solver_as_agreed(
    model: str, profile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    solve, seen = Profile.plan, list[dict[str, Any]]()

    def spy(self: Profile, **given: Any) -> Plan:
        assert callable(given.pop("advance"))
        seen.append({**given, "refine": given["refine"] is not None})
        return solve(self, evaluations=3)

    monkeypatch.setattr(Profile, "plan", spy)
    out = ("--out", str(tmp_path / "x.plan.json"), "--overwrite")
    run("plan", profile, "--psnr", "40", *out)
    run("plan", profile, "--speedup", "4", "--refine", model, "--effort", "high", *out)
    run("plan", profile, "--nfe", "3", "--refine", model, *out)
    assert seen == [
        {"psnr": 40.0, "refine": False},
        {"speedup": 4.0, "refine": True, "effort": "high", "batch": 8},
        {"evaluations": 3, "refine": True, "batch": 8},
    ]


def test_a_quality_is_asked_for(profile: str, tmp_path: Path) -> None:
    document = json.loads(run("plan", profile, "--psnr", "20", "--out", str(tmp_path / "x.plan.json"), "--json"))
    assert document["predicted"]["psnr"] >= 20
    assert "out of reach" in refused("plan", profile, "--psnr", "900")


def test_the_curve_is_a_table_and_a_file(model: str, profile: str, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "curve.svg"
    text = run(
        "plan", profile, "--curve", "--evaluations", "3,5", "--refine", model, "--effort", "low", "--out", str(path)
    )
    assert text.count("2.4x") == 2
    assert "closed loop, held-out pairs" in text
    assert ElementTree.fromstring(path.read_text()).tag.endswith("svg")
    assert "curve.svg is there already" in refused("plan", profile, "--curve", "--out", str(path))
    text = run("plan", profile, "--curve")
    default = Path(profile.removesuffix(".profile.safetensors") + ".curve.svg")
    assert f"curve: {default}" in text
    assert "open loop: --refine MODEL closes the loop" in text
    document = json.loads(run("plan", profile, "--curve", "--json", "--overwrite"))
    assert [point["evaluations"] for point in document["curve"]] == [4, 6, 8, 10]


def test_compare_takes_several_plans(model: str, profile: str, plan: str, tmp_path: Path) -> None:
    other = str(json.loads(run("plan", profile, "--nfe", "5", "--json"))["file"])
    command = ["compare", "--plan", plan, "--plan", other, model, "--method", "ab2", "--steps", "12", "--seeds", "1"]
    document = json.loads(run(*command, "--converged-steps", "0", "--out", str(tmp_path), "--json"))
    rows = {(row["method"], row["kind"], row["budget"]) for row in document["rows"]}
    assert rows == {
        ("reference", "reference", 12),
        ("plan:tiny-4", "plan", 4),
        ("plan:tiny-5", "plan", 5),
        ("ab2:evaluations=4", "sampler", 4),
        ("ab2:evaluations=5", "sampler", 5),
    }
    assert document["notes"] == []
    text = run(*command, "--converged-steps", "0", "--out", str(tmp_path), "--evaluations", "4")
    assert "◆ plan:tiny-5" in text
    assert "ab2:evaluations=5" not in text


def test_compare_takes_shipped_plans(model: str, plan: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "plans_folder", lambda: tmp_path / "plans")
    monkeypatch.setattr("skipcast.bench.rows.METHODS", ("euler",))
    Plan.load(plan).save(tmp_path / "plans" / "tiny" / "default-4.plan.json")
    shutil.copytree(model, tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    out = str(tmp_path / "out")
    command = ["compare", "tiny", "--steps", "12", "--seeds", "1", "--converged-steps", "0", "--out", out]
    for options in ((), ("--method", "plan", "--method", "euler")):
        document = json.loads(run(*command, "--evaluations", "4", *options, "--json"))
        assert document["rows"][0]["method"] == "reference"
        assert {row["method"] for row in document["rows"][1:]} == {"plan:evaluations=4", "euler:evaluations=4"}
    document = json.loads(run(*command, "--evaluations", "4,5", "--json"))  # no plan of 5: no row, no word
    assert [row["method"] for row in document["rows"] if row["kind"] == "plan"] == ["plan:evaluations=4"]
    assert document["left_out"] == []
    assert "only of 4" in refused(*command, "--evaluations", "4,5", "--method", "plan")


def test_fit_teacache_prints_a_method_that_runs(model: str) -> None:
    command = ("fit-teacache", model, "--runs", "1", "--steps", "8")
    document = json.loads(run(*command, "--json"))
    assert document["points"] == 2 * 7  # two guidance branches
    assert len(document["polynomial"]) == 5
    text = run(*command)
    assert text.startswith(document["method"])
    assert "fitted on 14 changes between" in text
    assert "AccumulatedChange" in json.loads(run("show", f"{document['method']},threshold=0.2", "--json"))["parts"]
    assert "numbers joined by slashes" in refused("show", "teacache:polynomial=wan")


def test_plan_refuses_to_refine_on_other_weights(model: str, profile: str, tmp_path: Path) -> None:
    recorded = Profile.load(profile)
    other = tmp_path / "other.profile.safetensors"
    replace(recorded, origin=replace(recorded.origin, revision="0123456789ab")).save(other)
    assert "recorded from 0123456789ab" in refused("plan", str(other), "--nfe", "3", "--refine", model)


def test_generate_draws_again_what_a_plan_is_not_trusted_on(model: str, plan: str, tmp_path: Path) -> None:
    lax, strict = (tmp_path / f"{name}.plan.json" for name in ("lax", "strict"))
    solved = Plan.load(plan)
    assert solved.expected is not None
    replace(solved, expected=solved.expected * 1e6).save(lax)
    replace(solved, expected=solved.expected * 1e-6).save(strict)
    command = ("generate", model, "--prompt", "a red star", "--prompt", "a ring", "--seed", "5", "--json")
    plain = {}
    for name, options in {
        "first": ("--plan", str(strict)),
        "again": ("--plan", plan),
        "trusted": ("--plan", str(lax), "--retry", plan),
        "doubted": ("--plan", str(strict), "--retry", str(lax)),
    }.items():
        document = json.loads(run(*command, *options, "--out", str(tmp_path / name)))
        plain[name] = [Path(path).read_bytes() for path in document["files"]], document.get("drawn_again")
    assert plain["trusted"][1] == []
    assert len(plain["doubted"][1]) == 2
    assert plain["doubted"][0] == plain["again"][0]
    assert "--retry needs --plan" in refused(*command, "--method", "ab2", "--retry", plan)
    both = tmp_path / "both.plan.json"
    AdaptivePlan([Plan.load(strict), Plan.load(lax)]).save(both)
    document = json.loads(run(*command, "--plan", str(both), "--out", str(tmp_path / "both")))
    assert [Path(path).read_bytes() for path in document["files"]] == plain["again"][0]
    assert "is an adaptive plan" in refused(*command, "--plan", str(both), "--retry", plan)
    assert "made for 12 steps" in refused(*command, "--plan", str(both), "--steps", "20")


def test_generate_runs_a_plan(model: str, plan: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("generate", model, "--prompt", "a red star", "--overwrite", "--out", str(tmp_path))
    document = json.loads(run(*command, "--plan", plan, "--json"))
    assert (document["method"], document["evaluations"]) == ("plan:tiny-4", 4)
    assert "evaluated 4 of 12" in run(*command, "--method", plan, "--steps", "12")
    monkeypatch.setattr(plans, "plans_folder", lambda: tmp_path)
    monkeypatch.setattr("skipcast.bench.generate.load_model", lambda *args, **given: loaded)
    loaded = load_model(model)
    Plan.load(plan).save(tmp_path / "tiny" / "default-4.plan.json")
    command = ("generate", "tiny", *command[2:])
    assert json.loads(run(*command, "--method", "plan:evaluations=4", "--json"))["evaluations"] == 4
    for options, words in {
        ("--method", "plan"): "name its evaluations",
        ("--method", "plan:evaluations=5"): "only of 4",
        ("--plan", plan, "--steps", "20"): "made for 12 steps, not 20",
        ("--plan", plan, "--method", "ab2"): "either",
        ("--plan", str(tmp_path / "none.plan.json")): "no plan",
    }.items():
        assert words in refused(*command, *options)


@pytest.mark.parametrize(
    "options, words",
    [
        ((), "exactly one"),
        (("--nfe", "4", "--psnr", "30"), "exactly one"),
        (("--evaluations", "4,6"), "several are for --curve"),
        (("--evaluations", "4;6"), "joined by commas"),
        (("--evaluations", "0"), "from 1 on"),
        (("--curve", "--psnr", "30"), "neither"),
        (("--nfe", "4", "--effort", "low"), "--refine"),
        (("--nfe", "4", "--branches"), "--branches goes with --refine MODEL"),
        (("--nfe", "4", "--start", "x.plan.json"), "--start goes with --refine MODEL"),
        (("--nfe", "4", "--worst", "30"), "--worst goes with --psnr and --refine MODEL"),
        (("--nfe", "40"), "between 1 and the 12"),
        (("--nfe", "3", "--refine", "no-such-model"), "neither"),
    ],
)
def test_plan_refuses(profile: str, options: tuple[str, ...], words: str) -> None:
    assert words in refused("plan", profile, *options)


@pytest.mark.parametrize(
    "args, words",
    [
        (("show", "resilfase"), "resilphase"),
        (("show", "resilphase:alfa=1"), "alpha"),
        (("show", "resilphase", "--steps", "2"), "warm-up"),
        (("compare", "no-such-model"), "shapes-flux"),
        (("compare", "x", "--prompts", "missing.txt"), "missing.txt"),
        (("compare", "shapes-flux", "--method", "nonsense"), "nonsense"),
        (("generate", "no-such-model", "--prompt", "x"), "neither"),
        (("compare", "x", "--plan", "missing.plan.json"), "missing.plan.json"),
        (
            ("compare", "shapes-flux", "--evaluations", "49", "--method", "plan"),
            "no default plan of 49 evaluations ships",
        ),
        (("profile", "x", "--out", "y", "--reference", "exact"), "exact"),
        (("profile", "x", "--out", "y", "--pairs", "0"), "--pairs"),
        (("profile", "x", "--out", "y", "--dtype", "int8"), "must be one of float32"),
        (("report", "none.jsonl"), "none.jsonl"),
        (("profile", "x", "--out", "y", "--prompts", "missing.txt"), "missing.txt"),
        (("plan", "missing.profile.safetensors", "--nfe", "4"), "skipcast profile"),
    ],
)
def test_errors_are_one_clear_line(args: tuple[str, ...], words: str) -> None:
    assert words in refused(*args)
