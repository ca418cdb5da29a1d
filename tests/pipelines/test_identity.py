"""Which model a plan was made for, and what is said where it meets another one."""

from __future__ import annotations

import copy
import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from torch import nn

import skipcast as sc
from skipcast.models.load import load_model
from skipcast.models.shipped import plans_folder
from skipcast.pipelines.identity import commit_of, fingerprint
from skipcast.plans.plan import Origin
from skipcast.reading import sealed
from support.tiny import PROMPT, flux_pipeline, flux_transformer, image_to_image, twin

COMMIT = "0123456789" * 4


@pytest.fixture(scope="module")
def profile(pipe: Any) -> sc.Profile:
    return sc.record(pipe, [PROMPT, "a dog"], seeds=0, num_inference_steps=6, progress=False)


@pytest.fixture(scope="module")
def plan(profile: sc.Profile) -> sc.Plan:
    return profile.plan(evaluations=3)


def silent(pipe: Any, plan: sc.Plan) -> bool:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sc.accelerate(pipe, plan)
    return not caught


def changed(pipe: Any, factor: float = 1.01) -> Any:
    """A twin of which one recorded weight is another."""
    other = twin(pipe)
    name = list(fingerprint(other))[1].removeprefix("transformer.")
    with torch.no_grad():
        dict(other.transformer.named_parameters())[name].mul_(factor)
    return other


def test_a_recording_keeps_three_norms(pipe: Any, profile: sc.Profile, plan: sc.Plan) -> None:
    found = plan.origin.fingerprint
    assert found == profile.origin.fingerprint == fingerprint(pipe)
    weights = dict(pipe.transformer.named_parameters())
    assert len(found) == 3
    for name, norm in found.items():
        assert norm == pytest.approx(float(weights[name.removeprefix("transformer.")].detach().norm()), rel=1e-4)
    assert Origin(**json.loads(json.dumps(plan.origin.as_dict()))) == plan.origin


def test_files_without_one_keep_their_digests() -> None:
    files = {path: json.loads(path.read_text()) for path in (plans_folder() / "shapes-flux").glob("*.plan.json")}
    assert any("fingerprint" not in kept["origin"] for kept in files.values())
    for path, kept in files.items():
        assert sealed(sc.Plan.load(path).as_dict())["sha256"] == kept["sha256"]


def test_the_norms_are_the_same_in_every_dtype(plan: sc.Plan) -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        assert fingerprint(flux_pipeline().to(dtype)) == pytest.approx(dict(plan.origin.fingerprint), rel=1e-4)


def test_the_same_weights_pass_silently(pipe: Any, plan: sc.Plan) -> None:
    for other in (twin(pipe), image_to_image(pipe), flux_pipeline().to(torch.bfloat16)):
        assert silent(other, plan)
    compiled = twin(pipe, transformer=torch.compile(flux_transformer(), backend="eager"))
    assert fingerprint(compiled) == plan.origin.fingerprint


def test_a_fine_tune_is_warned_of_and_runs(pipe: Any, plan: sc.Plan) -> None:
    other = changed(pipe)
    with pytest.warns(UserWarning, match=r"made for other weights: transformer\.\S+ has norm .*For a fine-tune"):
        context = sc.accelerate(other, plan)
    with context:
        other(PROMPT, num_inference_steps=6, output_type="latent")
    with pytest.warns(UserWarning, match="made for other weights"):
        sc.PlanScheduler(plan).check_pipeline(other)


def test_adapters_are_looked_behind_and_quantised_weights_left_alone(pipe: Any, plan: sc.Plan) -> None:
    class Adapted(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.base_layer, self.more = layer, nn.Linear(2, 2)

    other = twin(pipe)
    place, _, last = list(plan.origin.fingerprint)[1].removeprefix("transformer.").rpartition(".")
    owner, _, child = place.rpartition(".")
    setattr(other.transformer.get_submodule(owner), child, Adapted(other.transformer.get_submodule(place)))
    assert silent(other, plan)

    class Packed(nn.Parameter):
        pass

    quantised = changed(pipe)
    layer = quantised.transformer.get_submodule(place)
    setattr(layer, last, Packed(getattr(layer, last).data))
    assert silent(quantised, plan)
    assert len(fingerprint(quantised)) == 3


def test_another_network_is_warned_of(pipe: Any, plan: sc.Plan) -> None:
    small = twin(pipe, transformer=flux_transformer(num_single_layers=1))
    with pytest.warns(UserWarning, match="made for other weights: transformer"):
        sc.accelerate(small, plan)
    of_another = replace(plan, origin=replace(plan.origin, fingerprint={"transformer.blocks.9.weight": 1.0}))
    with pytest.warns(UserWarning, match=r"they hold no transformer\.blocks\.9\.weight"):
        sc.accelerate(pipe, of_another)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache with one model."""
    owner = tmp_path / "models--someone--small"
    flux_pipeline().save_pretrained(owner / "snapshots" / COMMIT)
    (owner / "refs").mkdir()
    (owner / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def test_a_model_of_the_hub_is_known_by_its_commit(hub: Path, pipe: Any, plan: sc.Plan) -> None:
    loaded = load_model("someone/small").pipe
    assert commit_of(loaded) == ("someone/small", COMMIT)
    assert commit_of(pipe) == ("", None)
    size: dict[str, Any] = {"height": 64, "width": 64, "progress": False}
    recorded = sc.record(loaded, [PROMPT], seeds=0, num_inference_steps=3, **size).origin
    assert (recorded.model, recorded.revision) == ("someone/small", COMMIT)
    assert silent(loaded, plan)

    def of(**changes: Any) -> sc.Plan:
        return replace(plan, origin=replace(plan.origin, **changes))

    # Another commit is no other model while the weights are the same; where nothing is known of them, it is said.
    assert silent(loaded, of(revision="f" * 40))
    assert silent(loaded, of(revision=COMMIT, fingerprint={}))
    assert silent(loaded, of(revision="50be0f4a1c2d", fingerprint={}))  # of a folder
    with pytest.warns(UserWarning, match=f"of commit {COMMIT}, recorded was {'f' * 40}"):
        sc.accelerate(loaded, of(revision="f" * 40, fingerprint={}))
    assert silent(copy.deepcopy(pipe), of(revision="f" * 40, fingerprint={}))


@pytest.mark.parametrize("wrong", [{"a": -1.0}, {"a": float("nan")}, {"a": "1"}, {1: 1.0}, ["a"]])
def test_a_broken_fingerprint_is_refused(plan: sc.Plan, wrong: Any) -> None:
    with pytest.raises(ValueError, match="fingerprint"):
        replace(plan.origin, fingerprint=wrong)
