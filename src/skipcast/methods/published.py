"""Every method by name, as published: parts, paper, and the options that its specification understands.

An entry is one function: the options that all forecasting methods share come first, with the defaults under which the
method was published, its own follow as keyword arguments. Where paper and released code disagree, `variant` chooses.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_type_hints

from skipcast.controllers import (
    MEANCACHE_SPANS,
    SEARCHED,
    SEARCHED_AT,
    TEACACHE,
    AccumulatedChange,
    ChangePolynomial,
    ConfidenceGate,
    Controller,
    DualOrder,
    DynamicHorizon,
    EasyRatio,
    ErrorBound,
    Even,
    FilteredChange,
    FirstBlockChange,
    FixedSteps,
    Growing,
    Interleaved,
    MagnitudeError,
    Multiples,
    Periodic,
    Searched,
    ShallowChange,
    Stability,
    StaticController,
    Verified,
    published_set,
    windowed,
)
from skipcast.coordinates import Angle, Balanced, Chebyshev, Coordinate, HalfLogSNR, PhaseMap, Sigma, StepIndex
from skipcast.forecasters import (
    DMD,
    ABCache,
    AdamsBashforth,
    Aligned,
    Blend,
    Brace,
    ChebyshevRidge,
    FoCa,
    Forecaster,
    FSampler,
    HaarDetails,
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
    ScaledTaylor,
    Shrunk,
    Smoothed,
    TaylorSeer,
    Within,
)
from skipcast.parts import Method
from skipcast.plans.plan import Plan
from skipcast.samplers import TIMETUNER, Sampler, Told
from skipcast.targets import (
    AlternatingReuse,
    CarriedDrift,
    GlobalDrift,
    LastHidden,
    ModuleOutputs,
    Output,
    OutputDrift,
    SpanDrift,
    StagedSpans,
    Target,
    VerifiedModules,
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
        checked_against: what its rule and its numbers were compared with: the authors' "OWNER/REPOSITORY@COMMIT FILE",
            "paper" for printed formulas, or "text only" where the text leaves something open and no code was at hand;
            what else there is to say follows behind a semicolon.
    """

    build: Callable[..., Method | Sampler]
    paper: str
    summary: str
    shared: Shared | None
    variants: tuple[str, ...]
    threshold_option: str | None = None
    checked_against: str = ""

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
        return found | get_type_hints(getattr(self.build, "func", self.build))

    def tuned(self, **defaults: Any) -> Named:
        """The entry with other defaults, such as those for another family of networks."""
        if self.shared is None or not defaults:
            return self
        fields = {field.name for field in dataclasses.fields(Shared)}
        shared = dataclasses.replace(self.shared, **{k: v for k, v in defaults.items() if k in fields})
        own = {k: v for k, v in defaults.items() if k not in fields}
        return dataclasses.replace(self, shared=shared, build=functools.partial(self.build, **own))

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
    checked_against: str = "",
) -> Callable[[Callable[..., Method | Sampler]], Callable[..., Method | Sampler]]:
    """Enter a builder under a name."""

    def enter(build: Callable[..., Method | Sampler]) -> Callable[..., Method | Sampler]:
        named = variants or (name,)
        REGISTRY[name] = Named(build, paper, summary, shared or Shared(), named, threshold_option, checked_against)
        return build

    return enter


# Polynomials ------------------------------------------------------------------------------------------------------


@_named(
    "reuse",
    "arXiv:2407.01425",
    "the newest output again (the rule that FORA applies per module)",
    Shared(warmup=1),
    checked_against="paper",
)
def _reuse(shared: Shared) -> Method:
    return shared.method(Reuse())


@_named(
    "lagrange",
    "doi:10.1137/S0036144502417715",
    "polynomial through the newest evaluations",
    variants=("lagrange:order=1", "lagrange:order=2", "lagrange:order=1,coordinate=sigma"),
    checked_against="paper",
)
def _lagrange(shared: Shared, order: int = 2) -> Method:
    return shared.method(Lagrange(order))


@_named(
    "taylorseer",
    "arXiv:2503.06923",
    "difference quotients in a Taylor series, as released; on one stream, or per module as published",
    variants=("taylorseer:target=modules", "taylorseer:target=hidden", "taylorseer", "taylorseer:order=2,exact=true"),
    checked_against="Shenyi-Z/TaylorSeer@288776d TaylorSeer-FLUX/src/flux/taylor_utils/__init__.py",
)
def _taylorseer(shared: Shared, order: int = 1, exact: bool = False) -> Method:
    return shared.method(Lagrange(order) if exact else TaylorSeer(order, start=shared.start))


