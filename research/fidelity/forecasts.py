"""What the authors' rules forecast from evaluations at given steps, told again without the library's own forecasters.

A `Rule` takes the evaluations alone; rules that use their own forecasts, latents or inputs take whole sequences.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from functools import partial

import numpy as np
import torch
from numpy.polynomial.chebyshev import chebvander

from research.fidelity.sequences import Array, Known, Rule

#: Weights of a value and its derivatives so many steps after the newest evaluation.
Factors = Callable[[int], list[float]]


def reuse(known: Known, step: int) -> Array:
    """The newest value again."""
    return known[-1][1]


def through(order: int, nodes: Array | None = None) -> Rule:
    """Lagrange's polynomial through the newest order + 1 values, in the steps or in the nodes of all steps."""

    def rule(known: Known, step: int) -> Array:
        kept = [(float(s) if nodes is None else nodes[s], value) for s, value in known[-order - 1 :]]
        at = float(step) if nodes is None else nodes[step]
        weights = [math.prod((at - t) / (node - t) for t, _ in kept if t != node) for node, _ in kept]
        return np.sum([w * value for w, (_, value) in zip(weights, kept, strict=True)], axis=0)

    return rule


# Derivatives by recursion ---------------------------------------------------------------------------------------------


def taylor(order: int, k: int) -> list[float]:
    """TaylorSeer, arXiv:2503.06923: k^i / i!."""
    return [k**i / math.factorial(i) for i in range(order + 1)]


def damped(scale: float, order: int, k: int) -> list[float]:
    """HiCache's mode Taylor-Scaled: (1 / i!) scale^(2i) k^i."""
    return [k**i / math.factorial(i) * scale ** (2 * i) for i in range(order + 1)]


def hermite(scale: float, order: int, k: int) -> list[float]:
    """HiCache, arXiv:2508.16984: H_0 = 1, H_1 = 2x, H_{n+1} = 2x H_n - 2n H_{n-1} of scale k, times scale^n / n!."""
    x, terms = scale * k, [1.0, 2 * scale * k]
    for n in range(1, order):
        terms.append(2 * x * terms[n] - 2 * n * terms[n - 1])
    return [term * scale**n / math.factorial(n) for n, term in enumerate(terms)]


def series(factors: Factors, first_enhance: int = 0) -> Rule:
    """The recursion that TaylorSeer, HiCache, DPCache and SpeCa released: one gap, the newest, for every derivative.

    Derivatives are built only after step first_enhance - 2.
    """
    order = len(factors(0)) - 1

    def rule(known: Known, step: int) -> Array:
        derivatives: list[Array] = []
        for (before, _), (at, value) in zip([known[0], *known], known, strict=False):
            older, derivatives = derivatives, [value]
            for i in range(min(order, len(older)) if at > first_enhance - 2 else 0):
                derivatives.append((derivatives[i] - older[i]) / (at - before))
        terms = zip(factors(step - known[-1][0]), derivatives, strict=False)
        return np.sum([w * d for w, d in terms], axis=0)

    return rule


# Barycentric formulas -------------------------------------------------------------------------------------------------


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


def resilphase(m: int, mapping: str, alpha: float = 0.55) -> Rule:
    """arXiv:2606.26769: barycentric formula on the newest m + 1 values, in the mapped step."""

    def rule(known: Known, step: int) -> Array:
        kept = known[-m - 1 :]
        if len(kept) == 1:
            return kept[0][1]
        s, wanted = mapped_time([t for t, _ in kept], step, mapping, alpha)
        w = [1 / math.prod(s[j] - s[i] for i in range(len(s)) if i != j) for j in range(len(s))]
        above = np.sum([w[j] / (wanted - s[j]) * kept[j][1] for j in range(len(s))], axis=0)
        return above / sum(w[j] / (wanted - s[j]) for j in range(len(s)))

    return rule


def brace(gamma: float, capacity: int) -> Rule:
    """bary_formula_true: nodes in [-1, 1], signs that alternate from -1, ends times 1/2 and gamma."""

    def rule(known: Known, step: int) -> Array:
        kept = known[-capacity:]
        if len(kept) == 1:
            return kept[0][1]
        first, last = kept[0][0], kept[-1][0]
        above, below = np.zeros_like(kept[0][1]), 0.0
        for i, (t, value) in enumerate(kept):
            distance = (2.0 * (step - first) / (last - first) - 1.0) - (2.0 * (t - first) / (last - first) - 1.0)
            distance += 1e-8 if distance >= 0 else -1e-8
            w = (1.0 if i % 2 else -1.0) * (0.5 if i == 0 else 1.0) * (gamma if i == len(kept) - 1 else 1.0)
            above, below = above + w / distance * value, below + w / distance
        return above / below

    return rule


