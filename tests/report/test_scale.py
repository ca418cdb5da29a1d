"""Many records: lines like those of a bench run are read, and little of each is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from research import report_scale
from skipcast import report
from support.records import written


def test_lines_of_the_benchmark_are_records(tmp_path: Path) -> None:
    found = report.load([written(tmp_path / "results.jsonl", report_scale.records(3 * 320))])
    assert len(found.frame) == 3 * 320
    assert [head["method"] for head in found.heads] == ["reference", "euler:evaluations=5", "euler:evaluations=6"]
    (rows,) = found.rows.values()
    assert set(rows[1].measures) == {
        "psnr", "psnr_converged", "ssim", "ssim_converged", "latent_error", "latent_error_converged", "ms_ssim",
        "lpips",
    }  # fmt: skip


_REPORT = """
import resource, sys
from skipcast.cli import app
app(["report", sys.argv[1]], standalone_mode=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_a_hundred_thousand_lines_take_less_than_two_gibibytes(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with path.open("w") as file:
        file.writelines(json.dumps(record) + "\n" for record in report_scale.records(100_000))
    # The process says it of itself: its parent knows only the largest of all children that it has had.
    command = [sys.executable, "-c", _REPORT, str(path)]
    made = subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    most = int(made.stdout.split()[-1]) * (1 if sys.platform == "darwin" else 1024)
    assert most < 2 * 1024**3
    assert path.with_name("report.html").stat().st_size < 10e6
