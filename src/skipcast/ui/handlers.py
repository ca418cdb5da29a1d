"""The event handlers of the page: from the values of its controls to their updates."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, TypeAlias

import gradio as gr

from skipcast.ui import panels
from skipcast.ui.choices import FEWEST, MOST, USUAL, Choice, Control, control
from skipcast.ui.drawing import draw
from skipcast.ui.model import Models
from skipcast.ui.solving import PlanRequest, budgets_of, solve
from skipcast.ui.state import DRAW, PANELS, SOLVE, DrawRequest, Session, Stopped

Updates: TypeAlias = "tuple[Any, ...]"
_SAME: Any = gr.skip()
_MENDABLE = (ValueError, RuntimeError, ImportError, OSError)  # a user can mend what these say
#: Updates of the button that begins the work and of the one that stops it.
BEGUN = (gr.update(interactive=False), gr.update(visible=True))
_ENDED = (gr.update(interactive=True), gr.update(visible=False))
_PROGRESS = gr.Progress()  # Gradio finds this default and puts the tracker of the event in its place
_log = logging.getLogger(__name__)


class Handlers:
    """The event handlers, shared by all visitors; Gradio passes the `Session` of a visitor to each call.

    Args:
        models: loads and lends the shared pipeline.
    """

    def __init__(self, models: Models) -> None:
        self.models = models
        self._working: dict[str, Session] = {}  # by the page, for `leave`

    def choose_model(self, session: Session, name: str | None) -> Iterator[Updates]:
        """Load a model. Updates: method, sampler, examples, prompt, guidance, message."""
        name, nothing = (name or "").strip(), (_SAME,) * 5
        if not self.models.knows(name):
            yield *nothing, panels.message(f"loading {name}")
        try:
            if not name:
                raise ValueError("choose a model.")
            found = self.models.offer(name)
        except _MENDABLE as error:
            yield *nothing, _trouble(str(error))
            return
        yield (
            gr.update(choices=self._methods(session, name), value=found.choices[0].spec),
            gr.update(choices=listed(found.samplers), value=found.samplers[0].spec),
            gr.update(samples=[[prompt] for prompt in found.prompts]),
            found.prompts[0],
            found.guidance,
            panels.message(f"{name} is ready"),
        )

    def govern(self, session: Session, model: str, spec: str | None, steps: Any, budget: Any) -> Updates:
        """Show the controls of a choice. Updates: budget, threshold, steps, note."""
        try:
            count = _whole("steps", steps)
            governed = control(spec or "", count, model, session.plans)
        except _MENDABLE as error:
            return _SAME, gr.update(visible=False), gr.update(interactive=True), panels.message(str(error), bad=True)
        is_threshold = governed.kind == "threshold"
        return (
            _slider(governed, governed.steps or count, int(budget or USUAL)),
            gr.update(visible=is_threshold, label=governed.threshold or "", value=governed.default),
            gr.update(interactive=governed.steps is None, value=governed.steps or count),
            panels.message(governed.words),
        )

    def draw(
        self, session: Session, model: str, spec: str, budget: Any, threshold: Any, steps: Any, prompt: str, seed: Any,
        guidance: Any, sampler: str, difference: bool, request: gr.Request, progress: gr.Progress = _PROGRESS,
    ) -> Iterator[Updates]:  # fmt: skip
        """Draw the three samples. Updates: the three panels, message, draw, stop."""
        try:
            wanted = DrawRequest(
                model, spec or "", _whole("evaluations", budget), threshold, _whole("steps", steps), prompt or "",
                _whole("seed", seed), guidance, sampler,
            )  # fmt: skip
            yield *map(panels.empty, PANELS), "", *BEGUN
            for done in self._while_open(DRAW, session, request, draw(self.models, wanted, session, progress)):
                html = panels.sample(done, session.samples, difference=difference)
                yield *(html if panel == done else _SAME for panel in PANELS), "", *BEGUN
        except Stopped:
            yield self.stopped_drawing(session, difference)
        except Exception as error:
            yield *self.show(session, difference), _trouble(_words(error)), *_ENDED
        else:
            yield _SAME, _SAME, _SAME, "", *_ENDED

    def show(self, session: Session, difference: bool) -> Updates:
        """Switch between images and differences. Updates: the three panels."""
        known = session.samples
        return tuple(
            panels.sample(panel, known, difference=difference) if panel in known else panels.empty(panel)
            for panel in PANELS
        )

    def stopped_drawing(self, session: Session, difference: bool) -> Updates:
        """End the drawing of this visitor at the next network call. Updates: the three panels, message, draw, stop."""
        session.stopped.add(DRAW)
        return *self.show(session, difference), panels.message("stopped"), *_ENDED

    def upload(self, session: Session, model: str, path: str) -> Updates:
        """Read an uploaded plan. Updates: method, message."""
        try:
            label = session.upload(path)
        except _MENDABLE as error:
            return _SAME, _trouble(str(error))
        return gr.update(choices=self._methods(session, model), value=label), ""

    def solve(
        self, session: Session, model: str, guidance: Any, budgets: str, pairs: Any, seed: Any, steps: Any, effort: str,
        prompts: str, request: gr.Request, progress: gr.Progress = _PROGRESS,
    ) -> Iterator[Updates]:  # fmt: skip
        """Record and solve plans. Updates: progress, result, plans, download, use, method, make, stop."""
        same, results = (_SAME,) * 4, ""
        try:
            lines = tuple(line.strip() for line in (prompts or "").splitlines() if line.strip())
            wanted = PlanRequest(
                model, budgets_of(budgets or ""), _whole("pairs", pairs), _whole("seed", seed), _whole("steps", steps),
                effort, guidance, lines,
            )  # fmt: skip
            yield "", "", *same, *BEGUN
            for solved in self._while_open(SOLVE, session, request, solve(self.models, wanted, session, progress)):
                results += panels.plan(solved)
                yield (
                    "",
                    results,
                    gr.update(choices=list(session.plans), value=solved.label, visible=True),
                    gr.update(value=str(session.file(solved.label)), visible=True),
                    gr.update(visible=True),
                    gr.update(choices=self._methods(session, model)),
                    *BEGUN,
                )
        except Stopped:
            yield panels.message("stopped"), _SAME, *same, *_ENDED
        except Exception as error:
            yield _trouble(_words(error)), _SAME, *same, *_ENDED
        else:
            yield "", _SAME, *same, *_ENDED

    def stopped_solving(self, session: Session) -> Updates:
        """End the recording or solving of this visitor at the next network call. Updates: progress, make, stop."""
        session.stopped.add(SOLVE)
        return panels.message("stopped"), *_ENDED

    def pick(self, session: Session, label: str) -> Any:
        """Offer the file of a plan. Updates: download."""
        return str(session.file(label)) if label in session.plans else _SAME

    def use(self, session: Session, model: str, label: str) -> Updates:
        """Choose a plan in the playground. Updates: method, tabs."""
        if label not in session.plans:
            return _SAME, _SAME
        return gr.update(choices=self._methods(session, model), value=label), gr.update(selected="playground")

    def leave(self, request: gr.Request) -> None:
        """The page was closed: end its work at the next network call. Gradio forgets the session later."""
        if (session := self._working.get(str(request.session_hash))) is not None:
            session.stopped |= {DRAW, SOLVE}

    def _while_open(self, kind: str, session: Session, request: gr.Request, work: Iterator[Any]) -> Iterator[Any]:
        """Register the work of a session, so that it stops when its page is closed."""
        page = str(request.session_hash)
        session.stopped.discard(kind)
        self._working[page] = session
        try:
            yield from work
        finally:
            self._working.pop(page, None)

    def _methods(self, session: Session, model: str) -> list[tuple[str, str]]:
        """Return the list of methods: the session's own plans, then the choices for the model."""
        own = [(f"{label} · {plan.evaluations} of {plan.origin.steps}", label) for label, plan in session.plans.items()]
        return [*own, *(listed(self.models.offer(model).choices) if self.models.knows(model) else ())]