@_named(
    "resilphase",
    "arXiv:2606.26769",
    "global drift, barycentric Lagrange, bounded phase map, as released for FLUX",
    Shared(target="drift", phase="balanced"),
    variants=("resilphase", "resilphase:target=hidden", "resilphase:target=modules"),
    checked_against="zqc214/ResilPhase@d4afbe9 ResilPhase-FLUX/src/flux/resilphase_utils/__init__.py",
)
def _resilphase(shared: Shared, order: int = 1) -> Method:
    return shared.method(Lagrange(order))


@_named(
    "resilphase-dit",
    "arXiv:2606.26769",
    "ResilPhase as released for DiT: order 4, Chebyshev nodes",
    Shared(target="drift", phase="chebyshev", warmup=2),
    checked_against="zqc214/ResilPhase@d4afbe9 ResilPhase-DiT/resilphase_utils/__init__.py",
)
def _resilphase_dit(shared: Shared, order: int = 4) -> Method:
    return shared.method(Lagrange(order), shared.periodic(4))


@_named(
    "hicache",
    "arXiv:2508.16984",
    "scaled Hermite polynomials on TaylorSeer's differences, per module",
    Shared(target="modules"),
    variants=("hicache", "hicache:target=output", "hicache:target=output,phase=balanced"),
    checked_against="yiming-l21/RA-CFGCache@76359ee models/hicache_fast_impl.py; its authors' code as copied there",
)
def _hicache(shared: Shared, order: int = 2, scale: float = 0.5) -> Method:
    """Order and scale of the paper; the released code has interval 6, order 1 and 0.5, its launcher 5, 2 and 0.6."""
    return shared.method(HiCache(order, scale, start=shared.start), shared.periodic(7))


@_named(
    "hicache-taylor",
    "arXiv:2508.16984",
    "HiCache's control: TaylorSeer's differences damped by scale^2i instead of Hermite polynomials, per module",
    Shared(target="modules"),
    variants=("hicache-taylor", "hicache-taylor:target=output"),
    checked_against="yiming-l21/RA-CFGCache@76359ee HiCache; function _taylor_scaled_prediction_formula",
)
def _hicache_taylor(shared: Shared, order: int = 2, scale: float = 0.5) -> Method:
    return shared.method(ScaledTaylor(order, scale, start=shared.start), shared.periodic(6))


@_named(
    "brace",
    "https://github.com/youngkinlon/BRACE",
    "barycentric rational function with Chebyshev weights, the newest one raised; per module, as released for FLUX",
    Shared(target="modules"),
    variants=("brace", "brace:target=output"),
    checked_against="youngkinlon/BRACE@4aac13b BRACE-FLUX/src/flux/brace_utils/__init__.py",
)
def _brace(shared: Shared, gamma: float = 0.7, window: int = 2) -> Method:
    """Of other networks: HunyuanVideo gamma=0.6,warmup=1,interval=6; Wan gamma=0.6,interval=3; Qwen-Image
    gamma=0.8,window=3; DiT gamma=0.5,window=4,warmup=2,interval=4. FLUX under diffusers: interval=6.
    """
    return shared.method(Brace(gamma, window), shared.periodic(5))


@_named(
    "spectrum",
    "arXiv:2603.01623",
    "Chebyshev ridge blended with a line, growing window, last hidden feature",
    Shared(target="hidden", warmup=5),
    variants=("spectrum", "spectrum:share=1", "spectrum:free_constant=true"),
    checked_against="hanjq17/Spectrum@f7b7841 src/utils/basis_utils.py",
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
    checked_against="text only; the rule of the horizon is a reconstruction",
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
    checked_against="text only; where it hooks is unknown, and the ports differ from each other",
)
def _foca(shared: Shared, slope: Literal["difference", "bdf2"] = "difference", refresh: bool = False) -> Method:
    return shared.method(FoCa(slope, refresh))


@_named(
    "ab-cache",
    "arXiv:2504.10540",
    "2 F_0 - F_1 at every distance, evaluated at the first 5 steps and every sixth",
    Shared(warmup=5),
    variants=("ab-cache", "ab-cache:terms=5"),
    checked_against="aSleepyTree/AB-Cache flux_our.py; as quoted line by line elsewhere",
)
def _ab_cache(shared: Shared, terms: int = 2) -> Method:
    """The released code has `terms=2`, and `terms=5` as its higher rule."""
    interval = 6 if shared.interval is None and shared.evaluations is None else shared.interval
    return shared.method(ABCache(terms), Multiples(shared.warmup, interval, shared.last, shared.evaluations))


