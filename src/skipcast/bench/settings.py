"""What a comparison is asked for: methods, budgets, prompts and seeds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from skipcast.bench.draw import Pair
from skipcast.models.load import Model
from skipcast.models.scenes import captions, sample_scene

#: Forecasters and plain samplers that every comparison holds unless the user names others, behind the shipped plans.
METHODS = (
    "reuse",
    "lagrange:order=1",
    "lagrange:order=1,schedule=even",
    "taylorseer",
    "taylorseer:target=hidden",
    "resilphase",
    "euler",
    "heun",
    "ab2",
    "ab3",
    "dpmpp2m",
    "unipc",
)
ALL = "all"  # stands for every method of the registry
ROUNDS = 3  # at least so many interleaved rounds, where there are pictures enough

SHAPES_PROMPTS = (
    "a large striped red star on a blue background",
    "a small plain white crescent on a purple background",
    "a green ring on an orange background, large and dotted",
    "large plain blue heart, yellow background",  # a combination that training never showed
)
GENERAL_PROMPTS = (
    "a photograph of a red fox in fresh snow, early morning light",
    "a watercolour of a harbour town with sailing boats",
    "a bowl of ramen on a wooden table, steam rising, close-up",
    "an isometric drawing of a small bookshop at night",
)
#: For finding thresholds; never among the pictures compared, or methods that decide by values would be tuned on them.
SHAPES_CALIBRATION = (
    "a small dotted orange square on a green background",
    "large striped purple triangle, white background",
    "on a black background, a small plain yellow ring",
    "a blue hexagon on a red background, large",
    "a small striped black cross on an orange background",
    "on a yellow background, a large dotted green circle",
)
GENERAL_CALIBRATION = (
    "a lighthouse on a cliff in a storm",
    "an oil painting of two chess players in a park",
    "a macro photograph of a dragonfly on a reed",
    "a poster of a mountain railway, flat colours",
    "a white kitchen with copper pans and morning sun",
    "an astronaut reading a newspaper on a bench",
)
CALIBRATION_SEEDS = 1_000_000  # from the first compared seed to the first calibration seed
_RECORDED = 4711  # seed of the captions that a reference model is recorded on


@dataclass(frozen=True)
class Settings:
    """What is compared on what.

    `methods` may hold "all"; empty, it stands for the shipped plans of the model and METHODS. `call` holds further
    arguments of every pipeline call; `per_step` adds one untimed round that measures every forecast against the
    evaluation it replaced; `plans` are files of plans to be compared too.
    """

    steps: int = 50
    evaluations: tuple[int, ...] = (8, 10, 14)
    methods: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    seeds: int = 8
    first_seed: int = 1000
    batch: int = 8
    converged_steps: int = 200  # 0 leaves the converged reference out
    call: dict[str, Any] = field(default_factory=dict)
    per_step: bool = False
    plans: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        checks = {
            "steps": self.steps >= 2,
            "seeds": self.seeds >= 1,
            "batch": self.batch >= 1,
        }
        for name, fine in checks.items():
            if not fine:
                raise ValueError(f"compare({name}={getattr(self, name)}) is too small.")
        if self.seeds > CALIBRATION_SEEDS:
            raise ValueError(f"compare(seeds={self.seeds}) must be at most {CALIBRATION_SEEDS}.")
        if self.converged_steps and self.converged_steps < 2 * self.steps:
            raise ValueError(
                f"converged_steps={self.converged_steps} must be at least twice steps={self.steps}, "
                "or 0 to leave the converged reference out."
            )
        for budget in self.evaluations:
            if not 1 <= budget <= self.steps:
                raise ValueError(f"evaluations={budget} must lie between 1 and steps={self.steps}.")

    @property
    def shown_budget(self) -> int:
        """The budget whose pictures are kept for the grid: the middle one."""
        return sorted(self.evaluations)[len(self.evaluations) // 2]

    def batch_of(self, prompts: int) -> int:
        """Pictures per call: `batch`, or fewer so that timings come from at least three interleaved rounds."""
        return max(1, min(self.batch, -(-prompts * self.seeds // ROUNDS)))


def prompts_for(model: Model, settings: Settings) -> tuple[str, ...]:
    """The prompts that were asked for, or those that suit the model."""
    return settings.prompts or (SHAPES_PROMPTS if model.judge is not None else GENERAL_PROMPTS)


def calibration_for(model: Model, settings: Settings) -> tuple[Pair, ...]:
    """One batch of pairs for finding thresholds; none of them is compared.

    It is as large as a compared batch, because a method decides for a batch as a whole.

    Raises:
        ValueError: every calibration prompt is among those compared.
    """
    compared = prompts_for(model, settings)
    known = SHAPES_CALIBRATION if model.judge is not None else GENERAL_CALIBRATION
    free = [prompt for prompt in known if prompt not in compared]
    if not free:
        raise ValueError("every calibration prompt is among the compared prompts; leave one of them out.")
    size = settings.batch_of(len(compared))
    first = settings.first_seed + CALIBRATION_SEEDS
    return tuple(Pair(free[i % len(free)], first + i) for i in range(size))


def prompts_to_record(model: Model, count: int) -> tuple[str, ...]:
    """Prompts to profile a model on, always the same and none of those that comparisons draw; more only adds.

    A reference model gets captions of its own world without the held-out combinations, other models the calibration
    prompts over and over, for the seeds differ.
    """
    if model.judge is None:
        return tuple(GENERAL_CALIBRATION[i % len(GENERAL_CALIBRATION)] for i in range(count))
    rng, found = np.random.default_rng(_RECORDED), list[str]()
    while len(found) < count:
        (line,) = captions(sample_scene(1, rng), rng)
        if line not in (*SHAPES_PROMPTS, *found):
            found.append(line)
    return tuple(found)
