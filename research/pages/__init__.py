"""The pages of results, made from records and measurements alone by templates."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


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


def joined(items: Iterable[str]) -> str:
    """The items with commas, or "none"."""
    return ", ".join(items) or "none"
