"""The support page: what the tests of the families found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import diffusers

from families.base import Family
from skipcast.pipelines.networks import denoisers
from skipcast.pipelines.seams.layouts import LAYOUTS

COMMAND = "make support"
_GUIDANCE = {
    "none": "none",
    "distilled": "input of the network",
    "batched": "one call on a doubled batch",
    "separate": "two calls",
}
HEAD = "| family | pipeline, network, scheduler | guidance | output seam | block stack | plans |"


@dataclass
class Facts:
    """What was found per family, in the order of the tests."""

    rows: dict[str, dict[str, str]] = field(default_factory=dict)

    def begin(self, family: Family, pipe: Any) -> None:
        kinds = [type(part).__name__ for part in (pipe, *denoisers(pipe), pipe.scheduler)]
        self.rows[family.name] = {
            "kinds": ", ".join(dict.fromkeys(kinds)),
            "example": family.example,
            "guidance": _GUIDANCE[family.guidance],
        }

    def note(self, family: Family, what: str, found: str) -> None:
        self.rows[family.name][what] = found

    def page(self) -> str:
        """The whole page in Markdown."""
        known = ", ".join(sorted(LAYOUTS)) + ".\n"
        return "\n".join((_INTRODUCTION, *self.table(), "\n## In short\n", *self.short(), _REST, known))

    def table(self) -> list[str]:
        rows = [HEAD, "|" + " --- |" * HEAD.count(" | ") + " --- |"]
        for name, row in self.rows.items():
            branch = {"call": ", distinguished by the call", "name": ""}[row.get("distinguished by", "name")]
            guidance = row["guidance"] + (branch if row["guidance"] == "two calls" else "")
            recorded = row.get("recorded", "failed")
            plans = "compiled" if recorded.startswith("no") else "recorded, compiled"
            plans += "" if row.get("passes", "no") == "no" else ", passes"
            plans += f" ({recorded.removeprefix('no: ')})" if recorded.startswith("no") else ""
            cells = (
                f"{name} ({row['example']})",
                row["kinds"],
                guidance,
                row.get("output", "failed"),
                row.get("stack", "failed"),
                plans if row.get("compiled") == "yes" and recorded != "failed" else "failed",
            )
            rows.append("| " + " | ".join(cells) + " |")
        return rows

    def short(self) -> list[str]:
        """The families by what works on them, for the README."""
        groups: dict[tuple[str, str, str], list[str]] = {}
        for name, row in self.rows.items():
            works = (row.get("output", "failed"), row.get("compiled", "failed"), row.get("stack", "failed"))
            groups.setdefault(works, []).append(name.replace(",", ""))
        lines = ["| tested pipelines | output seam | plans | block stack |", "| --- | --- | --- | --- |"]
        return lines + [f"| {', '.join(names)} | {' | '.join(works)} |" for works, names in groups.items()]


_INTRODUCTION = f"""\
# What is supported

Made by the tests with `{COMMAND}`, on diffusers {diffusers.__version__}. Every row is a pipeline of random
weights, built from its configuration, saved, loaded again and run.

- **Output seam**: the network is forecast as a whole. With every step evaluated the result is the plain
  pipeline's, bit by bit; at forecast steps no module of the network runs. It needs to know nothing of the
  network, so pipelines that are not listed work as well.
- **Block stack**: the blocks are skipped; embedding and head run at every step. Tested in the same way.
- **Plans**: *compiled* from a method with `skipcast.compile_plan`; *recorded* with `skipcast.record` and
  solved, which is what a plan is for; with *passes* also one guidance branch at a time, where the pipeline
  has two. Runs that begin in mid-grid, as image-to-image does, begin at the
  noise level of the plain pipeline; tested in `tests/pipelines/test_strength.py`.
- **Guidance**: branches are distinguished by the name that the pipeline gives its calls
  (`cache_context`), else by the call itself: the branch whose embeddings lie where this call's do.
"""
_REST = """
## Modes

Tested in `tests/modes`, at the output seam, the block stack and with a plan where it makes a difference:

| mode | test |
| --- | --- |
| batched and separate guidance, intervals, further streams | `test_guidance.py` |
| batches, sizes and step counts that change, callbacks, interrupts, exceptions | `test_calls.py` |
| two pipelines, two threads, requests that share a network, two experts | `test_sharing.py` |
| model, sequential and group offload, before and after | `test_offload.py` |
| `torch.compile`, `compile_repeated_blocks(fullgraph=True)` | `test_compile.py` |
| LoRA, int8 and float8 weights, bfloat16, float16 | `test_weights.py` |
| every scheduler of diffusers: followed, or refused by name | `test_schedulers.py` |
| context parallelism on two processes | `test_parallel.py` |
| 200 random sequences of all of this | `test_lifecycle.py` |
| the defects of other caches | `test_peers.py` |

Schedulers that draw noise at every step, or that evaluate every level twice, are refused by name: no forecast
knows the noise, and a second stage is another function of the sample.

## Networks whose block stack is known
"""
