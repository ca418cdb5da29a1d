"""The playground as a server: many visitors at once, and those who send what the page's controls would not."""

from __future__ import annotations

import gc
import html
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from skipcast.models.load import Model
from support.tiny import compiled, flux_pipeline, latents

pytest.importorskip("gradio")
import httpx

from skipcast.ui import app, door, limits, serve, state

VISITORS, WAITING, KEPT = 45, 46, 5
DRAW = {"method": "reuse", "budget": 5, "steps": 8, "prompt": "a red star", "sampler": "ab2", "guidance": 1}
SOLVE = {"plan-budgets": "4", "plan-steps": 8, "plan-pairs": 2, "plan-effort": "open loop"}
_numbers = itertools.count()
_pages: dict[str, Any] = {}  # what each server tells of its page
_gate = threading.Event()  # network calls wait while it is closed
_gate.set()


def tiny_model(name: str, *_: Any, **__: Any) -> Model:
    if name == "broken":
        raise ValueError("could not load it")
    pipe = flux_pipeline()
    pipe.transformer.register_forward_pre_hook(lambda *_: _gate.wait(600) and None)
    return Model(name, pipe)


class Visitor:
    """One who sends requests without a page."""

    def __init__(self, url: str, **options: Any) -> None:
        self.http = httpx.Client(base_url=url, timeout=120, **options)
        self.session = f"visitor{next(_numbers)}"
        if url not in _pages:
            _pages[url] = self.http.get("config").json()
        self.page = _pages[url]

    def body(self, handler: str, fields: dict[str, Any]) -> bytes:
        """What the page would send for the first event of a handler, with other values in these fields."""
        parts = {part["id"]: part["props"] for part in self.page["components"]}
        event = next(event for event in self.page["dependencies"] if event["api_name"] == handler)
        data = [fields.get(parts[each].get("elem_id"), parts[each].get("value")) for each in event["inputs"]]
        body = {"fn_index": event["id"], "data": data, "session_hash": self.session}
        return json.dumps(body).encode()  # also NaN and half characters, which httpx refuses to write

    def post(self, place: str, handler: str, fields: dict[str, Any]) -> httpx.Response:
        kind = {"content-type": "application/json"}
        return self.http.post(f"gradio_api/{place}", content=self.body(handler, fields), headers=kind)

    def ask(self, handler: str, **fields: Any) -> str:
        """The answer of an event that does not wait."""
        return self.post("run/predict", handler, fields).text

    def join(self, handler: str, **fields: Any) -> httpx.Response:
        """Send an event into the queue."""
        return self.post("queue/join", handler, fields)

    def listen(self) -> httpx.Response:
        """The messages of the queue; closing them is hanging up."""
        request = self.http.build_request("GET", "gradio_api/queue/data", params={"session_hash": self.session})
        return self.http.send(request, stream=True)

    def work(self, handler: str, **fields: Any) -> str:
        """All messages of an event of the queue."""
        assert self.join(handler, **fields).status_code == 200
        messages = self.listen()
        found = []
        for line in messages.iter_lines():
            found.append(line)
            if "process_completed" in line:
                break
        messages.close()
        return "\n".join(found)

    def upload(self, file: Path) -> str:
        sent = self.http.post("gradio_api/upload", files={"files": (file.name, file.read_bytes())})
        return self.ask("keep", upload={"path": sent.json()[0], "meta": {"_type": "gradio.FileData"}})


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pipe = flux_pipeline()
    latents(pipe, 8)
    folder = tmp_path_factory.mktemp("plans")
    compiled(pipe, "lagrange:evaluations=4").save(folder / "listed.plan.json")
    return folder


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where temporary files of the servers lie."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("temporary")
        patch.setattr(tempfile, "tempdir", str(folder))
        patch.setattr(state, "load_model", tiny_model)
        yield folder


@pytest.fixture(scope="module")
def server(plans: Path, temporary: Path) -> Iterator[SimpleNamespace]:
    pages: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "WAITING", WAITING)
        built = app.build
        patch.setattr(app, "build", lambda *given: pages.append(built(*given)) or pages[0])
        served = serve(["one", "two"], [plans], port=0)
    yield SimpleNamespace(url=served.url, page=pages[0])
    home = Path(os.environ["GRADIO_TEMP_DIR"])
    assert home.parent == temporary
    served.close()
    assert not home.exists()


