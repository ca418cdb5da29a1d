"""The door of every part and function: whether what is given is what its annotations say."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import os
import reprlib
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import numpy as np
from numpy.typing import ArrayLike

#: How a kind is called, and where useful how to come by one.
_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "text",
    None: "None",
    types.NoneType: "None",
    Path: "a path",
    Callable: "callable",
    ArrayLike: "an array of numbers",
    "AdaptivePlan": "an AdaptivePlan (as of profile.adaptive(...))",
    "Controller": "a controller (of skipcast.controllers)",
    "Coordinate": "a coordinate (of skipcast.coordinates)",
    "Forecaster": "a forecaster (of skipcast.forecasters)",
    "LinearForecaster": "a linear forecaster (such as Lagrange(1))",
    "Method": 'a Method (as of skipcast.method("resilphase"))',
    "PhaseMap": "a phase map (Balanced() or Chebyshev())",
    "Plan": "a Plan (as of Plan.load(path) or profile.plan(evaluations=10))",
    "StaticController": "a controller of fixed steps (such as Periodic())",
    "Subspace": "a subspace (such as HighBand())",
    "Target": "a target (of skipcast.targets)",
    "TimeGrid": "a TimeGrid (as of TimeGrid.shifted(50))",
    "Tensor": "a tensor",
}
#: No count is larger: no run has so many steps, and no rule looks at so many values.
_MOST = 10**6
_ARRAY = frozenset(get_args(ArrayLike))
_F = TypeVar("_F", bound=Callable[..., Any])


class WrongKind(TypeError, ValueError):
    """A value of another kind than its argument takes; a ValueError too, as which every refusal can be caught."""


class Checked:
    """A dataclass whose fields hold what their annotations say: no text and no bool for a number, no NaN, no infinity.

    A scalar whole number is a count, from 0 to a million. A number may be infinite where its default is, or in a class
    with `infinite=True`. A class's own `__post_init__` comes between: it finds the right kinds, and may say more of a
    number.

    Raises:
        WrongKind: a value of another kind, by name.
        ValueError: a number that is NaN, infinite or no count.
    """

    _infinite = False

    def __init_subclass__(cls, infinite: bool = False, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._infinite |= infinite
        own = cls.__dict__.get("__post_init__")
        if own is not None:

            @functools.wraps(own)
            def checked(self: Any) -> None:
                _check_fields(self, _check_kind)
                own(self)
                _check_fields(self, _check_number)

            cls.__post_init__ = checked  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        _check_fields(self, _check_kind)
        _check_fields(self, _check_number)


def guarded(*called: str, **ranges: tuple[float, float] | float | None) -> Callable[[_F], _F]:
    """Check the arguments of every call of a function by their annotations, as `Checked` does fields.

        @guarded(steps=1)
        def shifted(steps: int, shift: float = 1.0) -> TimeGrid: ...

    Args:
        called: how the function is called in errors; by default by its own name.
        ranges: the least value of an argument, or the least and the largest; None for one that is not checked here.
    """

    def decorate(function: _F) -> _F:
        parameters = inspect.signature(function).parameters.values()
        names = [each.name for each in parameters if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
        name = called[0] if called else function.__qualname__.removesuffix(".__init__")
        defaults = {each.name: each.default for each in parameters}
        named = {each.name for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)}

        @functools.cache
        def kinds() -> dict[str, tuple[Any, frozenset[Any]]]:
            """The kind of each argument, and types of which no more than that is to be checked, such as a tensor's."""
            found = _resolved(inspect.get_annotations(function).items(), function.__globals__)
            looked_at = [(key, kind) for key, kind in found if key in named and ranges.get(key, 0) is not None]
            return {key: (kind, _passing(kind)) for key, kind in looked_at}

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            known = kinds()
            for key, value in (*zip(names, args, strict=False), *kwargs.items()):
                if key in known and value is not defaults[key] and type(value) not in known[key][1]:
                    check(f"{name}({key}=...)", value, known[key][0], ranges.get(key))
            return function(*args, **kwargs)

        return call  # type: ignore[return-value]

    return decorate


def _passing(kind: Any) -> frozenset[type]:
    """The type whose values have nothing more to be checked, with None if that is one: a step passes many tensors."""
    options = {*get_args(kind)} if get_origin(kind) in (Union, types.UnionType) else {kind}
    (one,) = options - {types.NoneType} if len(options - {types.NoneType}) == 1 else (None,)
    if not isinstance(one, type) or isinstance(one, types.GenericAlias) or one in (int, float):
        return frozenset()
    return frozenset(each for each in options if isinstance(each, type))


def check(what: str, value: Any, kind: Any, limits: tuple[float, float] | float | None = None) -> None:
    """Refuse a value that is not of a kind, or out of range; errors as of `Checked`.

    Args:
        what: how the value is called.
        value: given.
        kind: an annotation, such as int | None or tuple[float, ...].
        limits: the least value, or the least and the largest.
    """
    _check_kind(what, value, kind)
    _check_number(what, value, kind)
    if limits is not None and isinstance(value, Real):
        least, most = limits if isinstance(limits, tuple) else (limits, math.inf)
        number = float(value)
        if not least <= number <= most:
            wanted = f"at least {least:g}" if number < least else f"at most {most:g}"
            raise ValueError(f"{what} must be {wanted}, got {shown(value)}.")


def _check_fields(part: Any, check: Callable[..., None]) -> None:
    for name, kind, infinite in _kinds(type(part)):  # type: ignore[arg-type]
        check(f"{type(part).__name__}({name}=...)", getattr(part, name), kind, infinite=infinite)


