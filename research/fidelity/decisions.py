"""Which steps the authors' rules evaluate, told again without the library's own controllers.

Rules on values alone return steps; where the decision and the forecast belong together, both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from research.fidelity.sequences import Array
from skipcast import TimeGrid

Steps = tuple[int, ...]

#: Nine of 50 steps: nanguoyu/Golden-Path-Hypothesis, README.
SEARCHED: dict[str, Steps] = {
    "golden": (0, 1, 2, 4, 6, 13, 24, 41, 49),
    "budcache": (0, 1, 2, 4, 7, 13, 20, 39, 49),
    "meancache": (0, 1, 2, 3, 4, 9, 19, 34, 49),
    "dpcache-golden": (0, 1, 2, 5, 11, 20, 29, 40, 49),
    "seacache-steps": (0, 1, 3, 6, 11, 18, 29, 41, 49),
}

#: argsss/DPCache@59f08a4: its search on its costs, 50 steps, the last one not forced for FLUX.
DPCACHE: dict[str, Steps] = {
    "dpcache-flux-8": (0, 1, 2, 5, 11, 19, 28, 38),
    "dpcache-flux-10": (0, 1, 2, 4, 8, 13, 19, 25, 33, 42),
    "dpcache-flux-11": (0, 1, 2, 4, 8, 13, 19, 24, 30, 37, 44),
    "dpcache-flux-13": (0, 1, 2, 4, 7, 10, 14, 19, 23, 28, 34, 40, 45),
    "dpcache-flux-17": (0, 1, 2, 3, 5, 7, 9, 11, 14, 18, 21, 23, 27, 32, 37, 42, 46),
    "dpcache-wan-10": (0, 1, 2, 3, 6, 11, 18, 27, 38, 49),
    "dpcache-wan-12": (0, 1, 2, 3, 5, 8, 13, 19, 26, 34, 42, 49),
}

# By the number of the step ---------------------------------------------------------------------------------------


def counter(steps: int, warmup: int, interval: int) -> Steps:
    """The released rule: evaluate during the warm-up, and whenever the counter of forecasts reaches interval - 1."""
    evaluated, since = [], 0
    for step in range(steps):
        if step < warmup or since == interval - 1:
            evaluated.append(step)
            since = 0
        else:
            since += 1
    return tuple(evaluated)


def growing(steps: int, warmup: int, window: float, growth: float) -> Steps:
    """Spectrum's rule: the window grows by `growth` at every evaluation behind the warm-up."""
    evaluated, forecasts = [], 0
    for step in range(steps):
        if step < warmup:
            evaluated.append(step)
        elif (forecasts + 1) % math.floor(window) == 0:
            evaluated.append(step)
            window, forecasts = round(window + growth, 3), 0
        else:
            forecasts += 1
    return tuple(evaluated)


def multiples(steps: int, first: int, interval: int, *, last: bool) -> Steps:
    """The first steps, every multiple of the interval, and with `last` the last step."""
    return tuple(s for s in range(steps) if s < first or s % interval == 0 or (last and s == steps - 1))


def fsampler_skips(step: int, total: int, order: int, calls: int, first: int, tail: int) -> bool:
    """obisin/ComfyUI-FSampler@128c7ff: one step in calls + 1, behind the first and before the last ones."""
    if step < first or step >= total - tail:
        return False
    return (step - max(first, order)) % (calls + 1) == calls


# By measured magnitudes ------------------------------------------------------------------------------------------


def _nearest(ratios: Array, steps: int) -> Array:
    return np.asarray(ratios[np.round(np.arange(steps) * ((len(ratios) - 1) / (steps - 1))).astype(int)])


def magcache_flux(ratios: Array, steps: int, threshold: float, most: int, retention: float) -> Steps:
    """MagCache4FLUX: a rounded start, and the place 11 of 27 in any case."""
    ratio, count, error, evaluated = 1.0, 0, 0.0, []
    for step, gamma in enumerate(_nearest(ratios, steps)):
        if step >= int(retention * steps + 0.5):
            ratio, count = ratio * gamma, count + 1
            error += abs(1 - ratio)
            middle = np.round(step * (27 / (steps - 1))) == 11
            if error <= threshold and count <= most and not middle:
                continue
            ratio, count, error = 1.0, 0, 0.0
        evaluated.append(step)
    return tuple(evaluated)


