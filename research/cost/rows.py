"""The rows of the cost benchmark: our methods at every seam, a plan, and the caches of other libraries.

All evaluate the same evenly spaced steps, as far as they can be configured to; `configured` says how. Enabling a row
yields the pipeline to run and what to do at the beginning of a run and before each of its steps.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

import skipcast as sc
from research.cost.models import Pipe
from skipcast.controllers import StaticController
from skipcast.parts import memory

CACHE_DIT = "cache-dit is not installed (pip install --no-deps cache-dit==1.5.3 pyyaml)"


class NotMeasured(Exception):
    """A row that cannot be run here, and why."""


@dataclass(frozen=True)
class Request:
    """What every row evaluates: n of N steps, evenly spaced."""

    steps: int
    evaluations: int

    @property
    def places(self) -> tuple[int, ...]:
        """The evaluated steps."""
        return sc.controllers.Even(self.evaluations).evaluated(self.steps)

    @property
    def interval(self) -> int:
        """Steps from one evaluation to the next; peers that count know nothing finer."""
        return math.ceil(self.steps / self.evaluations)


@dataclass
class Enabled:
    """A pipeline with a row switched on.

    Args:
        pipe: what runs.
        begin: called before every run, outside the clock.
        before: called before every step with its number, inside the clock.
        ours: our method or plan, for the predicted memory.
    """

    pipe: Pipe
    begin: Callable[[], None] = lambda: None
    before: Callable[[int], None] = lambda step: None
    ours: sc.Method | sc.Plan | None = None


Enable = Callable[[Pipe, Request], AbstractContextManager[Enabled]]


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Args:
        name: what `--rows` calls it.
        label: what the page calls it.
        seam: where the forecast enters the network.
        configured: how it was configured to evaluate those steps.
        enable: switches it on for a pipeline and off again.
        whose: "skipcast", "diffusers" or "cache-dit"; empty for the plain run.
    """

    name: str
    label: str
    seam: str
    configured: str
    enable: Enable
    whose: str = "skipcast"


@contextmanager
def _plain(pipe: Pipe, request: Request) -> Iterator[Enabled]:
    yield Enabled(pipe)


# Ours -----------------------------------------------------------------------------------------------------------------


def _ours(name: str, spec: str, seam: str) -> Row:
    """A registered method on the evenly spaced steps."""

    @contextmanager
    def enable(pipe: Pipe, request: Request) -> Iterator[Enabled]:
        with _accelerated(pipe, _even(spec, request)) as enabled:
            yield enabled

    return Row(name, f"`{spec}`", seam, "schedule=even", enable)


def _even(spec: str, request: Request) -> sc.Method:
    method = sc.method(spec)
    assert isinstance(method, sc.Method)
    try:
        return replace(method, controller=sc.controllers.Even(request.evaluations))
    except ValueError as refused:
        raise NotMeasured(str(refused)) from refused


@contextmanager
def _plan(pipe: Pipe, request: Request) -> Iterator[Enabled]:
    """A compiled method: the same samples, without a hook in the network."""
    method = _even("lagrange:order=2", request)
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    scheduler.set_timesteps(request.steps)
    with _accelerated(pipe, sc.compile_plan(method, scheduler)) as enabled:
        yield enabled


@contextmanager
def _accelerated(pipe: Pipe, method: sc.Method | sc.Plan) -> Iterator[Enabled]:
    try:
        context = sc.accelerate(pipe, method)
    except ValueError as refused:
        raise NotMeasured(str(refused)) from refused
    with context:
        yield Enabled(pipe, ours=method)


# diffusers ------------------------------------------------------------------------------------------------------------


def _config(name: str) -> Any:
    import diffusers

    if not hasattr(diffusers, name):
        raise NotMeasured(f"diffusers {diffusers.__version__} has no {name}")
    return getattr(diffusers, name)


