"""The rows of the table: a method, its authors' rule, and how far apart the two are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from research.fidelity import decisions as when
from research.fidelity import forecasts as what
from research.fidelity.sequences import GRIDS, GRIDS_OF_50, SEEDS, Array, Rule, Sequence, alone, driven, sequence
from skipcast import Method, TimeGrid
from skipcast.controllers import MAGNITUDES, TEACACHE, GuidedRisk, Periodic, SensitivityBound
from skipcast.forecasters import L2P, Reuse
from skipcast.methods.names import REGISTRY, made, split
from skipcast.targets import GlobalDrift

Steps = tuple[int, ...]
#: The evaluated steps, and what leaves at each step.
Theirs = Callable[[Sequence], tuple[Steps, Array]]


@dataclass(frozen=True)
class Row:
    """A method beside its authors' rule.

    Args:
        spec: the method by name and options.
        theirs: the transcription; None where none is possible.
        note: what was compared, or why nothing was.
        family: whose settings the method has.
        pace: of the random walks, so that methods by values neither always nor never evaluate.
        grids: of the runs.
        euler: what enters is the sample of Euler's method.
        differs: why the two are known to differ.
        method: of a rule without a name, for a run of so many steps; and `checked_against` what.
    """

    spec: str
    theirs: Theirs | None
    note: str = ""
    family: str | None = None
    pace: float = 1.0
    grids: tuple[TimeGrid, ...] = GRIDS
    euler: bool = False
    differs: str = ""
    method: Callable[[int], Method] | None = None
    checked_against: str = ""

    @property
    def name(self) -> str:
        """The registered name."""
        return split(self.spec)[0]

    @property
    def source(self) -> str:
        """What its rule and its numbers were checked against."""
        return self.checked_against or REGISTRY[self.name].checked_against

    def made(self, steps: int) -> Method:
        """The library's method for a run of so many steps."""
        if self.method is not None:
            return self.method(steps)
        found = made(*split(self.spec), self.family)
        assert isinstance(found, Method)
        return found


@dataclass(frozen=True)
class Compared:
    """What a row came to.

    Args:
        row: the row.
        difference: the largest absolute difference of values over all runs; None where nothing was compared.
        steps: whether the evaluated steps were the same in every run.
        evaluations: the fewest and the most of a run.
    """

    row: Row
    difference: float | None
    steps: bool
    evaluations: tuple[int, int]


def compared(row: Row) -> Compared:
    """A row on every grid and seed."""
    if row.theirs is None:
        return Compared(row, None, True, (0, 0))
    apart, same, counts = [], True, []
    for grid in row.grids:
        method = row.made(len(grid))
        for seed in SEEDS:
            given = sequence(grid, seed, row.pace)
            steps, values = driven(method, given, euler=row.euler)
            expected_steps, expected = row.theirs(given)
            same &= steps == expected_steps
            apart.append(float(np.abs(values - expected).max()))
            counts.append(len(steps))
    return Compared(row, max(apart), same, (min(counts), max(counts)))


# From rules to whole runs ---------------------------------------------------------------------------------------------


def _on(steps: Callable[[Sequence], Steps], rule: Rule, *, drift: bool = False) -> Theirs:
    """A rule on what leaves, or on what leaves less what enters, evaluated at these steps."""

    def theirs(given: Sequence) -> tuple[Steps, Array]:
        full = steps(given)
        if drift:
            return full, given.entering + alone(rule, given.leaving - given.entering, full)
        return full, alone(rule, given.leaving, full)

    return theirs


def _whole(steps: Callable[[Sequence], Steps], values: Callable[[Sequence, Steps], Array]) -> Theirs:
    """A rule on the whole sequence, evaluated at these steps."""

    def theirs(given: Sequence) -> tuple[Steps, Array]:
        full = steps(given)
        return full, values(given, full)

    return theirs


def _counter(warmup: int, interval: int) -> Callable[[Sequence], Steps]:
    return lambda given: when.counter(len(given.grid), warmup, interval)


def _growing(given: Sequence) -> Steps:
    return when.growing(len(given.grid), 5, 2, 0.75)


def _multiples(first: int, interval: int, *, last: bool) -> Callable[[Sequence], Steps]:
    return lambda given: when.multiples(len(given.grid), first, interval, last=last)


def _set(steps: Steps) -> Callable[[Sequence], Steps]:
    return lambda given: steps


def _taylor(order: int, first_enhance: int) -> Rule:
    return what.series(partial(what.taylor, order), first_enhance)


def _hermite(order: int, scale: float, first_enhance: int) -> Rule:
    return what.series(partial(what.hermite, scale, order), first_enhance)


