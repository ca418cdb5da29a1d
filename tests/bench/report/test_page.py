"""The page loads nothing, escapes everything, and says where its numbers come from."""

from __future__ import annotations

from html.parser import HTMLParser
from io import BytesIO

from PIL import Image

from driftcast.bench import report
from records import RECORDS, both


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


def test_page_rows_leave_the_evaluations_to_their_section() -> None:
    text = report.html(both("taylorseer:order=1,evaluations=10", "forecast", 10, 24, 20), None)
    assert "10 evaluations</th>" in text
    assert "<code>taylorseer:<wbr>order=1</code>" in text
    assert "<dt><code>taylorseer:order=1,evaluations=10</code></dt>" in text


def test_page_of_nothing() -> None:
    Page(report.html([], None))
