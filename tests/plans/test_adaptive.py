"""Beginning again: exact per sample, counted, fitted on pairs that the plans have not seen, and kept in a file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

import skipcast as sc
from skipcast.plans.adaptive import Doubt, Outlook, Watch
from skipcast.plans.plan import Plan, Prediction
from skipcast.plans.profile import Profile
from skipcast.plans.refine import Split
from skipcast.reading import sealed
from support.fuzz import damage
from support.toy import ToyEvaluator, network, noise, profile

PAIRS = 64
SAMPLES = noise(12, seed=7)


@pytest.fixture(scope="module")
def recorded() -> Profile:
    return profile(PAIRS)


@pytest.fixture(scope="module")
def plans(recorded: Profile) -> tuple[Plan, Plan]:
    return solved(recorded, 5), solved(recorded, 8)


def solved(recorded: Profile, evaluations: int) -> Plan:
    return recorded.plan(evaluations=evaluations, refine=ToyEvaluator(PAIRS, batch=PAIRS), effort="low")


def limited(plan: Plan, *limits: float) -> Plan:
    """Doubted where residual n exceeds limit n."""
    expected = np.full((len(plan), 2), 1e9)
    expected[1 : 1 + len(limits), 1] = np.array(limits) / 3
    return replace(plan, expected=expected)


def residuals(plan: Plan, x: Tensor) -> Tensor:
    """Of the forecasts of y_1 .. y_{m-1}, (m - 1, B), by hand."""
    outputs, found = list[Tensor](), []
    for n, row in enumerate(plan.rows):
        outputs.append(network(x, float(plan.evaluation_timesteps[n])))
        if n:
            guess = sum(float(w) * y for w, y in zip(plan.forecasts[n], outputs, strict=False))
            found.append((outputs[n] - guess).norm(dim=1) / outputs[n].norm(dim=1))
        x = x + float(row[0]) * x + sum(float(w) * y for w, y in zip(row[1:], outputs, strict=True))
    return torch.stack(found)


class Network:
    """The toy, which notes the timestep and the number of rows of every call."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, int]] = []

    def __call__(self, x: Tensor, timestep: Tensor, shift: Any = None) -> Tensor:
        self.calls.append((float(timestep), len(x)))
        y = network(x, float(timestep))
        return y if shift is None else y + torch.as_tensor(shift)[:, None]


def test_without_doubt_the_cheap_plan_runs_and_with_doubt_of_all_the_dear_one(plans: tuple[Plan, Plan]) -> None:
    cheap, dear = plans
    for limit, alone, count, times in (
        (1e9, cheap, 5, cheap.evaluation_timesteps),
        (1e-9, dear, 9, [*cheap.evaluation_timesteps[:2], *dear.evaluation_timesteps[1:]]),  # y_0 is shared
    ):
        denoiser = Network()
        found = sc.sample(denoiser, sc.AdaptivePlan([limited(cheap, limit), dear]), SAMPLES)
        assert torch.equal(found.samples, sc.sample(network, alone, SAMPLES))
        assert found.evaluations.tolist() == [count] * 12
        assert denoiser.calls == [(float(t), 12) for t in times]


def test_a_mixed_batch_is_each_sample_alone_and_no_row_is_evaluated_in_vain(plans: tuple[Plan, Plan]) -> None:
    cheap, dear = plans
    limits = residuals(cheap, SAMPLES)[:3].quantile(0.8, dim=1)
    adaptive = sc.AdaptivePlan([limited(cheap, *limits.tolist()), dear])
    denoiser, shift = Network(), np.linspace(0.0, 1e-12, 12)
    found = sc.sample(denoiser, adaptive, SAMPLES, varied={"shift": shift})
    over = residuals(cheap, SAMPLES)[:3] > limits[:, None]
    expected = [next((n + 2 + 7 for n in range(3) if column[n]), 5) for column in over.T.tolist()]
    assert found.evaluations.tolist() == expected
    assert len(set(expected)) >= 3
    assert sum(rows for _, rows in denoiser.calls) == sum(expected)
    for i in range(12):
        alone = sc.sample(Network(), adaptive, SAMPLES[i : i + 1], varied={"shift": shift[i : i + 1]})
        assert alone.evaluations.tolist() == expected[i : i + 1]
        assert torch.equal(alone.samples, found.samples[i : i + 1])


