"""skipcast publish, plans and export."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from skipcast.cli.base import Json, ModelArgument, Overwrite, app, err, out, plain_errors, printable, say
from skipcast.methods import names
from skipcast.plans.plan import Plan

if TYPE_CHECKING:
    from skipcast.hub.listing import Found

_MOST_OF_A_GRID = 2**25  # bytes


@app.command()
def publish(
    plans: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="Folders of *.plan.json, or such files, of one model.")
    ],
    repo: Annotated[
        str, typer.Option(metavar="OWNER/NAME", help="Repository on the hub, such as me/FLUX.1-dev-plans.")
    ],
    base_model: Annotated[
        str, typer.Option(metavar="OWNER/NAME", help="The model that was recorded; default: as the plans say.")
    ] = "",
    profile: Annotated[
        Path | None, typer.Option(help="The profile of the plans, so that others solve other budgets.")
    ] = None,
    prompts: Annotated[
        bool,
        typer.Option("--prompts", help="Publish recorded prompts, seeds and states too; without it hashes alone."),
    ] = False,
    results: Annotated[
        list[Path] | None, typer.Option(help="A results.jsonl of compare or bench, for the card; may be repeated.")
    ] = None,
    grid: Annotated[Path | None, typer.Option(help="An image of samples for the card, such as grid.png.")] = None,
    license_: Annotated[str, typer.Option("--license", help="Of the plans, such as apache-2.0; for the card.")] = "",
    pipeline_tag: Annotated[str, typer.Option(help="Task on the card; default: that of the recorded pipeline.")] = "",
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to commit to; default: main.")] = None,
    tag: Annotated[str | None, typer.Option(help="Tag of the commit, such as v1; none is moved.")] = None,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Folder to write first; default: runs/publish/ and the name.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write the folder and list its files; send nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Publish plans on the hub: a folder for each, a manifest with digests, a card; prompts only where asked for."""
    with plain_errors():
        from skipcast.checkpoint import check_folder
        from skipcast.hub.publish import Publication, check_target, read_plans, upload, write
        from skipcast.plans.profile import Profile
        from skipcast.reading import read_regular

        target = folder or Path("runs/publish") / repo.rpartition("/")[2]
        check_target(target)
        check_folder(target.parent)
        made = Publication(
            repo=repo,
            plans=read_plans(plans),
            base_model=base_model,
            profile=None if profile is None else Profile.load(profile),
            prompts=prompts,
            measured=_measured(results) if results else "",
            grid=None if grid is None else (grid.name, read_regular(grid, _MOST_OF_A_GRID)),
            license=license_,
            pipeline_tag=pipeline_tag,
        )
        files = made.files()
        write(target, files)
        address = None
        if not dry_run:
            with err.status(f"publishing {repo}"):
                address = upload(target, repo, private=private, branch=revision, tag=tag)
        if as_json:
            sizes = {name: len(content) for name, content in files.items()}
            typer.echo(json.dumps({"folder": str(target), "files": sizes, "repo": repo, "commit": address}))
            return
        for name, content in files.items():
            say(f"{target / name} ({decimal(len(content))})")
        if not license_:
            say("note: the card names no licence; give one with --license.")
        say(f"published: {address}" if address else "nothing was sent; leave out --dry-run to publish it.")


def _measured(results: list[Path]) -> str:
    """The tables of records as Markdown, without the folders that plans lay in."""
    from skipcast import report

    found = report.load(results)
    tables = []
    for state, rows in found.rows.items():
        title = f"#### {state.title(found.rows)}\n\n" if len(found.rows) > 1 else ""
        tables.append(title + report.markdown(rows).strip())
    return re.sub(r"plan:file=[^`|]*/", "plan:file=", "\n\n".join(tables))


