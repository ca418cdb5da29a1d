"""cache-dit: a tableau as one of its calibrators, with the steps that it belongs to.

What a plan holds cannot go along: cache-dit forecasts a residual inside the network, and the sampler is another's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from skipcast.checks import guarded
from skipcast.grid import TimeGrid
from skipcast.parts import Method
from skipcast.tableaux import evaluated_steps, tableau

NAME = "skipcast"  # of the calibrator's type


class TableauCalibrator:
    """Forecasts what cache-dit remembers by the rows of a tableau: step i is sum_j table[i, j] value_j.

    It has the four methods that cache-dit calls. Sums are taken in float32 at least, and a value is held only as long
    as a later row weighs it.

    Args:
        table: (N, N), lower triangular; the weights of a row are those of evaluated steps.

    Raises:
        ValueError: the table is not square, holds a value that is not finite, or weighs a later step.
    """

    @guarded()
    def __init__(self, table: ArrayLike) -> None:
        weights = np.asarray(table, dtype=np.float64)
        if weights.ndim != 2 or weights.shape[0] != weights.shape[1] or not np.isfinite(weights).all():
            raise ValueError(f"TableauCalibrator(table=...) must be (N, N) and finite, got shape {weights.shape}.")
        if np.triu(weights, 1).any():
            raise ValueError("TableauCalibrator(table=...) weighs outputs of steps that are still to come.")
        self._rows = [{j: float(w) for j, w in enumerate(row) if w} for row in weights]
        self._until = {j: i for i, row in enumerate(self._rows) for j in row}
        self.reset_cache()

    def __repr__(self) -> str:
        return f"TableauCalibrator({len(self._rows)} steps)"

    def reset_cache(self, *_: Any, **__: Any) -> None:
        """Begin a run."""
        self._step = -1
        self._known: dict[str, dict[int, Tensor]] = {}

    def mark_step_begin(self, *_: Any, **__: Any) -> None:
        """Count a step."""
        self._step += 1

    def update(self, value: Tensor, name: str = "default") -> None:
        """Take what was computed at this step."""
        held = {j: known for j, known in self._known.get(name, {}).items() if self._until.get(j, -1) >= self._step}
        self._known[name] = {**held, self._step: value}

    def approximate(self, name: str = "default") -> Tensor:
        """The forecast for this step.

        Raises:
            ValueError: the steps that were computed are not those of the table.
        """
        row, known = self._rows[self._step] if self._step < len(self._rows) else {}, self._known.get(name, {})
        if not row or not row.keys() <= known.keys():
            raise ValueError(
                f"step {self._step} is forecast from steps {sorted(row)}, computed were {sorted(known)}: give "
                "cache-dit the cache_config and the number of steps that came with this calibrator."
            )
        newest = known[max(row)]
        total = torch.zeros_like(newest, dtype=torch.promote_types(newest.dtype, torch.float32))
        for j, weight in row.items():
            total.add_(known[j], alpha=weight)
        return total.to(newest.dtype)


def register() -> None:
    """Have cache-dit know calibrators of the type "skipcast"; again is nothing.

    Raises:
        ImportError: cache-dit is missing, or has no such place.
    """
    context = _cache_context()
    original = context.Calibrator
    if getattr(original, "_skipcast", False):
        return

    def calibrator(config: Any) -> Any:
        return TableauCalibrator(**config.to_kwargs()) if config.calibrator_type == NAME else original(config)

    calibrator._skipcast = True  # type: ignore[attr-defined]
    context.Calibrator = calibrator


@guarded()
def settings(method: Method, grid: TimeGrid, separate_guidance: bool | None = None) -> dict[str, Any]:
    """The arguments with which `cache_dit.enable_cache` runs a method's steps and weights.

        method = sc.Method(sc.forecasters.Lagrange(2), sc.controllers.FixedSteps(plan.steps))
        cache_dit.enable_cache(pipe, **settings(method, sc.TimeGrid.shifted(50)))

    Its first block is computed at every step, as always there; the residual of the others is what is forecast. So it is
    the method on another target than its own.

    Args:
        method: of fixed steps and a linear forecaster.
        grid: the N steps of the pipeline's call.
        separate_guidance: whether the pipeline calls its network twice a step, once for each branch of guidance; None
            leaves it to what cache-dit knows of the pipeline.

    Raises:
        ValueError: the method's steps or weights depend on values.
        ImportError: cache-dit is missing.
    """
    steps, table = set(evaluated_steps(method, grid)), tableau(method, grid)
    register()
    from cache_dit import DBCacheConfig
    from cache_dit.caching.cache_contexts.calibrators import CalibratorConfig

    cache = DBCacheConfig(
        Fn_compute_blocks=1,
        Bn_compute_blocks=0,
        max_warmup_steps=1,
        num_inference_steps=len(grid),
        steps_computation_mask=[int(step in steps) for step in range(len(grid))],
        steps_computation_policy="static",
        enable_separate_cfg=separate_guidance,
    )
    calibrator = CalibratorConfig(
        enable_calibrator=True,
        enable_encoder_calibrator=True,
        calibrator_type=NAME,
        calibrator_kwargs={"table": table.tolist()},
    )
    return {"cache_config": cache, "calibrator_config": calibrator}


def _cache_context() -> Any:
    """The module of cache-dit that makes calibrators."""
    try:
        import cache_dit  # noqa: F401
        from cache_dit.caching.cache_contexts import cache_context
    except ImportError as error:
        raise ImportError(
            f'the calibrator needs cache-dit 1.5 ({error}); run: pip install "cache-dit>=1.5,<2"'
        ) from error
    if not hasattr(cache_context, "Calibrator"):
        raise ImportError("this version of cache-dit makes its calibrators elsewhere; install cache-dit 1.5.")
    return cache_context
