"""The models of a sweep: found, told apart by their weights, and refused at their line before anything is loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipcast.bench.sweep.yamls import Place
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
    beside = place.path.parent / name
    try:
        folder = reference_folder(name) if name in REFERENCES else Path(name) if Path(name).exists() else beside
    except ValueError as error:
        raise at.wrong(error) from error
    if not folder.exists():
        return _of_hub(at, name, fields.get("revision"), more)
    if "revision" in fields:
        raise fields["revision"].wrong(f"revision is of a hub id, and {name} is a folder; leave it out.")
    _check_weights(at, folder)
    source = name if name in REFERENCES else str(folder)
    judged = (folder / "judge.safetensors").exists()
    return ModelSpec(name, source, weights_hash(folder), judged, **_told(at, folder), **more)


def _of_hub(at: Place, name: str, asked: Place | None, more: dict[str, Any]) -> ModelSpec:
    """A model of the hub, by the commit that its revision stands for now: a branch may stand for another later."""
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise at.wrong(
            f"no model {name!r}: it is neither a reference model ({', '.join(REFERENCES)}), nor a folder, "
            "nor a hub id of the form owner/name."
        )
    try:
        folder = hub_folder(name, asked.text() if asked else None)
    except ValueError as error:
        raise (asked or at).wrong(error) from error
    if hub_is_closed():  # else what is missing comes with loading
        _check_weights(at, folder)
    return ModelSpec(name, name, folder.name, judged=False, hub=True, **_told(at, folder), **more)


def _told(at: Place, folder: Path) -> dict[str, Any]:
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
