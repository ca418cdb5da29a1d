"""What is drawn, and with what: everything that a picture follows from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipcast.bench.draw import Pair
from skipcast.bench.grid import derived_seed, digest
from skipcast.bench.provenance import versions
from skipcast.models.load import REFERENCES, reference_folder, weights_hash
from skipcast.plans.plan import Plan

FORMAT = 1  # of the manifest


@dataclass(frozen=True)
class Order:
    """How pictures are drawn, whatever they show.

    Args:
        model: a reference name, a folder or a hub id.
        label: the method as it was asked for; None without one.
        method: what it means: a `Method`, a `Sampler` or a `Plan`; None without one.
        steps: of the sampler.
        retry: the plan for pictures that `method`, a plan too, is not trusted on.
        guidance: None for the model's own.
        dtype: of the weights, by name; None for the usual one.
        size: height and width in pixels; None for the model's own.
        offload: keep on the GPU only the part of the model that is at work.
        seed: of the run.
        batch: pictures of one call.
        threads: of every worker on a CPU.
        revision: of the weights; None for a hub id.
    """

    model: str
    label: str | None = None
    method: Any = None
    steps: int = 50
    retry: Plan | None = None
    guidance: float | None = None
    dtype: str | None = None
    size: int | None = None
    offload: bool = False
    seed: int = 0
    batch: int = 1
    threads: int = 1
    revision: str | None = None

    def manifest(self) -> dict[str, Any]:
        """What finished pictures must have been drawn with to stay."""
        return {
            "format": FORMAT,
            "model": self.model,
            "revision": self.revision,
            "dtype": self.dtype,
            "method": self.label,
            "repr": _told(self.method),
            "retry": _told(self.retry),
            "steps": self.steps,
            "guidance": self.guidance,
            "size": self.size,
            "seed": self.seed,
            "batch": self.batch,
            "threads": self.threads,
            **versions(),
        }


def name_of(pair: Pair) -> str:
    """What the file of an image is called, without the ending: the line of its prompt and its number, from 1 on."""
    return f"{pair.index:04d}-{pair.number}"


@dataclass(frozen=True)
class Portion:
    """Pictures that are drawn in one call; always the same ones, for a picture's last bits may depend on the others."""

    pairs: tuple[Pair, ...]

    def __str__(self) -> str:
        first = self.pairs[0]
        more = f" and {len(self.pairs) - 1} more" if self.pairs[1:] else ""
        return f"{name_of(first)} ({first.prompt!r}, seed {first.seed}){more}"


def read_prompts(file: Path) -> list[tuple[int, str]]:
    """The lines of a file that hold a prompt, with their numbers.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not text, no prompt in it, or one twice; names the line.
    """
    if not file.is_file():
        raise FileNotFoundError(f"--prompts {file}: no such file; give a text file with one prompt per line.")
    raw = file.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ValueError(f"{file}, line {line}: not UTF-8 text; save it as such.") from error
    seen: dict[str, int] = {}
    for line, word in enumerate(text.split("\n"), start=1):
        if not (prompt := word.strip()):
            continue
        if prompt in seen:
            raise ValueError(
                f"{file}, line {line}: the prompt of line {seen[prompt]} again, which would be the same pictures; "
                "remove one of them, or ask for more --seeds."
            )
        seen[prompt] = line
    if not seen:
        raise ValueError(f"--prompts {file} holds no prompt; write one per line.")
    return [(line, prompt) for prompt, line in seen.items()]


def pairs(prompts: Sequence[tuple[int, str]], seeds: int, seed: int) -> list[Pair]:
    """Every prompt with every seed; the seeds are those of `skipcast bench`."""
    return [
        Pair(prompt, derived_seed(seed, prompt, number - 1), line, number)
        for line, prompt in prompts
        for number in range(1, seeds + 1)
    ]


def portions(every: Sequence[Pair], batch: int) -> Iterator[Portion]:
    """All pictures, `batch` at a time."""
    for start in range(0, len(every), batch):
        yield Portion(tuple(every[start : start + batch]))


def revision_of(model: str) -> str | None:
    """What identifies the weights of a model of this machine; None for a hub id.

    Raises:
        ValueError: it is none of the three that a model can be.
    """
    folder = reference_folder(model) if model in REFERENCES else Path(model)
    if folder.exists():
        return weights_hash(folder)
    if model.count("/") != 1 or model.startswith((".", "/")):
        raise ValueError(
            f"no model {model!r}: it is neither a reference model ({', '.join(REFERENCES)}), nor a folder, "
            "nor a hub id of the form owner/name."
        )
    return None


def _told(method: Any) -> str | None:
    if method is None:
        return None
    return f"plan {digest(method.as_dict())}" if isinstance(method, Plan) else repr(method)
