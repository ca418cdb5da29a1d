"""What a bench run is given: prompts, seeds, methods, budgets, models; from YAML with file and line in every error."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

try:
    import yaml  # type: ignore[import-untyped]
    from pydantic import BeforeValidator, Field, PlainValidator, PrivateAttr, ValidationError, ValidationInfo
    from pydantic import model_validator as validator
    from pydantic_core import ErrorDetails
except ImportError as error:
    raise ImportError('specs need pydantic and pyyaml; run: pip install "skipcast[bench]"') from error

from skipcast.bench.draw import Batch, Pair
from skipcast.bench.metrics import METRICS
from skipcast.bench.metrics.learned import LEARNED
from skipcast.bench.models import (
    MODEL_KEYS,
    LearnedSpec,
    ModelSpec,
    Strict,
    Text,
    among,
    near,
    read_learned,
    read_model,
    refused,
    unknown,
)
from skipcast.bench.prompts import calibration_prompts, read_prompts, usual_prompts
from skipcast.checks import shown
from skipcast.pipelines.calls import OURS
from skipcast.pipelines.networks import scheduler_class, scheduler_names
from skipcast.plans.plan import MOST_STEPS, Plan
from skipcast.reading import read_regular

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
BUDGETS = (8, 10, 14)
_CALIBRATION_SEEDS = 1_000_000  # from the seed of the run to the first calibration seed
_TOGETHER = 8
_MOST_BYTES, _MOST_VALUES = 2**20, 100_000  # of a file

JUDGE = "judge"  # reads attributes off images where the model has one; not a comparison of two images
USUAL = ("psnr", "ssim", "relative_l2", JUDGE)


class SpecError(ValueError):
    """Something wrong in a file, with its line."""

    def __init__(self, path: Path, line: int, message: str) -> None:
        super().__init__(f"{path}, line {line}: {message}")


@dataclass(frozen=True)
class SchedulerSpec:
    """The model's own scheduler, or another class of diffusers, or the same with other settings."""

    class_name: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        words = [self.class_name or "default", *(f"{key}={value}" for key, value in self.changes.items())]
        return " ".join(words)


def check_settings(scheduler: str | None, names: Iterable[str]) -> None:
    """Refuse what is no setting of a scheduler of diffusers; None for one that is not known yet.

    Raises:
        ValueError: names the nearest setting.
    """
    if (found := scheduler_class(scheduler or "")) is not None:
        known = [name for name in inspect.signature(found.__init__).parameters if name not in ("self", "kwargs")]
        for name in names:
            if name not in known:
                raise ValueError(unknown(f"setting of {scheduler}", name, known))


def _scheduler(given: object) -> SchedulerSpec:
    settings = dict(given) if isinstance(given, dict) else {} if given == "default" else {"class": given}
    name = settings.pop("class", None)
    if (name is not None or not isinstance(given, dict | str)) and name not in (known := scheduler_names()):
        raise ValueError(unknown("schedulers", name, known))
    return SchedulerSpec(name, settings)


def _metric(given: object, info: ValidationInfo) -> str | LearnedSpec:
    if isinstance(given, dict) and len(given) == 1:
        ((name, weights),) = given.items()
        if not isinstance(weights, str):
            raise ValueError(f"the weights of {name!s:.60} must be a path, got {shown(weights)}.")
        return read_learned(name, weights, info)
    if isinstance(given, str) and given in LEARNED:
        return read_learned(given, None, info)
    known = (*METRICS, JUDGE, *(name for name, metric in LEARNED.items() if metric.against != "set"))
    if not isinstance(given, str) or given not in known:
        raise ValueError(unknown("metrics", given, known))
    return given


def _plan(given: object, info: ValidationInfo) -> tuple[str, int]:
    if not isinstance(given, str):
        raise ValueError(f"plans must be paths of files, got {shown(given)}.")
    file = near(given, info)
    try:
        return str(file), Plan.load(file).origin.steps
    except FileNotFoundError as error:
        raise ValueError(error) from error


def _listed(given: object, info: ValidationInfo) -> object:
    """The items of a field; a single value stands for a list of one."""
    if given == [] and info.field_name != "methods":
        raise ValueError(f"{info.field_name} is empty; name at least one, or leave it out.")
    return tuple(given) if isinstance(given, list | tuple) else (given,)


