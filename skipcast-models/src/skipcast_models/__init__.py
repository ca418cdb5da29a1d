"""The data of skipcast's reference models: weights, judges, plans and profiles. No code."""

from __future__ import annotations

from pathlib import Path

__version__ = "0.1.0"

#: Holds weights/MODEL, a pipeline in the layout of diffusers with its judge, and plans/MODEL.
FOLDER = Path(__file__).parent
