"""The page loads nothing, escapes everything, and says where its numbers come from."""

from __future__ import annotations

import base64
import hashlib
import re
from html import unescape
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from skipcast import report
from support.records import PROMPTS, RECORDS, both


class Page(HTMLParser):
    """Collects what a page would load and its lists, and checks that its tags are balanced."""

    void = ("meta", "img", "wbr", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {tag: [] for tag in ("dt", "dd", "li")}
        self.feed(text)
        assert not self.open
        assert len(set(self.ids)) == len(self.ids)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        loads = [value or "" for key, value in attrs if key in ("src", "href", "xlink:href", "srcset", "data")]
        self.loads += [each for each in loads if not (tag == "use" and each.startswith("#"))]
        self.ids += [value or "" for key, value in attrs if key == "id"]
        if tag in self.texts:
            self.texts[tag].append("")
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.void:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        for tag in self.texts.keys() & set(self.open):
            self.texts[tag][-1] += data

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_loads_nothing_and_escapes_everything() -> None:
    buffer = BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    odd = both(
        "x", "forecast", 5, 20, 20, method="x<i>:a='b'", repr="<script>alert(1)</script>", paper="https://a.org/<u>"
    )
    for line in odd:
        line["versions"] = {"<s>": "</style>"}
    text = report.html(report.of([*RECORDS, *odd]), buffer.getvalue())
    page = Page(text)
    assert len(page.loads) == 1
    assert page.loads[0].startswith("data:image/png;base64,")
    assert not {"link", "iframe", "u", "s"} & set(page.tags)
    assert page.tags.count("script") == 1
    assert "url(" not in text
    assert "@import" not in text
    assert 'a <b>"blue"</b> ring & more' in unescape(text)
    assert '<b>"blue"' not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_page_says_where_the_numbers_come_from() -> None:
    page = Page(report.html(report.of(RECORDS)))
    facts = dict(zip(page.texts["dt"], page.texts["dd"], strict=True))
    assert facts.items() >= {
        "model": "shapes-flux", "settings": "steps 50, guidance 3.5", "versions": "torch 2.13.0", "commit": "abc1234",
        "hardware": "2 CPU cores", "command": "skipcast compare <shapes-flux>", "steps": "50", "seeds": "100-101",
        "taylorseer:order=1,evaluations=10": "Method('taylorseer:order=1,evaluations=10')",
    }.items()  # fmt: skip
    assert page.texts["li"] == PROMPTS
    assert "img" not in page.tags


def test_page_rows_leave_the_evaluations_to_their_section() -> None:
    text = report.html(report.of(both("taylorseer:order=1,evaluations=10", "forecast", 10, 24, 20)))
    assert "10 evaluations (1 rows)" in text
    assert "<code>taylorseer:<wbr>order=1</code>" in text
    assert "<dt><code>taylorseer:order=1,evaluations=10</code></dt>" in text


def test_page_of_nothing() -> None:
    Page(report.html(report.of([])))


def test_only_the_script_of_the_page_may_run() -> None:
    text = report.html(report.of(RECORDS))
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'" in text


def test_a_row_says_which_sampler_it_stands_against() -> None:
    text = report.html(report.of(RECORDS))
    # 40 and 10 dB against euler's 23 and 22: +17 and -12.
    assert '<td class=""><b>+2.5</b> <span>[-12.0, +17.0]</span><small>euler</small></td>' in text
    assert '<td class="win"><b>+3.5</b> <span>[+3.0, +4.0]</span><small>euler</small></td>' in text


def test_states_have_sections_and_are_never_averaged() -> None:
    changes: dict[str, dict[str, Any]] = {
        "shapes-flux, 50 steps, scheduler of the model, guidance as usual": {},
        "other, 50 steps, scheduler of the model, guidance as usual": {"model": "other"},
        "shapes-flux, 20 steps, scheduler of the model, guidance as usual": {"steps": 20},
        "shapes-flux, 50 steps, scheduler of the model, guidance 5": {"guidance": 5.0},
        "shapes-flux, 50 steps, scheduler golden, guidance as usual": {"scheduler": {"label": "golden", "class": "E"}},
    }
    lines = [
        line
        for psnr, change in zip(range(10, 60, 10), changes.values(), strict=True)
        for line in both("euler:evaluations=5", "sampler", 5, psnr, psnr, **change)
    ]
    text = report.html(report.of(lines))
    assert [link for link in Page(text).loads if link != "#origins"] == [f"#state-{i}" for i in range(1, 6)]
    assert re.findall(r'<h2 id="state-\d">(.*?)</h2>', text) == list(changes)
    assert re.findall(r"<td>(\d\d\.0) *<span>", text) == [f"{psnr}.0" for psnr in range(10, 60, 10)]
    with pytest.raises(ValueError, match=r"one state of the pipeline, got .*20 steps"):
        report.summarise(lines)


def test_files_are_told_with_their_sums(tmp_path: Path) -> None:
    path = report.write(tmp_path / "a", RECORDS, None)["results.jsonl"]
    page = report.write_page(tmp_path / "b" / "page.html", report.load([path]))
    text = page.read_text()
    assert "<code>../a/results.jsonl</code>" in text
    assert hashlib.sha256(path.read_bytes()).hexdigest() in text
    assert str(tmp_path) not in text


def test_left_out_methods_say_why() -> None:
    left = RECORDS[0] | {"kind": "left out", "method": "x<y", "evaluations": None, "reason": "no <warm-up>"}
    text = report.html(report.of([*RECORDS, left]))
    assert "<code>x&lt;y</code>: no &lt;warm-up&gt;" in text


def test_a_sweep_that_asks_for_no_psnr_still_has_a_page() -> None:
    metrics = {"metrics": {"ssim": "higher is better"}}
    lines = [
        {key: value for key, value in (line | metrics).items() if not key.startswith(("psnr", "latent"))}
        for line in RECORDS
    ]
    text = report.html(report.of(lines))
    assert "no finite PSNR to draw" in text
    assert "<summary>SSIM</summary>" in text
    assert "vs sampler</th>" not in text


def test_write_and_read_round_trip(tmp_path: Path) -> None:
    paths = report.write(tmp_path / "new" / "folder", RECORDS, Image.new("RGB", (8, 4), "red"))
    assert set(paths) == {"results.jsonl", "report.html", "grid.png"}
    assert set(paths) == {path.name for path in paths["grid.png"].parent.iterdir()}
    assert report.read(paths["results.jsonl"]) == RECORDS
    with Image.open(paths["grid.png"]) as image:
        assert image.size == (8, 4)
    assert "grid.png" not in report.write(tmp_path / "plain", RECORDS, None)
