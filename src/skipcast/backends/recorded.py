"""The scheduler that a profile was recorded with: built again, and compared with the one that a pipeline has."""

from __future__ import annotations

import json
from typing import Any

import diffusers

from skipcast.backends.kinds import scheduler_class
from skipcast.planning.origin import Origin


def public(config: Any) -> dict[str, Any]:
    """The entries of a configuration that are not diffusers' own notes."""
    return {key: value for key, value in dict(config).items() if not key.startswith("_")}


def recorded_scheduler(origin: Origin) -> Any:
    """The scheduler that was recorded.

    Raises:
        ValueError: the installed diffusers does not have it.
    """
    kind = scheduler_class(origin.scheduler)
    if kind is None:
        raise ValueError(
            f"this plan was made for scheduler {origin.scheduler!r}, which diffusers {diffusers.__version__} "
            "does not have; install the version it was recorded with."
        )
    return kind.from_config(public(origin.config))


def check_recorded(scheduler: Any, origin: Origin) -> None:
    """Refuse a scheduler that is not the recorded one.

    Raises:
        ValueError: another class, or another value in its configuration, by name.
    """
    kind = type(scheduler).__name__
    if kind != origin.scheduler:
        raise ValueError(
            f"this plan was made for scheduler {origin.scheduler}, the pipeline has {kind}; set "
            f"pipe.scheduler = {origin.scheduler}.from_config(...) or make a plan for {kind}."
        )
    now = json.loads(json.dumps(public(scheduler.config), default=str))
    for key, recorded in public(origin.config).items():
        if key in now and now[key] != recorded:
            raise ValueError(
                f"this plan was made for {key}={recorded!r}, the pipeline's scheduler has {key}={now[key]!r}; "
                "set it back or record the pipeline as it is now."
            )
