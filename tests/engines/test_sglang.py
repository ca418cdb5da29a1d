"""The plug-in for SGLang-Diffusion, under stand-ins, and with SGLang's own modules where they have been unpacked."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import skipcast as sc
from skipcast.engines import sglang as plugin
from skipcast.engines.tiered import TieredScheduler
from skipcast.engines.tiers import VARIABLE
from skipcast.plans.plan import Plan
from support.engines import MU, STEPS, entry_points, partly, unpacked

#: The network here is another one than the plans were recorded with.
pytestmark = pytest.mark.filterwarnings("ignore:this plan was made for")
GROUP = "sglang.multimodal_gen.plugins"
CORE = "sglang.multimodal_gen.runtime.pipelines_core"
SERVER = "sglang.multimodal_gen.runtime.server_args"


def request(count: int, **changes: Any) -> Any:
    """The fields of SGLang's `Req` that are looked at."""
    fields = {"num_inference_steps": count, "guidance_scale": 2.5, "true_cfg_scale": None, "is_warmup": False}
    return SimpleNamespace(**{**fields, "extra": {}, "scheduler": None, "timesteps": None, "sigmas": None, **changes})


def sigmas(given: Any, count: int) -> list[float]:
    """What SGLang's FluxPipelineConfig prepares."""
    return np.linspace(1.0, 1 / count, count).tolist() if given is None else given


def network(x: Tensor, t: Tensor) -> Tensor:
    return torch.tanh(x) * (t / 1000) + 0.3 * x.roll(1)


def walked(scheduler: Any, seed: int, times: Tensor) -> Tensor:
    """The latents after SGLang's loop, which gives everything by name."""
    x = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(seed))
    for t in times:
        given = scheduler.scale_model_input(x, t)
        x = scheduler.step(model_output=network(given, t), timestep=t, sample=x, return_dict=False)[0]
    return x


def alone(plan: Plan, seed: int, guidance: float | None) -> Tensor:
    scheduler = sc.PlanScheduler(plan, guidance=guidance if plan.argument else None)
    scheduler.set_timesteps(sigmas=sigmas(None, STEPS), mu=MU)
    return walked(scheduler, seed, scheduler.timesteps)


def same(batch: Any, template: Any, *, isolate: bool = False) -> Any:
    """What SGLang's `get_or_create_request_scheduler` does."""
    batch.scheduler = copy.deepcopy(template) if isolate else template
    return batch.scheduler


@pytest.fixture
def template(pipe: Any, served: Path) -> Iterator[TieredScheduler]:
    """The scheduler of a pipeline that was made with the plug-in."""
    server = SimpleNamespace(pipeline_config=SimpleNamespace(embedded_cfg_scale=3.5))
    made = SimpleNamespace(modules={"scheduler": pipe.scheduler})
    plugin.attach(lambda pipeline: None, made)
    with partly(("sglang",), given={SERVER: {"get_global_server_args": lambda: server}}):
        yield made.modules["scheduler"]


def test_the_entry_point_registers_a_class_and_two_hooks() -> None:
    models, hooks = {}, {}
    registry = SimpleNamespace(register_model=models.__setitem__)
    hooked = SimpleNamespace(register=lambda target, hook, kind: hooks.__setitem__(target, (hook, kind)))
    given = {
        "sglang.multimodal_gen.runtime.models.registry": {"ModelRegistry": registry},
        "sglang.multimodal_gen.runtime.platforms.plugins": {
            "HookRegistry": hooked,
            "HookType": SimpleNamespace(AROUND="around"),
        },
    }
    (entry,) = entry_points(GROUP)
    with partly(("sglang",), given=given):
        entry.load()()
    assert entry.name == "skipcast"
    assert models == {"PlanScheduler": "skipcast:PlanScheduler"}
    assert [target.rpartition(".")[2] for target in hooks] == ["__post_init__", "get_or_create_request_scheduler"]
    assert list(hooks.values()) == [(plugin.attach, "around"), (plugin.choose, "around")]


