"""A Ray cluster of this machine for the tests of a module; nothing of it is left behind."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CPUS = 2


def need_ray() -> None:
    """Skip without Ray, except on CI, where that is a failure."""
    if importlib.util.find_spec("ray") is None:
        word = 'Ray is not installed; run: pip install "skipcast[ray]"'
        if os.environ.get("CI"):
            pytest.fail(word)
        pytest.skip(word)


@contextmanager
def local_cluster() -> Iterator[None]:
    """Two CPUs; executors find it started, and leave it so."""
    need_ray()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    ray.init(address="local", num_cpus=CPUS, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        yield
    finally:
        ray.shutdown()
        gone()


def actors() -> list[int]:
    """Processes of executors' actors."""
    return [pid for pid, command in _descendants(os.getpid()) if command.startswith("ray::Worker")]


def gone(seconds: float = 30.0) -> None:
    """Wait until no process of Ray is among the descendants of this one."""
    end = time.monotonic() + seconds
    while left := [command for _, command in _descendants(os.getpid()) if "ray" in command]:
        if time.monotonic() > end:
            pytest.fail(f"left behind: {left}")
        time.sleep(0.1)


def _descendants(pid: int) -> list[tuple[int, str]]:
    """Number and command of every process that comes from this one."""
    found: list[tuple[int, str]] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            command = (entry / "cmdline").read_text().replace("\0", " ").strip()
        except OSError:  # it ended
            continue
        if int(parent) == pid and state != "Z":
            found += [(int(entry.name), command), *_descendants(int(entry.name))]
    return found
