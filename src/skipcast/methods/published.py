"""Every method by name, as published: parts, paper, and the options that its specification understands.

An entry is one function: the options that all forecasting methods share come first, with the defaults under which the
method was published, its own follow as keyword arguments. Where paper and released code disagree, `variant` chooses.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_type_hints

from skipcast.controllers import (
    SEARCHED,
    TEACACHE_FLUX,
    AccumulatedChange,
    ConfidenceGate,
    Controller,
    DynamicHorizon,
    EasyRatio,
    ErrorBound,
    Even,
    FirstBlockChange,
    FixedSteps,
    Growing,
    MagnitudeError,
    Multiples,
    Periodic,
    Searched,
    ShallowChange,
    Stability,
    StaticController,
    Verified,
    windowed,
)
from skipcast.coordinates import Angle, Balanced, Chebyshev, Coordinate, HalfLogSNR, PhaseMap, Sigma, StepIndex
from skipcast.forecasters import (
    ABCache,
    AdamsBashforth,
    Aligned,
    Blend,
    ChebyshevRidge,
    FoCa,
    Forecaster,
    HiCache,
    HighBand,
    Lagrange,
    LinearForecaster,
    Mapped,
    MeanVelocity,
    PadeCode,
    PadeLiteral,
    PadePaper,
    Principal,
    Reuse,
    Shrunk,
    Smoothed,
    TaylorSeer,
    Within,
)
from skipcast.parts import Method
from skipcast.samplers import Sampler
from skipcast.targets import (
    CarriedDrift,
    GlobalDrift,
    LastHidden,
    ModuleOutputs,
    Output,
    OutputDrift,
    SpanDrift,
    StagedSpans,
    Target,
)

CoordinateName = Literal["step", "sigma", "half-log-snr", "angle"]
TargetName = Literal["output", "output-drift", "drift", "carried-drift", "hidden", "modules"]
PhaseName = Literal["none", "balanced", "chebyshev"]

COORDINATES: dict[str, Coordinate] = {
    "step": StepIndex(),
    "sigma": Sigma(),
    "half-log-snr": HalfLogSNR(),
    "angle": Angle(),
}
TARGETS: dict[str, Target] = {
    "output": Output(),
    "output-drift": OutputDrift(),
    "drift": GlobalDrift(),
    "carried-drift": CarriedDrift(),
    "hidden": LastHidden(),
    "modules": ModuleOutputs(),
}
#: Names of schedules besides the method's own; a list of steps such as 0.1.2.8 is another.
SCHEDULES = ("published", "periodic", "even", "growing", *SEARCHED)
#: The options of every method for the part of the run in which it may skip steps, with what they are left out as.
WINDOW: dict[str, float] = {"start": 0.0, "end": 1.0}
_LISTED = re.compile(r"\d+(\.\d+)+")


@dataclass(frozen=True)
class Shared:
    """The options that every forecasting method understands; an entry holds those it was published with.

    Args:
        evaluations: how many of the run's steps are to be evaluated; the schedule comes as close as it can.
        interval: steps between evaluations, of schedules that have one.
        warmup: evaluations at the start.
        last: also evaluate the last step.
        schedule: "published" for the method's own rule, another one's name, or evaluated steps such as 0.1.2.8.
        coordinate: the time in which nodes are placed.
        target: what is forecast.
        phase: the phase map that a linear forecaster wears.
        alpha: of the balanced map.
    """

    evaluations: int | None = None
    interval: int | None = None
    warmup: int = 3
    last: bool = False
    schedule: str = "published"
    coordinate: CoordinateName = "step"
    target: TargetName = "output"
    phase: PhaseName = "none"
    alpha: float = 0.55

    @property
    def start(self) -> int:
        """The first step from which the released recursions of differences begin."""
        return max(self.warmup - 2, 0)

    def periodic(self, interval: int | None = None) -> Periodic:
        """The counter rule, with the published interval where neither interval nor evaluations is given."""
        chosen = interval if self.interval is None and self.evaluations is None else self.interval
        return Periodic(self.warmup, chosen, self.evaluations, self.last)

    def method(self, rule: Forecaster, published: Controller | None = None, target: Target | None = None) -> Method:
        """The method of these options, with the published controller where the schedule is the method's own."""
        controller = self._scheduled() or published or self.periodic()
        if self.evaluations is not None and not isinstance(controller, StaticController):
            raise ValueError(
                f"evaluations={self.evaluations}: this method decides by values; set its threshold, which "
                "`skipcast compare` finds for a number of evaluations, or a schedule such as schedule=even."
            )
        place = COORDINATES[self.coordinate]
        return Method(self._worn(rule), controller, place, target or TARGETS[self.target])

    def _worn(self, rule: Forecaster) -> Forecaster:
        if self.phase == "none":
            return rule
        if not isinstance(rule, LinearForecaster):
            raise ValueError(f"phase={self.phase!r} is a map of nodes, which {rule!r} has none of; leave it out.")
        worn: PhaseMap = Balanced(self.alpha) if self.phase == "balanced" else Chebyshev()
        return Mapped(rule, worn)

    def _scheduled(self) -> StaticController | None:
        """The schedule that was requested instead of the published one."""
        name, count = self.schedule, self.evaluations
        if name == "published":
            return None
        if name == "periodic":
            return self.periodic()
        if name == "even":
            if count is None:
                raise ValueError("schedule=even needs evaluations=n.")
            return Even(count, self.last)
        if name == "growing":
            return Growing(evaluations=count)
        if name in SEARCHED:
            return Searched(name, count)
        if _LISTED.fullmatch(name):
            if count is not None:
                raise ValueError(f"schedule={name} holds its own evaluations; leave evaluations={count} out.")
            return FixedSteps(tuple(map(int, name.split("."))))
        raise ValueError(
            f"unknown schedule {name!r}. Known: {', '.join(SCHEDULES)}, or evaluated steps such as 0.1.2.8."
        )


