"""What import-linter, which checks layers, circles and packages in `make check`, does not see."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import skipcast

ROOT = Path(skipcast.__file__).parent
FILES = {path.relative_to(ROOT).as_posix(): path for path in sorted(ROOT.rglob("*.py"))}

#: Where modules are imported by string: the front door, and metrics of packages that may be missing.
BY_STRING = {"__init__.py", "bench/metrics/learned.py"}


def test_every_module_has_a_layer() -> None:
    settings = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    modules = {f"skipcast.{name.split('/')[0].removesuffix('.py')}" for name in FILES}
    assert set(re.findall(r"[\w.]+", " ".join(layers))) == modules - {"skipcast.__init__"}


def test_modules_are_imported_by_name() -> None:
    """For import-linter does not see others."""
    for name in FILES.keys() - BY_STRING:
        calls = {ast.unparse(n.func) for n in ast.walk(ast.parse(FILES[name].read_text())) if isinstance(n, ast.Call)}
        assert not {"importlib.import_module", "import_module", "__import__"} & calls, name


def test_the_front_door_is_light() -> None:
    script = "import sys, skipcast; print(sorted({'diffusers', 'torchvision', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
