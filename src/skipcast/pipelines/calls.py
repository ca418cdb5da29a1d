"""Arguments of a pipeline call for chosen images: prompts, or whatever else distinguishes them, and seeds."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import ModularPipeline
from torch import Tensor

from skipcast.plans.plan import Plan, word

#: What distinguishes one image from another: a text, or arguments of a call for one image, tensors and lists with a
#: leading dimension of 1.
Prompt = str | Mapping[str, Any]

#: Arguments of a pipeline call that are set for every image, with what to give instead.
OURS = {
    "prompt": "prompts",
    "generator": "seeds",
    "latents": "seeds",
    "num_inference_steps": "steps",
    "output_type": "nothing",
    "return_dict": "nothing",
    "callback_on_step_end": "nothing",
    "num_images_per_prompt": "the prompt several times with several seeds",
    "num_videos_per_prompt": "the prompt several times with several seeds",
}


def arguments(
    call: Mapping[str, Any], prompts: Sequence[Prompt], seeds: Sequence[int], steps: int | None = None
) -> dict[str, Any]:
    """Return the arguments of a pipeline call for these images.

    Generators are on the CPU, so that a seed means the same noise on every device.

    Raises:
        ValueError: the call would replace what sets the images apart.
    """
    own = batched(prompts)
    for name in call:
        if name in own or name == "generator":
            instead = OURS.get(name, "prompts")
            raise ValueError(f"call={{{name!r}: ...}} would replace what sets images apart; give {instead}.")
    given = dict(call)
    for name, value in call.items():
        if name.startswith(("prompt", "negative_prompt")) and isinstance(value, str):
            given[name] = [value] * len(prompts)
    if steps is not None:
        given["num_inference_steps"] = steps
    noise = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    return {**own, "generator": noise, **given}


def guided(pipe: Any, scale: float) -> dict[str, Any]:
    """Return the arguments that set the guidance scale; pipelines of distilled models call it true_cfg_scale."""
    if "true_cfg_scale" in inspect.signature(type(pipe).__call__).parameters:
        return {"true_cfg_scale": scale, "negative_prompt": ""}
    return {"guidance_scale": scale}


def argument_of(pipe: Any, name: str, *args: Any, **kwargs: Any) -> float:
    """Return a number among the arguments of a pipeline call, its default included.

    Raises:
        ValueError: the call has no such argument, or it is no number.
    """
    kind = type(pipe)
    bound = inspect.signature(kind.__call__).bind_partial(pipe, *args, **kwargs)
    bound.apply_defaults()
    value = {**bound.arguments, **kwargs}.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise ValueError(
        f"this plan has knots over {name}, and this call of {kind.__name__} gives {name}={value!r}; pass a number, or "
        "run plan.at(...), the plan for one value."
    )


def plan_of_call(pipe: Any, plan: Plan, call: Mapping[str, Any]) -> Plan:
    """Return the plan that a call of the pipeline runs: that for its guidance scale, of a plan with knots.

    Raises:
        ValueError: the scale lies outside the knots, or the call has none.
    """
    return plan.at(argument_of(pipe, plan.argument, **call)) if plan.argument else plan


def undecoded(pipe: Any) -> dict[str, Any]:
    """Return the argument that makes a pipeline return the final latents instead of a decoded image.

    Modular pipelines return the value by name instead, since some of them decode whatever the output type is.
    """
    return {"output": "latents"} if isinstance(pipe, ModularPipeline) else {"output_type": "latent"}


def unpaired(values: Tensor, pairs: int) -> Tensor:
    """Return one value per pair, also for a batch that holds every pair twice.

    DiT pipelines make such batches: they step both guidance branches with the same sample.
    """
    twice = len(values) == 2 * pairs and torch.equal(values[:pairs], values[pairs:])
    return values[:pairs] if twice else values


def batched(prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Join the arguments of several prompts into those of one call.

    Raises:
        ValueError: the prompts have different arguments, or values that cannot be joined.
    """
    items = [{"prompt": prompt} if isinstance(prompt, str) else prompt for prompt in prompts]
    names = {tuple(sorted(item)) for item in items}
    if len(names) != 1:
        raise ValueError(f"all prompts of a call must give the same arguments, got {sorted(names)}.")
    return {name: _joined(name, [item[name] for item in items]) for name in items[0]}


def _joined(name: str, values: Sequence[Any]) -> Any:
    if all(isinstance(value, str) for value in values):
        return list(values)
    if all(isinstance(value, Tensor) for value in values):
        shapes = {tuple(value.shape[1:]) for value in values}
        if len(shapes) != 1:
            raise ValueError(f"{name} of these prompts differs in shape, {sorted(shapes)}; pad them, or use batch=1.")
        return torch.cat(list(values))
    if all(isinstance(value, list) for value in values):
        return [entry for value in values for entry in value]
    if len(values) == 1:
        return values[0]
    raise ValueError(f"{name} must be texts, tensors or lists with one entry per image, or use batch=1.")


def described(prompt: Prompt) -> str:
    """Return a prompt as text; a tensor is described by its shape and digest, so that equal tensors have equal text."""
    if isinstance(prompt, str):
        return prompt
    return ", ".join(f"{name}={_worded(value)}" for name, value in sorted(prompt.items()))


def _worded(value: Any) -> str:
    if isinstance(value, Tensor):
        digest = hashlib.sha256(value.detach().cpu().contiguous().float().numpy().tobytes()).hexdigest()[:12]
        return f"<{tuple(value.shape)} {digest}>"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_worded, value))}]"
    return repr(value) if isinstance(value, str | int | float) else word(value)
