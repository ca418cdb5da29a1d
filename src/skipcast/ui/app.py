"""The page of the playground: its controls and panels, and the answers to their events."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Any, TypeAlias
from weakref import WeakValueDictionary

import gradio as gr

from skipcast.ui import panels
from skipcast.ui.choices import FEWEST, MOST, USUAL, Control, control
from skipcast.ui.drawing import PANELS, DrawRequest, draw
from skipcast.ui.solving import WORK, PlanRequest, budgets_of, solve
from skipcast.ui.state import DRAW, SOLVE, Models, Offer, Session, Stopped, installed

Updates: TypeAlias = "dict[Any, Any]"  # new values and settings of components
_log = logging.getLogger(__name__)
_FOLDER = files("skipcast.ui")

_HEAD = """# skipcast playground
Fewer evaluations of the network, the same image: how near does it come, and how fast?"""

_TIMES = "Each time is that of one call, from the prompt to the image; a warm-up is not counted."

_PLAN = """A plan says at which steps a model is evaluated and with which weights the sampler moves between them. To
make one, the unaccelerated model is recorded on a few prompts and seeds, and the plan is solved from that. Model and
guidance scale are those chosen in the playground."""

_EFFORT = "open loop makes no further network calls; low closes the loop; normal and high add joint sweeps of minutes"

_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
# One visitor at a time uses the pipeline; Gradio's queue shows the others how many wait before them.
_WORK: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": 1, "concurrency_id": "pipeline"}
_PROGRESS = gr.Progress()  # Gradio finds this default and puts the tracker of the event in its place


def build(models: Models, start: Offer, guidance: float | None = None) -> Any:
    """Return the page as Gradio blocks.

    Args:
        models: loads and lends the pipeline that all visitors share.
        start: what is offered for the model that the page begins with.
        guidance: the guidance scale that the page begins with instead of the model's own.
    """
    # By the page, to end the work of one that is closed at once: Gradio forgets its session an hour later.
    sessions: WeakValueDictionary[str | None, Session] = WeakValueDictionary()

    def enter(session: Session, request: gr.Request) -> None:
        sessions[request.session_hash] = session

    def leave(request: gr.Request) -> None:
        if (session := sessions.get(request.session_hash)) is not None:
            session.running.clear()

    with gr.Blocks(title="skipcast playground", analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        session = gr.State(functools.partial(Session), delete_callback=Session.close)
        gr.Markdown(_HEAD)
        with gr.Tabs(selected="playground") as tabs:
            with gr.Tab("Playground", id="playground"):
                playground = Playground(models, session, start, start.guidance if guidance is None else guidance)
            with gr.Tab("Make a plan", id="plan"):
                planning = Planning(models, session, playground, tabs)
        for tab in (playground, planning):
            tab.begin.click(enter, [session], **_QUIET)
        page.unload(leave)
    page.queue(api_open=False, default_concurrency_limit=None)
    return page


def whole(name: str, value: float | None, least: int, most: int) -> int:
    """Return the number of a field.

    Raises:
        ValueError: it is empty, not whole or out of range.
    """
    if value is None or value != int(value) or not least <= value <= most:
        given = "nothing" if value is None else f"{value:g}"
        raise ValueError(f"{name} must be a whole number from {least} to {most}, not {given}.")
    return int(value)


def _told(answer: Callable[..., Iterator[Updates]]) -> Callable[..., Iterator[Updates]]:
    """Make an answer show its errors in the tab's message."""

    @functools.wraps(answer)
    def told(self: Tab, *args: Any, **given: Any) -> Iterator[Updates]:
        try:
            yield from answer(self, *args, **given)
        except Stopped:
            yield {self.message: panels.message("stopped")}
        except Exception as error:
            words = str(error)
            if not isinstance(error, (ValueError, RuntimeError, ImportError, OSError)):  # a user can mend these
                _log.error("the playground met an unexpected error", exc_info=error)
                words = f"{type(error).__name__}: {error}"
            yield {self.message: panels.message(words, bad=True)}

    return told