def magcache_guided(ratios: Array, steps: int, threshold: float, most: int, retention: float, calls: int) -> Steps:
    """MagCache4HunyuanVideo with one call a step; MagCache4Wan2.1 and MagCache4QwenImage with two, the first branch."""
    ratio, count, error, evaluated = 1.0, 0, 0.0, []
    for step, gamma in enumerate(_nearest(ratios, steps)):
        if calls * step >= int(calls * steps * retention):
            ratio, count = ratio * gamma, count + 1
            error += abs(1 - ratio)
            if error <= threshold and count <= most:
                continue
            ratio, count, error = 1.0, 0, 0.0
        evaluated.append(step)
    return tuple(evaluated)


def racfgcache(tables: tuple[Array, Array, Array], scale: float, tau: float, gain: Sequence[float], warm: int) -> Steps:
    """yiming-l21/RA-CFGCache@76359ee, FLUX with magcache_proxy: the guided risk of reusing both, in float64."""
    gamma_c, gamma_u, rho = tables
    steps = len(rho)
    a, alpha, b = gain
    raw = np.array([a * ((steps - 1 - k) / (steps - 1)) ** alpha + b for k in range(steps)])
    schedule = raw / raw.mean()
    products = [np.cumprod(np.append(1.0, gamma[1:])) for gamma in (gamma_c, gamma_u)]
    anchor, spent, full = 0, 0.0, []
    for t in range(steps):
        if t > warm:
            e_c, e_u = (abs(1.0 - p[t] / p[anchor]) for p in products)
            terms = (1 - scale) ** 2 * e_u**2, scale**2 * e_c**2, 2 * scale * (1 - scale) * e_u * e_c * rho[anchor, t]
            risk = np.sqrt(max(sum(terms), 0.0)) * schedule[t]
            if spent + risk <= tau:
                spent += risk
                continue
        full.append(t)
        anchor, spent = t, 0.0
    return tuple(full)


# By a probe ------------------------------------------------------------------------------------------------------


def teacache(
    probes: Array, threshold: float, polynomial: Sequence[float], kept: Callable[[int, int], bool] | None = None
) -> Steps:
    """ali-vilab/TeaCache@7c10efc, teacache_flux.py: the first and the last step in any case, or those that are kept."""
    rescale, total, full, steps = np.poly1d(polynomial), 0.0, [], len(probes)
    for step, probe in enumerate(probes):
        if step in (0, steps - 1) if kept is None else kept(step, steps):
            total = 0.0
            full.append(step)
        else:
            before = probes[step - 1]
            total += float(rescale(np.abs(probe - before).mean() / np.abs(before).mean()))
            if total >= threshold:
                total = 0.0
                full.append(step)
    return tuple(full)


def teacache_retained(step: int, steps: int) -> bool:
    """TeaCache4Wan2.1 with --use_ret_steps, which counts the calls of both branches; this is the first one's."""
    return 2 * step < 5 * 2 or 2 * step >= steps * 2


def teacache_hidream(step: int, steps: int) -> bool:
    """TeaCache4HiDream-I1: a tenth of the run at its start."""
    return step < steps * 0.1


def fbcache(probes: Array, threshold: float) -> Steps:
    """chengzeyi/ParaAttention@4de137c, utils.py: against the first block's residual at the newest evaluation."""
    full = [0]
    for step in range(1, len(probes)):
        newest = probes[full[-1]]
        if not np.abs(newest - probes[step]).mean() / np.abs(newest).mean() < threshold:
            full.append(step)
    return tuple(full)


