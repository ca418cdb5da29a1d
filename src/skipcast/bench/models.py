"""The models and learned metrics of a bench run: found, told apart by their weights, refused at their line."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipcast.bench.metrics.learned import LEARNED, Learned
from skipcast.bench.yamls import Place, unknown
from skipcast.models.load import REFERENCES, draws_videos, hub_folder, hub_is_closed, reference_folder, weights_hash

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class ModelSpec:
    """A model: as it is called, where it lies, and how it is loaded."""

    name: str
    source: str  # what `load_model` takes
    revision: str  # a hash of the weights; of a hub id its commit
    judged: bool
    hub: bool = False
    video: bool = False
    dtype: str | None = None
    size: int | None = None
    scheduler: str | None = None  # its own

    @property
    def identity(self) -> dict[str, Any]:
        return {"name": self.name, "revision": self.revision, "dtype": self.dtype, "size": self.size}


def read_model(place: Place) -> ModelSpec:
    """A reference name, a folder or a hub id, or a mapping with one of them under `model`.

    Raises:
        SpecError: there is no such model, its weights are missing, or a key is wrong.
    """
    keys = ("model", "revision", "dtype", "size")
    fields = place.fields(keys) if isinstance(place.value, dict) else {"model": place}
    if "model" not in fields:
        raise place.wrong("`model` is missing: a reference name, a folder or a hub id.")
    at = fields["model"]
    name = at.text()
    more: dict[str, Any] = {}
    if "dtype" in fields:
        more["dtype"] = fields["dtype"].one_of(DTYPES)
    if "size" in fields:
        more["size"] = fields["size"].whole(8)
    sibling = place.path.parent / name
    try:
        folder = reference_folder(name) if name in REFERENCES else Path(name) if Path(name).exists() else sibling
    except ValueError as error:
        raise at.wrong(error) from error
    if not folder.exists():
        return _of_hub(at, name, fields.get("revision"), more)
    if "revision" in fields:
        raise fields["revision"].wrong(f"revision is of a hub id, and {name} is a folder; leave it out.")
    _check_weights(at, folder)
    source = name if name in REFERENCES else str(folder)
    judged = (folder / "judge.safetensors").exists()
    return ModelSpec(name, source, weights_hash(folder), judged, **_described(at, folder), **more)


def _of_hub(at: Place, name: str, revision: Place | None, more: dict[str, Any]) -> ModelSpec:
    """A model of the hub, by the commit that its revision stands for now: a branch may stand for another later."""
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise at.wrong(
            f"no model {name!r}: it is neither a reference model ({', '.join(REFERENCES)}), nor a folder, "
            "nor a hub id of the form owner/name."
        )
    try:
        folder = hub_folder(name, revision.text() if revision else None)
    except ValueError as error:
        raise (revision or at).wrong(error) from error
    if hub_is_closed():  # else what is missing comes with loading
        _check_weights(at, folder)
    return ModelSpec(name, name, folder.name, judged=False, hub=True, **_described(at, folder), **more)


def _described(at: Place, folder: Path) -> dict[str, Any]:
    """What `model_index.json` tells of a pipeline."""
    return {"scheduler": _component(at, folder / "model_index.json"), "video": draws_videos(folder)}


def _component(place: Place, index: Path) -> str:
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
        if not any(file.suffix in (".safetensors", ".bin") and file.is_file() for file in part.iterdir()):
            raise place.wrong(f"the weights of {part} are missing; put its .safetensors file there.")


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
        """What its figures follow from, as far as it can be told without reading gigabytes: names and sizes."""
        if self.weights is None:
            return [self.name]
        path = Path(self.weights)
        files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        return [self.name, [[each.name, each.stat().st_size] for each in files]]


def names_of(known: tuple[str, ...]) -> tuple[str, ...]:
    """All metrics that a bench run may ask for."""
    return (*known, *(name for name, metric in LEARNED.items() if metric.against != "set"))


def read_learned(place: Place, video: str | None) -> LearnedSpec | None:
    """A metric with weights, such as `lpips` or `{lpips: weights/lpips}`; None where the place holds no such one.

    Args:
        place: an item of `metrics`.
        video: a model of the run that draws videos, if there is any.

    Raises:
        SpecError: it is of sets, its package or its weights are missing, or a model draws videos.
    """
    if isinstance(place.value, dict):
        ((name, at),) = place.fields().items() if len(place.value) == 1 else (("", place),)
        if name not in LEARNED:
            raise place.wrong(unknown("metric with weights", name or str(place.value), list(LEARNED)))
        given = at.text()
        path = Path(given) if Path(given).exists() else place.path.parent / given
        if not path.exists():
            raise at.wrong(f"the weights of {name} are missing: {given} does not exist; put them there.")
        found = LearnedSpec(name, str(path))
    elif place.value in LEARNED:
        found = LearnedSpec(place.value)
    else:
        return None
    metric = found.metric
    if metric.against == "set":
        raise place.wrong(
            f"{found.name} is one figure of a set of pictures, and a sweep has figures of single ones; call "
            f"skipcast.bench.metrics.learned.LEARNED[{found.name!r}] on the pictures that the sweep keeps."
        )
    if video is not None:
        raise place.wrong(f"{found.name} is of pictures, and {video} draws videos; leave it out.")
    if importlib.util.find_spec(metric.package) is None:
        raise place.wrong(f"{found.name} needs the package {metric.package!r}, which is missing; {metric.install}.")
    return found
