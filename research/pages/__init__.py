"""The pages of results, made from records and measurements alone by templates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from skipcast.bench.results import Results, Row, State


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("research.pages"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    made.filters.update(joined=joined, form=lambda value, form: "-" if value is None else format(value, form))
    return made


def render(template: str, **values: Any) -> str:
    """The text of a Markdown template of this folder with these values."""
    return _environment().get_template(f"{template}.md.j2").render(**values).lstrip()


def origins(results: Results, facts: Sequence[str]) -> dict[str, Any]:
    """What pages say of where their numbers come from: model, revision, seeds, and these facts.

    Raises:
        ValueError: no record of an image; several models or revisions.
    """
    models = dict.fromkeys((state.model, state.revision) for state in results.rows)
    if not models:
        raise ValueError("the records hold no image; run `skipcast compare` first.")
    if len(models) > 1:
        raise ValueError(f"records must be of one model and one revision, got {', '.join(map(' '.join, models))}.")
    ((model, revision),) = models
    found = {name: results.facts[name] for name in facts if name in results.facts}
    return {"model": model, "revision": revision, "seeds": results.seeds, "facts": found}


def files(results: Results, state: State, rows: Sequence[Row]) -> dict[tuple[str, str, int], Path]:
    """The kept images or clips of these rows, by method, prompt and seed; whether they still lie there is not said."""
    by_head = {row.repr + str(row.budget): row for row in rows}
    found: dict[tuple[str, str, int], Path] = {}
    for image in results.images(state).drop_nulls("image").rows(named=True):
        head = results.heads[image["row"]]
        row = by_head.get((head.get("repr") or head["method"]) + str(head["budget"]))
        if row is not None:
            found[row.method, image["prompt"], image["seed"]] = Path(image["folder"]) / image["image"]
    return found


def joined(items: Iterable[str]) -> str:
    """The items with commas, or "none"."""
    return ", ".join(items) or "none"
