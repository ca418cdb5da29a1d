"""Calls of one accelerated pipeline that differ, are interrupted, fail or answer in another form."""

from __future__ import annotations

import gc
import itertools
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

import skipcast as sc
from families.all import NAMED
from support.seams import OUTPUT, SEAMS, every_method, every_seam, hooked, method_at, method_id
from support.tiny import PROMPT, Stop, accelerated, at, interrupt, latents, stop

PROMPTS = [PROMPT, "a small green circle on a white background", "large black heart, red background"]

# Calls that differ ---------------------------------------------------------------------------------------------------

CALLS: list[dict[str, Any]] = [
    {"steps": 9},
    {"prompt": PROMPTS, "steps": 9},
    {"steps": 7},
    {"steps": 9, "height": 128, "width": 32},
    {"steps": 20, "height": 32, "width": 32, "true_cfg_scale": 1.0},
    {"prompt": PROMPTS[:2], "steps": 7},
]


@pytest.mark.parametrize("method", [*SEAMS, "taylorseer:evaluations=5", "resilphase:evaluations=6"], ids=method_id)
def test_sizes_steps_and_batches_may_change_between_calls(pipe: Any, method: Any) -> None:
    """The schedule follows: one fixed when a cache is enabled begins anew in the middle of a longer run."""
    expected = accelerated(pipe, method, *CALLS)
    with sc.accelerate(pipe, method) as acceleration:
        for place in (*range(len(CALLS)), *reversed(range(len(CALLS)))):
            assert torch.equal(latents(pipe, **CALLS[place]), expected[place])
            steps, summary = CALLS[place]["steps"], acceleration.summary()
            assert (summary.steps, summary.evaluated_steps) == (steps, acceleration.method.controller.evaluated(steps))


