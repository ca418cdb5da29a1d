"""Calls of one accelerated pipeline that differ, are interrupted, fail or answer in another form."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

import skipcast as sc
from families.all import NAMED
from families.base import Family
from support.seams import OUTPUT, SEAMS, method_id
from support.tiny import PROMPT, Stop, accelerated, at, flux_pipeline, interrupt, latents, stop

PROMPTS = [PROMPT, "a small green circle on a white background", "large black heart, red background"]


@pytest.fixture(scope="module")
def pipe() -> Any:
    return flux_pipeline()


# Calls that differ ---------------------------------------------------------------------------------------------------

CALLS: list[dict[str, Any]] = [
    {},
    {"prompt": PROMPTS},
    {"steps": 7},
    {"height": 128, "width": 32},
    {"steps": 20, "height": 32, "width": 32, "true_cfg_scale": 1.0},
    {"prompt": PROMPTS[:2], "steps": 5},
    {"num_images_per_prompt": 1},
]


@pytest.mark.parametrize("method", SEAMS, ids=method_id)
def test_sizes_steps_and_batches_may_change_between_calls(pipe: Any, method: Any) -> None:
    expected = accelerated(pipe, method, *CALLS)
    with sc.accelerate(pipe, method) as acceleration:
        for order in (range(len(CALLS)), reversed(range(len(CALLS)))):
            for place in order:
                assert torch.equal(latents(pipe, **CALLS[place]), expected[place])
                assert acceleration.summary().steps == CALLS[place].get("steps", 12)


@pytest.mark.parametrize("method", SEAMS, ids=method_id)
def test_several_pictures_per_prompt_are_pictures_on_their_own(pipe: Any, method: Any) -> None:
    call = {"num_inference_steps": 9, "output_type": "latent", "true_cfg_scale": 2.0, "negative_prompt": ""}
    noise = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))
    with sc.accelerate(pipe, method):
        three = pipe(PROMPT, num_images_per_prompt=3, latents=noise, **call).images
        alone = [pipe(PROMPT, latents=one, **call).images for one in noise.split(1)]
    assert torch.allclose(three, torch.cat(alone), atol=2e-5)


@pytest.mark.parametrize("method", SEAMS, ids=method_id)
def test_noise_may_come_from_generators_or_as_latents(pipe: Any, method: Any) -> None:
    """One generator per image, one for both, and the noise that they draw."""
    call = {"num_inference_steps": 9, "output_type": "latent"}
    generator = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    with sc.accelerate(pipe, method):
        listed = pipe(PROMPTS[:2], generator=generator, **call).images
        drawn, _ = pipe.prepare_latents(
            2, 4, 64, 64, torch.float32, "cpu", [torch.Generator().manual_seed(seed) for seed in (3, 4)]
        )
        before = drawn.clone()
        given = pipe(PROMPTS[:2], latents=drawn, generator=torch.Generator("cpu").manual_seed(9), **call).images
        single = [
            pipe(PROMPTS[:2], generator=torch.Generator().manual_seed(5), **call).images,
            pipe(PROMPTS[:2], generator=torch.Generator().manual_seed(5), **call).images,
        ]
    assert torch.equal(listed, given)
    assert torch.equal(drawn, before)
    assert torch.equal(*single)


@pytest.mark.parametrize("method", SEAMS, ids=method_id)
def test_the_form_of_the_result_changes_nothing(pipe: Any, method: Any) -> None:
    def call(**form: Any) -> Any:
        return pipe(PROMPT, num_inference_steps=6, generator=torch.Generator().manual_seed(0), **form)

    with sc.accelerate(pipe, method):
        expected = call(output_type="latent").images
        assert torch.equal(call(output_type="latent", return_dict=False)[0], expected)
        arrays = torch.from_numpy(call(output_type="np").images).permute(0, 3, 1, 2)
        assert torch.equal(call(output_type="pt").images, arrays)
        assert call(output_type="pil").images[0].size == (64, 64)
        assert torch.equal(call(output_type="latent").images, expected)


# Callbacks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["taylorseer:order=1,interval=1", "resilphase:interval=1"])
def test_a_callback_that_changes_latents_does_so_as_without_acceleration(pipe: Any, method: str) -> None:
    def brighten(_pipe: Any, values: dict[str, Any]) -> None:
        values["latents"] = 1.5 * values["latents"] + 0.1

    changed = {"callback_on_step_end": at(4, brighten)}
    plain = latents(pipe, **changed)
    assert not torch.equal(plain, latents(pipe))
    with sc.accelerate(pipe, method):
        assert torch.equal(latents(pipe, **changed), plain)


@pytest.mark.parametrize("method", SEAMS, ids=method_id)
def test_a_callback_that_overwrites_latents_in_place_reaches_no_evaluation(pipe: Any, method: Any) -> None:
    """What is remembered is a copy."""

    def replaced(_pipe: Any, values: dict[str, Any]) -> None:
        values["latents"] = values["latents"] + 1.0

    def in_place(_pipe: Any, values: dict[str, Any]) -> None:
        values["latents"].add_(1.0)

    with sc.accelerate(pipe, method):
        found = [latents(pipe, callback_on_step_end=at(4, change)) for change in (replaced, in_place)]
    assert torch.equal(*found)


def test_a_prompt_that_changes_half_way_is_evaluated_at_once(pipe: Any) -> None:
    """Its embeddings are others, so what the former prompt gave says nothing of it."""
    family = NAMED["Stable Diffusion 3"]
    other = family.build()
    embeddings = family.prompt(1)

    def switch(pipe: Any, values: dict[str, Any]) -> None:
        values["prompt_embeds"] = torch.cat([embeddings["negative_prompt_embeds"], embeddings["prompt_embeds"]])

    callback = {
        "callback_on_step_end": at(5, switch),
        "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"],
    }
    with sc.accelerate(other, OUTPUT) as acceleration:
        family.run(other, steps=12, **callback)
    first, second = ([record.step for record in run.trace if record.evaluated] for run in acceleration.runs.values())
    assert first == [0, 1, 2, 5]
    assert second == [6, 8, 11]


# Interrupted and failed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [interrupt, stop], ids=["interrupted", "failed"])
@pytest.mark.parametrize("step", [0, 3, 4, 10])
@pytest.mark.parametrize("method", SEAMS, ids=method_id)
def test_a_run_after_one_cut_short_is_a_fresh_one(
    pipe: Any, method: Any, step: int, end: Callable[[Any, dict[str, Any]], None]
) -> None:
    small = {"height": 32, "width": 32, "steps": 9}
    expected = accelerated(pipe, method, {}, small)
    with sc.accelerate(pipe, method) as acceleration:
        for call, wanted in zip(({}, small, {}), (expected[0], expected[1], expected[0]), strict=True):
            try:
                latents(pipe, callback_on_step_end=at(step, end))
                assert end is interrupt
            except Stop:
                assert end is stop
            assert acceleration.calls == {"cond": step + 1, "uncond": step + 1}
            assert torch.equal(latents(pipe, **call), wanted)


@pytest.mark.parametrize("method", SEAMS, ids=method_id)
def test_a_network_that_fails_in_one_branch_leaves_nothing_behind(pipe: Any, method: Any) -> None:
    calls = 0

    def fail(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:  # the unconditional one of the second step
            raise Stop

    expected = accelerated(pipe, method, {}, {"prompt": PROMPTS[:2]})
    with sc.accelerate(pipe, method):
        # In front of the second block, so that the first has been evaluated.
        handle = pipe.transformer.single_transformer_blocks[0].register_forward_pre_hook(fail)
        with pytest.raises(Stop):
            latents(pipe)
        handle.remove()
        assert torch.equal(latents(pipe, prompt=PROMPTS[:2]), expected[1])
        assert torch.equal(latents(pipe), expected[0])


# What is kept --------------------------------------------------------------------------------------------------------


@contextmanager
def outputs_of(network: torch.nn.Module) -> Iterator[list[StorageWeakRef]]:
    """Where the outputs of all its modules lie."""
    found: list[StorageWeakRef] = []

    def note(_module: Any, _args: Any, output: Any) -> None:
        for value in output if isinstance(output, tuple) else (output,):
            if isinstance(value, Tensor):
                found.append(StorageWeakRef(value.untyped_storage()))

    handles = [module.register_forward_hook(note) for module in network.modules()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def tensors_alive() -> list[Tensor]:
    gc.collect()
    return [thing for thing in gc.get_objects() if isinstance(thing, Tensor)]


@pytest.mark.parametrize("end", [None, interrupt], ids=["whole", "interrupted"])
@pytest.mark.parametrize("method", SEAMS, ids=method_id)
def test_nothing_is_kept_after_a_run(pipe: Any, method: Any, end: Any) -> None:
    """As many tensors live after an accelerated run as after a plain one, apart from numbers of the trace."""
    call = {} if end is None else {"callback_on_step_end": at(4, end)}
    latents(pipe, **call)
    before = {id(tensor) for tensor in tensors_alive()}
    with sc.accelerate(pipe, method) as acceleration:
        with outputs_of(pipe.transformer) as outputs:
            result = weakref.ref(latents(pipe, **call))
        gc.collect()
        assert result() is None
        assert all(place.expired() for place in outputs)
        if end is None:
            assert all(len(run.history) == 0 for run in acceleration.all_runs())
            assert not [t for t in tensors_alive() if id(t) not in before and t.numel() > 12 and t.ndim > 1]
    assert all(len(run.history) == 0 for run in acceleration.all_runs())
    assert not [t for t in tensors_alive() if id(t) not in before and t.numel() > 12 and t.ndim > 1]


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("guided, branches", [(2.0, 2), (1.0, 1)])
def test_a_run_holds_one_output_more_than_its_order_per_branch(
    pipe: Any, order: int, guided: float, branches: int
) -> None:
    outputs = 16 * 16 * 4
    for batch in (1, 3):
        with sc.accelerate(pipe, f"lagrange:order={order},interval=3") as acceleration:
            latents(pipe, prompt=PROMPTS[:batch] if batch > 1 else PROMPT, true_cfg_scale=guided)
            assert acceleration.summary().cached_bytes == branches * (order + 1) * outputs * batch
            latents(pipe, steps=5, height=32, width=32, true_cfg_scale=1.0)
            assert acceleration.summary().cached_bytes == (order + 1) * outputs // 4


@pytest.mark.parametrize("name", ["Stable Diffusion 1.5, DDIM", "Wan 2.1", "Z-Image", "HunyuanVideo"])
def test_families_keep_nothing_and_hold_little(name: str) -> None:
    family: Family = NAMED[name]
    pipe = family.build()
    denoiser = getattr(pipe, family.denoisers[0])
    sizes: list[int] = []
    handle = denoiser.register_forward_hook(lambda _m, _a, output: sizes.append(_bytes(output)))
    with sc.accelerate(pipe, OUTPUT) as acceleration:
        family.run(pipe, steps=8)
        runs = acceleration.all_runs()
        assert acceleration.summary().cached_bytes == 2 * max(sizes) * len(runs)
        assert [run.bytes() for run in runs] == [0] * len(runs)
        family.run(pipe, steps=8)
        assert acceleration.all_runs()[0] is not runs[0]
    handle.remove()


def _bytes(output: Any) -> int:
    first = output[0]
    return (
        sum(map(_bytes, ([one] for one in first))) if isinstance(first, list) else first.numel() * first.element_size()
    )