# Fits -----------------------------------------------------------------------------------------------------------------


def spectrum(share: float) -> Rule:
    """arXiv:2603.01623 as released, in float64: ridge coefficients of all evaluations, mixed with a line."""

    def basis(step: int) -> Array:
        return np.asarray(chebvander((step - 25) * 2 / 50, 4)[0])

    def rule(known: Known, step: int) -> Array:
        phi, features = np.array([basis(s) for s, _ in known]), np.array([value for _, value in known])
        coefficients = np.linalg.inv(phi.T @ phi + 0.1 * np.eye(5)) @ phi.T @ features.reshape(len(known), -1)
        fit = (basis(step) @ coefficients).reshape(features[-1].shape)
        (before, older), (at, newest) = known[-2:]
        line = newest + (step - at) / (at - before) * (newest - older)
        return np.asarray((1 - share) * line + share * fit)

    return rule


def racer(base: Rule, local: Rule, theta: float) -> Rule:
    """arXiv:2608.01740, from the text: `base` drawn towards reuse by age, and by how far `local` disagrees with it."""

    def rule(known: Known, step: int) -> Array:
        newest, h = known[-1][1], base(known, step)
        risk = np.linalg.norm(h - local(known, step)) / np.linalg.norm(h)
        kappa = math.exp(-0.3 * max(step - known[-1][0] - 1, 0)) / (1 + math.exp(-4 * (theta - risk)))
        return np.asarray(newest + kappa * (h - newest))

    return rule


def dmd(history: int, order: int, scale: float) -> Rule:
    """dmd_forecast_state: the longest tail at one spacing; a fit of all of it from four values on, else Hermite."""
    before_four = series(partial(hermite, scale, order))

    def rule(known: Known, step: int) -> Array:
        kept = known[-history:]
        tail = kept[-2:]
        for item in reversed(kept[:-2]):
            if len(kept) > 1 and tail[0][0] - item[0] == kept[-1][0] - kept[-2][0]:
                tail = [item, *tail]
            else:
                break
        if len(tail) < 4:
            return before_four(known[-order - 1 :], step)
        columns = torch.stack([torch.from_numpy(v).reshape(-1) for _, v in tail], dim=1)
        x, y = columns[:, :-1], columns[:, 1:]
        u, s, vh = torch.linalg.svd(x, full_matrices=False)
        rank = int((s > s[0] * 1e-4).sum().clamp(min=1))
        inverse = (1 / (s[:rank] + 1e-8)).to(torch.complex128)
        small = (u[:, :rank].mH @ y @ vh[:rank].mH).to(torch.complex128) * inverse
        poles, vectors = torch.linalg.eig(small)
        modes = ((y @ vh[:rank].mH).to(torch.complex128) * inverse) @ vectors
        amplitudes = torch.linalg.lstsq(modes, columns[:, -1:].to(torch.complex128)).solution[:, 0]
        gaps = (step - tail[-1][0]) / (tail[-1][0] - tail[-2][0])
        return np.asarray((modes @ (poles.pow(gaps) * amplitudes)).real.numpy().reshape(known[-1][1].shape))

    return rule


# Parts of a feature ---------------------------------------------------------------------------------------------------


def svd_cache(decay: float, energy: float, rank: int) -> Rule:
    """arXiv:2601.07396, equation 11: a moving average in the principal subspace of the first value, reuse outside."""

    def rule(known: Known, step: int) -> Array:
        _, s, vh = np.linalg.svd(known[0][1][0], full_matrices=False)
        count = min(int(np.searchsorted(np.cumsum(s**2) / (s**2).sum(), energy)) + 1, rank)
        project = vh[:count].T @ vh[:count]
        average = known[0][1] @ project
        for _, value in known[1:]:
            average = decay * average + (1 - decay) * (value @ project)
        newest = known[-1][1]
        return np.asarray(average + newest - newest @ project)

    return rule


