"""Rules on a probe, step by step by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from skipcast import Method, Output, Run, TimeGrid
from skipcast.controllers import TEACACHE_FLUX, AccumulatedChange, Controller, EasyRatio, FirstBlockChange
from skipcast.forecasters import Reuse
from skipcast.targets import GlobalDrift


def evaluated(controller: Controller, probes: Sequence[float], outputs: Sequence[float] | None = None) -> list[int]:
    """The evaluated steps of a run that is shown `probes`, one number a step."""
    target = Output() if controller.probe == "input" else GlobalDrift()
    run = Run(Method(Reuse(), controller, target=target), TimeGrid.shifted(len(probes)))
    for probe, y in zip(probes, outputs or probes, strict=True):
        shown = torch.tensor([probe])
        if run.wants_evaluation(shown):
            run.observe(shown, torch.tensor([y]))
        else:
            run.forecast(shown)
        shown.fill_(99.0)  # what showed it overwrites it
    return [record.step for record in run.trace if record.evaluated]


DOUBLING = [2.0**step for step in range(8)]
TENTHS = [100 * 1.1**step for step in range(6)]
BROKEN = [0.0, 1.0, 1.0, math.nan, 1.0, 1.0]
NEAR = [1.0, 1.5, 1.0, 1.9, 2.0, 3.9, 2.1, 4.0]
# Every doubling is a change of 1.
CHANGES = {
    "add up: 1 + 1 + 1 at step 3, from 0 again at step 6": (AccumulatedChange(3.0, last=False), DOUBLING, [0, 3, 6]),
    "the last step is forced": (AccumulatedChange(3.0), DOUBLING, [0, 3, 6, 7]),
    "any change": (AccumulatedChange(0.0), DOUBLING, [*range(8)]),
    # 1, 2, 1, 2 changes by 1, 1/2, 1: 2.5 at step 3, though step 2 stands where step 0 stood.
    "against the step before": (AccumulatedChange(2.5, last=False), [1.0, 2.0, 1.0, 2.0, 2.0, 2.0], [0, 3]),
    "gone after a forced evaluation": (AccumulatedChange(3.0, first=3, last=False), DOUBLING, [0, 1, 2, 5]),
    # The highest power goes first: 2 x^2 + 1 of a change of 1 is 3; FLUX's polynomial of 0.1 is 0.20685.
    "polynomial": (AccumulatedChange(6.0, polynomial=(2.0, 0.0, 1.0), last=False), DOUBLING[:6], [0, 2, 4]),
    "FLUX below": (AccumulatedChange(0.413, polynomial=TEACACHE_FLUX, last=False), TENTHS, [0, 2, 4]),
    "FLUX above": (AccumulatedChange(0.415, polynomial=TEACACHE_FLUX, last=False), TENTHS, [0, 3]),
    # 30 % of 8 steps are those before 2.4.
    "gone after a share": (AccumulatedChange(3.0, last=False, share=0.3), DOUBLING, [0, 1, 2, 5]),
    # A probe of 0, or none that is a number, tells nothing about the change.
    "nothing to add": (AccumulatedChange(5.0, last=False), BROKEN, [0, 1, 3, 4]),
    "nothing to compare with": (FirstBlockChange(5.0), BROKEN, [0, 1, 3, 4]),
    # From 1 to below 2 is a change below 1, from 2 to below 4 again; nothing adds up.
    "against the newest evaluation": (FirstBlockChange(1.0), NEAR, [0, 4, 7]),
    "no change is small enough": (FirstBlockChange(0.0), NEAR, [*range(8)]),
    "no change": (FirstBlockChange(0.5), [1.0] * 9, [0]),
    "most forecasts in a row": (FirstBlockChange(0.5, max_forecasts=2), [1.0] * 9, [0, 3, 6]),
    "warm-up": (FirstBlockChange(0.5, max_forecasts=2, warmup=3), [1.0] * 9, [0, 1, 2, 5, 8]),
}


@pytest.mark.parametrize("case", CHANGES)
def test_changes_of_the_probe(case: str) -> None:
    controller, probes, expected = CHANGES[case]
    assert evaluated(controller, probes) == expected


def test_the_ratio_of_output_and_input() -> None:
    """Ratio 4 / 1 at size 14: 4/14 + 2/14 > 0.4 at step 3. Then 6 / 1.5 at size 20: 0.2 + 0.2 at step 5."""
    inputs = [1.0, 2.0, 3.0, 3.5, 4.5, 5.5, 5.5, 5.5]
    outputs = [10.0, 14.0, 99.0, 20.0, 99.0, 24.0, 99.0, 99.0]
    assert evaluated(EasyRatio(0.4, first=2, last=False), inputs, outputs) == [0, 1, 3, 5]
    assert evaluated(EasyRatio(0.4, first=2), inputs, outputs) == [0, 1, 3, 5, 7]
    assert evaluated(EasyRatio(0.4, first=3, last=False), inputs[:3] + [3.0] * 5) == [0, 1, 2]
    # There is no ratio without two different inputs.
    assert evaluated(EasyRatio(9.0, first=2), [1.0, 1.0, 1.0, 2.0, 2.5], [1.0, 2.0, 3.0, 4.0, 5.0]) == [0, 1, 2, 3, 4]


def test_all_branches_follow_the_first_one_under_the_ratio_alone() -> None:
    """How they follow is in ../test_run.py."""
    assert [c.shared for c in (EasyRatio(0.4), AccumulatedChange(1.0), FirstBlockChange(1.0))] == [True, False, False]


@pytest.mark.parametrize("controller", [AccumulatedChange(1.0), FirstBlockChange(1.0)], ids=str)
def test_a_probe_that_nobody_shows(controller: Controller) -> None:
    run = Run(Method(Reuse(), controller, target=GlobalDrift()), TimeGrid.shifted(5))
    run.advance(torch.ones(1), lambda: torch.ones(1))
    with pytest.raises(RuntimeError, match=r"looks at the probe '(modulated|block)', but this run was shown none"):
        run.advance(torch.ones(1), lambda: torch.ones(1))


def test_low_precision_does_not_hide_a_change() -> None:
    """256 to 257 is below what bfloat16 resolves there, the mean over a batch of it is not."""
    run = Run(Method(Reuse(), AccumulatedChange(0.001, "input", last=False)), TimeGrid.shifted(5))
    one = torch.full((2, 3), 256.0, dtype=torch.bfloat16)
    other = one.clone()
    other[1] = 258.0
    run.advance(one, lambda: one)
    assert run.wants_evaluation(other)
