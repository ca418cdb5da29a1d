"""A reference folder in miniature: the tiny pipeline and an untrained judge, saved as `make reference` saves them."""

from __future__ import annotations

from pathlib import Path

import torch

from research.shapes_flux.assemble import export
from skipcast.models.judge import Judge
from support.tiny import flux_pipeline


def save_tiny(folder: Path) -> Path:
    torch.manual_seed(0)
    export(flux_pipeline(), Judge().eval(), folder)
    return folder
