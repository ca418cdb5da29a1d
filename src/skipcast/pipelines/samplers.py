"""Plain samplers as schedulers that run their own number of steps on whatever grid the pipeline asks for."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteSchedulerOutput
from torch import Tensor

from skipcast.samplers import Sampler, Told, adams_bashforth, resample


class _FewerSteps(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
    """The pipeline's own flow scheduler on `evaluations` steps of the curve that the pipeline passes."""

    evaluations: int | None = None
    grid: Any = None  # a scheduler of another class whose noise levels are used as they are
    timesteps: Tensor
    sigmas: Tensor

    def _knots(self, wanted: int) -> int:
        """Sampler steps that cost `wanted` evaluations."""
        return wanted

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: Any = None,
        mu: float | None = None,
        timesteps: Any = None,
    ) -> None:
        """As the parent's, with the number of steps replaced; custom `timesteps` are refused."""
        if timesteps is not None:
            raise ValueError("timesteps=... cannot be combined with a skipcast sampler; pass sigmas instead.")
        given = num_inference_steps if sigmas is None else len(sigmas)
        count = self._knots(self.evaluations or int(given or 0))
        levels = None if sigmas is None else resample(np.asarray(sigmas, dtype=np.float64), count).tolist()
        if self.grid is not None:
            own = copy.deepcopy(self.grid)
            own.set_timesteps(count, **({} if levels is None else {"sigmas": levels}))
            levels = own.sigmas[:-1].tolist()
        super().set_timesteps(count, device=device, sigmas=levels, mu=mu)
        self._begin_run()

    def _begin_run(self) -> None:
        """Forget the previous run."""

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Any) -> Tensor:
        """The noisy sample that video-to-video begins from, as multistep schedulers call it."""
        return _noised(original_samples, noise, timesteps, self.config.num_train_timesteps)


def _noised(sample: Tensor, noise: Tensor, timestep: Any, most: int) -> Tensor:
    """s noise + (1 - s) sample at the noise level s of a timestep."""
    level = torch.as_tensor(timestep, device=sample.device).to(sample.dtype).flatten()
    s = (level / most).view(-1, *([1] * (sample.ndim - 1)))
    return s * noise + (1 - s) * sample


class EulerFlow(_FewerSteps):
    """x + (s' - s) v, where the network may be told another time than s."""

    ratios: tuple[float, ...] = ()

    def _begin_run(self) -> None:
        if self.ratios:
            ratios = torch.tensor(self.ratios, dtype=self.timesteps.dtype, device=self.timesteps.device)
            self.timesteps = self.timesteps * ratios


class AdamsBashforthFlow(_FewerSteps):
    """x + sum_j b_j v_j over the newest `steps` velocities, with the weights of the non-uniform grid."""

    steps: int = 2

    def _begin_run(self) -> None:
        self._velocities: list[tuple[float, Tensor]] = []

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True, **kwargs: Any
    ) -> FlowMatchEulerDiscreteSchedulerOutput | tuple[Tensor]:
        """One step; computed in float32, returned in the dtype of `model_output`."""
        if self.step_index is None:
            self._init_step_index(timestep)
        now, end = (float(self.sigmas[self._step_index + i]) for i in (0, 1))
        self._velocities = [*self._velocities, (now, model_output.float())][-self.steps :]
        weights = adams_bashforth(np.array([s for s, _ in self._velocities]), end)
        moved = sample.float()
        for weight, (_, velocity) in zip(weights.tolist(), self._velocities, strict=True):
            moved = moved + weight * velocity
        self._step_index += 1
        moved = moved.to(model_output.dtype)
        return FlowMatchEulerDiscreteSchedulerOutput(prev_sample=moved) if return_dict else (moved,)


