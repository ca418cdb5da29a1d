"""What a record needs so that its figure can be made again."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

import torch

from skipcast.plans import plan


def versions() -> dict[str, str]:
    """Of Python and of the packages that results depend on."""
    packages = plan.versions("skipcast", "torch", "diffusers", "transformers", "numpy")
    return {"python": platform.python_version(), **packages}


def hardware(device: torch.device) -> str:
    """The name of the processor that a run is on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    listing = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", listing.read_text()) if listing.exists() else None
    threads = torch.get_num_threads()
    return f"{found[1] if found else platform.machine()}, {threads} thread{'' if threads == 1 else 's'}"


def commit() -> str | None:
    """What git calls the state of the sources; None outside a repository."""
    here = Path(__file__).parent
    command = ["git", "describe", "--always", "--dirty"]
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(here.parents[3])}
    try:
        found = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False, env=environment)
    except OSError:  # no git on this machine
        return None
    return found.stdout.strip() or None
