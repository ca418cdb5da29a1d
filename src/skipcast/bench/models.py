"""The models and learned metrics of a bench run: found, identified by their weights, refused before a run."""

from __future__ import annotations

import difflib
import importlib.util
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

try:
    from pydantic import AfterValidator, BaseModel, Field, StringConstraints, ValidationError, ValidationInfo
    from pydantic_core import PydanticCustomError
except ImportError as error:
    raise ImportError('specs need pydantic; run: pip install "skipcast[bench]"') from error

from skipcast.bench.metrics.learned import LEARNED, Learned
from skipcast.checks import shown
from skipcast.methods.families import INDEX, class_of, family_of, named_family, read_index
from skipcast.models.load import (
    REFERENCES,
    Model,
    check_weights,
    draws_videos,
    hub_folder,
    hub_is_closed,
    reference_folder,
    weights_hash,
)
from skipcast.models.worlds import world_in
from skipcast.pipelines.networks import denoisers


class Strict(BaseModel):
    """A mapping of a spec: it has no keys but the fields, and their values are never converted."""

    model_config = {"strict": True, "extra": "forbid", "frozen": True}


def unknown(kind: str, given: object, known: Iterable[str]) -> str:
    """The message about a name that is not known: it holds the nearest known name, and all of them."""
    word = given if isinstance(given, str) else shown(given)
    near = difflib.get_close_matches(word[:100], known := list(known), n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind:.100}: {shown(word)}.{hint} Known: {', '.join(known)}."


def among(kind: str, *known: str) -> AfterValidator:
    """A validator of texts that refuses all but the known ones."""

    def checked(given: str) -> str:
        if given not in known:
            raise ValueError(unknown(kind, given, known))
        return given

    return AfterValidator(checked)


def refused(message: object, *place: str | int) -> ValidationError:
    """An error of a validator that belongs to a key or an item inside the value that it validates."""
    error = PydanticCustomError("refused", "{text}", {"text": str(message)})
    return ValidationError.from_exception_data("spec", [{"type": error, "loc": place, "input": None}])


def near(name: str, info: ValidationInfo) -> Path:
    """A path as the spec names it: from the working folder, else from the folder of the spec."""
    assert info.context is not None
    return Path(name) if os.path.exists(name) else info.context["folder"] / name


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class _Entry(Strict):
    """A model as a spec names it: a reference model, a folder or a hub id."""

    model: Text
    revision: Text | None = None
    dtype: Annotated[Text, among("dtype", "float32", "bfloat16", "float16")] | None = None
    size: Annotated[int, Field(ge=8, le=2**16)] | None = None
    offload: bool = False  # keep on the GPU only the part of the model that is at work


MODEL_KEYS = tuple(_Entry.model_fields)


@dataclass(frozen=True)
class ModelSpec:
    """A model: its name, where it lies, and how it is loaded."""

    name: str
    source: str  # what `load_model` takes
    revision: str  # a hash of the weights; of a hub id its commit
    world: str | None = None  # of WORLDS, for reference models
    hub: bool = False
    video: bool = False
    dtype: str | None = None
    size: int | None = None
    offload: bool = False
    scheduler: str | None = None  # its own
    family: str | None = None  # of its network: what authors set on it stands for options that are left out

    @classmethod
    def of(cls, model: Model) -> ModelSpec:
        """A model that is in memory already."""
        return cls(
            name=model.name,
            source=model.name,
            revision=model.revision or "",
            world=model.world.name if model.world else None,
            dtype=str(model.pipe.dtype).removeprefix("torch."),
            scheduler=type(model.pipe.scheduler).__name__,
            family=family_of(denoisers(model.pipe)[0]),
        )

    @property
    def identity(self) -> dict[str, Any]:
        return {"name": self.name, "revision": self.revision, "dtype": self.dtype, "size": self.size}