class HeunFlow(_FewerSteps):
    """Trapezoidal steps of two evaluations; the last step, and the first when the budget is even, is Euler's.

    Reference: algorithm 1 of arXiv:2206.00364, which also ends on Euler because sigma = 0 is never evaluated.
    """

    def _knots(self, wanted: int) -> int:
        self._even = wanted % 2 == 0
        return wanted // 2 + 1

    def _begin_run(self) -> None:
        knots = self.sigmas.tolist()  # s_0 .. s_m = 0
        stages = [(0, False)] if self._even else []
        for k in range(len(stages), len(knots) - 2):
            stages += [(k, False), (k, True)]
        # A stage (k, True) evaluates at s_{k+1} and completes the step from s_k.
        self._stages = [*stages, (len(knots) - 2, False)]
        self._levels = knots
        # One level per stage, so that begin_index and scale_noise find theirs.
        at = torch.tensor([knots[k + second] for k, second in self._stages], dtype=torch.float32)
        self.timesteps = at.to(self.timesteps.device) * self.config.num_train_timesteps
        self.sigmas = torch.cat([at, torch.zeros(1)]).to(self.sigmas.device)
        self._start: tuple[Tensor, Tensor] | None = None

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True, **kwargs: Any
    ) -> FlowMatchEulerDiscreteSchedulerOutput | tuple[Tensor]:
        """One stage; computed in float32, returned in the dtype of `model_output`."""
        if self.step_index is None:
            self._step_index = self.begin_index or 0
        k, second = self._stages[self._step_index]
        width = self._levels[k + 1] - self._levels[k]
        velocity = model_output.float()
        if second:
            if self._start is None:
                raise ValueError(
                    "heun cannot begin a run in the middle of a step; choose another strength or number of "
                    "evaluations, or ab2, which may begin anywhere."
                )
            origin, first = self._start
            moved = origin + width * 0.5 * (first + velocity)
            self._start = None
        else:
            self._start = (sample.float(), velocity)
            moved = sample.float() + width * velocity
        self._step_index += 1
        moved = moved.to(model_output.dtype)
        return FlowMatchEulerDiscreteSchedulerOutput(prev_sample=moved) if return_dict else (moved,)


class _FlowShift:
    """For diffusers' solvers in half log-SNR: `evaluations` steps with flow sigmas and the pipeline's shift."""

    evaluations: int | None = None
    fixed_shift: float | None = None  # None: exp(mu), as dynamic shifting wants it

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: Any = None,
        mu: float | None = None,
    ) -> None:
        """As the parent's, with the number of steps replaced and the pipeline's shift; the grid is the parent's own."""
        given = num_inference_steps if sigmas is None else len(sigmas)
        shift = math.exp(mu or 0.0) if self.fixed_shift is None else self.fixed_shift
        self.register_to_config(flow_shift=shift)  # type: ignore[attr-defined]
        super().set_timesteps(self.evaluations or given, device=device)  # type: ignore[misc]
        # The parents round timesteps to integers; the timestep of the network is the level that is integrated.
        timesteps = self.sigmas[:-1] * self.config.num_train_timesteps  # type: ignore[attr-defined]
        self.timesteps = timesteps.to(device=device, dtype=torch.float32)

    def scale_noise(self, sample: Tensor, timestep: Any, noise: Tensor) -> Tensor:
        """The noisy sample that image-to-image begins from: s noise + (1 - s) sample."""
        return _noised(sample, noise, timestep, self.config.num_train_timesteps)  # type: ignore[attr-defined]


class DPMSolverFlow(_FlowShift, DPMSolverMultistepScheduler):  # type: ignore[misc]
    """DPM-Solver++(2M) with flow sigmas (diffusers' own step)."""


class UniPCFlow(_FlowShift, UniPCMultistepScheduler):  # type: ignore[misc]
    """UniPC of order 2 with flow sigmas (diffusers' own step)."""


class _OwnSteps:
    """The pipeline's own solver with `evaluations` steps, as a call with so many steps runs it."""

    evaluations: int | None = None

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: Any = None,
        **kwargs: Any,
    ) -> None:
        """As the parent's, with the number of steps replaced."""
        given = num_inference_steps if sigmas is None else len(sigmas)
        count = self.evaluations or int(given or 0)
        if sigmas is not None:
            kwargs["sigmas"] = resample(np.asarray(sigmas, dtype=np.float64), count).tolist()
        super().set_timesteps(count, device=device, **kwargs)  # type: ignore[misc]


class DPMSolverOwn(_OwnSteps, DPMSolverMultistepScheduler):  # type: ignore[misc]
    """DPM-Solver++ as the pipeline has it."""


