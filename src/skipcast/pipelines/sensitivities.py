"""How strongly a denoiser answers to its sample and to its time, for SenCache's rule, measured in one plain run."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skipcast.pipelines.networks import denoisers, output_of, value_of
from skipcast.pipelines.steps import TIMES


class _Measured:
    """A forward hook of a denoiser that looks at the first call of every step, and calls it twice more."""

    def __init__(self, network: nn.Module) -> None:
        self.parameters = list(inspect.signature(getattr(network, "_orig_mod", network).forward).parameters)
        self.sample = self.parameters[0]
        self.time = next((name for name in TIMES if name in self.parameters), "")
        if not self.time:
            raise ValueError(
                f"{type(network).__name__} takes no timestep, so its sensitivity to it cannot be measured."
            )
        self.by_sample: list[float] = []
        self.by_time: list[float] = []
        self.before: tuple[dict[str, Any], Tensor] | None = None
        self.measuring = False

    @torch.no_grad()
    def __call__(self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self.measuring:
            return
        given = {**dict(zip(self.parameters, args, strict=False)), **kwargs}
        if self.before is not None:
            known, y = self.before
            if float(_flat(known[self.time])[0]) == float(_flat(given[self.time])[0]):
                return  # another guidance branch of the same step
            self.measuring = True
            try:
                moved = output_of(network(**{**known, self.sample: given[self.sample]}))
                later = output_of(network(**{**known, self.time: given[self.time]}))
            finally:
                self.measuring = False
            step = _norms(value_of(given[self.sample]) - value_of(known[self.sample]))
            self.by_sample.append(float((_norms(moved - y) / step.clamp(min=1e-8)).mean()))
            self.by_time.append(float(_norms(later - y).mean()))
        # Copies: a sampler may write into what it handed in.
        given[self.sample] = _copied(given[self.sample])
        self.before = given, output_of(output).clone()


def sensitivities(pipe: Any, prompt: Any = None, **call: Any) -> dict[str, tuple[float, ...]]:
    """The table of a network that `SensitivityBound` takes, from one unaccelerated run of thrice its cost.

        table = sensitivities(pipe, "a cat", num_inference_steps=50)
        controller = sc.controllers.SensitivityBound(**table, threshold=0.7, early=0.01)

        J_x(t) = |f(x', t) - f(x, t)| / |x' - x|,   J_t(t) = |f(x, t') - f(x, t)| / |t' - t|

    f is the denoiser's output in its first call of a step, x' and t' are those of the next step, |.| the Euclidean norm
    of an item, and the table the mean over the batch; the last step has none. Timesteps are the scheduler's. Reference:
    SenCache, arXiv:2602.24208, which averages over thousands of samples.

    Args:
        pipe: a diffusers pipeline with one denoiser.
        prompt: as the pipeline takes it; left out where it takes none.
        call: further arguments of the pipeline's call.

    Raises:
        ValueError: several experts take turns, the denoiser takes no timestep, or the run had fewer than two steps.
    """
    network, *others = denoisers(pipe)
    if others:
        raise ValueError("sensitivities(pipe=...) has two denoisers that take turns; only one can be measured.")
    measured = _Measured(network)
    handle = network.register_forward_hook(measured, with_kwargs=True)
    try:
        pipe(**call) if prompt is None else pipe(prompt, **call)
    finally:
        handle.remove()
    times = np.asarray(pipe.scheduler.timesteps, dtype=np.float64).ravel()[-len(measured.by_sample) - 1 :]
    if len(times) < 2:
        raise ValueError("sensitivities(pipe=...) compares steps with the next one; run at least two.")
    gaps = np.abs(np.diff(times))
    return {
        "timesteps": tuple(times[:-1].tolist()),
        "by_sample": tuple(measured.by_sample),
        "by_time": tuple((np.array(measured.by_time) / gaps).tolist()),
    }


def _flat(time: Any) -> Tensor:
    return torch.as_tensor(time).flatten()


def _copied(sample: Any) -> Any:
    return sample.clone() if isinstance(sample, Tensor) else [item.clone() for item in sample]


def _norms(a: Tensor) -> Tensor:
    """The Euclidean norm of each item, (B,)."""
    return a.to(torch.promote_types(a.dtype, torch.float32)).flatten(1).norm(dim=1)
