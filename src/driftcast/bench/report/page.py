"""The page: how to read it, plot, table, pictures, and where the numbers come from."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from driftcast.bench.report.columns import caption, columns, label, note, sections
from driftcast.bench.report.labels import mark
from driftcast.bench.report.plot import pareto_svg
from driftcast.bench.report.records import LEFT_OUT, Record
from driftcast.bench.report.style import STYLE
from driftcast.bench.report.summary import Row, summarise
from driftcast.bench.report.traces import traces_svg

_GUIDE = """\
Read the table section by section: the methods of one section were asked for equally many evaluations of the denoiser,
so they differ only in what they make of them. The rows marked □ are plain samplers that just take fewer steps; a method
that stands below one of them is not worth its trouble at that budget. PSNR, SSIM and latent error say how far a picture
is from the one that the unaccelerated run makes from the same noise, not how pleasing it is; where a converged run with
many more steps was made, the distance to it stands beside. The worst picture is given beside the mean, because a method
that is good on average may still spoil some pictures. A plan (◆) was solved beforehand for this very model; what it
predicted then, on pictures of its own, stands beside what it reached."""
_STEPS = """\
Each row is one run on the first batch, with the network evaluated at every step beside the forecasts, which the run
itself goes on with. Left: how far each forecast is from the evaluation that it replaced, relative to its size. Right:
the sum of |weights| of the forecast, that is, how much it can enlarge an error of what it was made from. Triangles and
thin lines mark the evaluated steps; a line breaks there."""


def html(records: Sequence[Record], grid_png: bytes | None) -> str:
    """One page that loads nothing: how to read it, plot, table, grid (PNG bytes) and where the numbers come from."""
    rows = summarise(records)
    title = f"driftcast: {_distinct(records, 'model') or 'no records'} at equal evaluations"
    picture = steps = left = ""
    if grid_png is not None:
        data = base64.b64encode(grid_png).decode()
        picture = (
            '<h2>Pictures</h2>\n<div class="wide"><img alt="Pictures of each method and their differences to the '
            f'reference" src="data:image/png;base64,{data}"></div>'
        )
    if drawing := traces_svg(records):
        steps = f'<h2>Step by step</h2>\n<p>{_STEPS}</p>\n<div class="wide">{drawing}</div>'
    if missing := [r for r in records if r["kind"] == LEFT_OUT]:
        items = "".join(f"<li><code>{escape(r['method'])}</code>: {escape(r['reason'])}</li>\n" for r in missing)
        left = f"<h2>Left out</h2>\n<ul>\n{items}</ul>"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<p>{_GUIDE}</p>
<h2>Fidelity against evaluations</h2>
<div class="wide">{pareto_svg(rows)}</div>
<h2>Methods</h2>
<div class="wide">{_table(rows)}</div>
<p><small>{escape(caption(rows))}</small></p>
{left}
{steps}
{picture}
<h2>Where the numbers come from</h2>
{_provenance(records, rows)}
</body>
</html>
"""


def _table(rows: Sequence[Row]) -> str:
    shown = columns(rows)
    head = "".join(f'<th scope="col">{escape(header)}</th>' for header in ("method", *(c.header for c in shown)))
    bodies = []
    for section in sections(rows):
        first = section[0]
        heading = "reference" if first.kind == "reference" else f"{first.budget} evaluations"
        lines = [f'<tr><th class="budget" colspan="{1 + len(shown)}" scope="rowgroup">{heading}</th></tr>']
        for row in section:
            paper = f"<small>{escape(row.paper)}</small>" if row.paper else ""
            cells = "".join(f"<td>{escape(column.cell(row))}</td>" for column in shown)
            method = escape(label(row)).replace(":", ":<wbr>").replace(",", ",<wbr>")
            method = f"{mark(row.kind)}&nbsp;<code>{method}</code>{note(row)}{paper}"
            lines.append(f'<tr class="{escape(row.kind)}"><th scope="row">{method}</th>{cells}</tr>')
        bodies.append("<tbody>\n" + "\n".join(lines) + "\n</tbody>")
    return f"<table>\n<thead><tr>{head}</tr></thead>\n" + "\n".join(bodies) + "\n</table>"


def _provenance(records: Sequence[Record], rows: Sequence[Row]) -> str:
    facts = {
        key: _distinct(records, key)
        for key in ("model", "revision", "settings", "versions", "commit", "hardware", "command")
    }
    facts["seeds"] = _distinct(records, "seed", ", ")
    listed = "".join(f"<dt>{key}</dt><dd>{escape(text)}</dd>\n" for key, text in facts.items() if text)
    reprs = "".join(
        f"<dt><code>{escape(row.method)}</code></dt><dd><code>{escape(row.repr)}</code></dd>\n"
        for row in rows
        if row.repr != row.method
    )
    details = f"<details><summary>Methods in full</summary>\n<dl>\n{reprs}</dl>\n</details>" if reprs else ""
    prompts = dict.fromkeys((r.get("prompt_index") or 0, str(r["prompt"])) for r in records if r.get("prompt"))
    items = "".join(f'<li value="{int(index)}">{escape(prompt)}</li>\n' for index, prompt in sorted(prompts))
    return f"<dl>\n{listed}</dl>\n<h2>Prompts</h2>\n<ol>\n{items}</ol>\n{details}"


def _distinct(records: Iterable[Record], key: str, between: str = "; ") -> str:
    """The different values of a key in words, usually one."""
    return between.join(dict.fromkeys(_words_of(r[key]) for r in records if r.get(key) is not None))


def _words_of(value: object) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)