def listed(found: tuple[Choice, ...]) -> list[tuple[str, str]]:
    """Return the labels and values of a list."""
    return [(choice.label, choice.spec) for choice in found]


def _slider(governed: Control, steps: int, budget: int) -> Any:
    if governed.kind == "budget":
        most = max(2, min(MOST, steps - 1))
        fewest = min(FEWEST, most - 1)
        value = min(max(budget, fewest), most)
        return gr.update(minimum=fewest, maximum=most, value=value, interactive=True, label="Evaluations")
    if governed.evaluations is None:
        return gr.update(interactive=False, label="Evaluations (it decides itself)")
    own = governed.evaluations
    label = f"Evaluations ({own}, its own)"
    return gr.update(minimum=min(FEWEST, own), maximum=max(MOST, own), value=own, interactive=False, label=label)


def _whole(name: str, value: Any) -> int:
    if value is None or int(value) != value:
        raise ValueError(f"{name} must be a whole number.")
    return int(value)


def _words(error: Exception) -> str:
    """Return an error in one line; unexpected errors are also logged with their traceback."""
    if isinstance(error, _MENDABLE):
        return str(error)
    _log.error("the playground met an unexpected error", exc_info=error)
    return f"{type(error).__name__}: {error}"


def _trouble(words: str) -> str:
    """Return a message for the page, and show it as a notification too."""
    gr.Warning(panels.message(words), duration=8)
    return panels.message(words, bad=True)
