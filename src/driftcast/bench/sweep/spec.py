"""What a sweep is asked for: a YAML file read into frozen values, refused with file and line where it is wrong."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from driftcast.backends.kinds import scheduler_class, scheduler_names
from driftcast.bench.candidates import candidates
from driftcast.bench.metrics import METRICS
from driftcast.bench.plan_rows import NAME
from driftcast.bench.settings import GENERAL_PROMPTS, SHAPES_PROMPTS, Settings
from driftcast.bench.sweep.yamls import Place, SpecError, parse, unknown, walk
from driftcast.planning.plan import Plan
from driftcast.reference.load import REFERENCES, reference_folder, weights_hash

DTYPES = ("float32", "bfloat16", "float16")
JUDGE = "judge"  # reads attributes off pictures where the model has one; not a comparison of two pictures
MEASURES = (*(name for name, metric in METRICS.items() if metric.takes != "videos"), JUDGE)
_USUAL = ("psnr", "ssim", "relative_l2", JUDGE)
_KEYS = (
    "models", "schedulers", "steps", "guidance", "methods", "plans", "budgets", "prompts", "seeds", "seed",
    "metrics", "converged_steps", "timing", "flops", "samples", "threads", "call",
)  # fmt: skip


@dataclass(frozen=True)
class ModelSpec:
    """A model: as it is called, where it lies, and how it is loaded."""

    name: str
    source: str  # what `load_model` takes
    revision: str | None  # of the weights; None for a hub id, which is known only once it is loaded
    judged: bool
    dtype: str | None = None
    size: int | None = None
    scheduler: str | None = None  # its own, where that is known beforehand

    @property
    def identity(self) -> dict[str, Any]:
        return {"name": self.name, "revision": self.revision, "dtype": self.dtype, "size": self.size}


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
    methods: tuple[str, ...] | None  # None: what `driftcast compare` takes
    plans: Mapping[str, int]  # path of the file -> sampler steps that it is for
    budgets: tuple[int, ...]
    prompts: tuple[str, ...]  # none: those that suit the model
    seeds: int
    seed: int
    metrics: tuple[str, ...]
    converged_steps: int
    repeats: int  # of the timing pass; 0 leaves it out
    flops: bool
    keep_samples: bool  # of all cells, rather than of those that others are measured against
    threads: int  # of every worker: results may differ in the last bit with their number
    call: Mapping[str, Any]
    lines: Mapping[str, int]

    def wrong(self, key: str, message: object) -> SpecError:
        """An error at the line of a key, or of the file's first."""
        return SpecError(self.path, self.lines.get(key, 1), str(message))

    def prompts_of(self, model: ModelSpec) -> tuple[str, ...]:
        return self.prompts or (SHAPES_PROMPTS if model.judged else GENERAL_PROMPTS)

    def settings(self, model: ModelSpec, steps: int, call: Mapping[str, Any] | None = None) -> Settings:
        """What the rows of one model at one number of steps follow from; one picture per call."""
        files = [file for file, made_for in self.plans.items() if made_for == steps]
        named = None if self.methods is None else (*self.methods, *(f"{NAME}:file={file}" for file in files))
        return Settings(
            steps=steps,
            evaluations=tuple(budget for budget in self.budgets if budget <= steps),
            methods=named or (),
            prompts=self.prompts_of(model),
            seeds=self.seeds,
            batch=1,
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
    models = fields["models"].each(_model)
    steps = tuple(place.whole(2) for place in walk(fields, "steps")) or (50,)
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
        metrics=tuple(place.one_of(MEASURES) for place in walk(fields, "metrics")) or _USUAL,
        converged_steps=_converged(fields.get("converged_steps"), steps),
        repeats=timing["repeats"].whole(1) if "repeats" in timing else 0,
        flops=fields["flops"].truth() if "flops" in fields else True,
        keep_samples="samples" in fields and fields["samples"].one_of(("references", "all")) == "all",
        threads=fields["threads"].whole(1) if "threads" in fields else 1,
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


def _model(place: Place) -> ModelSpec:
    fields = place.fields(("model", "dtype", "size")) if isinstance(place.value, dict) else {"model": place}
    if "model" not in fields:
        raise place.wrong("`model` is missing: a reference name, a folder or a hub id.")
    at = fields["model"]
    name = at.text()
    more: dict[str, Any] = {}
    if "dtype" in fields:
        more["dtype"] = fields["dtype"].one_of(DTYPES)
    if "size" in fields:
        more["size"] = fields["size"].whole(8)
    beside = place.path.parent / name
    try:
        folder = reference_folder(name) if name in REFERENCES else Path(name) if Path(name).exists() else beside
    except ValueError as error:
        raise at.wrong(error) from error
    if not folder.exists():
        if name.count("/") != 1 or name.startswith((".", "/")):
            raise at.wrong(
                f"no model {name!r}: it is neither a reference model ({', '.join(REFERENCES)}), nor a folder, "
                "nor a hub id of the form owner/name."
            )
        return ModelSpec(name, name, None, judged=False, **more)
    _check_weights(at, folder)
    source = name if name in REFERENCES else str(folder)
    more["scheduler"] = _own_scheduler(at, folder / "model_index.json")
    return ModelSpec(name, source, weights_hash(folder), (folder / "judge.safetensors").exists(), **more)


def _own_scheduler(place: Place, index: Path) -> str | None:
    try:
        found = json.loads(index.read_text(encoding="utf-8"))["scheduler"][1]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise place.wrong(f"{index} does not describe a pipeline with a scheduler: {error!r}.") from error
    return str(found)


def _check_weights(place: Place, folder: Path) -> None:
    if not (folder / "model_index.json").is_file():
        raise place.wrong(f"{folder} holds no pipeline: model_index.json is missing.")
    for config in sorted(folder.glob("*/config.json")):
        part = config.parent
        if not any(file.suffix in (".safetensors", ".bin") for file in part.iterdir()):
            raise place.wrong(f"the weights of {part} are missing; put its .safetensors file there.")


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
                    candidates(replace(given, methods=(place.text(),)), model.name)
                except (ValueError, FileNotFoundError) as error:
                    raise place.wrong(error) from error
