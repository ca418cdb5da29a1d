"""Networks whose weights are adapted, quantised or in half precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline
from torch import Tensor

import skipcast as sc
from support.seams import OUTPUT, STACK, hooked, method_at, state
from support.tiny import flux_pipeline, latents, twin

STEPS = 8
ALWAYS = "reuse:interval=1", "resilphase:interval=1"

every_seam = pytest.mark.parametrize("seam", ["output", "stack", "plan"])


def run(pipe: Any, **call: Any) -> Tensor:
    return latents(pipe, STEPS, **{"true_cfg_scale": 1.0, **call})


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


def adapted(like: Any) -> FluxPipeline:
    """A pipeline with two adapters, of which the first is active."""
    pipe = twin(like)
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


@every_seam
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_adapters_may_change_between_calls(pipe: Any, seam: str, change: Callable[[Any], None]) -> None:
    """Every call is of the weights that it finds, and nothing is left of them in the next one."""
    used, other = adapted(pipe), adapted(pipe)
    run(other)
    method = method_at(seam, other)
    first = accelerated(other, method)
    change(other)
    plain, second = run(other), accelerated(other, method)
    with sc.accelerate(used, method) as acceleration:
        assert torch.equal(run(used), first)
        change(used)
        assert torch.equal(run(used), second)
        assert 0 < acceleration.summary().evaluations < STEPS
    assert torch.equal(run(used), plain)


@every_seam
def test_an_adapter_may_be_loaded_inside(pipe: Any, seam: str, tmp_path: Path) -> None:
    source, used = adapted(pipe), twin(pipe)
    peft = pytest.importorskip("peft", reason="adapters need peft")
    weights = peft.utils.get_peft_model_state_dict(source.transformer, adapter_name="a")
    config = source.transformer.peft_config["a"].to_dict()
    FluxPipeline.save_lora_weights(tmp_path, transformer_lora_layers=weights, transformer_lora_adapter_metadata=config)
    plain, bare = run(source), run(used)
    method = method_at(seam, source)
    wanted, wanted_bare = accelerated(source, method), accelerated(used, method)
    with sc.accelerate(used, method):
        assert torch.equal(run(used), wanted_bare)
        used.load_lora_weights(tmp_path, adapter_name="loaded")
        assert torch.allclose(run(used), wanted, atol=1e-6)
        used.unload_lora_weights()
        assert torch.equal(run(used), wanted_bare)
        used.load_lora_weights(tmp_path, adapter_name="again")
    assert torch.allclose(run(used), plain, atol=1e-6)
    used.unload_lora_weights()
    assert torch.equal(run(used), bare)


@every_seam
def test_an_adapter_may_be_fused_inside_and_unfused_afterwards(pipe: Any, seam: str) -> None:
    used = adapted(pipe)
    plain, method = run(used), method_at(seam, used)
    wanted = accelerated(used, method)
    with sc.accelerate(used, method):
        used.fuse_lora(adapter_names=["a"])
        assert torch.allclose(run(used), wanted, atol=1e-5)
    assert torch.allclose(run(used), plain, atol=1e-5)
    used.unfuse_lora()
    assert torch.allclose(run(used), plain, atol=1e-5)


def test_the_scale_of_an_adapter_is_that_of_the_call(pipe: Any) -> None:
    """`joint_attention_kwargs={"scale": ...}` reaches the network through our hooks."""
    used, half = adapted(pipe), {"joint_attention_kwargs": {"scale": 0.5}}
    plain, other, before = run(used), run(used, **half), state(used)
    assert not torch.allclose(plain, run(pipe), atol=1e-3)
    assert not torch.equal(other, plain)
    for method in ALWAYS:
        with sc.accelerate(used, method):
            assert torch.equal(run(used), plain)
            assert torch.equal(run(used, **half), other)
        assert state(used) == before
    for seam in ("output", "stack", "plan"):
        with sc.accelerate(used, method_at(seam, used)):
            assert not torch.equal(run(used, **half), run(used))
        assert torch.equal(run(used, **half), other)


# Quantised weights and half precision --------------------------------------------------------------------------------

#: The dtype, and how the weights are quantised besides.
WEIGHTS = {
    "bfloat16": (torch.bfloat16, ""),
    "float16": (torch.float16, ""),
    "int8": (torch.float32, "Int8WeightOnlyConfig"),
    "int8 of bfloat16": (torch.bfloat16, "Int8WeightOnlyConfig"),
    "float8": (torch.float32, "Float8WeightOnlyConfig"),
    "float8 of bfloat16": (torch.bfloat16, "Float8WeightOnlyConfig"),
}


@every_seam
@pytest.mark.parametrize("dtype, quantised", WEIGHTS.values(), ids=WEIGHTS)
def test_quantised_weights_and_half_precision_are_followed(dtype: torch.dtype, quantised: str, seam: str) -> None:
    pipe = flux_pipeline().to(dtype)
    if quantised:
        quantization = pytest.importorskip("torchao.quantization", reason="quantised weights need torchao")
        quantization.quantize_(pipe.transformer, getattr(quantization, quantised)())
    weight = pipe.transformer.transformer_blocks[0].attn.to_q.weight
    assert type(weight).__module__.startswith("torchao") == bool(quantised)
    plain, before, method = run(pipe), state(pipe), method_at(seam, pipe)
    assert plain.dtype == dtype
    for every in ALWAYS:
        with sc.accelerate(pipe, every):
            assert torch.equal(run(pipe), plain)
    seen: set[torch.dtype] = set()

    def note(_module: Any, args: Any, _output: Any) -> None:
        seen.add(args[0].dtype)

    def stepped(_pipe: Any, _i: int, _t: Any, values: dict[str, Any]) -> dict[str, Any]:
        seen.add(values["latents"].dtype)
        return values

    with sc.accelerate(pipe, method) as acceleration, hooked([pipe.transformer.norm_out], note):
        found = run(pipe, callback_on_step_end=stepped)
    assert 0 < acceleration.summary().evaluations < STEPS
    assert {found.dtype, *seen} == {dtype}  # skipped blocks hand on what evaluated ones do
    assert found.isfinite().all()
    assert (found.float() - plain.float()).norm() < 0.5 * plain.float().norm()
    assert state(pipe) == before
    assert pipe.transformer.transformer_blocks[0].attn.to_q.weight is weight
    assert torch.equal(run(pipe), plain)


@pytest.mark.parametrize("method", [OUTPUT, STACK])
def test_the_dtype_may_change_between_calls(method: str) -> None:
    pipe = flux_pipeline()
    with sc.accelerate(pipe, method):
        full = run(pipe)
        half = run(pipe.to(torch.bfloat16))
        assert half.dtype == torch.bfloat16
        assert run(pipe.to(torch.float32)).dtype == torch.float32
    assert (half.float() - full).norm() < 0.1 * full.norm()
