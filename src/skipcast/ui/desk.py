"""What the page does: from the values of its controls to updates of them. One `Desk` serves all visitors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from skipcast.ui import panels
from skipcast.ui.choices import LEAST, MOST, USUAL, Choice, Control, control
from skipcast.ui.drawing import draw
from skipcast.ui.jobs import STOPPED, Failed, Job
from skipcast.ui.offers import Offer, offer
from skipcast.ui.solving import Order, Progress, Solved, budgets_of, solve
from skipcast.ui.studio import Studio
from skipcast.ui.visitors import Visitor, Visitors
from skipcast.ui.wishes import PANELS, Shown, Wish, Working

Updates = tuple[Any, ...]
_SAME: Any = gr.skip()
_MENDABLE = (ValueError, RuntimeError, ImportError, OSError)


class Desk:
    """Handlers of the page's events; every one ends with a message instead of an error.

    Args:
        studio: the pipeline.
        start: the offer that pages begin with.
    """

    def __init__(self, studio: Studio, start: Offer) -> None:
        self.studio, self.visitors = studio, Visitors()
        self._offers = {start.model: start}

    def visitor(self, request: gr.Request) -> Visitor:
        return self.visitors[str(request.session_hash)]

    def leave(self, request: gr.Request) -> None:
        """The page was closed."""
        self.visitors.leave(str(request.session_hash))

    def choose_model(self, name: str | None, request: gr.Request) -> Iterator[Updates]:
        """To: method, sampler, examples, prompt, guidance, message."""
        nothing = (_SAME,) * 5
        name = (name or "").strip()
        if name not in self._offers:
            yield *nothing, panels.message(f"loading {name}")
            try:
                if not name:
                    raise ValueError("choose a model.")
                with self.studio.using(name, Job(lambda job: None)) as loaded:
                    self._offers[name] = offer(loaded)
            except _MENDABLE as error:
                yield *nothing, _trouble(str(error))
                return
        found = self._offers[name]
        yield (
            gr.update(choices=self.entries(name, self.visitor(request)), value=found.choices[0].spec),
            gr.update(choices=listed(found.samplers), value=found.samplers[0].spec),
            gr.update(samples=[[prompt] for prompt in found.prompts]),
            found.prompts[0],
            found.guidance,
            panels.message(f"{name} is ready"),
        )

    def entries(self, model: str, visitor: Visitor) -> list[tuple[str, str]]:
        """What the list of methods holds: the visitor's own plans, then the offer."""
        found = self._offers.get(model)
        own = [(f"{label} · {plan.evaluations} of {plan.origin.steps}", label) for label, plan in visitor.plans.items()]
        return [*own, *(listed(found.choices) if found else ())]

    def govern(self, model: str, spec: str | None, steps: Any, budget: Any, request: gr.Request) -> Updates:
        """To: budget, dial, steps, note."""
        try:
            count = _whole("steps", steps)
            governed = control(spec or "", count, model, self.visitor(request).plans)
        except _MENDABLE as error:
            return _SAME, gr.update(visible=False), gr.update(interactive=True), panels.message(str(error), bad=True)
        return (
            _slider(governed, governed.steps or count, int(budget or USUAL)),
            gr.update(visible=governed.kind == "dial", label=governed.dial or "", value=governed.default),
            gr.update(interactive=governed.steps is None, value=governed.steps or count),
            panels.message(governed.words),
        )

    def draw(
        self, model: str, spec: str, budget: Any, dial: Any, steps: Any, prompt: str, seed: Any, guidance: Any,
        sampler: str, difference: bool, request: gr.Request,
    ) -> Iterator[Updates]:  # fmt: skip
        """To: the three panels, message, draw, stop."""
        visitor = self.visitor(request)
        begun, ended = (gr.update(interactive=False), gr.update(visible=True)), (_ON, _HIDDEN)
        try:
            wish = Wish(
                model, spec or "", _whole("evaluations", budget), dial, _whole("steps", steps), prompt or "",
                _whole("seed", seed), guidance, sampler,
            )  # fmt: skip
        except ValueError as error:
            yield _SAME, _SAME, _SAME, _trouble(str(error)), *ended
            return
        yield *map(panels.empty, PANELS), "", *begun
        for event in visitor.begin("draw", draw(self.studio, wish, visitor)):
            if isinstance(event, Failed):
                yield *self._panels(visitor, difference), _said(event), *ended
                return
            html = panels.working(event) if isinstance(event, Working) else ""
            if isinstance(event, Shown):
                html = panels.shown(event.panel, visitor.shown, difference=difference)
            yield *(html if panel == event.panel else _SAME for panel in PANELS), "", *begun
        yield _SAME, _SAME, _SAME, "", *ended

    def show(self, difference: bool, request: gr.Request) -> Updates:
        """To: the three panels, with pictures or with differences."""
        return self._panels(self.visitor(request), difference)

    def _panels(self, visitor: Visitor, difference: bool) -> Updates:
        """The pictures that are there; a refused wish leaves the earlier ones."""
        known = visitor.shown
        return tuple(
            panels.shown(panel, known, difference=difference) if panel in known else panels.empty(panel)
            for panel in PANELS
        )

    def upload(self, model: str, path: str, request: gr.Request) -> Updates:
        """To: method, message."""
        visitor = self.visitor(request)
        try:
            label = visitor.upload(path)
        except _MENDABLE as error:
            return _SAME, _trouble(str(error))
        return gr.update(choices=self.entries(model, visitor), value=label), ""

    def solve(
        self, model: str, guidance: Any, budgets: str, pairs: Any, seed: Any, steps: Any, effort: str, prompts: str,
        request: gr.Request,
    ) -> Iterator[Updates]:  # fmt: skip
        """To: progress, result, plans, download, use, method, make, stop."""
        visitor = self.visitor(request)
        begun, ended = (gr.update(interactive=False), gr.update(visible=True)), (_ON, _HIDDEN)
        same = (_SAME,) * 5
        try:
            lines = tuple(line.strip() for line in (prompts or "").splitlines() if line.strip())
            order = Order(
                model, budgets_of(budgets or ""), _whole("pairs", pairs), _whole("seed", seed), _whole("steps", steps),
                effort, guidance, lines,
            )  # fmt: skip
        except ValueError as error:
            yield _trouble(str(error)), *same, _SAME, *ended[1:]
            return
        solved: list[Solved] = []
        yield "", "", *same[1:], *begun
        for event in visitor.begin("solve", solve(self.studio, order, visitor)):
            if isinstance(event, Progress):
                yield panels.progress(event), *same, *begun
            elif isinstance(event, Failed):
                yield _said(event), *same, *ended
                return
            elif isinstance(event, Solved):
                solved.append(event)
                yield (
                    _SAME,
                    "".join(map(panels.plan, solved)),
                    gr.update(choices=list(visitor.plans), value=event.label, visible=True),
                    gr.update(value=str(visitor.file(event.label)), visible=True),
                    gr.update(visible=True),
                    gr.update(choices=self.entries(model, visitor)),
                    *begun,
                )
        yield "", *same, *ended

    def pick(self, label: str, request: gr.Request) -> Any:
        """To: download."""
        visitor = self.visitor(request)
        return str(visitor.file(label)) if label in visitor.plans else _SAME

    def use(self, model: str, label: str, request: gr.Request) -> Updates:
        """To: method, tabs."""
        visitor = self.visitor(request)
        if label not in visitor.plans:
            return _SAME, _SAME
        return gr.update(choices=self.entries(model, visitor), value=label), gr.update(selected="playground")

    def stop_drawing(self, request: gr.Request) -> None:
        """End what this visitor has drawn, at the next network call."""
        self.visitor(request).stop("draw")

    def stop_solving(self, request: gr.Request) -> None:
        """End what this visitor has recorded or solved, at the next network call."""
        self.visitor(request).stop("solve")