def test_a_request_s_count_and_scale_choose_its_plan(template: TieredScheduler, plans: tuple[Plan, ...]) -> None:
    few, more, plain = plans
    for count, plan, scales in [
        (3, few, {"guidance_scale": 1.5}),
        (8, plain, {}),
        (STEPS, more, {"guidance_scale": 9.0, "true_cfg_scale": 3.0}),
        (3, few, {"guidance_scale": 2.25}),
    ]:
        batch = request(count, **scales)
        scheduler = plugin.choose(same, batch, template)
        assert scheduler is batch.scheduler is template
        assert batch.num_inference_steps == len(plan)  # which SGLang's caches and progress count
        scheduler.set_timesteps(sigmas=sigmas(None, len(plan)), device="cpu", mu=MU)
        scale = scales.get("true_cfg_scale", scales.get("guidance_scale", 2.5))
        assert torch.equal(walked(scheduler, 1, scheduler.timesteps), alone(plan, 1, scale))


def test_isolated_requests_take_turns(template: TieredScheduler, plans: tuple[Plan, ...]) -> None:
    schedulers = []
    for count, scale in [(3, 1.5), (8, 2.0), (3, 3.0)]:
        scheduler = plugin.choose(same, request(count, guidance_scale=scale), template, isolate=True)
        scheduler.set_timesteps(sigmas=sigmas(None, count), mu=MU)
        schedulers.append(scheduler)
    x = [torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(0)) for _ in schedulers]
    for i in range(8):
        for k, scheduler in enumerate(schedulers):
            if i < len(scheduler.timesteps):
                t = scheduler.timesteps[i]
                x[k] = scheduler.step(network(x[k], t), t, x[k], return_dict=False)[0]
    expected = [alone(plans[0], 0, 1.5), alone(plans[2], 0, None), alone(plans[0], 0, 3.0)]
    assert all(map(torch.equal, x, expected))


def test_what_cannot_be_is_refused(template: TieredScheduler) -> None:
    with pytest.raises(ValueError, match="num_inference_steps=28 means none of the plans here: give 3, 5, 8"):
        plugin.choose(same, request(28), template)
    for changes, says in [({"rollout": True}, "rollout=True"), ({"progressive_mode": "dct"}, "progressive_mode='dct'")]:
        with pytest.raises(ValueError, match=f"{says} cannot be followed by a plan"):
            plugin.choose(same, request(3, **changes), template)
    scheduler = plugin.choose(same, request(3, guidance_scale=9.0), template)
    with pytest.raises(ValueError, match="true_cfg_scale=9 lies outside"):
        scheduler.set_timesteps(3, mu=MU)


def test_a_scale_that_the_network_is_told_comes_from_the_server(
    template: TieredScheduler, plans: tuple[Plan, ...]
) -> None:
    plugin.choose(same, request(3, guidance_scale=2.0), template)
    assert template._call["guidance_scale"] == 3.5  # of FluxPipeline
    assert template._call["true_cfg_scale"] == 2.0


@pytest.mark.parametrize("changes", [{"is_warmup": True}, {"extra": {"server_internal_prewarm": True}}])
@pytest.mark.filterwarnings("error")
def test_a_request_that_warms_up_may_have_any_size_and_count(
    template: TieredScheduler, changes: dict[str, Any]
) -> None:
    batch = request(1, **changes)
    scheduler = plugin.choose(same, batch, template)
    scheduler.set_timesteps(sigmas=sigmas(None, batch.num_inference_steps), mu=0.7)
    assert len(scheduler.timesteps) == batch.num_inference_steps == 3
    assert walked(scheduler, 0, scheduler.timesteps).isfinite().all()


def test_other_schedulers_are_left_alone(pipe: Any) -> None:
    batch = request(28)
    assert plugin.choose(same, batch, pipe.scheduler) is pipe.scheduler
    assert batch.num_inference_steps == 28


