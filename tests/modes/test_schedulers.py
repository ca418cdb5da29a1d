"""Every scheduler of diffusers: a run follows it to the bit, or it is refused by name with the reason.

A class that is in neither table is newer than both and skipped by name.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from diffusers import SchedulerMixin, schedulers
from torch import Tensor, nn

import skipcast as sc
from families import others
from families.base import drawn
from skipcast.plans.propagation import grid_of
from support.seams import LINEAR, OUTPUT

STEPS = 8
ALWAYS = "reuse:interval=1"
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
BROWNIAN = ("CosineDPMSolverMultistepScheduler", "DPMSolverSDEScheduler")  # need torchsde to be made


@dataclass(frozen=True)
class Supported:
    """A scheduler that is followed; `options` are alternatives to its defaults."""

    options: tuple[dict[str, Any], ...] = ({},)
    calls: int = STEPS


@dataclass(frozen=True)
class Refused:
    """A scheduler that is refused, and the reason; the plan's is the same unless it is given."""

    reason: str
    plan: str = ""
    options: dict[str, Any] = field(default_factory=dict)


ORDER, NOISE, LEVELS = "is of order 2", "adds noise at every step", "it has no 'alphas_cumprod'"
NO_CLIPPING = {"clip_sample": False}
ZERO_SNR = {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
TSR = {"tsr_k": 1.0, "tsr_sigma": 1.0}
OLD = {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}

SUPPORTED = {
    "CogVideoXDDIMScheduler": Supported(options=(NO_CLIPPING,)),
    "DDIMParallelScheduler": Supported(options=(NO_CLIPPING,)),
    "DDIMScheduler": Supported(options=(NO_CLIPPING, {**NO_CLIPPING, **ZERO_SNR})),
    "DEISMultistepScheduler": Supported(options=({}, {"solver_order": 3})),
    "DPMSolverMultistepScheduler": Supported(options=({}, OLD, {"solver_order": 3, "use_karras_sigmas": True}, FLOW)),
    "DPMSolverSinglestepScheduler": Supported(
        options=({"lower_order_final": True}, {"solver_order": 3, "lower_order_final": True}, OLD)
    ),
    "EDMDPMSolverMultistepScheduler": Supported(options=({}, {"solver_order": 3})),
    "EDMEulerScheduler": Supported(),
    "EulerDiscreteScheduler": Supported(
        options=({}, {"use_karras_sigmas": True}, {"timestep_type": "continuous", "prediction_type": "v_prediction"})
    ),
    "FlowMapEulerDiscreteScheduler": Supported(),
    "FlowMatchEulerDiscreteScheduler": Supported(
        options=({}, {"shift": 3.0}, {"invert_sigmas": True}, {"use_dynamic_shifting": True})
    ),
    "HeliosScheduler": Supported(
        options=tuple({"stages": 1, "stage_range": [0, 1], "scheduler_type": t} for t in ("euler", "unipc"))
    ),
    "LMSDiscreteScheduler": Supported(),
    "MiniMaxH3Scheduler": Supported(calls=STEPS - 1),  # its N counts the levels, the last of them clean
    "PiflowScheduler": Supported(options=({"n_grid": 2, "num_policy_substeps": 4},)),
    "PNDMScheduler": Supported(options=({"skip_prk_steps": True},), calls=STEPS + 1),
    "UniPCMultistepScheduler": Supported(options=({}, {"solver_order": 3}, FLOW)),
}

REFUSED = {
    "AmusedScheduler": Refused(LEVELS, options={"mask_token_id": 3}),
    "BlockRefinementScheduler": Refused(LEVELS),
    "CMStochasticIterativeScheduler": Refused(NOISE),
    "CogVideoXDPMScheduler": Refused(NOISE),
    "ConsistencyDecoderScheduler": Refused("it has no 'timesteps'"),
    "CosineDPMSolverMultistepScheduler": Refused(NOISE),
    "DDIMInverseScheduler": Refused("from clean to noisy"),
    "DDPMParallelScheduler": Refused(NOISE),
    "DDPMScheduler": Refused(NOISE),
    "DDPMWuerstchenScheduler": Refused("it has no 'timesteps'"),
    "DiscreteDDIMScheduler": Refused(LEVELS),
    "DPMSolverMultistepInverseScheduler": Refused("from clean to noisy"),
    "DPMSolverSDEScheduler": Refused(ORDER),
    "EntropyBoundScheduler": Refused(LEVELS),
    "EulerAncestralDiscreteScheduler": Refused(NOISE),
    "FlowMatchHeunDiscreteScheduler": Refused(ORDER),
    "FlowMatchLCMScheduler": Refused(NOISE),
    "HeliosDMDScheduler": Refused(NOISE, options={"stages": 1, "stage_range": [0, 1]}),
    "HeunDiscreteScheduler": Refused(ORDER),
    "IPNDMScheduler": Refused(LEVELS),
    "KarrasVeScheduler": Refused(LEVELS, plan=f"{ORDER}|{LEVELS}"),
    "KDPM2AncestralDiscreteScheduler": Refused(ORDER),
    "KDPM2DiscreteScheduler": Refused(ORDER),
    "LCMScheduler": Refused(NOISE),
    "LTXEulerAncestralRFScheduler": Refused(NOISE),
    "RePaintScheduler": Refused("original_image"),
    "RFD4ProteinaScheduler": Refused(LEVELS, options={"schedule_mode": "log", "noise_mode": "tan"} | TSR),
    "SASolverScheduler": Refused(NOISE),
    "SCMScheduler": Refused(LEVELS),
    "ScoreSdeVeScheduler": Refused("it has no 'step'"),
    "ScoreSdeVpScheduler": Refused("it has no 'step'"),
    "TCDScheduler": Refused(NOISE),
    "UnCLIPScheduler": Refused(NOISE),
    "VQDiffusionScheduler": Refused(LEVELS, options={"num_vec_classes": 4}),
}

#: Deterministic kinds with an option that adds noise.
NOISY = [
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver", "final_sigmas_type": "sigma_min"}),
    ("DPMSolverSinglestepScheduler", {"algorithm_type": "sde-dpmsolver++", "lower_order_final": True}),
    ("EDMDPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}),
]

EVERY = [(name, options) for name, known in SUPPORTED.items() for options in known.options]


def every_class() -> list[str]:
    """The schedulers that this version of diffusers has, those that miss a dependency included."""
    found = inspect.getmembers(schedulers, lambda kind: inspect.isclass(kind) and issubclass(kind, SchedulerMixin))
    return sorted({*BROWNIAN, *(name for name, _ in found)} - {"SchedulerMixin"})


def class_of(name: str) -> Any:
    kind = getattr(schedulers, name, None)
    if kind is None:
        pytest.skip(f"diffusers {diffusers.__version__} has no {name}")
    return kind


def ids(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{key}={item}" for key, item in value.items()) or "default"
    return str(value)


# What runs them ------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """A network that says as much as a scheduler wants to hear: `grids` outputs for one sample."""

    def __init__(self, grids: int = 1) -> None:
        super().__init__()
        self.mix = nn.Parameter(drawn(0, 4 * grids, 4) / 2)

    def forward(self, hidden_states: Tensor, timestep: Tensor) -> tuple[Tensor]:
        factor = 1 + timestep.to(hidden_states) / 1000
        return (torch.einsum("oc,bhwc->bhwo", self.mix, torch.tanh(hidden_states)) * factor,)


class Loop:
    """A sampler's loop as the pipelines have it, which every scheduler with usual arguments can run."""

    def __init__(self, scheduler: Any) -> None:
        self.transformer, self.scheduler = Net(scheduler.config.get("n_grid", 1)), scheduler

    @torch.no_grad()
    def run(self, seed: int = 0) -> Tensor:
        torch.manual_seed(seed)
        scheduler = begun(self.scheduler)
        x = drawn(1, 1, 4, 4, 4) * float(getattr(scheduler, "init_noise_sigma", 1.0))
        for t in scheduler.timesteps:
            scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            x = scheduler.step(self.transformer(scaled, t)[0], t, x, return_dict=False)[0]
        return x


def begun(scheduler: Any) -> Any:
    """The scheduler, prepared for a run."""
    scheduler.set_timesteps(STEPS, **({"mu": 0.5} if scheduler.config.get("use_dynamic_shifting") else {}))
    return scheduler


# The tests -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", every_class())
def test_every_scheduler_is_known_to_be_followed_or_refused(name: str) -> None:
    if name not in SUPPORTED and name not in REFUSED:
        pytest.skip(f"{name} is newer than these tests")
    assert (name in SUPPORTED) != (name in REFUSED)


@pytest.mark.parametrize("name, options", EVERY, ids=ids)
def test_a_supported_scheduler_is_followed_by_methods_and_plans(name: str, options: dict[str, Any]) -> None:
    kind, calls = class_of(name), SUPPORTED[name].calls
    pipe = Loop(kind(**options))
    plain = pipe.run()
    assert plain.isfinite().all()
    assert torch.equal(pipe.run(1), plain)  # no noise but the first
    with sc.accelerate(pipe, ALWAYS) as acceleration:
        assert torch.equal(pipe.run(), plain)
    assert acceleration.summary().evaluations == acceleration.summary().steps == calls
    with sc.accelerate(pipe, LINEAR) as acceleration:
        forecast = pipe.run()
    evaluated = acceleration.summary().evaluated_steps
    assert acceleration.summary().forecasts == calls - len(evaluated) > 0
    assert forecast.isfinite().all()
    assert not torch.equal(forecast, plain)
    assert torch.equal(pipe.run(), plain)
    if name == "PiflowScheduler":  # whose network answers with a policy, for which there is no plan
        return
    bound = 1e-4 if name == "DEISMultistepScheduler" else 1e-5  # of differences of powers of levels in float32
    for method, expected in ((ALWAYS, plain), (LINEAR, forecast)):
        plan = sc.compile_plan(sc.method(method), begun(kind(**options)))
        with sc.accelerate(pipe, plan) as planned:
            found = pipe.run()
        assert (found - expected).norm() <= bound * expected.norm()
    assert planned.summary().evaluated_steps == evaluated


@pytest.mark.parametrize("name", ["FlowMapEulerDiscreteScheduler", "MiniMaxH3Scheduler", "PiflowScheduler"])
def test_the_levels_of_a_flow_are_those_of_a_flow(name: str) -> None:
    grid = grid_of(begun(class_of(name)()))
    assert grid.alpha.tolist() == pytest.approx((1 - grid.sigma).tolist(), abs=1e-6)


def made(name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A scheduler of this kind; torchsde, which two of them import, is not needed to refuse them."""
    if name not in BROWNIAN:
        return class_of(name)(**options)
    if "torchsde" not in sys.modules:
        monkeypatch.setitem(sys.modules, "torchsde", ModuleType("torchsde"))
    module = {"CosineDPMSolverMultistepScheduler": "cosine_dpmsolver_multistep"}.get(name, "dpmsolver_sde")
    return getattr(importlib.import_module(f"diffusers.schedulers.scheduling_{module}"), name)()


@pytest.mark.parametrize("name, known", REFUSED.items(), ids=list(REFUSED))
def test_another_scheduler_is_refused_by_name_with_the_reason(
    name: str, known: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = made(name, known.options, monkeypatch)
    for method in (ALWAYS, "resilphase", "euler"):
        with pytest.raises(ValueError, match=rf"{name}\b.*{known.reason}"):
            sc.accelerate(SimpleNamespace(transformer=Net(), scheduler=scheduler), method)
    with pytest.raises(ValueError, match=rf"{name}\b.*({known.plan or known.reason})"):
        sc.compile_plan(sc.method(LINEAR), scheduler)


@pytest.mark.parametrize("name, options", NOISY, ids=ids)
def test_an_option_that_adds_noise_is_refused(name: str, options: dict[str, Any]) -> None:
    scheduler = class_of(name)(**options)
    plain = Loop(scheduler)
    assert not torch.equal(plain.run(0), plain.run(1))
    with pytest.raises(ValueError, match=rf"{name} {NOISE}, which no forecast"):
        sc.accelerate(Loop(scheduler), ALWAYS)
    with pytest.raises(ValueError, match=rf"{name} {NOISE}, which no plan"):
        sc.compile_plan(sc.method(LINEAR), begun(scheduler))


@pytest.mark.parametrize("option", ["clip_sample", "thresholding"])
def test_clipping_is_followed_by_methods_and_refused_for_plans(option: str) -> None:
    scheduler = diffusers.DDIMScheduler(**{"clip_sample": False, option: True})
    pipe = Loop(scheduler)
    plain = pipe.run()
    with sc.accelerate(pipe, ALWAYS):
        assert torch.equal(pipe.run(), plain)
    with pytest.raises(ValueError, match=rf"DDIMScheduler with {option}=True is not linear; set {option}=False"):
        sc.compile_plan(sc.method(LINEAR), begun(scheduler))


def test_no_plan_is_made_for_a_policy_instead_of_an_output() -> None:
    """PiFlow's network answers with several predictions for every sample."""
    with pytest.raises(ValueError, match=r"(?i)piflow"):
        sc.compile_plan(sc.method(LINEAR), begun(class_of("PiflowScheduler")(n_grid=10)))


@pytest.mark.parametrize("method", [OUTPUT, "plan"])
def test_noise_that_the_call_requests_is_refused(method: str) -> None:
    """The `eta` of the call makes DDIM add noise."""
    pipe = others.stable_diffusion(others.ddim, layers_per_block=1)
    call: dict[str, Any] = {"num_inference_steps": STEPS, "output_type": "latent", "height": 64, "width": 64}
    used = sc.compile_plan(sc.method(LINEAR), begun(others.ddim())) if method == "plan" else method
    with sc.accelerate(pipe, used):
        pipe(**others.embeds(0), eta=0.0, **call)
        with pytest.raises(ValueError, match="eta"):
            pipe(**others.embeds(0), eta=1.0, **call)
