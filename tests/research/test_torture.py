"""The counts of `make torture`: what tests note, examples of Hypothesis, and one for each other test."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from research.torture import BEGIN, END, PARTS, ROOT, counted, filled, table

EXAMPLES = base64.b64encode(
    b"  - during generate phase:\n    - 40 passing, 2 failing, and 0 invalid test cases\n"
).decode()
REPORT = f"""<testsuites><testsuite><properties>
<property name="hypothesis-statistics-tests/test_a.py::test_read" value="{EXAMPLES}"/></properties>
<testcase classname="tests.test_a" name="test_read"><failure message="x"/></testcase>
<testcase classname="tests.test_a" name="test_kills"><properties><property name="tried" value="7"/></properties>
</testcase>
<testcase classname="tests.test_a" name="test_other"/>
<testcase classname="tests.test_a" name="test_skipped"><skipped/></testcase>
</testsuite></testsuites>"""


def test_everything_is_counted_once() -> None:
    found = counted(PARTS[0], REPORT)
    assert (found.tests, found.tried, found.failed, found.skipped) == (3, 42 + 7 + 1, 1, 1)
    assert table([found, found]).splitlines()[-1] == "| all | 6 | 100 | 2 | 2 |"


def test_the_page_takes_the_table() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text()
    made = filled(page, [counted(PARTS[0], REPORT)])
    assert made.partition(BEGIN)[0] == page.partition(BEGIN)[0]
    assert made.partition(END)[2] == page.partition(END)[2]
    assert "| 50 files |" in made
    with pytest.raises(ValueError, match="needs the lines"):
        filled("no marks", [])


def test_every_part_has_tests() -> None:
    for part in PARTS:
        assert any((ROOT / Path(test.partition("::")[0])).exists() for test in part.tests), part.promise