def test_without_plans_nothing_changes(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    made = SimpleNamespace(modules={"scheduler": pipe.scheduler})
    plugin.attach(lambda pipeline: None, made)
    assert made.modules == {"scheduler": pipe.scheduler}


def test_pipelines_that_a_plan_does_not_fit_are_refused(pipe: Any, served: Path) -> None:
    class WanPipeline(SimpleNamespace):
        pass

    other = type(pipe.scheduler).from_config(pipe.scheduler.config, base_shift=0.7)
    with pytest.raises(ValueError, match=r"WanPipeline of SGLang cannot run these plans: .*base_shift"):
        plugin.attach(lambda pipeline: None, WanPipeline(modules={"scheduler": other}))
    made = WanPipeline(modules={"scheduler": pipe.scheduler})
    with pytest.raises(ValueError, match="WanPipeline of SGLang makes a FlowMatchEulerDiscreteScheduler of its own"):
        plugin.attach(lambda pipeline: pipeline.modules.update(scheduler=other), made)


def test_a_saved_scheduler_is_a_tier_of_its_own(plans: tuple[Plan, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    made = SimpleNamespace(modules={"scheduler": sc.PlanScheduler(plans[0])})
    plugin.attach(lambda pipeline: None, made)
    assert made.modules["scheduler"].tiers.evaluations == (3,)


# SGLang's own modules ------------------------------------------------------------------------------------------------

REAL = [
    "sglang.srt.plugins.hook_registry",
    "sglang.multimodal_gen.runtime.platforms.plugins",
    "sglang.multimodal_gen.runtime.models.registry",
    "sglang.multimodal_gen.runtime.models.schedulers.base",
    "sglang.multimodal_gen.runtime.models.schedulers.scheduling_flow_match_euler_discrete",
    "sglang.multimodal_gen.runtime.models.schedulers.scheduling_flow_unipc_multistep",
    "sglang.multimodal_gen.runtime.models.schedulers.unipc",
    "sglang.multimodal_gen.runtime.loader.component_loaders.scheduler_loader",
    "sglang.multimodal_gen.runtime.pipelines.wan_pipeline",
    f"{CORE}.composed_pipeline_base",
    f"{CORE}.diffusion_scheduler_utils",
    f"{CORE}.stages.denoising",
    f"{CORE}.stages.timestep_preparation",
]


def module(name: str) -> Any:
    return importlib.import_module(name)


@pytest.fixture(scope="module")
def engine() -> Iterator[Callable[[dict[str, Any]], Any]]:
    """SGLang with the plug-in found, run and applied; makes the pipeline of modules."""
    server = SimpleNamespace(
        pipeline_config=SimpleNamespace(embedded_cfg_scale=3.5, flow_shift=3.0, prepare_sigmas=sigmas)
    )
    given = {
        "sglang.srt.environ": {"envs": SimpleNamespace(SGLANG_PLUGINS=SimpleNamespace(get=lambda: None))},
        "sglang.multimodal_gen.runtime.platforms": {
            "get_selected_platform_dist": lambda: None,
            "current_platform": SimpleNamespace(verify_model_arch=lambda name: None, is_cuda=lambda: False),
        },
        "sglang.multimodal_gen.runtime.distributed": {"get_local_torch_device": lambda: torch.device("cpu")},
        "sglang.multimodal_gen.runtime.utils.hf_diffusers_utils": {
            "get_diffusers_component_config": lambda component_path: dict(sc.PlanScheduler.load_config(component_path))
        },
        f"{CORE}.comfyui_mode": {"is_comfyui_mode": lambda arguments: False},
        SERVER: {"get_global_server_args": lambda: server},
    }
    with partly(("sglang",), folder=unpacked("sglang", "sglang"), real=REAL, given=given):
        plugins = module("sglang.multimodal_gen.runtime.platforms.plugins")
        plugins.entry_points = entry_points
        stages = module(f"{CORE}.stages.timestep_preparation")  # which holds what is hooked under a name of its own
        base = module(f"{CORE}.composed_pipeline_base").ComposedPipelineBase
        plugins.load_plugins()
        plugins.apply_plugin_hooks()

        class FluxPipeline(base):  # type: ignore[misc]
            def create_pipeline_stages(self, server_args: Any) -> None:
                mu = [lambda batch, arguments: ("mu", MU)]
                self.stage = stages.TimestepPreparationStage(self.modules["scheduler"], mu)

        def made(modules: dict[str, Any], kind: Any = FluxPipeline) -> Any:
            pipeline = object.__new__(kind)
            pipeline.modules, pipeline.server_args = modules, server
            pipeline.__post_init__()
            return pipeline

        yield made


def prepared(pipeline: Any, count: int, **changes: Any) -> Any:
    """A request behind SGLang's own stage of timesteps, with what its denoising stage does before its loop."""
    batch = request(count, rollout=False, n_tokens=None, **changes)
    pipeline.stage.forward(batch, pipeline.server_args)
    module(f"{CORE}.stages.denoising").DenoisingStage._reset_scheduler_loop_state(None, batch.scheduler)
    batch.scheduler.set_begin_index(0)
    return batch


def own(config: Any) -> Any:
    name = "sglang.multimodal_gen.runtime.models.schedulers.scheduling_flow_match_euler_discrete"
    return module(name).FlowMatchEulerDiscreteScheduler.from_config(config)


def test_sglang_runs_the_plan_that_a_request_means(
    engine: Any, pipe: Any, served: Path, plans: tuple[Plan, ...]
) -> None:
    pipeline = engine({"scheduler": own(pipe.scheduler.config)})
    assert pipeline.stage.scheduler is pipeline.modules["scheduler"]
    assert type(pipeline.stage.scheduler) is TieredScheduler
    for count, plan, scale in [(3, plans[0], 1.5), (8, plans[2], 2.0), (STEPS, plans[1], 3.0), (3, plans[0], 2.25)]:
        batch = prepared(pipeline, count, guidance_scale=scale)
        assert batch.num_inference_steps == len(batch.timesteps) == len(plan)
        assert torch.equal(walked(batch.scheduler, count, batch.timesteps), alone(plan, count, scale))


def test_sglang_clears_an_interrupted_run(engine: Any, pipe: Any, served: Path, plans: tuple[Plan, ...]) -> None:
    pipeline = engine({"scheduler": own(pipe.scheduler.config)})
    batch = prepared(pipeline, 8)
    walked(batch.scheduler, 5, batch.timesteps[:1])
    module(f"{CORE}.stages.denoising").DenoisingStage._reset_scheduler_loop_state(None, batch.scheduler)
    batch.scheduler.set_begin_index(0)
    assert torch.equal(walked(batch.scheduler, 6, batch.timesteps), alone(plans[2], 6, None))


def test_sglang_warms_up_with_any_count(engine: Any, pipe: Any, served: Path) -> None:
    batch = prepared(engine({"scheduler": own(pipe.scheduler.config)}), 1, is_warmup=True)
    assert walked(batch.scheduler, 0, batch.timesteps).isfinite().all()


def test_sglang_loads_a_saved_scheduler(
    engine: Any, plans: tuple[Plan, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    sc.PlanScheduler(plans[0]).save_pretrained(tmp_path)
    loader = module("sglang.multimodal_gen.runtime.loader.component_loaders.scheduler_loader").SchedulerLoader()
    pipeline_config = SimpleNamespace(flow_shift=None, scheduler_class_override=None)
    loaded = loader.load_customized(str(tmp_path), SimpleNamespace(pipeline_config=pipeline_config))
    assert type(loaded) is sc.PlanScheduler
    batch = prepared(engine({"scheduler": loaded}), STEPS, guidance_scale=1.75)
    assert torch.equal(walked(batch.scheduler, 4, batch.timesteps), alone(plans[0], 4, 1.75))


def test_sglang_s_wan_makes_a_scheduler_of_its_own_and_is_refused(engine: Any, pipe: Any, served: Path) -> None:
    kind = module("sglang.multimodal_gen.runtime.pipelines.wan_pipeline").WanPipeline
    bare = type("WanPipeline", (kind,), {"create_pipeline_stages": lambda self, arguments: None})
    with pytest.raises(ValueError, match="WanPipeline of SGLang makes a FlowUniPCMultistepScheduler of its own"):
        engine({"scheduler": own(pipe.scheduler.config)}, bare)
