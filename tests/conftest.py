"""One thread and one seed for every test; a warning raised inside skipcast is an error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

from families.page import Facts

#: How many examples a test tries: `--hypothesis-profile=torture` tries twenty times as many, other ones every time.
_SHORT = settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.register_profile("default", _SHORT)
settings.register_profile("torture", _SHORT, max_examples=20 * _SHORT.max_examples, derandomize=False)
settings.load_profile("default")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--support-page", metavar="FILE", help="write the support page, from the tests of the families")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("filterwarnings", "error:::skipcast")
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def nothing_compiled() -> None:
    """No module inherits what others of its process compiled: there is a limit to that, and full graphs fail at it."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def longer(pytestconfig: pytest.Config) -> int:
    """How many times as often things are done: once, or ten times with `--hypothesis-profile=torture`."""
    return 10 if pytestconfig.getoption("--hypothesis-profile") == "torture" else 1


@pytest.fixture
def tried(record_property: Callable[[str, object], None]) -> Callable[[int], None]:
    """Tell `make torture` how many cases a test has tried; without this it counts as one."""
    return lambda cases: record_property("tried", cases)


@pytest.fixture(scope="module")
def pipe() -> Any:
    """A tiny FLUX pipeline, which every test leaves as it was."""
    from support.tiny import flux_pipeline

    return flux_pipeline()


@pytest.fixture(scope="session")
def support(request: pytest.FixtureRequest) -> Iterator[Facts]:
    """What the tests of the families find."""
    facts = Facts()
    yield facts
    target = request.config.getoption("--support-page")
    if target:
        Path(target).write_text(facts.page())
