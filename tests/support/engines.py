"""Single modules of engines that cannot be installed here, under stand-ins for everything that they import."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import tomllib
from abc import ABCMeta
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
VARIABLE = "SKIPCAST_ENGINES"
#: The steps that the plans of these tests were made for, and the shift of 64x64 pixels by their scheduler.
STEPS, MU = 12, 1.15


class _Kind(ABCMeta):
    """The class of stand-ins, whose attributes are stand-ins."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Kind(name, (StandIn,), {})


class StandIn(metaclass=_Kind):
    """Whatever an engine imports and no test runs: a base class, a decorator, a logger."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        pass

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> StandIn:
        return StandIn()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return StandIn()

    def __enter__(self) -> StandIn:
        return self

    def __exit__(self, *args: Any) -> None:
        pass


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Modules below some packages: those that are named from their files, all others as stand-ins."""

    def __init__(self, folder: Path, tops: Collection[str], real: Collection[str], given: Mapping[str, Any]) -> None:
        self.folder, self.tops, self.real, self.given = folder, tops, real, given

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name.split(".")[0] not in self.tops:
            return None
        place = self.folder.joinpath(*name.split("."))
        if name in self.real:
            package = place.is_dir()
            file = place / "__init__.py" if package else place.with_suffix(".py")
            below = [str(place)] if package else None
            return importlib.util.spec_from_file_location(name, file, submodule_search_locations=below)
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = ModuleType(spec.name)
        vars(module).update(self.given.get(spec.name, {}))
        module.__getattr__ = lambda name: getattr(StandIn, name)  # type: ignore[method-assign]
        return module

    def exec_module(self, module: ModuleType) -> None:
        pass


@contextmanager
def partly(
    tops: Collection[str], *, folder: Path = ROOT, real: Collection[str] = (), given: Mapping[str, Any] | None = None
) -> Iterator[None]:
    """Within the context, packages of these names are stand-ins.

    Args:
        tops: the names.
        folder: what holds the packages.
        real: the modules that are taken from there.
        given: attributes of stand-ins, by module.
    """
    finder = _Finder(folder, tops, real, given or {})
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in tops}
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in list(sys.modules):
            if name.split(".")[0] in tops:
                del sys.modules[name]
        sys.modules.update(before)


def unpacked(package: str, distribution: str) -> Path:
    """The folder that SKIPCAST_ENGINES names, if a package lies in it; else the test is skipped."""
    folder = Path(os.environ.get(VARIABLE, "."))
    if VARIABLE not in os.environ or not (folder / package).is_dir():
        pytest.skip(
            f"no {package}/ in the folder that {VARIABLE} names; fill it with `pip download --no-deps {distribution}` "
            f"and `unzip {package}-*.whl`"
        )
    return folder


def entry_points(group: str) -> tuple[EntryPoint, ...]:
    """The entry points of this distribution, as they stand in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return tuple(EntryPoint(name, value, group) for name, value in project["entry-points"].get(group, {}).items())
