"""What a report of many records costs: seconds and memory of `skipcast report` on lines like those of a bench run.

`python -m research.report_scale` makes 100,000 lines in a temporary folder and reports them in a process of its own.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

SAMPLERS = ("euler", "heun", "ab2", "ab3", "dpmpp2m", "unipc")
BUDGETS = (5, 6, 8, 10, 13, 17, 20, 25)
PROMPTS, SEEDS, METHODS = 64, 5, 40
STEPS = 50
LIMITS = 20.0, 2 * 1024**3  # seconds and bytes


def records(lines: int) -> Iterator[dict[str, Any]]:
    """Records of `PROMPTS` prompts and `SEEDS` seeds, method by method; figures drawn at random, always the same."""
    rng = random.Random(7)
    prompts = [f"a large striped red star on a background that is number {i} of many" for i in range(PROMPTS)]
    images = [(i, prompt, 10_000 + 97 * i + seed) for i, prompt in enumerate(prompts) for seed in range(SEEDS)]
    names = [*SAMPLERS, "plan", *(f"forecast{i}:order={i % 4}" for i in range(METHODS - len(SAMPLERS) - 1))]
    rows = [("reference", STEPS), *itertools.product(names, BUDGETS)]
    every = ((name, budget, *image) for name, budget in rows for image in images)
    for name, budget, index, prompt, seed in itertools.islice(every, lines):
        yield _record(rng, name, budget, index, prompt, seed)


def _record(rng: random.Random, name: str, budget: int, index: int, prompt: str, seed: int) -> dict[str, Any]:
    stem, _, options = name.partition(":")
    kind = {"reference": "reference", "plan": "plan"}.get(stem, "sampler" if stem in SAMPLERS else "forecast")
    label = name if kind == "reference" else f"{stem}:{options + ',' if options else ''}evaluations={budget}"
    extra = {"order": int(options[-1])} if options else {}
    own = sum(map(ord, name)) % 7

    def figure(scale: float, *, at: float = 0.0) -> float | None:
        return None if kind == "reference" else at + scale * (budget**0.5 + own / 7 + rng.random())

    return {
        "model": "shapes-flux", "revision": "e2d55b6edddc",
        "settings": {
            "steps": STEPS, "converged_steps": 200, "seeds": SEEDS, "batch": 1, "dtype": "float32",
            "true_cfg_scale": 2.0, "negative_prompt": "", "seed": 0, "threads": 1,
        },
        "versions": {
            "python": "3.11.7", "skipcast": "0.1.0", "torch": "2.13.0+cpu", "diffusers": "0.42.1",
            "transformers": "5.23.0", "numpy": "2.4.6",
        },
        "commit": "0a02ab3", "hardware": "some processor, 1 thread", "command": "skipcast bench sweep.yaml",
        "scheduler": {
            "label": "own", "class": "FlowMatchEulerDiscreteScheduler",
            "config": {f"setting_{i}": i / 3 for i in range(15)},
        },
        "guidance": None, "method": label, "name": stem, "options": {"evaluations": budget, **extra},
        "repr": f"Method({label!r}, " + "part(), " * 12 + ")",
        "parts": {part: f"{part.title()}(of={stem})" for part in ("forecaster", "controller", "coordinate", "target")},
        "kind": kind, "paper": "arXiv:2503.06923", "budget": budget, "evaluations": budget, "steps": STEPS,
        "evaluated_steps": list(range(0, STEPS, max(1, STEPS // budget))), "data_driven": False,
        "decided_with": None, "calibrated_on": None, "prompt": prompt, "seed": seed,
        "psnr": figure(8.0), "psnr_converged": figure(7.0), "ssim": figure(0.01, at=0.9),
        "ssim_converged": figure(0.01, at=0.88), "latent_error": figure(0.02),
        "latent_error_converged": figure(0.03), "ms_ssim": figure(0.01, at=0.9), "lpips": figure(0.05),
        "judge": {part: rng.random() < 0.9 for part in ("shape", "colour", "size", "background")},
        "cached_bytes": 8192, "image_sha256": f"{rng.getrandbits(256):064x}",
        "latents_sha256": f"{rng.getrandbits(256):064x}", "prompt_index": index, "number": index,
        "metrics": {
            "psnr": "higher is better", "ssim": "higher is better", "latent_error": "lower is better",
            "ms_ssim": "higher is better", "lpips": "lower is better", "judge": "higher is better",
        },
        "flops": 1e9 * budget, "seconds": 0.01 * budget + own / 1000, "speedup": STEPS / budget,
        "timing": {
            "generation_seconds": rng.random(), "cell_seconds": rng.random(), "repeats": 5, "peak_bytes": None,
            "loop": {"median": 0.01 * budget, "iqr": 0.001}, "call": {"median": 0.012 * budget, "iqr": 0.001},
        },
        "image": f"images/{stem}-{budget}-{index}-{seed}.png",
    }  # fmt: skip


def main(lines: Annotated[int, typer.Option(min=1, help="Records.")] = 100_000) -> None:
    """Make the lines, report them, print seconds and the largest memory; fails over the limits."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.jsonl"
        with path.open("w") as file:
            made = sum(bool(file.write(json.dumps(record) + "\n")) for record in records(lines))
        size = path.stat().st_size
        command = [sys.executable, "-m", "skipcast.cli", "report", str(path)]
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
        seconds = time.perf_counter() - started
        page = path.with_name("report.html").stat().st_size
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    memory = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    typer.echo(
        f"{made} lines ({size / 1e6:.0f} MB): {seconds:.1f} s ({used.ru_utime + used.ru_stime:.1f} s of "
        f"one processor), at most {memory / 2**20:.0f} MiB; "
        f"the page has {page / 1e6:.1f} MB"
    )
    if seconds > LIMITS[0] or memory > LIMITS[1]:
        typer.echo(f"over the limits of {LIMITS[0]:g} s and {LIMITS[1] / 2**30:g} GiB", err=True)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
