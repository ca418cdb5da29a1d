"""The site: its code runs and prints what it says, its commands exist, its menu and its reference are complete."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import skipcast as sc
from skipcast.bench.rows import check
from skipcast.bench.run import size
from skipcast.bench.spec import read_spec
from skipcast.cli.base import app
from skipcast.methods.names import REGISTRY

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
CONFIG = (ROOT / "mkdocs.yml").read_text()
#: Parts of other pages, which have no place of their own.
PARTS = set(re.search(r"^exclude_docs: (\S+)", CONFIG, flags=re.MULTILINE)[1].split())  # type: ignore[index]
#: Whose blocks test_docs.py runs.
RUN_ELSEWHERE = {"extending.md", "pipelines.md"}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
NAMESPACES = ("controllers", "coordinates", "forecasters", "guidance", "targets")
#: What a line prints, up to a remark behind a semicolon.
PRINTS = re.compile(r"^ *print\(.*\)  # ([^;\n]*)", flags=re.MULTILINE)
#: What a block prints in a loop, in the comments that end it.
ENDS = re.compile(r"((?:^# .*\n)+)\Z", flags=re.MULTILINE)


def name_of(page: Path) -> str:
    return page.relative_to(DOCS).as_posix()


def blocks(page: Path, *languages: str) -> list[str]:
    return [code for language, code in BLOCK.findall(page.read_text()) if language in languages]


WITH_PYTHON = [page for page in PAGES if blocks(page, "python") and name_of(page) not in RUN_ELSEWHERE]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_blocks_run_and_print_what_they_say(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": page.stem}
    for code in blocks(page, "python"):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, name_of(page), "exec"), namespace)
        lines = iter(printed.getvalue().splitlines())
        found = ENDS.search(code)
        for printed_line in [*PRINTS.findall(code), *(found[1].replace("# ", "").splitlines() if found else ())]:
            assert any(printed_line in line for line in lines), f"{printed_line!r} is not in {printed.getvalue()!r}"


def test_every_block_says_its_language() -> None:
    assert {language for page in PAGES for language, _ in BLOCK.findall(page.read_text())} <= {"python", "bash", "yaml"}


def test_the_grids_of_the_pages_can_be_asked_for(tmp_path: Path) -> None:
    grids = [code for page in PAGES for code in blocks(page, "yaml")]
    assert grids
    spec = tmp_path / "grid.yaml"
    for code in grids:
        spec.write_text(code)
        assert size(check(read_spec(spec))).cells


def commands() -> list[tuple[str, list[str]]]:
    """Every command of the pages, in blocks and in running text: (page, words)."""
    found = []
    for page in PAGES:
        text = page.read_text()
        lines = [line for code in blocks(page, "bash") for line in code.replace("\\\n", " ").splitlines()]
        lines += re.findall(r"(?<!`)`((?:skipcast|make|python|pip) [^`]+)`(?!`)", BLOCK.sub("", text))
        found += [(name_of(page), shlex.split(line, comments=True)) for line in lines]
    return [(page, words) for page, words in found if words]


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    """The options of every subcommand, as its help prints them."""
    run = CliRunner().invoke
    wide = {"COLUMNS": "400", "TERM": "dumb", "NO_COLOR": "1"}
    return {
        name: set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", run(app, [name, "--help"], env=wide).output))
        for name in re.findall(r"^\W*([a-z][a-z-]*) {2,}", run(app, ["--help"], env=wide).output, flags=re.MULTILINE)
    }


def test_commands_exist(options: dict[str, set[str]]) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    seen = set()
    for page, words in commands():
        message = f"{page}: {' '.join(words)}"
        if words[0] == "skipcast":
            assert words[1] in options, message
            assert {word.partition("=")[0] for word in words[2:] if word.startswith("-")} <= options[words[1]], message
        elif words[0] == "make":
            assert set(words[1:]) <= targets, message
        elif words[:2] == ["python", "-m"]:
            assert importlib.util.find_spec(words[2]), message
        elif words[0] == "python":
            assert (ROOT / words[1]).is_file(), message
        else:
            assert words[0] == "pip", message
        seen.add(words[0])
    assert {"skipcast", "make", "python"} <= seen
    known = {"bench", "compare", "export", "generate", "methods", "plan", "plans", "profile", "publish", "report"}
    assert {*known, "show", "ui"} <= set(options)


def test_the_menu_holds_every_page_once() -> None:
    listed = re.findall(r"([\w/-]+\.md)$", CONFIG[CONFIG.index("\nnav:") :], flags=re.MULTILINE)
    assert sorted([*listed, *PARTS]) == sorted(map(name_of, PAGES))


def test_the_reference_holds_every_public_name_once() -> None:
    parts = NAMESPACES
    public = [name for name in sc.__all__ if name not in parts]
    for part in parts:
        members = vars(getattr(sc, part)).items()
        public += [
            f"{part}.{name}"
            for name, value in members
            if inspect.isclass(value) and value.__module__.startswith(f"skipcast.{part}") and name[0] != "_"
        ]
    public.remove("targets.Output")  # also at the front door
    entry = re.compile(rf"^::: skipcast\.((?:(?:{'|'.join(parts)})\.)?\w+)$", flags=re.MULTILINE)
    found = [name for page in PAGES for name in entry.findall(page.read_text())]
    assert sorted(found) == sorted(public)


def test_the_front_door_shows_what_it_holds() -> None:
    assert [name for name in dir(sc) if not name.startswith("__")] == sorted(sc.__all__)
    assert all(hasattr(sc, name) for name in sc.__all__)
    assert len(sc.__all__) <= 32 + len(NAMESPACES)


def test_the_reference_holds_every_named_method() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| (.*) \| (.*) \|$", (DOCS / "api/names.md").read_text(), flags=re.MULTILINE)
    assert [(name, summary) for name, summary, _ in rows] == [(n, entry.summary) for n, entry in REGISTRY.items()]
    assert all(REGISTRY[name].paper in paper for name, _, paper in rows)


#: What pages quote, and the row of a results page in which it must stand.
QUOTED = [
    ("benchmark-method.md", ["48.1 dB"], "shapes-flux.md", "The judge reads"),
    ("benchmark-method.md", ["37.1", "94 %"], "shapes-flux.md", "| `euler:evaluations=10`"),
    ("benchmark-method.md", ["54.9 dB", "91 %", "12.7 dB"], "shapes-flux.md", "plan | `plan:evaluations=10`"),
    ("benchmark-method.md", ["3.7 dB"], "shapes-flux.md", "| `lagrange:order=2,target=output,schedule=even"),
    ("pitfalls.md", ["55 dB", "35 dB"], "shapes-flux.md", "plan | `plan:evaluations=10`"),
    ("choosing.md", ["8 dB"], "methods.md", "schedule `golden` instead of `even`"),
    ("choosing.md", ["20.7 dB"], "shapes-wan.md", "| `lagrange:evaluations=10,order=2,target=output,schedule=even`"),
    ("choosing.md", ["38.9"], "shapes-wan.md", "| `lagrange:evaluations=10,order=1,target=output,schedule=even`"),
    ("choosing.md", ["38.8"], "shapes-wan.md", "| `ab2:evaluations=10`"),
    ("choosing.md", ["48.1 dB"], "shapes-wan.md", "| `lagrange:evaluations=17,order=1,target=output,schedule=even`"),
    ("choosing.md", ["53.7"], "shapes-wan.md", "| `taylorseer:evaluations=17`"),
    ("benchmark-method.md", ["49.4", "47.6"], "plans.md", "`ab2:evaluations=17`"),
    ("benchmark-method.md", ["46.1", "53.0"], "plans.md", "`lagrange:evaluations=17,order=1,schedule=even`"),
    ("benchmark-method.md", ["7.8 dB"], "plans.md", "10 evaluations: mean PSNR"),
    ("benchmark-method.md", ["34.7 against 37.3 dB"], "plans.md", "10 evaluations: the 5 % worst"),
    ("benchmark-method.md", ["33.2 against 33.5", "-3.1 to +2.6"], "plans.md", "on 256 images: the 5 % worst of 10"),
    ("running-plans.md", ["40.2", "28.5"], "plans.md", "`plan:default-5-passes`"),
    ("running-plans.md", ["38.0", "26.0"], "plans.md", "`plan:default-5`"),
    ("benchmark-method.md", ["0.03 %"], "cost.md", "| `lagrange:order=2` | skipcast | output"),
    ("benchmark-method.md", ["0.4 %"], "cost.md", "| `resilphase` | skipcast | block stack"),
    ("benchmark-method.md", ["7.1 %"], "cost.md", "| `taylorseer:target=modules` | skipcast | modules"),
    ("pitfalls.md", ["53.1 dB"], "plans.md", "| 2 (a knot)"),
    ("pitfalls.md", ["33.5 dB", "38.7 dB"], "plans.md", "| 4 (a knot)"),
    ("pitfalls.md", ["43.8 dB"], "plans.md", "| guidance 5 "),
    ("pitfalls.md", ["36.6 dB", "16 %"], "plans.md", "| guidance 7 "),
    ("pitfalls.md", ["47 %"], "plans.md", "| guidance 9 "),
    ("pitfalls.md", ["22.2 dB"], "methods.md", "`lagrange:evaluations=8,order=2`"),
    ("pitfalls.md", ["37.9"], "methods.md", "`lagrange:evaluations=8,order=1`"),
]


def stands(number: str, text: str) -> bool:
    """Whether a text holds a number, or one that rounds to it."""
    digits = len(number.partition(".")[2])
    return any(f"{float(found):.{digits}f}" == number for found in re.findall(r"\d+(?:\.\d+)?", text))


@pytest.mark.parametrize(("page", "figures", "source", "row"), QUOTED, ids=lambda value: str(value))
def test_figures_stand_in_the_results(page: str, figures: list[str], source: str, row: str) -> None:
    text, results = (" ".join((DOCS / name).read_text().split()) for name in (page, f"results/{source}"))
    at = results.index(row)
    measured = results[at : at + 400]
    for figure in figures:
        assert figure in text
        for number in re.findall(r"\d+\.?\d*", figure):
            assert stands(number, measured), (number, measured)


class Requests(HTMLParser):
    """Addresses that a page makes a browser fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"script", "link", "img", "iframe", "source", "video", "audio", "object", "embed", "use"}:
            self.found += [value for key, value in attrs if key in {"src", "href", "srcset", "data"} and value]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="the site is built with skipcast[docs]")
    folder = tmp_path_factory.mktemp("site")
    # --quiet would hide warnings from --strict
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    made = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return folder


def test_the_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(PAGES) - len(PARTS)  # and the one for an address that is none
    for page in pages:
        reader = Requests()
        reader.feed(page.read_text())
        assert reader.found or "Content-Security-Policy" in page.read_text()  # a report holds all it needs
        assert [address for address in reader.found if re.match(r"(https?:)?//", address)] == []
    for style in site.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", style.read_text()) == []


def test_the_reference_is_read_from_the_source(site: Path) -> None:
    for name, words in {
        "controllers": "Periodic",
        "forecasters": "LinearForecaster",
        "names": "The method or the plan that a specification names",
        "pipelines": "load_reference",
        "plans": "Runs a plan",
    }.items():
        assert words in (site / f"api/{name}.html").read_text()
