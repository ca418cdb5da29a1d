"""The plug-in for vLLM-Omni, under stand-ins, and with vLLM-Omni's own modules where they have been unpacked."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import skipcast as sc
from skipcast.engines import vllm_omni as plugin
from skipcast.engines.tiered import TieredScheduler
from skipcast.engines.tiers import VARIABLE, Tiers
from skipcast.plans.plan import Plan
from support.engines import MU, STEPS, entry_points, partly, unpacked
from support.tiny import latents, twin

#: The network of some tests is another one than the plans were recorded with.
pytestmark = pytest.mark.filterwarnings("ignore:this plan was made for")
GROUP = "vllm_omni.general_plugins"
RUNNER = "vllm_omni.diffusion.worker.diffusion_model_runner"
REQUEST = "vllm_omni.diffusion.request"


class Served:
    """A pipeline as vLLM-Omni's: a scheduler, requests in batches, and requests step by step."""

    def __init__(self, pipe: Any) -> None:
        self.pipe, self.scheduler, self.ran = pipe, pipe.scheduler, []

    def forward(self, batch: Any) -> Tensor:
        self.ran.append(type(self.scheduler).__name__)
        own = twin(self.pipe, transformer=self.pipe.transformer, scheduler=self.scheduler)
        sampling = batch.sampling_params_list[0]
        return latents(own, sampling.num_inference_steps or 28, true_cfg_scale=sampling.true_cfg_scale or 4.0)

    def prepare_encode(self, state: Any) -> Any:
        count = state.sampling.num_inference_steps or 50
        self.scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / count, count), mu=MU)
        state.scheduler, state.timesteps = copy.deepcopy(self.scheduler), self.scheduler.timesteps
        state.scheduler.set_begin_index(0)
        return state


def sampling(count: int | None, scale: float | None = 2.5) -> Any:
    return SimpleNamespace(num_inference_steps=count, true_cfg_scale=scale, guidance_scale=None, timesteps=None)


def batch(count: int | None, scale: float | None = 2.5, request_id: str = "a") -> Any:
    return SimpleNamespace(request_id=request_id, sampling_params_list=[sampling(count, scale)] * 2)


def expected(pipe: Any, plan: Plan, scale: float) -> Tensor:
    scheduler = sc.PlanScheduler(plan, guidance=scale if plan.argument else None)
    return latents(twin(pipe, transformer=pipe.transformer, scheduler=scheduler), len(plan), true_cfg_scale=scale)


@pytest.fixture
def engine() -> Iterator[type]:
    """A stand-in for the engine; the class of its runner."""

    class Runner:
        def __init__(self, pipe: Any, cache: str | None = None) -> None:
            self.od_config, self.pipe, self.pipeline = SimpleNamespace(cache_backend=cache), pipe, None

        def load_model(self, load_format: str = "default") -> None:
            if load_format != "dummy":
                self.pipeline = Served(self.pipe)

    dummy = SimpleNamespace(is_dummy_run_request_id=lambda name: name == "dummy")
    given = {RUNNER: {"DiffusionModelRunner": Runner}, REQUEST: {"OmniDiffusionRequest": dummy}}
    with partly(("vllm_omni",), given=given):
        yield Runner


def register() -> None:
    (entry,) = entry_points(GROUP)
    assert entry.name == "skipcast"
    entry.load()()


def test_every_batch_runs_the_plan_that_it_means(engine: Any, pipe: Any, served: Path, plans: tuple[Plan, ...]) -> None:
    register()
    register()  # which engines may do
    runner = engine(pipe)
    runner.load_model()
    few, more, plain = plans
    for count, scale, plan in [(3, 1.5, few), (8, 2.0, plain), (STEPS, 3.0, more), (3, 2.25, few)]:
        assert torch.equal(runner.pipeline.forward(batch(count, scale)), expected(pipe, plan, scale))
    assert runner.pipeline.ran == ["TieredScheduler"] * 4


