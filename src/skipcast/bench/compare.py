"""The main job: reference, methods and fewer-step samplers on the same pictures, measured; no drawing here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skipcast import names
from skipcast.bench import metrics
from skipcast.bench.calibrate import calibrate, count
from skipcast.bench.draw import Sample, draw
from skipcast.bench.provenance import provenance as provenance
from skipcast.bench.rounds import Batch, batches, score
from skipcast.bench.rows import LeftOut, Row, rows, selection
from skipcast.bench.settings import METHODS as METHODS
from skipcast.bench.settings import Settings as Settings
from skipcast.bench.settings import calibration_for
from skipcast.bench.settings import prompts_for as prompts_for
from skipcast.bench.traces import trace
from skipcast.grid import TimeGrid
from skipcast.method import Method
from skipcast.models.load import Model
from skipcast.pipelines.accelerate import accelerate
from skipcast.plans.plan import Plan
from skipcast.plans.propagation import grid_of
from skipcast.run import Run
from skipcast.samplers import Sampler

REFERENCE = "reference"
CONVERGED = "ab2"  # of second order; records tell how far its result still moves when its steps are halved


@dataclass(frozen=True)
class Comparison:
    """Records (one per method and picture) and the first seed's pictures at the middle budget, for the grid."""

    records: list[dict[str, Any]]
    pictures: dict[str, Tensor]  # label -> (prompts, 3, H, W)
    prompts: tuple[str, ...]
    left_out: tuple[str, ...] = ()  # what `all` asked for and cannot run, and why
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
        keep_picture: called with a name and each picture, (3, H, W) in [0, 1], before `keep`; what it returns, the path
            of a file from the folder of the results, stands in the picture's record.
        command: how the user asked for it, for the records.

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
    shared = provenance(model, settings, len(prompts), command)
    reference = Row(REFERENCE, {}, Sampler("euler"), settings.steps)
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
                record["picture"] = keep_picture(picture_name(record), image)
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
    """A name that no other picture of a comparison has."""
    return f"{record['method']}-{record['budget']}-{record['prompt_index']}-{record['seed']}"


def check_grid(plan: Plan, grid: TimeGrid) -> None:
    """Refuse a plan whose steps lie elsewhere, as for pictures of another size under a shift that follows the size.

    Raises:
        ValueError: says where they begin to differ.
    """
    apart = np.abs(plan.timesteps - grid.timestep) > 1e-5 * np.abs(grid.timestep).max()
    if apart.any():
        i = int(apart.argmax())
        raise ValueError(
            f"the plan was made for other timesteps: step {i} is at {plan.timesteps[i]:.4g}, here at "
            f"{grid.timestep[i]:.4g}; use it with the scheduler and the size of pictures that were recorded."
        )


def _notes(rows: Sequence[Row], model: Model, rounds: Sequence[Batch]) -> Iterator[str]:
    """Plans for other weights, and plans that were solved on what is compared."""
    compared = {(pair.prompt, pair.seed) for batch in rounds for pair in batch}
    for row in rows:
        if not isinstance(row.method, Plan):
            continue
        origin = row.method.origin
        if None not in (origin.revision, model.revision) and origin.revision != model.revision:
            yield f"{row.label} was made for other weights: {origin.revision}, these are {model.revision}."
        if shared := len(compared & set(zip(origin.prompts, origin.seeds, strict=False))):
            yield f"{row.label} was solved on {shared} of the {len(compared)} compared pictures, which flatters it."


def placed_row(model: Model, row: Row, settings: Settings) -> Row:
    """A row that decides by values, with the threshold that reaches its budget, or with the budget that it reaches.

    Raises:
        ValueError: no threshold reaches the budget.
    """
    pairs = calibration_for(model, settings)
    given: dict[str, Any] = {"pairs": pairs, "steps": settings.steps, "call": settings.call}
    if row.threshold is None:
        return replace(row, budget=round(count(model.pipe, row.method, **given)))
    options = calibrate(model.pipe, row.name, row.options, row.budget, **given)
    prompts, seeds = {pair.prompt for pair in pairs}, {pair.seed for pair in pairs}
    basis = {"dial": row.threshold, "pictures": len(pairs), "prompts": len(prompts), "seeds": len(seeds)}
    method = names.made(row.name, options)
    return replace(row, options=options, method=method, threshold=None, calibrated_on=basis)


def calls(settings: Settings, prompts: int, model: str | None = None) -> int:
    """Steps of progress that `compare` will report; fewer where `all` leaves methods out on the way."""
    rounds = -(-prompts * settings.seeds // settings.batch_of(prompts))
    exact = bool(settings.converged_steps)
    every = rows(settings, model)
    calibrations = sum(row.open for row in every)
    traces = sum(isinstance(row.method, Method) for row in every) if settings.per_step else 0
    return 1 + calibrations + rounds * (len(every) + 1 + exact) + exact + traces


def records_of(
    row: Row,
    made: Sample,
    truth: Sample,
    exact: Sample | None,
    batch: Batch,
    model: Model,
    settings: Settings,
    shared: dict[str, Any],
) -> Iterator[dict[str, Any]]:
    count = len(batch)
    is_reference = made is truth
    absent: list[float | None] = [None] * count
    against = {"": None if is_reference else truth, "_converged": exact}
    scores: dict[str, list[float | None]] = {}
    for suffix, other in against.items():
        for key, metric in (("psnr", "psnr"), ("ssim", "ssim"), ("latent_error", "relative_l2")):
            scores[key + suffix] = score(metric, made, other).tolist() if other else absent
    judged = metrics.verdicts(model.judge, made.images, [str(pair.prompt) for pair in batch]) if model.judge else absent
    entry = names.REGISTRY.get(row.name)
    kind = REFERENCE if is_reference else _kind(row.method)
    for i, pair in enumerate(batch):
        values = {name: column[i] for name, column in scores.items()}
        yield {
            "method": row.label,
            "name": row.name,
            "options": dict(row.options),
            "repr": "the unaccelerated run" if is_reference else repr(row.method),
            "parts": _parts(row.method),
            "kind": kind,
            "paper": entry.paper if entry else None,
            "budget": row.budget,
            "evaluations": made.evaluations,
            "steps": settings.steps,
            "evaluated_steps": made.evaluated_steps,
            "data_driven": row.data_driven,
            "decided_with": count if row.data_driven else None,  # pictures that shared every decision
            "calibrated_on": row.calibrated_on,
            **_promise(row.method),
            "prompt": pair.prompt,
            "prompt_index": pair.index,
            "seed": pair.seed,
            **values,
            "judge": judged[i],
            "seconds": made.seconds / count,
            "speedup": truth.seconds / made.seconds,
            "cached_bytes": made.cached_bytes // count,
            **shared,
        }


def _kind(method: Method | Sampler | Plan) -> str:
    if isinstance(method, Plan):
        return "plan"
    return "sampler" if isinstance(method, Sampler) else "forecast"


def _promise(method: Method | Sampler | Plan) -> dict[str, Any]:
    """What a plan is expected to reach, and against which reference."""
    if not isinstance(method, Plan):
        return {}
    predicted = method.predicted and asdict(method.predicted)
    return {"predicted": predicted, "planned_for": method.origin.reference, "plan_revision": method.origin.revision}


def _parts(method: Method | Sampler | Plan) -> dict[str, str] | None:
    """The parts of a method, for tables that vary one of them."""
    if not isinstance(method, Method):
        return None
    return {name: repr(getattr(method, name)) for name in ("forecaster", "controller", "coordinate", "target")}
