"""The playground of `skipcast ui`: compare a method or a plan with the unaccelerated run, and make plans.

`door` and `limits` say who comes in and how much one may ask for. `state` holds the pipeline and what belongs to one
visitor, `choices` says what can be chosen; `drawing` and `solving` do the work, `panels` turns it into HTML, and `app`,
which alone needs Gradio, lays out the page and answers its events.
"""

from __future__ import annotations

import importlib.util
import os
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory


@dataclass(frozen=True)
class Served:
    """A running playground."""

    url: str
    close: Callable[[], None]


def serve(
    models: Sequence[str] = (),
    plans: Sequence[str | Path] = (),
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    names: Sequence[str] = (),
    auth: str | None = None,
    trust: bool = False,
    dtype: str | None = None,
    guidance: float | None = None,
    offload: bool = False,
) -> Served:
    """Load the models, start the playground in the background, and say where it is.

    Nothing is sent to other machines: no analytics, no public link, no fonts or scripts from elsewhere.

    Args:
        models: reference names, folders or hub ids that visitors choose from; () for the reference model.
        plans: folders whose files *.plan.json are offered too.
        host: the address to listen on; 127.0.0.1 is this machine alone.
        port: to listen on; 0 takes a free one.
        names: under which the server answers besides its address.
        auth: "user:password", or "@file" with one such line for each visitor; None lets everybody in.
        trust: whether visitors may name any folder, hub id and file of a plan.
        dtype: the name of a torch dtype for the weights.
        guidance: the guidance scale that the page begins with instead of the model's own.
        offload: keep on the GPU only the part of the model that is at work.

    Raises:
        ImportError: Gradio or transformers is missing.
        FileNotFoundError, ValueError: the port is in use, or there is no such model, plan or file of passwords.
    """
    if importlib.util.find_spec("gradio") is None:
        raise ImportError('the playground needs gradio; run: pip install "skipcast[ui]"')
    port = _free_port(host, port)  # before torch is loaded
    home = TemporaryDirectory(prefix="skipcast-ui-", ignore_cleanup_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = home.name  # of uploads
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read where Gradio is imported
    for variable in ("no_proxy", "NO_PROXY"):  # Gradio looks at its own address first, which no proxy knows
        os.environ[variable] = ",".join(filter(None, (os.environ.get(variable), "localhost,127.0.0.1,::1")))

    import torch
    from starlette.middleware import Middleware

    from skipcast.ui.app import LAUNCH, build
    from skipcast.ui.door import Door, logins
    from skipcast.ui.limits import number
    from skipcast.ui.state import Models, installed, plans_of

    listed = list(dict.fromkeys(models)) or installed()
    if not listed:
        raise ValueError("no reference model is installed; name a folder or a hub id, or run `make reference`.")
    if wrong := [name for name in names if not re.fullmatch(r"(\*\.)?[\w.-]+", name)]:
        raise ValueError(f"--allow-host {wrong[0]!r:.60} must be a name such as play.example, without scheme or port.")
    users = logins(auth) if auth is not None else None
    guidance = number("the guidance scale", guidance)
    lent = Models(listed, plans_of(plans), getattr(torch, dtype) if dtype else None, offload, trust)
    page = build(lent, lent.offer_all(), guidance)
    bound = f"[{host}]" if ":" in host else host
    door = Middleware(Door, names=("localhost", "127.0.0.1", "[::1]", bound, *names))
    page.launch(server_name=bound, server_port=port, auth=users, app_kwargs={"middleware": [door]}, **LAUNCH)

    def close() -> None:
        page.close(verbose=False)
        home.cleanup()

    shown = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(bound, bound)
    return Served(f"http://{shown}:{port}/", close)


def _free_port(host: str, port: int) -> int:
    """Return the port, or a free one for 0; a ValueError if it is in use or the host is not one of this machine."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except (OSError, OverflowError) as error:
        raise ValueError(f"cannot listen on {host}:{port}: {error}; choose another --port or --host.") from error
