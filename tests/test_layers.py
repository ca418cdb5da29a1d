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
    ["parts", "run"],
    ["tableaux", "plans"],
    ["methods"],
    ["card", "wrapped"],
    ["skipcast"],
    ["pipelines", "models"],
    ["bench", "report"],
    ["cli", "ui"],
]
RANK = {module: rank for rank, layer in enumerate(LAYERS) for module in layer}
#: Imports of a higher layer, each inside a function: what it needs there is not loaded before it is called.
LAZY = {
    "__init__.py": {"skipcast.models", "skipcast.pipelines"},
    "methods/compiled.py": {"skipcast.pipelines.recording.record"},
    "methods/names.py": {"skipcast.models.shipped"},
    "plans/profile.py": {"skipcast.pipelines.recording.replay"},
}

#: Where modules are imported by string: the front door, and metrics of packages that may be missing.
BY_STRING = ("__init__.py", "bench/metrics/learned.py")


def imports(nodes: Iterable[ast.AST], *, lazy: bool, typing: bool = False) -> Iterator[str]:
    """Dotted names of what is imported; inside functions if `lazy`, in TYPE_CHECKING blocks if `typing`."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide the layer"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from imports([*(node.body if typing else ()), *node.orelse], lazy=lazy, typing=typing)
        elif lazy or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imports(ast.iter_child_nodes(node), lazy=lazy, typing=typing)


def imported(name: str, *, lazy: bool) -> list[str]:
    return list(imports(ast.parse(FILES[name].read_text()).body, lazy=lazy))


def module_of(dotted: str) -> str:
    """'skipcast.grid.TimeGrid' -> 'grid', 'skipcast.parts.Method' -> 'parts'; else 'skipcast'."""
    parts = dotted.split(".")[1:]
    return next((name for name in (".".join(parts[:2]), ".".join(parts[:1])) if name in RANK), "skipcast")


def layer_of(name: str) -> int:
    module = module_of("skipcast." + name.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    assert module != "skipcast", f"{name} has no layer yet; give it one in LAYERS"
    return RANK[module]


def file_of(dotted: str) -> str | None:
    """The file that an imported name lives in: 'skipcast.grid.TimeGrid' -> 'grid.py'."""
    parts = dotted.split(".")[1:]
    while parts:
        for name in ("/".join(parts) + ".py", "/".join(parts) + "/__init__.py"):
            if name in FILES:
                return name
        parts.pop()
    return None


@pytest.mark.parametrize("name", INNER)
def test_imports_point_downwards(name: str) -> None:
    ours = [dotted for dotted in imported(name, lazy=False) if dotted.split(".")[0] == "skipcast"]
    assert [dotted for dotted in ours if RANK[module_of(dotted)] > layer_of(name)] == []


@pytest.mark.parametrize("name", INNER)
def test_imports_inside_functions_point_downwards_too(name: str) -> None:
    upward = [
        dotted
        for dotted in imported(name, lazy=True)
        if dotted.split(".")[0] == "skipcast" and RANK[module_of(dotted)] > layer_of(name)
    ]
    assert {dotted for dotted in upward if not dotted.startswith(tuple(LAZY.get(name, ())))} == set()


def test_no_circles() -> None:
    """Imports for types alone count too; those of LAZY, inside functions, do not."""
    below: dict[str, set[str]] = {}
    for name, path in FILES.items():
        found = {
            dotted
            for dotted in imports(ast.parse(path.read_text()).body, lazy=name not in LAZY, typing=name != "__init__.py")
            if dotted.split(".")[0] == "skipcast"
        }
        below[name] = {target for dotted in found if (target := file_of(dotted)) and target != name}
    while free := [name for name in below if not below[name] & set(below)]:
        for name in free:
            del below[name]
    assert below == {}


@pytest.mark.parametrize("name", FILES)
def test_modules_are_imported_by_name_not_by_string(name: str) -> None:
    calls = [
        ast.unparse(node.func) for node in ast.walk(ast.parse(FILES[name].read_text())) if isinstance(node, ast.Call)
    ]
    assert name in BY_STRING or not {"importlib.import_module", "import_module", "__import__"} & set(calls)


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
