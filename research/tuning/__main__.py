"""`python -m research.tuning` measures told times that were tuned, for docs/results/neighbours.md."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from research.pages.neighbours import FOLDER, about, begun, keep
from research.plans.captions import FILE
from research.plans.draws import Settings
from research.plans.study import Study
from research.training.ship import SOURCE
from research.tuning.study import mixture, reference
from skipcast.bench.prompts import read_prompts
from skipcast.models.load import load_model

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    problems: Annotated[int, typer.Option(min=1, help="Mixtures.")] = 1,
    samples: Annotated[int, typer.Option(min=16, help="Samples per mixture.")] = 2048,
    batches: Annotated[int, typer.Option(min=1, help="Adam steps per ratio, on mixtures.")] = 500,
    pairs: Annotated[int, typer.Option(min=4, help="Recorded pairs of the reference model, 0 for none.")] = 48,
    model_batches: Annotated[int, typer.Option(min=1, help="Adam steps per ratio, on the reference model.")] = 60,
    model_batch: Annotated[int, typer.Option(min=1, help="Pairs of each.")] = 8,
    seeds: Annotated[int, typer.Option(min=1, help="Held-out seeds per prompt.")] = 3,
    out: Annotated[Path, typer.Option(help="Record; the page lies beside its folder.")] = FOLDER / "tuning.json",
) -> None:
    """Measure everything on one thread, in about half an hour, and write the page."""
    report = begun()
    model = load_model("shapes-flux")
    prompts = tuple(line for _, line in read_prompts(FILE))
    settings = Settings(prompts, seeds=seeds, batch=16, call=model.call)
    study = Study(model, settings, SOURCE / "shapes-flux", advance=report)
    found = {
        "about": {**about("research.tuning"), "torch": version("torch")},
        "mixture": mixture(problems, samples, batches, report),
        "reference": reference(study, pairs, model_batches, model_batch, report),
    }
    keep(out, found)


if __name__ == "__main__":
    app()
