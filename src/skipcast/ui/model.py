"""The pipeline that all visitors share, and the choices that the page offers for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from skipcast.bench.draw import Pair, draw
from skipcast.bench.prompts import usual_prompts
from skipcast.models.load import REFERENCES, Model, load_model, reference_folder
from skipcast.pipelines.calls import guided
from skipcast.pipelines.networks import denoisers
from skipcast.ui.choices import Choice, choices, samplers

#: Shows how far the work is: a share in [0, 1], or None where it is not known, and words. `gr.Progress` is one.
Report: TypeAlias = "Callable[[float | None, str], Any]"

_SCALES = ("true_cfg_scale", "guidance_scale")


@dataclass
class Loaded:
    """A loaded model, and the network calls per step of every guidance scale that was warmed up."""

    model: Model
    calls: dict[float | None, int] = field(default_factory=dict)

    @property
    def pipe(self) -> Any:
        return self.model.pipe

    @property
    def guidance(self) -> float | None:
        """The guidance scale of the model's card, or None for the pipeline's default."""
        return next((float(self.model.call[name]) for name in _SCALES if name in self.model.call), None)

    def call(self, guidance: float | None) -> dict[str, Any]:
        """Return the arguments of a pipeline call at a guidance scale; None means the model's own."""
        call = dict(self.model.call)
        return call if guidance is None or guidance == self.guidance else {**call, **guided(self.pipe, guidance)}

    def warm(self, guidance: float | None, prompt: str, check: Callable[[], None]) -> int:
        """Return the network calls per sampler step; two untimed steps are run first at a new guidance scale."""
        if guidance not in self.calls:
            made = 0

            def tick() -> None:
                nonlocal made
                check()
                made += 1

            with watched(self.pipe, tick):
                draw(self.pipe, [Pair(prompt, 0)], steps=2, call=self.call(guidance), decode=False)
            self.calls[guidance] = max(1, made // 2)
        return self.calls[guidance]


@dataclass(frozen=True)
class Offer:
    """The choices that the page offers for a model."""

    model: str  # its name
    choices: tuple[Choice, ...]  # plans and methods, the one to begin with first
    samplers: tuple[Choice, ...]  # plain samplers to compare with, the best first
    prompts: tuple[str, ...]  # examples that suit it
    guidance: float | None  # the guidance scale of its card; None leaves it to the pipeline


class Models:
    """Loads models, one at a time, and lends the pipeline to one caller at a time.

    Args:
        dtype: a torch dtype of the weights; None for the usual one.
        offload: keep on the GPU only the part of the model that is at work.
    """

    def __init__(self, dtype: Any = None, *, offload: bool = False) -> None:
        self.dtype, self.offload = dtype, offload
        self._lock = threading.Lock()
        self._loaded: Loaded | None = None
        self._offers: dict[str, Offer] = {}

    @contextmanager
    def using(self, name: str, report: Report = lambda share, words: None) -> Iterator[Loaded]:
        """Lend the model to this caller alone, until the context is left.

        Raises:
            ValueError: no model of this name can be loaded, or it does not draw images.
        """
        with self._lock:
            if self._loaded is None or self._loaded.model.name != name:
                report(None, f"loading {name}")
                if name in REFERENCES or Path(name).exists() or name.count("/") == 1:  # not for a mere slip
                    self._loaded = None  # first, so that memory never holds two
                self._loaded = Loaded(_images_only(load_model(name, self.dtype, offload=self.offload)))
            yield self._loaded

    def offer(self, name: str) -> Offer:
        """Return the choices for a model, which is loaded the first time.

        Raises:
            ValueError: as `using`.
        """
        if name not in self._offers:
            with self.using(name) as loaded:
                self._offers[name] = Offer(
                    name,
                    tuple(choices(name, loaded.pipe)),
                    tuple(samplers(loaded.pipe)),
                    usual_prompts(loaded.model.judge is not None),
                    loaded.guidance,
                )
        return self._offers[name]

    def knows(self, name: str) -> bool:
        """Return whether `offer` answers without loading a model."""
        return name in self._offers


def installed() -> list[str]:
    """Return the reference models whose weights are installed."""
    found = []
    for name in REFERENCES:
        try:
            reference_folder(name)
        except ValueError:
            continue
        found.append(name)
    return found


@contextmanager
def watched(pipe: Any, tick: Callable[[], None]) -> Iterator[None]:
    """Call `tick` before every network call within the context; an exception of `tick` stops the run."""

    def hook(*_: Any) -> None:
        tick()

    handles = [network.register_forward_pre_hook(hook) for network in denoisers(pipe)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _images_only(model: Model) -> Model:
    pipe: Any = model.pipe
    if hasattr(pipe, "video_processor"):
        raise ValueError(
            f"{model.name}: {type(pipe).__name__} makes videos; the playground draws images. For videos use "
            "`skipcast generate` and `skipcast bench`."
        )
    return model