def _prompts(given: object, info: ValidationInfo) -> object:
    if not isinstance(given, dict):
        return _listed(given, info)
    if list(given) != ["file"] or not isinstance(given["file"], str):
        raise ValueError("prompts must be a list of texts, or `file: PATH` with one prompt a line.")
    try:
        return tuple(prompt for _, prompt in read_prompts(near(given["file"], info)))
    except FileNotFoundError as error:
        raise ValueError(error) from error


T = TypeVar("T")
_Place: TypeAlias = tuple[str | int, ...]  # keys and indices from the top of the file
Several: TypeAlias = Annotated[tuple[T, ...], BeforeValidator(_listed)]
Count: TypeAlias = Annotated[int, Field(ge=1, le=10**6)]
Steps: TypeAlias = Annotated[int, Field(ge=2, le=MOST_STEPS)]


class Timing(Strict):
    """The timing pass, in which all rows take turns; no repeats leave it out."""

    repeats: Count = 0


class Spec(Strict):
    """A grid of images: every model with every scheduler, number of steps, guidance scale, method, budget and pair.

    Its fields are the keys of the YAML file (`read_spec`) and of `Spec.of`. A list may be given as its single value.
    """

    models: Several[Annotated[ModelSpec, PlainValidator(read_model)]]
    schedulers: Several[Annotated[SchedulerSpec, PlainValidator(_scheduler)]] = (SchedulerSpec(),)
    steps: Several[Steps] = (50,)
    guidance: Several[Annotated[float, Field(ge=-1e6, le=1e6)] | None] = (None,)  # None: the model's own
    methods: Several[Text] | None = None  # None: what `skipcast compare` takes
    plans: Several[Annotated[tuple[str, int], PlainValidator(_plan)]] = ()  # files, with the steps they are for
    budgets: Several[Count] = ()  # none: the usual ones
    prompts: Annotated[tuple[Text, ...], BeforeValidator(_prompts)] = ()  # none: those that suit the model
    seeds: Count = 4  # per prompt
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    batch: Count = 1  # images per call
    measures: Several[Annotated[Any, PlainValidator(_metric)]] = Field(default=USUAL, alias="metrics")
    converged_steps: Annotated[int, Field(ge=0, le=100 * MOST_STEPS)] = 0
    timing: Timing = Timing()
    flops: bool = True
    images: bool = True  # kept as files for people to look at
    per_step: bool = False  # every forecast compared with the evaluation that it replaced, untimed
    fps: Count = 8  # of the files of videos
    samples: Annotated[Text, among("samples", "references", "all")] = "references"
    threads: Count = 1  # of every worker: results may differ in the last bit with their number
    call: Mapping[str, Any] = Field(default_factory=dict)
    _path: Path | None = PrivateAttr(default=None)
    _text: str = PrivateAttr(default="")
    _lines: dict[_Place, int] = PrivateAttr(default_factory=dict)

    @validator(mode="after")
    def _agrees(self) -> Spec:
        """What the values of several keys must have in common."""
        most = max(self.steps)
        if (budget := max(self.budgets, default=0)) > most:
            message = f"a budget of {budget} evaluations is more than the {most} steps; lower it."
            raise refused(message, "budgets", self.budgets.index(budget))
        if self.converged_steps and self.converged_steps < 2 * most:
            message = f"converged_steps: {self.converged_steps} must be at least twice the {most} steps, or 0."
            raise refused(message, "converged_steps")
        if self.methods == () and not self.plans:
            raise refused("methods is empty, and there are no plans; name one, or leave it out.", "methods")
        for i, (file, made_for) in enumerate(self.plans):
            if made_for not in self.steps:
                raise refused(f"{file} was made for {made_for} steps; add {made_for} to `steps`.", "plans", i)
        for name, value in self.call.items():
            if name in OURS:
                message = f"{name} is set for every image; give {OURS[name]} instead."
                raise refused(message, "call", name)
            odd = isinstance(value, int | float) and not abs(value) < 2**63
            if odd or not isinstance(value, bool | int | float | str | None):
                message = f"{name:.60} must be a plain value: text, number, true, false or null, got {shown(value)}."
                raise refused(message, "call", name)
        for i, scheduler in enumerate(self.schedulers):
            for owner in [scheduler.class_name] if scheduler.class_name else [model.scheduler for model in self.models]:
                for name in scheduler.changes:
                    try:
                        check_settings(owner, [name])
                    except ValueError as error:
                        raise refused(error, "schedulers", i, name) from error
        self._check_metrics()
        return self

    @classmethod
    def of(cls, **values: Any) -> Spec:
        """A spec from Python.

        Raises:
            ValueError: names the key, what is wrong and what is known instead.
        """
        try:
            return cls.model_validate(values, context={"folder": Path()})
        except ValidationError as error:
            raise ValueError(_message(error.errors()[0])) from error

    def _check_metrics(self) -> None:
        images = [model.name for model in self.models if not model.video]
        videos = [model.name for model in self.models if model.video]
        names = [metric if isinstance(metric, str) else metric.name for metric in self.measures]
        for i, (name, metric) in enumerate(zip(names, self.measures, strict=True)):
            if name in names[:i]:
                raise refused(f"metrics holds {name!r} twice; remove one.", "metrics", i)
            if isinstance(metric, LearnedSpec):
                if videos:
                    raise refused(f"{name} is of images, and {videos[0]} draws videos; leave it out.", "metrics", i)
            elif name != JUDGE and METRICS[name].takes == "videos" and images:
                raise refused(f"{name} is of videos, and {images[0]} draws images; leave it out.", "metrics", i)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics without weights."""
        return tuple(metric for metric in self.measures if isinstance(metric, str))

    @property
    def learned(self) -> tuple[LearnedSpec, ...]:
        """The metrics with weights."""
        return tuple(metric for metric in self.measures if isinstance(metric, LearnedSpec))

    @property
    def text(self) -> str:
        """The file as it was read, or the fields that were given in Python."""
        return self._text or f"{self.model_dump_json(by_alias=True, exclude_defaults=True, indent=1, warnings=False)}\n"

    def wrong(self, message: object, *place: str | int) -> ValueError:
        """An error at a key or an item: at its line, where the spec is a file."""
        return SpecError(self._path, _line(self._lines, place), str(message)) if self._path else ValueError(message)

    def prompts_of(self, model: ModelSpec) -> tuple[str, ...]:
        return self.prompts or usual_prompts(model.world)

    def budgets_at(self, steps: int) -> list[int]:
        """The evaluations that methods are run with at a number of steps."""
        usual = [budget for budget in BUDGETS if budget <= max(self.steps)] or [max(self.steps)]
        return [budget for budget in self.budgets or usual if budget <= steps]

    def calibration_pairs(self, model: ModelSpec) -> Batch:
        """One batch of pairs for finding thresholds; none of them is compared.

        It is as large as a compared batch, because a method decides for a batch as a whole; but where images are drawn
        one by one it holds eight, for one says too little of the others.

        Raises:
            ValueError: every calibration prompt is among those compared.
        """
        compared = self.prompts_of(model)
        free = [prompt for prompt in calibration_prompts(model.world) if prompt not in compared]
        if not free:
            raise ValueError("every calibration prompt is among the compared prompts; leave one of them out.")
        batch, seeds = (_TOGETHER, _TOGETHER) if self.batch == 1 else (self.batch, self.seeds)
        first = self.seed + _CALIBRATION_SEEDS
        return tuple(Pair(free[i % len(free)], first + i) for i in range(min(batch, len(compared) * seeds)))


KEYS = tuple(field.alias or name for name, field in Spec.model_fields.items())


def read_spec(path: Path) -> Spec:
    """The spec of a file, checked as far as it can be without loading a model.

    Raises:
        FileNotFoundError: no such file.
        SpecError: names the file, the line, what is wrong and what is known instead.
    """
    content = read_regular(path, _MOST_BYTES, f"{path}: no such file; give the YAML file of a bench run.")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SpecError(path, error.object[: error.start].count(b"\n") + 1, "not UTF-8 text.") from error
    values, lines = _parsed(path, text)
    if not isinstance(values, dict):
        raise SpecError(path, lines[()], f"the spec must be a mapping, `key: value`, got {shown(values)}.")
    try:
        spec = Spec.model_validate(values, context={"folder": path.parent})
    except ValidationError as error:
        line, message = min((_line(lines, each["loc"]), _message(each)) for each in error.errors())
        raise SpecError(path, line, message) from error
    spec._path, spec._text, spec._lines = path, text, lines
    return spec


def _parsed(path: Path, text: str) -> tuple[Any, dict[_Place, int]]:
    """The value of the one document of a file, and the line of every place in it."""
    try:
        loader = yaml.SafeLoader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise SpecError(path, line, f"not YAML: the character {shown(text[error.position])} is not allowed.") from error
    try:
        if (node := loader.get_single_node()) is None:
            raise SpecError(path, 1, "the file is empty; name at least `models`.")
        _check_values(path, loader, node, {})
        value = loader.construct_document(node)
        lines: dict[_Place, int] = {(): int(node.start_mark.line) + 1}
        _index(path, node, value, (), lines)
        return value, lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise SpecError(path, mark.line + 1 if mark else 1, f"not YAML: {error.problem:.200}.") from error
    except SpecError:
        raise
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise SpecError(path, 1, f"not YAML: {' '.join(str(error).split()):.200}.") from error
    finally:
        loader.dispose()


def _check_values(path: Path, loader: Any, node: Any, sizes: dict[int, float]) -> float:
    """How many values a node stands for, with all that its aliases repeat.

    Raises:
        SpecError: too many, as a few lines of aliases can be millions; or a text that is no value of its kind.
    """
    if id(node) in sizes:
        return sizes[id(node)]
    sizes[id(node)] = math.inf  # what is inside itself never ends
    if isinstance(node, yaml.ScalarNode):
        try:
            if node.tag != "tag:yaml.org,2002:merge":  # the key `<<` is no value
                loader.construct_object(node)
        except (ValueError, ArithmeticError) as error:
            message = f"not YAML: {shown(node.value)} is no value ({' '.join(str(error).split()):.100})."
            raise SpecError(path, node.start_mark.line + 1, message) from error
        inner = []
    else:
        inner = [each for item in node.value for each in (item if isinstance(item, tuple) else (item,))]
    size = sizes[id(node)] = 1 + sum(_check_values(path, loader, each, sizes) for each in inner)
    if size > _MOST_VALUES:
        message = f"it holds more than the {_MOST_VALUES} values that a spec may have, or itself, by its aliases."
        raise SpecError(path, node.start_mark.line + 1, message)
    return size


def _index(path: Path, node: Any, value: Any, place: _Place, lines: dict[_Place, int]) -> None:
    """Fill in the lines below a place; refuse what YAML lets pass, such as a key or an item given twice."""
    if isinstance(node, yaml.MappingNode):
        items = [(key.value, key, item) for key, item in node.value]
    elif isinstance(node, yaml.SequenceNode):
        items = [(i, item, item) for i, item in enumerate(node.value)]
    else:
        return
    known: set[str] = set()
    for key, at, item in items:
        line = int(at.start_mark.line) + 1
        if at is not item and at.tag != "tag:yaml.org,2002:str":
            raise SpecError(path, line, f"the key {_key(at)} must be a text; write it in quotes.")
        if (*place, key) in lines:
            raise SpecError(path, line, f"{shown(key)} is given twice; remove one.")
        written = json.dumps(value[key], default=repr) if at is item else f"key {key}"
        if written in known:
            raise SpecError(
                path, line, f"{(place or ('the spec',))[-1]!s:.60} holds {shown(value[key])} twice; remove one."
            )
        known.add(written)
        lines[(*place, key)] = line
        if len(place) < 2:  # a spec is no deeper
            _index(path, item, value[key], (*place, key), lines)


def _key(node: Any) -> str:
    return shown(node.value) if isinstance(node, yaml.ScalarNode) else "that is no text"


def _line(lines: Mapping[_Place, int], place: _Place) -> int:
    """The line of a place, or of the innermost place around it that the file has.

    Where a single value stands for a list, the file has no indices.
    """
    for size in range(len(place), 0, -1):
        for known in (place[:size], tuple(part for part in place[:size] if isinstance(part, str))):
            if known in lines:
                return lines[known]
    return lines[()]


def _message(error: ErrorDetails) -> str:
    """What pydantic found wrong, in the words of a spec."""
    kind, place = error["type"], [part for part in error["loc"] if isinstance(part, str)] or ["the spec"]
    if kind == "value_error":
        return str(error["ctx"]["error"])
    if kind == "refused":
        return error["msg"]
    if kind == "extra_forbidden":
        keys = {"models": MODEL_KEYS, "timing": tuple(Timing.model_fields)}.get(place[0]) if place[1:] else KEYS
        return unknown(f"key of {place[-2] if place[1:] else 'the spec'}", place[-1], keys or ())
    if kind == "missing":
        return f"`{place[-1]}` is missing; name at least one, such as `{place[-1]}: shapes-flux`."
    what = "be a mapping, `key: value`" if kind == "model_type" else error["msg"].split(" should ", 1)[-1]
    return f"{place[-1]:.60} must {what:.200}, got {shown(error['input'])}."
