"""One JSON file per measurement: its figures and where they come from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from research.plans.study import Study
from skipcast.bench.provenance import commit, hardware, versions
from skipcast.checkpoint import write_whole

#: In the order of the page.
KINDS = ("bars", "tails", "loop", "cost", "transfer", "guidance", "retry", "seam", "ablation", "variants", "limit")


def about(study: Study) -> dict[str, Any]:
    """Model, settings, versions, commit, hardware, command and day of a measurement."""
    model, settings = study.model, study.settings
    return {
        "model": model.name,
        "revision": model.revision,
        "settings": {
            **{key: getattr(settings, key) for key in ("steps", "seed", "seeds", "batch")},
            "dtype": str(model.pipe.dtype).removeprefix("torch."),
            **settings.call,
        },
        "versions": versions(),
        "commit": commit(),
        "hardware": hardware(model.pipe.device),
        "command": study.command,
        "prompts": list(settings.prompts),
        "date": datetime.now(UTC).date().isoformat(),
    }


def write(path: Path, kind: str, data: Mapping[str, Any], details: Mapping[str, Any], seconds: float) -> None:
    """Write a measurement, whole or not at all; what is not finite becomes null."""
    content = _plain({"measured": kind, **data, "about": details, "seconds": round(seconds, 1)})
    write_whole(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The measurements of a folder, by kind.

    Raises:
        ValueError: a file that is none.
    """
    found = {}
    for kind in KINDS:
        path = folder / f"{kind}.json"
        if not path.is_file():
            continue
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is no JSON: {error}; measure it again.") from error
        if not isinstance(data, dict) or data.get("measured") != kind:
            raise ValueError(f"{path} holds no measurement {kind!r}; measure it again.")
        found[kind] = data
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
