"""The static plan of CHORDS: who starts where, who evaluates what when, and who corrects whom."""

from __future__ import annotations

from typing import Any

import pytest

from skipcast.parallel.schedule import schedule

#: Cores -> rounds until each finishes, from the fastest, and network calls until the first one has, of 50 steps.
PUBLISHED = {
    4: ([21, 36, 43, 50], 78),
    6: ([19, 30, 41, 46, 48, 50], 99),
    8: ([17, 24, 31, 38, 45, 48, 49, 50], 108),
}


@pytest.mark.parametrize("cores", PUBLISHED)
def test_the_law_of_rounds(cores: int) -> None:
    made = schedule(50, cores, "chords")
    rounds, calls = PUBLISHED[cores]
    assert [made.until(answer) for answer in range(1, cores + 1)] == rounds
    assert made.evaluations(rounds[0]) == calls
    assert [len(made.course(core)) for core in reversed(range(cores))] == rounds


def test_starts() -> None:
    assert schedule(50, 8, "uniform").starts == (0, 6, 12, 18, 24, 30, 36, 42)
    assert schedule(100, 4, "chords").starts == (0, 16, 32, 64)
    assert schedule(7, 7, "uniform").starts == tuple(range(7))
    assert schedule(50, 1, "chords").rounds(0) == 50


def test_a_core_is_corrected_where_it_was_when_its_neighbour_arrives() -> None:
    made = schedule(50, 4, (0, 8, 16, 32))
    assert made.course(2)[:4] == (0, 8, 16, 17)
    # Core 1 begins at 8 in round 1; core 0 evaluates 8 in round 8, where core 1 is at 15 and moves to 16, and so on.
    assert made.corrections(1) == ((8, 8, 16), (16, 16, 24), (24, 24, 32), (32, 32, 40), (40, 40, 48))
    assert made.corrections(0) == ()
    for core in range(1, 4):
        for turn, begin, arrival in made.corrections(core):
            assert made.course(core - 1)[turn] == begin
            assert made.course(core)[turn] == arrival - 1


@pytest.mark.parametrize(
    ("steps", "cores", "init", "words"),
    [
        (4, 5, "uniform", r"chords\(cores=5\) must lie between 1 and the 4 steps"),
        (50, 0, "uniform", r"chords\(cores=0\)"),
        (50, 3, "chords", r'published for 1, 4, 6, 8 cores, got cores=3; give init="uniform"'),
        (10, 8, "chords", r"8 steps, one for each core, .* got \(0, 0, 1, 2,"),
        (50, 2, "even", r'must be "chords", "uniform" or'),
        (50, 2, (0, 10, 20), "must be 2 steps, one for each core"),
        (50, 2, (1, 10), "begin with 0"),
        (50, 3, (0, 10, 10), "rise"),
        (50, 2, (0, 50), "below the 50 steps"),
        (50, 2, (), "must be 2 steps"),
    ],
)
def test_what_does_not_fit_is_refused(steps: int, cores: int, init: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        schedule(steps, cores, init)


@pytest.mark.parametrize(
    ("cores", "init"), [(2.0, "uniform"), (True, "uniform"), (2, (0, 1.5)), (2, {0, 1}), (2, None)]
)
def test_other_kinds_are_refused(cores: Any, init: Any) -> None:
    with pytest.raises(TypeError, match="chords"):
        schedule(50, cores, init)
