"""Every method beside its authors' rule, and beside the code of diffusers and, where it is installed, of cache-dit.

Prints the table, and writes it as a page with --out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from research.fidelity.calibrators import CALIBRATORS, INSTALLED, calibrated
from research.fidelity.hooks import PEERS, beside
from research.fidelity.page import page, table
from research.fidelity.rows import ROWS, compared
from skipcast.checkpoint import write_whole


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, print and write."""
    parser = argparse.ArgumentParser(prog="python -m research.fidelity", description=__doc__)
    parser.add_argument("--out", type=Path, help="the page to write, such as docs/results/fidelity.md")
    given = parser.parse_args(arguments)
    rows, peers = [compared(row) for row in ROWS], [beside(peer) for peer in PEERS]
    calibrators = [calibrated(calibrator) for calibrator in CALIBRATORS if INSTALLED]
    print(table(rows, peers, calibrators))
    if given.out is not None:
        write_whole(given.out, page(rows, peers, calibrators).encode())


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
