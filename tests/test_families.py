"""What a method's authors set on other families of networks than the one its defaults are for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import skipcast as sc
from families.videos import wan
from skipcast import Method
from skipcast.controllers import TEACACHE, AccumulatedChange, EasyRatio, FilteredChange, Periodic, Searched
from skipcast.forecasters import Lagrange, TaylorSeer, Within
from skipcast.methods.families import FAMILIES, SETTINGS, family_of, named_family, settings
from skipcast.methods.names import REGISTRY, made
from support.tiny import flux_pipeline, flux_transformer


@pytest.mark.parametrize("name, family", [(name, family) for name, found in SETTINGS.items() for family in found])
def test_every_setting_is_one_of_the_method_and_changes_it(name: str, family: str) -> None:
    assert family in FAMILIES.values()
    assert set(SETTINGS[name][family]) <= set(REGISTRY[name].options())
    assert sc.method(name, family) != sc.method(name)


def test_published_settings() -> None:
    video = Method(TaylorSeer(1, start=0), Periodic(1, 5))
    assert made("taylorseer", {}, "wan") == made("taylorseer", {}, "hunyuan-video") == video
    assert made("taylorseer", {}, "dit") == Method(TaylorSeer(4, start=0), Periodic(2, 4))
    assert made("taylorseer", {}, "flux") == made("taylorseer", {}) == Method(TaylorSeer(1, start=1), Periodic(3, 6))
    assert made("resilphase", {}, "dit") == made("resilphase-dit", {})
    found = [made("easycache", {}, family) for family in ("wan", "hunyuan-video")]
    assert [method.controller for method in found if isinstance(method, Method)] == [
        EasyRatio(0.05, 10),
        EasyRatio(0.025, 5),
    ]
    tea, sea, dp, freq = (
        made(name, {}, family)
        for name, family in (("teacache", "mochi"), ("seacache", "wan"), ("dpcache", "wan"), ("freqca", "qwen-image"))
    )
    assert isinstance(tea, Method)
    assert isinstance(tea.controller, AccumulatedChange)
    assert (tea.controller.threshold, tea.controller.polynomial[0]) == (0.09, -3512.41319)
    assert isinstance(sea, Method)
    assert sea.controller == FilteredChange(0.25, "input", 3.0, max_forecasts=2, forced="filtered")
    assert sea.forecaster == Lagrange(1)
    assert isinstance(dp, Method)
    assert (dp.forecaster, dp.controller) == (TaylorSeer(2, start=2), Searched("dpcache-wan-12"))
    assert isinstance(freq, Method)
    assert isinstance(freq.forecaster, Within)
    assert "fft" in repr(freq.forecaster)


def test_teacache_looks_and_forces_as_released() -> None:
    def test(polynomial: str, **given: str) -> AccumulatedChange:
        method = made("teacache", {"polynomial": polynomial, **given})
        assert isinstance(method, Method)
        assert isinstance(method.controller, AccumulatedChange)
        return method.controller

    for name, known in TEACACHE.items():
        found = test(name)
        told = found.polynomial, found.probe, found.first, found.share, found.last
        assert told == (known.coefficients, known.probe, known.first, known.share, known.last)
    plain, retained, hidream = test("wan-t2v-14b"), test("wan-t2v-14b-retained"), test("hidream")
    assert (plain.probe, plain.first, plain.last) == ("time", 1, True)
    assert (retained.probe, retained.first, retained.last) == ("block time", 5, False)
    assert (hidream.probe, hidream.first, hidream.share, hidream.last) == ("time", 1, 0.1, False)
    assert test("wan-t2v-14b-retained", warmup="7", last="false").first == 7
    for option in ("warmup=3", "last=true"):
        name, value = option.split("=")
        with pytest.raises(ValueError, match=f"{name}=.* changes nothing"):
            test("wan-t2v-14b-retained", **{name: value})


def test_a_network_is_told_its_own_polynomials() -> None:
    with pytest.raises(sc.IncompatibleParts, match=r"fitted on flux.* or teacache:polynomial=wan-t2v-1\.3b or "):
        sc.accelerate(wan(), "teacache")


def test_what_is_given_goes_first() -> None:
    assert made("taylorseer", {"interval": "3", "order": "2"}, "dit") == Method(TaylorSeer(2, start=0), Periodic(2, 3))
    assert made("taylorseer", {"evaluations": "10"}, "wan") == Method(
        TaylorSeer(1, start=0), Periodic(1, None, evaluations=10)
    )
    assert settings("taylorseer", "wan", {"evaluations": 10}) == {"warmup": 1}
    assert settings("taylorseer", None, {}) == settings("reuse", "wan", {}) == {}


def test_the_family_of_a_network() -> None:
    network = flux_transformer()
    assert family_of(network) == family_of(type(network)) == family_of(torch.compile(network)) == "flux"
    assert family_of(type("Own", (type(network),), {})) == "flux"
    assert family_of(torch.nn.Linear(1, 1)) is None


def test_a_pipeline_picks_the_settings_of_its_network() -> None:
    image, video = flux_pipeline(), wan()
    for pipe, family in ((image, "flux"), (video, "wan")):
        assert sc.accelerate(pipe, "taylorseer").method == made("taylorseer", {}, family)
    method = made("taylorseer", {})
    assert sc.accelerate(video, method).method == method


def test_the_family_of_a_model_by_name(tmp_path: Path) -> None:
    assert named_family("wan") == named_family("WanTransformer3DModel") == "wan"
    index = {"_class_name": "WanPipeline", "transformer": ["diffusers", "WanTransformer3DModel"], "vae": ["x", "Y"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert named_family(str(tmp_path)) == "wan"
    (tmp_path / "model_index.json").write_text(json.dumps({"unet": ["diffusers", "UNet2DConditionModel"]}))
    assert named_family(str(tmp_path)) is None
    with pytest.raises(ValueError, match=r"model 'wann' is neither the folder of a pipeline nor one of CogVideoX"):
        named_family("wann")
