"""What the page of one visitor holds: requests, drawn images, plans and their files."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from skipcast.bench.rows import stem
from skipcast.models.shipped import PLAN
from skipcast.plans.plan import Plan
from skipcast.ui.choices import OWN

#: The panels, in the order in which they are drawn.
UNACCELERATED, ACCELERATED, FEWER = PANELS = ("unaccelerated", "accelerated", "fewer")


#: The two kinds of work that a page can begin and stop.
DRAW, SOLVE = "draw", "solve"


class Stopped(Exception):
    """Raised inside a network call when the visitor stopped the work or closed the page."""


@dataclass(frozen=True)
class DrawRequest:
    """What to draw.

    Raises:
        ValueError: no model or prompt, or a number out of range.
    """

    model: str  # its name
    spec: str  # the method or plan, as `choices.resolve` takes it
    budget: int = 10  # evaluations of the slider
    threshold: float | None = None  # of a method that decides by values; None for the published one
    steps: int = 50  # of the sampler
    prompt: str = ""  # of the image
    seed: int = 0  # of the noise
    guidance: float | None = None  # the guidance scale; None for the model's own
    sampler: str = OWN  # the plain sampler to compare with

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("choose a model.")
        if not self.prompt.strip():
            raise ValueError("say in the prompt what to draw.")
        if not 2 <= self.steps <= 1000:
            raise ValueError(f"steps={self.steps} must lie between 2 and 1000.")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed} must be a whole number from 0 on.")


@dataclass(frozen=True)
class Sample:
    """One drawn image and what is known of it."""

    image: Tensor  # (3, H, W) float32 in [0, 1]
    label: str  # what drew it
    seconds: float  # of the whole call, from the prompt to the image
    evaluations: float  # per branch
    steps: int  # of the sampler
    evaluated: tuple[int, ...] | None = None  # which steps were evaluated, where others were forecast
    speedup: float | None = None  # seconds of the unaccelerated run over these; None for that run itself
    psnr: float | None = None  # to the unaccelerated run, in dB
    ssim: float | None = None  # to the unaccelerated run; None for images below 11 pixels a side
    kept: bool = False  # whether it is the unaccelerated run of an earlier draw
    trusted: bool | None = None  # whether the run stayed where the plan was made; None without a plan
    remarks: tuple[str, ...] = ()  # predictions and warnings


@dataclass
class Session:
    """The state of one open page; Gradio makes one per page and calls `close` when the page is gone."""

    home: str  # the folder in which this session makes its own once it holds a plan
    # uploaded and solved ones, by the name that the list of methods shows.
    plans: dict[str, Plan] = field(default_factory=dict)
    samples: dict[str, Sample] = field(default_factory=dict)  # the newest sample of every panel
    unaccelerated: tuple[Any, Sample] | None = None  # what the newest unaccelerated run was drawn with, and its sample
    stopped: set[str] = field(default_factory=set)  # the kinds of work that are to end at their next network call
    folder: str | None = None  # the files of the plans

    def check(self, kind: str) -> None:
        """Raise `Stopped` if the work of this kind is to end."""
        if kind in self.stopped:
            raise Stopped

    def add(self, plan: Plan, name: str) -> str:
        """Keep a plan under a name of its own, save it, and return that name."""
        label, number = f"my {name}", 1
        while label in self.plans:
            number += 1
            label = f"my {name}-{number}"
        self.folder = self.folder or tempfile.mkdtemp(dir=self.home)
        plan.save(self.file(label))
        self.plans[label] = plan
        return label

    def file(self, label: str) -> Path:
        """The file of a plan."""
        return Path(self.folder or self.home) / f"{label.removeprefix('my ')}{PLAN}"

    def upload(self, path: str | Path) -> str:
        """Read the file of a plan and keep the plan; returns its name.

        Raises:
            FileNotFoundError, ValueError: the file is not a plan.
        """
        try:
            plan = Plan.load(path)
        except ValueError as error:  # without the folder that the upload happens to lie in
            raise ValueError(str(error).replace(str(path), Path(path).name)) from error
        return self.add(plan, stem(path))

    def close(self) -> None:
        """Stop the work under way and delete the files."""
        self.stopped |= {DRAW, SOLVE}
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