def _speca(base: float, decay: float, floor: float, least: int, most: int, first: int) -> Theirs:
    def steps(given: Sequence) -> Steps:
        return when.speca(given.errors.tolist(), base, decay, floor, least, most, first)

    return _on(steps, _taylor(2, first))


def _magcache(curve: str) -> Theirs:
    known = MAGNITUDES[curve]
    settings = known.threshold, known.max_forecasts, known.retention
    ratios = np.array(known.ratios)

    def steps(given: Sequence) -> Steps:
        if curve.startswith("flux"):
            return when.magcache_flux(ratios, len(given.grid), *settings)
        return when.magcache_guided(ratios, len(given.grid), *settings, known.calls)

    return _on(steps, what.reuse, drift=True)


def _teacache(
    threshold: float, polynomial: tuple[float, ...], kept: Callable[[int, int], bool] | None = None
) -> Theirs:
    return _on(lambda given: when.teacache(given.probes, threshold, polynomial, kept), what.reuse, drift=True)


def _teacache_of(name: str, threshold: float, pace: float, family: str | None = None) -> Row:
    """With a published polynomial, by the family's settings or by name."""
    known, kept = TEACACHE[name].coefficients, when.teacache_hidream if name == "hidream" else None
    spec = "teacache" if family else f"teacache:polynomial={name},threshold={threshold}"
    if name.endswith("-retained"):
        kept = when.teacache_retained
    return Row(spec, _teacache(threshold, known, kept), family=family, pace=pace)


def _seacache(threshold: float, power: float, kept: str) -> Theirs:
    def steps(given: Sequence) -> Steps:
        return when.seacache(given.tokens[1], given.grid, threshold, (4, 4), power, kept)

    return _on(steps, what.reuse, drift=True)


def _seacache_wan(given: Sequence) -> tuple[Steps, Array]:
    def steps(given: Sequence) -> Steps:
        return when.seacache(given.tokens[0], given.grid, 0.25, (4, 4), 3.0, "filtered", 2)

    return _on(steps, what.through(1), drift=True)(given)


def _easycache(threshold: float, first: int) -> Theirs:
    return lambda given: when.easycache(given.entering, given.leaving, threshold, first)


def _dicache(threshold: float, choice: str, retention: float, limit: float, *, flux: bool) -> Theirs:
    def theirs(given: Sequence) -> tuple[Steps, Array]:
        steps, values = when.dicache(given.tokens, threshold, choice, retention, limit, flux=flux)
        return steps, values.numpy()

    return theirs


def _cg_taylor(*settings: float) -> Theirs:
    threshold, *counts = settings

    def theirs(given: Sequence) -> tuple[Steps, Array]:
        order, block_order, first, since, enhance = map(int, counts)
        steps, values = when.cg_taylor(given.tokens, threshold, order, block_order, first, since, enhance)
        return steps, values.numpy()

    return theirs


def _fsampler(order: int) -> Theirs:
    return lambda given: when.fsampler(given.leaving, given.grid.sigma, order, order, 2, 3, 0.9999)


def _fsampler_adaptive(given: Sequence) -> tuple[Steps, Array]:
    return when.fsampler_adaptive(given.leaving, given.grid.sigma, given.entering[0], (0.1, 2, 3, 4, 4), 0.9999)


def _meancache(steps: Steps, spans: dict[int, int]) -> Theirs:
    return _whole(_set(steps), lambda given, full: what.meancache(given.leaving, given.grid.sigma, full, spans))


def _delta_dit_flux(interval: int) -> Theirs:
    return _whole(
        _counter(1, interval),
        lambda given, full: what.delta_dit_flux(given.entering, given.leaving, given.gates, interval),
    )


_GAIN = (0.4806165972188018, 0.4782565130260521, 0.06411702055286407)
_TIMES = np.linspace(1000, 20, 40)
_BY_SAMPLE, _BY_TIME = 0.2 + _TIMES / 4000, 0.05 + _TIMES / 50000


def _sencache(given: Sequence) -> tuple[Steps, Array]:
    def steps(given: Sequence) -> Steps:
        return when.sencache(given.tokens[0], given.grid.timestep, (_TIMES, _BY_SAMPLE, _BY_TIME), 12.0, 3.0, 3, 1)

    return _on(steps, what.reuse, drift=True)(given)