class Tab:
    """A tab with one kind of work, which its visitor begins and stops."""

    models: Models
    session: gr.State  # holds the `Session` of the visitor
    message: gr.HTML
    begin: gr.Button
    stop: gr.Button

    def add_buttons(self, label: str, names: str) -> None:
        with gr.Row():
            self.begin = gr.Button(label, variant="primary", elem_id=f"{names}begin", min_width=120)
            self.stop = gr.Button("Stop", visible=False, elem_id=f"{names}stop", min_width=120)

    def connect(self, kind: str, work: Any, request: set[Any], outputs: list[Any], progress: Any) -> None:
        """Connect the buttons with the work."""
        buttons = [self.begin, self.stop]
        ended = {self.begin: gr.update(interactive=True), self.stop: gr.update(visible=False)}

        def stopped(session: Session) -> Updates:
            """End the work of this visitor at the next network call."""
            session.running.pop(kind, None)
            return {**ended, self.message: panels.message("stopped")}

        started = {self.begin: gr.update(interactive=False), self.stop: gr.update(visible=True)}
        running = self.begin.click(lambda: started, None, buttons, **_QUIET).then(
            work, request, [*outputs, self.message], show_progress_on=progress, **_WORK
        )
        running.then(lambda: ended, None, buttons, **_QUIET)
        self.stop.click(stopped, [self.session], [*buttons, self.message], **_QUIET)
        self.stop.click(None, cancels=[running])  # for a request that still waits in the queue


