"""What all commands share: the application, consoles, errors, options, and loading."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer
from rich.console import Console
from typer.core import TyperCommand

from skipcast import names
from skipcast.bench.workers import WorkerError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Diffusion sampling in a fraction of the evaluations."
)
out = Console()
err = Console(stderr=True)


def _looks_like_a_method(word: str) -> bool:
    """A known name, or a slip of one, or `all`, rather than the MODEL that may also stand behind the options."""
    if word == "all" or _looks_like_a_plan(word):
        return True
    name = names.split(word)[0] if "=" in word or ":" not in word else word.partition(":")[0]
    known = ["plan", *names.REGISTRY]
    return bool(difflib.get_close_matches(name, known, n=1, cutoff=0.7)) and not Path(word).exists()


def _looks_like_a_plan(word: str) -> bool:
    return word.endswith(".json")


class ValuesSideBySide(TyperCommand):
    """Lets an option that may be repeated take its values side by side: `--evaluations 8 10 14`."""

    _takes: ClassVar[dict[str, Callable[[str], bool]]] = {
        "--evaluations": str.isdigit,
        "--nfe": str.isdigit,
        "--method": _looks_like_a_method,
        "--plan": _looks_like_a_plan,
    }

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        spread: list[str] = []
        option: str | None = None
        for word in args:
            name, equals, value = word.partition("=")
            if name in self._takes and equals:
                option = name
                spread += [name, value]
            elif word.startswith("-"):
                option = word if word in self._takes else None
                spread.append(word)
            elif option is not None and spread[-1] != option and self._takes[option](word):
                spread += [option, word]
            else:
                spread.append(word)
        return super().parse_args(ctx, spread)


@contextmanager
def plain_errors() -> Iterator[None]:
    """One clear line instead of a traceback for what the user can mend."""
    try:
        yield
    except (ValueError, FileNotFoundError, FileExistsError, ImportError, WorkerError) as error:
        err.print("[bold red]error[/bold red]", error, highlight=False, markup=True, soft_wrap=True)
        raise typer.Exit(2) from error


ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A reference name (shapes-flux), a folder or a hub id.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Guidance = Annotated[
    float | None,
    typer.Option("--guidance", help="Scale of classifier-free guidance; the reference model's card gives its own."),
]


DTYPES = ("float32", "bfloat16", "float16")
Dtype = Annotated[
    str | None, typer.Option(help="float32, bfloat16 or float16; default: bfloat16 on a GPU, else float32.")
]
Size = Annotated[int | None, typer.Option(help="Height and width in pixels; default: the model's own.")]
Offload = Annotated[bool, typer.Option(help="Keep on the GPU only the part of the model that is at work.")]

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
        "machines hold the model and these versions of skipcast, torch and diffusers.",
    ),
]


def load(
    model: str,
    guidance: float | None = None,
    dtype: str | None = None,
    size: int | None = None,
    offload: bool = False,
) -> tuple[Any, dict[str, Any]]:
    """The model and the arguments of its calls.

    Raises:
        ValueError: unknown dtype, or a model that cannot be loaded.
    """
    import torch

    from skipcast.models.load import load_model
    from skipcast.pipelines.calls import guided

    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"--dtype {dtype}: must be one of {', '.join(DTYPES)}.")
    with err.status(f"loading {model}"):
        loaded = load_model(model, getattr(torch, dtype) if dtype else None, offload=offload)
    call = dict(loaded.call)
    if size is not None:
        call.update(height=size, width=size)
    if guidance is not None:
        call.update(guided(loaded.pipe, guidance))
    return loaded, call


def read_prompts(file: Path | None) -> tuple[str, ...]:
    """The lines of a file of prompts; () without a file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: nothing in it.
    """
    if file is None:
        return ()
    if not file.is_file():
        raise FileNotFoundError(f"--prompts {file}: no such file; give a text file with one prompt per line.")
    lines = tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    if not lines:
        raise ValueError(f"--prompts {file} holds no prompt; write one per line.")
    return lines


def say(*words: object) -> None:
    """A line for people, of whatever length and whatever brackets it holds."""
    out.print(*words, highlight=False, soft_wrap=True, markup=False)