@dataclass(frozen=True)
class Named:
    """An entry of the registry.

    Args:
        build: from shared and own options to a method; a sampler's has no shared ones.
        paper: where it was published.
        summary: what it is, in one line.
        shared: the shared options it was published with; None for plain samplers.
        variants: the specifications under which a comparison of everything holds it.
        threshold_option: the option that governs how rarely a method that decides by values evaluates.
    """

    build: Callable[..., Method | Sampler]
    paper: str
    summary: str
    shared: Shared | None
    variants: tuple[str, ...]
    threshold_option: str | None = None

    def options(self) -> dict[str, inspect.Parameter]:
        """The options that its specification understands, with their defaults."""
        own = list(inspect.signature(self.build).parameters.values())
        if self.shared is None:
            return {p.name: p for p in own}
        kind = inspect.Parameter.KEYWORD_ONLY
        shared = [
            inspect.Parameter(name, kind, default=value)
            for name, value in {**dataclasses.asdict(self.shared), **WINDOW}.items()
        ]
        return {p.name: p for p in [shared[0], *own[1:], *shared[1:]]}

    def types(self) -> dict[str, Any]:
        """The type of every option."""
        found = {} if self.shared is None else get_type_hints(Shared) | dict.fromkeys(WINDOW, float)
        return found | get_type_hints(self.build)

    def __call__(self, **options: Any) -> Method | Sampler:
        if self.shared is None:
            return self.build(**options)
        window = {name: options.pop(name, left_out) for name, left_out in WINDOW.items()}
        fields = {field.name for field in dataclasses.fields(Shared)}
        shared = dataclasses.replace(self.shared, **{k: v for k, v in options.items() if k in fields})
        made = self.build(shared, **{k: v for k, v in options.items() if k not in fields})
        assert isinstance(made, Method)
        _refuse_unused(options, shared, made)
        return dataclasses.replace(made, controller=windowed(made.controller, **window))


def _refuse_unused(options: dict[str, Any], shared: Shared, made: Method) -> None:
    """An option that changes nothing is a mistake."""
    rules = (made.controller, getattr(made.controller, "fixed", None))
    for option, fields in {"interval": ["interval"], "warmup": ["warmup", "first"], "last": ["last"]}.items():
        known = [getattr(rule, field, None) for rule in rules for field in fields]
        if option in options and options[option] not in known:
            raise ValueError(
                f"{option}={options[option]} changes nothing with {made.controller!r}; leave it out or choose "
                "schedule=periodic."
            )
    if "target" in options and made.target != TARGETS[shared.target]:
        raise ValueError(f"target={shared.target} changes nothing: this method's is {made.target!r}; leave it out.")
    if "alpha" in options and shared.phase != "balanced":
        raise ValueError(f"alpha={shared.alpha} changes nothing with phase={shared.phase}; choose phase=balanced.")


REGISTRY: dict[str, Named] = {}


