"""Draw the unaccelerated run, the accelerated one and a plain sampler with as many evaluations, one after the other."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from skipcast.bench import metrics
from skipcast.bench.curve import how
from skipcast.bench.draw import Pair
from skipcast.bench.draw import draw as call_pipeline
from skipcast.parts import Method
from skipcast.pipelines.accelerate import accelerate
from skipcast.pipelines.calls import plan_of_call
from skipcast.plans.plan import Plan
from skipcast.samplers import Sampler
from skipcast.ui.choices import OWN, USUAL, resolve
from skipcast.ui.state import DRAW, Loaded, Models, Report, Session, watched

#: The panels, in the order in which they are drawn.
UNACCELERATED, ACCELERATED, FEWER = PANELS = ("unaccelerated", "accelerated", "fewer")


@dataclass(frozen=True)
class DrawRequest:
    """What to draw."""

    model: str  # its name
    spec: str  # the method or plan, as `choices.resolve` takes it
    prompt: str  # of the image
    budget: int = USUAL  # evaluations of the slider
    threshold: float | None = None  # of a method that decides by values; None for the published one
    steps: int = 50  # of the sampler
    seed: int = 0  # of the noise
    guidance: float | None = None  # the guidance scale; None for the model's own
    sampler: str = OWN  # the plain sampler to compare with


@dataclass(frozen=True)
class Sample:
    """One drawn image and what is known of it."""

    image: Tensor  # (3, H, W) float32 in [0, 1]
    label: str  # what drew it
    seconds: float  # of the whole call, from the prompt to the image
    evaluations: float  # per branch
    steps: int  # of the sampler
    evaluated: tuple[int, ...] | None = None  # which steps were evaluated, where others were forecast
    speedup: float | None = None  # seconds of the unaccelerated run over these; None for that run itself
    psnr: float | None = None  # to the unaccelerated run, in dB
    ssim: float | None = None  # to the unaccelerated run; None for images below 11 pixels a side
    kept: bool = False  # whether it is the unaccelerated run of an earlier draw
    trusted: bool | None = None  # whether the run stayed where the plan was made; None without a plan
    remarks: tuple[str, ...] = ()  # predictions and warnings


def draw(models: Models, request: DrawRequest, session: Session, report: Report) -> Iterator[str]:
    """Draw the three samples into `session.samples` and yield the panel of each as it is done.

    What cannot run is refused before anything is drawn. The unaccelerated run is kept for the next request. Others may
    use the pipeline while the caller has control.

    Raises:
        FileNotFoundError, ValueError: no such model, method or plan, or it cannot run with these steps.
        Stopped: the session was stopped; the pipeline is as before.
    """
    check = session.begin(DRAW)
    plans = models.plans | session.plans
    label, method = resolve(request.spec, request.budget, request.threshold, request.steps, request.model, plans)
    with models.using(request.model, report) as loaded:
        accelerate(loaded.pipe, method)  # refuses what does not go together; touches nothing
        if isinstance(method, Plan):
            method = plan_of_call(loaded.pipe, method, loaded.call(request.guidance))
        report(None, "warming up")
        loaded.warm(request.guidance, request.prompt, check)
        identity = (request.model, loaded.model.revision, request.prompt, request.seed, request.steps, request.guidance)
    session.samples.clear()

    def drawn(label: str, method: Method | Sampler | Plan | None, steps: int = request.steps) -> Sample:
        with models.using(request.model, report) as loaded:
            return _sample(loaded, request, label, method, steps, check, report)

    if session.unaccelerated is not None and session.unaccelerated[0] == identity:
        full = replace(session.unaccelerated[1], kept=True)
    else:
        full = drawn("every step evaluated", None)
        session.unaccelerated = identity, full
    session.samples[UNACCELERATED] = full
    yield UNACCELERATED

    made = session.samples[ACCELERATED] = _compared(drawn(label, method), full)
    yield ACCELERATED

    count = round(made.evaluations)
    if request.sampler == OWN:
        fewer = drawn(f"own scheduler, {count} steps", None, count)
    else:
        fewer = drawn(f"{request.sampler}:evaluations={count}", Sampler(request.sampler, count))
    session.samples[FEWER] = _compared(fewer, full)
    yield FEWER


def _sample(
    loaded: Loaded, request: DrawRequest, label: str, method: Method | Sampler | Plan | None, steps: int,
    check: Callable[[], None], report: Report,
) -> Sample:  # fmt: skip
    """Time one call of the pipeline, with a method or without."""
    calls = loaded.warm(request.guidance, request.prompt, check)
    total = calls * (steps if method is None or isinstance(method, Method) else method.evaluations or steps)
    done = 0

    def tick() -> None:
        nonlocal done
        check()
        report(min(done / total, 1.0), label)
        done += 1

    remarks = []
    if isinstance(method, Plan):
        if (promise := method.predicted) is not None:
            remarks.append(f"predicted {promise.psnr:.1f} dB, {promise.worst5:.1f} for the worst 5 % ({how(promise)})")
        if method.origin.reference != "default":
            remarks.append("made to reach the converged run, which is not the unaccelerated run shown here")
    with warnings.catch_warnings(record=True) as caught, watched(loaded.pipe, tick):
        warnings.simplefilter("always", UserWarning)
        made = call_pipeline(
            loaded.pipe, [Pair(request.prompt, request.seed)], method, steps=steps, call=loaded.call(request.guidance)
        )
    remarks += [str(one.message) for one in caught if issubclass(one.category, UserWarning)]
    remarks += made.summary.warnings if made.summary else ()
    return Sample(
        made.images[0],
        label,
        made.seconds,
        made.evaluations,
        steps,
        evaluated=None if made.evaluated_steps is None else tuple(made.evaluated_steps),
        trusted=None if made.trusted is None else all(made.trusted),
        remarks=tuple(dict.fromkeys(remarks)),
    )


def _compared(sample: Sample, full: Sample) -> Sample:
    a, b = sample.image[None], full.image[None]
    try:
        ssim: float | None = float(metrics.ssim(a, b))
    except ValueError:  # below 11 pixels a side
        ssim = None
    speedup = full.seconds / max(sample.seconds, 1e-9)
    return replace(sample, psnr=float(metrics.psnr(a, b)), ssim=ssim, speedup=speedup)
