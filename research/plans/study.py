"""What a measurement is given: the model, the held-out images, and the plans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from research.plans.captions import recorded
from research.plans.draws import Settings
from skipcast.models.load import Model
from skipcast.models.shipped import PLAN, PROFILE
from skipcast.pipelines.calls import plan_of_call
from skipcast.pipelines.recording.record import record
from skipcast.plans.plan import Plan, Reference
from skipcast.plans.profile import Profile

#: Seeds of the noise of recordings made here; shipped plans were recorded from 5000, held-out images begin at 1000.
FIRST_RECORDED = 20_000
_PER_DRAW = 1000
#: The budget that most bars are about.
TEN = 10


@dataclass(frozen=True)
class Study:
    """Model, held-out images and plans of a measurement.

    Args:
        model: what is measured.
        settings: held-out prompts and seeds, steps, batch, guidance.
        plans: folder of <reference>-<m>.plan.json.
        command: the command line of the user, for the records.
        advance: called with a note now and then.
    """

    model: Model
    settings: Settings
    plans: Path
    command: str | None = None
    advance: Callable[[str], None] = lambda note: None

    def plan(self, evaluations: int, reference: Reference = "default") -> Plan:
        """The plan of so many evaluations; of one with knots that for the guidance of the settings.

        Raises:
            FileNotFoundError: none lies in the folder.
        """
        plan = Plan.load(self.plan_file(evaluations, reference))
        return plan_of_call(self.model.pipe, plan, self.settings.call)

    def plan_file(self, evaluations: int, reference: Reference = "default") -> Path:
        """Where that plan lies."""
        return self.plans / f"{reference}-{evaluations}{PLAN}"

    def plan_files(self) -> list[Path]:
        """Every plan in the folder, by reference and evaluations."""
        return sorted(self.plans.glob(f"*{PLAN}"), key=lambda path: _place(path.name.removesuffix(PLAN)))

    def profile(self) -> Profile | None:
        """The profile that the default plans were solved from, without its states; None where it is not kept."""
        path = self.plans / f"default{PROFILE}"
        return Profile.load(path) if path.is_file() else None

    def record(self, pairs: int, draw: int = 0, scales: Sequence[float] = ()) -> Profile:
        """A fresh recording with captions and noise of its own: none of them held out, none of another draw.

        Args:
            pairs: how many.
            draw: which captions and noise.
            scales: guidance scales, each for an equal share of the pairs; none for that of the settings.

        Raises:
            ValueError: too many pairs, or no equal shares.
        """
        settings = self.settings
        if pairs > _PER_DRAW:
            raise ValueError(f"record(pairs={pairs}) must be at most {_PER_DRAW}.")
        if scales and pairs % len(scales):
            raise ValueError(f"record(pairs={pairs}) cannot be shared out to {len(scales)} scales; give a multiple.")
        call = {key: value for key, value in settings.call.items() if not scales or key != "true_cfg_scale"}
        return record(
            self.model.pipe,
            recorded(pairs, draw, settings.prompts),
            seeds=FIRST_RECORDED + _PER_DRAW * draw,
            guidance=scales or None,
            num_inference_steps=settings.steps,
            batch=min(pairs, 48),
            revision=self.model.revision,
            progress=False,
            **call,
        )

    def record_held_out(self) -> Profile:
        """The held-out images themselves as a recording: their trajectories, to measure against."""
        settings = self.settings
        jobs = settings.pairs
        return record(
            self.model.pipe,
            [str(pair.prompt) for pair in jobs],
            seeds=[pair.seed for pair in jobs],
            num_inference_steps=settings.steps,
            batch=min(len(jobs), 32),
            revision=self.model.revision,
            progress=False,
            **settings.call,
        )

    def changed(self, **changes: Any) -> Study:
        """The same with other settings."""
        return replace(self, settings=replace(self.settings, **changes))


def _place(name: str) -> tuple[str, int, str]:
    reference, _, count = name.removesuffix("-passes").rpartition("-")
    return reference, int(count) if count.isdigit() else 0, name
