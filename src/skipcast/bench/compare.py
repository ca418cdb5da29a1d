"""The main job: reference, methods and fewer-step samplers on the same images, measured; no drawing here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skipcast.bench.draw import Batch, Sample, draw
from skipcast.bench.grid import batches
from skipcast.bench.provenance import provenance as provenance
from skipcast.bench.rows import CONVERGED, LeftOut, Row, reference_row, rows, selection
from skipcast.bench.spec import METHODS as METHODS
from skipcast.bench.spec import Settings as Settings
from skipcast.bench.spec import prompts_for as prompts_for
from skipcast.bench.timing import trace
from skipcast.bench.work import check_grid, placed_row, records_of, score
from skipcast.models.load import Model
from skipcast.parts import Method
from skipcast.pipelines.accelerate import accelerate
from skipcast.plans.plan import Plan, pair_hash
from skipcast.plans.propagation import grid_of
from skipcast.run import Run
from skipcast.samplers import Sampler


@dataclass(frozen=True)
class Comparison:
    """Records (one per method and image) and the first seed's images at the middle budget, for the grid."""

    records: list[dict[str, Any]]
    pictures: dict[str, Tensor]  # label -> (prompts, 3, H, W)
    prompts: tuple[str, ...]
    left_out: tuple[str, ...] = ()  # what `all` requested and cannot run, and why
    notes: tuple[str, ...] = ()  # what a reader must know of single rows


class _Field:
    """The rows still in the comparison; one that `all` brought and that fails is left out with its reason."""

    def __init__(self, settings: Settings, model: str) -> None:
        self.rows, self.left = selection(settings, model)

    def each(self, work: Callable[[Row], Row]) -> None:
        """Put what `work` makes of a row in its place.

        Raises:
            ValueError: of a row that the user named.
        """
        made = (self.attempt(row, work) for row in self.rows)
        # Two thresholds that turn out alike are one row.
        self.rows = list({row.key: row for row in made if row is not None}.values())

    def attempt(self, row: Row, work: Callable[[Row], Row]) -> Row | None:
        """What `work` makes of a row, None if it is left out.

        Raises:
            ValueError: of a row that the user named.
        """
        try:
            return work(row)
        except ValueError as error:
            if row.named:
                raise ValueError(str(LeftOut.of(row, error))) from error
            self.left.append(LeftOut.of(row, error))
            return None


