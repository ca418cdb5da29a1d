"""The comparison of `skipcast compare`: a bench run of one state, read from the records that it leaves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from skipcast.bench.grid import pairs, states
from skipcast.bench.records import LEFT_OUT, images
from skipcast.bench.rows import NAME, REFERENCE, LeftOut, Row
from skipcast.bench.run import Progress, bench, prepared, quiet
from skipcast.bench.spec import Spec, SpecError
from skipcast.bench.store import Store
from skipcast.bench.work import Worker
from skipcast.bench.workers import InProcess
from skipcast.checks import guarded
from skipcast.models.load import Model
from skipcast.plans.plan import Plan, pair_hash


@dataclass(frozen=True)
class Comparison:
    """Records (one per method and image) and the first image of every prompt at the middle budget, for the grid."""

    records: list[dict[str, Any]]
    images: dict[str, Tensor]  # label -> (prompts, 3, H, W) in [0, 1], from 8 bits; of videos the frame in the middle
    prompts: tuple[str, ...]
    left_out: tuple[str, ...] = ()  # what `all` requested and cannot run, and why
    notes: tuple[str, ...] = ()  # what a reader must know of single rows


@guarded()
def compare(
    spec: Spec,
    model: Model | None = None,
    *,
    folder: Path | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Comparison:
    """Draw and measure everything, or what of it is not finished in a folder.

    Args:
        spec: what is compared, in one state of one pipeline.
        model: the model of the spec where it is in memory already, else it is loaded.
        folder: of the results, where an interrupted comparison goes on; None for one that is removed at the end.
        progress: of the work.
        command: as it was typed, for the records.

    Raises:
        ValueError: a method named by the user does not suit the model, its scheduler or the steps, or cannot reach the
            budget; the spec is of several states; or the folder holds something else.
    """
    state, *more = states(spec)
    if more:
        raise ValueError(f"compare takes one model, scheduler, steps and guidance, got {len(more) + 1}; use `bench`.")
    make = partial(Worker, spec, command)
    if model is not None:  # one worker, for two would change each other's scheduler
        worker = make(model)
        make = partial(lambda: worker)
    temporary = TemporaryDirectory(prefix="skipcast-") if folder is None else nullcontext(str(folder))
    with temporary as place, _scheduler_of(model), Store(Path(place), spec).opened() as store:
        try:
            found = bench(store, spec, InProcess(make), command, progress or quiet(), make)
        except SpecError:
            raise
        except ValueError as error:  # without the name of the one state
            raise ValueError(str(error.__cause__ or error)) from error
        rows = prepared(store, spec, state)
        assert rows is not None
        made: list[dict[str, Any]] = [dict(record) for record in found.groups[0][1]]
        shown = _shown(made, spec.budgets_at(state.steps), store.folder) if spec.images else {}
        if folder is None:
            made = [{**record, "image": None} if "image" in record else record for record in made]
    left = tuple(_reason(record) for record in made if record["kind"] == LEFT_OUT)
    compared = [pair_hash(str(pair.prompt), pair.seed) for pair in pairs(spec, state.model)]
    notes = tuple(_notes(rows.rows, state.model.revision, compared))
    return Comparison(made, shown, spec.prompts_of(state.model), left, notes)


@contextmanager
def _scheduler_of(model: Model | None) -> Iterator[None]:
    """Give a pipeline its own scheduler back in the end."""
    own: Any = model and model.pipe.scheduler
    try:
        yield
    finally:
        if model is not None:
            model.pipe.scheduler = own


def _reason(record: Mapping[str, Any]) -> str:
    return str(LeftOut(record["name"], record["options"], record["budget"], record["reason"]))


def _shown(records: Sequence[Mapping[str, Any]], budgets: Sequence[int], folder: Path) -> dict[str, Tensor]:
    """The first image of every prompt by the unaccelerated run, at the middle budget, and by plans from files."""
    found: dict[str, list[Tensor]] = {}
    middle = sorted(budgets)[len(budgets) // 2]
    for record in images(records):
        from_file = record["name"] == NAME and "file" in record["options"]
        label = f"{record['method']},evaluations={record['budget']}" if from_file else record["method"]
        shown = from_file or record["kind"] == REFERENCE or record["budget"] == middle
        if shown and not record["number"]:
            found.setdefault(label, []).append(_still(folder / record["image"]))
    return {label: torch.stack(stills) for label, stills in found.items()}


def _still(path: Path) -> Tensor:
    """An image (3, H, W) in [0, 1] from its file; of a video the frame in the middle."""
    with Image.open(path) as image:
        image.seek(getattr(image, "n_frames", 1) // 2)
        return torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32) / 255).movedim(-1, 0)


def _notes(rows: Sequence[Row], revision: str, compared: Sequence[str]) -> Iterator[str]:
    """Plans for other weights, and plans that were solved on what is compared."""
    for row in rows:
        if not isinstance(row.method, Plan):
            continue
        origin = row.method.origin
        if None not in (origin.revision, revision or None) and origin.revision != revision:
            yield f"{row.label} was made for other weights: {origin.revision}, these are {revision}."
        if shared := len(set(compared) & set(origin.pairs)):
            yield f"{row.label} was solved on {shared} of the {len(compared)} compared images, which flatters it."