def _named(
    name: str,
    paper: str,
    summary: str,
    shared: Shared | None = None,
    *,
    variants: tuple[str, ...] = (),
    threshold_option: str | None = None,
) -> Callable[[Callable[..., Method | Sampler]], Callable[..., Method | Sampler]]:
    """Enter a builder under a name."""

    def enter(build: Callable[..., Method | Sampler]) -> Callable[..., Method | Sampler]:
        REGISTRY[name] = Named(build, paper, summary, shared or Shared(), variants or (name,), threshold_option)
        return build

    return enter


# Polynomials ------------------------------------------------------------------------------------------------------


@_named(
    "reuse", "arXiv:2407.01425", "the newest output again (the rule that FORA applies per module)", Shared(warmup=1)
)
def _reuse(shared: Shared) -> Method:
    return shared.method(Reuse())


@_named(
    "lagrange",
    "doi:10.1137/S0036144502417715",
    "polynomial through the newest evaluations",
    variants=("lagrange:order=1", "lagrange:order=2", "lagrange:order=1,coordinate=sigma"),
)
def _lagrange(shared: Shared, order: int = 2) -> Method:
    return shared.method(Lagrange(order))


@_named(
    "taylorseer",
    "arXiv:2503.06923",
    "difference quotients in a Taylor series, as released; on one stream, or per module as published",
    variants=("taylorseer:target=modules", "taylorseer:target=hidden", "taylorseer", "taylorseer:order=2,exact=true"),
)
def _taylorseer(shared: Shared, order: int = 1, exact: bool = False) -> Method:
    return shared.method(Lagrange(order) if exact else TaylorSeer(order, start=shared.start))


@_named(
    "resilphase",
    "arXiv:2606.26769",
    "global drift, barycentric Lagrange, bounded phase map, as released for FLUX",
    Shared(target="drift", phase="balanced"),
    variants=("resilphase", "resilphase:target=hidden", "resilphase:target=modules"),
)
def _resilphase(shared: Shared, order: int = 1) -> Method:
    return shared.method(Lagrange(order))


@_named(
    "resilphase-dit",
    "arXiv:2606.26769",
    "ResilPhase as released for DiT: order 4, Chebyshev nodes",
    Shared(target="drift", phase="chebyshev", warmup=2),
)
def _resilphase_dit(shared: Shared, order: int = 4) -> Method:
    return shared.method(Lagrange(order), shared.periodic(4))


@_named(
    "hicache",
    "arXiv:2508.16984",
    "scaled Hermite polynomials on TaylorSeer's differences, per module",
    Shared(target="modules"),
    variants=("hicache", "hicache:target=output", "hicache:target=output,phase=balanced"),
)
def _hicache(shared: Shared, order: int = 2, scale: float = 0.5) -> Method:
    return shared.method(HiCache(order, scale, start=shared.start), shared.periodic(7))


@_named(
    "spectrum",
    "arXiv:2603.01623",
    "Chebyshev ridge blended with a line, growing window, last hidden feature",
    Shared(target="hidden", warmup=5),
    variants=("spectrum", "spectrum:share=1", "spectrum:free_constant=true"),
)
def _spectrum(
    shared: Shared,
    degree: int = 4,
    ridge: float = 0.1,
    horizon: float = 50,
    share: float = 0.5,
    free_constant: bool = False,
    growth: float | None = None,
    variant: Literal["code", "paper"] = "code",
) -> Method:
    """`share` of the ridge, the rest is a line: 0.5 is what its authors recommend, 1 is the paper."""
    fit = ChebyshevRidge(degree, ridge, horizon, free_constant)
    window = Growing(shared.warmup, growth=growth, evaluations=shared.evaluations, reading=variant)
    return shared.method(fit if share == 1 else Blend(Lagrange(1), fit, share), window)


# Linear multistep ---------------------------------------------------------------------------------------------------


@_named(
    "predit",
    "arXiv:2602.18093",
    "Adams-Bashforth forecasting of the output, dynamic horizon, optional Adams-Moulton corrector",
    Shared(last=True),
    variants=("predit", "predit:schedule=periodic", "predit:schedule=periodic,corrector=2"),
    threshold_option="tolerance",
)
def _predit(
    shared: Shared, order: int = 2, corrector: int = 0, tolerance: float = 0.5, max_forecasts: int = 8
) -> Method:
    horizon = DynamicHorizon(tolerance, order, max_forecasts, shared.warmup, shared.last)
    return shared.method(AdamsBashforth(order, corrector), horizon)