def _check_kind(what: str, value: Any, kind: Any, *, infinite: bool = False) -> None:
    if not _fits(value, kind):
        raise WrongKind(f"{what} must be {_worded(kind)}, got {shown(value)}.")
    if _is_count(kind) and value is not None and value > _MOST:
        raise ValueError(f"{what} must be at most {_MOST}, got {shown(value)}.")


def _check_number(what: str, value: Any, kind: Any, *, infinite: bool = False) -> None:
    if any(number != number for number in _numbers(value)):
        raise ValueError(f"{what} must be a number, got {shown(value)}.")
    if not infinite and any(abs(number) == math.inf for number in _numbers(value)):
        raise ValueError(f"{what} must be finite, got {shown(value)}.")
    if _is_count(kind) and value is not None and value < 0:
        raise ValueError(f"{what} must not be negative, got {shown(value)}.")


class _Short(reprlib.Repr):
    """Reads as little of a value as it shows: few bytes of YAML or JSON can stand for gigabytes of text."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 2, 60, 60
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = 10

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() < 128 else f"a whole number of {x.bit_length()} bits"


_short = _Short()


def shown(value: object) -> str:
    """A value in at most a hundred characters of one line, whatever it is."""
    text = " ".join(_short.repr(value).split())
    return text if len(text) <= 100 else f"{text[:97]}..."


@functools.cache
def _kinds(cls: type) -> tuple[tuple[str, Any, bool], ...]:
    """The fields of a dataclass, their annotations, and whether they may be infinite."""
    found = []
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        owner = next(base for base in cls.__mro__ if field.name in inspect.get_annotations(base))
        for name, kind in _resolved([(field.name, field.type)], vars(sys.modules[owner.__module__])):
            found.append((name, kind, getattr(cls, "_infinite", False) or field.default == math.inf))
    return tuple(found)


def _resolved(annotations: Iterable[tuple[str, Any]], scope: dict[str, Any]) -> list[tuple[str, Any]]:
    """Annotations without those whose names are not known at run time."""
    found = []
    for name, kind in annotations:
        try:
            found.append((name, eval(kind, scope) if isinstance(kind, str) else kind))
        except NameError:
            continue
    return found


def _is_count(kind: Any) -> bool:
    return kind is int or kind == int | None


def _options(kind: Any) -> list[Any]:
    """The kinds of a union, of which those of an array are one."""
    inner = get_args(kind)
    if set(inner) >= _ARRAY:
        return [ArrayLike, *(each for each in inner if each not in _ARRAY)]
    return list(inner)


def _fits(value: Any, kind: Any) -> bool:
    origin, inner = get_origin(kind), get_args(kind)
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    if kind in (None, types.NoneType):
        return value is None
    if kind == ArrayLike or origin is np.ndarray:
        return _is_numeric(value) and (origin is not np.ndarray or np.ndim(value) > 0)
    if origin in (Union, types.UnionType):
        return any(_fits(value, each) for each in _options(kind))
    if origin is Literal:
        return any(type(value) is type(each) and value == each for each in inner)
    if origin in (type, TypeVar) or kind is Any:
        return True
    if Callable in (origin, kind):
        return callable(value)
    if kind is Path:
        return isinstance(value, os.PathLike)
    if not isinstance(origin or kind, type):
        return True
    if origin is not None and issubclass(origin, Mapping):
        pairs = value.items() if isinstance(value, Mapping) else ()
        return isinstance(value, Mapping) and all(_fits(k, inner[0]) and _fits(v, inner[1]) for k, v in pairs)
    if origin is tuple or (origin is not None and issubclass(origin, Iterable) and len(inner) == 1):
        return _fits_each(value, origin, inner)
    try:
        return isinstance(value, origin or kind)
    except TypeError:  # a protocol, which shows only where it is used
        return True


def _fits_each(value: Any, origin: type, inner: tuple[Any, ...]) -> bool:
    """Whether values in a row are of their kinds; of a generator nothing is taken."""
    if not isinstance(value, tuple | list | range | np.ndarray):
        return issubclass(origin, Iterable) and isinstance(value, origin) and not isinstance(value, str | bytes)
    if len(inner) == 1 or inner[1:] == (...,):
        return all(_fits(each, inner[0]) for each in value)
    return len(value) == len(inner) and all(map(_fits, value, inner))


def _is_numeric(value: Any) -> bool:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    try:
        found = np.asarray(value)
    except (TypeError, ValueError):  # rows of several lengths, and what makes no array
        return False
    return found.dtype.kind in "fiu" or not found.size


def _numbers(value: Any) -> Iterable[float]:
    """The numbers of a value that is one, or that holds some in a row."""
    if isinstance(value, tuple | list):
        for each in value:
            yield from _numbers(each)
    elif isinstance(value, Real):
        yield value  # type: ignore[misc]


def _worded(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType) and kind != ArrayLike:
        return " or ".join(dict.fromkeys(map(_worded, _options(kind))))
    if origin is Literal:
        return " or ".join(map(repr, inner)) if len(inner) < 3 else f"one of {', '.join(map(repr, inner))}"
    if origin is np.ndarray:
        return _WORDS[ArrayLike]
    if origin in (tuple, list) and inner[1:] != (...,) and len(inner) > 1:
        return f"{len(inner)} values: {', '.join(map(_worded, inner))}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a mapping of names"
    if isinstance(origin, type) and issubclass(origin, Iterable):
        return f"a {'tuple' if origin is tuple else 'list'}, each {_worded(inner[0])}"
    name = getattr(kind, "__name__", str(kind))
    return _WORDS.get(origin or kind) or _WORDS.get(kind) or _WORDS.get(name) or f"a {name}"


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of JSON text, as `json.loads(..., object_pairs_hook=unique)`; of a key twice, one would be lost.

    Raises:
        ValueError: names the key.
    """
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r:.60} comes twice")
        found[key] = value
    return found
