"""skipcast ui."""

from __future__ import annotations

import threading
from typing import Annotated

import typer

from skipcast.cli.base import DTYPES, Dtype, Guidance, Offload, app, err, plain_errors, say


@app.command()
def ui(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="A reference name, a folder or a hub id; default: the reference model."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 127.0.0.1 is this machine alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 7860,
    dtype: Dtype = None,
    guidance: Guidance = None,
    offload: Offload = False,
) -> None:
    """Serve a playground for the browser, which compares methods, plans and samplers and makes plans."""
    with plain_errors():
        if dtype is not None and dtype not in DTYPES:
            raise ValueError(f"--dtype {dtype}: must be one of {', '.join(DTYPES)}.")
        from skipcast.ui import serve

        with err.status("starting the playground"):
            served = serve(model, host=host, port=port, dtype=dtype, guidance=guidance, offload=offload)
        say(f"playground: {served.url}  (Ctrl+C ends it)")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            say("closed")
        finally:
            served.close()