def read_model(given: object, info: ValidationInfo) -> ModelSpec:
    """The model of a reference name, a folder or a hub id, or of a mapping with one of them under `model`.

    One that is described already stays as it is.

    Raises:
        ValidationError: there is no such model, its weights are missing, or a key is wrong.
    """
    if isinstance(given, ModelSpec):
        return given
    entry = _Entry.model_validate(given if isinstance(given, dict) else {"model": given})
    try:
        return _found(entry, info)
    except ValueError as error:
        raise refused(error, "model" if entry.revision is None else "revision") from error


def _found(entry: _Entry, info: ValidationInfo) -> ModelSpec:
    name = entry.model
    folder = reference_folder(name) if name in REFERENCES else near(name, info)
    hub = not os.path.exists(folder)
    if hub:
        if name.count("/") != 1 or name.startswith((".", "/")):
            raise ValueError(
                f"no model {name!r:.300}: it is neither a reference model ({', '.join(REFERENCES)}), nor a folder, "
                "nor a hub id of the form owner/name."
            )
        folder = hub_folder(name, entry.revision)  # a commit: a branch may stand for another one later
    elif entry.revision is not None:
        raise ValueError(f"revision is of a hub id, and {name} is a folder; leave it out.")
    if not os.path.isfile(folder / INDEX):
        raise ValueError(f"{folder} holds no pipeline: {INDEX} is missing.")
    if not hub or hub_is_closed():  # otherwise missing files are downloaded when the model is loaded
        _check_complete(folder)
    scheduler = class_of(read_index(folder), "scheduler")
    if not scheduler:
        raise ValueError(f"{folder / INDEX} does not describe a pipeline with a scheduler.")
    return ModelSpec(
        name=name,
        source=name if hub or name in REFERENCES else str(folder),
        revision=folder.name if hub else weights_hash(folder),
        world=world.name if not hub and (world := world_in(folder)) else None,
        hub=hub,
        video=draws_videos(folder),
        dtype=entry.dtype,
        size=entry.size,
        offload=entry.offload,
        scheduler=scheduler,
        family=named_family(str(folder)),
    )


def _check_complete(folder: Path) -> None:
    check_weights(folder)
    for config in sorted(folder.glob("*/config.json")):
        if not any(file.suffix == ".safetensors" and file.is_file() for file in config.parent.iterdir()):
            raise ValueError(f"the weights of {config.parent} are missing; put its .safetensors file there.")


@dataclass(frozen=True)
class LearnedSpec:
    """A metric of LEARNED for single images, with the path of its weights; None for the caches of the machine."""

    name: str
    weights: str | None = None

    @property
    def metric(self) -> Learned:
        return LEARNED[self.name]

    @property
    def higher_is_better(self) -> bool:
        return self.metric.higher_is_better

    @property
    def identity(self) -> list[Any]:
        """What its figures follow from, without reading gigabytes: the names and sizes of the files."""
        if self.weights is None:
            return [self.name]
        path = Path(self.weights)
        files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        return [self.name, [[each.name, each.stat().st_size] for each in files]]


def read_learned(name: str, weights: str | None, info: ValidationInfo) -> LearnedSpec:
    """A metric with weights, such as `lpips` or `{lpips: weights/lpips}`.

    Raises:
        ValueError: it is of sets, or its package or its weights are missing.
    """
    if name not in LEARNED:
        raise ValueError(unknown("metric with weights", name, LEARNED))
    metric = LEARNED[name]
    if metric.against == "set":
        raise ValueError(
            f"{name} is one figure of a set of images, and a bench run has figures of single ones; call "
            f"skipcast.bench.metrics.learned.LEARNED[{name!r}] on the images that the run keeps."
        )
    if weights is not None and not os.path.exists(near(weights, info)):
        raise ValueError(f"the weights of {name} are missing: {weights} does not exist; put them there.")
    if importlib.util.find_spec(metric.package) is None:
        raise ValueError(f"{name} needs the package {metric.package!r}, which is missing; {metric.install}.")
    return LearnedSpec(name, None if weights is None else str(near(weights, info)))
