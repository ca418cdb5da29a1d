"""Names of methods: "resilphase:evaluations=10" <-> parts. The only place where strings choose parts."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

from driftcast.controllers import Periodic
from driftcast.coordinates import Angle, Balanced, Chebyshev, Coordinate, HalfLogSNR, PhaseMap, Sigma, StepIndex
from driftcast.forecasters import Lagrange, LinearForecaster, Mapped, Reuse, TaylorSeer
from driftcast.method import Method
from driftcast.samplers import Sampler
from driftcast.targets import GlobalDrift, LastHidden, Output, Target

CoordinateName = Literal["step", "sigma", "half-log-snr", "angle"]
TargetName = Literal["output", "drift", "hidden"]
PhaseName = Literal["balanced", "chebyshev", "none"]

_COORDINATES: dict[str, Coordinate] = {
    "step": StepIndex(),
    "sigma": Sigma(),
    "half-log-snr": HalfLogSNR(),
    "angle": Angle(),
}
_TARGETS: dict[str, Target] = {"output": Output(), "drift": GlobalDrift(), "hidden": LastHidden()}


@dataclass(frozen=True)
class Named:
    """An entry of the registry: how to build it, where it was published, what it is in one line."""

    build: Callable[..., Method | Sampler]
    paper: str
    summary: str

    def options(self) -> dict[str, inspect.Parameter]:
        """The options that its specification understands."""
        return dict(inspect.signature(self.build).parameters)


def _reuse(
    evaluations: int | None = None,
    interval: int | None = None,
    warmup: int = 1,
    last: bool = False,
    target: TargetName = "output",
) -> Method:
    return Method(Reuse(), Periodic(warmup, interval, evaluations, last), target=_TARGETS[target])


def _lagrange(
    evaluations: int | None = None,
    order: int = 2,
    interval: int | None = None,
    warmup: int = 3,
    last: bool = False,
    coordinate: CoordinateName = "step",
    target: TargetName = "output",
) -> Method:
    controller = Periodic(warmup, interval, evaluations, last)
    return Method(Lagrange(order), controller, _COORDINATES[coordinate], _TARGETS[target])


def _taylorseer(
    evaluations: int | None = None,
    order: int = 1,
    interval: int | None = None,
    warmup: int = 3,
    last: bool = False,
    target: TargetName = "output",
) -> Method:
    controller = Periodic(warmup, interval, evaluations, last)
    return Method(TaylorSeer(order, start=max(warmup - 2, 0)), controller, target=_TARGETS[target])


def _resilphase(
    evaluations: int | None = None,
    order: int = 1,
    phase: PhaseName = "balanced",
    alpha: float = 0.55,
    interval: int | None = None,
    warmup: int = 3,
    last: bool = False,
    target: TargetName = "drift",
) -> Method:
    maps: dict[str, PhaseMap | None] = {"balanced": Balanced(alpha), "chebyshev": Chebyshev(), "none": None}
    rule: LinearForecaster = Lagrange(order)
    worn = maps[phase]
    controller = Periodic(warmup, interval, evaluations, last)
    return Method(rule if worn is None else Mapped(rule, worn), controller, target=_TARGETS[target])


def _sampler(name: str) -> Callable[..., Sampler]:
    def build(evaluations: int | None = None) -> Sampler:
        return Sampler(name, evaluations)

    return build


REGISTRY: dict[str, Named] = {
    "reuse": Named(_reuse, "arXiv:2407.01425", "the newest output again (the rule that FORA applies per module)"),
    "lagrange": Named(_lagrange, "doi:10.1137/S0036144502417715", "polynomial through the newest evaluations"),
    "taylorseer": Named(
        _taylorseer,
        "arXiv:2503.06923",
        "difference quotients in a Taylor series, as released; one stream, not per module",
    ),
    "resilphase": Named(
        _resilphase, "arXiv:2606.26769", "global drift, barycentric Lagrange, bounded phase map, as released for FLUX"
    ),
    "euler": Named(_sampler("euler"), "arXiv:2209.03003", "plain sampler: Euler with fewer steps"),
    "heun": Named(_sampler("heun"), "arXiv:2206.00364", "plain sampler: Heun, two evaluations a step"),
    "ab2": Named(_sampler("ab2"), "doi:10.1007/978-3-540-78862-1", "plain sampler: Adams-Bashforth of order 2"),
    "ab3": Named(_sampler("ab3"), "doi:10.1007/978-3-540-78862-1", "plain sampler: Adams-Bashforth of order 3"),
    "dpmpp2m": Named(_sampler("dpmpp2m"), "arXiv:2211.01095", "plain sampler: DPM-Solver++(2M), flow sigmas"),
    "unipc": Named(_sampler("unipc"), "arXiv:2302.04867", "plain sampler: UniPC of order 2, flow sigmas"),
}


def _suggest(kind: str, given: str, known: list[str]) -> str:
    near = difflib.get_close_matches(given, known, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
    return f"unknown {kind} {given!r}.{hint} Known: {', '.join(known)}."


def _convert(option: str, text: str, kind: Any) -> Any:
    choices = get_args(kind)
    if choices and all(isinstance(choice, str) for choice in choices):
        if text not in choices:
            raise ValueError(f"{option}={text!r}: " + _suggest(f"value of {option}", text, list(choices)))
        return text
    wanted = next((t for t in (choices or (kind,)) if t is not type(None)), str)
    try:
        if wanted is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
        return wanted(text)
    except (ValueError, KeyError):
        raise ValueError(f"{option}={text!r} must be of type {wanted.__name__}.") from None


def split(spec: str) -> tuple[str, dict[str, str]]:
    """'taylorseer:order=1,target=hidden' -> ('taylorseer', {'order': '1', 'target': 'hidden'}), unchecked."""
    name, _, tail = spec.strip().partition(":")
    options: dict[str, str] = {}
    for item in filter(None, tail.split(",")):
        key, equals, value = item.partition("=")
        if not equals or not value:
            raise ValueError(f"option {item!r} in {spec!r} must have the form name=value.")
        if key.strip() in options:
            raise ValueError(f"option {key.strip()!r} is given twice in {spec!r}.")
        options[key.strip()] = value.strip()
    return name.strip(), options


def method(spec: str | Method | Sampler) -> Method | Sampler:
    """The method that a specification names, such as "resilphase:evaluations=10"; parts pass through unchanged.

    Raises:
        ValueError: unknown name or option (with the nearest known ones), or a value out of range.
    """
    if isinstance(spec, Method | Sampler):
        return spec
    if not isinstance(spec, str):
        raise ValueError(
            f"method must be a name such as 'resilphase:evaluations=10', a Method or a Sampler, got {spec!r}."
        )
    name, given = split(spec)
    if name not in REGISTRY:
        raise ValueError(_suggest("method", name, list(REGISTRY)))
    entry = REGISTRY[name]
    hints = get_type_hints(entry.build)
    known = entry.options()
    for option in given:
        if option not in known:
            raise ValueError(f"{name}: " + _suggest("option", option, list(known)))
    return entry.build(**{option: _convert(option, text, hints[option]) for option, text in given.items()})


def with_evaluations(spec: str, evaluations: int) -> str:
    """The specification with its `evaluations` set; one that already has them keeps them."""
    name, given = split(spec)
    options = {"evaluations": str(evaluations), **given}
    return f"{name}:" + ",".join(f"{key}={value}" for key, value in options.items())
