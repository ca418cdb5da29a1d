"""Where the numbers of a page come from: models, settings, versions, hardware, commands, seeds, prompts and files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from skipcast.report.load import Source
from skipcast.report.records import Record
from skipcast.report.states import words_of

_LONG = 400  # characters
_FACTS = ("model", "revision", "scheduler", "guidance", "settings", "versions", "commit", "hardware", "command")


def provenance(records: Sequence[Record], reprs: Iterable[tuple[str, str]]) -> str:
    """As HTML, with the labels of methods and what they stand for."""
    facts = {key: distinct(records, key) for key in _FACTS}
    facts["steps"] = distinct(records, "steps")
    facts["seeds"] = ranges(sorted({record["seed"] for record in records if record.get("seed") is not None}))
    listed = "".join(f"<dt>{key}</dt><dd>{_foldable(text)}</dd>\n" for key, text in facts.items() if text)
    named = "".join(
        f"<dt><code>{escape(method)}</code></dt><dd><code>{escape(told)}</code></dd>\n"
        for method, told in reprs
        if told != method
    )
    full = (
        f'<details><summary>Methods in full</summary>\n<dl class="methods">\n{named}</dl>\n</details>' if named else ""
    )
    prompts = dict.fromkeys((r.get("prompt_index") or 0, str(r["prompt"])) for r in records if r.get("prompt"))
    items = "".join(f'<li value="{int(index) + 1}">{escape(prompt)}</li>\n' for index, prompt in sorted(prompts))
    opened = " open" if len(prompts) <= 12 else ""
    asked = f"<details{opened}><summary>Prompts ({len(prompts)})</summary>\n<ol>\n{items}</ol>\n</details>"
    return f"<dl>\n{listed}</dl>\n{asked if prompts else ''}\n{full}"


def _foldable(text: str) -> str:
    """A long text, such as a command that names fifty methods, with all but its beginning folded away."""
    if len(text) <= _LONG:
        return escape(text)
    return f"<details><summary>{escape(text[:80])}...</summary>{escape(text)}</details>"


def files(sources: Sequence[Source], repeated: int, folder: Path) -> str:
    """The files that were read, by their paths from the folder of the page."""
    if not sources:
        return ""
    listed = "".join(
        f"<dt><code>{escape(_from(folder, source.path))}</code></dt><dd>{source.lines} lines, sha256 "
        f"<code>{source.sha256}</code></dd>\n"
        for source in sources
    )
    again = (
        f'<p class="note">{repeated} lines of cells that were there already are counted once.</p>' if repeated else ""
    )
    return f'<h3>Files</h3>\n<dl class="methods">\n{listed}</dl>\n{again}'


def _from(folder: Path, path: Path) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # on another drive
        return path.name


def distinct(records: Iterable[Record], key: str) -> str:
    """The different values of a key in words, usually one."""
    found: dict[str, None] = {}
    seen: set[int] = set()
    for record in records:
        value = record.get(key)
        if value is not None and id(value) not in seen:
            seen.add(id(value))
            found.setdefault(words_of(value))
    return "; ".join(found)


def ranges(numbers: Sequence[int]) -> str:
    """[1, 2, 3, 7] as '1-3, 7'; of many that lie apart the number and the ends."""
    runs: list[list[int]] = []
    for value in numbers:
        if runs and value == runs[-1][-1] + 1:
            runs[-1][1:] = [value]
        else:
            runs.append([value])
    if len(runs) > 12:
        return f"{len(numbers)} from {numbers[0]} to {numbers[-1]}"
    return ", ".join("-".join(map(str, run)) for run in runs)
