"""A handmade list of records, so that every number of a report is known."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from skipcast.bench.records import lines, options_of
from skipcast.methods import names

PROMPTS = ["a red star", 'a <b>"blue"</b> ring & more']


def record(method: str, kind: str, budget: int, index: int, psnr: float | None, /, **changes: Any) -> dict[str, Any]:
    """One image; PSNR in dB, and what follows from it."""
    name, options = names.split(method)
    return {
        "method": method,
        "name": name,
        "options": options_of(options),
        "repr": f"Method({method!r})",
        "kind": kind,
        "paper": "arXiv:2503.06923" if kind == "forecast" else None,
        "budget": budget,
        "evaluations": budget,
        "steps": 50,
        "evaluated_steps": None,
        "prompt": PROMPTS[index],
        "prompt_index": index,
        "seed": 100 + index,
        "psnr": psnr,
        "ssim": None if psnr is None else psnr / 50,
        "latent_error": None if psnr is None else 4 / psnr,
        "psnr_converged": None,
        "ssim_converged": None,
        "latent_error_converged": None,
        "judge": {"shape": True, "colour": index == 0},
        "seconds": budget * (1 + index),
        "speedup": 50 / budget,
        "cached_bytes": 2048,
        "model": "shapes-flux",
        "settings": {"steps": 50, "guidance": 3.5},
        "versions": {"torch": "2.13.0"},
        "commit": "abc1234",
        "hardware": "2 CPU cores",
        "command": "skipcast compare <shapes-flux>",
    } | changes


def both(
    method: str, kind: str, budget: int, first: float | None, second: float | None, /, **changes: Any
) -> list[dict[str, Any]]:
    """An image of each prompt, with these PSNRs in dB."""
    return [record(method, kind, budget, i, psnr, **changes) for i, psnr in enumerate((first, second))]


def written(path: Path, records: Iterable[dict[str, Any]]) -> Path:
    """A file of records, packed where its name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = lines(records).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


RECORDS = [
    *both("taylorseer:order=1,evaluations=10", "forecast", 10, 24, 20),
    *both("resilphase:evaluations=10", "forecast", 10, 40, 10),
    *both("plan:evaluations=5", "plan", 5, 21, 20),
    *both("euler:evaluations=10", "sampler", 10, 23, 22),
    *both("euler:evaluations=5", "sampler", 5, 18, 16),
    *both("reference", "reference", 50, None, None),
]