def easycache(inputs: Array, outputs: Array, threshold: float, first: int) -> tuple[Steps, Array]:
    """H-EmbodVis/EasyCache@5127804: what the output must have moved by, from the input's moves and their last ratio."""
    full: list[int] = []
    found: list[Array] = []
    total, ratio = 0.0, None
    for step, x in enumerate(inputs):
        if step < first or step == len(inputs) - 1:
            total, calculate = 0.0, True
        elif ratio is None:
            calculate = True
        else:
            total += ratio * np.abs(x - inputs[step - 1]).mean() / np.abs(outputs[full[-1]]).mean()
            calculate = total >= threshold
            total = 0.0 if calculate else total
        if calculate:
            if full:
                moved = np.abs(outputs[step] - outputs[full[-1]]).mean()
                ratio = moved / np.abs(inputs[step] - inputs[full[-1]]).mean()
            full.append(step)
        newest = full[-1]
        found.append(x + (outputs[newest] - inputs[newest]))
    return tuple(full), np.array(found)


def seacache(
    probes: Tensor,
    grid: TimeGrid,
    threshold: float,
    places: tuple[int, ...],
    power: float = 2.0,
    kept: str = "raw",
    most: int | None = None,
) -> Steps:
    """jiwoogit/SeaCache, Wan2.1/seacache_generate.py: the forced steps keep the probe "raw" or "filtered".

    `most` forecasts in a row is of diffusers' hook, hooks/sea_cache.py.
    """
    full: list[int] = []
    total, before = 0.0, probes[0]
    dims = tuple(range(len(places)))
    for step, probe in enumerate(probes):
        forced = step == 0 or step == len(probes) - 1
        if not forced or kept == "filtered":
            field = probe.reshape(*places, -1)
            a, b = (min(max(float(level[step]), 1e-6), 1 - 1e-6) for level in (grid.alpha, grid.sigma))
            gain = torch.ones((), dtype=torch.float64)
            for axis, size in enumerate(places):
                signal = 1 / (torch.fft.fftfreq(size, dtype=torch.float64).abs() ** power + 1e-16)
                shape = [-1 if axis == other else 1 for other in range(len(places) + 1)]
                gain = gain * (a * signal / (a * a * signal + b * b + 1e-16)).reshape(shape)
            probe = torch.fft.ifftn(torch.fft.fftn(field, dim=dims) * gain / gain.mean(), dim=dims).real
        if not forced:
            total += float((probe.ravel() - before).abs().mean() / before.abs().mean())
        if forced or total >= threshold or (most is not None and step - full[-1] > most):
            total = 0.0
            full.append(step)
        before = probe.ravel()
    return tuple(full)


def sencache(
    samples: Tensor,
    times: Array,
    table: tuple[Array, Array, Array],
    main: float,
    early: float,
    most: int,
    edge: int,
) -> Steps:
    """vita-epfl/SenCache@4bf419b: one decision per step, on the first item of the batch.

    `table` holds timesteps and the sensitivities there to the sample and to time.
    """
    steps, evaluated, skips = len(samples), [], 0
    kept: tuple[Tensor, float, float, float] | None = None
    for step in range(steps):
        threshold = early if step < round(steps * 0.2) else main
        sample, time, skip = samples[step, 0], float(times[step]), False
        if edge <= step < steps - edge and kept is not None:
            reference, then, by_sample, by_time = kept
            score = by_sample * float(torch.linalg.vector_norm(sample - reference)) + by_time * abs(time - then)
            skip = score < threshold and skips < most
        if skip:
            skips += 1
            continue
        skips = 0
        evaluated.append(step)
        nearest = int(np.argmin(np.abs(table[0] - time)))
        kept = sample, time, float(table[1][nearest]), float(table[2][nearest])
    return tuple(evaluated)


def _change(now: Tensor, before: Tensor) -> float:
    return float((now - before).abs().mean() / before.abs().mean())


