"""Searched sets: as published at 50 steps, and their shape elsewhere."""

from __future__ import annotations

import pytest

from research.fidelity.decisions import DPCACHE
from research.fidelity.decisions import SEARCHED as PUBLISHED
from skipcast.controllers import MEANCACHE_SPANS, SEARCHED, Searched, published_set
from skipcast.forecasters import MeanVelocity


@pytest.mark.parametrize("name", PUBLISHED)
def test_as_published(name: str) -> None:
    assert Searched(name).evaluated(50) == PUBLISHED[name]
    assert Searched(name, 9).evaluated(50) == PUBLISHED[name]


@pytest.mark.parametrize("name", SEARCHED)
def test_every_set_is_itself_at_its_own_steps_and_count(name: str) -> None:
    steps = Searched(name).evaluated(50)
    assert steps == SEARCHED[name]
    assert list(steps) == sorted(set(steps))
    assert steps[0] == 0
    assert (steps[-1] == 49) == (not name.startswith("dpcache-flux"))


@pytest.mark.parametrize("name", DPCACHE)
def test_the_sets_of_dpcache(name: str) -> None:
    assert Searched(name).evaluated(50) == DPCACHE[name]


def test_a_published_set_of_the_wanted_count_goes_first() -> None:
    assert published_set("dpcache-flux-13", 10) == "dpcache-flux-10"
    assert published_set("meancache-qwen-10", 25) == "meancache-qwen-25"
    for name, evaluations in (("dpcache-flux-13", 7), ("dpcache-flux-13", None), ("golden", 10), ("dpcache-golden", 9)):
        assert published_set(name, evaluations) == name


@pytest.mark.parametrize("name", [name for name in SEARCHED if name.rpartition("-")[2].isdigit()])
def test_official_sets_have_the_count_in_their_name(name: str) -> None:
    assert len(SEARCHED[name]) == int(name.split("-")[-1])


def test_official_sets_by_hand() -> None:
    assert SEARCHED["meancache-qwen-10"] == (0, 1, 3, 7, 14, 21, 28, 35, 42, 49)
    assert SEARCHED["meancache-zimage-13"] == (0, 1, 2, 3, 5, 9, 15, 22, 29, 36, 43, 47, 49)


def test_spans_are_what_mean_velocity_takes() -> None:
    """Span 2 on the gap from 1 to 3, 4 on the one from 42 to 49, else reuse; equal neighbours are one pair."""
    assert MEANCACHE_SPANS["meancache-qwen-10"] == ((0, 1), (1, 2), (3, 1), (42, 4), (49, 1))
    assert MEANCACHE_SPANS["meancache-qwen-25"] == ((0, 1), (40, 5), (47, 1))
    for name, pairs in MEANCACHE_SPANS.items():
        assert MeanVelocity(pairs).window == max(m for _, m in pairs)
        assert {step for step, _ in pairs} <= set(SEARCHED[name])


@pytest.mark.parametrize("name", SEARCHED)
@pytest.mark.parametrize("steps", [20, 28, 50, 100])
def test_any_count_fits_any_run(name: str, steps: int) -> None:
    for evaluations in (2, 3, 8, 10, 19, steps):
        if evaluations <= steps:
            found = Searched(name, evaluations).evaluated(steps)
            assert len(found) == evaluations
            assert found[0] == 0
            assert (found[-1] == steps - 1) or name.startswith("dpcache-flux")
            assert list(found) == sorted(set(found))


def test_the_curve_by_hand() -> None:
    """Halfway along the index of 0, 1, 2, 4, 6, 13, 24, 41, 49 lies 6; 17 places halve every gap."""
    assert Searched("golden", 3).evaluated(50) == (0, 6, 49)
    assert Searched("golden", 5).evaluated(50) == (0, 2, 6, 24, 49)
    assert Searched("golden", 17).evaluated(99) == (0, 1, 2, 3, 4, 6, 8, 10, 12, 19, 26, 37, 48, 65, 82, 90, 98)


def test_a_short_run_keeps_its_steps_apart() -> None:
    """Scaled by 19 / 49 the early steps fall on 0, 0, 1, 2, 2 and move up; 5, 9, 16 and 19 stay."""
    assert Searched("golden").evaluated(20) == (0, 1, 2, 3, 4, 5, 9, 16, 19)
    assert Searched("golden").evaluated(9) == tuple(range(9))


def test_the_last_steps_stay_within_the_run() -> None:
    """The late steps of this set lie so close that 20 steps have no room for them where they fall."""
    steps = Searched("meancache-zimage-25", 15).evaluated(16)
    assert steps[-1] == 15
    assert len(set(steps)) == 15


@pytest.mark.parametrize(
    "name, evaluations, message",
    [
        ("silver", None, r"Searched\(name=\.\.\.\) must be one of golden, budcache, .*; got 'silver'"),
        ("golden", 1, r"Searched\(evaluations=\.\.\.\) must be at least 2, got 1; both ends of the set are"),
    ],
)
def test_it_refuses_at_once(name: str, evaluations: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Searched(name, evaluations)


def test_a_run_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match=r"evaluations=9 is more than num_inference_steps=8; ask for at most 8"):
        Searched("golden").check(8)
    assert Searched("golden").planned == 9
    assert Searched("golden", 7).planned == 7