def test_requests_step_by_step_take_turns(pipe: Any, tiers: Tiers, plans: tuple[Plan, ...], engine: Any) -> None:
    pipeline = Served(pipe)
    plugin.attach(pipeline, tiers)
    requests = [(3, 1.5), (8, 2.0), (3, 3.0), (5, 2.5)]
    states = [SimpleNamespace(request_id="a", sampling=sampling(*request)) for request in requests]
    for state in states:
        pipeline.prepare_encode(state)
    assert [len(state.timesteps) for state in states] == [3, 8, 3, 5]
    check_turns(
        [state.scheduler for state in states],
        [(plans[i], scale) for i, (_, scale) in zip((0, 2, 0, 1), requests, strict=True)],
    )


def check_turns(schedulers: list[Any], expected: list[tuple[Plan, float]]) -> None:
    """Steps of several requests in turn are those of each alone."""

    def stepped(scheduler: Any, i: int, x: Tensor) -> Tensor:
        t = scheduler.timesteps[i]
        return scheduler.step(torch.tanh(x) * (t / 1000) + 0.3 * x.roll(1), t, x, return_dict=False)[0]

    start = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(0))
    x = [start] * len(schedulers)
    for i in range(STEPS):
        for k, scheduler in enumerate(schedulers):
            if i < len(scheduler.timesteps):
                x[k] = stepped(scheduler, i, x[k])
    for found, (plan, scale) in zip(x, expected, strict=True):
        alone = sc.PlanScheduler(plan, guidance=scale if plan.argument else None)
        alone.set_timesteps(sigmas=np.linspace(1.0, 1 / STEPS, STEPS), mu=MU)
        again = start
        for i in range(len(plan)):
            again = stepped(alone, i, again)
        assert torch.equal(found, again)


def test_a_run_to_warm_up_has_the_pipeline_s_own_scheduler(
    engine: Any, pipe: Any, tiers: Tiers, plans: tuple[Plan, ...]
) -> None:
    pipeline = Served(pipe)
    plugin.attach(pipeline, tiers)
    pipeline.forward(batch(2, request_id="dummy"))
    assert torch.equal(pipeline.forward(batch(8)), expected(pipe, plans[2], 2.5))
    assert pipeline.ran == ["FlowMatchEulerDiscreteScheduler", "TieredScheduler"]


def test_a_pipeline_of_diffusers_has_its_scheduler_inside(engine: Any, pipe: Any, tiers: Tiers) -> None:
    inside = twin(pipe)
    adapter = SimpleNamespace(_pipeline=inside, forward=lambda batch: inside.scheduler)
    plugin.attach(adapter, tiers)
    assert type(adapter.forward(batch(3))) is TieredScheduler


def test_what_cannot_be_is_refused(engine: Any, pipe: Any, served: Path, tiers: Tiers) -> None:
    register()
    for cache in ("cache_dit", "mag_cache", "sea_cache", "step_cache"):
        runner = engine(pipe, cache)
        with pytest.raises(ValueError, match=f"cache_backend='{cache}' counts steps that a plan skips"):
            runner.load_model()
        assert runner.pipeline is None
    for cache in (None, "none", "tea_cache"):
        runner = engine(pipe, cache)
        runner.load_model()
        assert type(runner.pipeline.scheduler) is TieredScheduler
    runner = engine(pipe)
    runner.load_model("dummy")
    assert runner.pipeline is None
    pipeline = Served(pipe)
    plugin.attach(pipeline, tiers)
    for asked, says in [
        (batch(28), "num_inference_steps=28 means none of the plans here: give 3, 5, 8"),
        (batch(None), "num_inference_steps=28 means none"),
        (batch(3, None), "needs the true_cfg_scale of the request, which this engine did not tell; give"),
        (batch(3, 9.0), "true_cfg_scale=9 lies outside"),
    ]:
        with pytest.raises(ValueError, match=says):
            pipeline.forward(asked)


