"""The overhead benchmark runs and says what it measured; its figures are not judged here."""

from __future__ import annotations

import json

import pytest

from driftcast.bench import overhead

TINY = ["--double", "1", "--single", "1", "--width", "64", "--image-tokens", "4", "--text-tokens", "2", "--rounds", "1"]


def test_a_row_per_seam(capsys: pytest.CaptureFixture[str]) -> None:
    overhead.main([*TINY, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [cost["seam"] for cost in found["costs"]] == ["output", "stack", "modules"]
    assert [cost["bar"] for cost in found["costs"]] == [0.005, 0.03, None]
    assert found["settings"]["rounds"] == 1
    for cost in found["costs"]:
        assert cost["forecast"] > 0
        assert cost["ratio"] == cost["forecast"] / cost["evaluation"]


def test_the_table_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    overhead.main(TINY)
    lines = capsys.readouterr().out.splitlines()
    assert "evaluation of the plain network" in lines[1]
    assert [line.split()[0] for line in lines[3:]] == ["output", "stack", "modules"]