@_named(
    "meancache",
    "arXiv:2601.19961",
    "the newest velocity and its trend in sigma over the published spans, most of them 1, on searched steps",
    Shared(coordinate="sigma"),
    variants=("meancache", "meancache:span=2"),
    checked_against="UnicomAI/MeanCache@2e12280 MeanCache4Qwen-Image/Mc_qwenimage.py; there after guidance",
)
def _meancache(shared: Shared, span: int | None = None, steps: str = "meancache-qwen-10") -> Method:
    """`span` is one for all gaps; left out, the set of steps brings its own. A set of the wanted count goes first."""
    chosen = published_set(steps, shared.evaluations)
    if span is None and chosen not in MEANCACHE_SPANS:
        known = ", ".join(MEANCACHE_SPANS)
        raise ValueError(f"steps={steps} has no published spans; add span=2, or take one of {known}.")
    rule = MeanVelocity(MEANCACHE_SPANS[chosen], SEARCHED_AT) if span is None else MeanVelocity(span)
    return shared.method(rule, Searched(chosen, shared.evaluations))


# Rules that look at values --------------------------------------------------------------------------------------------


@_named(
    "tc-pade",
    "arXiv:2603.02943",
    "rational forecast of the global drift by stages, trajectory stability test",
    Shared(warmup=5, target="carried-drift", last=True),
    variants=("tc-pade:variant=code", "tc-pade:variant=paper", "tc-pade:variant=literal"),
    checked_against="Alibaba-YuFeng/TC_Pade@a2be8ea utils/predict.py; variant=paper and literal: text only",
)
def _tc_pade(
    shared: Shared,
    variant: Literal["code", "paper", "literal"] = "code",
    threshold: float | None = None,
    horizon: int = 20,
) -> Method:
    """With `evaluations` or `interval` the fixed steps alone decide, unless a threshold is given.

    The released stages are those of 20 steps, `horizon`, in a run of any length. The released threshold of 1.4 always
    passes. The paper's variant tests with 1.0 between every fourth step.
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
    "hicache-dmd",
    "https://github.com/Archerkattri/hicache-plus-plus",
    "HiCache++: exponentials fitted to the evaluations at equal spacing, HiCache before there are four",
    Shared(warmup=4),
    checked_against="Archerkattri/hicache-plus-plus@031a440 hicache_pp/dmd.py",
)
def _hicache_dmd(shared: Shared, order: int = 1, scale: float = 0.5, history: int = 6) -> Method:
    """As in the example of the author's page, whose signatures take warmup=2,interval=4,history=5."""
    return shared.method(DMD(history, order, scale), shared.periodic(5))


@_named(
    "fsampler",
    "arXiv:2511.09180",
    "differences of sigma times the velocity over a learned ratio; at single steps, or where two orders agree",
    Shared(warmup=2, coordinate="sigma"),
    variants=(*(f"fsampler:order={order}" for order in (2, 3, 4)), "fsampler:mode=adaptive"),
    threshold_option="tolerance",
    checked_against="obisin/ComfyUI-FSampler@128c7ff sampling/extrapolation.py; and sampling/skip.py",
)
def _fsampler(
    shared: Shared,
    mode: Literal["fixed", "adaptive"] = "fixed",
    order: int | None = None,
    calls: int | None = None,
    tail: int = 3,
    decay: float = 0.9999,
    tolerance: float = 0.1,
) -> Method:
    """Mode h{order}/s{calls}, of order 2 by default, or "adaptive", of order 3; `warmup` first steps are evaluated."""
    if mode == "adaptive":
        if calls is not None:
            raise ValueError(f"calls={calls} changes nothing with mode=adaptive; set its tolerance.")
        gate = DualOrder(tolerance, shared.warmup, tail)
        return shared.method(FSampler(order or 3, decay, 2), gate)
    if tolerance != 0.1:
        raise ValueError(f"tolerance={tolerance} changes nothing with mode=fixed; choose mode=adaptive.")
    order = order or 2
    chosen = order if calls is None and shared.evaluations is None else calls
    return shared.method(FSampler(order, decay), Interleaved(order, chosen, shared.warmup, tail, shared.evaluations))


