"""Who may import what, read off the source; layers and circles are checked by import-linter in `make check`."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import skipcast

ROOT = Path(skipcast.__file__).parent
FILES = {path.relative_to(ROOT).as_posix(): path for path in sorted(ROOT.rglob("*.py"))}

#: Where modules are imported by string: the front door, and metrics of packages that may be missing.
BY_STRING = ("__init__.py", "bench/metrics/learned.py")


def imported(source: str) -> set[str]:
    """Dotted names of what is imported, inside functions too, but not for types alone."""
    found, waiting = set(), [ast.parse(source)]
    while waiting:
        node: ast.AST = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide the layer"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        waiting += ast.iter_child_nodes(node)
    return found


def test_every_module_has_a_layer() -> None:
    settings = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    modules = {f"skipcast.{name.split('/')[0].removesuffix('.py')}" for name in FILES}
    assert set(re.findall(r"[\w.]+", " ".join(layers))) == modules - {"skipcast.__init__"}


@pytest.mark.parametrize("name", FILES)
def test_modules_are_imported_by_name_and_diffusers_by_pipelines_and_models_alone(name: str) -> None:
    source = FILES[name].read_text()
    calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)}
    assert name in BY_STRING or not {"importlib.import_module", "import_module", "__import__"} & calls
    assert name.startswith(("pipelines/", "models/")) or not any(
        n.split(".")[0] == "diffusers" for n in imported(source)
    )


@pytest.mark.parametrize("name", ["grid.py", "coordinates.py", "samplers.py"])
def test_numbers_need_no_tensors(name: str) -> None:
    found = imported(FILES[name].read_text())
    assert "torch" not in {dotted.split(".")[0] for dotted in found}
    ours = {dotted.split(".")[1] for dotted in found if dotted.startswith("skipcast.")}
    assert ours <= {"grid", "coordinates"}


def test_the_front_door_is_light() -> None:
    script = "import sys, skipcast; print(sorted({'diffusers', 'torchvision', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_walk_sees_what_it_should() -> None:
    source = """
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
    assert imported(source) == {"skipcast.grid.TimeGrid", "diffusers.models", "skipcast.cli", "torchvision"}
