"""The page: how to read it, a section for each state of the pipeline, and where the numbers come from."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from skipcast.report.columns import caption, columns
from skipcast.report.gallery import ROOM, gallery
from skipcast.report.load import Results
from skipcast.report.multiples import multiples
from skipcast.report.origins import files, provenance
from skipcast.report.page_tables import tables
from skipcast.report.plot import Against, Statistic, has_seconds, legend, pareto_svg
from skipcast.report.records import LEFT_OUT, Record
from skipcast.report.records import pictures as of_pictures
from skipcast.report.showing import pictures
from skipcast.report.states import State, by_state
from skipcast.report.summary import Row, summaries
from skipcast.report.traces import traces_svg

_HERE = Path(__file__).parent
_STYLE, _SCRIPT = ((_HERE / name).read_text(encoding="utf-8") for name in ("style.css", "script.js"))
_ALLOWED = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-"
    + base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    + "'"
)
_GUIDE = """\
Read the tables budget by budget: the methods of one table were asked for equally many evaluations of the denoiser, so
they differ only in what they make of them. The rows marked □ are plain samplers that just take fewer steps; a method
that stands below the best of them is not worth its trouble, and the columns <i>vs sampler</i> and <i>in its time</i>
say by how much, on the same prompts and seeds: ▲ and ▽ where the whole interval lies on one side of zero. PSNR says
how far a picture is from the one that the unaccelerated run makes from the same noise, not how pleasing it is. The
worst twentieth and the worst picture stand beside the mean, because a method that is good on average may still spoil
some pictures. A plan (◆) was solved beforehand for this very model; what it predicted then, on pictures of its own,
stands beside what it reached."""
_PLOT = """\
The heavy line is what the best plain sampler reaches at every price (single samplers: □): below it, in the tint, a
method is not worth its trouble. Whiskers span the 95 % interval of the mean over prompts. The plans and the best
forecasters are named; dots are the other methods, a triangle on the axis one that lies below it. Point at a mark for
its figures."""
_STEPS = """\
Each row is one run on the first batch, with the network evaluated at every step beside the forecasts, which the run
itself goes on with. Left: how far each forecast is from the evaluation that it replaced, relative to its size. Right:
the sum of |weights| of the forecast, that is, how much it can enlarge an error of what it was made from. Triangles and
thin lines mark the evaluated steps; a line breaks there."""


def html(
    records: Sequence[Record] | Results,
    grid_png: bytes | None = None,
    folder: Path = Path(),
    summary: Mapping[State, list[Row]] | None = None,
    room: int = ROOM,
) -> str:
    """One page that loads nothing.

    Args:
        records: of any number of states; pictures that they name are embedded.
        grid_png: a grid of pictures, shown where records name none.
        folder: of the page, from which files are named.
        summary: the rows of each state, where they are known already.
        room: bytes of embedded pictures, shared by the states.
    """
    results = records if isinstance(records, Results) else Results(list(records))
    rows = summaries(results.records) if summary is None else summary
    states = {state: found for state, found in by_state(results.records).items() if state in rows}
    models = ", ".join(dict.fromkeys(state.model or "unknown model" for state in states))
    title = f"skipcast: {models or 'no records'} at equal evaluations"
    several = len(states) > 1
    body = [f"<h1>{escape(title)}</h1>", f"<p>{_GUIDE}</p>"]
    if several:
        items = "".join(
            f'<li><a href="#state-{i}">{escape(state.told(states))}</a></li>' for i, state in enumerate(states, 1)
        )
        body.append(
            f'<nav aria-label="states"><ul>{items}'
            '<li><a href="#origins">where the numbers come from</a></li></ul></nav>'
        )
    share = room // max(1, sum(any(r.get("picture") for r in found) for found in states.values()))
    for i, (state, found) in enumerate(states.items(), 1):
        if several:
            body.append(f'<h2 id="state-{i}">{escape(state.told(states))}</h2>')
        body += _section(found, rows[state], share, None if several else grid_png)
    if not states:
        body.append("<p>There are no records of pictures.</p>")
    body.append('<h2 id="origins">Where the numbers come from</h2>')
    reprs = dict.fromkeys((row.method, row.repr) for found in rows.values() for row in found)
    body += [provenance(results.records, reprs), files(results.sources, results.repeated, folder)]
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_ALLOWED}">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
{chr(10).join(part for part in body if part)}
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _section(records: Sequence[Record], rows: Sequence[Row], share: int, grid_png: bytes | None) -> list[str]:
    """Everything of one state."""
    parts = ["<h3>Fidelity against evaluations</h3>", f"<p>{_PLOT}</p>", _plot(rows, "evaluations", "mean")]
    if has_seconds(rows):
        parts += ["<h3>Fidelity against time</h3>", _plot(rows, "seconds", "mean")]
    parts.append(_folded("The worst 5 % against evaluations", _plot(rows, "evaluations", "worst5")))
    if small := multiples(rows):
        parts.append(_folded("The other methods one by one, against the line to beat", small))
    parts += ["<h3>Methods</h3>", tables(rows), f'<p class="note">{escape(caption(rows, columns(rows)))}</p>']
    if missing := [record for record in records if record["kind"] == LEFT_OUT]:
        items = "".join(
            f"<li><code>{escape(record['method'])}</code>: {escape(record['reason'])}</li>\n" for record in missing
        )
        parts.append(_folded(f"Left out ({len(missing)})", f"<ul>\n{items}</ul>"))
    if drawing := traces_svg(records):
        parts.append(f'<h3>Step by step</h3>\n<p>{_STEPS}</p>\n<div class="wide">{drawing}</div>')
    parts.append("<h3>Pictures</h3>")
    found = gallery(of_pictures(records), rows, share)
    if found is None and grid_png is not None:
        parts.append(
            '<div class="wide"><img alt="Pictures of each method and their differences to the reference" '
            f'src="data:image/png;base64,{base64.b64encode(grid_png).decode()}"></div>'
        )
    else:
        parts.append(pictures(found, share))
    return parts


def _plot(rows: Sequence[Row], against: Against, statistic: Statistic) -> str:
    return (
        f'<div class="plot"><div class="broad">{pareto_svg(rows, against, statistic)}</div>'
        f'<div class="narrow">{pareto_svg(rows, against, statistic, narrow=True)}</div>{legend(rows)}</div>'
    )


def _folded(title: str, inside: str) -> str:
    return f"<details><summary>{escape(title)}</summary>\n{inside}\n</details>"
