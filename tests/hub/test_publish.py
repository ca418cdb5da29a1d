"""What is published: whole folders without words, and an upload that touches nobody else's repository."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from typer.testing import CliRunner

import skipcast as sc
from skipcast.cli import app
from skipcast.hub.manifest import Manifest
from skipcast.hub.publish import Publication, named, read_plans, upload
from skipcast.models.shipped import plans_folder, shipped_plan, shipped_profile
from skipcast.plans.plan import Origin
from support import toy
from support.hub import REPO
from support.records import both, written

RUNNER = CliRunner()
PLAN = toy.profile().plan(evaluations=4)


def of(plan: sc.Plan = PLAN, **origin: Any) -> sc.Plan:
    return replace(plan, origin=replace(plan.origin, **{"scheduler": "", **origin}))


def made(*plans: sc.Plan, **options: Any) -> Publication:
    named = {f"p{number}": plan for number, plan in enumerate(plans or (of(),))}
    return Publication(**{"repo": "me/plans", "plans": named, "base_model": "someone/small", **options})


def refused(*args: str) -> str:
    result = RUNNER.invoke(app, ["publish", *args])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


def test_a_repository_holds_every_plan_the_profile_and_a_card(published: Path) -> None:
    manifest = Manifest.from_bytes((published / "plans.json").read_bytes())
    budgets = ["4", "5", "6", "8", "10", "13", "17", "25"]
    assert [plan.name for plan in manifest.plans] == [*budgets, *(f"converged-{budget}" for budget in budgets)]
    assert (manifest.base_model, manifest.skipcast) == ("shapes-flux", sc.__version__)
    first = manifest.plans[0]
    shipped = sc.shipped_plan("shapes-flux", 4)
    assert (first.argument, first.knots) == ("true_cfg_scale", (1.5, 2.0, 3.0, 4.0, 6.0))
    assert first.predicted == tuple(knot.predicted for knot in shipped.knots)
    assert (first.steps, first.revision) == (50, shipped.origin.revision)
    assert first.mu == pytest.approx(1.15, abs=1e-6)
    assert json.loads((published / "10" / "scheduler_config.json").read_text())["_class_name"] == "PlanScheduler"
    kept = (published / "10" / "plan.json").read_bytes()
    assert kept == (plans_folder() / "shapes-flux" / "default-10.plan.json").read_bytes()


def test_the_card_says_what_a_reader_needs(published: Path) -> None:
    text = (published / "README.md").read_text()
    about = huggingface_hub.ModelCard(text).data
    assert (about.base_model, about.library_name, about.license) == ("shapes-flux", "diffusers", "apache-2.0")
    assert (about.pipeline_tag, about.tags) == ("text-to-image", ["skipcast", "sampling-plan"])
    assert "| `10` | 10 | 50 | the unaccelerated run | 1.5 / 2 / 3 / 4 / 6 | 54.1 / 54.5 / 49.0 / 45.5 / 37.8 |" in text
    assert f'sc.PlanScheduler.from_pretrained("{REPO}", subfolder="10", guidance=3)' in text
    assert f'sc.Plan.from_hub("{REPO}", evaluations=10)' in text
    assert "shift (mu): 1.15" in text
    assert "without the recorded prompts" in text


def test_no_recorded_words_leave_the_house(published: Path) -> None:
    recorded = sc.Profile.load(shipped_profile("shapes-flux")).origin
    everything = b"".join(path.read_bytes() for path in published.rglob("*") if path.is_file())
    assert recorded.prompts
    assert not any(prompt.encode() in everything for prompt in recorded.prompts)
    profile = sc.Profile.load(published / "default.profile.safetensors")
    assert (profile.origin.prompts, profile.origin.seeds, profile.trajectory) == ((), (), None)
    assert profile.origin.pairs == recorded.pairs
    whole = sc.Profile.load(shipped_profile("shapes-flux"))
    assert profile.plan(evaluations=4).as_dict() == whole.plan(evaluations=4).as_dict()
    assert profile.subset([3, 1]).origin.pairs == (recorded.pairs[3], recorded.pairs[1])


def test_words_of_a_call_are_left_out_unless_they_are_asked_for() -> None:
    call = {"negative_prompt": "the secret", "height": 64, "width": 32, "prompt_2": ""}
    words = of(call=call)
    for prompts in (False, True):
        files = made(words, prompts=prompts).files()
        assert any(b"the secret" in content for content in files.values()) == prompts
    public = sc.Plan.from_dict(json.loads(made(words).files()["4/plan.json"]))
    assert public.origin.call == {**call, "negative_prompt": "<str>"}
    assert Manifest.from_bytes(made(words).files()["plans.json"]).plans[0].size == (64, 32)
    assert words.origin.call == call


def test_the_profile_with_prompts_is_the_whole_profile() -> None:
    profile = replace(toy.profile(), origin=replace(toy.profile().origin, scheduler="", prompts=("the secret",) * 8))
    for prompts in (False, True):
        content = made(profile=profile, prompts=prompts).files()["default.profile.safetensors"]
        assert (b"the secret" in content) == prompts
        assert (b"trajectory" in content) == prompts


def test_a_published_profile_is_for_the_open_loop(pipe: Any, published: Path) -> None:
    profile = sc.Profile.load(published / "default.profile.safetensors")
    with pytest.raises(ValueError, match=r"keeps no prompts.*solve from it without refine="):
        profile.plan(evaluations=4, refine=SimpleNamespace(scheduler=_recorded(profile.origin)))


def _recorded(origin: Origin) -> Any:
    from skipcast.pipelines.plan_check import recorded_scheduler

    return recorded_scheduler(origin)


def test_folders_are_called_by_evaluations_where_these_tell_plans_apart() -> None:
    eight = toy.profile().plan(evaluations=8)
    converged = of(reference="converged")
    assert list(named({"b": eight, "a": PLAN})) == ["4", "8"]
    assert list(named({"x": PLAN, "y": PLAN, "z": eight})) == ["x", "y", "8"]
    assert list(named({"c": converged, "a": PLAN})) == ["4", "c"]
    assert list(named({"8": PLAN, "y": PLAN, "z": eight})) == ["8", "y", "z"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"repo": "plans"}, r"--repo 'plans' must be owner/name"),
        ({"repo": "me/../x"}, "--repo"),
        ({"repo": "me/a--b"}, "--repo"),
        ({"plans": {}}, "no plan to publish"),
        ({"base_model": ""}, "give it with --base-model"),
        ({"base_model": "a b"}, "hub id"),
        ({"grid": ("grid.svg", b"")}, r"--grid grid\.svg must be an image"),
        ({"plans": {"a": of(revision="x"), "b": of(revision="y")}}, "of one model; publish them into two"),
        ({"plans": {"a": of(fingerprint={"w": 1.0}), "b": of(fingerprint={"w": 2.0})}}, "of one model"),
        ({"plans": {"a": of(model="x/y")}}, "were recorded from x/y"),
    ],
)
def test_what_cannot_be_published_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        made(**options).files()


def test_the_base_model_is_what_the_plans_say() -> None:
    assert made(of(model="x/y"), of(), base_model="").base_model == "x/y"


def test_the_command_refuses_before_it_writes(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "there").mkdir()
    plan = tmp_path / "mine.plan.json"
    of().save(plan)
    common = ["--repo", "me/x", "--dry-run", "--out"]
    assert "holds no plan" in refused(str(tmp_path / "empty"), *common, str(tmp_path / "a"))
    assert "is there already" in refused(str(plan), *common, str(tmp_path / "there"))
    assert "--base-model" in refused(str(plan), *common, str(tmp_path / "a"))
    assert "no plan" in refused(str(tmp_path / "none.plan.json"), *common, str(tmp_path / "a"))
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "there", "mine.plan.json"}


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from skipcast import checkpoint

    def full(path: Path, content: bytes) -> Path:
        if path.name == "b":
            raise OSError(28, "No space left on device")
        return write(path, content)

    write = checkpoint.write_whole
    monkeypatch.setattr(checkpoint, "write_whole", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.write_folder(tmp_path / "out", {"x/a": b"1", "b": b"2"})
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    checkpoint.write_folder(tmp_path / "out", {"x/a": b"1", "b": b"2"})
    assert (tmp_path / "out" / "x" / "a").read_bytes() == b"1"
    with pytest.raises(ValueError, match="is there already"):
        checkpoint.write_folder(tmp_path / "out", {})


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        of().save(tmp_path / name / "a b.plan.json")
    assert list(read_plans([tmp_path / "one"])) == ["a-b"]
    with pytest.raises(ValueError, match="has the name of another plan, a-b"):
        read_plans([tmp_path / "one", tmp_path / "two"])


def test_measured_tables_and_a_grid_come_onto_the_card(tmp_path: Path) -> None:
    table = "| method | PSNR |\n|---|---|\n| `plan` | 50.0 |"
    files = made(measured=table, grid=("picture.PNG", b"image")).files()
    assert files["grid.png"] == b"image"
    assert table in files["README.md"].decode()
    assert "![Samples](grid.png)" in files["README.md"].decode()


def test_results_are_published_without_folders_and_prompts(tmp_path: Path) -> None:
    plan, out = tmp_path / "mine.plan.json", tmp_path / "out"
    of().save(plan)
    records = [
        *both("reference", "reference", 50, None, None),
        *both("plan:file=/home/me/secret/mine.plan.json", "plan", 10, 50.0, 40.0),
    ]
    results = written(tmp_path / "results.jsonl", records)
    command = ["publish", str(plan), "--repo", "me/x", "--base-model", "a/b", "--out", str(out), "--dry-run"]
    done = RUNNER.invoke(app, [*command, "--results", str(results)])
    assert done.exit_code == 0, done.output
    assert "nothing was sent" in done.output
    text = (out / "README.md").read_text()
    assert "### Measured" in text
    assert "plan:file=mine.plan.json" in text
    assert "45.0" in text
    assert "secret" not in text
    assert "a red star" not in text


# The upload, with every call of the hub noted.


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The state of a hub: whether the repository is there, its files and its tags; calls are noted."""
    state: dict[str, Any] = {"there": False, "files": [], "tags": [], "calls": []}

    def noted(name: str, result: Callable[[], Any] = lambda: None) -> None:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            state["calls"].append((name, args, kwargs))
            return result()

        monkeypatch.setattr(huggingface_hub.HfApi, name, call)

    noted("repo_exists", lambda: state["there"])
    noted("list_repo_files", lambda: state["files"])
    noted("list_repo_refs", lambda: SimpleNamespace(tags=[SimpleNamespace(name=name) for name in state["tags"]]))
    for name in ("create_repo", "create_branch", "create_tag"):
        noted(name)
    noted("upload_folder", lambda: SimpleNamespace(oid="c" * 40, commit_url="https://hub/commit/c"))
    return state