class UniPCOwn(_OwnSteps, UniPCMultistepScheduler):  # type: ignore[misc]
    """UniPC as the pipeline has it."""


#: Options of a flow-matching scheduler that diffusers' half-log-SNR solvers do not reproduce, with their plain values.
_PLAIN = {
    "time_shift_type": "exponential",
    "shift_terminal": None,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "invert_sigmas": False,
}


def build_sampler(sampler: Sampler, base: Any) -> Any:
    """The scheduler that runs `sampler` in place of `base`.

    Raises:
        ValueError: `base` is no scheduler of a flow, whose grid and prediction the samplers share.
    """
    scheduler: Any
    if isinstance(base, DPMSolverMultistepScheduler | UniPCMultistepScheduler) and base.config.use_flow_sigmas:
        scheduler = _beside_solver(sampler, base)
    elif not isinstance(base, FlowMatchEulerDiscreteScheduler):
        raise ValueError(
            f"sampler {sampler.name!r} needs a pipeline whose scheduler is of a flow, FlowMatchEulerDiscreteScheduler "
            "or a UniPCMultistepScheduler or DPMSolverMultistepScheduler with use_flow_sigmas=True; this one has "
            f"{type(base).__name__}."
        )
    elif sampler.name in ("dpmpp2m", "unipc"):
        for option, plain in _PLAIN.items():
            if base.config.get(option, plain) not in (plain, None, False):
                raise ValueError(
                    f"sampler {sampler.name!r} cannot follow a scheduler with {option}={base.config.get(option)!r}; "
                    "use euler, heun, ab2 or ab3."
                )
        kind = DPMSolverFlow if sampler.name == "dpmpp2m" else UniPCFlow
        scheduler = kind(
            num_train_timesteps=base.config.num_train_timesteps,
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            solver_order=2,
            final_sigmas_type="zero",
        )
        # Pipelines compute mu from these entries of the configuration, and from FLUX's own where they are missing.
        keys = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        scheduler.register_to_config(**{key: base.config[key] for key in keys if key in base.config})
        scheduler.fixed_shift = None if base.config.use_dynamic_shifting else base.config.shift
    else:
        scheduler = _KINDS[sampler.name].from_config(base.config)
    if sampler.name == "ab3":
        scheduler.steps = 3
    if isinstance(sampler, Told):
        scheduler.ratios = sampler.ratios
    scheduler.evaluations = sampler.evaluations
    return scheduler


_KINDS: dict[str, type[_FewerSteps]] = {
    "euler": EulerFlow, "heun": HeunFlow, "ab2": AdamsBashforthFlow, "ab3": AdamsBashforthFlow
}  # fmt: skip


def _beside_solver(sampler: Sampler, base: Any) -> Any:
    """The scheduler that runs `sampler` on the noise levels of a multistep solver of a flow, such as Wan's UniPC.

    The solver itself runs as it is configured. Others take its levels; the network is then told them as they are, and
    not rounded to integers as by the solver.
    """
    config = base.config
    if sampler.name not in ("dpmpp2m", "unipc"):
        scheduler: Any = _KINDS[sampler.name](num_train_timesteps=config.num_train_timesteps, shift=1.0)
        scheduler.grid = base
        return scheduler
    solver = DPMSolverMultistepScheduler if sampler.name == "dpmpp2m" else UniPCMultistepScheduler
    if isinstance(base, solver):
        return (DPMSolverOwn if sampler.name == "dpmpp2m" else UniPCOwn).from_config(config)
    for option in ("use_dynamic_shifting", "shift_terminal", *(name for name in _PLAIN if name in config)):
        if config.get(option) not in (_PLAIN.get(option), None, False):
            raise ValueError(
                f"sampler {sampler.name!r} cannot follow a scheduler with {option}={config.get(option)!r}; use euler, "
                "heun, ab2 or ab3."
            )
    scheduler = (DPMSolverFlow if sampler.name == "dpmpp2m" else UniPCFlow)(
        num_train_timesteps=config.num_train_timesteps,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        solver_order=2,
        final_sigmas_type="zero",
    )
    scheduler.fixed_shift = config.flow_shift
    return scheduler