@_named(
    "foca",
    "arXiv:2508.16211",
    "BDF2 predictor with Heun calibration on its own forecasts, per module",
    Shared(target="modules"),
    variants=("foca", "foca:target=output"),
)
def _foca(shared: Shared, slope: Literal["difference", "bdf2"] = "difference", refresh: bool = False) -> Method:
    return shared.method(FoCa(slope, refresh))


@_named("ab-cache", "arXiv:2504.10540", "2 F_0 - F_1 at every distance", Shared(warmup=2))
def _ab_cache(shared: Shared, terms: int = 2) -> Method:
    return shared.method(ABCache(terms))


@_named(
    "meancache",
    "arXiv:2601.19961",
    "the newest velocity and half its trend in sigma, on searched steps",
    Shared(coordinate="sigma"),
)
def _meancache(shared: Shared, span: int = 2, steps: str = "meancache-qwen-10") -> Method:
    return shared.method(MeanVelocity(span), Searched(steps, shared.evaluations))


# Rules that look at values --------------------------------------------------------------------------------------------


@_named(
    "tc-pade",
    "arXiv:2603.02943",
    "rational forecast of the global drift by stages, trajectory stability test",
    Shared(warmup=5, target="carried-drift", last=True),
    variants=("tc-pade:variant=code", "tc-pade:variant=paper", "tc-pade:variant=literal"),
)
def _tc_pade(
    shared: Shared,
    variant: Literal["code", "paper", "literal"] = "code",
    threshold: float | None = None,
    horizon: int | None = None,
) -> Method:
    """With `evaluations` or `interval` the fixed steps alone decide, unless a threshold is given.

    The released threshold of 1.4 always passes. The paper's variant tests with 1.0 between every fourth step.
    """
    counted = shared.evaluations is not None or shared.interval is not None
    if variant == "code":
        fixed = Multiples(shared.warmup, shared.interval, shared.last, shared.evaluations)
        rule: Forecaster = PadeCode(threshold=1.4 if threshold is None else threshold, horizon=horizon)
        acts = threshold is not None and threshold <= 1
        test: Controller = Stability(fixed, threshold, "code") if acts and threshold is not None else fixed
        return shared.method(rule, test, CarriedDrift())
    fixed = Multiples(1, shared.interval if counted else 4, False, shared.evaluations)
    test = (
        fixed if counted and threshold is None else Stability(fixed, 1.0 if threshold is None else threshold, "paper")
    )
    return shared.method(PadePaper() if variant == "paper" else PadeLiteral(), test, GlobalDrift())


@_named(
    "svd-cache",
    "arXiv:2601.07396",
    "forecast in the principal subspace, reuse outside, on the global drift",
    Shared(target="drift"),
    variants=tuple(f"svd-cache:variant={name}" for name in ("linear", "ema", "ema-swapped", "ema-slope")),
)
def _svd_cache(
    shared: Shared,
    variant: Literal["linear", "ema", "ema-swapped", "ema-slope"] = "linear",
    energy: float = 0.85,
    rank: int = 32,
    decay: float = 0.9,
) -> Method:
    """`variant` says how the text's moving average is read; "linear" extrapolates the coordinates instead."""
    rules: dict[str, LinearForecaster] = {
        "linear": Lagrange(1),
        "ema": Smoothed(decay),
        "ema-swapped": Smoothed(round(1 - decay, 12)),
        "ema-slope": Smoothed(decay, slope=True),
    }
    return shared.method(Within(rules[variant], Principal(energy, rank)), shared.periodic(5))


@_named(
    "freqca",
    "arXiv:2510.08669",
    "low band reused, high band forecast, last hidden feature",
    Shared(target="hidden"),
)
def _freqca(
    shared: Shared,
    order: int = 2,
    scale: float = 0.71,
    band: float = 0.1,
    transform: Literal["dct", "fft"] = "dct",
) -> Method:
    return shared.method(Within(HiCache(order, scale, start=shared.start), HighBand(band, transform)))


@_named(
    "racer",
    "arXiv:2608.01740",
    "Spectrum shrunk towards reuse where a local forecast disagrees",
    Shared(target="hidden", warmup=5),
    variants=("racer", "racer:base=line"),
)
def _racer(shared: Shared, theta: float = 0.25, base: Literal["spectrum", "line"] = "spectrum") -> Method:
    """`base` is what is shrunk; next to a line, the local forecast is a parabola."""
    if base == "line":
        return shared.method(Shrunk(Lagrange(1), Lagrange(2), theta), shared.periodic())
    window = Growing(shared.warmup, evaluations=shared.evaluations)
    return shared.method(Shrunk(Blend(Lagrange(1), ChebyshevRidge(), 0.5), TaylorSeer(1), theta), window)


