"""Who comes in: under which names the server answers, how much it reads, and who may log in."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse

from skipcast.ui.limits import BODY, ROOM

_STORING = ("/upload", "/deep_link")  # what Gradio writes files for


class Door:
    """Middleware that answers to its own address and these names alone: a page of others may give it one of theirs."""

    def __init__(self, app: Any, names: Sequence[str]) -> None:
        self.app, self.names = app, names

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else {}
        if "transfer-encoding" in headers or int(headers.get("content-length", 0)) > BODY:  # digits, says the server
            answer: Any = PlainTextResponse(f"A request must say its length, at most {BODY} bytes.", status_code=413)
        elif scope.get("path", "").endswith(_STORING) and shutil.disk_usage(tempfile.gettempdir()).free < ROOM:
            answer = PlainTextResponse("The server has no room for files.", status_code=507)
        else:
            bound = (scope.get("server") or ("",))[0]
            names = [*self.names, f"[{bound}]" if ":" in bound else bound]
            answer = TrustedHostMiddleware(self.app, names, www_redirect=False)
        await answer(scope, receive, send)


def logins(given: str) -> list[tuple[str, str]]:
    """Return the names and passwords of "user:password", or of the lines of a file from "@file".

    Raises:
        FileNotFoundError, ValueError: no such file, or a line is something else; no password is repeated.
    """
    lines = Path(given[1:]).read_text(encoding="utf-8").split("\n") if given.startswith("@") else [given]
    found = [re.fullmatch("([^:]+):(.+)", line.strip()) for line in lines if line.strip()]
    if not found or None in found:
        raise ValueError("--auth must be USER:PASSWORD, or @FILE with one such line for each visitor.")
    return [(each[1], each[2]) for each in found if each]
