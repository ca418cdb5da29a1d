"""Plans as data: what fits together, and files that keep every bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import skipcast as sc
from skipcast.engines.tiers import Tiers
from skipcast.plans.plan import _OF_A_KNOT, MOST_BYTES, Origin, Plan, Prediction, pair_hash
from skipcast.reading import sealed
from support.fuzz import JSON, damage, places, replaced

ORIGIN = Origin(
    pipeline="FluxPipeline",
    scheduler="FlowMatchEulerDiscreteScheduler",
    config={"shift": 3.0, "use_dynamic_shifting": False},
    steps=6,
    revision="abc",
    call={"guidance_scale": 3.5},
    prompts=["a red star"],  # type: ignore[arg-type]
    seeds=(4,),
    shape=(16, 4),
    versions={"diffusers": "0.36"},
)


def a_plan(**changes: Any) -> Plan:
    """Weights without a short decimal form."""
    whole: dict[str, Any] = {
        "steps": (0, 2, 5),
        "rows": (np.array([0.0, -1 / 3]), np.array([1 / 7, 0.1, -0.7]), np.array([-1e-17, np.pi, 0.0, 1 / 9])),
        "timesteps": np.linspace(1000, 1000 / 6, 6),
        "evaluation_timesteps": np.array([1000.0, 666.6666, 1000 / 6]),
        "scale": np.ones(3),
        "origin": ORIGIN,
        "forecasts": (np.array([]), np.array([1.1]), np.array([-0.3, 1.2])),
        "expected": np.array([[1.0, 1.0], [0.1, 0.2], [1 / 30, 0.05]]),
        "predicted": Prediction(41.3, 36.1, 1 / 3 + 35, 8, held_out=True, closed=True),
    }
    return Plan(**{**whole, **changes})


def of_passes(**changes: Any) -> Plan:
    """Two evaluations as four passes, both branches at step 2."""
    rows = (np.array([0.0, -0.2]), np.zeros(3), np.array([0.1, -0.3, -0.2, 0.1]), np.array([0.0, 0.1, 0.0, 0.2, -0.4]))
    whole: dict[str, Any] = {
        "steps": (0, 2, 2, 5),
        "rows": rows,
        "evaluation_timesteps": np.array([1000.0, 660.0, 660.0, 170.0]),
        "scale": np.ones(4),
        "forecasts": (),
        "expected": None,
        "branches": "first call",
    }
    return a_plan(**{**whole, **changes})


def test_two_passes_are_one_evaluation(tmp_path: Path) -> None:
    plan = of_passes()
    assert (len(plan), plan.evaluations, plan.speedup) == (4, 2, 3.0)
    assert plan.passes == ("lead", "lead", "other", "lead")
    assert "2 of 6" in repr(plan)
    assert "4 passes" in repr(plan)
    plan.save(tmp_path / "made.plan.json")
    assert_equal(Plan.load(tmp_path / "made.plan.json"), plan)
    assert Plan.load(tmp_path / "made.plan.json").branches == "first call"
    assert "branches" not in a_plan().as_dict()
    assert a_plan().passes == ("whole",) * 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"branches": "third call"}, "branches='third call'.*first call, first half, second half"),
        ({"branches": ""}, "must begin with 0 and rise"),
        ({"steps": (0, 2, 2, 2)}, "at most two of one step"),
        ({"steps": (0, 3, 2, 5)}, "must begin with 0, rise"),
        ({"rows": (*of_passes().rows[:1], np.ones(3), *of_passes().rows[2:])}, "row is zero"),
        ({"evaluation_timesteps": np.array([1000.0, 660.0, 650.0, 170.0])}, "timestep stays"),
        ({"steps": (0, 2, 2)}, "even number"),
    ],
)
def test_passes_that_do_not_fit_together_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        of_passes(**changes)


def test_what_runs_whole_evaluations_alone_says_so() -> None:
    plan = of_passes()
    assert a_plan().whole("it").steps == (0, 2, 5)
    for run in (
        lambda: sc.PlanScheduler(plan),
        lambda: sc.AdaptivePlan([plan, plan]),
        lambda: Tiers((plan,)),
        lambda: sc.sample(lambda x, t: x, plan, np.zeros((1, 2))),
    ):
        with pytest.raises(ValueError, match=r"passes of one guidance branch.*sc\.accelerate"):
            run()


def assert_equal(a: Plan, b: Plan) -> None:
    assert a.as_dict() == b.as_dict()
    for ours, theirs in zip(
        (*a.rows, *a.forecasts, a.evaluation_timesteps), (*b.rows, *b.forecasts, b.evaluation_timesteps), strict=True
    ):
        assert ours.dtype == theirs.dtype == np.float64
        assert ours.tobytes() == theirs.tobytes()
    assert (a.origin, a.predicted, a.steps, a.label) == (b.origin, b.predicted, b.steps, b.label)


def compiled() -> Plan:
    method = sc.method("lagrange:order=2")
    assert isinstance(method, sc.Method)
    return sc.compile_plan(method, sc.TimeGrid.shifted(30, 3.0))


BARE = {"forecasts": (), "expected": None, "predicted": None, "label": "Method(Reuse())"}


@pytest.mark.parametrize("plan", [a_plan(), a_plan(**BARE), compiled()], ids=str)
def test_a_file_keeps_every_bit(tmp_path: Path, plan: Plan) -> None:
    path = tmp_path / "deep" / "plan.json"
    plan.save(path)
    assert_equal(Plan.load(path), plan)
    assert [file.name for file in path.parent.iterdir()] == ["plan.json"]
    again = tmp_path / "again.json"
    Plan.load(path).save(again)
    assert again.read_bytes() == path.read_bytes()


def test_a_dict_is_plain_json_and_not_consumed() -> None:
    values = a_plan().as_dict()
    before = json.dumps(values)
    assert_equal(Plan.from_dict(values), a_plan())
    assert json.dumps(values) == before
    with pytest.raises(ValueError, match=r"not a plan: .*colour"):
        Plan.from_dict({**values, "colour": "red"})


def test_it_says_what_it_is_and_its_numbers_cannot_be_changed() -> None:
    plan = a_plan()
    assert repr(plan) == "Plan(3 of 6, default, refined, 41.3 dB)"
    assert (len(plan), plan.evaluations, plan.speedup) == (3, 3, 2.0)
    for numbers in (plan.rows[1], plan.forecasts[2], plan.evaluation_timesteps, plan.timesteps, plan.expected):
        assert numbers is not None
        with pytest.raises(ValueError, match="read-only"):
            numbers[0] = 1.0


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"steps": (1, 2, 5)}, "must begin with 0 and rise"),
        ({"steps": (0, 2, 2)}, "must begin with 0 and rise"),
        ({"steps": ()}, "must begin with 0 and rise"),
        ({"steps": (0, 2, 6)}, "must stay below the 6 timesteps"),
        ({"timesteps": np.ones(5), "steps": (0, 2, 4)}, "has 5 entries, its origin 6 steps"),
        ({"rows": (np.zeros(2),) * 3}, "the n-th of n [+] 2 weights"),
        ({"rows": (np.zeros(2), np.zeros(3))}, "needs 3 rows"),
        ({"forecasts": (np.zeros(0), np.zeros(1))}, r"forecasts=\.\.\.\) needs 3 rows"),
        ({"expected": np.zeros((3, 1))}, r"must be \(3, 2\)"),
        ({"expected": np.full((3, 2), np.nan)}, "not finite"),
        ({"evaluation_timesteps": np.zeros(2)}, r"evaluation_timesteps=\.\.\.\) must have 3 entries"),
        ({"scale": np.zeros((3, 1))}, r"scale=\.\.\.\) must have 3 entries"),
        ({"evaluation_timesteps": np.array([1.0, np.nan, 0.0])}, "not finite"),
        ({"rows": (np.zeros(2), np.zeros(3), np.full(4, np.inf))}, "not finite"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        a_plan(**changes)


@pytest.mark.parametrize(
    "text, says",
    [
        ("no json", "is not a plan"),
        ("[1, 2]", "a JSON object is needed"),
        ("{}", "format is None, 'skipcast-plan-1' is needed"),
        ('{"format": "skipcast-plan-1"}', "carries no digest of its numbers .sha256., .*make one with `skipcast plan"),
        (json.dumps(a_plan().as_dict()), "carries no digest of its numbers"),
        (json.dumps({**sealed(a_plan().as_dict()), "label": "x"}), "is not what was saved .*fetch it again"),
        (json.dumps(sealed({"format": "skipcast-plan-1"})), "is not a plan: the key 'origin' is missing"),
        (json.dumps(sealed(a_plan().as_dict())).replace("1000.0", "1e400"), "line 1: '1e400' is no number that fits"),
        ('{\n"a": Infinity}', "line 2: 'Infinity' is no number"),
        ('{"a": ' + "1" * 5000 + "}", "is no number that fits 64 bits"),
        ('{"a": "\\ud800"}', "half of a character"),
        ("[" * 100_000, "nested too deeply"),
        (" " * (MOST_BYTES + 1), "has more than the 67108864 bytes"),
        ('{"format": "skipcast-plan-9"}', "skipcast-plan-9"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=says) as refused:
        Plan.load(path)
    assert str(path) in str(refused.value)
    with pytest.raises(FileNotFoundError, match="skipcast plan PROFILE --out"):
        Plan.load(tmp_path / "none.json")


VALUES = json.loads(json.dumps(a_plan().as_dict()))


@example(("origin",), {"\n": None})
@given(st.sampled_from(places(VALUES)), JSON)
def test_any_other_entry_is_a_plan_or_a_value_error(tmp_path: Path, place: tuple[Any, ...], value: Any) -> None:
    """In memory, and in a file whose digest is right."""
    values = replaced(VALUES, place, value)
    try:
        plan = Plan.from_dict(values)
    except ValueError as error:
        assert len(str(error)) < 500  # noqa: PT017
    else:
        assert_equal(Plan.from_dict(plan.as_dict()), plan)
        assert len(repr(plan)) < 10_000
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(sealed(values)))
    try:
        assert_equal(Plan.load(path), Plan.from_dict(values))
    except ValueError as error:
        assert str(error).startswith(f"{path} is not a plan: ")  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017


@given(st.data())
def test_a_damaged_file_is_never_another_plan(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "plan.json"
    a_plan().save(path)
    path.write_bytes(data.draw(damage(path.read_bytes())))
    try:
        assert_equal(Plan.load(path), a_plan())  # only white space was hit
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017


def test_predictions_come_from_pairs() -> None:
    found = Prediction.of([30.0, 50.0, 40.0], held_out=True, closed=False)
    assert found == Prediction(40.0, 30.0, 30.0, 3, held_out=True, closed=False)
    many = Prediction.of(np.arange(40.0), held_out=False, closed=True)
    assert (many.worst5, many.worst, many.pairs) == (0.5, 0.0, 40)
    with pytest.raises(ValueError, match="at least one pair"):
        Prediction.of([], held_out=True, closed=True)


def test_an_origin_is_plain_json() -> None:
    assert ORIGIN.prompts == ("a red star",)
    assert Origin(**ORIGIN.as_dict()) == ORIGIN
    assert Origin("", "X", {"levels": (1, 2)}, 3).config == {"levels": [1, 2]}
    with pytest.raises(ValueError, match="must be 'default' or 'converged'"):
        replace(ORIGIN, reference="best")  # type: ignore[arg-type]


def test_a_file_holds_no_words(tmp_path: Path) -> None:
    path = tmp_path / "some.plan.json"
    a_plan().save(path)
    assert "a red star" not in path.read_text()
    origin = Plan.load(path).origin
    assert (origin.prompts, origin.seeds, origin.pairs) == ((), (), (pair_hash("a red star", 4),))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": [0.5, 2, 5]}, r"steps=\.\.\.\) must be"),
        ({"scale": ["1.0", 1.0, 1.0]}, "an array of numbers"),
        ({"predicted": {}}, "missing 6 required"),
        ({"predicted": {**VALUES["predicted"], "psnr": None}}, r"Prediction\(psnr"),
        ({"predicted": {**VALUES["predicted"], "psnr": 10**400}}, r"Prediction\(psnr=\.\.\.\) must be decibels"),
        ({"origin": {**VALUES["origin"], "scheduler": None}}, r"Origin\(scheduler"),
        ({"origin": {**VALUES["origin"], "varied": None}}, r"Origin\(varied"),
        ({"origin": {**VALUES["origin"], "steps": 0}}, r"Origin\(steps"),
        ({"origin": {**VALUES["origin"], "steps": 10**9}}, r"Origin\(steps"),
        ({"origin": {**VALUES["origin"], "scheduler": "", "config": {"alpha": [1], "sigma": [0]}}}, "7 numbers"),
        ({"origin": {**VALUES["origin"], "arrays": "os"}}, "a namespace, a dtype and a device"),
        ({"timesteps": [[1.0, 2.0]] * 6}, "must stay below"),
        ({"evaluation_timesteps": [1e31, 2.0, 1.0]}, "beyond 1e30"),
        ({"argument": "scale", "knots": [dict.fromkeys(("value", *_OF_A_KNOT))]}, r"Knot\(value"),
    ],
)
def test_values_that_are_none_of_a_plan_are_refused_by_name(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"not a plan: .*{words}"):
        Plan.from_dict({**VALUES, **changes})


def test_a_key_that_comes_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.plan.json"
    a_plan().save(path)
    path.write_text(path.read_text().replace('"label": ', '"label": "twice", "label": ', 1))
    with pytest.raises(ValueError, match="the key 'label' comes twice"):
        Plan.load(path)


def test_what_a_plan_is_known_by_elsewhere_has_no_digest_of_a_file() -> None:
    """Cells of a bench run and manifests are named by `as_dict`."""
    assert "sha256" not in a_plan().as_dict()