@_named(
    "svd-cache",
    "arXiv:2601.07396",
    "moving average in the principal subspace, reuse outside, on the global drift",
    Shared(target="drift"),
    variants=tuple(f"svd-cache:variant={name}" for name in ("ema", "ema-swapped", "ema-slope", "linear")),
    checked_against="text only; and the port nanguoyu/Golden-Path-Hypothesis@41bc4e7 lib/svdcache_payload.py",
)
def _svd_cache(
    shared: Shared,
    variant: Literal["ema", "ema-swapped", "ema-slope", "linear"] = "ema",
    energy: float = 0.85,
    rank: int = 32,
    decay: float = 0.9,
) -> Method:
    """`variant=ema` is printed; "ema-swapped" and "ema-slope" are other readings, "linear" is this library's own rule.

    The paper takes the subspace offline, per block; here, as in the port, the first evaluation gives it, once for all.
    """
    rules: dict[str, LinearForecaster] = {
        "ema": Smoothed(decay),
        "ema-swapped": Smoothed(round(1 - decay, 12)),
        "ema-slope": Smoothed(decay, slope=True),
        "linear": Lagrange(1),
    }
    return shared.method(Within(rules[variant], Principal(energy, rank)), shared.periodic(5))


@_named(
    "freqca",
    "arXiv:2510.08669",
    "low band reused, high band forecast, last hidden feature",
    Shared(target="hidden"),
    checked_against="Tammytcl/FreqCa@e0a4bf3 flux/src/flux/modules/cache_functions/cache_utils.py",
)
def _freqca(
    shared: Shared,
    order: int = 2,
    scale: float = 0.71,
    band: float = 0.1,
    transform: Literal["dct", "fft"] = "dct",
    bands: Literal["frequencies", "haar"] = "frequencies",
) -> Method:
    """`bands=haar`, not in the paper, reuses the means of 2x2 places; `band` and `transform` are of frequencies."""
    space = HaarDetails() if bands == "haar" else HighBand(band, transform)
    return shared.method(Within(HiCache(order, scale, start=shared.start), space))


@_named(
    "racer",
    "arXiv:2608.01740",
    "Spectrum shrunk towards reuse where a local forecast disagrees",
    Shared(target="hidden", warmup=5),
    variants=("racer", "racer:base=line"),
    checked_against="text only; its rule for refreshing early is left out",
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
    checked_against="Shenyi-Z/TaylorSeer@288776d TaylorSeer-FLUX/src/flux/model.py; variant=paper: text only",
)
def _delta_dit(
    shared: Shared, variant: Literal["paper", "flux"] = "paper", blocks: float = 0.75, boundary: float = 0.6
) -> Method:
    """`variant=flux` is the baseline of others, as released: the single-stream blocks and all modules in turns."""
    if variant == "flux":
        return shared.method(Reuse(), shared.periodic(3), AlternatingReuse())
    return shared.method(Reuse(), shared.periodic(2), StagedSpans(blocks, boundary))


@_named(
    "fbcache",
    "https://github.com/chengzeyi/ParaAttention",
    "reuse of all later blocks while the first block's residual stays",
    Shared(warmup=1),
    threshold_option="threshold",
    checked_against="chengzeyi/ParaAttention@4de137c src/para_attn/first_block_cache/utils.py",
)
def _fbcache(shared: Shared, threshold: float = 0.12, max_forecasts: int | None = None) -> Method:
    return shared.method(Reuse(), FirstBlockChange(threshold, max_forecasts, shared.warmup), SpanDrift(skip_first=1))


def _coefficients(polynomial: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, polynomial.split("/")))
    except ValueError as error:
        raise ValueError(
            f"teacache: polynomial={polynomial!r} must be one of {', '.join(TEACACHE)}, none, or numbers joined by "
            "slashes, such as 1/0."
        ) from error


