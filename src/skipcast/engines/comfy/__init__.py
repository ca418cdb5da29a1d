"""ComfyUI: plans as samplers, methods as model wrappers, recording and solving, as nodes.

The node pack in `integrations/comfyui` hands on what `extension` returns; the rest is for programs of one's own.
"""

from __future__ import annotations

from typing import Any


def extension() -> Any:
    """What `comfy_entrypoint` of a node pack returns: an extension with the nodes of skipcast.

    Raises:
        ImportError: outside ComfyUI.
    """
    from skipcast.engines.comfy.nodes import extension as made

    return made()
