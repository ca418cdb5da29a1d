"""A threshold is found that makes the evaluations asked for, or it is said that there is none."""

from __future__ import annotations

from typing import Any

import pytest

from skipcast.bench import calibrate as module
from skipcast.bench.calibrate import RUNS, Unreached, calibrate, count
from skipcast.bench.draw import Pair
from skipcast.methods import names
from support.driven import ENTRY
from support.tiny import flux_pipeline

PAIRS: dict[str, Any] = {
    "steps": 12,
    "call": {"true_cfg_scale": 2.0, "negative_prompt": ""},
    "pairs": [Pair("a small red ring on a black background", seed) for seed in (1, 2)],
}


@pytest.fixture(scope="module")
def pipe() -> Any:
    return flux_pipeline()


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(names.REGISTRY, "patience", ENTRY)


@pytest.mark.parametrize("asked", [3, 6, 12])
def test_it_reaches_the_evaluations_asked_for(pipe: Any, asked: int) -> None:
    found = calibrate(pipe, "patience", {}, asked, **PAIRS)
    assert abs(count(pipe, names.method(names.joined("patience", found)), **PAIRS) - asked) <= 1
    assert list(found) == ["threshold"]
    assert calibrate(pipe, "patience", {}, asked, **PAIRS) == found


def test_other_options_stay_and_few_runs_are_made(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Any] = []

    def fake(pipe: Any, method: Any, pairs: object, **given: Any) -> float:
        runs.append(method)
        return 4.5 if method.controller.threshold > 0.0123 else 9  # never 5

    monkeypatch.setattr(module, "count", fake)
    found = calibrate(pipe, "patience", {"warmup": "3"}, 5, **PAIRS)
    assert len(runs) == RUNS
    assert found["warmup"] == "3"


def test_of_two_equally_close_the_one_with_fewer_evaluations(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(pipe: Any, method: Any, pairs: object, **given: Any) -> float:
        return 7 if method.controller.threshold > 2 else 9

    monkeypatch.setattr(module, "count", fake)
    assert float(calibrate(pipe, "patience", {}, 8, **PAIRS)["threshold"]) > 2


def test_what_cannot_be_reached_is_said_with_the_closest(pipe: Any) -> None:
    with pytest.raises(Unreached, match=r"warmup=6.* makes 6") as caught:
        calibrate(pipe, "patience", {"warmup": "6"}, 3, **PAIRS)
    assert caught.value.evaluations == 6
    assert caught.value.closest.startswith("patience:warmup=6,threshold=")
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("spec, words", [("ab2", "nothing to calibrate"), ("patience:threshold=1", "already")])
def test_refusals(pipe: Any, spec: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        calibrate(pipe, *names.split(spec), 4, **PAIRS)
