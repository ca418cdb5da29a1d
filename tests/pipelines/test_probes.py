"""What controllers are shown before they decide, and whom guidance branches follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

import skipcast as sc
from families.all import NAMED
from skipcast.controllers import Controller, Probe
from skipcast.forecasters import Reuse
from skipcast.pipelines.seams.layouts import find_layout
from skipcast.targets import GlobalDrift, LastHidden, ModuleOutputs, SpanDrift, Target
from support.seams import Deep, Spy, counted
from support.tiny import latents


def _shown(deep: Deep, look: Probe, target: Target) -> tuple[dict[int, Tensor | None], list[int]]:
    spy = Spy((0, 2), look)
    with sc.accelerate(deep, sc.Method(Reuse(), spy, target=target)), counted(*deep.attentions) as counts:
        deep.begin()
        for step in range(4):
            deep.call(step)
    assert list(spy.seen) == [1, 2, 3]  # step 0 is evaluated without asking
    return spy.seen, list(counts.values())


@pytest.mark.parametrize("target", [sc.Output(), GlobalDrift(), SpanDrift(skip_first=1)], ids=repr)
@pytest.mark.parametrize("look", ["input", "none"])
def test_the_input_is_shown_at_either_seam(target: Target, look: Probe) -> None:
    deep = Deep()
    seen, _ = _shown(deep, look, target)
    for step, probe in seen.items():
        assert probe is None if look == "none" else torch.equal(probe, deep.samples[step])


@pytest.mark.parametrize("target", [SpanDrift(skip_first=1), SpanDrift(skip_first=2, skip_last=1)], ids=repr)
def test_what_the_first_block_adds_is_shown(target: Target) -> None:
    deep = Deep()
    seen, counts = _shown(deep, "block", target)
    for step, probe in seen.items():
        at = deep.embedded(step)
        image = at.image
        deep.walk(at, 0, 1)
        assert probe is not None
        assert torch.allclose(probe, at.image - image, atol=1e-6)
    assert counts[0] == 4
    assert counts[2] == 2


@pytest.mark.parametrize("target", [GlobalDrift(), LastHidden(), SpanDrift(skip_first=1)], ids=repr)
def test_the_tokens_around_the_first_block_are_shown(target: Target) -> None:
    """Which runs at every step, also where the span holds it."""
    deep = Deep()
    seen, counts = _shown(deep, "around", target)
    for step, probe in seen.items():
        at = deep.embedded(step)
        image = at.image
        deep.walk(at, 0, 1)
        assert probe is not None
        assert torch.allclose(probe, torch.stack((image, at.image)), atol=1e-6)
    assert counts[0] == 4
    assert counts[2] == 2


@pytest.mark.parametrize("target", [GlobalDrift(), SpanDrift(skip_first=1)], ids=repr)
def test_the_modulated_input_of_the_first_block_is_shown(target: Target) -> None:
    deep = Deep()
    seen, counts = _shown(deep, "modulated", target)
    for step, probe in seen.items():
        at = deep.embedded(step)
        assert probe is not None
        assert torch.allclose(probe, deep.blocks[0].norm1(at.image, emb=at.time)[0], atol=1e-6)
        assert not probe.requires_grad
    assert counts[0] == (2 if target == GlobalDrift() else 4)


@pytest.mark.parametrize("target", [GlobalDrift(), SpanDrift(skip_last=1), LastHidden()], ids=repr)
def test_a_span_that_holds_the_first_block_cannot_be_decided_by_it(target: Target) -> None:
    with pytest.raises(sc.IncompatibleParts, match=r"looks at what the first block adds.*SpanDrift\(skip_first=1\)"):
        sc.accelerate(Deep(), sc.Method(Reuse(), Spy((0,), "block"), target=target))


def test_a_block_without_modulated_norm_is_refused_by_name() -> None:
    deep = Deep()
    deep.transformer.transformer_blocks = torch.nn.ModuleList()
    with pytest.raises(sc.IncompatibleParts, match="FluxSingleTransformerBlock has no 'norm1'"):
        sc.accelerate(deep, sc.Method(Reuse(), Spy((0,), "modulated"), target=GlobalDrift()))


def test_modules_share_a_decision_made_beforehand() -> None:
    with pytest.raises(sc.IncompatibleParts, match="controller of fixed steps"):
        sc.Method(Reuse(), Spy((0,)), target=ModuleOutputs())


@dataclass(frozen=True)
class Turns(Controller):
    """Evaluates where it has been called an odd number of times by all branches together."""

    follow: bool
    called: list[int] = field(default_factory=list, compare=False, repr=False)

    @property
    def shared(self) -> bool:
        return self.follow

    def check(self, steps: int) -> None: ...

    def evaluate(self, run: sc.Run) -> bool:
        self.called.append(run.step)
        return len(self.called) % 2 == 1


@pytest.mark.parametrize("target", [sc.Output(), SpanDrift(skip_first=1, skip_last=1)], ids=repr)
@pytest.mark.parametrize("follow", [True, False], ids=["shared", "apart"])
def test_branches_follow_the_first_one(pipe: Any, target: Target, follow: bool) -> None:
    controller = Turns(follow)
    with sc.accelerate(pipe, sc.Method(Reuse(), controller, target=target)) as acceleration:
        latents(pipe, steps=6)
    cond, uncond = ([record.evaluated for record in run.trace] for run in acceleration.runs.values())
    assert cond[0]
    assert uncond[0]
    if follow:
        assert cond == uncond == [True, True, False, True, False, True]
        assert controller.called == [1, 2, 3, 4, 5]
    else:
        assert cond[1:] != uncond[1:]
        assert len(controller.called) == 10


def _first(pipe: Any) -> torch.nn.Module:
    inner = pipe.transformer
    layout, _ = find_layout(inner, GlobalDrift())
    block: torch.nn.Module = getattr(inner, layout.lists[0].name)[0]
    return block


def _embedded(
    name: str, look: Probe, pipe: Any
) -> tuple[torch.nn.Module, Callable[[tuple[Any, ...], dict[str, Any], Any], Tensor]]:
    """The module whose call holds what must be shown, and where it lies there."""
    network = pipe.transformer
    if look == "modulated":
        return _first(pipe).attn1, lambda _args, given, _made: given["hidden_states"]
    if look == "block time":
        block = _first(pipe)
        return block, lambda args, given, _made: given["temb"] if "temb" in given else args[2]
    clock = network.t_embedder if name.startswith("HiDream") else network.condition_embedder.time_embedder
    return clock, lambda _args, _given, made: made


@pytest.mark.parametrize(
    "name, look",
    [
        ("Wan 2.1", "time"),
        ("Wan 2.1", "block time"),
        ("HiDream-I1", "time"),
        ("CogVideoX", "block time"),
        ("LTX-Video", "modulated"),
    ],
)
def test_what_teacache_looks_at_in_other_networks_is_shown(name: str, look: Probe) -> None:
    """Beside what the network itself makes of it: the argument of the first attention, or the module's output."""
    family = NAMED[name]
    pipe = family.build()
    module, place = _embedded(name, look, pipe)
    made: list[Tensor] = []
    handle = module.register_forward_hook(
        lambda _m, args, given, output: made.append(place(args, given, output).clone()), with_kwargs=True
    )
    spy = Spy(tuple(range(6)), look)
    with sc.accelerate(pipe, sc.Method(Reuse(), spy, target=GlobalDrift())) as acceleration:
        family.run(pipe, 6)
    handle.remove()
    branches = len(acceleration.runs)
    assert len(made) == 6 * branches
    assert list(spy.seen) == [1, 2, 3, 4, 5]
    for step, probe in spy.seen.items():
        assert probe is not None
        assert torch.equal(probe, made[step * branches + branches - 1])
        assert not torch.equal(probe, made[(step - 1) * branches])


def test_a_time_that_a_network_is_not_known_to_embed_alone_is_refused() -> None:
    with pytest.raises(sc.IncompatibleParts, match="FluxTransformer2DModel is not known to make"):
        sc.accelerate(Deep(), sc.Method(Reuse(), Spy((0,), "time"), target=GlobalDrift()))
    with pytest.raises(sc.IncompatibleParts, match="looks at the time's embedding, so its target must lie"):
        sc.Method(Reuse(), Spy((0,), "time"))
