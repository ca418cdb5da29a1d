"""The plans that fit a model: those that ship with it, those in the hub's cache, and those on the hub."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from skipcast.hub.card import TAGS
from skipcast.hub.fetch import Repository, cached_repositories, repository
from skipcast.hub.manifest import Listed, Manifest
from skipcast.models.load import REFERENCES, folder_of, hub_is_closed, weights_hash
from skipcast.models.shipped import shipped_budgets, shipped_plan
from skipcast.plans.plan import Plan, Prediction, Reference

_MOST = 100  # repositories of one query


@dataclass(frozen=True)
class Found:
    """A plan that fits.

    Args:
        where: "shipped", "cache" or "hub".
        source: the reference model that it ships with, or its repository.
        name: of it there.
        commit: of the repository; "" for a shipped one.
        evaluations: m.
        steps: N.
        reference: what it was made to reach.
        argument: that it depends on; None without knots.
        knots: values of it.
        predicted: one for each knot, or one; () where nothing is known.
        size: of the recorded images, where it is known.
        use: how it is loaded, in Python.
    """

    where: Literal["shipped", "cache", "hub"]
    source: str
    name: str
    commit: str
    evaluations: int
    steps: int
    reference: Reference
    argument: str | None
    knots: tuple[float, ...]
    predicted: tuple[Prediction, ...]
    size: tuple[int, int] | None
    use: str


def fitting(model: str, *, online: bool = False) -> tuple[list[Found], list[str]]:
    """Every plan that fits a model, and the repositories that were left out, with the reason.

    A repository fits if it names the model, or if one of its plans was recorded on the weights of the folder.

    Args:
        model: a reference name, a folder or a hub id.
        online: ask the hub for repositories of its plans too.

    Raises:
        ValueError: no such folder and no hub id; or the hub may not be asked.
    """
    folder = folder_of(model)
    weights = weights_hash(folder) if folder is not None else None
    found, left_out, seen = list(_shipped(model)), list[str](), set[tuple[str, str | None]]()
    for where, source in _repositories(model, left_out, online=online):
        if (source.name, source.commit) in seen:
            continue
        seen.add((source.name, source.commit))
        try:
            manifest = source.manifest
        except ValueError as error:
            left_out.append(str(error))
            continue
        found += [_found(where, source, each) for each in manifest.plans if _fits(manifest, each, model, weights)]
    return found, left_out


def _fits(manifest: Manifest, listed: Listed, model: str, weights: str | None) -> bool:
    return manifest.base_model == model or (weights is not None and listed.revision == weights)


def _repositories(
    model: str, left_out: list[str], *, online: bool
) -> Iterator[tuple[Literal["cache", "hub"], Repository]]:
    for each in cached_repositories():
        yield "cache", each
    if not online:
        return
    if hub_is_closed():
        raise ValueError("--online asks the hub, and HF_HUB_OFFLINE forbids it; unset it, or leave --online out.")
    from huggingface_hub import HfApi

    try:
        ids = [each.id for each in HfApi().list_models(filter=[TAGS[1], f"base_model:{model}"], limit=_MOST)]
    except Exception as error:  # each of its own kind, some of which are no errors of the system
        raise ValueError(
            f"the hub cannot be asked for plans of {model}: {' '.join(str(error).split()):.300}"
        ) from error
    for name in ids:
        try:
            yield "hub", repository(name)
        except ValueError as error:
            left_out.append(str(error))


def _shipped(model: str) -> Iterator[Found]:
    references: tuple[Reference, ...] = ("default", "converged") if model in REFERENCES else ()
    for reference in references:
        for evaluations in shipped_budgets(model, reference):
            yield _of(shipped_plan(model, evaluations, reference), model, f"{reference}-{evaluations}")


def _of(plan: Plan, model: str, name: str) -> Found:
    of = "" if plan.origin.reference == "default" else f', "{plan.origin.reference}"'
    predicted = [each.predicted for each in plan.knots or (plan,)]
    return Found(
        where="shipped",
        source=model,
        name=name,
        commit="",
        evaluations=plan.evaluations,
        steps=plan.origin.steps,
        reference=plan.origin.reference,
        argument=plan.argument,
        knots=tuple(knot.value for knot in plan.knots),
        predicted=tuple(each for each in predicted if each is not None),
        size=None,
        use=f'sc.shipped_plan("{model}", {plan.evaluations}{of})',
    )


def _found(where: Literal["cache", "hub"], source: Repository, listed: Listed) -> Found:
    return Found(
        where=where,
        source=source.name,
        name=listed.name,
        commit=source.commit or "",
        evaluations=listed.evaluations,
        steps=listed.steps,
        reference=listed.reference,
        argument=listed.argument,
        knots=listed.knots,
        predicted=listed.predicted,
        size=listed.size,
        use=f'sc.Plan.from_hub("{source.name}", name="{listed.name}", revision="{(source.commit or "")[:40]}")',
    )