def dicache(
    tokens: Tensor, threshold: float, choice: str, retention: float, limit: float, *, flux: bool
) -> tuple[Steps, Tensor]:
    """The three scripts of Bujiazi/DiCache@dd7f0de; FLUX evaluates one step more at the start, and the last one."""
    steps = tokens.shape[1]
    total = 0.0
    evaluated: list[int] = []
    found: list[Tensor] = []
    residuals: list[Tensor] = []
    probes: list[Tensor] = []
    before = tokens[:2, 0]
    for step in range(steps):
        x, first, y = tokens[:, step]
        free = step >= int(retention * steps) + flux and not (flux and step == steps - 1)
        skip = False
        if free:
            dx, dy = _change(x, before[0]), _change(first, before[1])
            total += abs(dy - dx) if choice == "difference" else dy
            skip = total < threshold
        if skip and len(residuals) >= 2:
            gain = (first - x - probes[-2]).abs().mean() / (probes[-1] - probes[-2]).abs().mean()
            found.append(x + residuals[-2] + gain.clip(1, limit) * (residuals[-1] - residuals[-2]))
        elif skip:
            found.append(x + residuals[-1])
        else:
            total = 0.0
            evaluated.append(step)
            residuals.append(y - x)
            probes.append(first - x)
            found.append(y)
        before = tokens[:2, step]
    return tuple(evaluated), torch.stack(found)


def cg_taylor(
    tokens: Tensor, threshold: float, order: int, block_order: int, first: int, since: int, enhance: int
) -> tuple[Steps, Tensor]:
    """liuxiao-guan/CG-Taylor-DiT@c60a715 models.py, counting steps upwards, and its FLUX form, noting from 5 on."""
    steps = tokens.shape[1]
    block: list[Tensor] = []
    noted: list[int] = [0]
    hidden: list[Tensor] = []
    activated: list[int] = [0]
    evaluated: list[int] = []
    found: list[Tensor] = []
    zero = torch.zeros_like(tokens[0, 0])

    def series(values: Sequence[Tensor], distance: int) -> Tensor:
        return sum((value * distance**i / math.factorial(i) for i, value in enumerate(values)), start=zero)

    def differences(feature: Tensor, older: Sequence[Tensor], gap: int, most: int, *, built: bool) -> list[Tensor]:
        values = [feature]
        for value in older[:most] if built else []:
            values.append((values[-1] - value) / gap)
        return values

    for step in range(steps):
        _, h, y = tokens[:, step]
        guess = series(block, step - noted[-1])
        usable = False
        if step >= first:
            usable = bool((guess - h).abs().mean() / h.abs().mean() < threshold)
        if not usable and step >= since:
            noted.append(step)
            block = differences(h, block, noted[-1] - noted[-2], block_order, built=step > enhance - 2)
        if step in (0, steps - 1) or not usable:
            activated.append(step)
            hidden = differences(y, hidden, activated[-1] - activated[-2], order, built=step > enhance - 2)
            evaluated.append(step)
            found.append(y)
        else:
            found.append(series(hidden, step - activated[-1]))
    return tuple(evaluated), torch.stack(found)


# By what a run remembers -----------------------------------------------------------------------------------------


def speca(errors: Sequence[float], base: float, decay: float, floor: float, least: int, most: int, first: int) -> Steps:
    """Shenyi-Z/Cache4Diffusion@91a1949, cal_type.py: errors are measured where `least` forecasts or more are behind."""
    full, count, last = [0], 0, "full"
    error: float | None = None
    check = False
    for step in range(1, len(errors)):
        if last == "full":
            kind, count, check, error = "forecast", 1, False, None
        else:
            threshold = max(base * decay ** (step / len(errors)), floor)
            check = count >= least
            failed = check and error is not None and error > threshold
            late = step < first or count >= most or failed
            kind, count = ("full", 0) if late else ("forecast", count + 1)
        if kind == "full":
            full.append(step)
        elif check:
            error = errors[step]
        last = kind
    return tuple(full)


def predit(values: Array, tolerance: float, order: int, most: int, warmup: int) -> Steps:
    """arXiv:2602.18093: the form of the horizon is the text's; the change per step and the warm-up are guesses."""
    full: list[int] = []
    horizon = 1
    for step, value in enumerate(values):
        if step >= warmup and step < len(values) - 1 and step - full[-1] <= horizon:
            continue
        if full:
            delta = np.abs(value - values[full[-1]]).sum() / np.abs(value).sum() / (step - full[-1])
            horizon = max(1, min(most, math.floor(tolerance / (delta + 1e-12) ** (1 / (order + 1)))))
        full.append(step)
    return tuple(full)


# FSampler: decision, ratio and forecast together -----------------------------------------------------------------

