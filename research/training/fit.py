"""One resumable training loop for every stage of the reference model.

The batch of a step is a function of the seed and the step, so a killed run continues exactly where its newest
checkpoint was written and ends in the same place as one that was never interrupted.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn


@dataclass(frozen=True)
class Recipe:
    """Optimisation settings of one stage."""

    steps: int
    rate: float
    warmup: int = 200
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.0  # decay of the averaged weights; 0 keeps none
    anneal: float = 1.0  # final share of the run over which the rate falls to zero along a cosine
    muon: bool = False  # Muon for the matrices that `fit` is given, AdamW for everything else

    def rate_at(self, step: int) -> float:
        start = self.steps * (1 - self.anneal)
        fall = min(max((step - start) / max(self.steps - start, 1), 0.0), 1.0)
        return self.rate * min(1.0, (step + 1) / self.warmup) * 0.5 * (1 + math.cos(math.pi * fall))


class Stateful(Protocol):
    """What a loss remembers from step to step."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


def save_atomically(state: Any, path: Path) -> None:
    """Write a training checkpoint so that a kill leaves either the old file or the new one."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def fit(
    name: str,
    folder: Path,
    modules: Sequence[nn.Module],
    loss: Callable[[int], tuple[Tensor, dict[str, float]]],
    recipe: Recipe,
    *,
    matrices: Sequence[nn.Parameter] = (),
    every: float = 60.0,
    states: Sequence[Stateful] = (),
    at: Sequence[int] = (),
    measure: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
    """Minimise `loss(step)` over the parameters of `modules`; returns the log, one record per 50 steps.

    `loss` returns the scalar to descend and figures to log. With `recipe.muon`, `matrices` are orthogonalised
    (Muon, arXiv:2502.16982). With `recipe.ema` the modules hold the averaged weights when the loop ends. Checkpoints
    go to `folder/<name>.checkpoint.pt` every `every` seconds, with what the loss remembers in `states`. After the
    steps of `at`, `measure` is told the step while the modules hold the averaged weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, log_file = folder / f"{name}.checkpoint.pt", folder / f"{name}.log.jsonl"
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    optimizers = _optimizers(parameters, matrices if recipe.muon else (), recipe)
    averaged = [p.detach().clone() for p in parameters] if recipe.ema else []
    log: list[dict[str, Any]] = []
    start, spent = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        for p, value in zip(parameters, state["parameters"], strict=True):
            p.data.copy_(value)
        for optimizer, value in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(value)
        for holder, value in zip(states, state.get("states", []), strict=False):  # older checkpoints have none
            holder.load_state_dict(value)
        averaged, start, spent = state["averaged"], state["step"], state["seconds"]
        log = [json.loads(line) for line in log_file.read_text().splitlines()]
        log = [record for record in log if record["step"] <= start]

    def keep(step: int, seconds: float) -> None:
        draft = log_file.with_suffix(".tmp")
        draft.write_text("".join(json.dumps(record) + "\n" for record in log))
        os.replace(draft, log_file)
        save_atomically(
            {
                "parameters": [p.detach() for p in parameters],
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "averaged": averaged,
                "step": step,
                "seconds": seconds,
                "states": [holder.state_dict() for holder in states],
            },
            checkpoint,
        )

    columns = (TextColumn(f"{name} {{task.fields[figures]}}"), BarColumn(), MofNCompleteColumn())
    begun, kept = time.monotonic() - spent, time.monotonic()
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), refresh_per_second=0.5) as progress:
        task = progress.add_task(name, total=recipe.steps, completed=start, figures="")
        for step in range(start, recipe.steps):
            value, figures = loss(step)
            value.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, recipe.clip)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = recipe.rate_at(step)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            if averaged:
                decay = min(recipe.ema, (1 + step) / (10 + step))
                torch._foreach_lerp_(averaged, [p.detach() for p in parameters], 1 - decay)
            seconds = time.monotonic() - begun
            if step % 50 == 49 or step + 1 == recipe.steps:
                log.append({"step": step + 1, "seconds": round(seconds, 1), "loss": value.item(), **figures})
            progress.update(task, completed=step + 1, figures=" ".join(f"{k} {v:.4g}" for k, v in figures.items()))
            if measure is not None and step + 1 in at:
                paused = time.monotonic()
                own = [p.detach().clone() for p in parameters]
                _put(parameters, averaged or own)
                measure(step + 1)
                _put(parameters, own)
                begun += time.monotonic() - paused
            if time.monotonic() - kept > every or step + 1 == recipe.steps:
                keep(step + 1, seconds)
                kept = time.monotonic()
    if averaged:
        _put(parameters, averaged)
    return log


def _put(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for p, value in zip(parameters, values, strict=True):
        p.data.copy_(value)


def _optimizers(
    parameters: Sequence[nn.Parameter], matrices: Sequence[nn.Parameter], recipe: Recipe
) -> list[torch.optim.Optimizer]:
    """AdamW, and Muon for `matrices` with its updates scaled to AdamW's, so that one rate serves both."""
    by_muon = {id(p) for p in matrices}
    rest = [p for p in parameters if id(p) not in by_muon]
    found: list[torch.optim.Optimizer] = []
    if rest:
        found.append(
            torch.optim.AdamW(rest, lr=recipe.rate, betas=(0.9, 0.99), weight_decay=recipe.weight_decay, fused=True)
        )
    if matrices:
        found.append(
            torch.optim.Muon(matrices, lr=recipe.rate, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw")
        )
    return found