def words(answer: str) -> str:
    """The sentence of an answer: the message of the tab, or the error that the page shows."""
    found = re.findall(r'role=\\"status\\">(.*?)<', answer) or re.findall(r'"error": ?"(.*?)"', answer)
    return html.unescape(found[-1]).replace(r"\\", "\\") if found else ""


def test_stop_and_the_controls_answer_while_everybody_draws(server: SimpleNamespace) -> None:
    visitors = [Visitor(server.url) for _ in range(VISITORS)]
    _gate.clear()
    streams = []
    try:
        for visitor in visitors:
            assert visitor.join("draw", **DRAW).status_code == 200
            streams.append(visitor.listen())
        first = streams[0].iter_lines()
        next(line for line in first if "process_generating" in line)  # it is at the network
        for visitor in (visitors[0], visitors[22], visitors[-1], Visitor(server.url)):
            assert "listed.plan.json" in visitor.ask("choose_model", model="two")
            assert "schedule is its own" in visitor.ask("govern", method="lagrange:interval=5")
            assert "sc-blank" in visitor.ask("show")
            assert "stopped" in visitor.ask("stopped")
        late = [Visitor(server.url).join("draw", **DRAW) for _ in range(4)]
        assert [answer.status_code for answer in late] == [200, 200, 503, 503]
        assert "Queue is full" in late[-1].text
        assert "stopped" in visitors[0].ask("stopped")
    finally:
        _gate.set()
    rest = list(itertools.takewhile(lambda line: "process_completed" not in line, first))
    assert "stopped" in words("\n".join(rest))
    for stream in streams:
        stream.close()


HOSTILE = [
    [], {"a": 1}, True, -1, float("nan"), float("inf"), 1e308, 10**400, "²", "9" * 5000, "\ud800", "a" * 30_000,
    "/etc/passwd", "plan:file=/etc/passwd", "../x.plan.json", "owner/name",
]  # fmt: skip


@pytest.mark.parametrize(
    "field", ["model", "method", "budget", "threshold", "steps", "seed", "guidance", "sampler", *SOLVE]
)
def test_whatever_is_sent_is_answered_with_a_sentence(server: SimpleNamespace, field: str) -> None:
    handler, good = ("solve", SOLVE) if field in SOLVE else ("draw", DRAW)
    visitor = Visitor(server.url)
    for value in HOSTILE:
        said = words(visitor.work(handler, **{**good, field: value}))
        assert re.fullmatch(r"[a-zA-Z].{10,}[.)]", said), (value, said)
        assert "Error" not in said
        assert "literal" not in said
        assert "format" not in said


@pytest.mark.parametrize("field", ["prompt", "plan-prompts"])
def test_prompts_are_text_of_a_bounded_length(server: SimpleNamespace, field: str) -> None:
    handler, good = ("draw", DRAW) if field == "prompt" else ("solve", SOLVE)
    for value, said in {"\ud800": "must be text", "a" * 30_000: "must have at most"}.items():
        assert said in words(Visitor(server.url).work(handler, **{**good, field: value}))


