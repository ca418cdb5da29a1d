"""Guidance of every kind: each branch is forecast from its own evaluations, whenever it starts, stops or comes back."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from diffusers import (
    AutoGuidance,
    ClassifierFreeGuidance,
    LayerSkipConfig,
    SkipLayerGuidance,
)
from torch import Tensor

import skipcast as sc
from families.all import NAMED
from families.base import Family
from skipcast.plans.propagation import grid_of
from support.seams import METHODS, Deep, method_id

OUTPUT, STACK = "taylorseer:order=1,interval=3", "resilphase:interval=3"
STEPS = 12  # of which both evaluate 0, 1, 2, 5, 8 and 11
SEAMS = [OUTPUT, STACK, METHODS[-1]]


# A network called for several prompts at every step, against networks that are each called for one of them ------------


class Several(Deep):
    """A tiny FLUX and three prompts; samples are drawn beforehand, so that outputs depend on nothing but forecasts."""

    def __init__(self) -> None:
        super().__init__()
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
}


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("method", SEAMS, ids=method_id)
def test_each_branch_is_forecast_from_its_own_evaluations(
    several: Several, method: Any, order: Callable[[int], str], named: bool
) -> None:
    expected, found = several.apart(method, order), several.answers(method, order, named=named)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[place], expected[place]) for place in expected)


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
def test_one_may_start_at_the_second_step_before_the_other(several: Several, named: bool) -> None:
    def order(step: int) -> str:
        return "ba" if step else "a"

    method = "lagrange:order=2,interval=3"  # which remembers the first of its three evaluations up to step 4
    expected, found = several.apart(method, order), several.answers(method, order, named=named)
    assert all(torch.equal(found[place], expected[place]) for place in expected)


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


def test_the_first_answer_of_every_branch_is_the_network_s_own(several: Several) -> None:
    """A cache that mixes branches answers the first unconditional call with the conditional output."""
    several.begin(STEPS)
    for order in ORDERS.values():
        found = several.answers(OUTPUT, order)
        first = {
            branch: next(step for step in range(STEPS) if branch in order(step)) for branch in order(0) + order(11)
        }
        for branch, step in first.items():
            assert torch.equal(found[step, branch], several.ask(step, branch))


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


@contextmanager
def told_by_content(pipe: Any, spec: str) -> Iterator[None]:
    """The pipeline with a run of its own for every conditioning that its network is given, and each repetition."""
    method = sc.method(spec)
    assert isinstance(method, sc.Method)
    network = getattr(pipe, "transformer", None) or pipe.unet
    forward, step = network.forward, pipe.scheduler.step
    names = list(inspect.signature(forward).parameters)
    runs: dict[Any, sc.Run] = {}
    taken, seen = 0, []

    @functools.wraps(step)
    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal taken
        taken += 1
        seen.clear()
        return step(*args, **kwargs)

    @functools.wraps(forward)
    def by_content(*args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        sample = given.pop(names[0])
        x = torch.stack(sample) if isinstance(sample, list) else sample
        content = tuple(_content({**given, "timestep": None, "t": None}))
        key = (content, seen.count(content))
        seen.append(content)
        run = runs.setdefault(key, sc.Run(method, grid_of(pipe.scheduler)))
        run.step = taken

        def evaluate() -> Tensor:
            y = forward(*args, **kwargs)[0]
            return torch.stack(y) if isinstance(y, list) else y

        y = run.advance(x, evaluate)
        return (list(y.unbind(0)) if isinstance(sample, list) else y,)

    network.forward, pipe.scheduler.step = by_content, counted
    try:
        yield
    finally:
        del network.forward, pipe.scheduler.step


def _content(value: Any) -> Iterator[Any]:
    if isinstance(value, Tensor):
        yield tuple(value.shape), float(value.double().sum())
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _content(item)


def without_guidance_after(step: int) -> Callable[..., dict[str, Any]]:
    """The callback that the diffusers guide shows: the guidance scale of a pipeline is set to zero half-way."""

    def callback(pipe: Any, i: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if i == step:
            pipe._guidance_scale = 0.0
            values |= {name: value.chunk(2)[-1] for name, value in values.items() if name != "latents"}
        return values

    return callback


def switched_off(step: int, *halved: str) -> dict[str, Any]:
    inputs = ["latents", *halved]
    return {"callback_on_step_end": without_guidance_after(step), "callback_on_step_end_tensor_inputs": inputs}


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
            pytest.skip(f"needs diffusers {family.since}")
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
        {
            "skip_guidance_layers": [1],
            "skip_layer_guidance_start": 0.2,
            "skip_layer_guidance_stop": 0.7,
            "skip_layer_guidance_scale": 2.8,
        },
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
    "case",
    [
        CASES["unnamed, skipped layers"],
        CASES["unnamed, from the middle"],
        CASES["unnamed, a worse self"],
        CASES["truncated"],
        CASES["switched off, SD3"],
    ],
    ids=["a third one", "guided from the middle", "a worse self", "truncated", "switched off"],
)
def test_further_streams_pass_the_block_stack(case: Case) -> None:
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


@pytest.mark.parametrize("method", [OUTPUT, STACK])
@pytest.mark.parametrize(
    "name, unguided",
    [
        ("FLUX.1 true CFG", {"true_cfg_scale": 1.0}),
        ("Stable Diffusion 3", {"guidance_scale": 1.0}),
        ("Lumina 2", {"guidance_scale": 1.0}),
        ("Stable Diffusion 1.5, DDIM", {"guidance_scale": 1.0}),
        ("Wan 2.1", {"guidance_scale": 1.0}),
    ],
)
def test_guidance_may_be_switched_on_and_off_between_runs(name: str, unguided: dict[str, Any], method: str) -> None:
    if method == STACK and name.startswith("Stable Diffusion 1.5"):
        pytest.skip("a U-Net has no stack of equal blocks")
    family = NAMED[name]
    pipe = family.build()
    fresh = []
    for call in ({}, unguided):
        with sc.accelerate(pipe, method):
            fresh.append(family.run(pipe, **call))
    assert not torch.equal(*fresh)
    with sc.accelerate(pipe, method) as acceleration:
        for call, expected in zip(({}, unguided, {}, unguided, unguided, {}), (0, 1, 0, 1, 1, 0), strict=True):
            assert torch.equal(family.run(pipe, **call), fresh[expected])
            assert len(acceleration.runs) == (2 if family.guidance == "separate" and not call else 1)


def test_guidance_that_ends_after_the_first_step_changes_the_branch() -> None:
    """The second call has half the batch, so it cannot belong to the branch of the first."""
    family, pipe = Case("Stable Diffusion 3", {}).build()
    call = switched_off(0, "prompt_embeds", "pooled_prompt_embeds")
    plain = family.run(pipe, **call)
    with sc.accelerate(pipe, "reuse:interval=4,warmup=1"):
        assert family.run(pipe, **call).shape == plain.shape


def test_a_batch_that_changes_under_one_name_is_refused(several: Several) -> None:
    with sc.accelerate(several, OUTPUT):
        several.begin(STEPS)
        whole = several.samples
        try:
            several.samples = whole.expand(STEPS, 2, 4, 16)
            for step in range(3):
                several.text, several.pooled = several.texts["a"].expand(2, -1, -1), several.pooled.expand(2, -1)
                with several.transformer.cache_context("cond_uncond"):
                    several.call(step)
            several.samples, several.text, several.pooled = whole, several.texts["a"], several.pooled[:1]
            with pytest.raises(ValueError, match="chang"), several.transformer.cache_context("cond_uncond"):
                several.call(3)
        finally:
            several.samples, several.pooled = whole, several.pooled[:1]