def test_all_evaluations_at_equal_states_are_shared(plans: tuple[Plan, Plan]) -> None:
    """Of plans whose first two rows are equal the first three outputs, and a doubt waits for them."""
    cheap = limited(plans[0], 1e-9)
    first = {name: getattr(plans[1], name).copy() for name in ("evaluation_timesteps", "scale")}
    first["evaluation_timesteps"][:3] = cheap.evaluation_timesteps[:3]
    dear = replace(plans[1], rows=(*cheap.rows[:2], *plans[1].rows[2:]), **first)
    adaptive, denoiser = sc.AdaptivePlan([cheap, dear]), Network()
    assert adaptive.shared == 3
    found = sc.sample(denoiser, adaptive, SAMPLES)
    assert torch.equal(found.samples, sc.sample(network, dear, SAMPLES))
    assert found.evaluations.tolist() == [8] * 12
    assert len(denoiser.calls) == 8


def test_an_output_that_is_not_finite_is_doubted(plans: tuple[Plan, Plan]) -> None:
    class Overflows(Network):
        def __call__(self, x: Tensor, timestep: Tensor, shift: Any = None) -> Tensor:
            y = super().__call__(x, timestep)
            return torch.where(torch.arange(len(x))[:, None] == 3, torch.inf, y) if len(self.calls) == 3 else y

    found = sc.sample(Overflows(), sc.AdaptivePlan([limited(plans[0]), plans[1]]), SAMPLES)
    assert found.evaluations.tolist() == [10 if i == 3 else 5 for i in range(12)]
    assert found.samples.isfinite().all()


def test_the_features_are_residuals_sizes_and_cosines(plans: tuple[Plan, Plan]) -> None:
    cheap = plans[0]
    y = [network(SAMPLES, float(t)) for t in cheap.evaluation_timesteps[:3]]
    watch = Watch(sc.AdaptivePlan(plans), SAMPLES, 3)
    for output in y:
        watch.see(output)
    basis = torch.stack([SAMPLES, *y], 1)
    sizes = basis.square().mean(2).sqrt()
    forecast = [sum(float(w) * one for w, one in zip(cheap.forecasts[n], y, strict=False)) for n in (1, 2)]
    apart = [(y[n] - forecast[n - 1]).norm(dim=1) / y[n].norm(dim=1) for n in (1, 2)]
    cosines = [
        torch.nn.functional.cosine_similarity(basis[:, a], basis[:, b]) for a in range(4) for b in range(a + 1, 4)
    ]
    expected = torch.cat([torch.stack(apart, 1).log10(), sizes.log10(), torch.stack(cosines, 1)], 1)
    torch.testing.assert_close(watch.features(), expected)


# Fitting ------------------------------------------------------------------------------------------------------------


