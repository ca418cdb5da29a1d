"""The door of every part: whether the values of a dataclass are what its annotations say."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
import types
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, Union, get_args, get_origin

_WORDS: dict[Any, str] = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}


class Checked:
    """A dataclass whose fields hold what their annotations say: no text and no bool for a number, and no NaN.

    What is annotated as something else than a number, a text, a bool, None, or tuples and unions of these, is not
    looked at. A class's own `__post_init__` comes between: it finds the right kinds, and may say more of a NaN.

    Raises:
        TypeError: a value of another kind, by name.
        ValueError: a number that is NaN.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        own = cls.__dict__.get("__post_init__")
        if own is not None:

            @functools.wraps(own)
            def checked(self: Any) -> None:
                _check_fields(self, _check_kind)
                own(self)
                _check_fields(self, _check_nan)

            cls.__post_init__ = checked  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        _check_fields(self, _check_kind)
        _check_fields(self, _check_nan)


def check(what: str, value: Any, kind: Any) -> None:
    """Refuse a value that is not of a kind; errors as of `Checked`.

    Args:
        what: how the value is called.
        value: given.
        kind: an annotation, such as int | None or tuple[float, ...].
    """
    _check_kind(what, value, kind)
    _check_nan(what, value, kind)


def _check_fields(part: Any, check: Callable[[str, Any, Any], None]) -> None:
    for name, kind in _kinds(type(part)):  # type: ignore[arg-type]
        check(f"{type(part).__name__}({name}=...)", getattr(part, name), kind)


def _check_kind(what: str, value: Any, kind: Any) -> None:
    if not _fits(value, kind):
        raise TypeError(f"{what} must be {_worded(kind)}, got {value!r:.100}.")


def _check_nan(what: str, value: Any, kind: Any) -> None:
    if _holds_nan(value):
        raise ValueError(f"{what} must be a number, got {value!r:.100}.")


@functools.cache
def _kinds(cls: type) -> tuple[tuple[str, Any], ...]:
    """The fields of a dataclass and their annotations, without those whose names are not known at run time."""
    found = []
    for field in dataclasses.fields(cls):
        owner = next(base for base in cls.__mro__ if field.name in inspect.get_annotations(base))
        try:
            kind = eval(field.type, vars(sys.modules[owner.__module__])) if isinstance(field.type, str) else field.type
        except NameError:
            continue
        found.append((field.name, kind))
    return tuple(found)


def _fits(value: Any, kind: Any) -> bool:
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    if kind in (bool, str):
        return isinstance(value, kind)
    if kind in (None, type(None)):
        return value is None
    if get_origin(kind) in (Union, types.UnionType):
        return any(_fits(value, each) for each in get_args(kind))
    if get_origin(kind) is tuple and get_args(kind)[1:] == (...,) and isinstance(value, tuple | list):
        return all(_fits(each, get_args(kind)[0]) for each in value)
    return True


def _holds_nan(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(map(_holds_nan, value))
    return isinstance(value, Real) and bool(value != value)


def _worded(kind: Any) -> str:
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(map(_worded, get_args(kind)))
    if get_origin(kind) is tuple:
        return f"a tuple, each {_worded(get_args(kind)[0])}"
    return "None" if kind in (None, type(None)) else _WORDS.get(kind, f"a {getattr(kind, '__name__', kind)}")


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
