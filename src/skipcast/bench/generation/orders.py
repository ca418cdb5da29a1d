"""What is drawn, and with what: everything that a picture follows from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipcast.bench.provenance import versions
from skipcast.bench.sweep.cells import derived_seed, digest
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


@dataclass(frozen=True)
class Picture:
    """A picture by its prompt's line and its number, both from 1 on."""

    line: int
    number: int
    prompt: str
    seed: int

    @property
    def name(self) -> str:
        """Of its file, without the ending."""
        return f"{self.line:04d}-{self.number}"


@dataclass(frozen=True)
class Portion:
    """Pictures that are drawn in one call; always the same ones, for a picture's last bits may depend on the others."""

    pictures: tuple[Picture, ...]

    def __str__(self) -> str:
        first = self.pictures[0]
        more = f" and {len(self.pictures) - 1} more" if self.pictures[1:] else ""
        return f"{first.name} ({first.prompt!r}, seed {first.seed}){more}"


def pictures(prompts: Sequence[tuple[int, str]], seeds: int, seed: int) -> list[Picture]:
    """Every prompt with every seed; the seeds are those of `skipcast bench`."""
    return [
        Picture(line, number, prompt, derived_seed(seed, prompt, number - 1))
        for line, prompt in prompts
        for number in range(1, seeds + 1)
    ]


def portions(every: Sequence[Picture], batch: int) -> Iterator[Portion]:
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
