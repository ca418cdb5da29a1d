"""Richer rows: splits that add up, gates from an image's own outputs, and plain rows as the planner makes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from research.plans import richer
from research.plans.meter import network_of
from research.plans.richer import Kind, Seen, close, errors_of, tapped
from research.plans.study import Study
from skipcast.pipelines.recording.replay import PipelineEvaluator
from skipcast.plans.closed_loop import close as plainly

STEPS = (0, 3, 7)


@pytest.fixture(scope="module")
def given(study: Study) -> tuple[Any, ...]:
    """The arguments of `close` for four recorded pairs, of which three are for the fit."""
    recorded = study.record(4, draw=0)
    assert recorded.trajectory is not None
    evaluator = PipelineEvaluator(study.model.pipe, recorded.origin, 4)
    places = list(STEPS)
    return STEPS, recorded.timesteps[places], recorded.scale[places], evaluator, recorded.trajectory, [0, 1, 2]


@pytest.mark.parametrize("split", [richer.whole, richer.bands, richer.frequencies, richer.channels(4)])
def test_the_parts_of_a_column_add_up_to_it_and_are_orthogonal(split: richer.Split) -> None:
    column = torch.randn(2, 16, 8, dtype=torch.float64)
    parts = split(column)
    assert torch.allclose(sum(parts, torch.zeros(())), column)
    for i, part in enumerate(parts):
        for other in parts[:i]:
            assert abs(float((part * other).sum())) < 1e-10


def test_gates_read_the_newest_outputs() -> None:
    x = torch.zeros(1, 2, 1)
    outputs = [torch.tensor([[[0.0], [0.0]]]), torch.tensor([[[1.0], [0.0]]]), torch.tensor([[[1.0], [2.0]]])]
    seen = Seen(x, x, outputs)
    assert richer.cosine(seen).item() == pytest.approx(0)
    assert richer.turning(seen).item() == pytest.approx(0)
    assert richer.change(seen).item() == pytest.approx(np.log(2))
    early = Seen(x, x, outputs[:1])
    assert [float(gate(early)) for gate in (richer.cosine, richer.turning, richer.change)][::2] == [0, 0]


def test_plain_rows_are_the_planners(given: tuple[Any, ...]) -> None:
    table, errors = plainly(*given, others=range(len(given[4])))
    rows, found = close(Kind("plain"), *given)
    for row, wanted in zip(rows, table.rows, strict=True):  # samples are summed in float32
        assert np.allclose(row.weights, wanted, rtol=1e-5, atol=1e-7)
    assert np.allclose(found, errors, rtol=1e-5)
    _, timesteps, scale, evaluator, trajectory, _ = given
    again = errors_of(Kind("plain"), rows, timesteps, scale, evaluator, trajectory[:, -1])
    assert np.allclose(again, found, rtol=1e-4)


def test_a_gate_that_never_moves_leaves_plain_rows(given: tuple[Any, ...]) -> None:
    still = Kind("still", gate=lambda seen: torch.ones(len(seen.x)))
    assert np.array_equal(close(still, *given)[1], close(Kind("plain"), *given)[1])
    moving = close(Kind("moving", gate=richer.change), *given)[0]
    assert [len(row.weights) for row in moving] == [2, 6, 8]


def test_branches_are_what_guidance_is_made_of(study: Study, given: tuple[Any, ...]) -> None:
    pipe = study.model.pipe
    seen: list[Seen] = []

    class Spy(Kind):
        def columns(self, now: Seen, centre: float, size: float) -> list[torch.Tensor]:
            seen.append(Seen(now.first, now.x, list(now.outputs), list(now.branches)))
            return super().columns(now, centre, size)

    with tapped(pipe) as tap:
        rows, _ = close(Spy("per branch", branches=True), *given, tap=tap)
    assert not network_of(pipe)._forward_hooks
    assert [len(row.weights) for row in rows] == [3, 5, 7]
    guidance = study.settings.call["true_cfg_scale"]
    for output, (asked_for, negative) in zip(seen[-1].outputs, seen[-1].branches, strict=True):
        assert torch.allclose(output, negative + guidance * (asked_for - negative), atol=1e-5)


def test_what_rows_cannot_be_made_of_is_refused(study: Study, given: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="listen to the network"):
        close(Kind("per branch", branches=True), *given)
    steps, timesteps, scale, evaluator, *others = given
    smaller = PipelineEvaluator(study.model.pipe, evaluator.origin, 2)
    with pytest.raises(ValueError, match="batch=4"):  # all pairs must fit into one call
        close(Kind("plain"), steps, timesteps, scale, smaller, *others)
    with pytest.raises(ValueError, match="square of tokens"):
        richer.frequencies(torch.zeros(1, 15, 2))