def dct_high(value: Array, share: float) -> Array:
    """Of (1, n * n, D): frequencies of the orthonormal 2-D DCT above a share of the largest radius."""
    n = math.isqrt(value.shape[1])
    rows = np.array([[math.cos(math.pi * k * (2 * i + 1) / (2 * n)) for i in range(n)] for k in range(n)])
    rows *= np.where(np.arange(n) == 0, math.sqrt(1 / n), math.sqrt(2 / n))[:, None]
    radius = np.array([[math.hypot(k, j) for j in range(n)] for k in range(n)])
    spectrum = np.einsum("kh,bhwd,lw->bkld", rows, value.reshape(1, n, n, -1), rows)
    spectrum *= (radius > share * radius.max())[:, :, None]
    return np.einsum("kh,bkld,lw->bhwd", rows, spectrum, rows).reshape(value.shape)


def fft_high(value: Array, share: float) -> Array:
    """Of (1, n, D): frequencies of the FFT along the tokens above a share of the largest."""
    frequency = np.abs(np.fft.fftfreq(value.shape[1]))[:, None]
    return np.asarray(np.fft.ifft(np.fft.fft(value, axis=1) * (frequency > share * frequency.max()), axis=1).real)


def freqca(high: Callable[[Array, float], Array], share: float, band: Rule) -> Rule:
    """arXiv:2510.08669: the low band reused, the high band forecast by `band`."""

    def rule(known: Known, step: int) -> Array:
        newest = known[-1][1]
        return newest - high(newest, share) + band([(s, high(value, share)) for s, value in known], step)

    return rule


# Multistep ------------------------------------------------------------------------------------------------------------


def ab_cache(terms: int) -> Rule:
    """aSleepyTree/AB-Cache, flux_our.py:115-119: the same weights at every distance."""

    def rule(known: Known, step: int) -> Array:
        kept = known[-terms:][::-1]
        weights = {1: [1], 2: [2, -1], 3: [3, -3, 1], 4: [4, -6, 4, -1], 5: [5, -10, 10, -5, 1]}[len(kept)]
        return np.sum([w * value for w, (_, value) in zip(weights, kept, strict=True)], axis=0)

    return rule


def integral(nodes: list[float], slopes: list[Array], start: float, end: float) -> Array:
    """Of the polynomial through the slopes."""
    powers = np.vander((np.array(nodes) - start) / (end - start), increasing=True)
    weights = 1 / np.arange(1, len(nodes) + 1) @ np.linalg.inv(powers)
    return np.asarray((end - start) * np.tensordot(weights, slopes, 1))


def predit(values: Array, full: Collection[int], order: int, corrector: int) -> Array:
    """arXiv:2602.18093, reconstructed: slopes between evaluations, integrated; Adams-Moulton at evaluations."""
    found: list[Array] = []
    kept: Known = []

    def slopes(points: Known, count: int) -> tuple[list[float], list[Array]]:
        pairs = list(zip(points, points[1:], strict=False))[-count:]
        return [new[0] for _, new in pairs], [(new[1] - old[1]) / (new[0] - old[0]) for old, new in pairs]

    for step, value in enumerate(values):
        if step in full:
            if corrector and len(kept) > 1:
                nodes, rates = slopes([*kept, (step, value)], corrector)
                value = kept[-1][1] + integral(nodes, rates, kept[-1][0], step)
            kept.append((step, value))
            found.append(value)
        else:
            nodes, rates = slopes(kept, order)
            found.append(kept[-1][1] + (integral(nodes, rates, kept[-1][0], step) if rates else 0))
    return np.array(found)


def foca(values: Array, slope: str, evaluated: Collection[int]) -> Array:
    """Equations (6), (7) and (8) of arXiv:2508.16211 one after the other, h = 1, on a history of all values."""
    rolling: list[Array] = []
    full: Known = []
    for step, value in enumerate(values):
        if step in evaluated:
            full = [*full, (step, value)][-2:]
            rolling.append(value)
            continue
        if len(rolling) == 1:  # a single value has no derivative
            rolling.append(value * 0 + rolling[0])
            continue
        f, before = rolling[-1], rolling[-2]
        local = (3 * f - 4 * before + rolling[-3]) / 2 if slope == "bdf2" and len(rolling) > 2 else f - before
        predicted = 4 / 3 * f - 1 / 3 * before + 2 / 3 * local  # (7)
        derivative = (3 * predicted - 4 * f + before) / 2  # (6)
        measured = (full[1][1] - full[0][1]) / (full[1][0] - full[0][0]) if len(full) == 2 else 0 * f
        rolling.append(f + (measured + derivative) / 2)  # (8)
    return np.array(rolling)


