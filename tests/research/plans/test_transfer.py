"""Conditions come and go without a trace, and the check is summarised as it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from research.plans.study import Study
from research.plans.transfer import check, measure, perturbed


def test_weights_move_by_the_share_and_come_back_exactly() -> None:
    network = nn.Sequential(nn.Linear(32, 48), nn.LayerNorm(48), nn.Linear(48, 8))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(RuntimeError, match="inside"), perturbed(network, 0.03):
        for name, value in network.state_dict().items():
            moved, size = (float(tensor.norm()) for tensor in (value - before[name], before[name]))
            linear = value.ndim == 2
            assert moved == pytest.approx(0.03 * size if linear else 0.0, rel=1e-3)
            if linear:
                assert torch.linalg.matrix_rank(value - before[name], rtol=1e-3) == 4
        raise RuntimeError("inside")
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_check_is_judged_by_the_failures_and_losses_it_finds() -> None:
    images = {
        "departure": [0.5, 0.9, 2.5, 6.0],
        "plan": [50.0, 48.0, 40.0, 20.0],
        "ab2": [45.0, 45.0, 41.0, 30.0],
        "euler": [44.0, 49.0, 30.0, 30.0],
    }
    row: dict[str, Any] = {"others": {"ab2": {}, "euler": {}}, "images": images}
    found = check([row, {**row, "own_reference": {}}], 30.0)
    assert (found["images"], found["losses"], found["failures"]) == (4, 0.75, 0.25)
    assert found["correlation_with_psnr"] == pytest.approx(-1)
    lines = {line["threshold"]: line for line in found["thresholds"]}
    assert lines[2.0]["losses_flagged"] == 1
    assert lines[2.0]["losses_others"] == 0.5
    assert lines[2.0]["losses_found"] == pytest.approx(2 / 3, abs=1e-3)
    assert (lines[5.0]["failures_found"], lines[5.0]["failures_flagged"], lines[5.0]["failures_others"]) == (1, 1, 0)
    assert lines[3.0]["gain_flagged"] == -10
    nothing = check([], 30.0)
    assert nothing["images"] == 0
    assert nothing["failures"] is None


def test_every_condition_has_its_row(study: Study) -> None:
    pipe = study.model.pipe
    scheduler, weights = pipe.scheduler, [value.clone() for value in pipe.transformer.parameters()]
    found = measure(
        study, evaluations=4, guidance=(1.0, 2.0), sides=(32,), shares=(0.01,), counts=(6,), resolved=(3,),
        plain=("ab2",), unseen=1,
    )  # fmt: skip
    assert pipe.scheduler is scheduler
    assert all(torch.equal(a, b) for a, b in zip(weights, pipe.transformer.parameters(), strict=True))
    names = [row["condition"] for row in found["rows"]]
    assert len(names) == 6
    assert names[:2] == ["guidance 1 (outside of what was recorded)", "guidance 2 (recorded)"]
    assert "own_reference" in found["rows"][-1]
    assert [row["evaluations"] for row in found["resolved"]] == [3]
    for row in found["rows"]:
        assert set(row["flagged"]) == {"2", "3"}
        assert len(row["images"]["departure"]) == row["plan"]["images"]


def test_a_recording_of_several_scales_shares_its_pairs_out(study: Study) -> None:
    origin = study.record(4, 0, (1.5, 3.0)).origin
    assert origin.varied == {"true_cfg_scale": (1.5, 3.0, 1.5, 3.0)}
    assert "true_cfg_scale" not in origin.call
    assert not set(origin.prompts) & set(study.settings.prompts)
    assert min(origin.seeds) >= 5000
    with pytest.raises(ValueError, match="pairs=5"):
        study.record(5, 0, (1.5, 3.0))
