"""Measure what plans reach, and write the page of it.

`python -m research.plans WHAT --out FILE.json` measures one of bars, tails, loop, cost, transfer, guidance, retry,
seam, ablation, variants and limit; `python -m research.plans page FOLDER --out PAGE.md` writes the page from these
files alone.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from research.plans import ablation, bars, cost, guidance, limit, loop, retry, seam, tails, transfer, variants
from research.plans.captions import FILE
from research.plans.draws import Settings
from research.plans.gradients import Descent
from research.plans.page import page
from research.plans.store import KINDS, about, read, write
from research.plans.study import Study
from research.training.ship import SOURCE
from skipcast.bench.prompts import read_prompts
from skipcast.checkpoint import write_whole
from skipcast.models.load import load_model

MEASURES: dict[str, Callable[..., dict[str, Any]]] = {
    "bars": bars.measure,
    "tails": tails.measure,
    "loop": loop.measure,
    "cost": cost.measure,
    "transfer": transfer.measure,
    "guidance": guidance.measure,
    "retry": retry.measure,
    "seam": seam.measure,
    "ablation": ablation.measure,
    "variants": variants.measure,
    "limit": limit.measure,
}
_PAIRS = {"guidance": guidance.PAIRS, "ablation": 32, "variants": 64, "retry": retry.PAIRS, "limit": limit.PAIRS}
_PROGRAM = "python -m research.plans"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one measurement, or write the page."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog=_PROGRAM, description=__doc__)
    kinds = parser.add_subparsers(dest="what", required=True)
    for kind in KINDS:
        _options(kinds.add_parser(kind, help=MEASURES[kind].__doc__), kind)
    written = kinds.add_parser("page", help="Write the page.")
    written.add_argument("folder", type=Path)
    written.add_argument("--out", type=Path, default=Path("docs/results/plans.md"))
    given = parser.parse_args(words)
    command = f"{_PROGRAM} {shlex.join(words)}"
    try:
        if given.what == "page":
            write_whole(given.out, page(read(given.folder), command).encode())
        else:
            _measure(given, command)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))


def _options(parser: argparse.ArgumentParser, kind: str) -> None:
    parser.add_argument("--out", type=Path, default=Path(f"docs/results/plans/{kind}.json"))
    parser.add_argument("--model", default="shapes-flux")
    parser.add_argument("--plans", type=Path, help="folder of plans; default: those that ship with the model")
    parser.add_argument("--prompts", type=Path, default=FILE, help="held-out prompts, one a line")
    parser.add_argument("--seeds", type=int, default=8, help="held-out seeds per prompt")
    parser.add_argument("--seed", type=int, default=1000, help="of the run; the seeds of the images follow from it")
    parser.add_argument("--batch", type=int, default=32, help="images per pipeline call")
    if kind == "loop":
        parser.add_argument("--rounds", type=int, default=9)
    if kind == "cost":
        parser.add_argument("--pairs", type=int, nargs="+", default=[2, 4, 8, 16])
        parser.add_argument("--draws", type=int, default=3)
    if kind == "retry":
        parser.add_argument("--profile", type=Path, help="a recording of pairs that the plans have not seen")
    if kind == "limit":
        parser.add_argument("--budgets", type=int, nargs="+", default=list(limit.BUDGETS))
        parser.add_argument("--iterations", type=int, default=Descent.iterations)
        parser.add_argument("--scaled", action="store_true", help="scale the parameters without decorrelating them")
        parser.add_argument("--start", choices=list(limit.STARTS), default="plan", help="where gradients begin")
        parser.add_argument("--states", type=Path, default=Path("runs/limit"), help="to go on from where interrupted")
    if kind in _PAIRS:
        parser.add_argument(
            "--pairs",
            type=int,
            default=_PAIRS[kind],
            help="pairs of its own recordings; of guidance those of each scale",
        )


def _measure(given: argparse.Namespace, command: str) -> None:
    prompts = tuple(prompt for _, prompt in read_prompts(given.prompts))
    model = load_model(given.model)
    settings = Settings(
        prompts=prompts,
        seeds=given.seeds,
        seed=given.seed,
        batch=given.batch,
        call=dict(model.call),
    )
    study = Study(model, settings, given.plans or SOURCE / given.model, command, _note)
    names = ("rounds", "pairs", "draws", "profile", "budgets", "start", "states")
    more = {name: getattr(given, name) for name in names if hasattr(given, name)}
    if given.what == "bars":
        more["records"] = given.out.with_suffix(".jsonl.gz")
    if given.what == "limit":
        more["descent"] = Descent(iterations=given.iterations, joint=not given.scaled)
    # Read before the hours of measuring: a broken file ends the command here.
    before = read(given.out.parent).get("limit") if given.what == "limit" else None
    began = time.perf_counter()
    data = MEASURES[given.what](study, **more)
    details = about(study)
    if given.what == "limit":
        data = limit.joined(data, details, before)
    write(given.out, given.what, data, details, time.perf_counter() - began)


def _note(note: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {note}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
