"""The comparison of `skipcast compare`: a bench run of one model in memory, read from the records that it leaves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from skipcast.bench.grid import State, cells, digest, groups, row_digest, states
from skipcast.bench.media import FRAMES_PER_SECOND
from skipcast.bench.models import ModelSpec
from skipcast.bench.records import LEFT_OUT, images
from skipcast.bench.rows import NAME, REFERENCE, LeftOut, Row
from skipcast.bench.run import Progress, Rows, bench, prepared, quiet
from skipcast.bench.spec import USUAL, SchedulerSpec, Settings, Spec, SpecError, Timing
from skipcast.bench.store import CHECKS, Store
from skipcast.bench.work import Agree, Task, Trace, Worker
from skipcast.bench.workers import InProcess
from skipcast.models.load import Model
from skipcast.parts import Method
from skipcast.plans.plan import Plan, pair_hash

REPEATS = 3  # of the timing pass, behind a warm-up


@dataclass(frozen=True)
class Comparison:
    """Records (one per method and image) and the first image of every prompt at the middle budget, for the grid."""

    records: list[dict[str, Any]]
    images: dict[str, Tensor]  # label -> (prompts, 3, H, W) in [0, 1], from 8 bits; of videos the frame in the middle
    prompts: tuple[str, ...]
    left_out: tuple[str, ...] = ()  # what `all` requested and cannot run, and why
    notes: tuple[str, ...] = ()  # what a reader must know of single rows


def spec_of(model: Model, settings: Settings) -> Spec:
    """The bench run that a comparison is."""
    known = ModelSpec(
        name=model.name,
        source=model.name,
        revision=model.revision or "",
        judged=model.judge is not None,
        dtype=str(model.pipe.dtype).removeprefix("torch."),
    )
    values = {key: value for key, value in vars(settings).items() if key != "call"}
    # Settings were checked by their own rules: a comparison may hold more budgets than steps, and calls of any values.
    spec = Spec.model_construct(
        models=(known,),
        schedulers=(SchedulerSpec(),),
        steps=(settings.steps,),
        guidance=(None,),
        methods=settings.methods or None,
        plans=tuple((file, settings.steps) for file in settings.plans),
        budgets=settings.evaluations,
        prompts=settings.prompts,
        seeds=settings.seeds,
        seed=settings.seed,
        batch=settings.batch,
        measures=USUAL,
        converged_steps=settings.converged_steps,
        timing=Timing(repeats=REPEATS),
        flops=False,
        pictures=True,
        threads=torch.get_num_threads(),
        fps=FRAMES_PER_SECOND,
        call=settings.call,
    )
    spec._path, spec._lines = Path("skipcast compare"), {(): 1}
    spec._text = json.dumps({"model": known.identity, **values, "call": settings.call}, default=str, indent=1) + "\n"
    return spec


def compare(
    model: Model,
    settings: Settings,
    *,
    folder: Path | None = None,
    keep_images: bool = True,
    progress: Progress | None = None,
    command: str | None = None,
) -> Comparison:
    """Draw and measure everything, or what of it is not finished in a folder.

    Args:
        model: what is compared on.
        settings: what is compared.
        folder: of the results, where an interrupted comparison goes on; None for one that is removed at the end.
        keep_images: whether the images stay in the folder, and the records name their files.
        progress: of the work.
        command: as it was typed, for the records.

    Raises:
        ValueError: a method named by the user does not suit the model, its scheduler or the steps, or cannot reach the
            budget; or the folder holds something else.
    """
    spec, progress = spec_of(model, settings), progress or quiet()
    command = command or ""
    (state,) = states(spec)
    worker = Worker(spec, command, model)
    temporary = TemporaryDirectory(prefix="skipcast-") if folder is None else nullcontext(str(folder))
    with (
        temporary as place,
        _scheduler_of(model.pipe),
        Store(Path(place), spec).opened() as store,
    ):
        try:
            found = bench(store, spec, InProcess(lambda: worker), command, progress, lambda: worker)
        except SpecError as error:  # which names a place in a file
            raise ValueError(str(error.__cause__)) from error
        rows = prepared(store, spec, state)
        assert rows is not None
        made: list[dict[str, Any]] = [dict(record) for record in found.groups[0][1]]
        agreement = _agreement(store, spec, state, worker, progress)
        for record in made:
            record["settings"] = {**record["settings"], **agreement}
        if settings.per_step:
            shared = {**rows.shared, "settings": {**rows.shared["settings"], **agreement}}
            made += [{**line, **shared} for line in _traces(store, state, rows, worker, progress)]
        shown = _shown(made, settings, store.folder)
        if folder is None or not keep_images:
            _without_images(made, store.folder)
    left = tuple(_reason(record) for record in made if record["kind"] == LEFT_OUT)
    compared = [pair_hash(str(pair.prompt), pair.seed) for group in groups(spec, state.model) for pair in group]
    notes = tuple(_notes(rows.rows, model, compared))
    return Comparison(made, shown, spec.prompts_of(state.model), left, notes)


@contextmanager
def _scheduler_of(pipe: Any) -> Iterator[None]:
    """Give a pipeline its own scheduler back in the end."""
    own = pipe.scheduler
    try:
        yield
    finally:
        pipe.scheduler = own


def _check(store: Store, name: str, task: Task, worker: Worker, progress: Progress) -> dict[str, Any]:
    """What a task came to, which is done where it is not kept yet."""
    if not store.has(CHECKS, name):
        store.keep(CHECKS, name, worker.run(task))
        progress.advance(str(task), 0)
    return store.read(CHECKS, name)


def _agreement(store: Store, spec: Spec, state: State, worker: Worker, progress: Progress) -> dict[str, Any]:
    """How far the converged run still moves when its steps are halved, on the first call."""
    if not spec.converged_steps:
        return {}
    cell = next(cells(spec, state, []))  # the converged run of the first call
    task = Agree(state, cell.pairs, store.sample(cell.digest))
    return _check(store, digest(["agreement", cell.digest]), task, worker, progress)


def _traces(store: Store, state: State, rows: Rows, worker: Worker, progress: Progress) -> Iterator[dict[str, Any]]:
    """A record per method that forecasts: its errors step by step."""
    batch = groups(worker.spec, state.model)[0]
    pairs = [[pair.prompt, pair.seed] for pair in batch]
    for row in rows.rows:
        if isinstance(row.method, Method):
            name = digest(["trace", row_digest(state, row), pairs])
            yield _check(store, name, Trace(state, row, batch), worker, progress)


def _reason(record: Mapping[str, Any]) -> str:
    return str(LeftOut(record["name"], record["options"], record["budget"], record["reason"]))


def _shown(records: Sequence[Mapping[str, Any]], settings: Settings, folder: Path) -> dict[str, Tensor]:
    """The first image of every prompt by the unaccelerated run, at the middle budget, and by plans from files."""
    found: dict[str, list[Tensor]] = {}
    for record in images(records):
        from_file = record["name"] == NAME and "file" in record["options"]
        label = f"{record['method']},evaluations={record['budget']}" if from_file else record["method"]
        shown = from_file or record["kind"] == REFERENCE or record["budget"] == settings.shown_budget
        if shown and not record["number"]:
            found.setdefault(label, []).append(_still(folder / record["image"]))
    return {label: torch.stack(stills) for label, stills in found.items()}


def _still(path: Path) -> Tensor:
    """An image (3, H, W) in [0, 1] from its file; of a video the frame in the middle."""
    with Image.open(path) as image:
        image.seek(getattr(image, "n_frames", 1) // 2)
        return torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32) / 255).movedim(-1, 0)


def _without_images(records: Sequence[dict[str, Any]], folder: Path) -> None:
    for record in records:
        if path := record.get("image"):
            (folder / path).unlink()
            record["image"] = None


def _notes(rows: Sequence[Row], model: Model, compared: Sequence[str]) -> Iterator[str]:
    """Plans for other weights, and plans that were solved on what is compared."""
    for row in rows:
        if not isinstance(row.method, Plan):
            continue
        origin = row.method.origin
        if None not in (origin.revision, model.revision) and origin.revision != model.revision:
            yield f"{row.label} was made for other weights: {origin.revision}, these are {model.revision}."
        if shared := len(set(compared) & set(origin.pairs)):
            yield f"{row.label} was solved on {shared} of the {len(compared)} compared images, which flatters it."