class Playground(Tab):
    """The tab that draws.

    Args:
        models: loads and lends the pipeline.
        session: the state of the visitor.
        start: what is offered for the model that the page begins with.
        guidance: the guidance scale that the page begins with.
    """

    def __init__(self, models: Models, session: gr.State, start: Offer, guidance: float | None) -> None:
        self.models, self.session = models, session
        spec = start.methods[0][1]
        first = control(spec, 50, start.model, {})
        known = list(dict.fromkeys([start.model, *installed()]))
        with gr.Row():
            with gr.Column(scale=4, min_width=300):
                self.model = gr.Dropdown(
                    known, value=start.model, label="Model, folder or hub id", allow_custom_value=True, elem_id="model"
                )
                self.method = gr.Dropdown(
                    start.methods, value=spec, label="Method or plan", allow_custom_value=True, elem_id="method",
                    info="or type one, such as taylorseer:order=2",
                )  # fmt: skip
                self.budget = gr.Slider(FEWEST, MOST, value=USUAL, step=1, label="Evaluations", elem_id="budget")
                self.threshold = gr.Number(visible=False, label="", elem_id="threshold")
                self.note = gr.HTML(panels.message(first.words), padding=False, elem_id="note")
                self.prompt = gr.Textbox(start.prompts[0], label="Prompt", lines=2, elem_id="prompt")
                with gr.Accordion("Example prompts", open=False, elem_id="examples"):
                    self.examples = gr.Dataset(
                        components=[self.prompt], samples=[[text] for text in start.prompts], show_label=False
                    )
                with gr.Row():
                    self.seed = gr.Number(0, label="Seed", min_width=80, elem_id="seed")
                    self.steps = gr.Number(
                        first.steps or 50, label="Steps", min_width=80, elem_id="steps", interactive=first.steps is None
                    )
                    self.guidance = gr.Number(guidance, label="Guidance scale", min_width=80, elem_id="guidance")
                self.sampler = gr.Dropdown(
                    start.samplers, value=start.samplers[0][1], label="Plain sampler to compare with", elem_id="sampler"
                )
                self.add_buttons("Draw", "draw-")
                self.message = gr.HTML("", padding=False, elem_id="message")
                upload = gr.UploadButton("Upload a plan", file_types=[".json"], size="sm", elem_id="upload")
            with gr.Column(scale=9, min_width=300):
                with gr.Row(elem_classes="sc-panels"):
                    self.panels = {
                        panel: gr.HTML(panels.figure(panel, {}), padding=False, elem_id=panel) for panel in PANELS
                    }
                gr.HTML(panels.message(_TIMES), padding=False)
                self.difference = gr.Checkbox(label=f"show the differences, {panels.AMPLIFY} x", elem_id="difference")
                with gr.Accordion("What the numbers mean", open=False):
                    gr.Markdown(_FOLDER.joinpath("numbers.md").read_text(encoding="utf-8"))

        offered = [self.method, self.sampler, self.examples, self.prompt, self.guidance, self.message]
        self.model.change(self.choose_model, [session, self.model], offered, **_QUIET)
        controls = [self.budget, self.threshold, self.steps, self.note]
        for event in (self.method.change, self.steps.input):
            event(self.govern, [session, self.model, self.method, self.steps, self.budget], controls, **_QUIET)
        self.examples.click(lambda sample: sample[0], [self.examples], [self.prompt], **_QUIET)
        upload.upload(self.keep, [session, self.model, upload], [self.method, self.message], **_QUIET)
        request = {
            session, self.model, self.method, self.budget, self.threshold, self.steps, self.prompt, self.seed,
            self.guidance, self.sampler, self.difference,
        }  # fmt: skip
        shown = list(self.panels.values())
        self.connect(DRAW, self.draw, request, shown, shown)
        for event in (self.difference.change, self.stop.click):
            event(self.show, [session, self.difference], shown, **_QUIET)

    def methods(self, session: Session, model: str) -> list[tuple[str, str]]:
        """Return the list of methods: the session's own plans, then those offered for the model."""
        own = [(f"{label} · {plan.evaluations} of {plan.origin.steps}", label) for label, plan in session.plans.items()]
        return [*own, *(self.models.offers[model].methods if model in self.models.offers else ())]

    @_told
    def choose_model(self, session: Session, name: str | None) -> Iterator[Updates]:
        """Load a model and show what is offered for it."""
        name = (name or "").strip()
        if not name:
            raise ValueError("choose a model.")
        if name not in self.models.offers:
            yield {self.message: panels.message(f"loading {name}")}
        found = self.models.offer(name)
        yield {
            self.method: gr.update(choices=self.methods(session, name), value=found.methods[0][1]),
            self.sampler: gr.update(choices=found.samplers, value=found.samplers[0][1]),
            self.examples: gr.update(samples=[[prompt] for prompt in found.prompts]),
            self.prompt: found.prompts[0],
            self.guidance: found.guidance,
            self.message: panels.message(f"{name} is ready"),
        }

    def govern(self, session: Session, model: str, spec: str | None, steps: float | None, budget: int) -> Updates:
        """Show the controls of a choice."""
        try:
            count = whole("steps", steps, 2, 1000)
            governed = control(spec or "", count, model, session.plans)
        except (ValueError, ImportError, OSError) as error:
            return {
                self.threshold: gr.update(visible=False),
                self.steps: gr.update(interactive=True),
                self.note: panels.message(str(error), bad=True),
            }
        visible = governed.kind == "threshold"
        return {
            self.budget: _slider(governed, governed.steps or count, budget),
            self.threshold: gr.update(visible=visible, label=governed.threshold, value=governed.default),
            self.steps: gr.update(interactive=governed.steps is None, value=governed.steps or count),
            self.note: panels.message(governed.words),
        }

    @_told
    def keep(self, session: Session, model: str, path: str) -> Iterator[Updates]:
        """Keep an uploaded plan and choose it."""
        label = session.upload(path)
        yield {self.method: gr.update(choices=self.methods(session, model), value=label), self.message: ""}

    @_told
    def draw(self, values: dict[Any, Any], progress: gr.Progress = _PROGRESS) -> Iterator[Updates]:
        """Draw the three samples, and show each as it is done."""
        session, difference = values[self.session], values[self.difference]
        if not values[self.model]:
            raise ValueError("choose a model.")
        if not (values[self.prompt] or "").strip():
            raise ValueError("say in the prompt what to draw.")
        request = DrawRequest(
            model=values[self.model],
            spec=values[self.method] or "",
            prompt=values[self.prompt],
            budget=whole("evaluations", values[self.budget], 1, 1000),
            threshold=values[self.threshold],
            steps=whole("steps", values[self.steps], 2, 1000),
            seed=whole("seed", values[self.seed], 0, 2**63 - 1),
            guidance=values[self.guidance],
            sampler=values[self.sampler],
        )
        yield {self.message: "", **{shown: panels.figure(panel, {}) for panel, shown in self.panels.items()}}
        try:
            for panel in draw(self.models, request, session, progress):
                yield {self.panels[panel]: panels.figure(panel, session.samples, difference=difference)}
        except Exception:
            yield self.show(session, difference)  # what was refused leaves the last images
            raise

    def show(self, session: Session, difference: bool) -> Updates:
        """Show images or differences."""
        return {
            shown: panels.figure(panel, session.samples, difference=difference) for panel, shown in self.panels.items()
        }