# Spans of blocks ------------------------------------------------------------------------------------------------------


@_named(
    "delta-dit",
    "arXiv:2406.01125",
    "residual of a span of blocks reused: the rear one early, the front one late",
    Shared(warmup=1),
    variants=("delta-dit:variant=paper", "delta-dit:variant=flux"),
)
def _delta_dit(
    shared: Shared, variant: Literal["paper", "flux"] = "paper", blocks: float = 0.75, boundary: float = 0.6
) -> Method:
    """`variant=flux` is the baseline of others: all single-stream blocks, whatever the step."""
    if variant == "flux":
        return shared.method(Reuse(), shared.periodic(3), SpanDrift(skip_first="double"))
    return shared.method(Reuse(), shared.periodic(2), StagedSpans(blocks, boundary))


@_named(
    "fbcache",
    "https://github.com/chengzeyi/ParaAttention",
    "reuse of all later blocks while the first block's residual stays",
    Shared(warmup=1),
    threshold_option="threshold",
)
def _fbcache(shared: Shared, threshold: float = 0.12, max_forecasts: int | None = None) -> Method:
    return shared.method(Reuse(), FirstBlockChange(threshold, max_forecasts, shared.warmup), SpanDrift(skip_first=1))


@_named(
    "teacache",
    "arXiv:2411.19108",
    "global drift reused until the changes of the first modulated input add up",
    Shared(target="drift", warmup=1, last=True),
    variants=("teacache", "teacache:polynomial=none"),
    threshold_option="threshold",
)
def _teacache(shared: Shared, threshold: float = 0.6, polynomial: Literal["flux", "none"] = "flux") -> Method:
    """`polynomial=flux` is what was fitted on FLUX.1; other models need their own, or none."""
    rescaled = TEACACHE_FLUX if polynomial == "flux" else (1.0, 0.0)
    return shared.method(Reuse(), AccumulatedChange(threshold, "modulated", rescaled, shared.warmup, shared.last))


@_named(
    "speca",
    "arXiv:2509.11628",
    "TaylorSeer whose forecasts the last block verifies",
    Shared(),
    threshold_option="base",
)
def _speca(
    shared: Shared,
    order: int = 2,
    base: float = 7.0,
    decay: float = 0.3,
    floor: float = 0.1,
    min_forecasts: int = 2,
    max_forecasts: int = 8,
) -> Method:
    """The released code drafts per module; here the draft is the residual of all blocks but the last."""
    verdict = Verified(base, decay, floor, min_forecasts, max_forecasts, shared.warmup)
    return shared.method(TaylorSeer(order, start=0), verdict, SpanDrift(skip_last=1, verify=True))


CurveName = Literal[
    "flux",
    "flux-kontext",
    "hunyuan-video-540p",
    "hunyuan-video-720p",
    "wan-t2v-1.3b",
    "wan-t2v-14b",
    "wan-i2v-480p",
    "wan-i2v-720p",
    "wan-vace-1.3b",
    "wan-ti2v-5b",
    "wan-ti2v-5b-image",
    "qwen-image",
    "qwen-image-edit",
]


@_named(
    "magcache",
    "arXiv:2506.09045",
    "global drift reused while its magnitude, measured beforehand, has changed little",
    Shared(target="drift"),
)
def _magcache(
    shared: Shared,
    curve: CurveName = "flux",
    threshold: float | None = None,
    max_forecasts: int | None = None,
    retention: float | None = None,
) -> Method:
    """Threshold, most forecasts in a row and retention are those published with the curve."""
    return shared.method(Reuse(), MagnitudeError(curve, threshold, max_forecasts, retention, shared.evaluations))


@_named(
    "dicache",
    "arXiv:2508.17356",
    "global drift moved along its last change as far as the first block tells, until that block has changed",
    Shared(target="drift"),
    variants=("dicache", "dicache:measure=difference"),
    threshold_option="threshold",
)
def _dicache(
    shared: Shared,
    family: Literal["flux", "hunyuan-video", "wan"] = "flux",
    measure: Literal["output", "difference"] = "output",
    threshold: float | None = None,
    retention: float | None = None,
    limit: float | None = None,
) -> Method:
    """Threshold, retention and limit are the family's; `measure=difference` has 0.08 and none, as released for FLUX."""
    flux, difference = family == "flux", measure == "difference"
    if threshold is None:
        threshold = 0.08 if difference else {"flux": 0.4, "hunyuan-video": 0.1, "wan": 0.08}[family]
    if retention is None:
        retention = 0.0 if difference else 0.2
    rule = Aligned((2.0 if family == "wan" else 1.5) if limit is None else limit)
    return shared.method(rule, ShallowChange(threshold, measure, retention, beyond=int(flux), last=flux))


