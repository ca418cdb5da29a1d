"""The hooks of diffusers beside the library's methods, at equal settings, on tiny networks with random weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from diffusers import FirstBlockCacheConfig, TaylorSeerCacheConfig
from diffusers.hooks.mag_cache import FLUX_MAG_RATIOS, MagCacheConfig
from torch import Tensor

import skipcast as sc
from research.cost.models import ARCHITECTURES, Pipe
from research.cost.rows import Enabled
from research.cost.runs import run
from skipcast.controllers import FixedSteps, MagnitudeError
from skipcast.forecasters import Reuse, TaylorSeer
from skipcast.targets import GlobalDrift

Steps = tuple[int, ...]


@dataclass(frozen=True)
class Peer:
    """A hook beside a method.

    Args:
        name: the hook's, with its settings.
        config: makes the hook's configuration for a run of so many steps.
        method: the library's.
        why: one sentence on every difference that is not zero; empty where there is none.
        told: how the page writes the method, where it has no name.
        model: the network.
        steps: of the run.
    """

    name: str
    config: Callable[[int], Any]
    method: str | sc.Method
    why: str = ""
    told: str = ""
    model: str = "flux-depth"
    steps: int = 28


@dataclass(frozen=True)
class Beside:
    """What a pair of runs came to: the steps of the hook and of the library, and the largest difference of latents.

    Args:
        peer: the pair.
        theirs: steps that the hook evaluated.
        ours: steps that the library evaluated.
        difference: of the final latents.
        moved: how far the hook is from the unaccelerated run, to judge the difference by.
    """

    peer: Peer
    theirs: Steps
    ours: Steps
    difference: float
    moved: float


def _taylor(order: int, interval: int = 5) -> Callable[[int], Any]:
    return lambda steps: TaylorSeerCacheConfig(
        cache_interval=interval,
        disable_cache_before_step=3,
        max_order=order,
        taylor_factors_dtype=torch.float64,
        use_lite_mode=True,
    )


def _magnitudes(steps: int) -> Any:
    return MagCacheConfig(
        threshold=0.24, max_skip_steps=5, retention_ratio=0.1, num_inference_steps=steps, mag_ratios=FLUX_MAG_RATIOS
    )


def _sea(steps: int) -> Any:
    from diffusers.hooks.sea_cache import SeaCacheConfig

    return SeaCacheConfig(threshold=0.25)


PEERS: tuple[Peer, ...] = (
    Peer("FirstBlockCache, threshold 0.4", lambda steps: FirstBlockCacheConfig(threshold=0.4), "fbcache:threshold=0.4"),
    Peer("FirstBlockCache, threshold 0.6", lambda steps: FirstBlockCacheConfig(threshold=0.6), "fbcache:threshold=0.6"),
    Peer(
        "TaylorSeer lite, order 1, interval 5, warm-up 3",
        _taylor(1),
        "taylorseer:order=1,interval=5,warmup=3",
        "The hook counts its intervals from the second step behind the warm-up, the authors from the last step of it.",
    ),
    Peer(
        "TaylorSeer lite, order 1, on the hook's steps",
        _taylor(1),
        "taylorseer:order=1,schedule=0.1.2.4.9.14.19.24",
    ),
    Peer(
        "TaylorSeer lite, order 2, on the hook's steps",
        _taylor(2),
        "taylorseer:order=2,schedule=0.1.2.4.9.14.19.24",
        "The hook builds derivatives from step 0 on, the authors from step 1, the last but one of the warm-up; so the "
        "second derivative that step 3 uses is missing in the authors' rule, and the latents behind it differ.",
    ),
    Peer(
        "TaylorSeer lite, order 2, on the hook's steps and from step 0",
        _taylor(2),
        sc.Method(TaylorSeer(2, start=0), FixedSteps((0, 1, 2, 4, 9, 14, 19, 24))),
        told="TaylorSeer(2, start=0)",
    ),
    Peer(
        "MagCache, FLUX, 0.24, 5, 0.1",
        _magnitudes,
        "magcache",
        "The authors' script for FLUX also evaluates the step at place 11 of 27, whatever has added up, which the hook "
        "leaves out.",
    ),
    Peer(
        "MagCache, the same ratios as a table",
        _magnitudes,
        sc.Method(
            Reuse(), MagnitudeError(tuple(FLUX_MAG_RATIOS.double().tolist()), 0.24, 5, 0.1), target=GlobalDrift()
        ),
        told="MagnitudeError(ratios, 0.24, 5, 0.1)",
    ),
    Peer("SeaCache, its defaults, Wan", _sea, "seacache", model="wan-1.3b", steps=30),
)


@cache
def _pipe(model: str) -> Pipe:
    return Pipe(ARCHITECTURES[model].tiny(), "cpu", torch.float64)


def _seen(pipe: Pipe, steps: int, begin: Callable[[], None] = lambda: None) -> tuple[Steps, Tensor]:
    """The steps at which the middle of the network ran, and the final latents."""
    ran: set[int] = set()
    at = 0

    def note(*_: Any) -> None:
        ran.add(at)

    def after() -> None:
        nonlocal at
        at += 1

    handle = pipe.witness().register_forward_pre_hook(note)
    try:
        latents = run(Enabled(pipe, begin=begin), steps, "cpu", after).latents
    finally:
        handle.remove()
    return tuple(sorted(ran)), latents


def beside(peer: Peer) -> Beside:
    """A pair of runs from the same noise."""
    pipe = _pipe(peer.model).fresh()
    plain = _seen(pipe, peer.steps)[1]
    network: Any = pipe.transformer
    network.enable_cache(peer.config(peer.steps))
    try:
        theirs, hooked = _seen(pipe, peer.steps, network._reset_stateful_cache)
    finally:
        network.disable_cache()
    pipe = pipe.fresh()
    with sc.accelerate(pipe, peer.method), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "hooks on")  # the one that counts is there to not be called
        ours, latents = _seen(pipe, peer.steps)
    pipe.fresh()
    apart, moved = (float((other - hooked).abs().max()) for other in (latents, plain))
    return Beside(peer, theirs, ours, apart, moved)
