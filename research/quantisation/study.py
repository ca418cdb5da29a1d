"""Static and dynamic int8 of torchao on the reference model, calibrated on several sets of calls, also under a plan."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import skipcast as sc
from research.plans.captions import recorded
from research.plans.draws import psnr
from research.plans.figures import fidelity
from skipcast.bench.draw import draw
from skipcast.bench.grid import in_calls, pairs_of
from skipcast.models.load import Model
from skipcast.pipelines.calibration import DenoiserCall, balance, channel_ranges, time_weighted

Report = Callable[[str], None]
STEPS, EVALUATIONS = 50, 10
_FIRST_SEED, _DRAW = 31_000, 19


def in_blocks(module: nn.Module, name: str) -> bool:
    """The linear layers of the blocks: no embedders, modulations or output, which are small and sensitive."""
    return isinstance(module, nn.Linear) and "blocks." in name and "norm" not in name


def dynamic(network: nn.Module, calls: Sequence[DenoiserCall]) -> None:
    """int8 weights, and activations whose scales are taken at run time."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    quantize_(network, Int8DynamicActivationInt8WeightConfig(), filter_fn=in_blocks)


def static(network: nn.Module, calls: Sequence[DenoiserCall], alpha: float | None = None) -> None:
    """int8 weights and activations, one scale per tensor, from the calls; with SmoothQuant where alpha is given."""
    from torchao.prototype.smoothquant import SmoothQuantConfig
    from torchao.prototype.smoothquant.core import SmoothQuantObservedLinear
    from torchao.quantization import Int8StaticActivationInt8WeightConfig, PerRow, PerTensor, quantize_

    base = Int8StaticActivationInt8WeightConfig(granularity=[PerTensor(), PerRow()])
    quantize_(network, SmoothQuantConfig(base, step="prepare", alpha=alpha), filter_fn=in_blocks)
    sc.replay(network, calls)

    def observed(module: nn.Module, name: str) -> bool:
        return isinstance(module, SmoothQuantObservedLinear)

    quantize_(network, SmoothQuantConfig(base, step="convert", alpha=alpha), filter_fn=observed)


def weighted(network: nn.Module, calls: Sequence[DenoiserCall]) -> None:
    """Static int8 behind channels that are balanced by their time-weighted ranges."""
    balance(network, time_weighted(channel_ranges(network, calls, in_blocks)))
    static(network, calls)


def by_modelopt(network: nn.Module, calls: Sequence[DenoiserCall]) -> None:
    """Static int8 of nvidia-modelopt, one scale per tensor of activations, simulated: rounded, multiplied as floats."""
    import modelopt.torch.quantization as mtq

    named = dict(network.named_modules())
    mtq.quantize(network, mtq.INT8_DEFAULT_CFG, forward_loop=lambda module: sc.replay(module, calls))

    def elsewhere(quantizer: str) -> bool:
        layer = quantizer.rpartition(".")[0]
        return layer not in named or not in_blocks(named[layer], layer)

    mtq.disable_quantizer(network, elsewhere)


@contextmanager
def quick_integers() -> Iterator[None]:
    """Products of int8 matrices by way of float64: exact, and thirty times faster than torch's own on some CPUs."""
    original = torch._int_mm

    def product(a: Tensor, b: Tensor) -> Tensor:
        return (a.double() @ b.double()).to(torch.int32)

    torch._int_mm = product  # type: ignore[assignment]
    try:
        yield
    finally:
        torch._int_mm = original


@contextmanager
def replaced(pipe: Any, network: nn.Module) -> Iterator[None]:
    """The pipeline with another transformer."""
    original = pipe.transformer
    pipe.transformer = network
    try:
        yield
    finally:
        pipe.transformer = original


def measure(model: Model, prompts: Sequence[str], seeds: int, pairs: int, batch: int, report: Report) -> dict[str, Any]:
    """Errors of final latents and PSNR, against the unaccelerated run at full precision."""
    pipe, call = model.pipe, dict(model.call)
    plan = sc.shipped_plan("shapes-flux", EVALUATIONS).at(float(call["true_cfg_scale"]))
    jobs = in_calls(pairs_of(tuple(prompts), seeds, 1000), batch)
    to_calibrate = recorded(pairs, _DRAW, tuple(prompts))

    def calls_of(method: Any) -> list[DenoiserCall]:
        given = {"seeds": _FIRST_SEED, "num_inference_steps": STEPS, "batch": pairs, **call}
        return sc.calibration_calls(pipe, method, to_calibrate, **given)

    def drawn(method: Any) -> tuple[Tensor, Tensor]:
        found = [draw(pipe, job, method, steps=STEPS, call=call) for job in jobs]
        return torch.cat([each.latents for each in found]).double(), torch.cat([each.images for each in found])

    exact, images = drawn(None)
    every, planned = calls_of(None), calls_of(plan)
    sets = {
        "first step": every[:2],
        "last 5 steps": every[-10:],
        "all 50 steps": every,
        "the plan's calls": planned,
    }
    rows: list[tuple[str, str, Callable[[nn.Module, Sequence[DenoiserCall]], None] | None]] = [
        ("full precision", "-", None),
        ("int8, dynamic", "-", dynamic),
        *(("int8, static", name, static) for name in sets),
        *(("int8, static, SmoothQuant", name, smooth) for name in ("first step", "all 50 steps", "the plan's calls")),
        ("int8, static, time-weighted", "all 50 steps", weighted),
        ("int8, static, time-weighted", "the plan's calls", weighted),
        ("int8, static, SmoothQuant", "the quantised plan's calls", smooth),
        *(("int8, static, modelopt", name, by_modelopt) for name in ("first step", "all 50 steps", "the plan's calls")),
    ]

    def error(found: Tensor, of: Tensor = exact) -> float:
        return float((found - of).flatten(1).square().mean(1).sqrt().mean())

    out: list[dict[str, Any]] = []
    forecast = drawn(plan)[0]
    alone = error(forecast)
    for kind, calibrated, quantise in rows:
        network = copy.deepcopy(pipe.transformer)
        if quantise:
            if calibrated == "the quantised plan's calls":  # PAR: those of the network that was calibrated once
                smooth(network, planned)
                with replaced(pipe, network):
                    again = calls_of(plan)
                network = copy.deepcopy(pipe.transformer)
                quantise(network, again)
            else:
                quantise(network, sets.get(calibrated, []))
        with replaced(pipe, network):
            found = {"all": drawn(None) if quantise else (exact, images), "plan": drawn(plan)}
        errors = {name: error(latents) for name, (latents, _) in found.items()}
        rounding = error(found["plan"][0], forecast)
        square, own = float(np.hypot(alone, errors["all"])), float(np.hypot(alone, rounding))
        out.append({
            "kind": kind, "calibrated": calibrated, "error": round(errors["all"], 5),
            "planned": round(errors["plan"], 5), "rounding": round(rounding, 5),
            "square": round(square, 5), "own_square": round(own, 5),
            "psnr": fidelity(psnr(found["plan"][1], images)),
            "psnr_all": fidelity(psnr(found["all"][1], images)) if quantise else None,
        })  # fmt: skip
        report(f"{kind}, {calibrated}: {errors['all']:.4f}, plan {errors['plan']:.4f}, rss {square:.4f} {own:.4f}")
    counts = {name: len(some) for name, some in sets.items()}
    return {"rows": out, "images": len(images), "pairs": pairs, "calls": counts}


def smooth(network: nn.Module, calls: Sequence[DenoiserCall]) -> None:
    """Static int8 with SmoothQuant of 0.5."""
    static(network, calls, 0.5)
