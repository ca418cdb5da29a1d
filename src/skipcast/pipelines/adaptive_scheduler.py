"""An adaptive plan in a pipeline: its scheduler, and the rows of the network's batch that it still needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from skipcast.pipelines.adaptive_run import AdaptiveRun, course_of
from skipcast.pipelines.networks import Form, output_of, value_of
from skipcast.pipelines.plan_run import Course
from skipcast.pipelines.plan_scheduler import Evaluated, PlanScheduler
from skipcast.pipelines.rows import Undivided, picked_of, repeated
from skipcast.plans.adaptive import AdaptivePlan

_CURE = "run one of its plans with sc.accelerate(pipe, plan), which can begin late and end early"


class _Both(Evaluated):
    """The timesteps of both plans, one after the other."""

    reason = f"begins or ends within an AdaptivePlan, whose samples begin again at the first: {_CURE}."

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        # As of a second value, such as sound, or of views that are stepped one after the other.
        raise ValueError(
            "the pipeline copies its scheduler, and a copy would decide for itself which samples of an AdaptivePlan "
            f"begin again: {_CURE}; or leave accelerate() before you copy the pipeline."
        )


class AdaptiveScheduler(PlanScheduler):
    """The timesteps of the cheaper plan, then those of the dearer one that are not shared; `accelerate` makes it.

    A pipeline runs through all of them, and `narrowed` leaves out the network where no sample needs it.
    """

    def __init__(self, adaptive: AdaptivePlan) -> None:
        self._both = self._adaptive = adaptive
        self.last: Any = None  # the newest output of the network
        self.evaluations: Tensor | None = None  # of every sample of the newest run
        self.again = torch.zeros(0, dtype=torch.int64)  # the samples of it that began again
        super().__init__(adaptive.plans[0], check=False)

    @property
    def guidance(self) -> float | None:
        return self.config.guidance  # type: ignore[no-any-return]

    @guidance.setter
    def guidance(self, value: float | None) -> None:
        self._adaptive = self._both if value is None else self._both.at(value)
        self._plan = self._adaptive.plans[0]
        self.register_to_config(guidance=value)

    @property
    def wanted(self) -> Tensor | None:
        """The samples that the next evaluation is for; None for all of them."""
        return self._run.wanted if isinstance(self._run, AdaptiveRun) else None

    @property
    def checked(self) -> bool:
        """Whether the newest run is over."""
        return self.evaluations is not None and self._run is None

    def trusted(self, factor: float | None = None) -> list[bool]:
        """Which samples of the newest run did not begin again."""
        out = torch.ones(self._batch, dtype=torch.bool)
        out[self.again] = False
        return out.tolist()  # type: ignore[no-any-return]

    def cut(self, begin: int = 0, end: int | None = None) -> None:
        raise ValueError(f"cut(begin={begin}, end={end}) cannot be followed by an AdaptivePlan: {_CURE}.")

    def _all(self) -> Course:
        return course_of(self._adaptive)

    def _times(self) -> Tensor:
        return super()._times().as_subclass(Tensor).as_subclass(_Both)

    def _begin(self, place: int) -> None:
        self.timesteps[place:]  # refused with the reason
        self._step_index, self._run = place, AdaptiveRun(self._adaptive, self._batch)  # type: ignore[assignment]

    def _advance(self, y: Tensor, x: Tensor) -> Tensor:
        """The next samples, by the plan that each runs; outputs of samples that are not wanted are not looked at."""
        run = self._run
        assert isinstance(run, AdaptiveRun)
        moved = run.advance(y[run.wanted.to(y.device)], x)
        self.evaluations, self.again = run.evaluations, run.again
        return moved

    def _forget(self) -> None:
        super()._forget()
        self.last, self.evaluations = None, None

    def _warn(self, final: Tensor) -> None:
        """The run is over; a sample that departs began again instead."""
        self.last = None
        super()._warn(final)


def narrowed(
    scheduler: AdaptiveScheduler,
    evaluate: Callable[..., Any],
    whole: Callable[[], Any],
    given: Mapping[str, Any],
    sample: str,
) -> tuple[Any, bool]:
    """The network's output, evaluated where a sample needs it, and whether it was evaluated at all.

    A batch is divided where its rows are the scheduler's samples, once for every guidance branch, and every argument is
    known to have a row for each, or none; otherwise it is evaluated whole. Rows that are left out hold older outputs.

    Args:
        scheduler: knows which samples are wanted.
        evaluate: the network, with arguments by name.
        whole: the call as it came.
        given: its arguments by name.
        sample: the name of the first.

    Raises:
        ValueError: the rows of the batch are not those of the scheduler's samples.
    """
    wanted, samples = scheduler.wanted, scheduler._batch
    if wanted is None:
        scheduler.last = whole()
        return scheduler.last, True
    rows = len(given[sample])
    if rows % samples:
        raise ValueError(
            f"the network is given {rows} rows where the scheduler moves {samples} samples, of which an AdaptivePlan "
            f"cannot tell which belong together: {_CURE}."
        )
    if not len(wanted):
        return scheduler.last, False
    arguments = None
    if len(wanted) < samples and Form(scheduler.last).single and len(output_of(scheduler.last)) == rows:
        picked = torch.cat([wanted + start for start in range(0, rows, samples)])
        if rows == samples or repeated(value_of(given[sample]), samples):
            with suppress(Undivided):
                arguments = picked_of(given, sample, picked, rows)
    if arguments is None:
        scheduler.last = whole()
        return scheduler.last, True
    part = evaluate(**arguments)
    values = output_of(scheduler.last)
    values = values.index_copy(0, picked.to(values.device), output_of(part))
    scheduler.last = Form(part).filled(values, return_dict=given.get("return_dict", True))
    return scheduler.last, True
