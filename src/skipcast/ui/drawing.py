"""Reference, accelerated and fewer-step pictures of one prompt, one after the other."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from skipcast.bench import metrics
from skipcast.bench.curve import how
from skipcast.bench.draw import Pair
from skipcast.bench.draw import draw as sampled
from skipcast.method import Method
from skipcast.pipelines.accelerate import accelerate
from skipcast.plans.plan import Plan
from skipcast.samplers import Sampler
from skipcast.ui.choices import Chosen, fewer_steps, resolve
from skipcast.ui.jobs import Job, watched
from skipcast.ui.studio import Loaded, Studio
from skipcast.ui.visitors import Visitor
from skipcast.ui.wishes import ACCELERATED, FEWER, REFERENCE, Picture, Shown, Wish, Working

_PAUSE = 0.15  # seconds between two words on the progress of a panel


def draw(studio: Studio, wish: Wish, visitor: Visitor) -> Job:
    """A job that tells `Working` and `Shown` for the three panels in order, and keeps the reference for the next one.

    What cannot run is refused before the reference is drawn.
    """

    def work(job: Job) -> None:
        with studio.using(wish.model, job, lambda words: job.tell(Working(REFERENCE, words=words))) as loaded:
            _draw(loaded, wish, visitor, job)

    return Job(work)


def _draw(loaded: Loaded, wish: Wish, visitor: Visitor, job: Job) -> None:
    chosen = resolve(wish.spec, wish.budget, wish.dial, wish.steps, wish.model, visitor.plans)
    accelerate(loaded.pipe, chosen.method)  # refuses what does not go together; touches nothing
    pencil = _Pencil(loaded, wish, job)
    visitor.shown.clear()

    def show(panel: str, picture: Picture) -> None:
        visitor.shown[panel] = picture
        job.tell(Shown(panel, picture))

    key = (loaded.model.name, loaded.model.revision, wish.prompt, wish.seed, wish.steps, wish.guidance)
    if visitor.kept is not None and visitor.kept[0] == key:
        truth = replace(visitor.kept[1], kept=True)
    else:
        truth = pencil.drawn(REFERENCE, Chosen("every step evaluated", _NOTHING), wish.steps)
        visitor.kept = key, truth
    show(REFERENCE, truth)
    made = pencil.drawn(ACCELERATED, chosen, wish.steps)
    show(ACCELERATED, _compared(made, truth))
    count = round(made.evaluations)
    plain = fewer_steps(wish.sampler, count)
    if plain is None:
        fewer = pencil.drawn(FEWER, Chosen(f"own scheduler, {count} steps", _NOTHING), count)
    else:
        fewer = pencil.drawn(FEWER, Chosen(f"{plain.name}:evaluations={count}", plain), wish.steps)
    show(FEWER, _compared(fewer, truth))


_NOTHING: Any = None  # in the place of a method: the pipeline as it is


class _Pencil:
    """Draws one picture after the other with one pipeline, telling how far it is."""

    def __init__(self, loaded: Loaded, wish: Wish, job: Job) -> None:
        self.loaded, self.wish, self.job = loaded, wish, job
        self.call = loaded.call(wish.guidance)
        job.tell(Working(REFERENCE, words="warming up"))
        self.calls = loaded.warm(wish.guidance, wish.prompt, job)

    def drawn(self, panel: str, chosen: Chosen, steps: int) -> Picture:
        """The picture of this wish by a method, a plan or a sampler, or by the pipeline as it is."""
        pipe, method = self.loaded.pipe, chosen.method
        total = steps if method is None or isinstance(method, Method) else method.evaluations or steps
        with _heard() as notes, watched(pipe, self._counter(panel, total * self.calls)):
            made = sampled(pipe, [Pair(self.wish.prompt, self.wish.seed)], method, steps=steps, call=self.call)
        picture = Picture(made.images[0], chosen.label, made.seconds, steps, steps)
        if (summary := made.summary) is None:
            return replace(picture, notes=tuple(notes))
        notes += [warning for warning in summary.warnings if warning not in notes]
        told = _foretold(method) if isinstance(method, Plan) else ()
        return replace(
            picture,
            evaluations=made.evaluations,
            evaluated=None if isinstance(method, Sampler) else tuple(summary.evaluated_steps),
            trusted=None if summary.trusted is None else all(summary.trusted),
            notes=(*told, *notes),
        )

    def _counter(self, panel: str, total: int) -> Callable[[], None]:
        done, told = -1, 0.0

        def tick() -> None:
            nonlocal done, told
            self.job.check()
            done += 1
            if time.monotonic() - told > _PAUSE:
                told = time.monotonic()
                self.job.tell(Working(panel, min(done, total), total))

        return tick


def _foretold(plan: Plan) -> tuple[str, ...]:
    found = []
    if (told := plan.predicted) is not None:
        found.append(f"predicted {told.psnr:.1f} dB, {told.worst5:.1f} for the worst 5 % ({how(told)})")
    if plan.origin.reference != "default":
        found.append("made to reach the converged run, which is not the reference shown here")
    return tuple(found)


def _compared(picture: Picture, truth: Picture) -> Picture:
    a, b = picture.image[None], truth.image[None]
    try:
        ssim: float | None = float(metrics.ssim(a, b))
    except ValueError:  # below 11 pixels a side
        ssim = None
    return replace(
        picture, psnr=float(metrics.psnr(a, b)), ssim=ssim, speedup=truth.seconds / max(picture.seconds, 1e-9)
    )


@contextmanager
def _heard() -> Iterator[list[str]]:
    """The library's warnings as texts, each once."""
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield found
    found += dict.fromkeys(str(one.message) for one in caught if issubclass(one.category, UserWarning))
