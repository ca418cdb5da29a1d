"""Scheduler classes of the installed diffusers, by name."""

from __future__ import annotations

from typing import Any

import diffusers
from diffusers.schedulers.scheduling_utils import SchedulerMixin


def scheduler_class(name: str) -> Any | None:
    """The class of this name; None if the installed diffusers has no such scheduler."""
    kind = getattr(diffusers, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, SchedulerMixin) else None


def scheduler_names() -> list[str]:
    """Names of all of them."""
    return sorted(name for name in dir(diffusers) if name.endswith("Scheduler") and name[0].isupper())