def test_pipelines_that_a_plan_does_not_fit_are_refused(engine: Any, pipe: Any, tiers: Tiers) -> None:
    other = type(pipe.scheduler).from_config(pipe.scheduler.config, base_shift=0.7)
    with pytest.raises(ValueError, match=r"SimpleNamespace of vLLM-Omni cannot run these plans: .*base_shift=0\.5"):
        plugin.attach(SimpleNamespace(scheduler=other), tiers)
    for bare in (SimpleNamespace(), SimpleNamespace(scheduler=None), SimpleNamespace(_pipeline=None, scheduler=other)):
        with pytest.raises(ValueError, match="of vLLM-Omni has no scheduler"):
            plugin.attach(bare, tiers)
    pipeline = SimpleNamespace(scheduler=pipe.scheduler)
    pipeline.forward = lambda batch: vars(pipeline).update(scheduler=other)
    plugin.attach(pipeline, tiers)
    with pytest.raises(ValueError, match="of vLLM-Omni has made a scheduler of its own"):
        pipeline.forward(batch(3))


def test_without_plans_nothing_changes(engine: Any, pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    before = engine.load_model
    register()
    assert engine.load_model is before


# vLLM-Omni's own modules ---------------------------------------------------------------------------------------------

FLUX = "vllm_omni.diffusion.models.flux"
REAL = [
    "vllm_omni.plugins",
    "vllm_omni.diffusion.distributed.cfg_parallel",
    REQUEST,
    RUNNER,
    "vllm_omni.diffusion.worker.request_batch",
    "vllm_omni.diffusion.worker.utils",
    f"{FLUX}.flux_pipeline_mixin",
    f"{FLUX}.pipeline_flux",
    "vllm_omni.inputs.data",
]


def module(name: str) -> Any:
    return importlib.import_module(name)


@pytest.fixture(scope="module")
def real() -> Iterator[dict[str, Any]]:
    """vLLM-Omni; what its loader gives is put under "pipeline"."""
    held: dict[str, Any] = {}

    class Loader:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            pass

        def load_model(self, **kwargs: Any) -> Any:
            return held["pipeline"]

    given = {
        "vllm.envs": {"VLLM_PLUGINS": None},
        "vllm_omni.diffusion.model_loader.diffusers_loader": {"DiffusersPipelineLoader": Loader},
        "vllm_omni.diffusion.cache.selector": {"get_cache_backend": lambda name, config: None},
        "vllm_omni.diffusion.cache.prompt_embed_cache": {
            "resolve_prompt_embed_cache_config": lambda **given: (False, 0),
            "install_prompt_embed_cache": None,
        },
        "vllm_omni.diffusion.offloader": {"enable_offload_backend": lambda config, pipeline, device: (pipeline, None)},
        "vllm.utils.mem_utils": {"DeviceMemoryProfiler": Memory, "GiB_bytes": 2**30},
    }
    with partly(("vllm", "vllm_omni"), folder=unpacked("vllm_omni", "vllm-omni"), real=REAL, given=given):
        yield held


class Memory:
    consumed_memory = 0

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, *args: Any) -> None:
        pass


def loaded(held: dict[str, Any], pipeline: Any) -> Any:
    """The pipeline behind the real `load_model` with the plug-in found and run as the engine does it."""
    plugins, kind = module("vllm_omni.plugins"), module(RUNNER).DiffusionModelRunner
    plugins.omni_plugins_loaded = False
    importlib.metadata.entry_points, before = lambda group: entry_points(group), importlib.metadata.entry_points
    try:
        plugins.load_omni_general_plugins()
    finally:
        importlib.metadata.entry_points = before
    held["pipeline"] = pipeline
    runner = object.__new__(kind)
    runner.vllm_config, runner.device = None, torch.device("cpu")
    names = ("enable_cpu_offload", "enable_layerwise_offload", "streaming_output", "step_execution")
    runner.od_config = SimpleNamespace(
        **dict.fromkeys(names, False),
        enforce_eager=True,
        cache_backend=None,
        cache_config=None,
        model_class_name="Flux",
    )
    runner.load_model()
    return runner.pipeline