def test_a_fitted_rule_runs_as_it_was_judged(recorded: Profile, plans: tuple[Plan, Plan]) -> None:
    """On pairs that neither the plans nor the rule have seen."""
    evaluator = ToyEvaluator(PAIRS, batch=16)
    adaptive = recorded.adaptive(plans, refine=evaluator, false_alarms=0.3, behind=(1, 2))
    split, outlook = Split.of(PAIRS), adaptive.outlook
    assert evaluator.evaluations == (5 + 8) * len({*split.choose, *split.judge})
    assert outlook is not None
    found = sc.sample(network, adaptive, noise(PAIRS)[split.judge])
    assert recorded.trajectory is not None
    errors = (found.samples - recorded.trajectory[split.judge, -1]).square().mean(1)
    psnr = -10 * errors.log10()
    assert outlook.evaluations == pytest.approx(found.evaluations.mean())
    assert outlook.reached.psnr == pytest.approx(float(psnr.mean()), abs=1e-3)
    assert outlook.reached.worst == pytest.approx(float(psnr.min()), abs=1e-3)
    assert plans[0].predicted is not None
    assert outlook.alone.psnr == pytest.approx(plans[0].predicted.psnr, abs=1e-3)
    doubted = found.evaluations != 5
    assert 0 < doubted.sum() < len(doubted)
    assert doubted.mean() == pytest.approx((outlook.found + 15 * outlook.false_alarms) / 16)
    assert [doubt.evaluation for doubt in adaptive.doubts] == [1, 2]
    assert "fitted" in repr(adaptive)


def test_plans_of_other_pairs_are_judged_by_half_of_these(recorded: Profile, plans: tuple[Plan, Plan]) -> None:
    evaluator, unseen = ToyEvaluator(PAIRS, batch=PAIRS), ("0" * 16,)
    foreign = [replace(plan, origin=replace(plan.origin, pairs=unseen)) for plan in plans]
    adaptive = recorded.adaptive(foreign, refine=evaluator)
    assert adaptive.outlook is not None
    assert adaptive.outlook.reached.pairs == PAIRS // 2
    assert evaluator.evaluations == (5 + 8) * PAIRS


def test_a_mean_and_a_worst_are_held_by_the_fewest_evaluations(recorded: Profile, plans: tuple[Plan, Plan]) -> None:
    evaluator, known = ToyEvaluator(PAIRS, batch=PAIRS), [plan.predicted for plan in plans]
    assert known[0] is not None
    easy = recorded.plan(psnr=known[0].psnr - 0.1, worst=known[0].worst5 - 0.1, refine=evaluator, effort="low")
    assert isinstance(easy, Plan)
    assert len(easy) <= 5
    for more in (2.0, 8.0):
        goal = {"psnr": known[0].psnr - 0.1, "worst": known[0].worst5 + more}
        found = recorded.plan(**goal, refine=evaluator, effort="low")
        reached = found.outlook.reached if isinstance(found, sc.AdaptivePlan) and found.outlook else found.predicted  # type: ignore[union-attr]
        assert reached is not None
        assert reached.psnr >= goal["psnr"]
        assert reached.worst5 >= goal["worst"]
    with pytest.raises(ValueError, match=r"plan\(psnr=30, worst=300\) is out of reach: .* at best"):
        recorded.plan(psnr=30.0, worst=300.0, refine=evaluator, effort="low")
    with pytest.raises(ValueError, match=r"plan\(worst=3\) needs psnr=, refine="):
        recorded.plan(psnr=30.0, worst=3.0, refine=None)


def test_what_cannot_be_fitted_is_refused(recorded: Profile, plans: tuple[Plan, Plan]) -> None:
    evaluator = ToyEvaluator(PAIRS, batch=PAIRS)
    for given, words in (
        ({"behind": (7,)}, r"behind=\(7,\)\) must hold evaluations from 1 to 4"),
        ({"false_alarms": 1.0}, "false_alarms=1.0"),
        ({"refine": None}, r"adaptive\(refine=\.\.\.\)"),
    ):
        with pytest.raises(ValueError, match=words):
            recorded.adaptive(plans, **{"refine": evaluator, **given})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs 32 recorded pairs and their trajectories, got 16"):
        recorded.subset(range(16)).adaptive(plans, refine=evaluator)
    with pytest.raises(ValueError, match="got 64 without; record"):
        replace(recorded, trajectory=None).adaptive(plans, refine=evaluator)


