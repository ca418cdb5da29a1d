"""The example of overlapping galaxies: its operator always, and the whole of it where galaxygrad is installed."""

from __future__ import annotations

import re
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import skipcast as sc

EXAMPLE = Path(__file__).parents[2] / "examples" / "deblend_galaxies.py"


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLE))


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_light_is_linearised(example: dict[str, Any]) -> None:
    """And one step comes near the field where nothing but the measurement counts."""
    clean, change = drawn(2, 2, 64, 64), 0.01 * drawn(2, 2, 64, 64, seed=1)
    operator = example["Linearised"](0.1 * (0.1 * clean).exp())
    added, light = example["added"], example["light"]
    assert torch.allclose(operator.A(change), added(light(clean + change) - light(clean)), atol=1e-4)
    field = drawn(2, 1, 74, 74, seed=2)
    assert torch.isclose((operator.A(change) * field).sum(), (operator.A_adjoint(field) * change).sum(), rtol=1e-3)
    far = added(light(clean + 200 * change))
    call = sc.guidance.Call(0, clean, clean, 0.001, 1.0, 0.1, 0.99)
    found = example["Deblend"](far).denoised(call)
    assert (added(light(found)) - far).norm() < 0.3 * (added(light(clean)) - far).norm()


# Not importorskip: the package would import JAX, of which its networks here have no need.
@pytest.mark.skipif(find_spec("galaxygrad") is None, reason="galaxygrad is not installed")
def test_a_plan_deblends_as_all_evaluations_do(
    example: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["deblend_galaxies.py", "--blends", "1"])
    example["main"]()
    shown = capsys.readouterr().out
    rows = dict(re.findall(r"^([a-z ]+): (?:\d+ evaluations, )?(-?[\d.]+) dB", shown, re.MULTILINE))
    db = {name: float(value) for name, value in rows.items()}
    assert "plan: 12 evaluations" in shown
    assert db["all evaluated"] > db["half of the field each"] + 3
    assert db["plan"] > db["all evaluated"] - 1