_ON, _HIDDEN = gr.update(interactive=True), gr.update(visible=False)


def listed(found: tuple[Choice, ...]) -> list[tuple[str, str]]:
    """Labels and values of a list."""
    return [(choice.label, choice.spec) for choice in found]


def _slider(governed: Control, steps: int, budget: int) -> Any:
    if governed.kind == "budget":
        most = max(2, min(MOST, steps - 1))
        least = min(LEAST, most - 1)
        value = min(max(budget, least), most)
        return gr.update(minimum=least, maximum=most, value=value, interactive=True, label="Evaluations")
    if governed.evaluations is None:
        return gr.update(interactive=False, label="Evaluations (it decides itself)")
    own = governed.evaluations
    label = f"Evaluations ({own}, its own)"
    return gr.update(minimum=min(LEAST, own), maximum=max(MOST, own), value=own, interactive=False, label=label)


def _whole(name: str, value: Any) -> int:
    if value is None or int(value) != value:
        raise ValueError(f"{name} must be a whole number.")
    return int(value)


def _said(event: Failed) -> str:
    return panels.message(event.message) if event == STOPPED else _trouble(event.message)


def _trouble(words: str) -> str:
    """The message that stays, and one that pops up for those who look elsewhere."""
    gr.Warning(panels.message(words), duration=8)
    return panels.message(words, bad=True)
