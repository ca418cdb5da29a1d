"""Compiled networks: no graph breaks because of `accelerate`, nothing is compiled again, the same samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, _dynamo
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

import skipcast as sc
from support.seams import MODULES, OUTPUT, STACK, method_at
from support.tiny import latents, twin

STEPS = 5
#: Graphs of a plain run. Of blocks: one of the double block, two of the single ones, whose tokens lie differently.
GRAPHS = {"whole": 1, "blocks": 3, "wrapped": 1}

Compile = Callable[[Any, CompileCounter], None]


def whole(pipe: Any, backend: CompileCounter) -> None:
    pipe.transformer.compile(fullgraph=True, backend=backend)


def blocks(pipe: Any, backend: CompileCounter) -> None:
    pipe.transformer.compile_repeated_blocks(fullgraph=True, backend=backend)


def wrapped(pipe: Any, backend: CompileCounter) -> None:
    pipe.transformer = torch.compile(pipe.transformer, fullgraph=True, backend=backend)


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Nothing is known of graphs that another test has compiled."""
    _dynamo.reset()
    counters.clear()
    yield
    _dynamo.reset()


def run(pipe: Any) -> Tensor:
    return latents(pipe, STEPS, true_cfg_scale=1.0)


def accelerated(pipe: Any, method: Any) -> Tensor:
    with sc.accelerate(pipe, method):
        return run(pipe)


def calls(pipe: Any) -> list[Any]:
    """The compiled calls of all modules."""
    net = getattr(pipe.transformer, "_orig_mod", pipe.transformer)
    return [vars(module).get("_compiled_call_impl") for module in net.modules()]


def check(pipe: Any, backend: CompileCounter, count: int, wanted: Tensor) -> None:
    """Two runs of as many graphs as a plain one, none of which is broken or compiled again."""
    assert torch.allclose(run(pipe), wanted, atol=1e-5)
    assert not counters["graph_break"]
    assert backend.frame_count == count
    with _dynamo.config.patch(error_on_recompile=True):
        assert torch.allclose(run(pipe), wanted, atol=1e-5)
    assert backend.frame_count == count


#: How it is compiled, what is forecast, and whether it is compiled before our hooks are in place or afterwards.
CASES = [
    (whole, "output", "before"),
    (whole, "output", "inside"),
    (whole, "plan", "before"),
    (wrapped, "output", "before"),
    (blocks, "output", "before"),
    (blocks, "stack", "before"),
    (blocks, "stack", "inside"),
    (blocks, "plan", "inside"),
]


@pytest.mark.parametrize("compile, seam, when", CASES, ids=lambda value: getattr(value, "__name__", value))
def test_a_compiled_network_keeps_its_graphs(pipe: Any, compile: Compile, seam: str, when: str) -> None:
    plain, method = run(pipe), method_at(seam, pipe)
    wanted, count = accelerated(pipe, method), GRAPHS[compile.__name__]
    other, backend = twin(pipe), CompileCounter()
    if when == "before":
        compile(other, backend)
        before = calls(other)
    with sc.accelerate(other, method) as acceleration:
        if when == "inside":
            assert torch.allclose(run(other), wanted, atol=1e-5)
            compile(other, backend)
            before = calls(other)
        check(other, backend, count, wanted)
    assert acceleration.summary().evaluated_steps == (0, 1, 2)
    assert all(now is then for now, then in zip(calls(other), before, strict=True))
    assert torch.allclose(run(other), plain, atol=1e-5)


@pytest.mark.parametrize("compile", [whole, blocks], ids=["whole", "blocks"])
def test_what_has_run_plain_is_not_compiled_again(pipe: Any, compile: Compile) -> None:
    """The graphs of a plain run serve the accelerated ones, and those of afterwards."""
    run(pipe)
    other, backend = twin(pipe), CompileCounter()
    compile(other, backend)
    plain = run(other)
    assert not counters["graph_break"]
    assert backend.frame_count == GRAPHS[compile.__name__]
    for method in (OUTPUT, method_at("plan", pipe), *([STACK] if compile is blocks else [])):
        assert not torch.equal(accelerated(other, method), plain)
        assert torch.equal(run(other), plain)
    assert backend.frame_count == GRAPHS[compile.__name__]


@pytest.mark.parametrize("when", ["before", "inside"])
def test_a_whole_graph_cannot_hold_decisions_between_blocks(pipe: Any, when: str) -> None:
    """The block-stack seam lies inside the graph: torch refuses it where it has to be one, and names what breaks it."""
    plain, wanted = run(pipe), accelerated(pipe, STACK)
    other, backend = twin(pipe), CompileCounter()
    if when == "before":
        whole(other, backend)
    with sc.accelerate(other, STACK):
        if when == "inside":
            whole(other, backend)
        with pytest.raises(_dynamo.exc.Unsupported, match=r"BlockStack\.arrive"):
            run(other)
    _dynamo.reset()
    assert torch.allclose(run(other), plain, atol=1e-5)  # left in order
    other.transformer._compiled_call_impl = None
    assert torch.equal(accelerated(other, STACK), wanted)


@pytest.mark.parametrize(
    "method, when", [(STACK, "before"), (OUTPUT, "inside"), pytest.param(MODULES, "before", marks=pytest.mark.slow)]
)
def test_a_graph_that_may_break_holds_them(pipe: Any, method: Any, when: str) -> None:
    plain, wanted, other = run(pipe), accelerated(pipe, method), twin(pipe)
    if when == "before":
        other.transformer = torch.compile(other.transformer, backend="eager")
    with sc.accelerate(other, method):
        if when == "inside":
            other.transformer = torch.compile(other.transformer, backend="eager")
        assert torch.allclose(run(other), wanted, atol=1e-5)
    assert torch.allclose(run(other), plain, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("seam", ["stack", "plan"])
def test_a_real_compiler_gives_the_same(pipe: Any, seam: str) -> None:
    run(pipe)
    method, other = method_at(seam, pipe), twin(pipe)
    wanted = accelerated(pipe, method)
    other.transformer.compile_repeated_blocks(fullgraph=True)
    found = accelerated(other, method)
    assert torch.allclose(found, wanted, atol=1e-4)
    with _dynamo.config.patch(error_on_recompile=True):
        assert torch.equal(accelerated(other, method), found)
