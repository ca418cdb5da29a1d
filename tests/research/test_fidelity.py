"""The table of fidelity: every name is in it, every transcription agrees, and the page is what the command makes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from research.cost.rows import CACHE_DIT
from research.fidelity import __main__ as command
from research.fidelity import decisions, forecasts
from research.fidelity.calibrators import CALIBRATORS, INSTALLED, Calibrated, calibrated
from research.fidelity.hooks import PEERS, Beside, beside
from research.fidelity.page import EQUAL, agrees, page, table
from research.fidelity.rows import NAMES, ROWS, Compared, Row, compared
from research.fidelity.sequences import Sequence, alone
from skipcast.methods.families import SETTINGS

PAGE = Path(__file__).parents[2] / "docs" / "results" / "fidelity.md"


@pytest.fixture(scope="module")
def rows() -> list[Compared]:
    return [compared(row) for row in ROWS]


@pytest.fixture(scope="module")
def peers() -> list[Beside]:
    return [beside(peer) for peer in PEERS]


@pytest.fixture(scope="module")
def calibrators() -> list[Calibrated]:
    return [calibrated(calibrator) for calibrator in CALIBRATORS if INSTALLED]


def test_every_name_and_every_setting_of_a_family_has_a_row() -> None:
    assert {row.name for row in ROWS if row.method is None} == set(NAMES)
    settings = {(name, family) for name, families in SETTINGS.items() for family in families}
    assert {(row.name, row.family) for row in ROWS if row.family} == settings
    assert all(row.note for row in ROWS if row.theirs is None)


def test_every_transcription_agrees(rows: list[Compared]) -> None:
    for found in rows:
        if found.difference is not None:
            told = found.row.spec, found.row.family, found.difference, found.steps
            assert agrees(found) == (not found.row.differs), told
    assert not [found.row.spec for found in rows if found.row.differs]


def test_every_run_both_evaluates_and_forecasts(rows: list[Compared]) -> None:
    for found in rows:
        if found.difference is not None:
            fewest, most = found.evaluations
            assert fewest > 1, found.row.spec
            assert most < max(map(len, found.row.grids)), found.row.spec


@pytest.mark.parametrize("first_enhance, interval", [(1, 6), (3, 5)])
def test_a_wrong_rule_shows(first_enhance: int, interval: int) -> None:
    """Derivatives from step 0 on, and another interval."""

    def wrong(given: Sequence) -> tuple[tuple[int, ...], forecasts.Array]:
        full = decisions.counter(len(given.grid), 3, interval)
        rule = forecasts.series(lambda k: forecasts.taylor(2, k), first_enhance)
        return full, alone(rule, given.leaving, full)

    found = compared(Row("taylorseer:order=2", wrong))
    assert found.difference is not None
    assert found.difference > 0.1
    assert found.steps == (interval == 6)


def test_the_hooks_of_diffusers_agree_or_it_is_told_why(peers: list[Beside]) -> None:
    for found in peers:
        same = found.difference <= EQUAL and found.ours == found.theirs
        assert same == (not found.peer.why), found.peer.name
        assert found.moved > 1e-3
        assert 1 < len(found.theirs) < found.peer.steps


@pytest.mark.skipif(not INSTALLED, reason=CACHE_DIT)
def test_the_calibrators_of_cache_dit_agree_or_it_is_told_why(calibrators: list[Calibrated]) -> None:
    assert len(calibrators) == len(CALIBRATORS)
    for found in calibrators:
        assert (found.difference <= EQUAL) == (not found.calibrator.why), found.calibrator.name


def without_rounding(text: str) -> str:
    """Differences that only rounding makes are others on other machines; cache-dit may be missing on this one."""
    if not INSTALLED:
        text = text[: text.index("## Beside the calibrators")] + text[text.rindex("This page:") :]

    def short(match: re.Match[str]) -> str:
        return "| 0 |" if float(match[1]) <= EQUAL else match[0]

    return re.sub(r"\| (\d+e-\d+) \|", short, text)


def test_the_page_is_what_the_command_makes(
    rows: list[Compared], peers: list[Beside], calibrators: list[Calibrated]
) -> None:
    assert without_rounding(page(rows, peers, calibrators)) == without_rounding(PAGE.read_text(encoding="utf-8"))


def test_the_command_prints_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "ROWS", ROWS[:2])
    monkeypatch.setattr(command, "PEERS", PEERS[:1])
    monkeypatch.setattr(command, "CALIBRATORS", CALIBRATORS[:1])
    command.main(["--out", str(tmp_path / "page.md")])
    assert capsys.readouterr().out.startswith("reuse ")
    assert "| `lagrange:order=1` |" in (tmp_path / "page.md").read_text()


def test_the_printed_table_holds_every_row(
    rows: list[Compared], peers: list[Beside], calibrators: list[Calibrated]
) -> None:
    lines = table(rows, peers, calibrators).splitlines()
    assert len(lines) == len(rows) + 1 + len(peers) + (len(calibrators) or 1)
    assert calibrators or lines[-1] == CACHE_DIT
    assert all(line.startswith(found.row.spec) for line, found in zip(lines, rows, strict=False))