@_named(
    "teacache",
    "arXiv:2411.19108",
    "global drift reused until the changes of the first modulated input, or of the time's embedding, add up",
    Shared(target="drift", warmup=1, last=True),
    variants=("teacache", "teacache:polynomial=none"),
    threshold_option="threshold",
    checked_against="ali-vilab/TeaCache@7c10efc TeaCache4FLUX/teacache_flux.py; the scripts of the other families",
)
def _teacache(
    shared: Shared,
    threshold: float = 0.6,
    polynomial: str = "flux",
) -> Method:
    """`polynomial` names the network that it was fitted on; other models need their own, or none.

    A name of `skipcast.controllers.TEACACHE`, "none", or coefficients from the highest power on, joined by slashes, as
    `skipcast fit-teacache` prints them. What is looked at comes with the name, and with HiDream's and the retained
    ones of Wan the steps that are forced.
    """
    known = TEACACHE.get(polynomial)
    if known is None:
        rescaled = (1.0, 0.0) if polynomial == "none" else _coefficients(polynomial)
        known = ChangePolynomial(rescaled, "")
    first, last = max(shared.warmup, known.first), shared.last and known.last
    test = AccumulatedChange(threshold, known.probe, known.coefficients, first, last, known.share)
    return shared.method(Reuse(), test)


@_named(
    "seacache",
    "arXiv:2602.18993",
    "global drift reused until the changes of the Wiener-filtered first modulated input add up",
    Shared(target="drift", warmup=1, last=True),
    threshold_option="threshold",
    checked_against="jiwoogit/SeaCache@0a91c2b Wan2.1/seacache_generate.py; and diffusers 0.42.1 hooks/sea_cache.py",
)
def _seacache(
    shared: Shared,
    threshold: float = 0.3,
    probe: Literal["modulated", "input"] = "modulated",
    power: float = 2.0,
    order: int = 0,
    max_forecasts: int | None = None,
    forced: Literal["raw", "filtered"] = "raw",
) -> Method:
    """As released for FLUX.1; `order=1` continues the drift along a line, as diffusers' hook does."""
    rule = Lagrange(order) if order else Reuse()
    test = FilteredChange(threshold, probe, power, shared.warmup, shared.last, max_forecasts, forced)
    return shared.method(rule, test)


@_named(
    "speca",
    "arXiv:2509.11628",
    "TaylorSeer per module, whose forecasts the last block verifies",
    Shared(),
    variants=("speca", "speca:variant=span"),
    threshold_option="base",
    checked_against="Shenyi-Z/Cache4Diffusion@91a1949 flux/speca-flux/src/flux/modules/cache_functions/cal_type.py",
)
def _speca(
    shared: Shared,
    order: int = 2,
    base: float = 7.0,
    decay: float = 0.3,
    floor: float = 0.1,
    min_forecasts: int = 2,
    max_forecasts: int = 8,
    variant: Literal["modules", "span"] = "modules",
) -> Method:
    """Released: a draft per module, verified before the last gate. `variant=span` has SpeCa's decision alone.

    It drafts the residual of all blocks but the last, on any network whose block stack is known, and its errors are of
    another quantity than those that the released thresholds are meant for.
    """
    verdict = Verified(base, decay, floor, min_forecasts, max_forecasts, shared.warmup)
    target = VerifiedModules() if variant == "modules" else SpanDrift(skip_last=1, verify=True)
    return shared.method(TaylorSeer(order, start=0), verdict, target)


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
    checked_against="Zehong-Ma/MagCache@df81cb1 MagCache4FLUX/magcache_flux.py; the scripts of the "
    "other families; diffusers 0.42 hooks/mag_cache.py",
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
    checked_against="Bujiazi/DiCache@dd7f0de FLUX/run_flux_dicache.py; "
    "HunyuanVideo/run_hunyuanvideo_dicache.py, WAN2.1/run_wan_dicache.py",
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
    checked_against="liuxiao-guan/CG-Taylor-DiT@c60a715 models.py; FLUX "
    "liuxiao-guan/paddle_speed@4bb0c47; settings PaddlePaddle/PaddleMIX@7595156",
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
    checked_against="H-EmbodVis/EasyCache@5127804 EasyCache4HunyuanVideo/easycache_sample_video.py",
)
def _easycache(shared: Shared, threshold: float = 0.05) -> Method:
    return shared.method(Reuse(), EasyRatio(threshold, shared.warmup, shared.last))


@_named(
    "hindsight",
    "skipcast",
    "linear forecast until its error, as the newest one was in hindsight, would exceed a tolerance; this library's",
    threshold_option="tolerance",
    checked_against="skipcast; there is nothing else to check it against",
)
def _hindsight(shared: Shared, order: int = 1, tolerance: float = 0.05) -> Method:
    return shared.method(Lagrange(order), ErrorBound(tolerance, order, shared.warmup, shared.last))


