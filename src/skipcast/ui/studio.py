"""The one pipeline that all visitors share: loaded on demand, behind one lock, warmed up once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skipcast.bench.draw import Pair, draw
from skipcast.models.load import REFERENCES, Model, load_model
from skipcast.pipelines.calls import guided
from skipcast.ui.jobs import Job, watched

_SCALES = ("true_cfg_scale", "guidance_scale")


@dataclass
class Loaded:
    """A loaded model, and the network calls per step of every way of calling it that was warmed up."""

    model: Model
    calls: dict[float | None, int] = field(default_factory=dict)

    @property
    def pipe(self) -> Any:
        return self.model.pipe

    @property
    def guidance(self) -> float | None:
        """The scale that the model's card gives; None leaves it to the pipeline."""
        return next((float(self.model.call[name]) for name in _SCALES if name in self.model.call), None)

    def call(self, guidance: float | None) -> dict[str, Any]:
        """The arguments of a call at a guidance scale; None for the model's own."""
        call = dict(self.model.call)
        return call if guidance is None or guidance == self.guidance else {**call, **guided(self.pipe, guidance)}

    def warm(self, guidance: float | None, prompt: str, job: Job) -> int:
        """Network calls per sampler step; the first time for a guidance, two steps are run that nothing times."""
        if guidance not in self.calls:
            made = 0

            def tick() -> None:
                nonlocal made
                job.check()
                made += 1

            with watched(self.pipe, tick):
                draw(self.pipe, [Pair(prompt, 0)], steps=2, call=self.call(guidance))
            self.calls[guidance] = max(1, made // 2)
        return self.calls[guidance]


class Studio:
    """Loads models, one at a time, and lets one job at a time use the pipeline.

    Args:
        dtype: a torch dtype of the weights; None for the usual one.
        offload: keep on the GPU only the part of the model that is at work.
    """

    def __init__(self, dtype: Any = None, *, offload: bool = False) -> None:
        self.dtype, self.offload = dtype, offload
        self._lock = threading.Lock()
        self._loaded: Loaded | None = None

    @contextmanager
    def using(self, name: str, job: Job, say: Callable[[str], None] = lambda words: None) -> Iterator[Loaded]:
        """The model, for this job alone; `say` hears what it waits for.

        Raises:
            ValueError: no model of this name can be loaded, or it draws no pictures from prompts.
            Stopped: while waiting.
        """
        if not self._lock.acquire(blocking=False):
            say("waiting for another visitor")
            while not self._lock.acquire(timeout=0.1):
                job.check()
        try:
            if self._loaded is None or self._loaded.model.name != name:
                say(f"loading {name}")
                if name in REFERENCES or Path(name).exists() or name.count("/") == 1:  # not for a mere slip
                    self._loaded = None  # first, so that two never lie in memory
                self._loaded = Loaded(_drawing(load_model(name, self.dtype, offload=self.offload)))
            yield self._loaded
        finally:
            self._lock.release()


def _drawing(model: Model) -> Model:
    pipe: Any = model.pipe
    if hasattr(pipe, "video_processor"):
        raise ValueError(
            f"{model.name}: {type(pipe).__name__} makes videos; the playground draws pictures. For videos use "
            "`skipcast generate` and `skipcast bench`."
        )
    return model
