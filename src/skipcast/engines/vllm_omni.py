"""Plans in vLLM-Omni: a plug-in that puts a scheduler of plans in the place of a pipeline's own.

    SKIPCAST_PLANS=plans vllm-omni serve Qwen/Qwen-Image --omni

A request chooses by `num_inference_steps`. Source: vllm-omni 0.30.0, whose plugins/__init__.py calls `register` in the
engine's process and in every diffusion worker before the model is made, perhaps more than once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from skipcast.engines.tiers import VARIABLE, Tiers

#: Caches that do not count steps; the others would count those that the request names.
_UNCOUNTED = (None, "none", "tea_cache")
_SCALES = ("guidance_scale", "true_cfg_scale")


def register() -> None:
    """The entry point `vllm_omni.general_plugins`; without SKIPCAST_PLANS it changes nothing."""
    tiers = Tiers.of_environment()
    if tiers is None:
        return
    from vllm_omni.diffusion.worker.diffusion_model_runner import DiffusionModelRunner

    original = DiffusionModelRunner.load_model
    if hasattr(original, "plans_of"):  # wrapped before
        return

    @functools.wraps(original)
    def load_model(runner: Any, *args: Any, **kwargs: Any) -> None:
        cache = runner.od_config.cache_backend
        if cache not in _UNCOUNTED:
            raise ValueError(f"cache_backend={cache!r} counts steps that a plan skips: leave it out, or {VARIABLE}.")
        original(runner, *args, **kwargs)
        if runner.pipeline is not None:  # load_format="dummy"
            attach(runner.pipeline, tiers)

    load_model.plans_of = tiers  # type: ignore[attr-defined]
    DiffusionModelRunner.load_model = load_model


def attach(pipeline: Any, tiers: Tiers) -> None:
    """Give a pipeline the plans, and each of its requests the plan that it means.

    Raises:
        ValueError: the pipeline has no scheduler, or not the recorded one.
    """
    from vllm_omni.diffusion.request import OmniDiffusionRequest

    from skipcast.engines.tiered import tiered

    kind, holder = type(pipeline).__name__, getattr(pipeline, "_pipeline", pipeline)  # of a pipeline of diffusers
    own = getattr(holder, "scheduler", None)
    if own is None:
        raise ValueError(f"{kind} of vLLM-Omni has no scheduler, so that no plan can run; unset {VARIABLE}.")
    holder.scheduler = made = tiered(tiers, own, f"{kind} of vLLM-Omni")

    def wrapped(original: Callable[..., Any], sampling: Callable[[Any], Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def call(request: Any, *args: Any, **kwargs: Any) -> Any:
            made.tell({name: getattr(sampling(request), name, None) for name in _SCALES})
            # To warm up: of any size, and of a step or two.
            dummy = OmniDiffusionRequest.is_dummy_run_request_id(request.request_id)
            holder.scheduler = own if dummy else made
            result = original(request, *args, **kwargs)
            if not dummy and holder.scheduler is not made:
                raise ValueError(f"{kind} of vLLM-Omni has made a scheduler of its own: unset {VARIABLE}.")
            return result

        return call

    # The first of a batch speaks for all: vLLM-Omni puts requests of equal scales and counts together.
    pipeline.forward = wrapped(pipeline.forward, lambda batch: batch.sampling_params_list[0])
    if hasattr(pipeline, "prepare_encode"):  # step by step: deep copies of the scheduler, one for each request
        pipeline.prepare_encode = wrapped(pipeline.prepare_encode, lambda state: state.sampling)
