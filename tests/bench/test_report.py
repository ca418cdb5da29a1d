"""The report from a handmade list of records: a pure function, so that every number on the page is known here."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser
from io import BytesIO, StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image
from rich.console import Console

from driftcast.bench import report

PROMPTS = ["a red star", 'a <b>"blue"</b> ring & more']


def record(method: str, kind: str, budget: int, index: int, psnr: float | None, **changes: Any) -> dict[str, Any]:
    return {
        "method": method,
        "name": method.partition(":")[0],
        "repr": f"Method({method!r})",
        "kind": kind,
        "paper": "arXiv:2503.06923" if kind == "forecast" else None,
        "budget": budget,
        "evaluations": budget,
        "steps": 50,
        "evaluated_steps": None,
        "prompt": PROMPTS[index],
        "prompt_index": index,
        "seed": 100 + index,
        "psnr": psnr,
        "ssim": None if psnr is None else psnr / 50,
        "latent_error": None if psnr is None else 4 / psnr,
        "psnr_converged": None,
        "ssim_converged": None,
        "latent_error_converged": None,
        "judge": {"shape": True, "colour": index == 0},
        "seconds": budget * (1 + index),
        "speedup": 50 / budget,
        "cached_bytes": 2048,
        "model": "shapes-flux",
        "settings": {"steps": 50, "guidance": 3.5},
        "versions": {"torch": "2.13.0"},
        "commit": "abc1234",
        "hardware": "2 CPU cores",
        "command": "driftcast compare <shapes-flux>",
    } | changes


def both(method: str, kind: str, budget: int, first: float | None, second: float | None, **changes: Any) -> Any:
    return [record(method, kind, budget, i, psnr, **changes) for i, psnr in enumerate((first, second))]


RECORDS = [
    *both("taylorseer:order=1,evaluations=10", "forecast", 10, 24, 20),
    *both("resilphase:evaluations=10", "forecast", 10, 40, 10),
    *both("plan:nfe=5", "plan", 5, 21, 20),
    *both("euler:steps=10", "sampler", 10, 23, 22),
    *both("euler:steps=5", "sampler", 5, 18, 16),
    *both("reference:steps=50", "reference", 50, None, None),
]


def text_of(table: Any, width: int = 80) -> str:
    stream = StringIO()
    Console(width=width, file=stream).print(table)
    return stream.getvalue()


# Records


def test_write_and_read_round_trip(tmp_path: Path) -> None:
    paths = report.write(tmp_path / "new" / "folder", RECORDS, Image.new("RGB", (8, 4), "red"))
    assert (
        set(paths)
        == {"results.jsonl", "report.html", "grid.png"}
        == {p.name for p in paths["grid.png"].parent.iterdir()}
    )
    assert report.read(paths["results.jsonl"]) == RECORDS
    with Image.open(paths["grid.png"]) as image:
        assert image.size == (8, 4)
    assert "grid.png" not in report.write(tmp_path / "plain", RECORDS, None)


def test_infinite_psnr_is_stored_as_identical(tmp_path: Path) -> None:
    records = both("plan:nfe=5", "plan", 5, math.inf, 30)
    path = report.write(tmp_path, records, None)["results.jsonl"]
    stored = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]
    assert [(r["psnr"], r.get("identical")) for r in stored] == [(None, True), (30, None)]
    (row,) = report.summarise(report.read(path))
    assert (row.psnr, row.psnr_worst, row.identical) == (30, 30, 1)
    assert "left out of the mean" in report.markdown([row])


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = report.write(tmp_path, RECORDS, None)["results.jsonl"]

    def fail(*_: object) -> None:
        raise OSError("disk")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk"):
        report.write(tmp_path, RECORDS[:2], None)
    assert report.read(path) == RECORDS
    assert {p.name for p in tmp_path.iterdir()} == {"results.jsonl", "report.html"}


@pytest.mark.parametrize(
    "line, complaint", [('{"method": "eul', "not JSON"), ("[1]", "object"), ("{}", "lacks method")]
)
def test_a_malformed_file_names_the_line(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(RECORDS[0]) + "\n\n" + line + "\n")
    with pytest.raises(ValueError, match=f"line 3 .*{complaint}"):
        report.read(path)


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        report.read(tmp_path / "results.jsonl")


# Summary


def test_rows_are_sorted_by_budget_then_mean_psnr() -> None:
    names = [(row.budget, row.name) for row in report.summarise(RECORDS)]
    at_ten = [(10, "resilphase"), (10, "euler"), (10, "taylorseer")]
    assert names == [(50, "reference"), (5, "plan"), (5, "euler"), *at_ten]


def test_a_row_has_mean_and_worst() -> None:
    row = next(row for row in report.summarise(RECORDS) if row.name == "resilphase")
    assert (row.psnr, row.psnr_worst) == (25, 10)
    assert (row.ssim, row.ssim_worst) == pytest.approx((0.5, 0.2))
    assert (row.latent_error, row.latent_error_worst) == pytest.approx((0.25, 0.4))
    assert (row.judge, row.attributes) == (0.5, {"shape": 1.0, "colour": 0.5})
    assert (row.seconds, row.speedup, row.cached_bytes, row.pictures) == (15, 5, 2048, 2)
    assert (row.psnr_converged, row.psnr_converged_worst) == (None, None)


def test_converged_values_are_summarised_where_made() -> None:
    (row,) = report.summarise(both("euler:steps=5", "sampler", 5, 18, 16, psnr_converged=12.5))
    assert (row.psnr_converged, row.psnr_converged_worst) == (12.5, 12.5)
    assert "conv. PSNR" in report.markdown([row])
    assert "conv. PSNR" not in report.markdown(report.summarise(RECORDS))


def test_a_broken_picture_does_not_flatter() -> None:
    records = [*both("broken:nfe=5", "plan", 5, 90, math.nan), *both("stored:nfe=5", "plan", 5, 90, None), *RECORDS]
    *_, last, least = [row for row in report.summarise(records) if row.budget == 5]
    for row in (last, least):
        assert row.name in ("broken", "stored")
        assert row.psnr is not None
        assert math.isnan(row.psnr)
    assert "nan" in report.markdown([last])
    report.html(records, None)


def test_identical_everywhere_is_infinite() -> None:
    (row,) = report.summarise(both("plan:nfe=50", "plan", 50, None, None, identical=True))
    assert (row.psnr, row.psnr_worst, row.identical) == (math.inf, math.inf, 2)
    assert "no finite PSNR" in report.pareto_svg([row])


def test_records_of_several_models_are_refused() -> None:
    with pytest.raises(ValueError, match=r"flux, other; report each"):
        report.summarise([RECORDS[0] | {"model": "flux"}, RECORDS[1] | {"model": "other"}])


# Tables


def test_table_fits_a_terminal_and_marks_samplers() -> None:
    text = text_of(report.table(report.summarise(RECORDS)))
    lines = [line.split() for line in text.splitlines() if "◆ plan " in line or "□ euler " in line]
    assert [(line[0], line[2]) for line in lines[:3]] == [("◆", "5"), ("□", "5"), ("□", "10")]
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "10.00x" in text
    assert "taylorseer:order=1 " in text


def test_table_does_not_read_labels_as_markup() -> None:
    (row,) = report.summarise([record("odd:[bold]x[/]", "forecast", 5, 0, 20)])
    assert "odd:[bold]x[/]" in text_of(report.table([row]))


def test_table_says_when_the_evaluations_are_others_than_asked() -> None:
    records = both("tsi:nfe=5", "forecast", 5, 20, 20)
    records[1]["evaluations"] = 6
    assert "| 5.5 (5) |" in report.markdown(report.summarise(records))


def test_markdown_is_rectangular() -> None:
    rows = report.summarise([*RECORDS, record("odd|name", "forecast", 5, 0, 20)])
    lines = [line for line in report.markdown(rows).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(rows)
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert any("□ sampler | `euler:steps=5` | 5 | 17.0 | 16.0 |" in line for line in lines)


# Grid


def test_grid_has_a_row_per_method_and_per_difference() -> None:
    reference = torch.zeros(2, 3, 64, 64)
    picture = torch.full((2, 3, 64, 64), 0.1)
    one = report.grid([picture], ["a:nfe=5"], PROMPTS, reference=reference)
    two = report.grid([picture, picture], ["a:nfe=5", "b:nfe=5"], PROMPTS, reference=reference)
    assert two.width == one.width
    assert two.height - one.height == 2 * (128 + 6)
    columns = [one.getpixel((one.width - 60, one.height - 60 - 134 * i)) for i in range(3)]
    assert columns == [(102,) * 3, (26,) * 3, (0,) * 3]  # 4 x 0.1, 0.1 and the reference, from below


@pytest.mark.parametrize("height, width", [(16, 16), (96, 160), (300, 200)])
def test_grid_takes_pictures_of_any_size_and_long_texts(height: int, width: int) -> None:
    pictures = torch.rand(1, 3, height, width)
    image = report.grid(
        [pictures],
        ["name:" + "option=1," * 30],
        ["word " * 80 + "x" * 80],
        reference=pictures,
        reference_label="r" * 90,
    )
    assert image.width == 190 + max(round(128 * width / max(height, width)), 96) + 6
    assert image.height < 3 * 140 + 100


def test_grid_refuses_what_does_not_fit() -> None:
    reference = torch.zeros(2, 3, 8, 8)
    with pytest.raises(ValueError, match="labels"):
        report.grid([reference], [], PROMPTS, reference=reference)
    with pytest.raises(ValueError, match=r"pictures of a must be \(2, 3, H, W\)"):
        report.grid([reference[:1]], ["a"], PROMPTS, reference=reference)
    with pytest.raises(ValueError, match="pictures of reference"):
        report.grid([], [], PROMPTS[:1], reference=reference)


# Plot and page


def test_svg_is_well_formed_and_tells_kinds_apart_without_colour() -> None:
    svg = report.pareto_svg(report.summarise(RECORDS))
    root = ElementTree.fromstring(svg)
    names = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert names.count("polyline") == 4
    assert names.count("circle") == 2  # one per forecaster
    assert {e.get("stroke-dasharray") for e in root.iter() if e.tag.endswith("polyline")} == {"none", "6 4", "12 3 2 3"}
    assert "resilphase:evaluations=10: mean 25.0 dB, worst 10.0 dB" in svg
    assert "reference" not in svg


def test_svg_labels_do_not_overlap() -> None:
    records = [r for i in range(30) for r in both(f"method{i}:nfe=5", "forecast", 5, 20, 19.9)]
    root = ElementTree.fromstring(report.pareto_svg(report.summarise(records)))
    height = float(root.attrib["viewBox"].split()[3])
    places = sorted(float(e.attrib["y"]) for e in root.iter() if (e.text or "").startswith("● method"))
    assert len(places) == 30
    assert places[0] > 0
    assert places[-1] < height
    assert min(b - a for a, b in pairwise(places)) > 13


class Page(HTMLParser):
    """Collects what a page would load and checks that its tags are balanced."""

    void = ("meta", "img", "wbr", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for key, value in attrs if key in ("src", "href", "xlink:href", "srcset", "data")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_loads_nothing_and_escapes_everything() -> None:
    buffer = BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    odd = both("x<i>:a='b'", "forecast", 5, 20, 20, repr="<script>alert(1)</script>", paper="https://a.org/<u>")
    for line in odd:
        line["settings"] = {"<s>": "</style>"}
    text = report.html([*RECORDS, *odd], buffer.getvalue())
    page = Page(text)
    assert len(page.loads) == 1
    assert page.loads[0].startswith("data:image/png;base64,")
    assert not {"script", "link", "iframe", "b", "i", "u", "s"} & set(page.tags)
    assert "url(" not in text
    assert "@import" not in text
    assert "a &lt;b&gt;&quot;blue&quot;&lt;/b&gt; ring &amp; more" in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_page_says_where_the_numbers_come_from() -> None:
    text = report.html(RECORDS, None)
    for fact in ("shapes-flux", "guidance 3.5", "torch 2.13.0", "abc1234", "2 CPU cores", "100, 101", "a red star"):
        assert fact in text
    assert "driftcast compare &lt;shapes-flux&gt;" in text
    assert "<img" not in text
    assert "prefers-color-scheme:dark" in text
    assert "viewport" in text


def test_page_of_nothing() -> None:
    Page(report.html([], None))
