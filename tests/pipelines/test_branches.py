"""Calls that the pipeline does not name belong to the branch whose arguments lie where its own do."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from skipcast.pipelines.branches import Branch, Branches


def guided() -> list[dict[str, Any]]:
    """Arguments of two branches, as a pipeline passes them at every step: ids in common, embeddings of their own."""
    common = {"ids": torch.zeros(4, 3), "return_dict": False, "guidance": None}
    torch.manual_seed(0)  # the same values at every step
    return [
        {"encoder_hidden_states": torch.randn(1, 4, 8), "pooled_projections": torch.randn(1, 8), **common}
        for _ in range(2)
    ]


def names(steps: list[list[dict[str, Any]]]) -> list[list[str]]:
    """The names of the calls of every step of one run."""
    branches = Branches()
    return [[branches.name(step, given) for given in calls] for step, calls in enumerate(steps)]


#: Branches a, b and c that are called at every step, and the numbers of their names.
ORDERS = {
    "named in the order of their first calls": ("ab ab ab ab", "12 12 12 12"),
    "one branch": ("a a a", "1 1 1"),
    "places changed at step 1": ("ab ba ba", "12 21 21"),
    "places changed at step 5": ("ab ab ab ab ab ba ba", "12 12 12 12 12 21 21"),
    "the second starts at step 1": ("a ab ab", "1 12 12"),
    "the second starts at step 1, called before": ("a ba ba", "1 21 21"),
    "the second starts at step 3": ("a a a ab ab ab", "1 1 1 12 12 12"),
    "the second starts at step 3, called before": ("a a a ba ba ba", "1 1 1 21 21 21"),
    "the second stops at step 1": ("ab a a a", "12 1 1 1"),
    "the first stops at step 1": ("ab b b b", "12 2 2 2"),
    "the second stops at step 4": ("ab ab ab ab a a a", "12 12 12 12 1 1 1"),
    "the first stops at step 4": ("ab ab ab ab b b b", "12 12 12 12 2 2 2"),
    "the second sits out": ("ab ab a a a ba ba", "12 12 1 1 1 21 21"),
    "three": ("abc cab ba c", "123 312 21 3"),
}


@pytest.mark.parametrize(("called", "expected"), ORDERS.values(), ids=ORDERS)
def test_branches_keep_their_names(called: str, expected: str) -> None:
    given = dict(zip("ab", guided(), strict=True))
    given["c"] = {**given["a"], "encoder_hidden_states": torch.zeros(1, 4, 8)}
    found = names([[given[branch] for branch in step] for step in called.split()])
    assert found == [[f"call {number}" for number in step] for step in expected.split()]


def test_a_new_run_begins_with_the_first_name() -> None:
    branches, (cond, uncond) = Branches(), guided()
    branches.name(0, cond)
    branches.begin()
    assert branches.name(0, uncond) == "call 1"


TEXT, BOTH = torch.zeros(1, 4, 8), torch.zeros(2, 4, 8)
#: Pairs of values that lie in different places.
PLACES: dict[str, tuple[Any, Any]] = {
    "equal values": (TEXT, TEXT.clone()),
    "slices of one tensor": (BOTH[:1], BOTH[1:]),
    "shapes of one storage": (TEXT, TEXT[:, :2]),
    "strides of one storage": (TEXT, TEXT.transpose(1, 2)),
    "in a list": ([TEXT], [TEXT.clone()]),
    "in a tuple": ((torch.zeros(0), TEXT), (torch.zeros(0), TEXT.clone())),
    "in a dict": ({"image": TEXT}, {"image": TEXT.clone()}),
    "deep inside": ({"all": [{"deep": (TEXT,)}, None]}, {"all": [{"deep": (TEXT.clone(),)}, None]}),
}


@pytest.mark.parametrize(("first", "second"), PLACES.values(), ids=PLACES)
def test_values_in_other_places_are_of_another_branch(first: Any, second: Any) -> None:
    calls = [{"ids": BOTH, "text": first}, {"ids": BOTH, "text": second}]
    assert names([calls, calls[::-1]]) == [["call 1", "call 2"], ["call 2", "call 1"]]


def test_the_same_slice_made_anew_is_the_same_place() -> None:
    steps = [[{"text": BOTH[0:1]}, {"text": BOTH[1:2]}], [{"text": BOTH[1:2]}, {"text": BOTH[0:1]}]]
    assert names(steps) == [["call 1", "call 2"], ["call 2", "call 1"]]


def test_arguments_made_anew_at_each_step_fall_back_on_the_order() -> None:
    assert names([guided() for _ in range(5)]) == [["call 1", "call 2"]] * 5
    assert names([[{"flag": True}, {}]] * 3) == [["call 1", "call 2"]] * 3  # as without any tensor


def test_an_argument_made_anew_does_not_hide_those_that_stay() -> None:
    cond, uncond = guided()
    order = [(cond, uncond)] * 3 + [(uncond, cond)] + [(cond, uncond)]
    steps = [[{**given, "image": torch.zeros(1, 4)} for given in calls] for calls in order]
    assert names(steps) == [["call 1", "call 2"]] * 3 + [["call 2", "call 1"]] + [["call 1", "call 2"]]


def test_what_has_no_storage_is_left_to_the_order() -> None:
    sparse = torch.eye(3).to_sparse()
    assert names([[{"mask": sparse}, {"mask": sparse}]] * 2) == [["call 1", "call 2"]] * 2


def test_nothing_is_kept_alive() -> None:
    branches = Branches()
    given = {"text": torch.zeros(1, 4), "added": [{"image": torch.zeros(2)}]}
    tensors = [given["text"], given["added"][0]["image"]]  # type: ignore[index]
    for step in range(3):
        branches.name(step, given)
    watched = [weakref.ref(tensor) for tensor in tensors]
    storages = [StorageWeakRef(tensor.untyped_storage()) for tensor in tensors]
    assert not any(storage.expired() for storage in storages)
    del given, tensors
    gc.collect()
    assert [ref() for ref in watched] == [None, None]
    assert all(storage.expired() for storage in storages)


def test_memory_that_is_given_out_again_is_another_place() -> None:
    branches, memory = Branches(), np.zeros(16, dtype=np.float32)
    for number in range(1, 20):
        text = torch.from_numpy(memory)
        assert text.data_ptr() == memory.ctypes.data
        for step in (2 * number, 2 * number + 1):
            assert branches.name(step, {"text": text}) == f"call {number}"
        del text


def test_a_named_branch_follows_the_cache_context() -> None:
    branch = Branch()
    assert branch.name is None
    branch.set_context(SimpleNamespace(name="cond"))
    assert branch.name == "cond"
    branch.set_context("uncond")  # a name alone before diffusers 0.41
    assert branch.name == "uncond"
    branch.set_context(None)
    assert branch.name is None
    branch.set_context("cond")
    branch.reset()
    assert branch.name is None
