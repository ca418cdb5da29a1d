"""Names of methods: "resilphase:evaluations=10" <-> parts. The only place where strings choose parts."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, get_args

from skipcast.method import Method
from skipcast.registry import EVERYTHING as EVERYTHING
from skipcast.registry import REGISTRY as REGISTRY
from skipcast.registry import Named as Named
from skipcast.samplers import Sampler


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
    return made(*split(spec))


def made(name: str, options: Mapping[str, str]) -> Method | Sampler:
    """The method of a name with these options as texts.

    Raises:
        ValueError: as `method`.
    """
    if name not in REGISTRY:
        raise ValueError(_suggest("method", name, list(REGISTRY)))
    entry = REGISTRY[name]
    known, types = entry.options(), entry.types()
    for option in options:
        if option not in known:
            raise ValueError(f"{name}: " + _suggest("option", option, list(known)))
    return entry(**{option: _convert(option, text, types[option]) for option, text in options.items()})


def with_evaluations(spec: str, evaluations: int) -> str:
    """The specification with its `evaluations` set; one that already has them keeps them."""
    name, given = split(spec)
    return joined(name, {"evaluations": str(evaluations), **given})


def joined(name: str, options: Mapping[str, object]) -> str:
    """The specification of a name with options: what `split` takes apart."""
    return f"{name}:{','.join(f'{key}={value}' for key, value in options.items())}" if options else name
