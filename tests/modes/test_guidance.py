"""Guidance of every kind: each branch is forecast from its own evaluations, whenever it starts, stops or comes back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from diffusers import AutoGuidance, ClassifierFreeGuidance, LayerSkipConfig, SkipLayerGuidance
from torch import Tensor

import skipcast as sc
from families.all import NAMED
from families.base import Family
from support.content import told_by_content
from support.seams import METHODS, OUTPUT, SEAMS, STACK, Deep, method_id
from support.tiny import at

STEPS = 12  # of which OUTPUT and STACK evaluate 0, 1, 2, 5, 8 and 11


# A network called for several prompts at every step, against networks that are each called for one of them ------------


class Several(Deep):
    """A tiny FLUX and three prompts; samples are drawn beforehand, so that outputs depend on nothing but forecasts."""

    def __init__(self) -> None:
        super().__init__(num_single_layers=1)
        noise = torch.Generator().manual_seed(2)
        self.samples = torch.randn(STEPS, 1, 4, 16, generator=noise)
        self.texts = {branch: torch.randn(1, 5, self.text.shape[-1], generator=noise) for branch in "abc"}

    def ask(self, step: int, branch: str, *, named: bool = False, anew: bool = False) -> Tensor:
        """The denoiser's answer for a branch."""
        self.text = self.texts[branch].clone() if anew else self.texts[branch]
        with self.transformer.cache_context(branch) if named else nullcontext():
            return self.call(step)

    def answers(self, method: Any, order: Callable[[int], str], **how: bool) -> dict[tuple[int, str], Tensor]:
        """What every branch gets at every step of one accelerated run."""
        with sc.accelerate(self, method):
            self.begin(STEPS)
            return {(step, branch): self.ask(step, branch, **how) for step in range(STEPS) for branch in order(step)}

    def apart(self, method: Any, order: Callable[[int], str]) -> dict[tuple[int, str], Tensor]:
        """The same with a run per branch, which is called at its own steps alone."""
        found = {}
        for branch in {branch for step in range(STEPS) for branch in order(step)}:
            found |= self.answers(method, lambda step, branch=branch: branch if branch in order(step) else "")
        return found


@pytest.fixture(scope="module")
def several() -> Several:
    return Several()


ORDERS: dict[str, Callable[[int], str]] = {
    "both all along": lambda step: "ab",
    "the second starts half-way": lambda step: "ab" if step >= 4 else "a",
    "the second stops half-way": lambda step: "ab" if step < 4 else "a",
    "the first stops half-way": lambda step: "ab" if step < 4 else "b",
    "the first starts half-way": lambda step: "ab" if step >= 4 else "b",
    "a middle interval": lambda step: "ab" if 3 <= step < 8 else "a",
    "one comes back": lambda step: "a" if 3 <= step < 7 else "ab",
    "a third in the middle": lambda step: "abc" if 4 <= step < 9 else "ab",
    "the third outlives the second": lambda step: "abc" if step < 4 else "ac",
    "one relieves the other": lambda step: "a" if step < 6 else "b",
    "in either order": lambda step: "ba" if step % 2 else "ab",
    "three in turning order": lambda step: "abcabc"[step % 3 : step % 3 + 3],
    "the second starts at the second step, called before": lambda step: "ba" if step else "a",
}


#: With every target, when both are called all along; order 2 remembers the first of its evaluations up to step 4.
TOGETHER = [
    *((method, order) for method in SEAMS for order in ORDERS),
    *((method, "both all along") for method in (*METHODS, "taylorseer:interval=4,target=hidden")),
    ("lagrange:order=2,interval=3", "the second starts at the second step, called before"),
]


@pytest.mark.parametrize("method, order", TOGETHER, ids=lambda value: value if value in ORDERS else method_id(value))
def test_each_branch_is_forecast_from_its_own_evaluations(several: Several, method: Any, order: str) -> None:
    expected = several.apart(method, ORDERS[order])
    for named in (True, False):
        found = several.answers(method, ORDERS[order], named=named)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[place], expected[place]) for place in expected), named