def test_unexpected_errors_are_for_the_log_alone(
    server: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> Any:
        raise KeyError("a secret of the server")

    monkeypatch.setattr(app, "draw", broken)
    monkeypatch.setattr(app, "control", broken)
    monkeypatch.setattr(app.panels, "figure", broken)
    visitor = Visitor(server.url)
    for answer in (visitor.work("draw", **DRAW), visitor.ask("govern", method="reuse"), visitor.ask("show")):
        assert "the log of the server has it" in words(answer)
        assert "secret" not in answer
    assert caplog.text.count("a secret of the server") >= 3


def test_listed_plans_and_models_can_be_drawn_with_and_no_others(server: SimpleNamespace, plans: Path) -> None:
    visitor = Visitor(server.url)
    assert visitor.work("draw", **{**DRAW, "method": "listed.plan.json", "model": "two"}).count("data:image/png") >= 3
    said = words(visitor.ask("govern", method=str(plans / "listed.plan.json")))
    assert "cannot be named here" in said
    assert "does not offer" in words(visitor.work("draw", **{**DRAW, "model": "three"}))


def test_requests_are_of_a_bounded_size_and_for_this_server(
    server: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    http = Visitor(server.url).http
    assert http.post("gradio_api/upload", files={"files": ("x.json", b" " * (limits.UPLOAD + 1))}).status_code == 413
    assert http.post("gradio_api/queue/join", content=b" " * (limits.BODY + 1)).status_code == 413
    assert http.post("gradio_api/queue/join", content=iter([b" "])).status_code == 413  # says no length
    for host, status in {"evil.example": 400, "evil.example:7860": 400, "": 400, "localhost": 200}.items():
        assert http.get("config", headers={"host": host}).status_code == status
    monkeypatch.setattr(door, "ROOM", 1 << 60)
    assert http.post("gradio_api/upload", files={"files": ("x.json", b" ")}).status_code == 507


def test_visitors_are_forgotten(
    server: SimpleNamespace, plans: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = server.page.app.state_holder
    assert holder.capacity == limits.VISITORS
    monkeypatch.setattr(holder, "capacity", KEPT)
    holder.session_data.clear()

    def folders() -> int:
        gc.collect()
        return sum(1 for folder in temporary.iterdir() if any(folder.glob("*.plan.json")))

    for _ in range(KEPT + 3):
        last = Visitor(server.url)
        assert "my listed" in last.upload(plans / "listed.plan.json")
    assert len(holder.session_data) <= KEPT
    assert folders() == KEPT
    ((kept, (seconds, since)),) = holder.session_data[last.session]._state_ttl.items()
    assert (seconds, (datetime.now() - since).total_seconds() < limits.IDLE) == (limits.IDLE, True)
    holder.session_data[last.session]._state_ttl[kept] = (seconds, datetime.fromtimestamp(0))
    holder.delete_all_expired_state()
    assert folders() == KEPT - 1


def test_a_login_other_names_and_trusted_visitors(temporary: Path, plans: Path, tmp_path: Path) -> None:
    file = tmp_path / "logins"
    file.write_text("ann:se:cret\n\nbob:other\n")
    assert door.logins(f"@{file}") == [("ann", "se:cret"), ("bob", "other")]
    for wrong in ("ann", "ann:", ":x"):
        with pytest.raises(ValueError, match="USER:PASSWORD"):
            door.logins(wrong)
    served = serve(["one"], port=0, auth=f"@{file}", names=["play.example"], trust=True)
    try:
        http = httpx.Client(base_url=served.url)
        assert http.get("config").status_code == 401
        assert http.post("gradio_api/queue/join", json={}).status_code == 401
        assert http.post("login", data={"username": "ann", "password": "x"}).status_code == 400
        login = http.post("login", data={"username": "ann", "password": "se:cret"})
        visitor = Visitor(served.url, cookies=login.cookies)
        assert visitor.http.get("config", headers={"host": "play.example"}).status_code == 200
        assert "schedule" not in words(visitor.work("choose_model", model="three"))
        assert words(visitor.work("choose_model", model="broken")) == "could not load it"
        made = visitor.work("draw", **{**DRAW, "model": "three", "method": str(plans / "listed.plan.json")})
        assert made.count("data:image/png") >= 3
    finally:
        served.close()


def test_what_cannot_be_loaded_leaves_the_loaded_model(temporary: Path) -> None:
    models = state.Models(["one"], trust=True)
    with models.using("one") as loaded:
        pass
    with pytest.raises(ValueError, match="could not load it"), models.using("broken"):
        pass
    with models.using("one") as again:
        assert again is loaded


def test_what_the_host_lists_is_loaded_before_the_page_is_served(temporary: Path, plans: Path, tmp_path: Path) -> None:
    for models, folders, said in (
        (["one", "broken"], [], "could not load it"),
        (["one"], [tmp_path], "no folder of this name"),
        (["one"], [plans, plans], "rename one of the two"),
    ):
        with pytest.raises(ValueError, match=said):
            serve(models, folders, port=0)
    (tmp_path / "other.plan.json").write_text("{")
    with pytest.raises(ValueError, match=r"other\.plan\.json"):
        serve(["one"], [tmp_path], port=0)


def test_nothing_is_left_behind_when_the_server_is_ended(plans: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "skipcast.cli", "ui", "--port", "0"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as running:
        try:
            assert running.stdout is not None
            line = running.stdout.readline()
            visitor = Visitor(re.findall(r"http\S+", line)[0])
            assert "my listed" in visitor.upload(plans / "listed.plan.json")
            assert len(list(tmp_path.glob("skipcast-ui-*"))) == 2
            running.send_signal(signal.SIGTERM)
            assert "closed" in running.stdout.read()
            assert running.wait(120) == 0
        finally:
            running.kill()
    assert not list(tmp_path.iterdir())