class Planning(Tab):
    """The tab that makes plans.

    Args:
        models: loads and lends the pipeline.
        session: the state of the visitor.
        playground: the tab that draws, for the model and the guidance scale chosen there.
        tabs: both.
    """

    def __init__(self, models: Models, session: gr.State, playground: Playground, tabs: gr.Tabs) -> None:
        self.models, self.session, self.playground, self.tabs = models, session, playground, tabs
        gr.Markdown(_PLAN)
        with gr.Row():
            with gr.Column(scale=4, min_width=300):
                self.budgets = gr.Textbox(
                    "10", label="Evaluations", info="several for several plans: 6, 8, 10", elem_id="plan-budgets"
                )
                with gr.Row():
                    self.pairs = gr.Number(8, label="Pairs", min_width=90, elem_id="plan-pairs")
                    self.seed = gr.Number(0, label="First seed", min_width=90, elem_id="plan-seed")
                    self.steps = gr.Number(50, label="Steps", min_width=90, elem_id="plan-steps")
                self.effort = gr.Radio(list(WORK), value="low", label="Effort", info=_EFFORT, elem_id="plan-effort")
                self.prompts = gr.Textbox(
                    label="Prompts", lines=3, placeholder="one per line; empty: prompts that suit the model",
                    elem_id="plan-prompts",
                )  # fmt: skip
                self.add_buttons("Record and solve", "plan-")
            with gr.Column(scale=9, min_width=300):
                self.message = gr.HTML("", padding=False, elem_id="plan-progress")
                self.result = gr.HTML("", padding=False, elem_id="plan-result")
                self.files = gr.File(
                    label="Plans", file_count="multiple", interactive=False, visible=False, elem_id="plan-files"
                )
                self.use = gr.Button("Use the last one in the playground", visible=False, elem_id="plan-use")

        request = {
            session, playground.model, playground.guidance, self.budgets, self.pairs, self.seed, self.steps,
            self.effort, self.prompts,
        }  # fmt: skip
        found = [self.result, self.files, self.use, playground.method]
        self.connect(SOLVE, self.solve, request, found, self.message)
        self.use.click(self.choose, [session, playground.model], [playground.method, tabs], **_QUIET)

    @_told
    def solve(self, values: dict[Any, Any], progress: gr.Progress = _PROGRESS) -> Iterator[Updates]:
        """Record and solve plans, and show each as it is done."""
        session, model = values[self.session], values[self.playground.model]
        steps = whole("steps", values[self.steps], 2, 1000)
        request = PlanRequest(
            model,
            budgets_of(values[self.budgets] or "", steps),
            pairs=whole("pairs", values[self.pairs], 1, 256),
            seed=whole("the first seed", values[self.seed], 0, 2**62),
            steps=steps,
            effort=values[self.effort],
            guidance=values[self.playground.guidance],
            prompts=tuple(line.strip() for line in (values[self.prompts] or "").splitlines() if line.strip()),
        )
        results = ""
        yield {self.message: "", self.result: results}
        for solved in solve(self.models, request, session, progress):
            results += panels.plan(solved)
            yield {
                self.result: results,
                self.files: gr.update(value=list(map(str, session.files())), visible=True),
                self.use: gr.update(visible=True),
                self.playground.method: gr.update(choices=self.playground.methods(session, model)),
            }

    def choose(self, session: Session, model: str) -> Updates:
        """Choose the newest plan in the playground."""
        methods = gr.update(choices=self.playground.methods(session, model), value=list(session.plans)[-1])
        return {self.playground.method: methods, self.tabs: gr.update(selected="playground")}


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


#: How the page is launched.
LAUNCH: dict[str, Any] = {
    "prevent_thread_lock": True,
    "quiet": True,
    "share": False,
    "ssr_mode": False,
    "mcp_server": False,
    "run_history": False,
    "enable_monitoring": False,
    "footer_links": [],
    # With the fonts of the visitor's system.
    "theme": gr.themes.Default(
        font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace"), primary_hue="blue"
    ),
    "css": _FOLDER.joinpath("style.css").read_text(encoding="utf-8"),
}