def changes(api: dict[str, Any]) -> list[str]:
    return [name for name, _, _ in api["calls"] if name.startswith(("create", "upload"))]


def test_an_upload_is_one_commit_with_its_tag(published: Path, api: dict[str, Any]) -> None:
    assert upload(published, REPO, private=True, branch="next", tag="v1") == "https://hub/commit/c"
    assert changes(api) == ["create_repo", "create_branch", "upload_folder", "create_tag"]
    calls = {name: (args, kwargs) for name, args, kwargs in api["calls"]}
    assert calls["create_repo"] == ((REPO,), {"private": True, "exist_ok": True})
    sent = calls["upload_folder"][1]
    assert (sent["repo_id"], sent["folder_path"], sent["revision"]) == (REPO, published, "next")
    assert "*/plan.json" in sent["delete_patterns"]
    assert not any(pattern in ("*", "**") for pattern in sent["delete_patterns"])
    assert calls["create_tag"] == ((REPO,), {"tag": "v1", "revision": "c" * 40})


def test_a_repository_of_something_else_is_left_alone(published: Path, api: dict[str, Any]) -> None:
    api.update(there=True, files=[".gitattributes", "README.md", "model.safetensors"])
    with pytest.raises(ValueError, match="holds something else than plans"):
        upload(published, REPO)
    assert changes(api) == []
    api.update(files=[".gitattributes", "README.md", "plans.json", "10/plan.json"], tags=["v1"])
    with pytest.raises(ValueError, match="--tag v1 is there already"):
        upload(published, REPO, tag="v1")
    assert changes(api) == []
    upload(published, REPO, tag="v2")
    assert changes(api) == ["create_repo", "upload_folder", "create_tag"]


