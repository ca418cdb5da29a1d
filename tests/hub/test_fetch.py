"""The whole life of a published plan without a hub, and files of strangers that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from typer.testing import CliRunner

import skipcast as sc
from skipcast.cli import app
from skipcast.hub.fetch import fetched, repository
from skipcast.hub.listing import fitting
from support.hub import COMMIT, REPO

PROMPT = "a large red star on a blue background"


def test_the_whole_life_of_a_plan_offline(cache: Path) -> None:
    """Published, fetched, run both ways: the images of the shipped plan, to the bit."""
    plan = sc.Plan.from_hub(REPO, evaluations=6, revision="v1")
    shipped = sc.shipped_plan("shapes-flux", 6)
    assert plan.as_dict() == shipped.as_dict()
    pipe = sc.load_reference()
    pipe.set_progress_bar_config(disable=True)

    def image(steps: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(3)
        call: dict[str, Any] = {"true_cfg_scale": 2.0, "negative_prompt": "", "generator": generator}
        return pipe(PROMPT, num_inference_steps=steps, output_type="pt", **call).images

    with sc.accelerate(pipe, shipped):
        expected = image(50)
    with sc.accelerate(pipe, plan):
        assert torch.equal(image(50), expected)
    pipe.scheduler = sc.PlanScheduler.from_pretrained(REPO, subfolder="6", revision="v1", guidance=2.0)
    assert torch.equal(image(6), expected)


def test_plans_are_chosen_by_evaluations_reference_or_name(cache: Path, published: Path) -> None:
    for repo in (REPO, str(published)):
        assert sc.Plan.from_hub(repo, 10).evaluations == 10
        assert sc.Plan.from_hub(repo, 10, reference="converged").origin.reference == "converged"
        assert sc.Plan.from_hub(repo, name="converged-4").evaluations == 4
        with pytest.raises(
            ValueError, match=r"from_hub\(.*no plan of evaluations=11.*There are: 4 \(4 of 50, default\)"
        ):
            sc.Plan.from_hub(repo, 11)
    assert repository(REPO).commit == COMMIT
    assert sc.Plan.from_hub(REPO, 4, revision=COMMIT).evaluations == 4


def test_what_is_not_there_is_said(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no plans\.json in me/other .*not in the hub's cache"):
        sc.Plan.from_hub("me/other", 10)
    with pytest.raises(ValueError, match="at revision 'v9'"):
        sc.Plan.from_hub(REPO, 10, revision="v9")
    with pytest.raises(ValueError, match=r"no plans\.json; it is a repository of plans if"):
        sc.Plan.from_hub(str(tmp_path), 10)
    with pytest.raises(ValueError, match="is of a hub id"):
        sc.Plan.from_hub(str(tmp_path), 10, revision="v1")
    for name in ("nothing", "a/b/c", "../x/y", "./x", "\x1b/x"):
        with pytest.raises(ValueError, match="neither a folder nor a hub id"):
            sc.Plan.from_hub(name, 10)


def write(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def test_a_changed_plan_is_refused(cache: Path) -> None:
    place = cache / "10" / "plan.json"
    write(place, place.read_bytes().replace(b"0.1", b"0.2", 1))
    with pytest.raises(ValueError, match=rf"{REPO}, 10/plan\.json: it is not what plans\.json says"):
        sc.Plan.from_hub(REPO, 10)
    place.unlink()
    with pytest.raises(ValueError, match=r"no 10/plan\.json in me/shapes-flux-plans"):
        sc.Plan.from_hub(REPO, 10)


def test_another_plan_with_its_digest_is_refused(cache: Path) -> None:
    values = json.loads((cache / "plans.json").read_text())
    values["plans"][0]["plan"] = values["plans"][4]["plan"]
    write(cache / "plans.json", json.dumps(values).encode())
    with pytest.raises(ValueError, match="evaluations=10, its manifest says 4"):
        sc.Plan.from_hub(REPO, 4)


def test_a_link_out_of_a_folder_is_not_followed(cache: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.json"
    outside.write_bytes((cache / "10" / "plan.json").read_bytes())
    (cache / "10" / "plan.json").unlink()
    (cache / "10" / "plan.json").symlink_to(outside)
    with pytest.raises(ValueError, match=r"10/plan\.json leads out of the folder"):
        sc.Plan.from_hub(str(cache), 10)
    assert sc.Plan.from_hub(REPO, 10).evaluations == 10  # in the hub's cache every file is a link


def test_what_is_too_large_is_neither_read_nor_fetched(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(cache / "plans.json", b" " * (2**22 + 1))
    with pytest.raises(ValueError, match="more than the 4194304 bytes"):
        sc.Plan.from_hub(REPO, 10)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url: SimpleNamespace(size=2**40))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: pytest.fail("fetched"))
    with pytest.raises(ValueError, match="has 1099511627776 bytes, more than the 1000"):
        fetched("me/other", "plans.json", None, 1000)


def test_manifest_and_plan_come_from_one_commit(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The branch may move between the two."""
    asked = []

    def download(name: str, path: str, *, revision: str | None, local_files_only: bool) -> str:
        asked.append((path, revision, local_files_only))
        return str(cache / path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    sc.Plan.from_hub(REPO, 10, revision="main")
    assert asked == [("plans.json", "main", True), ("plans.json", COMMIT, True), ("10/plan.json", COMMIT, True)]


# Listing.


def test_plans_that_fit_are_listed(cache: Path, tmp_path: Path) -> None:
    found, left_out = fitting("shapes-flux")
    assert left_out == []
    shipped, cached = ([one for one in found if one.where == where] for where in ("shipped", "cache"))
    assert len(shipped) == len(cached) == 16
    assert [(one.evaluations, one.predicted) for one in shipped] == [(one.evaluations, one.predicted) for one in cached]
    for one in (shipped[4], cached[4]):
        plan = eval(one.use, {"sc": sc})
        assert (plan.evaluations, plan.origin.reference) == (one.evaluations, one.reference)
    assert fitting("someone/other") == ([], [])
    broken = cache.parents[2] / "models--me--broken" / "snapshots" / ("b" * 40)
    broken.mkdir(parents=True)
    (broken / "plans.json").write_text("{}")
    found, left_out = fitting("shapes-flux")
    assert len(found) == 32
    assert left_out == ["me/broken: plans.json is no manifest of plans: its format is not 'skipcast-plans-1'."]


def test_a_folder_is_known_by_its_weights(cache: Path) -> None:
    from skipcast.models.load import reference_folder

    found, _ = fitting(str(reference_folder("shapes-flux")))
    assert {one.where for one in found} == {"cache"}
    assert len(found) == 16


def test_the_command_lists(cache: Path) -> None:
    def run(*args: str) -> str:
        done = CliRunner().invoke(app, ["plans", *args], env={"COLUMNS": "140"})
        assert done.exit_code == 0, done.output
        return done.output

    text = run("shapes-flux")
    assert {"54.1", "37.8"} <= set(text.split())  # of the plan of ten, in one cell
    assert 'use it: sc.shipped_plan("shapes-flux", 4)' in text
    document = json.loads(run("shapes-flux", "--json"))
    assert len(document["plans"]) == 32
    assert "no plan for someone/other is here; --online asks the hub" in run("someone/other")
    refused = CliRunner().invoke(app, ["plans", "someone/other", "--online"])
    assert refused.exit_code == 2
    assert "HF_HUB_OFFLINE forbids it" in refused.output


def test_the_hub_is_asked_for_repositories_of_plans(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def listed(self: Any, **options: Any) -> list[Any]:
        assert options["filter"] == ["sampling-plan", "base_model:shapes-flux"]
        return [SimpleNamespace(id=name) for name in (REPO, "you/shapes-flux-plans", "you/broken")]

    def download(name: str, path: str, *, revision: str | None, local_files_only: bool) -> str:
        if name == "you/broken":
            raise RuntimeError("gone")
        return str(cache / path)

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_models", listed)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url: SimpleNamespace(size=100))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    found, left_out = fitting("shapes-flux", online=True)
    assert {(one.where, one.source) for one in found} == {
        ("shipped", "shapes-flux"),
        ("cache", REPO),
        ("hub", "you/shapes-flux-plans"),
    }
    assert len(left_out) == 1
    assert "no plans.json in you/broken" in left_out[0]
