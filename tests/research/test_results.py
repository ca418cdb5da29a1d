"""The committed pages are what the committed records say, to the last digit that they print."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from research.cost.page import page as cost_page
from research.pages import methods, record, video
from research.plans.bars import summary
from research.plans.page import page as plans_page
from research.plans.store import read as read_plans
from skipcast import report
from skipcast.bench.results import Results

RESULTS = Path(__file__).parents[2] / "docs" / "results"
RECORDS = [RESULTS / f"shapes-flux-{steps}.jsonl.gz" for steps in (50, 20)]


def figures(page: str) -> list[str]:
    """The headings, the lines of tables and those of lists of a page, without what says where it comes from."""
    found = page.partition("## Where the numbers come from")[0].splitlines()
    return [line for line in found if line.startswith(("#", "|", "- "))]


def committed(name: str) -> list[str]:
    found = figures((RESULTS / name).read_text(encoding="utf-8"))
    assert len(found) > 10
    return found


@pytest.fixture(scope="module")
def results() -> Results:
    return report.load(RECORDS)


def test_the_page_of_all_methods(results: Results) -> None:
    assert figures(methods.page(results, "command")) == committed("methods.md")


def test_the_page_of_record(results: Results) -> None:
    text, plots = record.page(results, "command", "make benchmark")
    assert figures(text) == committed("shapes-flux.md")
    assert all((RESULTS / name).is_file() for name in plots)


def test_the_page_of_videos() -> None:
    stills, clips = report.load(RECORDS[:1]), report.load([RESULTS / "shapes-wan-50.jsonl.gz"])
    experts = json.loads((RESULTS / "shapes-wan-experts.json").read_text())
    text = video.page(clips, stills, experts, "command", "make benchmark-video")
    assert figures(text) == committed("shapes-wan.md")


def test_the_page_of_plans() -> None:
    assert figures(plans_page(read_plans(RESULTS / "plans"), "command")) == committed("plans.md")


def test_the_measurement_of_plans_is_that_of_its_records() -> None:
    """Every figure of `bars.json` that the page prints follows from the records of single images."""
    measured = json.loads((RESULTS / "plans" / "bars.json").read_text())["rows"]
    again = summary(report.read(RESULTS / "plans" / "bars.jsonl.gz"))
    assert len(again) == len(measured) > 50
    for row, known in zip(again, measured, strict=True):
        for target in ("default", "converged"):
            if known[target]:
                row[target] = {key: row[target][key] for key in known[target]}
        assert row == known


def test_the_page_of_costs() -> None:
    assert figures(cost_page(json.loads((RESULTS / "cost.json").read_text()))) == committed("cost.md")