@pytest.mark.parametrize(
    "order",
    [
        # distinguished by their place in the step
        "both all along",
        "a third in the middle",
        "the second stops half-way",
        # distinguished by their content
        "the first stops half-way",
        "the first starts half-way",
        "in either order",
    ],
)
def test_arguments_made_anew_at_every_step_are_distinguished(several: Several, order: str) -> None:
    expected = several.apart(OUTPUT, ORDERS[order])
    found = several.answers(OUTPUT, ORDERS[order], anew=True)
    assert all(torch.equal(found[place], expected[place]) for place in expected)


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
def test_a_branch_that_stopped_half_way_keeps_nothing_after_the_run(several: Several, named: bool) -> None:
    with sc.accelerate(several, OUTPUT) as acceleration:
        several.begin(STEPS)
        for step in range(STEPS):
            for branch in ORDERS["the second stops half-way"](step):
                output = several.ask(step, branch, named=named)
            several.scheduler.step(output, several.scheduler.timesteps[step], several.samples[step])
        assert [run.bytes() for run in acceleration.all_runs()] == [0, 0]


def test_a_branch_that_never_ends_keeps_nothing_after_the_context(several: Several) -> None:
    with sc.accelerate(several, OUTPUT) as acceleration:
        several.begin(STEPS)
        for step in range(5):
            several.ask(step, "a")
        assert acceleration.all_runs()[0].bytes() > 0
    assert acceleration.all_runs()[0].bytes() == 0


# Pipelines, against runs that are distinguished by the content of what the network is given ---------------------------


def switched_off(step: int, *halved: str) -> dict[str, Any]:
    """The callback that the diffusers guide shows: the guidance scale of a pipeline is set to zero half-way."""

    def without_guidance(pipe: Any, values: dict[str, Any]) -> None:
        pipe._guidance_scale = 0.0
        values |= {name: value.chunk(2)[-1] for name, value in values.items() if name != "latents"}

    inputs = ["latents", *halved]
    return {"callback_on_step_end": at(step, without_guidance), "callback_on_step_end_tensor_inputs": inputs}


def without(layer: int) -> LayerSkipConfig:
    """What a guider leaves out of a block: its feed-forward, since diffusers knows the attention of few families."""
    return LayerSkipConfig([layer], skip_attention=False)


def skipping(**changes: Any) -> SkipLayerGuidance:
    """A third stream at steps 2 to 7."""
    usual = {"skip_layer_config": without(1), "skip_layer_guidance_start": 0.1, "skip_layer_guidance_stop": 0.8}
    return SkipLayerGuidance(guidance_scale=3.0, **{**usual, **changes})


@dataclass(frozen=True)
class Case:
    """A pipeline, how it is called, and with which guider."""

    family: str
    call: dict[str, Any]
    guider: Callable[[], Any] | None = None

    def build(self) -> tuple[Family, Any]:
        family = NAMED[self.family]
        if family.missing:
            pytest.skip(family.missing)
        pipe = family.build()
        if self.guider is not None and hasattr(pipe, "update_components"):
            pipe.update_components(guider=self.guider())
        elif self.guider is not None:
            pipe.guider = self.guider()
        return family, pipe


