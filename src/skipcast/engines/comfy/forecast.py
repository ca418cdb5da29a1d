"""Methods as a wrapper of a model of ComfyUI: outputs are forecast where its sampler would evaluate them.

The seam is the guider's `predict_noise`, once per step and after guidance, so that every network and every sampler of
one evaluation per step is served. It is outside of the network: methods that forecast inside have no place here.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import numpy as np
from torch import Tensor

from skipcast.checks import guarded
from skipcast.controllers import StaticController
from skipcast.engines.comfy.network import SAME, Network
from skipcast.engines.comfy.probing import check_sampler, name_of
from skipcast.engines.comfy.sampler import grid_of, sample_plan
from skipcast.methods.names import REGISTRY, joined, made, split
from skipcast.parts import Method
from skipcast.run import Run

#: Under which wrappers and a run's state are kept.
KEY = "skipcast"

_LOG = logging.getLogger("skipcast")


def names() -> list[str]:
    """The methods that forecast the output at steps known before the run, at their defaults or with target=output."""
    found = []
    for name in REGISTRY:
        try:
            method_of(name)
        except ValueError:
            continue
        found.append(name)
    return found


@guarded("Forecast", evaluations=0)
def method_of(name: str, evaluations: int = 0, options: str = "") -> Method:
    """The method of a name, at the network's output.

    Args:
        name: such as "taylorseer".
        evaluations: of a run; 0 leaves the method's own schedule.
        options: further ones, such as "order=2".

    Raises:
        ValueError: an unknown name or option, a method inside of the network, or one that decides by values.
    """
    _, given = split(f"{name}:{options}")
    if evaluations:
        if "evaluations" in given:
            raise ValueError(f"Forecast(options={options!r}) names evaluations, too; give them once.")
        given["evaluations"] = str(evaluations)
    spec = joined(name, given)
    try:
        found = made(name, {"target": "output", **given})
    except ValueError:  # the method's only target, or something else is wrong, which is then said without it
        found = made(name, given)
    if not isinstance(found, Method):
        raise ValueError(f"Forecast(method={spec!r}) is a plain sampler; choose it in KSamplerSelect.")
    if found.target.seam != "output":
        raise ValueError(
            f"Forecast(method={spec!r}) forecasts inside of the network, which cannot be reached here; choose one of "
            "the output, such as lagrange, taylorseer or resilphase."
        )
    controller = found.controller
    if not isinstance(controller, StaticController) or found.probe != "none" or controller.fitted_on:
        raise ValueError(
            f"Forecast(method={spec!r}) decides by what it sees of one network; choose one whose steps are known "
            "before, such as lagrange, taylorseer or resilphase."
        )
    return found


class _Forecasts:
    """One run: which step a call of the guider is, and the method's history."""

    def __init__(self, method: Method, network: Network, sampler: str, sigmas: list[float]) -> None:
        self.network, self.sampler, self.sigmas = network, sampler, sigmas
        self.run = Run(method, grid_of(network, np.array(sigmas[:-1])), forecast_error=False)

    def advance(self, x: Tensor, sigma: Tensor, evaluate: Any) -> Tensor:
        """The denoised sample of the next step, evaluated or forecast.

        Raises:
            ValueError: the call is not at the next step.
        """
        level, step = float(sigma.flatten()[0]), self.run.step
        if step >= len(self.sigmas) - 1 or abs(level - self.sigmas[step]) > SAME * self.sigmas[step]:
            raise ValueError(
                f"sampler {self.sampler} evaluates at sigma={level:.5g}, which is not its step {step}; forecasts need "
                "one evaluation per step: use one such as euler, dpmpp_2m, ipndm or deis."
            )
        known: list[Tensor] = []

        def output() -> Tensor:
            known.append(evaluate())
            return self.network.output(level, known[0], x)

        scale = self.network.scale(level)
        y = self.run.advance(x if scale == 1.0 else x * scale, output)
        return known[0] if known else self.network.denoised(level, y, x)


def _sampled(
    executor: Any, guider: Any, sigmas: Tensor, extra_args: dict[str, Any], *rest: Any, method: Method, **options: Any
) -> Tensor:
    """Around a SAMPLER's run: check it, keep the state of its forecasts, and drop it."""
    sampler = executor.class_obj
    if getattr(sampler, "sampler_function", None) is sample_plan:
        raise ValueError("a plan leaves evaluations out itself: sample it without Forecast, or Forecast without it.")
    network = Network(guider.inner_model.model_sampling)
    run = _Forecasts(method, network, name_of(sampler), sigmas.double().cpu().tolist())
    check_sampler(sampler, network, sigmas)
    steps, controller = len(sigmas) - 1, method.controller
    assert isinstance(controller, StaticController)
    count = len(controller.evaluated(steps))
    _LOG.info("%r evaluates %d of %d steps and forecasts the others.", method, count, steps)
    state = extra_args["model_options"].setdefault("transformer_options", {})
    state[KEY] = run
    try:
        found: Tensor = executor(guider, sigmas, extra_args, *rest, **options)
    finally:
        run.run.release()
        state.pop(KEY, None)
    return found


def _predicted(
    executor: Any, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, seed: Any = None
) -> Tensor:
    """Around the guider's prediction of one step."""
    options = model_options or {}
    run = options.get("transformer_options", {}).get(KEY)

    def evaluate() -> Tensor:
        found: Tensor = executor(x, timestep, options, seed)
        return found

    return evaluate() if run is None else run.advance(x, timestep, evaluate)  # type: ignore[no-any-return]


@guarded("Forecast", model=None)
def forecasting(model: Any, method: Method) -> Any:
    """A clone of a model whose outputs are forecast by a method; the model itself stays as it is.

    Args:
        model: of ComfyUI.
        method: as of `method_of`.

    Raises:
        ValueError: it forecasts already.
    """
    from comfy.patcher_extension import WrappersMP

    clone = model.clone()
    if clone.get_wrappers(WrappersMP.SAMPLER_SAMPLE, KEY):
        raise ValueError("Forecast(model=...): this model forecasts already; connect the one without.")
    clone.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, functools.partial(_sampled, method=method))
    clone.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, _predicted)
    return clone