def meancache(velocities: Array, sigma: Array, full: Collection[int], spans: Mapping[int, int]) -> Array:
    """arXiv:2601.19961 as released: latents of an Euler run, the span of each edge by its first evaluation."""
    ends = np.append(sigma, 0.0)
    latents: list[Array] = [np.ones_like(velocities[0])]
    used: list[Array] = []
    for step, value in enumerate(velocities):
        if step not in full:
            edge = max(s for s in full if s < step)
            m = min(spans.get(edge, 1), step)
            start = step - m
            mean = (latents[step] - latents[start]) / (ends[step] - ends[start])
            jvp = (mean - used[start]) / (ends[step] - ends[start])
            value = used[-1] + jvp * (ends[step + 1] - ends[step])
        used.append(value)
        latents.append(latents[-1] + value * (ends[step + 1] - ends[step]))
    return np.array(used)


def l2p(values: Array, full: Collection[int], weights: Array) -> Array:
    """arXiv:2604.26365: a row of weights per step on all values before it, evaluated or forecast."""
    used: list[Array] = []
    for step, value in enumerate(values):
        used.append(value if step in full else np.tensordot(weights[step, :step], np.array(used), 1))
    return np.array(used)


# Rational -------------------------------------------------------------------------------------------------------------


def tc_pade(
    inputs: Array, outputs: Array, evaluated: Collection[int], horizon: int, threshold: float, order: int = 3
) -> Array:
    """The released class and the loop around it, step by step, with the curvature test inside the predictor alone."""
    norm = np.linalg.norm
    stored: list[Array] = []
    used: list[Array] = []
    last = inputs[0]

    def cosine(a: Array, b: Array) -> float:
        return float((a * b).sum() / (norm(a) * norm(b)))

    def predict(s: int) -> Array:
        n = len(stored)
        if n == 1:
            return stored[0]
        r0, r1 = stored[-1], stored[-2]
        current, stability = order, 1.0
        if n >= 3:
            mean = (cosine(r0, r1) + cosine(r1, stored[-3])) / 2
            current = min(order, 4) if mean > 0.98 else min(order, 3) if mean > 0.90 else 2
            stability = max(0.8, min(1.2, 1 / (1 + 10 * float(norm(r0 - r1)))))
        if s <= 0.3 * horizon:
            return r0 * 0.9 + r1 * 0.1
        if n < current + 1:
            k = min(n, current)
            total = sum([0.4, 0.3, 0.2, 0.1][:k])
            terms = [[0.4, 0.3, 0.2, 0.1][i] / total * stored[-1 - i] for i in range(k)]
            pade = np.sum(terms, axis=0) * stability
        else:
            curvature = True
            if n >= 5:
                v1, v2 = r1 - stored[-3], r0 - r1
                curvature = bool(0.5 * norm(v1 / (norm(v1) + 1e-12) - v2 / (norm(v2) + 1e-12)) < threshold)
            delta, size = np.abs(r0 - r1), 0.5 * (np.abs(r0) + np.abs(r1))
            sigma = np.exp(-5 * delta / (size + 1e-7))
            value = (2 * sigma * r0 - sigma * r1) / (1 - 0.1 * sigma * float(curvature))
            average = 0.6 * r0 + 0.4 * r1
            reach = np.maximum(0.5 * delta, 0.1 * size)
            value = average + np.clip(value - average, -reach, reach)
            blend = 0.7 * sigma + 0.3
            pade = blend * value + (1 - blend) * average
        return pade + 0.3 * (r0 - r1) if s > 0.8 * horizon else pade

    for s, (x, y) in enumerate(zip(inputs, outputs, strict=True)):
        out = y if s in evaluated else x + (predict(s) + 0.2 * (x - last))
        stored = [*stored, out - x][-6:]
        last = x
        used.append(out)
    return np.array(used)


# Modules under their gates --------------------------------------------------------------------------------------------


def delta_dit_flux(inputs: Array, outputs: Array, gates: Array, interval: int) -> Array:
    """Shenyi-Z/TaylorSeer@288776d, cal_type.py:33-39, for one module: full, then Delta and ToCa in turns.

    Delta reuses the residual of the span, ToCa the module's output under the gate of now.
    """
    found: list[Array] = []
    for step, (x, y) in enumerate(zip(inputs, outputs, strict=True)):
        if step % interval == 0:
            residual, module = y - x, (y - x) / gates[step]
            found.append(y)
        elif step % interval % 2:
            found.append(x + residual)
        else:
            residual = gates[step] * module
            found.append(x + residual)
    return np.array(found)
