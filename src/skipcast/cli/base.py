"""What all commands share: the application, consoles, errors, options and loading."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TaskID, TimeElapsedColumn

import skipcast
from skipcast.bench.workers import WorkerError

app = typer.Typer(no_args_is_help=True, add_completion=False)
out = Console()
err = Console(stderr=True)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"skipcast {skipcast.__version__}")
        raise typer.Exit


@app.callback()
def skipcast_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Diffusion sampling in a fraction of the evaluations."""


@contextmanager
def plain_errors() -> Iterator[None]:
    """Print one clear line instead of a traceback for errors that the user can correct."""
    try:
        yield
    except BrokenPipeError:  # whoever read the output has gone, as `head` does
        raise
    except (ValueError, OSError, ImportError, WorkerError) as error:
        err.print(
            "[bold red]error[/bold red]", escape(printable(_words(error))), highlight=False, markup=True, soft_wrap=True
        )
        raise typer.Exit(2) from error


def printable(text: str) -> str:
    """A text as a terminal may show it: what would move its cursor or change its colours is spelled out."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else ascii(letter)[1:-1] for letter in text)


def _words(error: Exception) -> str:
    """What an error says; of one of the system, the file first, and what can be done about a full disk."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    where = "" if error.filename is None else f"{error.filename}: "
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    cure = "; make room, then give the command again: what is finished is kept" if full else ""
    return f"{where}{error.strerror}{cure}."


ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A reference name (shapes-flux, shapes-wan), a folder or a hub id.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Guidance = Annotated[
    float | None,
    typer.Option("--guidance", help="Guidance scale; default: that of the model's card, else the pipeline's own."),
]

DTYPES = ("float32", "bfloat16", "float16")


def _known_dtype(name: str | None) -> str | None:
    if name not in (None, *DTYPES):
        raise typer.BadParameter(f"{name} must be one of {', '.join(DTYPES)}.")
    return name


Dtype = Annotated[
    str | None,
    typer.Option(callback=_known_dtype, help="float32, bfloat16 or float16; default: bfloat16 on a GPU, else float32."),
]
Size = Annotated[int | None, typer.Option(help="Height and width in pixels; default: the model's own.")]
Offload = Annotated[bool, typer.Option(help="Keep on the GPU only the part of the model that is at work.")]

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files of --out that are there already.")]

Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="How many work at once: processes, each on a GPU of its own as far as there are any, or with --ray actors "
        "of the cluster; default: 1, or with --ray one per GPU of the cluster if it has any.",
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Work on a Ray cluster: 'local' starts one here, 'auto', HOST:PORT or ray://HOST:PORT joins one, whose "
        "machines hold the model and the same versions of Python, skipcast and torch.",
    ),
]


def load(
    model: str, guidance: float | None = None, dtype: str | None = None, size: int | None = None, offload: bool = False
) -> tuple[Any, dict[str, Any]]:
    """Load the model and return it with the arguments of its calls.

    Raises:
        ValueError: a model that cannot be loaded.
    """
    import torch

    from skipcast.models.load import load_model
    from skipcast.pipelines.calls import guided

    with err.status(f"loading {model}"):
        loaded = load_model(model, getattr(torch, dtype) if dtype else None, offload=offload)
    call = dict(loaded.call)
    if size is not None:
        call.update(height=size, width=size)
    if guidance is not None:
        call.update(guided(loaded.pipe, guidance))
    return loaded, call


def numbers(option: str, given: Sequence[str] | None) -> tuple[int, ...]:
    """Return the whole numbers of a repeatable option such as `--evaluations 6,8,10`; () without it.

    Raises:
        ValueError: something else than positive whole numbers.
    """
    words = [word.strip() for text in given or () for word in text.split(",")]
    if wrong := [word for word in words if not word.isdigit() or int(word) < 1]:
        raise ValueError(f"{option} {wrong[0]!r}: must be whole numbers from 1 on, joined by commas, such as 6,8,10.")
    return tuple(dict.fromkeys(map(int, words)))


def prompts_of(file: Path | None) -> tuple[str, ...]:
    """Return the prompts of a file; () without a file.

    Raises:
        FileNotFoundError, ValueError: as `bench.prompts.read_prompts`.
    """
    from skipcast.bench.prompts import read_prompts

    return () if file is None else tuple(prompt for _, prompt in read_prompts(file))


def say(*words: object) -> None:
    """Print a line as it is: without wrapping it, and without reading brackets as markup."""
    shown = [printable(each) if isinstance(each, str) else each for each in words]
    out.print(*shown, highlight=False, soft_wrap=True, markup=False)


class Bar:
    """The progress of work whose parts are weighted by their expected time."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar, self._task = bar, task

    def total(self, weight: float) -> None:
        self._bar.update(self._task, total=weight)

    def advance(self, label: str, weight: float) -> None:
        self._bar.update(self._task, advance=weight, description=label)

    def reached(self, done: float, total: float, label: str | None = None) -> None:
        """Set the finished and the total weight, and what is being done."""
        self._bar.update(self._task, completed=done, total=total, description=label)


@contextmanager
def shown(label: str) -> Iterator[Bar]:
    """Show a progress bar on the standard error stream within the context."""
    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*columns, console=err, speed_estimate_period=300) as bar:
        yield Bar(bar, bar.add_task(label, total=None))