@contextmanager
def _cached(pipe: Pipe, config: Any) -> Iterator[Enabled]:
    """One of the library's caches on the transformer, emptied before every run."""
    network: Any = pipe.transformer
    try:
        network.enable_cache(config)
    except ValueError as refused:
        raise NotMeasured(str(refused)) from refused
    try:
        yield Enabled(pipe, begin=network._reset_stateful_cache)
    finally:
        network.disable_cache()


@contextmanager
def _first_block(pipe: Pipe, request: Request) -> Iterator[Enabled]:
    with _cached(pipe, _config("FirstBlockCacheConfig")(threshold=math.inf)) as enabled:
        registry: Any = pipe.layers()[0]._diffusers_hook
        (hook,) = (hook for hook in registry.hooks.values() if hasattr(hook, "threshold"))

        def before(step: int) -> None:
            hook.threshold = -1.0 if step in request.places else math.inf

        enabled.before = before
        yield enabled


@contextmanager
def _magnitudes(pipe: Pipe, request: Request) -> Iterator[Enabled]:
    ratios = [1e6 if step in request.places else 1.0 for step in range(request.steps)]
    kind = _config("MagCacheConfig")
    config = kind(
        threshold=0.5,
        max_skip_steps=request.steps,
        retention_ratio=0.0,
        num_inference_steps=request.steps,
        mag_ratios=ratios,
    )
    with _cached(pipe, config) as enabled:
        yield enabled


def _taylor(*, lite: bool) -> Enable:
    @contextmanager
    def enable(pipe: Pipe, request: Request) -> Iterator[Enabled]:
        kind = _config("TaylorSeerCacheConfig")
        # It evaluates steps below `disable_cache_before_step` and then every step s with s - that - 1 a multiple.
        config = kind(
            cache_interval=request.interval,
            disable_cache_before_step=-1,
            max_order=1,
            taylor_factors_dtype=pipe.noise.dtype,
            use_lite_mode=lite,
        )
        with _cached(pipe, config) as enabled:
            yield enabled

    return enable


@contextmanager
def _sea(pipe: Pipe, request: Request) -> Iterator[Enabled]:
    kind = _config("SeaCacheConfig")
    config = kind(
        threshold=1e9,
        retention_steps=1,
        cache_end_steps=0,
        max_consecutive_cached=request.interval - 1,
        raw_vision_callback=_latents(pipe),
    )
    with _cached(pipe, config) as enabled:
        yield enabled


def _latents(pipe: Pipe) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], list[Tensor]]:
    """The latents as SeaCache's indicator wants them, (C, T, H, W) each; for packed ones it has no adapter."""
    height, width, _ = pipe.shape.size

    def found(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
        x: Tensor = kwargs["hidden_states"]
        if x.ndim == 5:
            return list(x.unbind(0))
        rows, columns = height // 16, width // 16
        unpacked = x.unflatten(2, (-1, 2, 2)).unflatten(1, (rows, columns)).permute(0, 3, 1, 4, 2, 5)
        return list(unpacked.reshape(len(x), -1, 1, 2 * rows, 2 * columns).unbind(0))

    return found


# cache-dit ------------------------------------------------------------------------------------------------------------


def _blocks_cache(*, taylor: bool) -> Enable:
    @contextmanager
    def enable(pipe: Pipe, request: Request) -> Iterator[Enabled]:
        if importlib.util.find_spec("cache_dit") is None:
            raise NotMeasured(CACHE_DIT)
        os.environ.setdefault("CACHE_DIT_LOG_LEVEL", "error")  # else it reports every run
        import cache_dit

        def settings() -> dict[str, Any]:
            mask = [int(step in request.places) for step in range(request.steps)]
            config = cache_dit.DBCacheConfig(
                Fn_compute_blocks=1,
                Bn_compute_blocks=0,
                max_warmup_steps=1,
                residual_diff_threshold=1e9,
                num_inference_steps=request.steps,
                enable_separate_cfg=len(pipe.branches) > 1,
                steps_computation_mask=mask,
                steps_computation_policy="static",
            )
            order = cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=1)
            return {"cache_config": config} | ({"calibrator_config": order} if taylor else {})

        network: Any = pipe.transformer
        kept, order = set(vars(network)), list(network._modules)
        try:
            cache_dit.enable_cache(network, **settings())
        except (ValueError, AssertionError) as refused:
            raise NotMeasured(f"cache-dit refuses {type(network).__name__}: {refused}") from refused
        try:
            yield Enabled(pipe, begin=lambda: cache_dit.refresh_context(network, **settings()))
        finally:
            cache_dit.disable_cache(network)
            for left in set(vars(network)) - kept:
                delattr(network, left)
            # It takes the lists of blocks out and puts them back at the end, and the caches of diffusers take the first
            # block of the first list for the head of the network.
            for name in order:
                network._modules[name] = network._modules.pop(name)

    return enable


