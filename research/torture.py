"""The tests of reliability in their long form: broken files, kills, misuses, visitors, many runs.

Takes about five minutes on two cores. Prints how much was tried and how much failed, and every failure whole; with
--out it writes the table into a page.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from skipcast.checkpoint import write_whole

ROOT = Path(__file__).parents[1]
#: Where a page holds the table.
BEGIN, END = "<!-- made by `make torture` -->", "<!-- until here -->"


@dataclass(frozen=True)
class Part:
    """Tests of one promise.

    Args:
        promise: in words.
        tried: what is counted.
        tests: files, or tests of them, as pytest takes them.
    """

    promise: str
    tried: str
    tests: tuple[str, ...]


PARTS = (
    Part("Broken files are refused, by name and place", "files", (
        "tests/test_reading.py", "tests/test_files.py", "tests/plans/test_plan.py", "tests/plans/test_profile.py",
        "tests/plans/test_adaptive.py", "tests/bench/test_records.py", "tests/bench/test_spec.py",
        "tests/bench/test_prompts.py", "tests/report/test_gallery.py", "tests/models/test_load.py",
    )),
    Part("Killed work goes on to the same bytes", "kills", (
        "tests/test_endurance.py::test_killed_work_goes_on_to_the_same_bytes",
        "tests/bench/test_run.py::test_a_killed_sweep_goes_on_to_the_same_bytes",
    )),
    Part("Outputs and locks: nothing half-written, nothing of others overwritten", "cases", (
        "tests/test_outputs.py", "tests/bench/test_store.py",
    )),
    Part("Misuses are refused at the door, by the argument's name", "misuses", (
        "tests/test_misuse.py", "tests/test_refusals.py", "tests/test_checks.py",
    )),
    Part("No value that is not finite stays unsaid", "broken network calls", (
        "tests/test_endurance.py::test_no_value_that_is_not_finite_stays_unsaid",
    )),
    Part("Many runs leave nothing behind and repeat bit by bit", "runs", (
        "tests/test_endurance.py::test_many_runs_leave_nothing_behind",
    )),
    Part("Accelerated pipelines are restored, copied and let go", "cases", (
        "tests/modes/test_copies.py", "tests/modes/test_lifecycle.py", "tests/modes/test_sharing.py",
    )),
    Part("Workers that are lost are done without", "cases", ("tests/bench/test_workers.py",)),
    Part("The playground serves its visitors, and nobody else's files", "cases", (
        "tests/ui/test_server.py", "tests/ui/test_drawing.py", "tests/ui/test_choices.py",
    )),
)  # fmt: skip


@dataclass(frozen=True)
class Count:
    """What the tests of a part came to."""

    part: Part
    tests: int
    tried: int
    failed: int
    skipped: int
    output: str


def measured(part: Part) -> Count:
    """Run the tests of a part in a process of its own, and count.

    A test counts as what it has noted with `tried`, as the examples that Hypothesis made of it, or as one case.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        options = ["-m", "not slow", "--hypothesis-profile=torture", f"--junit-xml={report}", "-p", "no:cacheprovider"]
        command = [sys.executable, "-m", "pytest", *options, *part.tests]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if not report.exists():
            return Count(part, 0, 0, 1, 0, done.stdout + done.stderr)
        return counted(part, report.read_text(), done.stdout if done.returncode else "")


def counted(part: Part, report: str, output: str = "") -> Count:
    """The counts in a report of pytest."""
    root = ElementTree.fromstring(report)
    cases = [case for case in root.iter("testcase") if case.find("skipped") is None]
    failed = sum(case.find("failure") is not None or case.find("error") is not None for case in cases)
    made = {
        each.get("name", "").removeprefix("hypothesis-statistics-"): _examples(each.get("value", ""))
        for each in root.findall("./testsuite/properties/property")
    }
    tried = sum(made.values())
    for case in cases:
        noted = [int(each.get("value", "0")) for each in case.iter("property") if each.get("name") == "tried"]
        name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
        tried += sum(noted) if noted else name not in made
    skipped = sum(case.find("skipped") is not None for case in root.iter("testcase"))
    return Count(part, len(cases), tried, failed, skipped, output)


def _examples(statistics: str) -> int:
    """How many examples Hypothesis says that it has tried."""
    try:
        text = base64.b64decode(statistics, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        text = statistics
    return sum(int(number) for number in re.findall(r"(\d+) (?:passing|failing)\b", text))


def table(counts: Sequence[Count]) -> str:
    """A row for each promise, and one for all."""
    rows = [
        "| promise | tests | tried | failed | skipped |",
        "| --- | ---: | ---: | ---: | ---: |",
        *(
            f"| {one.part.promise} | {one.tests} | {one.tried:,} {one.part.tried} | {one.failed} | {one.skipped} |"
            for one in counts
        ),
    ]
    sums = [sum(getattr(one, name) for one in counts) for name in ("tests", "tried", "failed", "skipped")]
    return "\n".join([*rows, "| all | {:,} | {:,} | {} | {} |".format(*sums)])


def filled(page: str, counts: Sequence[Count]) -> str:
    """A page with the table between its marks.

    Raises:
        ValueError: the page has no marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"--out: the page needs the lines {BEGIN} and {END}, between which the table goes.")
    return f"{before}{BEGIN}\n\n{table(counts)}\n\n{END}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything, two parts at a time; 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m research.torture", description=__doc__)
    parser.add_argument("--out", type=Path, help="a page that holds the table between marks, docs/reliability.md")
    given = parser.parse_args(arguments)
    if given.out is not None:
        filled(given.out.read_text(), [])  # refused before the work
    with ThreadPoolExecutor(int(os.environ.get("WORKERS", "2"))) as pool:
        counts = list(pool.map(measured, PARTS))
    for one in counts:
        if one.failed:
            print(one.output)
    print(table(counts))
    if given.out is not None:
        write_whole(given.out, filled(given.out.read_text(), counts).encode())
    return int(any(one.failed or not one.tests for one in counts))


if __name__ == "__main__":
    sys.exit(main())
