"""Plans in SGLang-Diffusion: a plug-in that puts a scheduler of plans in the place of a pipeline's own.

    SKIPCAST_PLANS=plans sglang serve --model-path black-forest-labs/FLUX.1-dev

A request chooses by `num_inference_steps`. Source: sglang 0.5.23, whose multimodal_gen/runtime/platforms/plugins.py
calls `register` once in every process and applies the hooks before a pipeline is made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from skipcast.engines.tiers import VARIABLE, Tiers

_CORE = "sglang.multimodal_gen.runtime.pipelines_core"
_EMBEDDED = ("Flux", "HunyuanVideo")  # whose network is told its guidance scale by SGLang's own configuration


def register() -> None:
    """The entry point `sglang.multimodal_gen.plugins`: makes a saved `PlanScheduler` known, and registers two hooks."""
    from sglang.multimodal_gen.runtime.models.registry import ModelRegistry
    from sglang.multimodal_gen.runtime.platforms.plugins import HookRegistry, HookType

    ModelRegistry.register_model("PlanScheduler", "skipcast:PlanScheduler")
    HookRegistry.register(f"{_CORE}.composed_pipeline_base.ComposedPipelineBase.__post_init__", attach, HookType.AROUND)
    HookRegistry.register(f"{_CORE}.diffusion_scheduler_utils.get_or_create_request_scheduler", choose, HookType.AROUND)


def attach(original: Callable[..., None], pipeline: Any) -> None:
    """Make the pipeline's stages with the plans of SKIPCAST_PLANS, or that of its own saved `PlanScheduler`.

    Raises:
        ValueError: the pipeline was not recorded with its scheduler, or makes one of its own, as Wan's does.
    """
    from skipcast.engines.tiered import TieredScheduler, tiered

    tiers, kind, own = Tiers.of_environment(), type(pipeline).__name__, pipeline.modules.get("scheduler")
    if type(own).__name__ == "PlanScheduler" and tiers is None:
        pipeline.modules["scheduler"] = own = TieredScheduler(Tiers((own.plan,)))
    elif tiers is not None and own is not None:  # a server of text encoders alone has none
        pipeline.modules["scheduler"] = own = tiered(tiers, own, f"{kind} of SGLang")
    original(pipeline)
    now = pipeline.modules.get("scheduler")
    if isinstance(own, TieredScheduler) and now is not own:
        raise ValueError(
            f"{kind} of SGLang makes a {type(now).__name__} of its own, which would run instead of the plan; unset "
            f"{VARIABLE} and leave out --component-paths.scheduler, or serve it with --backend diffusers."
        )


def choose(original: Callable[..., Any], batch: Any, template: Any, **options: Any) -> Any:
    """Tell a request's scheduler the guidance scale, and the request its evaluations, which SGLang's caches count.

    Raises:
        ValueError: the request means no plan, or changes what plans are solved for.
    """
    from skipcast.engines.tiered import TieredScheduler

    if not isinstance(template, TieredScheduler):
        return original(batch, template, **options)
    if batch.is_warmup or batch.extra.get("server_internal_prewarm"):  # of any size, and of a step or two
        smallest = template.of_any_size()
        batch.num_inference_steps = len(smallest.plan)
        return original(batch, smallest, **options)
    for name, plain in {"rollout": False, "progressive_mode": "fullres"}.items():
        if (getattr(batch, name, None) or plain) != plain:
            raise ValueError(f"{name}={getattr(batch, name)!r} cannot be followed by a plan; leave it out.")
    plan = template.tiers.counted(batch.num_inference_steps)
    batch.num_inference_steps = len(plan)
    scale, true = batch.guidance_scale, batch.true_cfg_scale
    call = {"guidance_scale": scale, "true_cfg_scale": scale if true is None else true}  # as SGLang reads them
    if plan.origin.pipeline.startswith(_EMBEDDED):
        from sglang.multimodal_gen.runtime.server_args import get_global_server_args

        call["guidance_scale"] = get_global_server_args().pipeline_config.embedded_cfg_scale
    scheduler = original(batch, template, **options)
    scheduler.tell(call)
    return scheduler