_DIFFUSERS, _CACHE_DIT = "diffusers", "cache-dit"
ROWS = (
    Row("plain", "plain", "-", "evaluates every step", _plain, ""),
    _ours("reuse", "reuse", "output"),
    _ours("lagrange", "lagrange:order=2", "output"),
    _ours("resilphase", "resilphase", "block stack"),
    _ours("spectrum", "spectrum", "block stack"),
    _ours("taylorseer", "taylorseer:target=modules", "modules"),
    Row("plan", "plan (`lagrange:order=2`, compiled)", "scheduler", "schedule=even", _plan),
    Row(
        "fbc",
        "FirstBlockCache",
        "after the first block",
        "its threshold is set before every step: -1 to evaluate, infinity to skip",
        _first_block,
        _DIFFUSERS,
    ),
    Row(
        "magcache",
        "MagCache",
        "block stack",
        "`mag_ratios` of 1e6 at the steps to evaluate, else 1; `retention_ratio=0`",
        _magnitudes,
        _DIFFUSERS,
    ),
    Row(
        "diffusers-taylorseer",
        "TaylorSeer (default)",
        "attention modules",
        "`cache_interval`, with `disable_cache_before_step=-1` so that it counts from step 0",
        _taylor(lite=False),
        _DIFFUSERS,
    ),
    Row(
        "diffusers-taylorseer-lite",
        "TaylorSeer (lite)",
        "last projection",
        "`cache_interval`, with `disable_cache_before_step=-1` so that it counts from step 0",
        _taylor(lite=True),
        _DIFFUSERS,
    ),
    Row(
        "seacache",
        "SeaCache",
        "block stack",
        "`max_consecutive_cached` with a threshold never reached; it has no adapter for FLUX and HunyuanVideo, so "
        "`raw_vision_callback` unpacks their latents",
        _sea,
        _DIFFUSERS,
    ),
    Row(
        "dbcache",
        "DBCache F1B0",
        "after the first block",
        "`steps_computation_mask`, policy static",
        _blocks_cache(taylor=False),
        _CACHE_DIT,
    ),
    Row(
        "dbcache-taylorseer",
        "DBCache F1B0 + TaylorSeer",
        "after the first block",
        "`steps_computation_mask`, policy static",
        _blocks_cache(taylor=True),
        _CACHE_DIT,
    ),
)


def predicted(enabled: Enabled, steps: int) -> int | None:
    """Bytes that `skipcast show` tells for a method or a plan of ours; not for modules, whose sizes differ."""
    pipe, ours = enabled.pipe, enabled.ours
    if isinstance(ours, sc.Plan):
        return ours.memory * pipe.noise.nbytes
    if ours is None or ours.target.seam == "modules":
        return None
    shape = tuple(pipe.noise.shape)
    if ours.target.seam == "stack":
        shape = (pipe.shape.tokens(), pipe.shape.width())
    evaluations = len(ours.controller.evaluated(steps)) if isinstance(ours.controller, StaticController) else steps
    return memory(ours, evaluations).bytes(shape, pipe.noise.element_size()) * len(pipe.branches)