#: Threshold, order of the first block's forecast, evaluated start, and first noted step of each family.
_GATES = {"flux": (0.03, 1, 5, 5), "hunyuan-video": (0.08, 2, 6, 0), "wan": (0.36, 3, 6, 0), "dit": (0.008, 3, 3, 0)}


@_named(
    "cg-taylor",
    "arXiv:2508.02240",
    "TaylorSeer on the last hidden feature where the first block's Taylor forecast was right",
    Shared(target="hidden"),
    variants=("cg-taylor", "cg-taylor:threshold=0.13"),
    threshold_option="threshold",
)
def _cg_taylor(
    shared: Shared,
    family: Literal["flux", "hunyuan-video", "wan", "dit"] = "flux",
    threshold: float | None = None,
    order: int = 1,
    block_order: int | None = None,
) -> Method:
    """`block_order` is that of the first block's forecast; it and the threshold are the family's."""
    released, own_order, first, since = _GATES[family]
    gate = ConfidenceGate(
        released if threshold is None else threshold, own_order if block_order is None else block_order, first, since
    )
    return shared.method(TaylorSeer(order, start=int(family == "flux")), gate)


# Other decisions ------------------------------------------------------------------------------------------------------


@_named(
    "easycache",
    "arXiv:2507.02860",
    "output less input reused until the output must have moved",
    Shared(target="output-drift", warmup=5, last=True),
    threshold_option="threshold",
)
def _easycache(shared: Shared, threshold: float = 0.05) -> Method:
    return shared.method(Reuse(), EasyRatio(threshold, shared.warmup, shared.last))


@_named(
    "hindsight",
    "skipcast",
    "linear forecast until its error, as the newest one was in hindsight, would exceed a tolerance; this library's",
    threshold_option="tolerance",
)
def _hindsight(shared: Shared, order: int = 1, tolerance: float = 0.05) -> Method:
    return shared.method(Lagrange(order), ErrorBound(tolerance, order, shared.warmup, shared.last))


_SEARCHED: tuple[tuple[str, str, str, Forecaster, TargetName], ...] = (
    ("golden", "https://github.com/nanguoyu/Golden-Path-Hypothesis",
     "global drift reused on steps found exhaustively", Reuse(), "drift"),
    ("budcache", "arXiv:2606.13496", "global drift reused on steps found by simulated annealing", Reuse(), "drift"),
    ("dpcache", "arXiv:2602.22654",
     "quadratic forecast of the last hidden feature on steps found by dynamic programming", Lagrange(2), "hidden"),
    ("seacache", "arXiv:2602.18993",
     "global drift reused on the steps its filtered distance takes most", Reuse(), "drift"),
)  # fmt: skip

_SAMPLERS = (
    ("euler", "arXiv:2209.03003", "Euler with fewer steps"),
    ("heun", "arXiv:2206.00364", "Heun, two evaluations a step"),
    ("ab2", "doi:10.1007/978-3-540-78862-1", "Adams-Bashforth of order 2"),
    ("ab3", "doi:10.1007/978-3-540-78862-1", "Adams-Bashforth of order 3"),
    ("dpmpp2m", "arXiv:2211.01095", "DPM-Solver++(2M), flow sigmas"),
    ("unipc", "arXiv:2302.04867", "UniPC of order 2, flow sigmas"),
)


def _on_searched_steps(name: str, rule: Forecaster) -> Callable[[Shared], Method]:
    def build(shared: Shared) -> Method:
        return shared.method(rule, Searched(name, shared.evaluations))

    return build


def _sampler(name: str) -> Callable[..., Sampler]:
    def build(evaluations: int | None = None) -> Sampler:
        return Sampler(name, evaluations)

    return build


for _name, _paper, _summary, _rule, _target in _SEARCHED:
    _named(_name, _paper, _summary, Shared(target=_target))(_on_searched_steps(_name, _rule))
for _name, _paper, _summary in _SAMPLERS:
    REGISTRY[_name] = Named(_sampler(_name), _paper, f"plain sampler: {_summary}", None, (_name,))

#: Every method as a comparison of everything holds it.
EVERYTHING: tuple[str, ...] = tuple(spec for entry in REGISTRY.values() for spec in entry.variants)
