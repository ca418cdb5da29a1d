"""Growing gaps: Spectrum's table, its rule step by step, and the paper's other formula."""

from __future__ import annotations

import pytest

from research.fidelity.decisions import growing
from skipcast.controllers import Growing

# (steps, growth) -> steps after the warm-up of 0 to 4, count: the released rule of arXiv:2603.01623.
PUBLISHED = {
    (50, 0.0): ((*range(6, 49, 2),), 27),
    (50, 0.25): ((6, 8, 10, 12, 15, 18, 21, 24, 28, 32, 36, 40, 45), 18),
    (50, 0.5): ((6, 8, 11, 14, 18, 22, 27, 32, 38, 44), 15),
    (50, 0.75): ((6, 8, 11, 15, 20, 25, 31, 38, 46), 14),
    (50, 1.0): ((6, 9, 13, 18, 24, 31, 39, 48), 13),
    (50, 1.5): ((6, 9, 14, 20, 28, 37, 48), 12),
    (50, 2.0): ((6, 10, 16, 24, 34, 46), 11),
    (50, 3.0): ((6, 11, 19, 30, 44), 10),
    (40, 0.75): ((6, 8, 11, 15, 20, 25, 31, 38), 13),
    (40, 3.0): ((6, 11, 19, 30), 9),
    (30, 0.75): ((6, 8, 11, 15, 20, 25), 11),
    (30, 3.0): ((6, 11, 19), 8),
    (28, 0.75): ((6, 8, 11, 15, 20, 25), 11),
    (28, 3.0): ((6, 11, 19), 8),
    (20, 0.75): ((6, 8, 11, 15), 9),
    (20, 3.0): ((6, 11, 19), 8),
}


@pytest.mark.parametrize("steps, growth", PUBLISHED)
def test_as_published(steps: int, growth: float) -> None:
    later, count = PUBLISHED[steps, growth]
    found = Growing(growth=growth).evaluated(steps)
    assert (found, len(found)) == ((0, 1, 2, 3, 4, *later), count)
    assert Growing() == Growing(5, 2, 0.75)


@pytest.mark.parametrize("growth", [0.0, 0.1, 0.333, 0.75, 1.0, 3.0, 60.0])
@pytest.mark.parametrize("warmup, window", [(1, 1), (3, 2), (5, 2), (4, 5)])
def test_it_is_the_growing(warmup: int, window: int, growth: float) -> None:
    """Tenths add up to whole windows only because the window is rounded each time."""
    for steps in (5, 20, 50, 51):
        assert Growing(warmup, window, growth).evaluated(steps) == growing(steps, warmup, window, growth)


@pytest.mark.parametrize("evaluations", range(6, 28, 3))
def test_every_count_is_met(evaluations: int) -> None:
    steps = Growing(evaluations=evaluations).evaluated(50)
    assert len(steps) == evaluations
    gaps = [b - a for a, b in zip(steps[4:], steps[5:], strict=False)]
    assert gaps == sorted(gaps)


@pytest.mark.parametrize(
    "controller, expected",
    [
        # The paper's formula makes 11 and 6 evaluations, where the authors report 14 and 10.
        (Growing(growth=0.75, reading="paper"), (0, 2, 4, 7, 11, 15, 21, 27, 33, 41, 49)),
        (Growing(growth=3.0, reading="paper"), (0, 3, 9, 18, 30, 45)),
        (Growing(evaluations=11, reading="paper"), (0, 2, 4, 7, 11, 15, 21, 27, 33, 41, 49)),
        # A published growth goes first, and then the shortest longest gap: of those with 11 of 50 the smallest, 1.67,
        # leaves 11 steps at the end; the largest, 2.39, has 13 before it.
        (Growing(evaluations=14), Growing(growth=0.75).evaluated(50)),
        (Growing(evaluations=10), Growing(growth=3.0).evaluated(50)),
        (Growing(evaluations=11), (0, 1, 2, 3, 4, 6, 9, 14, 21, 30, 40)),
        # Counts out of reach come closest: with a first gap of 2 there are at most 27.
        (Growing(evaluations=40), Growing(growth=0.0).evaluated(50)),
    ],
    ids=str,
)
def test_steps_by_hand(controller: Growing, expected: tuple[int, ...]) -> None:
    assert controller.evaluated(50) == expected


def test_counts_at_the_ends() -> None:
    """At least 6, as step 6 is always evaluated."""
    assert len(Growing(evaluations=5).evaluated(50)) == 6
    assert len(Growing(evaluations=8, reading="paper").evaluated(50)) == 8
    assert Growing(growth=1.67).evaluated(50)[-2:] == (29, 39)
    assert Growing(growth=2.39).evaluated(50)[-2:] == (36, 49)
