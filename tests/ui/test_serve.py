"""`skipcast ui`: what it refuses, and that it tells nobody."""

from __future__ import annotations

import importlib.util
import socket
from typing import Any

import pytest
from typer.testing import CliRunner

from skipcast.cli import app
from skipcast.ui.serve import free_port


def said(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["ui", *arguments])
    assert result.exit_code == 2
    return " ".join(result.stderr.split())


def test_a_port_in_use_is_one_clear_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match="choose another --port"):
            free_port("127.0.0.1", port)
        words = said("--port", str(port))
    assert f"cannot listen on 127.0.0.1:{port}" in words
    assert "Traceback" not in words


def test_gradio_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    find: Any = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gradio" else find(name))
    assert 'pip install "skipcast[ui]"' in said()


def test_no_such_model_and_no_such_dtype() -> None:
    pytest.importorskip("gradio")
    assert "no model 'shapes-fluks'" in said("shapes-fluks", "--port", "0")
    assert "must be one of float32" in said("--dtype", "int8")


def test_a_free_port_is_found_and_a_foreign_host_refused() -> None:
    assert free_port("127.0.0.1", 0) > 0
    with pytest.raises(ValueError, match="--host"):
        free_port("192.0.2.1", 0)