@app.command("plans")
def list_plans(
    model: ModelArgument,
    online: Annotated[bool, typer.Option("--online", help="Ask the hub for published plans too.")] = False,
    as_json: Json = False,
) -> None:
    """List the plans that fit a model: those that ship, those in the hub's cache, with --online those on the hub."""
    with plain_errors():
        from skipcast.hub.listing import fitting

        found, left_out = fitting(model, online=online)
        if as_json:
            typer.echo(json.dumps({"plans": [asdict(each) for each in found], "left_out": left_out}))
            return
        if found:
            out.print(_plans_table(found), highlight=False)
        for each in {(one.where, one.source): one for one in reversed(found)}.values():  # the first of each
            say(f"use it: {each.use}")
        for line in left_out:
            say(f"left out: {line}")
        if not found:
            more = "" if online else "; --online asks the hub"
            say(f"no plan for {model} is here{more}. Record it with `skipcast profile` and solve with `skipcast plan`.")


def _plans_table(found: list[Found]) -> Table:
    table = Table("where", "plans of", "name", "evaluations", "reaches", "guidance", "dB", "5 % worst")
    for each in found:
        at = f"@{each.commit[:7]}" if each.commit else ""
        count, knots = f"{each.evaluations} of {each.steps}", _span(each.knots, "g")
        mean, worst = (_span([getattr(p, what) for p in each.predicted], ".1f") for what in ("psnr", "worst5"))
        cells = (each.where, f"{each.source}{at}", each.name, count, each.reference, knots, mean, worst)
        table.add_row(*(Text(printable(cell)) for cell in cells))  # names are the publishers'
    return table


def _span(values: Sequence[float], form: str) -> str:
    """The first and the last of several values."""
    return " to ".join(format(value, form) for value in dict.fromkeys([*values[:1], *values[-1:]]))


@app.command()
def export(
    plan: Annotated[
        str, typer.Argument(metavar="PLAN", help="The file of a plan, or a shipped one such as plan:evaluations=10.")
    ],
    to: Annotated[
        str,
        typer.Option(
            help="sigmas: an argument for a diffusers call; cache-dit: a YAML file; sdcpp: arguments of "
            "stable-diffusion.cpp."
        ),
    ],
    guidance: Annotated[
        float | None,
        typer.Option(help="Of a plan with knots, the scale at which fidelity is predicted; default: the middle one."),
    ] = None,
    profile: Annotated[
        Path | None, typer.Option(help="The plan's profile, to predict what is left; default: the shipped one.")
    ] = None,
    file: Annotated[Path | None, typer.Option("--out", help="File to write; default: print it.")] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write a plan's steps for a tool that knows only lists, and say what is lost: the weights do not go along."""
    with plain_errors():
        from skipcast.checkpoint import check_file, write_whole
        from skipcast.hub.export import export as exported
        from skipcast.plans.profile import Profile

        if file is not None:
            check_file(file, new=not overwrite)
        found_plan = names.plan(plan) if names.means_a_plan(plan) else Plan.load(plan)
        known = None if profile is None else Profile.load(profile)
        found = exported(found_plan, to, guidance, known)  # type: ignore[arg-type]
        if file is not None:
            write_whole(file, found.text.encode())
        if as_json:
            typer.echo(json.dumps(_as_json(found, to, file), allow_nan=False))
            return
        if file is None:
            typer.echo(found.text, nl=False)
        for line in found.lines:  # beside the text, which another program may read
            err.print(printable(line), highlight=False, soft_wrap=True, markup=False)
        if file is not None:
            say(f"{to}: {file}")


def _as_json(found: Any, to: str, file: Path | None) -> dict[str, Any]:
    return {
        "to": to,
        "text": found.text,
        "file": None if file is None else str(file),
        "evaluations": found.plan.evaluations,
        "steps": list(found.plan.steps),
        "predicted": found.own and asdict(found.own),
        "left": [
            {"what": left.what, "predicted": left.predicted and asdict(left.predicted), "why": left.why}
            for left in found.left
        ],
    }
