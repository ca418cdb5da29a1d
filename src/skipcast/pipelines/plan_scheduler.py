"""A plan as a diffusers scheduler: its timesteps are the evaluated ones, its step is one weighted sum."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput
from torch import Tensor

from skipcast.checks import guarded
from skipcast.pipelines.identity import warn_of_another_model
from skipcast.pipelines.plan_check import (
    Given,
    check_recorded,
    keep_own_grid,
    prepare,
    public,
    recorded_scheduler,
)
from skipcast.pipelines.plan_run import Course, PlanRun
from skipcast.pipelines.trust import FACTOR, Trust
from skipcast.plans.adaptive import AdaptivePlan
from skipcast.plans.plan import Plan
from skipcast.reading import sealed
from skipcast.run import OVERFLOW

#: What pipelines read of a scheduler beside its grid, and a plan answers as the recorded one.
_TABLES = ("alphas", "alphas_cumprod", "betas", "final_alpha_cumprod", "shift", "sigma_max")


class Evaluated(Tensor):
    """The timesteps of a plan that skips steps; a slice that leaves out any of them is refused.

    Pipelines slice by a share of all steps, of the evaluated ones, or by noise level, and nothing tells which.
    """

    reason = (
        "begins or ends within a plan that does not evaluate every step, and a scheduler is not told at which noise "
        "level. Run the pipeline with sc.accelerate(pipe, plan) or sc.enable(pipe, plan), which read strength, "
        "denoising_start and denoising_end; in a loop of your own call scheduler.cut(begin, end)."
    )
    # Whatever is made of them is a plain tensor.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __getitem__(self, index: Any) -> Any:
        times = self.as_subclass(Tensor)
        if isinstance(index, slice):
            start, stop, _ = index.indices(len(times))
            # The first one alone is read for its noise level.
            if start > 0 or stop not in (1, len(times)):
                raise ValueError(f"timesteps[{start}:{stop}] of {len(times)} {self.reason}")
        return times[index]

    def __deepcopy__(self, memo: dict[int, Any]) -> Evaluated:
        return self.as_subclass(Tensor).clone().as_subclass(type(self))


class PlanScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """Runs a plan: m network evaluations at the plan's times, and after the n-th

        x  <-  x + a_n x + sum_{j <= n} b_{n,j} y_j

        pipe.scheduler = PlanScheduler(plan)
        pipe(prompt, num_inference_steps=10)  # m evaluations; the N steps that the plan was made for mean the same

    Sums are computed in float32 and returned in the dtype of the sample. Outputs are held only as long as a later row
    weighs them, and none after the last step.

    *Strength and cuts.* A run that begins at step k of the N, as image-to-image does, is evaluated there and at the
    plan's steps behind it, and moves by the scheduler's own rows along the line through the last two outputs; one that
    ends early ends at the level of its step. `sc.accelerate` and `sc.enable` read both from the pipeline; a scheduler
    alone is not told them, so it refuses such a call unless its plan evaluates every step. `cut` is for loops of one's
    own.

    *Knots.* A plan with knots, such as one for several guidance scales, must know the scale of a run before it begins.
    `accelerate` tells it that of every call of the pipeline; otherwise it is `guidance`.

    *Trust.* A scheduler sees neither the network nor its guidance. What it sees is whether the outputs still follow
    one another as they did in the recording: the plan's forecast of every output is compared with the output, and a
    run that departs more than three times further than the worst recorded pair causes a warning after its last step.

    Args:
        plan: a `Plan`, or what its `as_dict` gives.
        strict: refuse a run on another grid than the plan's; otherwise run it on the plan's own grid.
        check: compare outputs with their forecasts: one weighted sum and two norms per evaluation, read at the end.
        guidance: of a plan with knots the value of its argument, which is the guidance scale unless it says otherwise;
            None where it is told later.
        extrapolate: allow values outside the knots.

    Raises:
        ValueError: not a plan, or one for a scheduler that the installed diffusers does not have; a value outside the
            knots, or another than that of a plan without knots.

    Reference: the form of the non-stationary solvers of arXiv:2403.01329.
    """

    # The name under which pipelines save it; diffusers loads it again from there.
    __module__ = "skipcast"
    order = 1
    #: Whether a network is asked for single guidance branches, which a scheduler alone cannot do.
    runs_passes = False

    _begin_index: int | None
    _step_index: int | None

    @register_to_config  # type: ignore[untyped-decorator]
    @guarded(plan=None)
    def __init__(
        self,
        plan: Plan | dict[str, Any],
        strict: bool = True,
        check: bool = True,
        guidance: float | None = None,
        extrapolate: bool = False,
    ) -> None:
        if isinstance(plan, AdaptivePlan):
            raise ValueError(
                "PlanScheduler(plan=...) of an AdaptivePlan would evaluate the network where no sample needs it, since "
                "a scheduler cannot leave it out: use sc.accelerate(pipe, plan) or sc.enable(pipe, plan)."
            )
        if not isinstance(plan, Plan | dict):
            raise ValueError(f"PlanScheduler(plan=...) must be a Plan or its dict, got {type(plan).__name__}.")
        self._whole = self._plan = plan if isinstance(plan, Plan) else Plan.from_dict(plan)
        if not self.runs_passes:
            self._plan.whole("PlanScheduler(plan=...)")
        self._strict = strict
        self.guidance = guidance
        self._checks = check and bool(self._plan.forecasts) and self._plan.expected is not None
        self._base = recorded_scheduler(self._plan.origin)
        # Pipelines read the configuration of their scheduler: num_train_timesteps, max_shift, use_flow_sigmas.
        self.register_to_config(**public(self._base.config))
        self.register_to_config(plan=sealed(self._whole.as_dict()))
        self._shown = self._course = self._all()  # what `timesteps` lists, and what is run of it
        self._device: str | torch.device | None = None
        self._uncounted = False  # whether a pipeline may have taken the evaluations for all steps, unnoticed
        self.timesteps = self._times()
        self.num_inference_steps: int | None = None
        self._forget()

    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Keep only the entries of this class; those of the recorded scheduler are restored from the plan."""
        # "_use_default_values" is left out too: diffusers counts positional arguments among them.
        own = ("plan", "strict", "check", "guidance", "extrapolate", "_class_name")
        kept = {key: config_dict[key] for key in own if key in config_dict}
        return super().extract_init_dict(kept, **kwargs)

    def __repr__(self) -> str:
        return f"PlanScheduler({self._plan!r})"

    def __getattr__(self, name: str) -> Any:
        """The recorded scheduler's tables and settings; what it remembers between its steps a plan does not have."""
        return getattr(self._base, name) if name in _TABLES else super().__getattr__(name)

    @property
    def plan(self) -> Plan:
        """The plan that is run; of one with knots that for the scale, as soon as this is known."""
        return self._plan

    @property
    def guidance(self) -> float | None:
        """The guidance scale, or other argument, that a plan with knots runs for; set it before a call of the pipeline.

        Raises:
            ValueError: set outside the knots, or to another value than that of a plan without knots.
        """
        return self.config.guidance  # type: ignore[no-any-return]

    @guidance.setter
    def guidance(self, value: float | None) -> None:
        self._plan = self._whole if value is None else self._whole.at(value, extrapolate=self.config.extrapolate)
        self.register_to_config(guidance=value)

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

    @guarded()
    def set_shift(self, shift: float) -> None:
        """Take the shift that an engine sets on its schedulers; `set_timesteps` then refuses a grid that it changes.

        Raises:
            ValueError: the recorded scheduler has another shift, in its configuration alone.
        """
        kind, recorded = type(self._base).__name__, self._base.config.get("flow_shift")
        if hasattr(self._base, "set_shift"):
            self._base.set_shift(shift)
        elif recorded != shift:
            raise ValueError(
                f"set_shift({shift:g}): this plan was made for {kind} with flow_shift={recorded}; set this, or record "
                f"the pipeline with {kind}.from_config(pipe.scheduler.config, flow_shift={shift:g})."
            )

    @property
    def begin_index(self) -> int | None:
        """The place in `timesteps` at which a run begins, or None if the pipeline has not set it."""
        return self._begin_index

    @property
    def step_index(self) -> int | None:
        """The place in `timesteps` of the next evaluation, or None before the first."""
        return self._step_index

    @property
    def steps(self) -> tuple[int, ...]:
        """The step of the grid that each of `timesteps` is."""
        return self._shown.steps

    @property
    def end(self) -> int:
        """The step of the grid at whose noise level the run ends, N unless it was cut."""
        return self._shown.end

    @guarded()
    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin the run at this place in `timesteps`.

        Raises:
            ValueError: it is not the first, and the plan skips steps: pipelines count some of all steps, some of these.
        """
        if not 0 <= begin_index < len(self.timesteps):
            raise ValueError(
                f"set_begin_index({begin_index}) leaves none of the {len(self.timesteps)} timesteps to run: give a "
                "larger strength."
            )
        self.timesteps[begin_index:]  # refused with the reason where steps are skipped
        self._begin_index = begin_index

    @guarded()
    def cut(self, begin: int = 0, end: int | None = None) -> None:
        """Run the grid from step `begin` to step `end` alone, from and to the noise levels of the recorded run.

            scheduler.set_timesteps(50)
            scheduler.cut(begin=20)
            x = scheduler.add_noise(image, noise, scheduler.timesteps[:1])

        It holds for one `set_timesteps`. `timesteps` are then those to evaluate, the first of them that of `begin`.

        Args:
            begin: from 0.
            end: up to N, above `begin`; None for N.

        Raises:
            ValueError: no step lies between them, or `set_timesteps` was not called.
        """
        steps = self._plan.origin.steps
        end = steps if end is None else end
        if self.num_inference_steps is None:
            raise ValueError("cut() is for a run: call set_timesteps() first.")
        if not 0 <= begin < end <= steps:
            raise ValueError(
                f"cut(begin={begin}, end={end}) leaves none of the plan's {steps} steps to run: give a larger "
                "strength, or a denoising_end behind denoising_start."
            )
        self._forget()
        self._uncounted = False
        self._take(Course.part(self._plan, self._base, begin, end))

    @contextmanager
    def whole_grid(self) -> Iterator[None]:
        """Show all N steps of the recorded scheduler within the context, for a pipeline to cut by its own rule."""
        names = ("timesteps", "sigmas", "_begin_index")
        before = {name: vars(self)[name] for name in names if name in vars(self)}
        self.timesteps = self._base.timesteps.to(self._device)
        if "sigmas" in before:
            self.sigmas = self._base.sigmas
        try:
            yield
        finally:
            self.__dict__.update(before)

    @property
    def asked(self) -> int:
        """The number of steps that a call asks the recorded scheduler for; PNDM makes one more of them."""
        count = getattr(self._base, "num_inference_steps", None)
        return self._plan.origin.steps if count is None else int(count)

    @guarded(num_inference_steps=1)
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
            ValueError: another number of steps, or another grid, unless `strict=False`; or a plan with knots that was
                not told its scale.
        """
        if self._plan.knots:
            argument, first, last = self._plan.argument, self._plan.knots[0].value, self._plan.knots[-1].value
            raise ValueError(
                f"this plan holds for {argument} from {first:g} to {last:g} and was not told the value of this run: "
                "give it with PlanScheduler(plan, guidance=...), or run it with skipcast.accelerate(pipe, plan), which "
                "takes it from the call of the pipeline."
            )
        given = Given(num_inference_steps, sigmas, mu, timesteps)
        difference = prepare(self._base, self._plan, given)
        if difference:
            if self._strict:
                raise ValueError(difference)
            keep_own_grid(self._base, self._plan)
        self._forget()
        self._device, self._uncounted = device, sigmas is not None
        self._take(self._all())

    def _all(self) -> Course:
        """Return the evaluations of a whole run."""
        return Course.whole(self._plan)

    def _take(self, course: Course) -> None:
        """Show the evaluations of a course as the grid of the run."""
        self._shown = self._course = course
        self.timesteps = self._times()
        self.num_inference_steps = len(course)
        if hasattr(self._base, "sigmas"):
            levels = self._base.sigmas.cpu()
            self.sigmas = levels[[*course.steps, course.end]]

    def _times(self) -> Tensor:
        """Return the timesteps of the evaluations."""
        # PNDM has no timesteps before its first run; they are whole.
        times, kind = self._shown.timesteps, getattr(self._base.timesteps, "dtype", torch.int64)
        whole = not kind.is_floating_point and bool((times == np.round(times)).all())
        made = torch.tensor(times.copy(), dtype=kind if whole else torch.float32).to(self._device)
        skips = len(self._shown) < self._shown.end - self.steps[0]
        return made.as_subclass(Evaluated) if skips else made

    def _forget(self) -> None:
        self._run: PlanRun | None = None
        self._trust: Trust | None = None
        self.broken_at_end = False  # whether final samples are not finite, and no comparison has shown it
        self._batch = 0
        self._begin_index = None
        self._step_index = None

    def index_for_timestep(self, timestep: Any, schedule_timesteps: Tensor | None = None) -> int:
        """Return the place in `timesteps` of a timestep.

        Raises:
            ValueError: no evaluation is near this timestep.
        """
        times = (self.timesteps if schedule_timesteps is None else schedule_timesteps).double().cpu()
        distance = (times - float(timestep)).abs()
        if float(distance.min()) > 1e-3 * max(1.0, float(times.abs().max())):
            raise ValueError(f"timestep {float(timestep):g} is none of the plan's; pass one of scheduler.timesteps.")
        return int(distance.argmin())

    @guarded()
    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """Return the network's input, which is the sample times the factor of this evaluation."""
        factor = float(self._shown.scale[min(self._place(timestep), len(self._shown) - 1)])
        return sample if factor == 1.0 else sample * factor

    def _place(self, timestep: Any) -> int:
        if self._step_index is not None:
            return self._step_index
        if self._begin_index is not None:
            return self._begin_index
        return 0 if timestep is None else self.index_for_timestep(timestep)

    @guarded()
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
        self._batch = len(sample)
        if self._step_index is None:
            self._begin(self._place(timestep))
        if self._run is None:
            raise ValueError(
                f"the plan's {len(self._course)} evaluations are over; call set_timesteps() for another run."
            )
        assert self._step_index is not None
        moved = self._advance(model_output, sample)
        self._step_index += 1
        if self._run.place == len(self._course):
            self._run = None
            self._warn(moved)
        return SchedulerOutput(prev_sample=moved) if return_dict else (moved,)

    def _advance(self, y: Tensor, x: Tensor) -> Tensor:
        """The next sample."""
        assert self._run is not None
        return self._run.advance(y, x)

    def _begin(self, place: int) -> None:
        """Begin a run at this place in `timesteps`, whatever an aborted one has left behind."""
        self._step_index, shown = place, self._shown
        self._course = Course.part(self._plan, self._base, self.steps[place], shown.end) if place else shown
        self._trust = Trust(self._plan) if self._checks else None
        self._run = PlanRun(self._course, self._trust)

    @property
    def checked(self) -> bool:
        """Whether the newest run is over and its outputs were compared with their forecasts."""
        return self._trust is not None and self._trust.compared and self._run is None

    @property
    def residuals(self) -> Tensor:
        """||y_n - its forecast|| / ||y_n|| of the newest run, (evaluations, batch); NaN where nothing was forecast.

        Raises:
            RuntimeError: no run yet, or one without a check.
        """
        return self._checked().residuals(self._batch)

    @guarded()
    def trusted(self, factor: float = FACTOR) -> list[bool]:
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

    def _warn(self, final: Tensor) -> None:
        """Warn if a sample of the finished run departed too far from its forecasts, or is not finite."""
        worst = self._trust and self._trust.worst(self._batch, FACTOR)
        if not worst:  # as of a plan without forecasts, which compares nothing
            self.broken_at_end = not bool(final.isfinite().all())
            if self.broken_at_end:
                warnings.warn(f"the final samples of this run are not finite: {OVERFLOW}.", stacklevel=4)
            return
        if not np.isfinite(worst.times):
            warnings.warn(
                f"the outputs of the network are not finite for sample {worst.sample} at evaluation "
                f"{worst.evaluation}: {OVERFLOW}.",
                stacklevel=4,
            )
            return
        origin = self._plan.origin
        call = ", ".join(f"{key}={value}" for key, value in origin.call.items())
        recorded = origin.pipeline or origin.scheduler or "a denoiser"
        warnings.warn(
            f"this plan was made for {recorded}({call}): sample {worst.sample} departs "
            f"{worst.times:.1f} times more from its forecast at evaluation {worst.evaluation} than any recorded pair. "
            "Compare it with an unaccelerated run, or record the model as it is used now.",
            stacklevel=4,
        )

    def bytes(self) -> int:
        """Return the memory of the outputs that the current run keeps, in bytes."""
        return self._run.bytes() if self._run else 0

    @guarded()
    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Add noise as the recorded scheduler does: at the levels of evaluations, or at its times of training."""
        if self._uncounted and self._step_index is None and isinstance(self.timesteps, Evaluated):
            # Pipelines that give sigmas count by the length of `timesteps`; a strength near 1 then cuts none of them.
            self.timesteps[1:]
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
        """Return the grid's timesteps of evaluations, which a plan may have moved a little; others as they are."""
        given = torch.as_tensor(timesteps).reshape(-1)
        if not len(given):
            raise ValueError("no timestep is left to begin at: give a larger strength.")
        grid = self._base.timesteps.to(given.device)
        if hasattr(self._base, "index_for_timestep"):
            return grid[[self.steps[self.index_for_timestep(t)] for t in given]]  # type: ignore[no-any-return]
        known = dict(zip(self.timesteps.tolist(), self.steps, strict=True))  # its levels are those of training
        return torch.stack([grid[known[float(t)]] if float(t) in known else t.to(grid.dtype) for t in given])

    def check_pipeline(self, pipe: Any) -> None:
        """Refuse a pipeline whose own scheduler is not the recorded one; warn of one with other weights.

        Pipelines of one model share a scheduler, so a plan of FluxPipeline fits FluxImg2ImgPipeline. Of the weights the
        norms of three are compared, or the commit on the hub, where the plan holds them.

        Raises:
            ValueError: another class, or another value in its configuration, by name.
        """
        own = pipe.scheduler._base if isinstance(pipe.scheduler, PlanScheduler) else pipe.scheduler
        check_recorded(own, self._plan.origin)
        warn_of_another_model(pipe, self._plan.origin)
