"""Calls that the pipeline does not name belong to the branch whose arguments lie where its own do."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from skipcast.pipelines.branches import Branch, Branches


def guided(**shared: Any) -> dict[str, dict[str, Any]]:
    """Arguments of two branches, as a pipeline passes them at every step: ids in common, embeddings of their own."""
    common = {"ids": torch.zeros(4, 3), "return_dict": False, "guidance": None, **shared}
    drawn = torch.Generator().manual_seed(0)
    return {
        kind: {
            "encoder_hidden_states": torch.randn(1, 4, 8, generator=drawn),
            "pooled_projections": torch.randn(1, 8, generator=drawn),
            **common,
        }
        for kind in ("cond", "uncond")
    }


def names(steps: list[list[dict[str, Any]]]) -> list[list[str]]:
    """The names of the calls of every step of one run."""
    branches = Branches()
    return [[branches.name(step, given) for given in calls] for step, calls in enumerate(steps)]


def test_calls_are_named_in_the_order_of_their_first() -> None:
    calls = list(guided().values())
    assert names([calls] * 4) == [["call 1", "call 2"]] * 4


def test_a_run_of_one_branch_has_one_name() -> None:
    given = guided()["cond"]
    assert names([[given]] * 3) == [["call 1"]] * 3


def test_a_new_run_begins_with_the_first_name() -> None:
    branches, given = Branches(), guided()
    branches.name(0, given["cond"])
    branches.begin()
    assert branches.name(0, given["uncond"]) == "call 1"


@pytest.mark.parametrize("step", [1, 2, 5])
def test_branches_that_change_places_keep_their_names(step: int) -> None:
    cond, uncond = guided().values()
    found = names([[cond, uncond]] * step + [[uncond, cond]] * 2)
    assert found == [["call 1", "call 2"]] * step + [["call 2", "call 1"]] * 2


def test_equal_values_in_other_places_are_another_branch() -> None:
    given = guided()["cond"]
    other = {name: value.clone() if isinstance(value, Tensor) else value for name, value in given.items()}
    assert names([[given, other], [other, given]]) == [["call 1", "call 2"], ["call 2", "call 1"]]


def test_slices_of_one_tensor_are_different_places() -> None:
    both = torch.zeros(2, 4, 8)
    first, second = ({"text": part} for part in both.chunk(2))
    assert names([[first, second], [second, first]]) == [["call 1", "call 2"], ["call 2", "call 1"]]


def test_the_same_slice_made_anew_is_the_same_place() -> None:
    both = torch.zeros(2, 4, 8)
    steps = [[{"text": both[0:1]}, {"text": both[1:2]}], [{"text": both[1:2]}, {"text": both[0:1]}]]
    assert names(steps) == [["call 1", "call 2"], ["call 2", "call 1"]]


@pytest.mark.parametrize("view", [lambda text: text[:, :2], lambda text: text.transpose(1, 2)], ids=["shape", "stride"])
def test_other_shapes_and_strides_of_one_storage_are_different_places(view: Any) -> None:
    text = torch.zeros(1, 4, 8)
    first, second = {"text": text}, {"text": view(text)}
    assert names([[first, second], [second, first]]) == [["call 1", "call 2"], ["call 2", "call 1"]]


def test_arguments_made_anew_at_each_step_fall_back_on_the_order() -> None:
    assert names([list(guided().values()) for _ in range(5)]) == [["call 1", "call 2"]] * 5


def test_an_argument_made_anew_does_not_hide_those_that_stay() -> None:
    cond, uncond = guided().values()
    steps = []
    for step in range(5):
        calls = [{**given, "image": torch.zeros(1, 4)} for given in (cond, uncond)]
        steps.append(calls[::-1] if step == 3 else calls)
    expected = [["call 1", "call 2"]] * 5
    expected[3] = ["call 2", "call 1"]
    assert names(steps) == expected


def test_without_any_tensor_the_order_decides() -> None:
    assert names([[{"flag": True}, {}]] * 3) == [["call 1", "call 2"]] * 3


@pytest.mark.parametrize("reverse", [False, True], ids=["called after", "called before"])
@pytest.mark.parametrize("start", [2, 3])
def test_a_branch_may_start_half_way(start: int, reverse: bool) -> None:
    cond, uncond = guided().values()
    together = [uncond, cond] if reverse else [cond, uncond]
    expected = ["call 2", "call 1"] if reverse else ["call 1", "call 2"]
    assert names([[cond]] * start + [together] * 3) == [["call 1"]] * start + [expected] * 3


def test_a_branch_may_start_at_the_second_step_after_the_other() -> None:
    cond, uncond = guided().values()
    assert names([[cond], [cond, uncond], [cond, uncond]])[1:] == [["call 1", "call 2"]] * 2


def test_a_branch_may_start_at_the_second_step_before_the_other() -> None:
    cond, uncond = guided().values()
    assert names([[cond], [uncond, cond], [uncond, cond]])[1:] == [["call 2", "call 1"]] * 2


@pytest.mark.parametrize("left", [0, 1], ids=["the second stops", "the first stops"])
@pytest.mark.parametrize("stop", [1, 2, 4])
def test_a_branch_may_stop_half_way(stop: int, left: int) -> None:
    calls = list(guided().values())
    expected = [["call 1", "call 2"]] * stop + [[f"call {left + 1}"]] * 3
    assert names([calls] * stop + [[calls[left]]] * 3) == expected


def test_a_branch_that_sat_out_comes_back() -> None:
    cond, uncond = guided().values()
    found = names([[cond, uncond]] * 2 + [[cond]] * 3 + [[uncond, cond]] * 2)
    assert found[2:] == [["call 1"]] * 3 + [["call 2", "call 1"]] * 2


def test_three_branches_are_kept_apart() -> None:
    a, b = guided().values()
    c = {**a, "encoder_hidden_states": torch.zeros(1, 4, 8)}
    found = names([[a, b, c], [c, a, b], [b, a], [c]])
    assert found == [["call 1", "call 2", "call 3"], ["call 3", "call 1", "call 2"], ["call 2", "call 1"], ["call 3"]]


@pytest.mark.parametrize(
    "within",
    [lambda x: [x], lambda x: (torch.zeros(0), x), lambda x: {"image": x}, lambda x: {"all": [{"deep": (x,)}, None]}],
    ids=["list", "tuple", "dict", "all of them"],
)
def test_tensors_within_lists_and_dicts_count(within: Any) -> None:
    first, second = ({"added": within(torch.zeros(3))} for _ in range(2))
    assert names([[first, second], [second, first]]) == [["call 1", "call 2"], ["call 2", "call 1"]]


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
