"""`python -m research.quantisation` measures int8 with and without a plan, for docs/results/neighbours.md."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from research.pages.neighbours import FOLDER, about, begun, keep
from research.plans.captions import FILE
from research.quantisation.study import measure, quick_integers
from skipcast.bench.prompts import read_prompts
from skipcast.models.load import load_model

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    seeds: Annotated[int, typer.Option(min=1, help="Held-out seeds per prompt.")] = 1,
    pairs: Annotated[int, typer.Option(min=1, help="Prompts that are calibrated on.")] = 8,
    batch: Annotated[int, typer.Option(min=1, help="Images per pipeline call.")] = 16,
    out: Annotated[Path, typer.Option(help="Record; the page lies beside its folder.")] = FOLDER / "quantisation.json",
) -> None:
    """Measure on one thread and write the page; needs torchao and modelopt: pip install --group quantized."""
    report = begun()
    prompts = [line for _, line in read_prompts(FILE)]
    with quick_integers():
        found = measure(load_model("shapes-flux"), prompts, seeds, pairs, batch, report)
    told = {**about("research.quantisation"), "torch": version("torch"), "torchao": version("torchao")}
    told["modelopt"] = version("nvidia-modelopt")
    keep(out, {"about": told, **found})


if __name__ == "__main__":
    app()
