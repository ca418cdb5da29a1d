"""Names of methods and plans, such as "resilphase:evaluations=10" and "plan:evaluations=10".

The only place where strings choose parts.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, get_args

from skipcast.checks import guarded
from skipcast.controllers import Windowed
from skipcast.methods.families import settings
from skipcast.methods.published import EVERYTHING as EVERYTHING
from skipcast.methods.published import REGISTRY as REGISTRY
from skipcast.methods.published import WINDOW
from skipcast.methods.published import Named as Named
from skipcast.parts import Method
from skipcast.plans.plan import Plan
from skipcast.samplers import Sampler

#: The name of plans in specifications, their options, and what the name of their files ends in.
PLAN, PLAN_SUFFIX = "plan", ".plan.json"
PLAN_OPTIONS = ("evaluations", "reference", "model", "file", "branches")


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


@guarded()
def method(spec: str | Method | Sampler | Plan, family: str | None = None) -> Method | Sampler | Plan:
    """The method or the plan that a specification names; parts pass through unchanged.

        sc.method("resilphase:evaluations=10")
        sc.method("plan:evaluations=10")  # ships with the reference model
        sc.method("runs/mine.plan.json")

    Args:
        spec: the specification.
        family: such as "wan": what the method's authors set on networks of this family stands for the options that are
            left out. `accelerate` takes the family of the pipeline's network.

    Raises:
        FileNotFoundError: the file of a plan is missing.
        ValueError: unknown name or option (with the nearest known ones), or a value out of range.
    """
    if isinstance(spec, Method | Sampler | Plan):
        return spec
    return plan(spec, family=family) if means_a_plan(spec) else published(spec, family)


def published(spec: str, family: str | None = None) -> Method | Sampler:
    """The published method, or the plain sampler, that a specification names.

    Raises:
        ValueError: as `method`.
    """
    return made(*split(spec), family)


def made(name: str, options: Mapping[str, str], family: str | None = None) -> Method | Sampler:
    """The published method, or the plain sampler, of a name with these options as texts.

    Raises:
        ValueError: as `method`.
    """
    if name not in REGISTRY:
        raise ValueError(_suggest("method", name, [*REGISTRY, PLAN]))
    entry = REGISTRY[name]
    known, types = entry.options(), entry.types()
    for option in options:
        if option in WINDOW and entry.shared is None:
            raise ValueError(
                f"{name}: {option}={options[option]} is for methods that skip steps; a plain sampler evaluates every "
                "one of its own. Leave it out."
            )
        if option not in known:
            raise ValueError(f"{name}: " + _suggest("option", option, list(known)))
    given = {option: _convert(option, text, types[option]) for option, text in options.items()}
    return entry.tuned(**settings(name, family, given))(**given)


def default_threshold(name: str, options: Mapping[str, str], family: str | None = None) -> float | None:
    """The published value of the option that governs how rarely a method by values evaluates, under other options.

    None where the method has no such option, or no value of it was published.
    """
    entry = REGISTRY[name]
    if entry.threshold_option is None:
        return None
    default = entry.tuned(**settings(name, family, options)).options()[entry.threshold_option].default
    if default is None:  # another option chooses it, such as the family
        given = {option: text for option, text in options.items() if option != entry.threshold_option}
        chosen = made(name, given, family)
        assert isinstance(chosen, Method)
        inner = chosen.controller.controller if isinstance(chosen.controller, Windowed) else chosen.controller
        default = getattr(inner, entry.threshold_option)
    return float(default) if isinstance(default, int | float) else None


def means_a_plan(spec: str) -> bool:
    """Whether a specification is `plan`, `plan:...`, or the path of a plan's file."""
    name = spec.partition(":")[0].strip()
    return name == PLAN or (spec.endswith(PLAN_SUFFIX) and name not in REGISTRY)  # of which an option may name one


def plan_file(spec: str) -> str | None:
    """The path in `plan:file=PATH`, or the specification itself where it is a path; None otherwise."""
    prefix = f"{PLAN}:file="
    if spec.startswith(prefix):
        return spec.removeprefix(prefix)
    return spec if spec.endswith(PLAN_SUFFIX) and means_a_plan(spec) else None


def plan(spec: str, model: str | None = None, family: str | None = None) -> Plan:
    """The plan that a specification means.

    Args:
        spec: "plan:evaluations=10", also with "reference=converged", "branches=true" and "model=NAME", for one that
            ships with a reference model; "plan:file=PATH", or a path that ends in ".plan.json".
        model: the reference model where the specification names none; by default that of the family, or shapes-flux.
        family: of the network that the plan is for.

    Raises:
        FileNotFoundError: no such file.
        ValueError: unknown option, no such plan ships, or the file is none.
    """
    if (file := plan_file(spec)) is not None:
        return Plan.load(file)
    from skipcast.models.shipped import model_of, shipped_plan  # only where a shipped plan is named

    options = plan_options(spec)
    if "evaluations" not in options:
        raise ValueError(f"{spec}: name its evaluations, such as {PLAN}:evaluations=10, or give the file of a plan.")
    evaluations: int = _convert("evaluations", options["evaluations"], int)
    model = options.get("model", model) or model_of(family)
    branches: bool = _convert("branches", options.get("branches", "false"), bool)
    reference: Any = options.get("reference", "default")
    return shipped_plan(model, evaluations, reference, branches=branches)


def plan_options(spec: str) -> dict[str, str]:
    """The options of `plan:...`.

    Raises:
        ValueError: unknown option.
    """
    options = split(spec)[1]
    for option in options:
        if option not in PLAN_OPTIONS:
            raise ValueError(f"{spec}: " + _suggest("option", option, list(PLAN_OPTIONS)))
    return options


def with_evaluations(spec: str, evaluations: int) -> str:
    """The specification with its `evaluations` set; one that already has them keeps them."""
    name, given = split(spec)
    return joined(name, {"evaluations": str(evaluations), **given})


def joined(name: str, options: Mapping[str, object]) -> str:
    """The specification of a name with options: what `split` takes apart."""
    return f"{name}:{','.join(f'{key}={value}' for key, value in options.items())}" if options else name
