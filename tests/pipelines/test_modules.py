"""The module seam: every attention and MLP forecast before its gate."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import skipcast as sc
from skipcast.controllers import FixedSteps, Periodic, Verified
from skipcast.forecasters import Lagrange, Reuse, TaylorSeer
from skipcast.targets import AlternatingReuse, ModuleOutputs, VerifiedModules
from support.seams import Deep, counted
from support.tiny import PROMPT, latents


@pytest.fixture
def deep() -> Deep:
    return Deep()


def _gated(deep: Deep) -> list[nn.Module]:
    double, single = deep.transformer.transformer_blocks, deep.transformer.single_transformer_blocks
    return [module for b in double for module in (b.attn, b.ff, b.ff_context)] + [block.proj_out for block in single]


def _pair(output: Any) -> tuple[Tensor, ...]:
    return output if isinstance(output, tuple) else (output,)


def test_modules_by_hand(deep: Deep) -> None:
    """A network whose module outputs are noted at two steps and replaced by 2 f1 - f0 at the third."""
    with sc.accelerate(deep, sc.Method(Lagrange(1), FixedSteps((0, 1)), target=ModuleOutputs())):
        deep.begin()
        found = [deep.call(step) for step in range(3)][-1]
    noted: dict[nn.Module, list[Any]] = {}

    def note_or_replace(module: nn.Module, args: Any, output: Any) -> Any:
        outputs = noted.setdefault(module, [])
        if len(outputs) < 2:
            outputs.append(output)
            return None
        line = tuple(2 * new - old for old, new in zip(*map(_pair, outputs), strict=True))
        return line if isinstance(output, tuple) else line[0]

    for module in _gated(deep):
        module.register_forward_hook(note_or_replace)
    expected = [deep.call(step) for step in range(3)][-1]
    assert torch.allclose(found, expected, atol=1e-5)


def test_forecast_steps_skip_the_modules_and_run_the_rest(deep: Deep) -> None:
    """Norms and gates follow the current time; the single blocks' wide tensors have no width at all."""
    double, single = deep.transformer.transformer_blocks[1], deep.transformer.single_transformer_blocks[0]
    norms = double.norm1, single.norm
    skipped = double.ff.net[0].proj, double.ff_context.net[0].proj, double.attn.to_add_out, *deep.attentions
    widths: list[int] = []
    single.act_mlp.register_forward_hook(lambda _m, _a, output: widths.append(output.shape[-1]))
    method = sc.Method(Reuse(), FixedSteps((0, 3)), target=ModuleOutputs())
    with sc.accelerate(deep, method), counted(*norms, *skipped) as counts:
        deep.begin()
        for step in range(6):
            deep.call(step)
    assert list(counts.values()) == [6] * len(norms) + [2] * len(skipped)
    assert widths == [128, 0, 0, 128, 0, 0]


def test_one_stream_per_module_and_branch(pipe: Any) -> None:
    """Of 1 + 2 blocks on 16 image and 12 text tokens of width 32."""
    method = sc.Method(TaylorSeer(1, start=1), Periodic(3, 4), target=ModuleOutputs())
    with sc.accelerate(pipe, method) as acceleration:
        latents(pipe)
    assert list(acceleration.runs) == ["cond", "uncond"]
    assert [name for name in acceleration.streams if name.startswith("cond")] == [
        "cond/transformer_blocks.0.attn.text",
        "cond/transformer_blocks.0.ff",
        "cond/transformer_blocks.0.ff_context",
        "cond/single_transformer_blocks.0.proj_out",
        "cond/single_transformer_blocks.1.proj_out",
    ]
    summary = acceleration.summary()
    assert (summary.evaluated_steps, summary.forecasts, summary.branches) == ((0, 1, 2, 6, 10), 7, ("cond", "uncond"))
    runs = acceleration.all_runs()
    text = pipe.encode_prompt(PROMPT, None)[0].shape[1]
    window = method.forecaster.window
    assert summary.cached_bytes == 2 * window * 4 * (16 + text) * 32 * 4
    assert not sum(run.bytes() for run in runs)  # the run is over
    shadows = [float(r.forecast_error) for run in runs for r in run.trace if r.forecast_error is not None]
    assert len(shadows) == 2 * 6 * 4  # branches, streams, evaluations after the first
    assert summary.forecast_error_mean == pytest.approx(sum(shadows) / len(shadows))