def compare(
    model: Model,
    settings: Settings,
    *,
    advance: Callable[[str], None] = lambda label: None,
    keep: Callable[[list[dict[str, Any]]], None] = lambda records: None,
    keep_picture: Callable[[str, Tensor], str | None] = lambda name, image: None,
    command: str | None = None,
) -> Comparison:
    """Run everything, interleaved round by round.

    Args:
        model: what is compared on.
        settings: what is compared.
        advance: called with a label after every pipeline call, and once after every calibration.
        keep: called with all records so far after every round, so that an interrupted comparison keeps them.
        keep_picture: called with a name and each image, (3, H, W) in [0, 1], before `keep`; what it returns, the path
            of a file from the folder of the results, stands in the image's record.
        command: as it was typed, for the records.

    Raises:
        ValueError: a method named by the user does not suit the model, its scheduler or the steps, or cannot reach the
            budget; raised before the first timed call.
    """
    pipe, prompts, field = model.pipe, prompts_for(model, settings), _Field(settings, model.name)
    exact = Sampler(CONVERGED, settings.converged_steps) if settings.converged_steps else None

    def suits_the_pipeline(row: Row) -> Row:
        accelerate(pipe, row.method)  # checks scheduler and blocks; nothing is touched before the context opens
        return row

    def suits_the_grid(row: Row) -> Row:
        if isinstance(row.method, Method):
            Run(row.method, grid)
        if isinstance(row.method, Plan):
            check_grid(row.method, grid)
        return row

    def placed(row: Row) -> Row:
        if not row.open:
            return row
        found = placed_row(model, row, settings)
        advance(f"calibrating {row.label}")
        return found

    def measured(row: Row) -> Row:
        chosen = None if row is reference else row.method
        outcomes[row.key] = draw(pipe, batch, chosen, steps=settings.steps, call=settings.call)
        advance(row.label)
        return row

    field.each(suits_the_pipeline)
    if exact is not None:
        accelerate(pipe, exact)
    rounds = list(batches(settings, prompts))
    draw(pipe, rounds[0], steps=settings.steps, call=settings.call)  # warm-up, untimed; leaves the scheduler's grid
    advance("warm-up")
    grid = grid_of(pipe.scheduler)
    field.each(suits_the_grid)
    field.each(placed)
    shared = provenance(model, settings, command)
    reference = reference_row(settings.steps)
    records: list[dict[str, Any]] = []
    pictures: dict[str, list[Tensor]] = {}
    for number, batch in enumerate(rounds):
        outcomes: dict[tuple[str, int], Sample] = {}
        order = [reference, *field.rows]
        turn = number % len(order)
        for row in order[turn:] + order[:turn]:  # nobody always goes first
            if number == 0:
                field.attempt(row, measured)
            else:
                measured(row)
        field.rows = [row for row in field.rows if row.key in outcomes]
        converged = None
        if exact is not None:
            converged = draw(pipe, batch, exact, steps=settings.converged_steps, call=settings.call)
            advance("converged")
            if number == 0:
                half = Sampler(CONVERGED, settings.converged_steps // 2)
                coarse = draw(pipe, batch, half, steps=settings.converged_steps, call=settings.call)
                agreement = score("psnr", coarse, converged).mean().item()
                shared["settings"]["converged_agreement_db"] = round(agreement, 1)
                advance("converged, half the steps")
        truth = outcomes[reference.key]
        for row in [reference, *field.rows]:
            made = outcomes[row.key]
            found = records_of(row, made, truth, converged, batch, model, settings, shared)
            for record, image in zip(found, made.images, strict=True):
                record["image"] = keep_picture(picture_name(record), image)
                records.append(record)
            if row is reference or row.budget == settings.shown_budget or row.from_file:
                first = [image for image, pair in zip(made.images, batch, strict=True) if pair.number == 0]
                label = f"{row.label},evaluations={row.budget}" if row.from_file else row.label
                pictures.setdefault(label, []).extend(first)
        if number == 0:
            records += [{**left.record(), "steps": settings.steps, **shared} for left in field.left]
        keep(records)
    if settings.per_step:
        for row in field.rows:
            if isinstance(row.method, Method):
                records.append({**trace(pipe, row, rounds[0], settings, grid), **shared})
                advance(f"step by step: {row.label}")
        keep(records)
    shown = {label: torch.stack(images) for label, images in pictures.items()}
    notes = tuple(_notes(field.rows, model, rounds))
    return Comparison(records, shown, tuple(prompts), tuple(map(str, field.left)), notes)


def picture_name(record: dict[str, Any]) -> str:
    """A name that no other image of a comparison has."""
    return f"{record['method']}-{record['budget']}-{record['prompt_index']}-{record['seed']}"


def _notes(rows: Sequence[Row], model: Model, rounds: Sequence[Batch]) -> Iterator[str]:
    """Plans for other weights, and plans that were solved on what is compared."""
    compared = {pair_hash(str(pair.prompt), pair.seed) for batch in rounds for pair in batch}
    for row in rows:
        if not isinstance(row.method, Plan):
            continue
        origin = row.method.origin
        if None not in (origin.revision, model.revision) and origin.revision != model.revision:
            yield f"{row.label} was made for other weights: {origin.revision}, these are {model.revision}."
        if shared := len(compared & set(origin.pairs)):
            yield f"{row.label} was solved on {shared} of the {len(compared)} compared images, which flatters it."


def calls(settings: Settings, prompts: int, model: str | None = None) -> int:
    """Steps of progress that `compare` will report; fewer where `all` leaves methods out on the way."""
    rounds = -(-prompts * settings.seeds // settings.batch)
    exact = bool(settings.converged_steps)
    every = rows(settings, model)
    calibrations = sum(row.open for row in every)
    traces = sum(isinstance(row.method, Method) for row in every) if settings.per_step else 0
    return 1 + calibrations + rounds * (len(every) + 1 + exact) + exact + traces
