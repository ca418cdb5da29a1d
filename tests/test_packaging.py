"""The two distributions as they would be published: small, complete, valid, and importable in an empty environment."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MEGABYTE = 1_000_000
CORE = {"torch", "numpy", "safetensors", "typer", "rich"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheels and source distributions of both."""
    folder = tmp_path_factory.mktemp("dist")
    for project in (ROOT, ROOT / "skipcast-models"):
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(project)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def one(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def requirements(name: str) -> Iterator[str]:
    """The names of all distributions that `name` needs without extras, itself among them."""
    waiting, seen = [name], set()
    while waiting:
        each = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if each in seen:
            continue
        try:
            needs = importlib.metadata.requires(each) or []
        except importlib.metadata.PackageNotFoundError:  # of another platform
            continue
        seen.add(each)
        yield each
        waiting += [re.split(r"[\s;<>=!~\[(]", line, maxsplit=1)[0] for line in needs if "extra ==" not in line]


def test_both_are_valid(built: Path) -> None:
    files = [str(path) for path in built.iterdir()]
    assert len(files) == 4
    done = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_library_is_small(built: Path) -> None:
    assert one(built, "skipcast-*.whl").stat().st_size < 1 * MEGABYTE
    assert one(built, "skipcast-*.tar.gz").stat().st_size < 4 * MEGABYTE
    assert one(built, "skipcast_models-*.whl").stat().st_size < 54 * MEGABYTE  # two models of 24, and plans


def test_what_is_in_them(built: Path) -> None:
    with zipfile.ZipFile(one(built, "skipcast-*.whl")) as wheel:
        names = wheel.namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"skipcast"}
    assert "skipcast/py.typed" in names
    pages = {
        "report": ("style.css", "script.js", "templates/page.html.j2"),
        "ui": ("style.css", "panels.html.j2", "numbers.md"),
    }
    assert {f"skipcast/{part}/{name}" for part, assets in pages.items() for name in assets} <= set(names)
    with tarfile.open(one(built, "skipcast-*.tar.gz")) as archive:
        sources = {name.split("/", 1)[1] for name in archive.getnames()}
    assert {"README.md", "CHANGELOG.md", "LICENSE", "Makefile", "constraints.txt"} <= sources
    assert not any(name.startswith(("docs/results", "skipcast-models")) for name in sources)
    with zipfile.ZipFile(one(built, "skipcast_models-*.whl")) as wheel:
        data = wheel.namelist()
    for model in ("shapes-flux", "shapes-wan"):
        assert f"skipcast_models/weights/{model}/model_index.json" in data
    assert "skipcast_models/plans/shapes-flux/default-10.plan.json" in data


def test_the_wheel_works_with_nothing_but_what_it_needs(built: Path, tmp_path: Path) -> None:
    """An environment of the wheel and its requirements: the core runs, and what needs diffusers says so in one line."""
    site = tmp_path / "site"
    site.mkdir()
    needed = {needed for core in CORE for needed in requirements(core)}
    assert "diffusers" not in needed
    for name in needed:
        found = importlib.metadata.distribution(name)
        for top in {path.parts[0] for path in found.files or [] if not path.parts[0].startswith(("..", "__pycache__"))}:
            link = site / top
            if not link.exists():
                link.symlink_to(Path(str(found.locate_file(top))))
    with zipfile.ZipFile(one(built, "skipcast-*.whl")) as wheel:
        wheel.extractall(site)
    script = """
import sys
import skipcast as sc
grid = sc.TimeGrid.shifted(50, shift=3.16)
assert sc.tableau(sc.method("resilphase:evaluations=10"), grid).shape == (50, 50)
assert "diffusers" not in sys.modules
try:
    sc.accelerate
except ImportError as error:
    print(error)
"""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(site)}
    python = [sys.executable, "-S", "-c", script]
    done = subprocess.run(python, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'pip install "skipcast[diffusers]"' in done.stdout