@_named(
    "dpcache",
    "arXiv:2602.22654",
    "quadratic TaylorSeer on the last hidden feature, on steps found by dynamic programming",
    Shared(target="hidden"),
    checked_against="argsss/DPCache@59f08a4 dpcache/schedule_utils.py",
)
def _dpcache(shared: Shared, order: int = 2, steps: str = "dpcache-flux-13") -> Method:
    """`steps` names the set; a released one of the wanted count goes first, other counts take its shape."""
    chosen = Searched(published_set(steps, shared.evaluations), shared.evaluations)
    return shared.method(TaylorSeer(order, start=shared.start), chosen)


_GOLDEN_PATH = "nanguoyu/Golden-Path-Hypothesis@41bc4e7 README.md; the steps as printed"
_SEARCHED = (
    ("golden", "https://github.com/nanguoyu/Golden-Path-Hypothesis", "global drift reused on steps found exhaustively"),
    ("budcache", "arXiv:2606.13496", "global drift reused on steps found by simulated annealing"),
    ("seacache-steps", "arXiv:2602.18993", "global drift reused on the steps that SeaCache's online rule takes most"),
)

_SAMPLERS = (
    ("euler", "arXiv:2209.03003", "Euler with fewer steps"),
    ("heun", "arXiv:2206.00364", "Heun, two evaluations a step"),
    ("ab2", "doi:10.1007/978-3-540-78862-1", "Adams-Bashforth of order 2"),
    ("ab3", "doi:10.1007/978-3-540-78862-1", "Adams-Bashforth of order 3"),
    ("dpmpp2m", "arXiv:2211.01095", "DPM-Solver++(2M), flow sigmas"),
    ("unipc", "arXiv:2302.04867", "UniPC of order 2, flow sigmas"),
)


def _on_searched_steps(name: str) -> Callable[[Shared], Method]:
    def build(shared: Shared) -> Method:
        return shared.method(Reuse(), Searched(name, shared.evaluations))

    return build


def _sampler(name: str) -> Callable[..., Sampler]:
    def build(evaluations: int | None = None) -> Sampler:
        return Sampler(name, evaluations)

    return build


for _name, _paper, _summary in _SEARCHED:
    _named(_name, _paper, _summary, Shared(target="drift"), checked_against=_GOLDEN_PATH)(_on_searched_steps(_name))
for _name, _paper, _summary in _SAMPLERS:
    about = f"plain sampler: {_summary}"
    REGISTRY[_name] = Named(_sampler(_name), _paper, about, None, (_name,), checked_against="paper")


def _timetuner(evaluations: int | None = None, ratios: str = "shapes-flux") -> Sampler:
    """`ratios` is the name of a model of `skipcast.samplers.TIMETUNER`, the file of a plan that `skipcast.tune` made,
    or the ratios joined by slashes.
    """
    if ratios in TIMETUNER:
        known = TIMETUNER[ratios]
        if evaluations is not None and evaluations not in known:
            raise ValueError(
                f"timetuner: ratios={ratios} are known for {' and '.join(map(str, known))} evaluations, not for "
                f"{evaluations}; tune others with skipcast.tune and give its plan's file."
            )
        found = known[evaluations or max(known)]
    elif ratios.endswith(".plan.json"):
        found = _told(Plan.load(ratios), ratios)
    else:
        try:
            found = tuple(map(float, ratios.split("/")))
        except ValueError:
            raise ValueError(
                f"timetuner: ratios={ratios!r} must be one of {', '.join(TIMETUNER)}, a file *.plan.json, or numbers "
                "joined by slashes, such as 0.9/0.95/1."
            ) from None
    return Told("euler", evaluations or len(found), found)


def _told(plan: Plan, file: str) -> tuple[float, ...]:
    """The ratios of a tuned plan."""
    if plan.label != "timetuner euler" or plan.evaluations != len(plan.timesteps) or not (plan.timesteps > 0).all():
        raise ValueError(
            f"timetuner: {file} is no plan of Euler's steps that skipcast.tune made; run it as a plan instead."
        )
    return tuple((plan.evaluation_timesteps / plan.timesteps).tolist())


REGISTRY["timetuner"] = Named(
    _timetuner,
    "arXiv:2310.09469",
    "plain sampler: Euler with fewer steps, each told a time that was tuned for it",
    None,
    (),  # its ratios hold for one model and one number of steps
    checked_against="THU-LYJ-Lab/time-tuner@366bb74 time_tuner.py; flow times in place of its VP grid",
)

#: Every method as a comparison of everything holds it.
EVERYTHING: tuple[str, ...] = tuple(spec for entry in REGISTRY.values() for spec in entry.variants)
