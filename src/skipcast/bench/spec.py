"""What a bench run is given: prompts, seeds, methods, budgets, models; from YAML with file and line in every error."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from skipcast.bench.draw import Pair
from skipcast.bench.metrics import METRICS
from skipcast.bench.models import LearnedSpec, ModelSpec, names_of, read_learned, read_model
from skipcast.bench.yamls import Place, SpecError, parse, unknown, walk
from skipcast.models.load import Model
from skipcast.models.scenes import captions, sample_scene
from skipcast.pipelines.networks import scheduler_class, scheduler_names
from skipcast.plans.plan import Plan

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
#: For finding thresholds; never among the images compared, or methods that decide by values would be tuned on them.
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
    seed: int = 1000  # of the run; the seeds of the images follow from it
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
        """The budget whose images are kept for the grid: the middle one."""
        return sorted(self.evaluations)[len(self.evaluations) // 2]


def prompts_for(model: Model, settings: Settings) -> tuple[str, ...]:
    """The prompts that were requested, or those that suit the model."""
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
    first = settings.seed + CALIBRATION_SEEDS
    return tuple(
        Pair(free[i % len(free)], first + i) for i in range(min(settings.batch, len(compared) * settings.seeds))
    )


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


JUDGE = "judge"  # reads attributes off images where the model has one; not a comparison of two images
MEASURES = (*METRICS, JUDGE)
USUAL = ("psnr", "ssim", "relative_l2", JUDGE)
_KEYS = (
    "models", "schedulers", "steps", "guidance", "methods", "plans", "budgets", "prompts", "seeds", "seed",
    "batch", "metrics", "converged_steps", "timing", "flops", "pictures", "fps", "samples", "threads", "call",
)  # fmt: skip


@dataclass(frozen=True)
class SchedulerSpec:
    """The model's own scheduler, or another class of diffusers, or the same with other settings."""

    class_name: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        words = [self.class_name or "default", *(f"{key}={value}" for key, value in self.changes.items())]
        return " ".join(words)


@dataclass(frozen=True)
class Spec:
    """A grid of images: everything by everything, in the order of these fields."""

    path: Path
    text: str
    models: tuple[ModelSpec, ...]
    schedulers: tuple[SchedulerSpec, ...]
    steps: tuple[int, ...]
    guidance: tuple[float | None, ...]  # None: the model's own
    methods: tuple[str, ...] | None  # None: what `skipcast compare` takes
    plans: Mapping[str, int]  # path of the file -> sampler steps that it is for
    budgets: tuple[int, ...]
    prompts: tuple[str, ...]  # none: those that suit the model
    seeds: int
    seed: int
    batch: int  # images per call
    metrics: tuple[str, ...]  # built in
    learned: tuple[LearnedSpec, ...]
    converged_steps: int
    repeats: int  # of the timing pass; 0 leaves it out
    flops: bool
    pictures: bool  # kept as files for people to look at
    keep_samples: bool  # of all cells, rather than of those that others are measured against
    threads: int  # of every worker: results may differ in the last bit with their number
    fps: int  # of the files of videos
    call: Mapping[str, Any]
    lines: Mapping[str, int]
    method_lines: tuple[tuple[str, int], ...] = ()  # each method with its line

    def wrong(self, key: str, message: object) -> SpecError:
        """An error at the line of a key, or of the file's first."""
        return SpecError(self.path, self.lines.get(key, 1), str(message))

    def prompts_of(self, model: ModelSpec) -> tuple[str, ...]:
        return self.prompts or (SHAPES_PROMPTS if model.judged else GENERAL_PROMPTS)

    def settings(self, model: ModelSpec, steps: int, call: Mapping[str, Any] | None = None) -> Settings:
        """What the rows of one model at one number of steps follow from."""
        files = [file for file, made_for in self.plans.items() if made_for == steps]
        named = None if self.methods is None else (*self.methods, *(f"plan:file={file}" for file in files))
        return Settings(
            steps=steps,
            evaluations=tuple(budget for budget in self.budgets if budget <= steps),
            methods=named or (),
            prompts=self.prompts_of(model),
            seeds=self.seeds,
            seed=self.seed,
            batch=self.batch,
            converged_steps=self.converged_steps,
            call=dict(call or {}),
            plans=() if named else tuple(files),
        )


