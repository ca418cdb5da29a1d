"""A small bench run, pinned: the files that it leaves, and its records to the digits that every machine has."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from skipcast.bench.run import MEASURED
from support.reference_model import save_tiny
from support.runs import run

SPEC = """\
models: [tiny]
steps: [6]
methods: [resilphase, "lagrange:order=1,schedule=even", euler]
budgets: [3]
prompts: [a large red star on a blue background, small plain white heart]
seeds: 2
batch: 2
metrics: [psnr, ssim, relative_l2]
converged_steps: 12
"""
#: Of the machine and the moment, not of the run.
ELSEWHERE = {
    *MEASURED,
    "versions",
    "commit",
    "hardware",
    "command",
    "revision",
    "image",
    "image_sha256",
    "latents_sha256",
}
KINDS = {
    "./*": 1,  # the lock
    "./*.json": 1,
    "./*.jsonl": 1,
    "./*.yaml": 1,
    "agreements/*.piece": 1,
    "cells/*.piece": 10,
    "counts/*.piece": 4,
    "images/*.png": 16,
    "prepared/*.piece": 1,
    "samples/*.safetensors": 4,
}
RECORDS = "b50e40f4fb52cafe"


def rounded(value: Any) -> Any:
    """Three digits of a float; the last bits differ between processors."""
    if isinstance(value, float):
        return float(f"{value:.3g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


def test_a_small_run_is_what_it_was(tmp_path: Path) -> None:
    save_tiny(tmp_path / "tiny")
    (tmp_path / "grid.yaml").write_text(SPEC)
    folder = tmp_path / "out"
    run(tmp_path / "grid.yaml", folder)
    found = map(json.loads, (folder / "results.jsonl").read_text().splitlines())
    records = [{key: rounded(value) for key, value in record.items() if key not in ELSEWHERE} for record in found]
    kinds = Counter(f"{path.parent.relative_to(folder)}/*{path.suffix}" for path in folder.rglob("*") if path.is_file())
    assert len(records) == 4 * 4  # the unaccelerated run and three methods, two prompts, two seeds
    assert kinds == KINDS
    text = json.dumps(records, sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == RECORDS, text
