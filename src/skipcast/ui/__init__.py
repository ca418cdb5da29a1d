"""The playground of `skipcast ui`: compare a method or a plan with the unaccelerated run, and make plans.

`state` holds the pipeline and what belongs to one visitor, `choices` says what can be chosen; `drawing` and `solving`
do the work, `panels` turns it into HTML, and `app`, which alone needs Gradio, lays out the page and answers its events.
"""

from __future__ import annotations

import importlib.util
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Served:
    """A running playground."""

    url: str
    close: Callable[[], None]


def serve(
    model: str | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    dtype: str | None = None,
    guidance: float | None = None,
    offload: bool = False,
) -> Served:
    """Load a model, start the playground in the background, and say where it is.

    Nothing is sent to other machines: no analytics, no public link, no fonts or scripts from elsewhere.

    Args:
        model: a reference name, a folder or a hub id; None for the reference model.
        host: the address to listen on; 127.0.0.1 is this machine alone.
        port: to listen on; 0 takes a free one.
        dtype: the name of a torch dtype for the weights.
        guidance: the guidance scale that the page begins with instead of the model's own.
        offload: keep on the GPU only the part of the model that is at work.

    Raises:
        ImportError: Gradio or transformers is missing.
        ValueError: the port is in use, or there is no such model.
    """
    if importlib.util.find_spec("gradio") is None:
        raise ImportError('the playground needs gradio; run: pip install "skipcast[ui]"')
    port = _free_port(host, port)  # before torch is loaded
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read where Gradio is imported
    for variable in ("no_proxy", "NO_PROXY"):  # Gradio looks at its own address first, which no proxy knows
        os.environ[variable] = ",".join(filter(None, (os.environ.get(variable), "localhost,127.0.0.1,::1")))

    import torch

    from skipcast.ui.app import LAUNCH, build
    from skipcast.ui.state import Models, installed

    name = model or next(iter(installed()), None)
    if name is None:
        raise ValueError("no reference model is installed; name a folder or a hub id, or run `make reference`.")
    models = Models(getattr(torch, dtype) if dtype else None, offload=offload)
    page = build(models, models.offer(name), guidance)
    page.launch(server_name=host, server_port=port, **LAUNCH)
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    url = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/"
    return Served(url, lambda: page.close(verbose=False))


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
