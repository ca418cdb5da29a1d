"""Draw the unaccelerated run, the accelerated one and a plain sampler with as many evaluations, one after the other."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from skipcast.bench import metrics
from skipcast.bench.curve import how
from skipcast.bench.draw import Pair
from skipcast.bench.draw import draw as call_pipeline
from skipcast.parts import Method
from skipcast.pipelines.accelerate import accelerate
from skipcast.plans.plan import Plan
from skipcast.samplers import Sampler
from skipcast.ui.choices import fewer_steps, resolve
from skipcast.ui.model import Loaded, Models, Report, watched
from skipcast.ui.state import ACCELERATED, DRAW, FEWER, UNACCELERATED, DrawRequest, Sample, Session


def draw(models: Models, request: DrawRequest, session: Session, report: Report) -> Iterator[str]:
    """Draw the three samples into `session.samples` and yield the panel of each as it is done.

    What cannot run is refused before anything is drawn. The unaccelerated run is kept for the next request. Others may
    use the pipeline while the caller has control.

    Raises:
        FileNotFoundError, ValueError: no such model, method or plan, or it cannot run with these steps.
        Stopped: the session was stopped; the pipeline is as before.
    """
    check = partial(session.check, DRAW)
    chosen = resolve(request.spec, request.budget, request.threshold, request.steps, request.model, session.plans)
    with models.using(request.model, report) as loaded:
        accelerate(loaded.pipe, chosen.method)  # refuses what does not go together; touches nothing
        report(None, "warming up")
        loaded.warm(request.guidance, request.prompt, check)
        identity = (request.model, loaded.model.revision, request.prompt, request.seed, request.steps, request.guidance)
    session.samples.clear()

    def drawn(label: str, method: Method | Sampler | Plan | None, steps: int) -> Sample:
        with models.using(request.model, report) as loaded:
            return _sample(loaded, request, label, method, steps, check, report)

    if session.unaccelerated is not None and session.unaccelerated[0] == identity:
        full = replace(session.unaccelerated[1], kept=True)
    else:
        full = drawn("every step evaluated", None, request.steps)
        session.unaccelerated = identity, full
    session.samples[UNACCELERATED] = full
    yield UNACCELERATED

    made = _compared(drawn(chosen.label, chosen.method, request.steps), full)
    session.samples[ACCELERATED] = made
    yield ACCELERATED

    count = round(made.evaluations)
    plain = fewer_steps(request.sampler, count)
    if plain is None:
        fewer = drawn(f"own scheduler, {count} steps", None, count)
    else:
        fewer = drawn(f"{plain.name}:evaluations={count}", plain, request.steps)
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

    known = _predicted(method) if isinstance(method, Plan) else ()
    with _warnings() as remarks, watched(loaded.pipe, tick):
        made = call_pipeline(
            loaded.pipe, [Pair(request.prompt, request.seed)], method, steps=steps, call=loaded.call(request.guidance)
        )
    return Sample(
        made.images[0],
        label,
        made.seconds,
        made.evaluations,
        steps,
        evaluated=None if made.evaluated_steps is None else tuple(made.evaluated_steps),
        trusted=None if made.trusted is None else all(made.trusted),
        remarks=tuple(dict.fromkeys([*known, *remarks, *(made.summary.warnings if made.summary else ())])),
    )


def _predicted(plan: Plan) -> tuple[str, ...]:
    found = []
    if (promise := plan.predicted) is not None:
        found.append(f"predicted {promise.psnr:.1f} dB, {promise.worst5:.1f} for the worst 5 % ({how(promise)})")
    if plan.origin.reference != "default":
        found.append("made to reach the converged run, which is not the unaccelerated run shown here")
    return tuple(found)


def _compared(sample: Sample, full: Sample) -> Sample:
    a, b = sample.image[None], full.image[None]
    try:
        ssim: float | None = float(metrics.ssim(a, b))
    except ValueError:  # below 11 pixels a side
        ssim = None
    speedup = full.seconds / max(sample.seconds, 1e-9)
    return replace(sample, psnr=float(metrics.psnr(a, b)), ssim=ssim, speedup=speedup)


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """The warnings of the library as texts, each once."""
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield found
    found += dict.fromkeys(str(one.message) for one in caught if issubclass(one.category, UserWarning))
