"""What a sweep is asked for: a YAML file read into frozen values, refused with file and line where it is wrong."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from skipcast.bench.metrics import METRICS
from skipcast.bench.rows import NAME, rows
from skipcast.bench.settings import GENERAL_PROMPTS, SHAPES_PROMPTS, Settings
from skipcast.bench.sweep.learned import LearnedSpec, names_of, read_learned
from skipcast.bench.sweep.models import ModelSpec, read_model
from skipcast.bench.sweep.yamls import Place, SpecError, parse, unknown, walk
from skipcast.pipelines.networks import scheduler_class, scheduler_names
from skipcast.plans.plan import Plan

JUDGE = "judge"  # reads attributes off pictures where the model has one; not a comparison of two pictures
MEASURES = (*METRICS, JUDGE)
_USUAL = ("psnr", "ssim", "relative_l2", JUDGE)
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
    """A grid of pictures: everything by everything, in the order of these fields."""

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
    batch: int  # pictures per call
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

    def wrong(self, key: str, message: object) -> SpecError:
        """An error at the line of a key, or of the file's first."""
        return SpecError(self.path, self.lines.get(key, 1), str(message))

    def prompts_of(self, model: ModelSpec) -> tuple[str, ...]:
        return self.prompts or (SHAPES_PROMPTS if model.judged else GENERAL_PROMPTS)

    def settings(self, model: ModelSpec, steps: int, call: Mapping[str, Any] | None = None) -> Settings:
        """What the rows of one model at one number of steps follow from."""
        files = [file for file, made_for in self.plans.items() if made_for == steps]
        named = None if self.methods is None else (*self.methods, *(f"{NAME}:file={file}" for file in files))
        return Settings(
            steps=steps,
            evaluations=tuple(budget for budget in self.budgets if budget <= steps),
            methods=named or (),
            prompts=self.prompts_of(model),
            seeds=self.seeds,
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
        metrics=tuple(found for found in measured if isinstance(found, str)) if measured else _USUAL,
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
    )
    if spec.methods == () and not spec.plans:
        raise fields["methods"].wrong("methods is empty, and there are no plans; name one, or leave it out.")
    _check_methods(spec, fields)
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


def _check_methods(spec: Spec, fields: dict[str, Place]) -> None:
    """Refuse at its own line what cannot run with these steps and budgets, before anything is loaded."""
    for model in spec.models:
        for steps in spec.steps:
            given = replace(spec.settings(model, steps), plans=())
            for place in fields["methods"].items() if "methods" in fields else ():
                try:
                    rows(replace(given, methods=(place.text(),)), model.name)
                except (ValueError, FileNotFoundError) as error:
                    raise place.wrong(error) from error