def test_a_forecast_is_verified_by_hand() -> None:
    """The last block's module on the forecast tokens, against its own forecast, which is what flows on.

    Measured as SpeCa does: not at the first forecast after an evaluation, as min_forecasts=1 says.
    """
    deep, plain = Deep(), Deep()
    rule, verified = TaylorSeer(1), Verified(1e9, min_forecasts=1, first=1)
    with sc.accelerate(deep, sc.Method(rule, verified, target=VerifiedModules())) as acceleration:
        deep.begin()
        found, errors = [], []
        for step in range(4):
            found.append(deep.call(step))
            errors.append(acceleration.runs["call 1"].verified)
    assert acceleration.runs["call 1"].trace[0].evaluated
    assert [record.evaluated for record in acceleration.runs["call 1"].trace] == [True, False, False, False]
    assert errors[:2] == [None, None]
    # The same outputs without verification.
    with sc.accelerate(plain, sc.Method(Reuse(), FixedSteps((0,)), target=ModuleOutputs())):
        plain.begin()
        expected = [plain.call(step) for step in range(4)]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    # By hand: every module but those of the last block returns what it did at step 0.
    last = plain.transformer.single_transformer_blocks[-1]
    noted: dict[nn.Module, Any] = {}
    true: list[Tensor] = []

    def note_or_replace(module: nn.Module, args: Any, output: Any) -> Any:
        if module not in noted:
            noted[module] = output
            return None
        if module is last.proj_out:
            true.append(output)
        return noted[module]

    for module in _gated(plain):
        module.register_forward_hook(note_or_replace)
    for step in range(4):
        plain.call(step)
    for step in (2, 3):
        error = ((true[step - 1] - noted[last.proj_out]).abs() / (true[step - 1].abs() + 1e-10)).mean()
        assert errors[step] is not None
        assert float(errors[step]) == pytest.approx(float(error), rel=1e-4)


def test_speca_on_a_whole_run(pipe: Any) -> None:
    """Errors that always pass, and such that never do, give the released steps of 12."""
    for base, steps in ((1e9, (0, 2, 11)), (1e-9, (0, 2, 6, 10))):
        with sc.accelerate(pipe, f"speca:base={base},floor=0") as acceleration:
            latents(pipe)
        assert acceleration.summary().evaluated_steps == steps


def test_controlnet_residuals_are_added_at_every_step(deep: Deep) -> None:
    """They enter between the blocks, which run; so nothing needs to be refused."""
    method = sc.Method(Reuse(), FixedSteps((0,)), target=ModuleOutputs())
    outputs = []
    direction = torch.randn(1, 4, 32)  # not a constant, which the next norm would take away
    for share in (0.0, 1.0):
        with sc.accelerate(deep, method):
            deep.begin()
            deep.call(0)
            outputs.append(deep.call(1, controlnet_block_samples=[share * direction]))
    assert not torch.allclose(*outputs, atol=1e-3)


def test_an_adapter_with_a_third_output_is_refused(deep: Deep, monkeypatch: pytest.MonkeyPatch) -> None:
    attention = deep.transformer.transformer_blocks[0].attn
    original = attention.forward
    monkeypatch.setattr(attention, "forward", lambda **given: (*original(**given), torch.zeros(1)))
    with sc.accelerate(deep, sc.Method(Reuse(), target=ModuleOutputs())):
        deep.begin()
        with pytest.raises(ValueError, match=r"transformer_blocks\.0\.attn returned 3 .*IP-Adapter.*target=output"):
            deep.call(0)


def test_a_module_that_is_called_on_its_own_runs_as_it_is(deep: Deep) -> None:
    x = torch.ones(1, 4, 32)
    with sc.accelerate(deep, sc.Method(Reuse(), target=ModuleOutputs())):
        inside = deep.blocks[0].ff(x)
    assert torch.equal(inside, deep.blocks[0].ff(x))


def test_spans_and_modules_in_turns_by_hand() -> None:
    """Full, Delta, ToCa, Delta, ToCa: step 3 adds the residual of step 2, which took the double blocks' from step 1."""
    deep, plain = Deep(), Deep()
    with sc.accelerate(deep, "delta-dit:variant=flux,interval=5") as acceleration, counted(*deep.attentions) as counts:
        deep.begin()
        found = [deep.call(step) for step in range(6)]
    assert [record.evaluated for record in acceleration.runs["call 1"].trace] == [True, *[False] * 4, True]
    assert list(counts.values()) == [4, 4, 2, 2, 2]  # double blocks at steps 0, 1, 3 and 5, single ones at 0 and 5
    plain.begin()
    noted: dict[nn.Module, Any] = {}
    replacing = False

    def note_or_replace(module: nn.Module, args: Any, output: Any) -> Any:
        if replacing:
            return noted[module]
        noted[module] = output
        return None

    for module in _gated(plain):
        module.register_forward_hook(note_or_replace)
    expected = []
    delta = torch.zeros(())
    for step in range(6):
        at = plain.embedded(step)
        replacing = step in (2, 4)
        plain.walk(at, 0, 2)
        base = at.image
        if step in (1, 3):
            at.image = base + delta
        else:
            plain.walk(at, 2, 5)
            delta = at.image - base
        expected.append(plain.end(at))
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
    assert not torch.allclose(found[3], found[1], atol=1e-3)


def test_turns_are_of_reuse(deep: Deep) -> None:
    method = sc.Method(Lagrange(1), Periodic(3, 3), target=AlternatingReuse())
    with pytest.raises(
        sc.IncompatibleParts, match=r"AlternatingReuse\(\) reuses what was last made.*not with Lagrange"
    ):
        sc.accelerate(deep, method)