def read_spec(path: Path) -> Spec:
    """The spec of a file, checked as far as it can be without loading a model.

    Raises:
        FileNotFoundError: no such file.
        SpecError: names the file, the line, what is wrong and what is known instead.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the YAML file of a sweep.")
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SpecError(path, raw[: error.start].count(b"\n") + 1, "not UTF-8 text.") from error
    root = parse(path, text)
    fields = root.fields(_KEYS)
    if "models" not in fields:
        raise root.wrong("`models` is missing; name at least one, such as `models: [shapes-flux]`.")
    models = fields["models"].each(read_model)
    steps = tuple(place.whole(2) for place in walk(fields, "steps")) or (50,)
    measured = [_metric(place, models) for place in walk(fields, "metrics")]
    named = [found.name for found in measured if isinstance(found, LearnedSpec)]
    if twice := [name for name in named if named.count(name) > 1]:
        raise fields["metrics"].wrong(f"metrics holds {twice[0]!r} twice; remove one.")
    timing = fields["timing"].fields(("repeats",)) if "timing" in fields else {}
    spec = Spec(
        path=path,
        text=text,
        models=models,
        schedulers=tuple(_scheduler(place, models) for place in walk(fields, "schedulers")) or (SchedulerSpec(),),
        steps=steps,
        guidance=tuple(None if place.value is None else place.number() for place in walk(fields, "guidance"))
        or (None,),
        methods=tuple(place.text() for place in fields["methods"].items()) if "methods" in fields else None,
        plans=dict(_plan(place, steps) for place in walk(fields, "plans")),
        budgets=tuple(_budget(place, steps) for place in walk(fields, "budgets")) or _budgets(steps),
        prompts=_prompts(fields.get("prompts")),
        seeds=fields["seeds"].whole(1) if "seeds" in fields else 4,
        seed=fields["seed"].whole(0) if "seed" in fields else 0,
        batch=fields["batch"].whole(1) if "batch" in fields else 1,
        metrics=tuple(found for found in measured if isinstance(found, str)) if measured else USUAL,
        learned=tuple(found for found in measured if isinstance(found, LearnedSpec)),
        converged_steps=_converged(fields.get("converged_steps"), steps),
        repeats=timing["repeats"].whole(1) if "repeats" in timing else 0,
        flops=fields["flops"].truth() if "flops" in fields else True,
        pictures=fields["pictures"].truth() if "pictures" in fields else True,
        keep_samples="samples" in fields and fields["samples"].one_of(("references", "all")) == "all",
        threads=fields["threads"].whole(1) if "threads" in fields else 1,
        fps=fields["fps"].whole(1) if "fps" in fields else 8,
        call=_plain(fields["call"]) if "call" in fields else {},
        lines={name: place.line for name, place in fields.items()},
        method_lines=tuple((place.text(), place.line) for place in fields["methods"].items())
        if "methods" in fields
        else (),
    )
    if spec.methods == () and not spec.plans:
        raise fields["methods"].wrong("methods is empty, and there are no plans; name one, or leave it out.")
    return spec


def _budgets(steps: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(budget for budget in (8, 10, 14) if budget <= max(steps)) or (max(steps),)


def _budget(place: Place, steps: tuple[int, ...]) -> int:
    budget = place.whole(1)
    if budget > max(steps):
        raise place.wrong(f"a budget of {budget} evaluations is more than the {max(steps)} steps; lower it.")
    return budget


def _metric(place: Place, models: Iterable[ModelSpec]) -> str | LearnedSpec:
    learned = read_learned(place, next((model.name for model in models if model.video), None))
    if learned is not None:
        return learned
    name = place.one_of(names_of(MEASURES))
    drawn = [model.name for model in models if not model.video]
    if name != JUDGE and METRICS[name].takes == "videos" and drawn:
        raise place.wrong(f"{name} is of videos, and {drawn[0]} draws pictures; leave it out.")
    return name


def _converged(place: Place | None, steps: tuple[int, ...]) -> int:
    if place is None or place.value == 0:
        return 0
    if (found := place.whole(2)) < 2 * max(steps):
        raise place.wrong(f"converged_steps: {found} must be at least twice the {max(steps)} steps, or 0.")
    return found


def _plain(place: Place) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, item in place.fields().items():
        if not isinstance(item.value, bool | int | float | str | None):
            raise item.must_be("a plain value: text, number, true, false or null")
        found[name] = item.value
    return found


def _scheduler(place: Place, models: tuple[ModelSpec, ...]) -> SchedulerSpec:
    if place.value == "default":
        return SchedulerSpec()
    if isinstance(place.value, str):
        return SchedulerSpec(_scheduler_class(place))
    fields = place.fields()
    named = _scheduler_class(fields["class"]) if "class" in fields else None
    settings = {name: item for name, item in fields.items() if name != "class"}
    for own in [named] if named else [model.scheduler for model in models]:
        for item in settings.values():
            try:
                check_settings(own, [item.name])
            except ValueError as error:
                raise item.wrong(error) from error
    return SchedulerSpec(named, {name: item.value for name, item in settings.items()})


def check_settings(scheduler: str | None, names: Iterable[str]) -> None:
    """Refuse what is no setting of a scheduler of diffusers; None for one that is not known yet.

    Raises:
        ValueError: names the nearest setting.
    """
    if (found := scheduler_class(scheduler or "")) is None:
        return
    known = [name for name in inspect.signature(found.__init__).parameters if name not in ("self", "kwargs")]
    for name in names:
        if name not in known:
            raise ValueError(unknown(f"setting of {scheduler}", name, known))


def _scheduler_class(place: Place) -> str:
    return place.one_of(scheduler_names())


def _plan(place: Place, steps: tuple[int, ...]) -> tuple[str, int]:
    name = place.text()
    file = Path(name) if Path(name).exists() else place.path.parent / name
    try:
        made_for = Plan.load(file).origin.steps
    except (ValueError, FileNotFoundError) as error:
        raise place.wrong(error) from error
    if made_for not in steps:
        raise place.wrong(f"{name} was made for {made_for} steps; add {made_for} to `steps`.")
    return str(file), made_for


def _prompts(place: Place | None) -> tuple[str, ...]:
    if place is None:
        return ()
    if not isinstance(place.value, dict):
        return place.each(Place.text)
    fields = place.fields(("file",))
    if "file" not in fields:
        raise place.wrong("`prompts` must be a list of texts, or `file: PATH` with one prompt a line.")
    name = fields["file"].text()
    file = Path(name) if Path(name).is_file() else place.path.parent / name
    if not file.is_file():
        raise fields["file"].wrong(f"no such file: {file}.")
    found = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not found:
        raise fields["file"].wrong(f"{file} holds no prompt; write one per line.")
    if len(set(found)) < len(found):
        twice = next(line for i, line in enumerate(found) if line in found[:i])
        raise fields["file"].wrong(f"{file} holds {twice!r} twice; remove one.")
    return tuple(found)
