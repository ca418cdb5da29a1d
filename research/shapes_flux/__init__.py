"""How shapes-flux was trained, evaluated and given plans."""

from __future__ import annotations

from pathlib import Path

#: The sources of the distribution skipcast-models, which what is made here goes into.
DATA = Path(__file__).parents[2] / "skipcast-models" / "src" / "skipcast_models"