def _guided(steps: int) -> tuple[Array, Array, Array]:
    """Magnitudes of both branches that fall at the end, and cosines that fall with the distance of the steps."""
    place = np.linspace(0, 1, steps)
    distance = np.abs(np.subtract.outer(np.arange(steps), np.arange(steps))) / steps
    magnitudes = [np.append(1.0, (1 + 0.05 * np.cos(c * np.pi * place))[1:]) for c in (1, 1.2)]
    return magnitudes[0], magnitudes[1], 1 - 0.9 * distance


def _racfgcache(given: Sequence) -> tuple[Steps, Array]:
    def steps(given: Sequence) -> Steps:
        return when.racfgcache(_guided(len(given.grid)), 3.5, 0.18, _GAIN, 5)

    return _on(steps, what.reuse, drift=True)(given)


def _guided_risk(steps: int) -> Method:
    conditional, unconditional, alignment = (table.tolist() for table in _guided(steps))
    return Method(Reuse(), GuidedRisk(conditional, unconditional, alignment, 3.5), target=GlobalDrift())


def _learned(steps: int) -> Array:
    """Weights per step that sum to 1 and forget."""
    ages = np.subtract.outer(np.arange(steps), np.arange(steps))
    weights = np.where(ages > 0, 0.5 ** np.maximum(ages, 0) * (1 + 0.3 * np.sin(np.arange(steps))), 0.0)
    return np.asarray(weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-12))


QWEN_10: Steps = (0, 1, 3, 7, 14, 21, 28, 35, 42, 49)
ZIMAGE_15: Steps = (0, 1, 2, 3, 5, 7, 10, 12, 17, 25, 33, 41, 45, 48, 49)
_OF_50 = "50 steps on three grids; runs of other lengths take the set's shape, a rule of this library"
_TEXT = "the text as this library reads it"
#: Polynomials of TeaCache that no family has by itself, with a released threshold, and the pace that suits their range.
_TEACACHE = (
    ("wan-t2v-1.3b", 0.08, 0.03),
    ("wan-t2v-14b", 0.2, 0.2),
    ("wan-i2v-480p", 0.26, 0.2),
    ("wan-i2v-720p", 0.3, 0.2),
    ("wan-t2v-1.3b-retained", 0.1, 0.02),
    ("wan-t2v-14b-retained", 0.2, 0.02),
    ("wan-i2v-480p-retained", 0.3, 0.01),
    ("wan-i2v-720p-retained", 0.3, 0.01),
    ("cogvideox-2b", 0.2, 0.05),
    ("cogvideox-5b", 0.2, 0.05),
    ("cogvideox1.5-5b", 0.2, 0.05),
    ("cogvideox1.5-5b-i2v", 0.2, 0.05),
)

