"""A manifest is what a stranger wrote: whatever is wrong with it is refused, and nothing in it leads elsewhere."""

from __future__ import annotations

import json
from typing import Any

import pytest

from skipcast.hub.manifest import File, Listed, Manifest
from skipcast.plans.plan import Prediction
from support import toy

PLAN = toy.profile().plan(evaluations=4)
FILE = File("4/plan.json", "a" * 64)
LISTED = Listed.of("4", PLAN, FILE, None, None)
MANIFEST = Manifest("someone/small", (LISTED,), File("default.profile.safetensors", "b" * 64), "1.0")


def changed(*path: Any, to: Any) -> bytes:
    """The manifest with one value changed."""
    values = json.loads(MANIFEST.as_bytes())
    place = values
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    return json.dumps(values).encode()


def test_what_is_written_is_read() -> None:
    assert Manifest.from_bytes(MANIFEST.as_bytes()) == MANIFEST
    assert (LISTED.evaluations, LISTED.steps, LISTED.reference) == (4, toy.STEPS, "default")
    assert LISTED.predicted == (PLAN.predicted,)


def test_what_later_versions_add_is_passed_over() -> None:
    assert Manifest.from_bytes(changed("plans", 0, "new", to={"x": 1})) == MANIFEST


@pytest.mark.parametrize(
    "path",
    [
        "../plan.json", "/etc/passwd", "4/../../x", "a/b/c", "4\\plan.json", "C:plan.json", "", "4/", "./x", ".hidden",
        "4/.x", "4/plan.json\n", "a" * 200, "4//plan.json", "\x1b[2J",
    ],
)  # fmt: skip
def test_no_path_leads_elsewhere(path: str) -> None:
    with pytest.raises(ValueError, match="must be a name in the repository"):
        Manifest.from_bytes(changed("plans", 0, "plan", "path", to=path))


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("format",), "skipcast-plans-2", "format"),
        (("base_model",), "../x", "hub id"),
        (("base_model",), 7, "base_model"),
        (("plans",), [], "1 to 1000"),
        (("plans",), {}, "must be a list"),
        (("plans",), [1], "plans.json is no manifest"),
        (("plans",), [json.loads(MANIFEST.as_bytes())["plans"][0]] * 2, "different names"),
        (("plans", 0, "name"), "a/b", "name"),
        (("plans", 0, "plan"), None, "plan"),
        (("plans", 0, "plan", "sha256"), "A" * 64, "64 hexadecimal digits"),
        (("plans", 0, "plan", "sha256"), 7, "sha256"),
        (("plans", 0, "evaluations"), 0, "evaluations"),
        (("plans", 0, "evaluations"), "4", "evaluations"),
        (("plans", 0, "steps"), 3, "4 of 3 steps"),
        (("plans", 0, "reference"), "best", "reference"),
        (("plans", 0, "knots"), ["x"], "knots"),
        (("plans", 0, "knots"), [1.0, 2.0], "1 entries for 2 knots"),
        (("plans", 0, "predicted"), [{"psnr": 1.0}], "missing|argument"),
        (("plans", 0, "size"), [1], "size"),
        (("plans", 0, "revision"), "\x1b[31mred", "no word"),
        (("plans", 0, "argument"), "x" * 300, "no word"),
        (("profile",), {"path": "x"}, "sha256"),
    ],
)
def test_wrong_values_are_refused_by_name(path: tuple[Any, ...], value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Manifest.from_bytes(changed(*path, to=value))


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"null", b'{"a": 1, "a": 2}', b"[" * 100_000])
def test_what_is_no_manifest_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="is no manifest of plans"):
        Manifest.from_bytes(content)


def test_the_one_plan_is_chosen_or_all_are_named() -> None:
    def of(name: str, evaluations: int, **more: Any) -> Listed:
        return Listed(name, FILE, None, evaluations, 50, **more)

    made = Manifest("a/b", (of("4", 4), of("8", 8), of("converged-8", 8, reference="converged"), of("x", 4)))
    assert made.chosen(8, "default", None).name == "8"
    assert made.chosen(8, "converged", None).name == "converged-8"
    assert made.chosen(None, "default", "converged-8").name == "converged-8"
    assert made.chosen(4, "default", "x").name == "x"
    with pytest.raises(ValueError, match=r"several plans fit evaluations=4.*give name= too.*4 \(4 of 50, default\)"):
        made.chosen(4, "default", None)
    with pytest.raises(ValueError, match="no plan of evaluations=10"):
        made.chosen(10, "default", None)


def test_another_plan_than_what_is_told_is_refused() -> None:
    with pytest.raises(ValueError, match="evaluations=4, its manifest says 5"):
        Listed("5", FILE, None, 5, toy.STEPS).check(PLAN)


def test_predictions_may_be_infinite_in_memory_but_not_in_a_file() -> None:
    same = Prediction(float("inf"), 30.0, 20.0, 4, held_out=False, closed=True)
    listed = Listed("4", FILE, None, 4, 50, predicted=(same,))
    with pytest.raises(ValueError, match="not JSON compliant"):
        Manifest("a/b", (listed,)).as_bytes()
