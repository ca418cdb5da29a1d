"""A training in stages: each runs once, and its figures are kept in the work folder."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from skipcast.checkpoint import Folder

console = Console()
STAGES = "stages"


def stages(folder: Path) -> Folder:
    """The figures of the finished stages in a work folder."""
    kinds = {STAGES: re.compile(r"(\w+)\.piece")}
    return Folder(folder, {}, "stages of a training", kinds, manifest="training.json", shared=True)


def stage(folder: Path, name: str, work: Callable[[], dict[str, Any]]) -> None:
    """Run `work` once; its figures are kept in the folder."""
    with stages(folder).opened() as finished:
        if not finished.has(STAGES, name):
            started = time.monotonic()
            figures = work()
            figures.setdefault("seconds", round(time.monotonic() - started, 1))
            finished.write(STAGES, name, json.dumps(figures).encode())
        console.print(f"[bold]{name}[/bold] {finished.read(STAGES, name).decode()}")


def figures_of(folder: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """The figures of those of the stages that are finished."""
    with stages(folder).opened() as finished:
        return {name: json.loads(finished.read(STAGES, name)) for name in names if finished.has(STAGES, name)}


def save_module(module: torch.nn.Module, path: Path) -> None:
    """Write the weights of a module that has no `save_pretrained`."""
    save_file({k: v.contiguous() for k, v in module.state_dict().items()}, path)


def load_module(module: torch.nn.Module, path: Path) -> Any:
    """A module with the weights of a file, in evaluation mode."""
    module.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    return module.eval()
