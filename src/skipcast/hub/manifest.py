"""The manifest of a repository of plans, `plans.json`: what is in it, checked as what a stranger wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from skipcast.checks import Checked, shown
from skipcast.plans.plan import MOST_STEPS, Plan, Prediction, Reference
from skipcast.reading import parse_json, why

FORMAT = "skipcast-plans-1"
MANIFEST, CARD = "plans.json", "README.md"
MOST_BYTES = 2**22  # of a manifest; that of eight plans has six thousand
_MOST = 1000  # plans
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_T = TypeVar("_T")


@dataclass(frozen=True)
class File(Checked):
    """A file of a repository.

    Args:
        path: from the top of the repository, such as "10/plan.json".
        sha256: of what it holds, in hexadecimal digits.
    """

    path: str
    sha256: str

    def __post_init__(self) -> None:
        parts = self.path.split("/")
        if len(parts) > 2 or not all(map(_NAME.fullmatch, parts)):  # nothing above the repository, and no drive
            raise ValueError(f"File(path={shown(self.path)}) must be a name in the repository, or in a folder of it.")
        if not _DIGEST.fullmatch(self.sha256):
            raise ValueError(f"File(sha256={shown(self.sha256)}) must be 64 hexadecimal digits.")


@dataclass(frozen=True)
class Listed(Checked):
    """A plan of a repository, as its manifest tells of it.

    Args:
        name: of its folder.
        plan: the file of `Plan.load`.
        scheduler: that of `PlanScheduler.from_pretrained`; None for a plan of a denoiser without a pipeline.
        evaluations: m.
        steps: N.
        reference: what it was made to reach.
        argument: of the pipeline's call that it depends on; None without knots.
        knots: values of it.
        predicted: one for each knot, or one; () where nothing is known.
        size: height and width of the images that it was recorded on, where they were given.
        mu: by which the scheduler shifted its levels, which follows from the size of the image.
        revision: of the weights that were recorded.
        skipcast: the version that recorded it.
    """

    name: str
    plan: File
    scheduler: File | None
    evaluations: int
    steps: int
    reference: Reference = "default"
    argument: str | None = None
    knots: tuple[float, ...] = ()
    predicted: tuple[Prediction, ...] = ()
    size: tuple[int, int] | None = None
    mu: float | None = None
    revision: str | None = None
    skipcast: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"Listed(name={shown(self.name)}) must be letters, digits, '.', '_' and '-'.")
        for text in (self.argument or "", self.revision or "", self.skipcast):
            if len(text) > 200 or not text.isprintable():
                raise ValueError(f"Listed(name={self.name!r}) holds {shown(text)}, which is no word.")
        if not 1 <= self.evaluations <= self.steps <= MOST_STEPS:
            raise ValueError(f"Listed(evaluations=...): {self.evaluations} of {self.steps} steps is none.")
        if len(self.predicted) not in (0, len(self.knots) or 1):
            raise ValueError(f"Listed(predicted=...) has {len(self.predicted)} entries for {len(self.knots)} knots.")

    @classmethod
    def of(cls, name: str, plan: Plan, file: File, scheduler: File | None, mu: float | None) -> Listed:
        """What is told of a plan."""
        call, found = plan.origin.call, [each.predicted for each in plan.knots or (plan,)]
        height, width = call.get("height"), call.get("width")
        return cls(
            name,
            file,
            scheduler,
            evaluations=plan.evaluations,
            steps=plan.origin.steps,
            reference=plan.origin.reference,
            argument=plan.argument,
            knots=tuple(knot.value for knot in plan.knots),
            predicted=tuple(each for each in found if each is not None),
            size=(height, width) if isinstance(height, int) and isinstance(width, int) else None,
            mu=mu,
            revision=plan.origin.revision,
            skipcast=plan.origin.versions.get("skipcast", ""),
        )

    def check(self, plan: Plan) -> None:
        """Refuse a plan that is another than what was told of it.

        Raises:
            ValueError: says what differs.
        """
        for name, found in {"evaluations": plan.evaluations, "steps": plan.origin.steps}.items():
            if found != (said := getattr(self, name)):
                raise ValueError(f"{self.plan.path} has {name}={found}, its manifest says {said}")


@dataclass(frozen=True)
class Manifest(Checked):
    """What a repository of plans holds.

    Args:
        base_model: the hub id of the model that the plans are for.
        plans: of it.
        profile: from which others solve plans of other budgets; None where none is published.
        skipcast: the version that made it.
    """

    base_model: str
    plans: tuple[Listed, ...]
    profile: File | None = None
    skipcast: str = ""

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.base_model) or len(self.base_model) > 96:
            raise ValueError(f"Manifest(base_model={shown(self.base_model)}) must be a hub id such as owner/name.")
        names = [plan.name for plan in self.plans]
        if not 1 <= len(names) <= _MOST or len(set(names)) < len(names):
            raise ValueError(f"Manifest(plans=...) must be 1 to {_MOST} of different names, got {shown(names)}.")

    def as_bytes(self) -> bytes:
        """As the file `plans.json`."""
        values = {"format": FORMAT, **asdict(self)}
        return (json.dumps(values, indent=1, allow_nan=False) + "\n").encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Manifest:
        """The manifest that `as_bytes` wrote.

        Keys that this version does not know are passed over, so that later ones may add some.

        Raises:
            ValueError: it is none.
        """
        try:
            given = parse_json(content)
            if not isinstance(given, dict) or given.get("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT!r}")
            plans = given["plans"]
            if not isinstance(plans, list) or len(plans) > _MOST:
                raise ValueError(f"plans must be a list of at most {_MOST}")
            return _made(cls, {**given, "plans": tuple(map(_listed, plans)), "profile": _file(given.get("profile"))})
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(f"{MANIFEST} is no manifest of plans: {why(error)}.") from error

    def chosen(self, evaluations: int | None, reference: Reference, name: str | None) -> Listed:
        """The one plan that is meant.

        Raises:
            ValueError: none or several fit; names what there is.
        """
        found = [
            plan
            for plan in self.plans
            if (name is None or plan.name == name)
            and (evaluations is None or plan.evaluations == evaluations)
            and (name is not None or plan.reference == reference)
        ]
        if len(found) == 1:
            return found[0]
        wanted = {"name": name, "evaluations": evaluations, "reference": None if name else reference}
        words = ", ".join(f"{key}={value!r}" for key, value in wanted.items() if value is not None)
        there = ", ".join(f"{plan.name} ({plan.evaluations} of {plan.steps}, {plan.reference})" for plan in self.plans)
        cure = "give name= too" if found else "choose another"
        raise ValueError(f"{'several plans fit' if found else 'no plan of'} {words}; {cure}. There are: {there:.1000}.")


def _listed(values: Any) -> Listed:
    given = dict(values)
    return _made(
        Listed,
        {
            **given,
            "plan": _file(given["plan"]),
            "scheduler": _file(given["scheduler"]),
            "knots": tuple(given.get("knots", ())),
            "predicted": tuple(Prediction(**dict(each)) for each in given.get("predicted", ())),
            "size": None if given.get("size") is None else tuple(given["size"]),
        },
    )


def _file(values: Any) -> File | None:
    return None if values is None else _made(File, dict(values))


def _made(kind: type[_T], values: Mapping[str, Any]) -> _T:
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{key: value for key, value in values.items() if key in known})