ROWS: tuple[Row, ...] = (
    Row("reuse", _on(_counter(1, 6), what.reuse)),
    Row("lagrange:order=1", _on(_counter(3, 6), what.through(1))),
    Row("lagrange:order=2", _on(_counter(3, 6), what.through(2))),
    Row(
        "lagrange:order=1,coordinate=sigma",
        lambda given: _on(_counter(3, 6), what.through(1, given.grid.sigma))(given),
    ),
    Row("taylorseer", _on(_counter(3, 6), _taylor(1, 3))),
    Row("taylorseer:target=modules", _on(_counter(3, 6), _taylor(1, 3))),
    Row("taylorseer", _on(_counter(1, 5), _taylor(1, 1)), family="hunyuan-video"),
    Row("taylorseer", _on(_counter(1, 5), _taylor(1, 1)), family="wan"),
    Row("taylorseer", _on(_counter(2, 4), _taylor(4, 2)), family="dit"),
    Row("resilphase", _on(_counter(3, 6), what.resilphase(1, "balanced"), drift=True)),
    Row("resilphase:order=2", _on(_counter(3, 6), what.resilphase(2, "balanced"), drift=True)),
    Row("resilphase", _on(_counter(2, 4), what.resilphase(4, "chebyshev"), drift=True), family="dit"),
    Row("resilphase-dit", _on(_counter(2, 4), what.resilphase(4, "chebyshev"), drift=True)),
    Row("hicache", _on(_counter(3, 7), _hermite(2, 0.5, 3))),
    Row(
        "hicache-taylor",
        _on(_counter(3, 6), what.series(partial(what.damped, 0.5, 2), 3)),
    ),
    Row("brace", _on(_counter(3, 5), what.brace(0.7, 2)), "FLUX"),
    Row(
        "brace:gamma=0.6,warmup=1,interval=6",
        _on(_counter(1, 6), what.brace(0.6, 2)),
        "HunyuanVideo",
    ),
    Row("brace:gamma=0.6,interval=3", _on(_counter(3, 3), what.brace(0.6, 2)), "Wan"),
    Row("brace:gamma=0.8,window=3", _on(_counter(3, 5), what.brace(0.8, 3)), "Qwen-Image"),
    Row(
        "brace:gamma=0.5,window=4,warmup=2,interval=4",
        _on(_counter(2, 4), what.brace(0.5, 4)),
        "DiT",
    ),
    Row("spectrum", _on(_growing, what.spectrum(0.5))),
    Row("spectrum:share=1", _on(_growing, what.spectrum(1.0))),
    Row(
        "predit",
        _whole(
            lambda given: when.predit(given.leaving, 0.5, 2, 8, 3),
            lambda given, full: what.predit(given.leaving, full, 2, 0),
        ),
        f"{_TEXT}; the change per step and the warm-up are guesses",
        pace=0.05,
    ),
    Row(
        "predit:schedule=periodic,corrector=2",
        _whole(
            lambda given: (*when.counter(len(given.grid) - 1, 3, 6), len(given.grid) - 1),
            lambda given, full: what.predit(given.leaving, full, 2, 2),
        ),
        _TEXT,
    ),
    Row(
        "foca",
        _whole(_counter(3, 6), lambda given, full: what.foca(given.leaving, "difference", full)),
        _TEXT,
    ),
    Row("ab-cache", _on(_multiples(5, 6, last=False), what.ab_cache(2))),
    Row("ab-cache:terms=5", _on(_multiples(5, 6, last=False), what.ab_cache(5))),
    Row("meancache", _meancache(QWEN_10, {1: 2, 42: 4}), _OF_50, grids=GRIDS_OF_50),
    Row(
        "meancache",
        _meancache(ZIMAGE_15, {3: 2, 5: 2, 7: 2, 10: 2, 41: 5, 45: 4}),
        _OF_50,
        family="z-image",
        grids=GRIDS_OF_50,
    ),
    Row(
        "tc-pade",
        _whole(
            _multiples(5, 8, last=True),
            lambda given, full: what.tc_pade(given.entering, given.leaving, full, 20, 1.4),
        ),
        "the rule magnifies rounding, on some paths 1e5-fold",
    ),
    Row(
        "tc-pade:variant=paper",
        None,
        "the paper leaves alpha, beta and its test open; there is no code of this variant",
    ),
    Row("tc-pade:variant=literal", None, "as variant=paper"),
    Row("hicache-dmd", _on(_counter(4, 5), what.dmd(6, 1, 0.5))),
    Row("fsampler:order=2", _fsampler(2)),
    Row("fsampler:order=3", _fsampler(3)),
    Row("fsampler:order=4", _fsampler(4)),
    Row("fsampler:mode=adaptive", _fsampler_adaptive, "along the samples of Euler's method", pace=0.05, euler=True),
    Row("svd-cache", _on(_counter(3, 5), what.svd_cache(0.9, 0.85, 32), drift=True), _TEXT),
    Row("freqca", _on(_counter(3, 6), what.freqca(what.dct_high, 0.1, _hermite(2, 0.71, 3)))),
    Row("freqca", _on(_counter(3, 6), what.freqca(what.fft_high, 0.1, _hermite(2, 0.71, 3))), family="qwen-image"),
    *(
        Row(
            "freqca",
            _on(_counter(3, 6), what.freqca(what.fft_high, 0.1, _hermite(2, 0.71, 3))),
            "nothing is published for videos; as for Qwen-Image, whose transform takes tokens of any number",
            family=family,
        )
        for family in ("hunyuan-video", "wan", "mochi", "ltx-video", "cogvideox")
    ),
    Row("racer", _on(_growing, what.racer(what.spectrum(0.5), _taylor(1, 0), 0.25)), _TEXT),
    Row(
        "delta-dit",
        _on(_counter(1, 2), what.reuse, drift=True),
        f"{_TEXT}; which blocks the span holds, early and late, is not compared",
    ),
    *(
        Row(
            f"delta-dit:variant=flux{option}",
            _delta_dit_flux(interval),
            "of one module under a gate; what the network does at the turns between is by script",
        )
        for option, interval in (("", 3), (",interval=2", 2), (",interval=5", 5))
    ),
    Row("fbcache", _on(lambda given: when.fbcache(given.probes, 0.12), what.reuse, drift=True), pace=0.1),
    Row("teacache", _teacache(0.6, TEACACHE["flux"].coefficients), pace=0.1),
    Row("teacache:polynomial=none", _teacache(0.6, (1.0, 0.0)), pace=0.1),
    _teacache_of("hunyuan-video", 0.15, 0.05, "hunyuan-video"),
    _teacache_of("mochi", 0.09, 0.05, "mochi"),
    _teacache_of("lumina2", 0.3, 0.05, "lumina2"),
    _teacache_of("ltx-video", 0.05, 0.02, "ltx-video"),
    _teacache_of("hidream", 0.3, 0.01, "hidream"),
    *(_teacache_of(name, threshold, pace) for name, threshold, pace in _TEACACHE),
    Row("seacache", _seacache(0.3, 2.0, "raw"), pace=0.1),
    Row("seacache", _seacache(0.2, 3.0, "filtered"), family="hunyuan-video", pace=0.1),
    Row("seacache", _seacache_wan, family="wan", pace=0.1),
    Row("speca", _speca(7.0, 0.3, 0.1, 2, 8, 3), "errors by script"),
    Row("speca", _speca(1.0, 0.1, 0.1, 4, 12, 1), "errors by script", family="hunyuan-video"),
    Row("magcache", _magcache("flux")),
    *(Row(f"magcache:curve={curve}", _magcache(curve)) for curve in MAGNITUDES if curve != "flux"),
    Row("dicache", _dicache(0.4, "output", 0.2, 1.5, flux=True), pace=0.02),
    Row("dicache:measure=difference", _dicache(0.08, "difference", 0.0, 1.5, flux=True), pace=0.02),
    Row("dicache:family=hunyuan-video", _dicache(0.1, "output", 0.2, 1.5, flux=False), pace=0.02),
    Row("dicache:family=wan", _dicache(0.08, "output", 0.2, 2.0, flux=False), pace=0.02),
    Row("cg-taylor", _cg_taylor(0.03, 1, 1, 5, 5, 3), pace=0.01),
    Row("cg-taylor:threshold=0.13", _cg_taylor(0.13, 1, 1, 5, 5, 3), pace=0.05),
    Row("cg-taylor:family=hunyuan-video", _cg_taylor(0.08, 1, 2, 6, 0, 1), pace=0.01),
    Row("cg-taylor:family=wan", _cg_taylor(0.36, 1, 3, 6, 0, 1), pace=0.02),
    Row("cg-taylor:family=dit", _cg_taylor(0.008, 1, 3, 3, 0, 1), pace=0.0003),
    Row("easycache", _easycache(0.05, 5), pace=0.01),
    Row("easycache", _easycache(0.05, 10), family="wan", pace=0.01),
    Row("easycache", _easycache(0.025, 5), family="hunyuan-video", pace=0.005),
    Row("hindsight", None, "a rule of this library; nobody else's"),
    Row(
        "dpcache",
        _on(_set(when.DPCACHE["dpcache-flux-13"]), _taylor(2, 3)),
        _OF_50,
        grids=GRIDS_OF_50,
    ),
    Row(
        "dpcache",
        _on(_set(when.DPCACHE["dpcache-wan-12"]), _taylor(2, 4)),
        _OF_50,
        family="wan",
        grids=GRIDS_OF_50,
    ),
    *(
        Row(name, _on(_set(when.SEARCHED[name]), what.reuse, drift=True), _OF_50, grids=GRIDS_OF_50)
        for name in ("golden", "budcache", "seacache-steps")
    ),
    Row(
        "SenCache",
        _sencache,
        "it has no name, as its sensitivities are measured for each network; here they are by script",
        pace=0.1,
        method=lambda steps: Method(
            Reuse(),
            SensitivityBound(tuple(_TIMES), tuple(_BY_SAMPLE), tuple(_BY_TIME), 12.0, 3.0, 3, 1),
            target=GlobalDrift(),
        ),
        checked_against="vita-epfl/SenCache@4bf419b",
    ),
    Row(
        "RA-CFGCache",
        _racfgcache,
        "it has no name, as its tables are measured for each network; here they are by script",
        method=_guided_risk,
        checked_against="yiming-l21/RA-CFGCache@76359ee models/flux/src/flux/racfgcache_utils",
    ),
    Row(
        "L2P",
        _whole(_counter(3, 6), lambda given, full: what.l2p(given.leaving, full, _learned(len(given.grid)))),
        "it has no name, as its weights are learned for each network; here they are by script",
        method=lambda steps: Method(L2P.of(_learned(steps)), Periodic(3, 6)),
        checked_against="text only; and the port nanguoyu/Golden-Path-Hypothesis@41bc4e7 lib/l2p.py",
    ),
)

#: The names that the table has rows for.
NAMES = tuple(name for name, entry in REGISTRY.items() if entry.shared is not None)  # no plain samplers
