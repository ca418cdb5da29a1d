"""What forecasters promise whose weights follow from the values: one row of `ALL_WEIGHING` each."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from skipcast import Method, Run
from skipcast.coordinates import StepIndex
from skipcast.forecasters import DMD, Forecaster, FSampler
from support.cases import ALL_COORDINATES, GRID, SCHEDULE, drive, named


@dataclass(frozen=True)
class Weighing:
    """A forecaster whose weights follow from the values, with its degree of exactness; -1 where constants are lost."""

    forecaster: Forecaster
    degree: int

    def __str__(self) -> str:
        return repr(self.forecaster)

    def method(self) -> Method:
        """With `SCHEDULE`, in the first coordinate that its formula is meant for."""
        kinds = self.forecaster.coordinates or (StepIndex,)
        return Method(self.forecaster, SCHEDULE, next(c for c in ALL_COORDINATES if isinstance(c, kinds)))


ALL_WEIGHING = [
    Weighing(DMD(), 0),
    Weighing(DMD(6, 3, 0.7, 0.0), 0),
    *(Weighing(FSampler(order, 0.9), -1) for order in (2, 3, 4)),
]

by_values = pytest.mark.parametrize("rule", **named(ALL_WEIGHING))


@by_values
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
def test_a_rule_by_values_keeps_dtype_and_shape(rule: Weighing, dtype: torch.dtype) -> None:
    found = drive(rule.method(), GRID, torch.randn(50, 2, 3, 4, 4).to(dtype))
    assert (found.dtype, found.shape) == (dtype, (50, 2, 3, 4, 4))


@by_values
def test_a_rule_by_values_never_mixes_items(rule: Weighing) -> None:
    values = torch.randn(50, 3, 2, 5, dtype=torch.float64)
    together = drive(rule.method(), GRID, values)
    for item in range(3):
        alone = drive(rule.method(), GRID, values[:, item : item + 1])
        assert torch.allclose(together[:, item : item + 1], alone, rtol=1e-9, atol=1e-9)


@by_values
def test_a_shadow_of_a_rule_by_values_changes_nothing(rule: Weighing) -> None:
    values = torch.randn(50, 4, dtype=torch.float64)
    run = Run(rule.method(), GRID, forecast_error=False)
    found = torch.stack([run.advance(value, lambda value=value: value) for value in values])
    assert torch.equal(found, drive(rule.method(), GRID, values))


@by_values
def test_the_degree_of_a_rule_by_values_is_as_declared(rule: Weighing) -> None:
    """On constants and lines, one per element, from the second evaluation on."""
    method = rule.method()
    scales = torch.randn(1, 2, 8, dtype=torch.float64)
    tau = torch.from_numpy(method.coordinate(GRID))[:, None, None]
    exact = []
    for values in (scales + 0 * tau, scales + (tau / 10) * scales.flip(-1)):
        error = (drive(method, GRID, values) - values).abs()[2:].max() / values.abs().max()
        exact.append(bool(error < 1e-6))
    assert exact == [rule.degree >= 0, rule.degree >= 1]