HUNYUAN, WAN = "HunyuanVideo 1.5", "Wan 2.1, modular"  # of which only the first names its branches
CASES = {
    "batched": Case("Stable Diffusion 3", {}),
    "batched, without step_index": Case("Stable Diffusion 1.5, DDIM", {}),
    "batched, named": Case("LTX-Video", {}),
    "batched, lists": Case("Z-Image", {}),
    "separate": Case("Lumina 2", {}),
    "separate, named": Case("FLUX.1 true CFG", {}),
    "separate, multistep": Case("Wan 2.1", {}),
    "truncated": Case("Lumina 2", {"cfg_trunc_ratio": 0.5}),
    "truncated batch": Case("Z-Image", {"cfg_truncation": 0.5}),
    "skipped layers": Case(
        "Stable Diffusion 3",
        {"skip_guidance_layers": [1], "skip_layer_guidance_start": 0.2}
        | {"skip_layer_guidance_stop": 0.7, "skip_layer_guidance_scale": 2.8},
    ),
    "switched off, DDIM": Case("Stable Diffusion 1.5, DDIM", switched_off(4, "prompt_embeds")),
    "switched off, XL": Case(
        "Stable Diffusion XL", switched_off(3, "prompt_embeds", "add_text_embeds", "add_time_ids")
    ),
    "switched off, SD3": Case("Stable Diffusion 3", switched_off(5, "prompt_embeds", "pooled_prompt_embeds")),
} | {
    f"{name}, {way}": Case(family, {}, guider)
    for family, name in ((HUNYUAN, "named"), (WAN, "unnamed"))
    for way, guider in {
        "from the middle": lambda: ClassifierFreeGuidance(guidance_scale=3.0, start=0.5),
        "to the middle": lambda: ClassifierFreeGuidance(guidance_scale=3.0, stop=0.5),
        "skipped layers": skipping,
        "a worse self": lambda: AutoGuidance(guidance_scale=3.0, auto_guidance_config=without(1), start=0.3),
    }.items()
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_pipeline_s_branches_are_kept_apart(case: Case) -> None:
    family, pipe = case.build()
    with told_by_content(pipe, OUTPUT):
        expected = family.run(pipe, steps=10, **case.call)
    with sc.accelerate(pipe, OUTPUT) as acceleration:
        assert torch.equal(family.run(pipe, steps=10, **case.call), expected)
    assert acceleration.summary().forecasts > 0


@pytest.mark.parametrize(
    "name",
    ["unnamed, skipped layers", "unnamed, from the middle", "unnamed, a worse self", "truncated", "switched off, SD3"],
)
def test_further_streams_pass_the_block_stack(name: str) -> None:
    case = CASES[name]
    family, pipe = case.build()
    plain = family.run(pipe, steps=10, **case.call)
    with sc.accelerate(pipe, "resilphase:interval=1"):
        assert torch.equal(family.run(pipe, steps=10, **case.call), plain)
    with sc.accelerate(pipe, STACK) as acceleration:
        found = family.run(pipe, steps=10, **case.call)
        assert torch.equal(family.run(pipe, steps=10, **case.call), found)
    assert not torch.equal(found, plain)
    assert all(any(not record.evaluated for record in run.trace) for run in acceleration.runs.values())


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_guider_that_leaves_out_a_whole_block_is_right_or_refused(layer: int) -> None:
    """Where that block begins or ends the span, the stack does not see what passes it."""
    family, pipe = Case(WAN, {}, lambda: skipping(skip_layer_config=LayerSkipConfig([layer]))).build()
    plain = family.run(pipe, steps=10)
    with sc.accelerate(pipe, "resilphase:interval=1"):
        if layer == 0:
            with pytest.raises(ValueError, match="target=output"):
                family.run(pipe, steps=10)
        else:
            assert torch.equal(family.run(pipe, steps=10), plain)


def test_skipped_layers_as_an_argument_are_refused_at_the_block_stack() -> None:
    family, pipe = CASES["skipped layers"].build()
    with sc.accelerate(pipe, STACK), pytest.raises(ValueError, match=r"skip_layers.*target=output"):
        family.run(pipe, steps=10, **CASES["skipped layers"].call)


UNGUIDED = {
    "FLUX.1 true CFG": {"true_cfg_scale": 1.0},
    "Stable Diffusion 3": {"guidance_scale": 1.0},
    "Lumina 2": {"guidance_scale": 1.0},
    "Stable Diffusion 1.5, DDIM": {"guidance_scale": 1.0},
    "Wan 2.1": {"guidance_scale": 1.0},
}


@pytest.mark.parametrize("name", UNGUIDED)
def test_guidance_may_be_switched_on_and_off_between_runs(name: str) -> None:
    family = NAMED[name]
    pipe, calls = family.build(), ({}, UNGUIDED[name])
    for method in (OUTPUT, STACK) if "transformer" in family.denoisers else (OUTPUT,):
        fresh = []
        for call in calls:
            with sc.accelerate(pipe, method):
                fresh.append(family.run(pipe, **call))
        assert not torch.equal(*fresh)
        with sc.accelerate(pipe, method) as acceleration:
            for guided in (0, 1, 1, 0):
                assert torch.equal(family.run(pipe, **calls[guided]), fresh[guided])
                assert len(acceleration.runs) == (2 if family.guidance == "separate" and not guided else 1)


def test_a_batch_that_changes_under_one_name_is_refused() -> None:
    several = Several()
    samples, text, pooled = several.samples, several.text, several.pooled
    with sc.accelerate(several, OUTPUT), several.transformer.cache_context("cond_uncond"):
        several.begin(STEPS)
        several.samples = samples.expand(STEPS, 2, 4, 16)
        several.text, several.pooled = text.expand(2, -1, -1), pooled.expand(2, -1)
        for step in range(3):
            several.call(step)
        several.samples, several.text, several.pooled = samples, text, pooled
        with pytest.raises(ValueError, match="chang"):
            several.call(3)