@pytest.fixture
def flux(real: dict[str, Any], pipe: Any, served: Path) -> Any:
    """vLLM-Omni's own FluxPipeline around the parts of the tiny one, without its parallel network."""
    kind = module(f"{FLUX}.pipeline_flux").FluxPipeline
    made = object.__new__(kind)
    vars(made).update(scheduler=type(pipe.scheduler).from_config(pipe.scheduler.config))
    return loaded(real, made)


def test_vllm_omni_attaches_the_plans_to_its_flux_pipeline(flux: Any, plans: tuple[Plan, ...]) -> None:
    assert type(flux.scheduler) is TieredScheduler
    kind = module("vllm_omni.inputs.data").OmniDiffusionSamplingParams
    assert {"num_inference_steps", "guidance_scale", "true_cfg_scale"} <= set(kind.__dataclass_fields__)
    schedulers = []
    for count, scale in [(3, 1.5), (8, 2.0), (STEPS, 3.0)]:
        flux.scheduler.tell({"true_cfg_scale": scale})
        times, found = flux.prepare_timesteps(count, None, 16)
        assert len(times) == found == (5 if count == STEPS else count)
        schedulers.append(copy.deepcopy(flux.scheduler))  # as its Qwen-Image pipeline does step by step
        schedulers[-1].set_begin_index(0)
    check_turns(schedulers, [(plans[0], 1.5), (plans[2], 2.0), (plans[1], 3.0)])


def test_vllm_omni_s_batches_reach_the_pipeline(
    real: dict[str, Any], pipe: Any, served: Path, plans: tuple[Plan, ...]
) -> None:
    pipeline = loaded(real, Served(pipe))
    wave = module("vllm_omni.diffusion.worker.request_batch").DiffusionRequestBatch
    kinds = module(REQUEST), module("vllm_omni.inputs.data")

    def asked(count: int, scale: float, request_id: str = "a") -> Any:
        given = kinds[1].OmniDiffusionSamplingParams(num_inference_steps=count, true_cfg_scale=scale)
        return wave(requests=[kinds[0].OmniDiffusionRequest(prompt="a", request_id=request_id, sampling_params=given)])

    assert torch.equal(pipeline.forward(asked(3, 1.75)), expected(pipe, plans[0], 1.75))
    pipeline.forward(asked(2, 1.0, kinds[0].DUMMY_DIFFUSION_REQUEST_ID))
    assert pipeline.ran == ["TieredScheduler", "FlowMatchEulerDiscreteScheduler"]
    state = module("vllm_omni.diffusion.worker.utils").StepRequestState(
        request_id="b", sampling=kinds[1].OmniDiffusionSamplingParams(num_inference_steps=3, true_cfg_scale=2.0)
    )
    pipeline.prepare_encode(state)
    assert state.total_steps == 3
    check_turns([state.scheduler], [(plans[0], 2.0)])


def test_vllm_omni_steps_by_the_scheduler_of_a_request(
    real: dict[str, Any], flux: Any, plans: tuple[Plan, ...]
) -> None:
    flux.scheduler.tell({"true_cfg_scale": 2.0})
    flux.prepare_timesteps(3, None, 16)
    mixed = module("vllm_omni.diffusion.distributed.cfg_parallel").CFGParallelMixin
    own, x = copy.deepcopy(flux.scheduler), torch.ones(1, 16, 16)
    again = copy.deepcopy(own).step(x * 2, own.timesteps[0], x, return_dict=False)[0]
    found = mixed.scheduler_step(flux, x * 2, own.timesteps[0], x, per_request_scheduler=own)
    assert torch.equal(found, again)
