"""The page without a browser: what its fields accept, how it answers, and what `skipcast ui` refuses."""

from __future__ import annotations

import importlib.util
import signal
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from skipcast.cli import app, listing
from skipcast.ui import Served
from skipcast.ui.drawing import PANELS, UNACCELERATED
from skipcast.ui.state import Models, Session

gr = pytest.importorskip("gradio")
from skipcast.ui.app import Planning, Playground, build  # noqa: E402

MODEL = "shapes-flux"


@pytest.fixture(scope="module")
def models() -> Models:
    return Models([MODEL])


class Page:
    """A page of one visitor, whose events are answered without a server."""

    def __init__(self, models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
        tabs: list[Any] = []
        for kind in (Playground, Planning):
            monkeypatch.setattr(
                kind, "connect", lambda tab, *given, to=kind.connect: (tabs.append(tab), to(tab, *given))
            )
        self.blocks = build(models, models.offer(MODEL))
        self.playground, self.planning = tabs
        self.session = Session()

    def answers(self, tab: Any, work: Any, **fields: Any) -> Iterator[dict[Any, Any]]:
        parts = {**vars(self.playground), **vars(tab)}
        values = {part: part.value for part in parts.values() if isinstance(part, gr.components.Component)}
        values |= {getattr(tab, name): value for name, value in fields.items()}
        return work({**values, tab.session: self.session}, lambda share, words: None)


@pytest.fixture
def page(models: Models, monkeypatch: pytest.MonkeyPatch) -> Page:
    return Page(models, monkeypatch)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model": None}, "choose a model"),
        ({"prompt": " "}, "what to draw"),
        ({"steps": 1}, "steps must be"),
        ({"seed": -1}, "seed must be a whole number from 0 to 9007199254740992, not -1"),
        ({"seed": None}, "not None"),
        ({"seed": 1.5}, "not 1.5"),
        ({"method": "resilfase"}, "Did you mean"),
        ({"model": "no-such-model", "method": "reuse"}, "one of shapes-flux"),
    ],
)
def test_what_cannot_be_drawn_is_a_message(page: Page, fields: dict[str, Any], words: str) -> None:
    tab = page.playground
    *_, last = page.answers(tab, tab.draw, **fields)
    assert words in last[tab.message]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"budgets": ""}, "such as 10"),
        ({"budgets": "12", "steps": 12}, "fewer than the 12 steps"),
        ({"pairs": 0}, "pairs must be"),
        ({"seed": None}, "the first seed must be"),
    ],
)
def test_what_cannot_be_solved_is_a_message(page: Page, fields: dict[str, Any], words: str) -> None:
    tab = page.planning
    *_, last = page.answers(tab, tab.solve, **fields)
    assert words in last[tab.message]


def test_a_closed_page_ends_its_own_work_alone(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = Page(models, monkeypatch), Page(models, monkeypatch)
    fields = {"method": "reuse", "budget": 4, "steps": 12, "prompt": "a red star", "sampler": "ab2"}
    first, second = (page.answers(page.playground, page.playground.draw, **fields) for page in (one, two))
    for events in (first, second):
        next(events)
        next(events)  # the unaccelerated run is there
    handlers = {getattr(each.fn, "__name__", ""): each.fn for each in one.blocks.fns.values()}
    visitor = SimpleNamespace(session_hash="one")
    handlers["enter"](one.session, visitor)
    handlers["leave"](SimpleNamespace(session_hash="two"))  # unknown
    handlers["leave"](visitor)
    assert "stopped" in list(first)[-1][one.playground.message]
    assert set(one.session.samples) == {UNACCELERATED}
    assert len(list(second)) == 2
    assert set(two.session.samples) == set(PANELS)


def said(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["ui", *arguments])
    assert result.exit_code == 2
    assert "Traceback" not in result.stderr
    return " ".join(result.stderr.split())


def test_what_the_command_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        words = said("--port", str(port))
        assert f"cannot listen on 127.0.0.1:{port}" in words
        assert "choose another --port" in words
    assert "--host" in said("--host", "192.0.2.1", "--port", "0")
    assert "no model 'shapes-fluks'" in said("--model", "shapes-fluks", "--port", "0")
    assert "must be one of float32" in said("--dtype", "int8")
    assert "USER:PASSWORD" in said("--auth", "ann", "--port", "0")
    assert "without scheme or port" in said("--allow-host", "http://play.example", "--port", "0")
    assert "no folder of this name" in said("--plans", "nowhere", "--port", "0")
    assert "the guidance scale must be a number from 0 to 100" in said("--guidance", "nan", "--port", "0")
    find: Any = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gradio" else find(name))
    assert 'pip install "skipcast[ui]"' in said()


@pytest.mark.parametrize(
    ("options", "warned"),
    [((), False), (("--host", "0.0.0.0"), True), (("--host", "0.0.0.0", "--auth", "ann:secret"), False)],
)
def test_an_open_door_is_warned_of(monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], warned: bool) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    handlers: dict[int, Any] = {}
    closed: list[bool] = []
    monkeypatch.setattr("skipcast.ui.serve", lambda *_, **__: Served("http://here/", lambda: closed.append(True)))
    monkeypatch.setattr(listing, "threading", SimpleNamespace(Event=lambda: SimpleNamespace(wait=interrupted)))
    monkeypatch.setattr(listing.signal, "signal", handlers.__setitem__)
    result = CliRunner().invoke(app, ["ui", *options])
    assert result.exit_code == 0
    assert "playground: http://here/" in result.stdout
    assert ("whoever reaches 0.0.0.0 may use this; see --auth" in " ".join(result.stderr.split())) is warned
    assert handlers == {signal.SIGTERM: signal.default_int_handler}
    assert closed == [True]
