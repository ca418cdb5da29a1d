"""The plans that ship with a reference model, and the profiles they were solved from.

They lie in plans/<model>/ of the distribution skipcast-models: <reference>-<m>.plan.json, those of passes
<reference>-<m>-passes.plan.json, and <reference>.profile.safetensors.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from skipcast.checks import guarded
from skipcast.methods.names import PLAN_SUFFIX
from skipcast.models.load import data_folder
from skipcast.models.worlds import STILLS, WORLDS
from skipcast.plans.plan import Plan, Reference

#: What a plan's or a profile's file name ends in.
PLAN, PROFILE = PLAN_SUFFIX, ".profile.safetensors"
_PASSES = "-passes"
_MAKE = "`make plans` makes the shipped plans again"


def plans_folder() -> Path:
    """The folder of all shipped plans, one folder a model.

    Raises:
        ImportError: skipcast-models is not installed.
    """
    return data_folder() / "plans"


def shipped_models() -> tuple[str, ...]:
    """Names of the reference models that plans ship for."""
    if importlib.util.find_spec("skipcast_models") is None:
        return ()
    return tuple(sorted({path.parent.name for path in plans_folder().glob(f"*/*{PLAN}")}))


def model_of(family: str | None) -> str:
    """The reference model whose network is of this family; shapes-flux for any other."""
    return next((world.name for world in WORLDS.values() if world.family == family), STILLS.name)


@guarded()
def shipped_budgets(model: str, reference: Reference = "default", branches: bool = False) -> tuple[int, ...]:
    """The evaluations for which a plan of this model ships, rising; () for a model without any."""
    name = re.compile(re.escape(reference) + r"-(\d+)" + (_PASSES if branches else "") + re.escape(PLAN))
    # A path or a hub id is no folder name here; without skipcast-models nothing ships.
    named = Path(model).name == model and importlib.util.find_spec("skipcast_models") is not None
    folder = plans_folder() / model if named else None
    found = [name.fullmatch(path.name) for path in folder.iterdir()] if folder and folder.is_dir() else []
    return tuple(sorted(int(match[1]) for match in found if match))


@guarded(evaluations=1)
def shipped_plan(model: str, evaluations: int, reference: Reference = "default", *, branches: bool = False) -> Plan:
    """The plan that ships for a reference model at so many evaluations.

    Args:
        model: name of a reference model.
        evaluations: m.
        reference: "default", faithful to the 50-step run, or "converged".
        branches: the one whose evaluations are passes of single guidance branches.

    Raises:
        ValueError: no such plan ships; names those that do.
    """
    budgets, kind = shipped_budgets(model, reference, branches), " of passes" if branches else ""
    if not budgets:
        raise ValueError(
            f"no {reference} plan{kind} ships for model {model!r}; {_MAKE}, or record the model with "
            "`skipcast profile`, solve with `skipcast plan` and give the file with --plan."
        )
    if evaluations not in budgets:
        raise ValueError(
            f"no {reference} plan{kind} of {evaluations} evaluations ships for model {model!r}, only of "
            f"{', '.join(map(str, budgets))}; {_MAKE}, or solve one with `skipcast plan`."
        )
    return Plan.load(plans_folder() / model / f"{reference}-{evaluations}{_PASSES if branches else ''}{PLAN}")


@guarded()
def shipped_profile(model: str, reference: Reference = "default") -> Path:
    """The file of the profile that the shipped plans of a model were solved from.

    Raises:
        ValueError: none ships.
    """
    path = plans_folder() / model / f"{reference}{PROFILE}"
    if Path(model).name != model or not path.is_file():
        raise ValueError(f"no {reference} profile ships for model {model!r}; {_MAKE}.")
    return path
