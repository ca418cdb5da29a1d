"""Serving the playground on a port of this machine."""

from __future__ import annotations

import importlib.util
import os
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class Served:
    """A running playground."""

    url: str
    close: Callable[[], None]


def check_gradio() -> None:
    """Raise an error if Gradio is missing.

    Raises:
        ImportError: says what to install.
    """
    if importlib.util.find_spec("gradio") is None:
        raise ImportError('the playground needs gradio; run: pip install "skipcast[ui]"')


def free_port(host: str, port: int) -> int:
    """Return the port, or a free one for 0.

    Raises:
        ValueError: it is in use, or the host is not one of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except (OSError, OverflowError) as error:
        raise ValueError(f"cannot listen on {host}:{port}: {error}; choose another --port or --host.") from error


def serve(
    model: str | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    dtype: Any = None,
    guidance: float | None = None,
    offload: bool = False,
) -> Served:
    """Load a model, start the playground in the background, and say where it is.

    Nothing is sent to other machines: no analytics, no public link, no fonts or scripts from elsewhere.

    Args:
        model: a reference name, a folder or a hub id; None for the reference model.
        host: the address to listen on; 127.0.0.1 is this machine alone.
        port: to listen on; 0 takes a free one.
        dtype: a torch dtype of the weights.
        guidance: the guidance scale that the page begins with instead of the model's own.
        offload: keep on the GPU only the part of the model that is at work.

    Raises:
        ImportError: Gradio or transformers is missing.
        ValueError: the port is in use, or there is no such model.
    """
    check_gradio()
    port = free_port(host, port)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read where Gradio is imported
    for variable in ("no_proxy", "NO_PROXY"):  # Gradio looks at its own address first, which no proxy knows
        os.environ[variable] = ",".join(filter(None, (os.environ.get(variable), "localhost,127.0.0.1,::1")))

    from skipcast.ui.app import build
    from skipcast.ui.handlers import Handlers
    from skipcast.ui.model import Models, installed

    name = model or next(iter(installed()), None)
    if name is None:
        raise ValueError("no reference model is installed; name a folder or a hub id, or run `make reference`.")
    models = Models(dtype, offload=offload)
    start = models.offer(name)
    home = tempfile.TemporaryDirectory(prefix="skipcast-ui-")
    page = build(Handlers(models), home.name, start, guidance)
    page.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        inbrowser=False,
        ssr_mode=False,
        mcp_server=False,
        run_history=False,
        enable_monitoring=False,
        footer_links=[],
        theme=_theme(),
        css=files("skipcast.ui").joinpath("style.css").read_text(encoding="utf-8"),
    )

    def close() -> None:
        page.close(verbose=False)
        home.cleanup()

    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    return Served(f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/", close)


def _theme() -> Any:
    """Return a theme with the fonts of the visitor's own system."""
    import gradio as gr

    fonts = ("system-ui", "sans-serif")
    theme = gr.themes.Default(font=fonts, font_mono=("ui-monospace", "monospace"), primary_hue="blue")
    # The usual greys of hints are too faint to be read.
    return theme.set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
    )
