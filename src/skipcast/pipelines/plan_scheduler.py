"""A plan as a diffusers scheduler: its timesteps are the evaluated ones, its step is one weighted sum."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput
from torch import Tensor

from skipcast.pipelines.plan_check import (
    Given,
    Trust,
    check_recorded,
    keep_own_grid,
    prepare,
    public,
    recorded_scheduler,
)
from skipcast.pipelines.plan_run import PlanRun
from skipcast.plans.plan import Plan

#: Residuals beyond this multiple of the largest recorded one are warned of.
_FACTOR = 3.0


class PlanScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """Runs a plan: m network evaluations at the plan's times, and after the n-th

        x  <-  x + a_n x + sum_{j <= n} b_{n,j} y_j

        pipe.scheduler = PlanScheduler(plan)
        pipe(prompt, num_inference_steps=10)  # m evaluations; the N steps that the plan was made for mean the same

    Sums are computed in float32 and returned in the dtype of the sample. Outputs are held only as long as a later row
    weighs them, and none after the last step.

    *Image-to-image.* Pipelines that cut `timesteps` and call `set_begin_index` begin at a later evaluation, so their
    `strength` counts evaluations. The weights of outputs that such a run has not made are moved onto its first one,
    which keeps their sum: its first move is Euler's.

    *Trust.* A scheduler sees neither the network nor its guidance. What it sees is whether the outputs still follow
    one another as they did in the recording: the plan's forecast of every output is compared with the output, and a
    run that departs more than three times further than the worst recorded pair causes a warning after its last step.

    Args:
        plan: a `Plan`, or what its `as_dict` gives.
        strict: refuse a run on another grid than the plan's; otherwise run it on the plan's own grid.
        check: compare outputs with their forecasts: one weighted sum and two norms per evaluation, read at the end.

    Raises:
        ValueError: not a plan, or one for a scheduler that the installed diffusers does not have.

    Reference: the form of the non-stationary solvers of arXiv:2403.01329.
    """

    # The name under which pipelines save it; diffusers loads it again from there.
    __module__ = "skipcast"
    order = 1

    _begin_index: int | None
    _step_index: int | None

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, plan: Plan | dict[str, Any], strict: bool = True, check: bool = True) -> None:
        if not isinstance(plan, Plan | dict):
            raise ValueError(f"PlanScheduler(plan=...) must be a Plan or its dict, got {type(plan).__name__}.")
        self._plan = plan if isinstance(plan, Plan) else Plan.from_dict(plan)
        self._strict = strict
        self._checks = check and bool(self._plan.forecasts) and self._plan.expected is not None
        self._base = recorded_scheduler(self._plan.origin)
        # Pipelines read the configuration of their scheduler: num_train_timesteps, max_shift, use_flow_sigmas.
        self.register_to_config(**public(self._base.config))
        self.register_to_config(plan=self._plan.as_dict())
        self.timesteps = self._times(None)
        self.num_inference_steps: int | None = None
        self._forget()

    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Keep only the entries of this class; those of the recorded scheduler are restored from the plan."""
        # "_use_default_values" is left out too: diffusers counts positional arguments among them.
        kept = {key: config_dict[key] for key in ("plan", "strict", "check", "_class_name") if key in config_dict}
        return super().extract_init_dict(kept, **kwargs)

    def __repr__(self) -> str:
        return f"PlanScheduler({self._plan!r})"

    @property
    def plan(self) -> Plan:
        """The plan that is run."""
        return self._plan

    @property
    def init_noise_sigma(self) -> Any:
        """The standard deviation of the initial noise, which is that of the recorded scheduler."""
        return getattr(self._base, "init_noise_sigma", 1.0)

    @property
    def sigma_min(self) -> Any:
        """The smallest noise level of the recorded scheduler, which Z-Image sets before its runs."""
        return self._base.sigma_min

    @sigma_min.setter
    def sigma_min(self, value: float) -> None:
        self._base.sigma_min = value

    @property
    def begin_index(self) -> int | None:
        """The evaluation at which a run begins, or None if the pipeline has not set it."""
        return self._begin_index

    @property
    def step_index(self) -> int | None:
        """The number of the next evaluation, or None before the first."""
        return self._step_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin the run at this evaluation, as image-to-image pipelines do."""
        if not 0 <= begin_index < len(self._plan):
            raise ValueError(
                f"set_begin_index({begin_index}) lies outside the plan's {len(self._plan)} evaluations: this pipeline "
                f"counts its strength on num_inference_steps={self._plan.origin.steps}; use one that asks the "
                "scheduler for its timesteps, such as FluxImg2ImgPipeline, or a larger strength."
            )
        self._begin_index = begin_index

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: Any = None,
        mu: float | None = None,
        timesteps: Any = None,
    ) -> None:
        """Begin a run; the arguments must give the grid that the plan was made for.

        `num_inference_steps` may be N, the steps of the recorded run, or m, the evaluations of the plan.

        Raises:
            ValueError: another number of steps, or another grid, unless `strict=False`.
        """
        given = Given(num_inference_steps, sigmas, mu, timesteps)
        difference = prepare(self._base, self._plan, given)
        if difference:
            if self._strict:
                raise ValueError(difference)
            keep_own_grid(self._base, self._plan)
        self._forget()
        self.timesteps = self._times(device)
        self.num_inference_steps = len(self._plan)
        if hasattr(self._base, "sigmas"):
            levels = self._base.sigmas.cpu()
            self.sigmas = torch.cat([levels[list(self._plan.steps)], levels[-1:]])

    def _times(self, device: str | torch.device | None) -> Tensor:
        """Return the timesteps of the m evaluations."""
        # PNDM has no timesteps before its first run; they are whole.
        times, kind = self._plan.evaluation_timesteps, getattr(self._base.timesteps, "dtype", torch.int64)
        whole = not kind.is_floating_point and bool((times == np.round(times)).all())
        return torch.tensor(times.copy(), dtype=kind if whole else torch.float32).to(device)

    def _forget(self) -> None:
        self._run: PlanRun | None = None
        self._trust: Trust | None = None
        self._batch = 0
        self._begin_index = None
        self._step_index = None

    def index_for_timestep(self, timestep: Any, schedule_timesteps: Tensor | None = None) -> int:
        """Return the number of the evaluation at a timestep.

        Raises:
            ValueError: no evaluation is near this timestep.
        """
        times = (self.timesteps if schedule_timesteps is None else schedule_timesteps).double().cpu()
        distance = (times - float(timestep)).abs()
        if float(distance.min()) > 1e-3 * max(1.0, float(times.abs().max())):
            raise ValueError(f"timestep {float(timestep):g} is none of the plan's; pass one of scheduler.timesteps.")
        return int(distance.argmin())

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """Return the network's input, which is the sample times the factor of this evaluation."""
        factor = float(self._plan.scale[min(self._place(timestep), len(self._plan) - 1)])
        return sample if factor == 1.0 else sample * factor

    def _place(self, timestep: Any) -> int:
        if self._step_index is not None:
            return self._step_index
        if self._begin_index is not None:
            return self._begin_index
        return 0 if timestep is None else self.index_for_timestep(timestep)

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: Any = None,
        return_dict: bool = True,
        eta: float = 0.0,
        **kwargs: Any,
    ) -> SchedulerOutput | tuple[Tensor]:
        """Apply one row of the plan.

        Args:
            model_output: y_n, of the shape of the sample.
            timestep: one of `timesteps`; only the first of a run is looked at, where no begin index was set.
            sample: x.
            generator: not used; a plan is deterministic.
            return_dict: an output object rather than a tuple.
            kwargs: options of other schedulers, which must be switched off.

        Raises:
            ValueError: the run is over, or an option is given that a plan cannot follow.
        """
        given = {"eta": eta, **kwargs}  # pipelines pass eta on where the signature shows it
        unknown = [name for name, value in given.items() if isinstance(value, Tensor) or value]
        if unknown:
            raise ValueError(f"step({unknown[0]}=...) cannot be followed by a plan; leave it out.")
        if self._step_index is None:
            self._step_index = self._place(timestep)
        if self._step_index >= len(self._plan):
            raise ValueError(
                f"the plan's {len(self._plan)} evaluations are over; call set_timesteps() for another run."
            )
        if self._run is None:
            self._trust = Trust(self._plan) if self._checks else None
            self._run = PlanRun(self._plan, self._step_index, self._trust)
        self._batch = len(sample)
        moved = self._run.advance(model_output, sample)
        self._step_index += 1
        if self._step_index == len(self._plan):
            self._run = None
            self._warn()
        return SchedulerOutput(prev_sample=moved) if return_dict else (moved,)

    @property
    def checked(self) -> bool:
        """Whether the newest run is over and its outputs were compared with their forecasts."""
        return self._trust is not None and self._run is None

    @property
    def residuals(self) -> Tensor:
        """||y_n - its forecast|| / ||y_n|| of the newest run, (evaluations, batch); NaN where nothing was forecast.

        Raises:
            RuntimeError: no run yet, or one without a check.
        """
        return self._checked().residuals(self._batch)

    def trusted(self, factor: float = _FACTOR) -> list[bool]:
        """Return for each sample of the newest run whether no residual exceeds `factor` times the largest recorded one.

        Raises:
            RuntimeError: no run yet, or one without a check.
        """
        limits = self._checked().limits(factor)
        out: list[bool] = (self.residuals > limits[:, None]).any(dim=0).logical_not().tolist()
        return out

    def _checked(self) -> Trust:
        if not self._checks:
            raise RuntimeError("this run is not checked: the plan holds no forecasts, or was made with check=False.")
        if self._trust is None:
            raise RuntimeError("nothing to compare yet: run the pipeline first.")
        return self._trust

    def _warn(self) -> None:
        """Warn if a sample of the finished run departed too far from its forecasts."""
        worst = self._trust and self._trust.worst(self._batch, _FACTOR)
        if not worst:
            return
        origin = self._plan.origin
        call = ", ".join(f"{key}={value}" for key, value in origin.call.items())
        recorded = origin.pipeline or origin.scheduler or "a denoiser"
        warnings.warn(
            f"this plan was made for {recorded}({call}): sample {worst.sample} departs "
            f"{worst.times:.1f} times more from its forecast at evaluation {worst.evaluation} than any recorded pair. "
            "Compare it with an unaccelerated run, or record the model as it is used now.",
            stacklevel=3,
        )

    def bytes(self) -> int:
        """Return the memory of the outputs that the current run keeps, in bytes."""
        return self._run.bytes() if self._run else 0

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Add noise at the levels of evaluations, as the recorded scheduler does."""
        alpha, sigma = (np.array(self._plan.origin.config.get(name, [])) for name in ("alpha", "sigma"))
        if not self._plan.origin.scheduler and not np.allclose(alpha, 1 - sigma, atol=1e-6):
            raise ValueError("this plan's grid is no flow's, and no scheduler is known that adds its noise: add it.")
        at = self._grid_times(timesteps)
        if hasattr(self._base, "add_noise"):
            return self._base.add_noise(original_samples, noise, at)  # type: ignore[no-any-return]
        return self._base.scale_noise(original_samples, at, noise)  # type: ignore[no-any-return]

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """The same as `add_noise`, with the name and argument order of flow-matching schedulers."""
        return self.add_noise(sample, noise, timestep)

    def _grid_times(self, timesteps: Any) -> Tensor:
        """Return the grid's timesteps of evaluations; the plan's own may be shifted a little."""
        steps = [self._plan.steps[self.index_for_timestep(t)] for t in torch.as_tensor(timesteps).reshape(-1)]
        return self._base.timesteps.to(self.timesteps.device)[steps]  # type: ignore[no-any-return]

    def check_pipeline(self, pipe: Any) -> None:
        """Refuse a pipeline whose own scheduler is not the recorded one; its network is not looked at.

        Pipelines of one model share a scheduler, so a plan of FluxPipeline fits FluxImg2ImgPipeline.

        Raises:
            ValueError: another class, or another value in its configuration, by name.
        """
        own = pipe.scheduler._base if isinstance(pipe.scheduler, PlanScheduler) else pipe.scheduler
        check_recorded(own, self._plan.origin)