def test_what_the_hub_refuses_is_one_line(
    published: Path, api: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("401\n  not you")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", no)
    with pytest.raises(ValueError, match=r"could not be published \(401 not you\).*hf auth login"):
        upload(published, REPO)


def test_the_command_publishes(tmp_path: Path, api: dict[str, Any]) -> None:
    plan, out = tmp_path / "mine.plan.json", tmp_path / "out"
    of().save(plan)
    command = ["publish", str(plan), "--repo", "me/x", "--base-model", "a/b", "--out", str(out)]
    done = RUNNER.invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "published: https://hub/commit/c" in done.output
    assert "names no licence" in done.output
    assert changes(api) == ["create_repo", "upload_folder"]
    assert sorted(path.name for path in out.rglob("*") if path.is_file()) == ["README.md", "plan.json", "plans.json"]


def test_what_a_dry_run_has_left_is_published_as_it_is(tmp_path: Path, api: dict[str, Any]) -> None:
    plan, out = tmp_path / "mine.plan.json", tmp_path / "out"
    of().save(plan)
    command = ["publish", str(plan), "--repo", "me/x", "--base-model", "a/b", "--out", str(out)]
    for options in (["--dry-run"], ["--dry-run"], []):
        assert RUNNER.invoke(app, [*command, *options]).exit_code == 0
    assert changes(api) == ["create_repo", "upload_folder"]
    (out / "README.md").write_text("changed")
    assert "holds other plans" in refused(*command[1:])
    assert changes(api) == ["create_repo", "upload_folder"]


def test_plans_of_passes_stay_at_home(tmp_path: Path) -> None:
    passes = shipped_plan("shapes-flux", 5, branches=True)
    passes.save(tmp_path / "some" / "5-passes.plan.json")
    with pytest.raises(ValueError, match="holds plans of passes alone"):
        read_plans([tmp_path / "some"])
    shipped_plan("shapes-flux", 5).save(tmp_path / "some" / "5.plan.json")
    assert list(read_plans([tmp_path / "some"])) == ["5"]
    made = Publication("owner/name", read_plans([tmp_path / "some" / "5-passes.plan.json"]), base_model="owner/model")
    with pytest.raises(ValueError, match=r"publish, for 5.*passes of one guidance branch"):
        made.files()
