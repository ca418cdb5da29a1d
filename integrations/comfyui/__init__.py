"""skipcast for ComfyUI: plans as samplers, and forecasts of any model.

The nodes are those of the installed skipcast; this folder hands them on.
"""

from __future__ import annotations

from typing import Any

try:
    from skipcast.engines.comfy import extension
except ModuleNotFoundError as error:
    if not (error.name or "").startswith("skipcast"):
        raise
    raise ImportError(
        "the nodes of skipcast need the library itself, in the Python that runs ComfyUI: "
        "python -m pip install -r requirements.txt, in this folder"
    ) from error


def comfy_entrypoint() -> Any:
    """What ComfyUI asks a pack for: its extension, with the nodes."""
    return extension()
