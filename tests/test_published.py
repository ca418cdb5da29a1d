"""Whole runs against literal transcriptions of the published recursions, on random data in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from skipcast import Method, method
from skipcast.controllers import Periodic
from skipcast.coordinates import Balanced, Chebyshev
from skipcast.forecasters import Lagrange, Mapped, TaylorSeer
from skipcast.targets import GlobalDrift
from support.cases import GRID, by_derivatives, drive

STEPS = 50


def taylorseer(values: np.ndarray, order: int, interval: int, first_enhance: int) -> np.ndarray:
    """arXiv:2503.06923 as released: one gap for every derivative."""
    return by_derivatives(
        values, interval, first_enhance, lambda k: [k**i / math.factorial(i) for i in range(order + 1)]
    )


def mapped_time(nodes: list[int], target: int, mapping: str, alpha: float) -> tuple[list[float], float]:
    """Balanced: tanh around the mean. Chebyshev: by rank, continued along the line of the last two pairs."""
    if mapping == "balanced":
        mean = sum(nodes) / len(nodes)
        reach = max(abs(t - mean) for t in nodes)
        return [math.tanh(alpha * (t - mean) / reach) for t in nodes], math.tanh(alpha * (target - mean) / reach)
    count = len(nodes)
    places = sorted((math.cos((2 * i + 1) * math.pi / (2 * count)) for i in range(count)), reverse=True)
    slope = (places[-1] - places[-2]) / (nodes[-1] - nodes[-2])
    return places, places[-1] + slope * (target - nodes[-1])


def resilphase(inputs: np.ndarray, outputs: np.ndarray, m: int, mapping: str, interval: int, warmup: int) -> np.ndarray:
    """arXiv:2606.26769: barycentric formula on the drifts of the newest m + 1 evaluations, in the mapped step."""
    found, kept, counter = [], [], 0
    for step, (x, y) in enumerate(zip(inputs, outputs, strict=True)):
        if step < warmup or counter == interval - 1:
            kept, counter = [*kept, (step, y - x)][-(m + 1) :], 0
            found.append(y)
            continue
        counter += 1
        if len(kept) == 1:
            found.append(x + kept[0][1])
            continue
        s, wanted = mapped_time([t for t, _ in kept], step, mapping, 0.55)
        w = [1 / math.prod(s[j] - s[i] for i in range(len(s)) if i != j) for j in range(len(s))]
        above = sum(w[j] / (wanted - s[j]) * kept[j][1] for j in range(len(s)))
        below = sum(w[j] / (wanted - s[j]) for j in range(len(s)))
        found.append(x + above / below)
    return np.array(found)


def random(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((STEPS, 2, 3))


@pytest.mark.parametrize("warmup, interval", [(3, 6), (3, 4), (3, 5), (2, 4), (1, 5), (5, 3)])
@pytest.mark.parametrize("order", [0, 1, 2, 3, 4])
def test_taylorseer_is_the_released_recursion(order: int, warmup: int, interval: int) -> None:
    values = random(1)
    built = Method(TaylorSeer(order, start=max(warmup - 2, 0)), Periodic(warmup, interval))
    assert built == method(f"taylorseer:order={order},warmup={warmup},interval={interval}")
    found = drive(built, GRID, torch.from_numpy(values))
    assert np.abs(found.numpy() - taylorseer(values, order, interval, warmup)).max() < 1e-10


@pytest.mark.parametrize("warmup, interval", [(3, 6), (3, 5), (2, 4), (1, 5)])
@pytest.mark.parametrize("mapping", ["balanced", "chebyshev"])
@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_resilphase_is_the_published_formula(m: int, mapping: str, warmup: int, interval: int) -> None:
    inputs, outputs = random(2), random(3)
    phase = Balanced(0.55) if mapping == "balanced" else Chebyshev()
    built = Method(Mapped(Lagrange(m), phase), Periodic(warmup, interval), target=GlobalDrift())
    assert built == method(f"resilphase:order={m},phase={mapping},warmup={warmup},interval={interval}")
    found = drive(built, GRID, torch.from_numpy(outputs), torch.from_numpy(inputs))
    assert np.abs(found.numpy() - resilphase(inputs, outputs, m, mapping, interval, warmup)).max() < 1e-10


def test_the_transcriptions_tell_variants_apart() -> None:
    """A start at step 0 instead of 1 shows from the second evaluated window on; another alpha everywhere."""
    values = random(1)
    published = taylorseer(values, 2, 6, 3)
    early = drive(Method(TaylorSeer(2), Periodic(3, 6)), GRID, torch.from_numpy(values)).numpy()
    assert np.abs(early - published)[3:8].min() > 1e-3
    assert np.abs(early - published)[8:].max() < 1e-10