# As data ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(plans: tuple[Plan, Plan]) -> sc.AdaptivePlan:
    seen = Prediction(50.0, 40.0, 30.0, 16, held_out=True, closed=True)
    doubts = [Doubt(n, np.arange((n * n + 7 * n + 6) // 2) / 7, 0.1, 0.2, found=0.5) for n in (1, 3)]
    return sc.AdaptivePlan(plans, 2.5, tuple(doubts), Outlook(seen, seen, 5.5, 0.5, 0.05))


def test_a_file_gives_back_the_same_plan(whole: sc.AdaptivePlan, tmp_path: Path) -> None:
    path = tmp_path / "one.adaptive.json"
    whole.save(path)
    again = sc.AdaptivePlan.load(path)
    assert again.as_dict() == whole.as_dict()
    assert again.outlook == whole.outlook
    assert sc.sample(network, again, SAMPLES).evaluations.tolist() == (
        sc.sample(network, whole, SAMPLES).evaluations.tolist()
    )


def test_hostile_files_are_refused(whole: sc.AdaptivePlan, plans: tuple[Plan, Plan], tmp_path: Path) -> None:
    path, good = tmp_path / "bad.json", whole.as_dict()
    doubt = good["doubts"][0]
    for bad in (
        b"\xff", b"[", b"[]", b"{}", b"[" * 100_000, json.dumps(plans[0].as_dict()).encode(),
        *(
            json.dumps(sealed({**good, **change})).encode()
            for change in (
                {"plans": None}, {"plans": [good["plans"][0]]}, {"plans": [{}, {}]}, {"plans": "ab"}, {"factor": "a"},
                {"factor": float("nan")}, {"doubts": 3}, {"doubts": [{}]}, {"doubts": [{**doubt, "weights": [1.0]}]},
                {"doubts": [{**doubt, "limit": float("inf")}]}, {"doubts": [{**doubt, "evaluation": 1.5}]},
                {"doubts": [doubt, doubt]}, {"doubts": [{**doubt, "weights": {"a": 1}}]}, {"outlook": []},
                {"outlook": {**good["outlook"], "reached": 3}}, {"outlook": {}},
            )
        ),
    ):  # fmt: skip
        path.write_bytes(bad)
        with pytest.raises(ValueError, match="is not an adaptive plan"):
            sc.AdaptivePlan.load(path)
    path.write_text(json.dumps(good))
    with pytest.raises(ValueError, match="carries no digest of its numbers"):
        sc.AdaptivePlan.load(path)
    with pytest.raises(FileNotFoundError):
        sc.AdaptivePlan.load(tmp_path / "none.json")


@hypothesis.given(st.data())
def test_a_damaged_file_is_never_another_plan(whole: sc.AdaptivePlan, tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "one.adaptive.json"
    whole.save(path)
    path.write_bytes(data.draw(damage(path.read_bytes())))
    try:
        assert sc.AdaptivePlan.load(path).as_dict() == whole.as_dict()  # only white space was hit
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017


def test_plans_that_do_not_belong_together_are_refused(plans: tuple[Plan, Plan]) -> None:
    cheap, dear = plans
    late = replace(dear, evaluation_timesteps=dear.evaluation_timesteps - 1)
    other = replace(dear, timesteps=dear.timesteps + 5)
    for given, words in (
        ([cheap], "must be two plans"),
        ([cheap, cheap, dear], "must be two plans"),
        ([cheap, "dear"], "each a Plan"),
        ([dear, cheap], "costs more than"),
        ([cheap, late], "one scheduler, grid, first timestep"),
        ([cheap, other], "one scheduler, grid, first timestep"),
        ([replace(cheap, forecasts=()), dear], "holds no forecasts"),
    ):
        with pytest.raises(ValueError, match=words):
            sc.AdaptivePlan(given)
    with pytest.raises(ValueError, match=r"factor=0"):
        sc.AdaptivePlan(plans, 0.0)
    with pytest.raises(ValueError, match=r"varied=\.\.\.\): 2 values of shift for 12 samples"):
        sc.sample(Network(), sc.AdaptivePlan(plans), SAMPLES, varied={"shift": [1.0, 2.0]})
