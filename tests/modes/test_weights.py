"""Networks whose weights are adapted, quantised or in half precision, and the generators that pipelines take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline
from torch import Tensor

import skipcast as sc
from support.seams import state
from support.tiny import PROMPT, compiled, flux_pipeline, latents

STEPS = 8
OUTPUT, STACK, LINEAR = "taylorseer:order=1,interval=3", "resilphase:interval=3", "lagrange:order=1,interval=3"
ALWAYS = {"output": "reuse:interval=1", "stack": "resilphase:interval=1"}
FORECASTING = {"output": OUTPUT, "stack": STACK, "plan": LINEAR}

every_seam = pytest.mark.parametrize("seam", FORECASTING)
inner_seams = pytest.mark.parametrize("seam", ALWAYS)


def run(pipe: Any, **call: Any) -> Tensor:
    return latents(pipe, STEPS, **call)


def method_at(seam: str, pipe: Any) -> Any:
    return compiled(pipe, LINEAR) if seam == "plan" else FORECASTING[seam]


def accelerated(pipe: Any, method: Any) -> Tensor:
    with sc.accelerate(pipe, method) as acceleration:
        found = run(pipe)
    assert 0 < acceleration.summary().evaluations < STEPS
    return found


# Adapters ------------------------------------------------------------------------------------------------------------


def add(pipe: Any, name: str, seed: int) -> None:
    """A LoRA of random weights on the attention of every block."""
    peft = pytest.importorskip("peft", reason="adapters need peft")
    torch.manual_seed(seed)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    config = peft.LoraConfig(r=2, lora_alpha=4, init_lora_weights=False, target_modules=targets)
    pipe.transformer.add_adapter(config, adapter_name=name)


def adapted() -> FluxPipeline:
    """A pipeline with two adapters, of which the first is active."""
    pipe = flux_pipeline()
    add(pipe, "a", 1)
    add(pipe, "b", 2)
    pipe.transformer.set_adapter("a")
    return pipe


#: What a user does with adapters between two calls.
CHANGES: dict[str, Callable[[Any], None]] = {
    "another adapter": lambda pipe: pipe.set_adapters("b"),
    "both, weighted": lambda pipe: pipe.set_adapters(["a", "b"], [0.5, 1.5]),
    "switched off": lambda pipe: pipe.transformer.disable_adapters(),
    "fused": lambda pipe: pipe.fuse_lora(adapter_names=["a"]),
    "one deleted": lambda pipe: pipe.delete_adapters("b"),
    "unloaded": lambda pipe: pipe.unload_lora_weights(),
    "a third one": lambda pipe: (add(pipe, "c", 3), pipe.set_adapters("c"))[0],
}


@inner_seams
def test_an_adapted_network_evaluated_at_every_step_is_the_plain_one(seam: str) -> None:
    pipe, without = adapted(), run(flux_pipeline())
    plain, before = run(pipe), state(pipe)
    assert not torch.allclose(plain, without, atol=1e-3)
    with sc.accelerate(pipe, ALWAYS[seam]):
        assert torch.equal(run(pipe), plain)
    assert state(pipe) == before


@every_seam
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_adapters_may_change_between_calls(seam: str, change: Callable[[Any], None]) -> None:
    """Every call is of the weights that it finds, and nothing is left of them in the next one."""
    pipe, other = adapted(), adapted()
    run(other)
    method = method_at(seam, other)
    first = accelerated(other, method)
    change(other)
    plain, second = run(other), accelerated(other, method)
    with sc.accelerate(pipe, method) as acceleration:
        assert torch.equal(run(pipe), first)
        change(pipe)
        assert torch.equal(run(pipe), second)
        assert 0 < acceleration.summary().evaluations < STEPS
    assert torch.equal(run(pipe), plain)


@every_seam
def test_an_adapter_may_be_loaded_inside(seam: str, tmp_path: Path) -> None:
    source = adapted()
    peft = pytest.importorskip("peft")
    weights = peft.utils.get_peft_model_state_dict(source.transformer, adapter_name="a")
    config = source.transformer.peft_config["a"].to_dict()
    FluxPipeline.save_lora_weights(tmp_path, transformer_lora_layers=weights, transformer_lora_adapter_metadata=config)
    plain = run(source)
    pipe, bare = flux_pipeline(), run(flux_pipeline())
    run(pipe)
    method = method_at(seam, source)
    wanted, wanted_bare = accelerated(source, method), accelerated(flux_pipeline(), method)
    with sc.accelerate(pipe, method):
        assert torch.equal(run(pipe), wanted_bare)
        pipe.load_lora_weights(tmp_path, adapter_name="loaded")
        assert torch.allclose(run(pipe), wanted, atol=1e-6)
        pipe.unload_lora_weights()
        assert torch.equal(run(pipe), wanted_bare)
        pipe.load_lora_weights(tmp_path, adapter_name="again")
    assert torch.allclose(run(pipe), plain, atol=1e-6)
    pipe.unload_lora_weights()
    assert torch.equal(run(pipe), bare)


@every_seam
def test_an_adapter_may_be_fused_inside_and_unfused_afterwards(seam: str) -> None:
    pipe = adapted()
    plain = run(pipe)
    method = method_at(seam, pipe)
    wanted = accelerated(pipe, method)
    with sc.accelerate(pipe, method):
        pipe.fuse_lora(adapter_names=["a"])
        assert torch.allclose(run(pipe), wanted, atol=1e-5)
    assert torch.allclose(run(pipe), plain, atol=1e-5)
    pipe.unfuse_lora()
    assert torch.allclose(run(pipe), plain, atol=1e-5)


@every_seam
def test_the_scale_of_an_adapter_is_that_of_the_call(seam: str) -> None:
    """`joint_attention_kwargs={"scale": ...}` reaches the network through our hooks."""
    pipe = adapted()
    half = {"joint_attention_kwargs": {"scale": 0.5}}
    plain = run(pipe, **half)
    assert not torch.equal(run(pipe), plain)
    if seam != "plan":
        with sc.accelerate(pipe, ALWAYS[seam]):
            assert torch.equal(run(pipe, **half), plain)
    with sc.accelerate(pipe, method_at(seam, pipe)):
        assert not torch.equal(run(pipe, **half), run(pipe))
    assert torch.equal(run(pipe, **half), plain)


# Quantised weights ---------------------------------------------------------------------------------------------------


def quantised(kind: str, dtype: torch.dtype = torch.float32) -> FluxPipeline:
    quantization = pytest.importorskip("torchao.quantization", reason="quantised weights need torchao")
    pipe = flux_pipeline().to(dtype)
    quantization.quantize_(pipe.transformer, getattr(quantization, kind)())
    return pipe


@every_seam
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["Int8WeightOnlyConfig", "Float8WeightOnlyConfig"])
def test_quantised_weights_are_followed(kind: str, dtype: torch.dtype, seam: str) -> None:
    pipe = quantised(kind, dtype)
    weight = pipe.transformer.transformer_blocks[0].attn.to_q.weight
    assert type(weight).__module__.startswith("torchao")
    plain, before = run(pipe), state(pipe)
    if seam != "plan":
        with sc.accelerate(pipe, ALWAYS[seam]):
            assert torch.equal(run(pipe), plain)
    found = accelerated(pipe, method_at(seam, pipe))
    assert found.dtype == dtype
    assert found.isfinite().all()
    assert (found - plain).norm() < 0.5 * plain.norm()
    assert state(pipe) == before
    assert pipe.transformer.transformer_blocks[0].attn.to_q.weight is weight
    assert torch.equal(run(pipe), plain)


# Half precision ------------------------------------------------------------------------------------------------------


@every_seam
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_stays_half_precision(dtype: torch.dtype, seam: str) -> None:
    pipe = flux_pipeline().to(dtype)
    plain = run(pipe)
    assert plain.dtype == dtype
    if seam != "plan":
        with sc.accelerate(pipe, ALWAYS[seam]):
            assert torch.equal(run(pipe), plain)
    seen: set[torch.dtype] = set()
    handle = pipe.transformer.norm_out.register_forward_pre_hook(lambda _module, args: seen.add(args[0].dtype))
    dtypes: list[torch.dtype] = []
    with sc.accelerate(pipe, method_at(seam, pipe)) as acceleration:
        found = run(
            pipe, callback_on_step_end=lambda _pipe, _i, _t, given: dtypes.append(given["latents"].dtype) or given
        )
        kept = [run.history for run in acceleration.runs.values()]
    handle.remove()
    assert found.dtype == dtype
    assert found.isfinite().all()
    assert seen == {dtype}  # skipped blocks hand on what evaluated ones do
    assert set(dtypes) == {dtype}
    assert all(not len(history) for history in kept)
    assert (found.float() - plain.float()).norm() < 0.5 * plain.float().norm()
    assert torch.equal(run(pipe), plain)


@pytest.mark.parametrize("seam", ["output", "stack"])
def test_the_dtype_may_change_between_calls(seam: str) -> None:
    pipe = flux_pipeline()
    with sc.accelerate(pipe, FORECASTING[seam]):
        full = run(pipe)
        pipe.to(torch.bfloat16)
        half = run(pipe)
        assert half.dtype == torch.bfloat16
        pipe.to(torch.float32)
        assert run(pipe).dtype == torch.float32
    assert (half.float() - full).norm() < 0.1 * full.norm()


# Generators ----------------------------------------------------------------------------------------------------------


@every_seam
def test_a_list_of_generators_gives_every_picture_its_own_noise(seam: str) -> None:
    pipe = flux_pipeline()
    run(pipe)
    method = method_at(seam, pipe)
    call = {"num_inference_steps": STEPS, "output_type": "latent"}
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4, 3)]
    with sc.accelerate(pipe, method):
        batch = pipe(PROMPT, num_images_per_prompt=3, generator=generators, **call).images
        alone = pipe(PROMPT, generator=torch.Generator().manual_seed(4), **call).images
    assert torch.equal(batch[0], batch[2])
    assert torch.allclose(batch[1:2], alone, atol=1e-5)
    assert not torch.allclose(batch[0], batch[1], atol=1e-2)


@every_seam
def test_generators_are_left_as_a_plain_run_leaves_them(seam: str) -> None:
    """Nothing is drawn besides: neither from the call's generator nor from torch's own."""
    pipe = flux_pipeline()
    run(pipe)
    method = method_at(seam, pipe)
    ends = []
    for one in (None, method):
        torch.manual_seed(5)
        generator = torch.Generator().manual_seed(6)
        call = {"num_inference_steps": STEPS, "output_type": "latent", "generator": generator}
        if one is None:
            pipe(PROMPT, **call)
        else:
            with sc.accelerate(pipe, one):
                pipe(PROMPT, **call)
        ends.append((generator.get_state(), torch.get_rng_state()))
    assert all(torch.equal(mine, plain) for mine, plain in zip(*ends, strict=True))


@every_seam
def test_given_latents_need_no_generator(seam: str) -> None:
    pipe = flux_pipeline()
    run(pipe)
    method = method_at(seam, pipe)
    noise = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(8))
    call = {"num_inference_steps": STEPS, "output_type": "latent", "latents": noise}
    with sc.accelerate(pipe, method):
        first = pipe(PROMPT, **call).images
        assert torch.equal(pipe(PROMPT, generator=torch.Generator().manual_seed(9), **call).images, first)