@every_seam
def test_noise_may_come_from_generators_or_as_latents(pipe: Any, seam: str) -> None:
    """One generator per image, and the noise that they draw; every image is what it is on its own."""

    def call(seeds: tuple[int, ...], **given: Any) -> Tensor:
        noise = [torch.Generator().manual_seed(seed) for seed in seeds]
        many = {"num_images_per_prompt": 3, "num_inference_steps": 9, "output_type": "latent", "generator": noise}
        return pipe(PROMPT, **{**many, **given}).images

    seeds = (3, 4, 3)
    noise = torch.cat([torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    noise = pipe._pack_latents(noise, 3, 4, 8, 8)
    before = noise.clone()
    call(seeds)
    with sc.accelerate(pipe, method_at(seam, pipe)):
        batch = call(seeds)
        assert torch.equal(call((9, 9, 9), latents=noise), batch)
        assert torch.allclose(call((4,), num_images_per_prompt=1), batch[1:2], atol=1e-5)
    assert torch.equal(noise, before)
    assert torch.equal(batch[0], batch[2])
    assert not torch.allclose(batch[0], batch[1], atol=1e-2)


@every_seam
def test_generators_are_left_as_a_plain_run_leaves_them(pipe: Any, seam: str) -> None:
    """Nothing is drawn besides: neither from the call's generator nor from torch's own."""

    def left() -> tuple[Tensor, Tensor]:
        torch.manual_seed(5)
        generator = torch.Generator().manual_seed(6)
        pipe(PROMPT, num_inference_steps=8, output_type="latent", generator=generator)
        return generator.get_state(), torch.get_rng_state()

    plain = left()
    with sc.accelerate(pipe, method_at(seam, pipe)):
        assert all(map(torch.equal, left(), plain))


@every_method
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


@every_method
def test_a_callback_that_overwrites_latents_in_place_reaches_no_evaluation(pipe: Any, method: Any) -> None:
    """What is remembered is a copy."""

    def replaced(_pipe: Any, values: dict[str, Any]) -> None:
        values["latents"] = values["latents"] + 1.0

    def in_place(_pipe: Any, values: dict[str, Any]) -> None:
        values["latents"].add_(1.0)

    with sc.accelerate(pipe, method):
        found = [latents(pipe, callback_on_step_end=at(4, change)) for change in (replaced, in_place)]
    assert torch.equal(*found)


def test_a_prompt_that_changes_half_way_is_evaluated_at_once() -> None:
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


@every_method
def test_a_run_after_one_cut_short_is_a_fresh_one(pipe: Any, method: Any) -> None:
    """Cut at the first step, at a forecast one and near the end, by an interruption or an exception."""
    calls: list[dict[str, Any]] = [{"steps": 9}, {"height": 32, "width": 32, "steps": 7}]
    expected = accelerated(pipe, method, *calls)
    with sc.accelerate(pipe, method) as acceleration:
        for step, end, again in itertools.product((0, 4, 7), (interrupt, stop), (0, 1)):
            try:
                latents(pipe, steps=9, callback_on_step_end=at(step, end))
                assert end is interrupt
            except Stop:
                assert end is stop
            assert acceleration.calls == {key: [*range(step + 1)] for key in ("cond", "uncond")}
            assert torch.equal(latents(pipe, **calls[again]), expected[again]), (step, end)


@every_method
def test_a_network_that_fails_in_one_branch_leaves_nothing_behind(pipe: Any, method: Any) -> None:
    calls = iter(range(1, 5))

    def fail(*_: Any) -> None:
        if next(calls) == 4:  # the unconditional one of the second step
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


def tensors_alive() -> list[Tensor]:
    gc.collect()
    return [thing for thing in gc.get_objects() if isinstance(thing, Tensor)]


@pytest.mark.parametrize("end", [None, interrupt], ids=["whole", "interrupted"])
@every_method
def test_nothing_is_kept_after_a_run(pipe: Any, method: Any, end: Any) -> None:
    """As many tensors live after an accelerated run as after a plain one, apart from numbers of the trace."""
    call = {} if end is None else {"callback_on_step_end": at(4, end)}
    outputs: list[StorageWeakRef] = []

    def note(_module: Any, _args: Any, output: Any) -> None:
        values = output if isinstance(output, tuple) else (output,)
        outputs.extend(StorageWeakRef(value.untyped_storage()) for value in values if isinstance(value, Tensor))

    def nothing_kept() -> None:
        assert all(len(run.history) == 0 for run in acceleration.all_runs())
        assert not [t for t in tensors_alive() if id(t) not in before and t.numel() > 12 and t.ndim > 1]

    latents(pipe, **call)
    before = {id(tensor) for tensor in tensors_alive()}
    with sc.accelerate(pipe, method) as acceleration:
        with hooked(pipe.transformer.modules(), note):
            result = weakref.ref(latents(pipe, **call))
        gc.collect()
        assert result() is None
        assert all(place.expired() for place in outputs)
        if end is None:
            nothing_kept()
    nothing_kept()


@pytest.mark.parametrize("order", [0, 2])
@pytest.mark.parametrize("guided, branches", [(2.0, 2), (1.0, 1)])
def test_a_run_holds_one_output_more_than_its_order_per_branch(
    pipe: Any, order: int, guided: float, branches: int
) -> None:
    outputs = 16 * 16 * 4
    with sc.accelerate(pipe, f"lagrange:order={order},interval=3") as acceleration:
        for batch in (1, 3):
            latents(pipe, steps=9, prompt=PROMPTS[:batch], true_cfg_scale=guided)
            assert acceleration.summary().cached_bytes == branches * (order + 1) * outputs * batch
            latents(pipe, steps=5, height=32, width=32, true_cfg_scale=1.0)
            assert acceleration.summary().cached_bytes == (order + 1) * outputs // 4


@pytest.mark.parametrize("name", ["Stable Diffusion 1.5, DDIM", "Wan 2.1", "Z-Image", "HunyuanVideo"])
def test_families_keep_nothing_and_hold_little(name: str) -> None:
    family = NAMED[name]
    pipe, sizes = family.build(), []

    def note(_module: Any, _args: Any, output: Any) -> None:
        sizes.append(sum(value.nbytes for value in (output[0] if isinstance(output[0], list) else output[:1])))

    with hooked([getattr(pipe, family.denoisers[0])], note), sc.accelerate(pipe, OUTPUT) as acceleration:
        family.run(pipe, steps=8)
        runs = acceleration.all_runs()
        assert acceleration.summary().cached_bytes == 2 * max(sizes) * len(runs)
        assert [run.bytes() for run in runs] == [0] * len(runs)
        family.run(pipe, steps=8)
        assert acceleration.all_runs()[0] is not runs[0]
