"""Who may import whom, read off the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import skipcast

ROOT = Path(skipcast.__file__).parent
FILES = {path.relative_to(ROOT).as_posix(): path for path in sorted(ROOT.rglob("*.py"))}
INNER = [name for name in FILES if name != "__init__.py"]

#: A module imports from its own layer and those before it. The package's front door stands before the pipelines.
LAYERS = [
    ["checkpoint", "grid", "coordinates", "samplers", "stability"],
    ["history"],
    ["forecasters", "targets", "controllers"],
    ["method", "memory", "run"],
    ["tableaux", "registry", "names", "plans"],
    ["card", "wrapped"],
    ["skipcast"],
    ["pipelines", "models"],
    ["bench", "report"],
    ["cli", "ui"],
]
RANK = {module: rank for rank, layer in enumerate(LAYERS) for module in layer}


def imports(nodes: Iterable[ast.AST], *, lazy: bool) -> Iterator[str]:
    """Dotted names of what is imported outside TYPE_CHECKING blocks; inside functions too if `lazy`."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide the layer"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from imports(node.orelse, lazy=lazy)
        elif lazy or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imports(ast.iter_child_nodes(node), lazy=lazy)


def imported(name: str, *, lazy: bool) -> list[str]:
    return list(imports(ast.parse(FILES[name].read_text()).body, lazy=lazy))


def module_of(dotted: str) -> str:
    """'skipcast.grid.TimeGrid' -> 'grid', 'skipcast.__version__' -> 'skipcast'."""
    part = dotted.split(".")[1] if "." in dotted else "skipcast"
    return part if part in RANK else "skipcast"


def layer_of(name: str) -> int:
    module = name.split("/")[0].removesuffix(".py")
    assert module in RANK, f"{name} has no layer yet; give {module!r} one in LAYERS"
    return RANK[module]


@pytest.mark.parametrize("name", INNER)
def test_imports_point_downwards(name: str) -> None:
    ours = [dotted for dotted in imported(name, lazy=False) if dotted.split(".")[0] == "skipcast"]
    assert [dotted for dotted in ours if RANK[module_of(dotted)] > layer_of(name)] == []


@pytest.mark.parametrize("name", FILES)
def test_only_pipelines_and_models_import_diffusers(name: str) -> None:
    found = [dotted for dotted in imported(name, lazy=True) if dotted.split(".")[0] == "diffusers"]
    assert not found or name.startswith(("pipelines/", "models/"))


@pytest.mark.parametrize("name", ["grid.py", "coordinates.py", "samplers.py"])
def test_numbers_need_no_tensors(name: str) -> None:
    tops = {dotted.split(".")[0] for dotted in imported(name, lazy=True)}
    assert "torch" not in tops
    ours = {module_of(dotted) for dotted in imported(name, lazy=True) if dotted.startswith("skipcast")}
    assert ours <= {"grid", "coordinates"}


def test_the_front_door_is_light() -> None:
    script = "import sys, skipcast; print(sorted({'diffusers', 'torchvision', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_walk_sees_what_it_should() -> None:
    source = """
import torch
if TYPE_CHECKING:
    from skipcast.run import Run
else:
    from skipcast.grid import TimeGrid
try:
    import diffusers.models
except ImportError:
    pass
class Part:
    from skipcast import cli
def late():
    import torchvision
"""
    early = ["torch", "skipcast.grid.TimeGrid", "diffusers.models", "skipcast.cli"]
    assert list(imports(ast.parse(source).body, lazy=False)) == early
    assert list(imports(ast.parse(source).body, lazy=True)) == [*early, "torchvision"]
    assert [module_of(dotted) for dotted in ("skipcast.grid.TimeGrid", "skipcast.cli", "skipcast")] == [
        "grid",
        "cli",
        "skipcast",
    ]