_DIFFERENCES = {1: [1], 2: [-1, 2], 3: [1, -3, 3], 4: [-1, 4, -6, 4]}


def fsampler(
    velocities: Array, sigma: Array, order: int, calls: int, first: int, tail: int, beta: float
) -> tuple[Steps, Array]:
    """obisin/ComfyUI-FSampler@128c7ff, sample_step_euler, on epsilon = denoised - x: calls, and the velocities used."""
    history: list[Array] = []
    ratio = 1.0
    used: list[Array] = []
    called: list[int] = []
    x = np.random.default_rng(9).standard_normal(velocities.shape[1:])
    for step, velocity in enumerate(velocities):
        if len(history) >= order and fsampler_skips(step, len(velocities), order, calls, first, tail):
            known = history[-order:]
            epsilon = np.sum([c * e for c, e in zip(_DIFFERENCES[len(known)], known, strict=True)], axis=0)
            if len(history) >= 3:
                epsilon = epsilon / max(ratio, 1e-8)
            denoised = x + epsilon
        else:
            denoised = x - sigma[step] * velocity
            called.append(step)
            epsilon = denoised - x
            history.append(epsilon)
            if len(history) >= 3:
                known = history[-order:]
                ahead = np.sum([c * e for c, e in zip(_DIFFERENCES[len(known)], known, strict=True)], axis=0)
                seen = float(np.linalg.norm(ahead) / (np.linalg.norm(epsilon) + 1e-8))
                ratio = min(max(beta * ratio + (1 - beta) * seen, 0.5), 2.0)
        d = (x - denoised) / sigma[step]
        used.append(d)
        x = x + d * ((sigma[step + 1] if step + 1 < len(sigma) else 0.0) - sigma[step])
    return tuple(called), np.array(used)


def _skips_adaptively(
    x: Array,
    sigma: Array,
    step: int,
    history: list[Array],
    in_a_row: int,
    gate: tuple[float, int, int, int, int],
) -> bool:
    """On epsilon = denoised - x, for Euler's method; the gate is tolerance, first, tail, anchor, most."""
    tolerance, first, tail, anchor, most = gate
    if step < first or step >= len(sigma) - tail or len(history) < 3 or in_a_row >= most:
        return False
    if anchor and (step - first) % anchor == 0:
        return False
    higher = 3 * history[-1] - 3 * history[-2] + history[-3]
    lower = history[-1] + (history[-1] - history[-2])
    dt = (sigma[step + 1] if step + 1 < len(sigma) else 0.0) - sigma[step]
    ahead, behind = x + dt * -higher / sigma[step], x + dt * -lower / sigma[step]
    rms = np.sqrt(np.mean((ahead - behind) ** 2))
    return bool(rms / max(np.sqrt(np.mean(ahead**2)), 1e-6) <= tolerance)


def fsampler_adaptive(
    velocities: Array, sigma: Array, x: Array, gate: tuple[float, int, int, int, int], beta: float
) -> tuple[Steps, Array]:
    """The adaptive mode from a first state: calls, and the velocities used.

    Richardson's forecasts over a ratio that learns from linear ones; the gate is tolerance, first, tail, anchor, most.
    """
    history: list[Array] = []
    ratio, in_a_row = 1.0, 0
    used: list[Array] = []
    called: list[int] = []
    for step, velocity in enumerate(velocities):
        if _skips_adaptively(x, sigma, step, history, in_a_row, gate):
            epsilon = (3 * history[-1] - 3 * history[-2] + history[-3]) / ratio
            in_a_row += 1
        else:
            epsilon = -sigma[step] * velocity
            history.append(epsilon)
            called.append(step)
            in_a_row = 0
            if len(history) >= 3:
                seen = float(np.linalg.norm(2 * history[-1] - history[-2]) / (np.linalg.norm(epsilon) + 1e-8))
                ratio = min(max(beta * ratio + (1 - beta) * seen, 0.5), 2.0)
        after = sigma[step + 1] if step + 1 < len(sigma) else 0.0
        used.append(-epsilon / sigma[step])
        x = x + (after - sigma[step]) * used[-1]
    return tuple(called), np.array(used)
