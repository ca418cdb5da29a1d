"""The page of the playground: its controls and panels, and the answers to their events."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Any, TypeAlias
from weakref import WeakValueDictionary

import gradio as gr

from skipcast.methods import names
from skipcast.ui import panels
from skipcast.ui.choices import FEWEST, MOST, USUAL, Control, control
from skipcast.ui.drawing import PANELS, DrawRequest, draw
from skipcast.ui.limits import IDLE, UPLOAD, VISITORS, WAITING, number, one_of, text, whole
from skipcast.ui.solving import WORK, PlanRequest, budgets_of, solve
from skipcast.ui.state import DRAW, SOLVE, Models, Offer, Session, Stopped

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

_FAULT = "This went wrong, and not for a reason that can be told here; the log of the server has it."

# Answered at once, whoever waits in the queue; these never wait for the pipeline.
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
# One visitor at a time uses the pipeline; Gradio's queue shows the others how many wait before them.
_WORK: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": 1, "concurrency_id": "pipeline"}
_PROGRESS = gr.Progress()  # Gradio finds this default and puts the tracker of the event in its place


class Page(gr.Blocks):  # type: ignore[misc]
    """Blocks that answer with a sentence whatever is sent, and leave what went wrong to the server's log."""

    async def preprocess_data(self, *given: Any, **named: Any) -> Any:
        try:
            return await super().preprocess_data(*given, **named)
        except Exception:  # of Gradio, which repeats the value or cannot compare it
            raise gr.Error("A value was sent that its control does not offer.", print_exception=False) from None

    async def process_api(self, *given: Any, **named: Any) -> Any:
        try:
            return await super().process_api(*given, **named)
        except gr.Error:
            raise
        except Exception as error:
            _log.error("the playground met an unexpected error", exc_info=error)
            raise gr.Error(_FAULT, print_exception=False) from None


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

    with Page(title="skipcast playground", analytics_enabled=False, delete_cache=(600, IDLE)) as page:
        # What is stored anew with every piece of work; the folder of one that falls out of Gradio's store goes with it.
        session = gr.State(Session(), time_to_live=IDLE, delete_callback=Session.close)
        gr.Markdown(_HEAD)
        with gr.Tabs(selected="playground") as tabs:
            with gr.Tab("Playground", id="playground"):
                playground = Playground(models, session, start, start.guidance if guidance is None else guidance)
            with gr.Tab("Make a plan", id="plan"):
                planning = Planning(models, session, playground, tabs)
        for tab in (playground, planning):
            tab.begin.click(enter, [session], **_QUIET)
        page.unload(leave)
    page.queue(api_open=False, max_size=WAITING)
    return page


def _told(answer: Callable[..., Iterator[Updates]]) -> Callable[..., Iterator[Updates]]:
    """Make an answer show its errors in the tab's message."""

    @functools.wraps(answer)
    def told(self: Tab, *args: Any, **given: Any) -> Iterator[Updates]:
        try:
            yield from answer(self, *args, **given)
        except Stopped:
            yield {self.message: panels.message("stopped")}
        except Exception as error:
            yield {self.message: panels.message(self.words_of(error), bad=True)}

    return told


def _at_once(answer: Callable[..., Iterator[Updates]]) -> Callable[..., Updates]:
    """Make one answer of all its parts, for events that do not wait in the queue."""

    @functools.wraps(answer)
    def answered(*args: Any) -> Updates:
        return {part: value for updates in answer(*args) for part, value in updates.items()}

    return answered


class Tab:
    """A tab with one kind of work, which its visitor begins and stops."""

    models: Models
    session: gr.State  # holds the `Session` of the visitor
    message: gr.HTML
    begin: gr.Button
    stop: gr.Button

    def words_of(self, error: Exception) -> str:
        """Return what a visitor is told of an error: what can be mended, and of all others nothing."""
        if isinstance(error, (ValueError, FileNotFoundError, ImportError) if self.models.trust else ValueError):
            return str(error)
        _log.error("the playground met an unexpected error", exc_info=error)
        return _FAULT

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
            work, request, [*outputs, self.message, self.session], show_progress_on=progress, **_WORK
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
        first = control(spec, 50, start.model, models.plans)
        with gr.Row():
            with gr.Column(scale=4, min_width=300):
                self.model = gr.Dropdown(
                    list(models.listed), value=start.model, allow_custom_value=models.trust, elem_id="model",
                    label="Model, folder or hub id" if models.trust else "Model",
                )  # fmt: skip
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
        choose, how = (self.choose_model, _WORK) if models.trust else (_at_once(self.choose_model), _QUIET)
        self.model.change(choose, [session, self.model], offered, **how)
        controls = [self.budget, self.threshold, self.steps, self.note]
        for event in (self.method.change, self.steps.input):
            event(self.govern, [session, self.model, self.method, self.steps, self.budget], controls, **_QUIET)
        self.examples.click(lambda sample: sample[0], [self.examples], [self.prompt], **_QUIET)
        kept = [self.method, self.message, session]
        upload.upload(_at_once(self.keep), [session, self.model, upload], kept, **_QUIET)
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

    def spec(self, session: Session, value: Any) -> str:
        """Return the chosen method or plan; one in a file only if that is offered or the visitor is trusted.

        Raises:
            ValueError: it may not be chosen.
        """
        spec = text("the method", value)
        if names.plan_file(spec) is not None and not (self.models.trust or spec in self.models.plans | session.plans):
            raise ValueError("a file on the server cannot be named here; upload the plan, or choose one of the list.")
        return spec

    @_told
    def choose_model(self, session: Session, name: Any) -> Iterator[Updates]:
        """Show what is offered for a model; one that a trusted visitor typed is loaded."""
        if not (name := text("the model", name)):
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

    def govern(self, session: Session, model: Any, spec: Any, steps: Any, budget: int) -> Updates:
        """Show the controls of a choice."""
        try:
            count = whole("steps", steps)
            spec = self.spec(session, spec)
            governed = control(spec, count, text("the model", model), self.models.plans | session.plans)
        except Exception as error:
            return {
                self.threshold: gr.update(visible=False),
                self.steps: gr.update(interactive=True),
                self.note: panels.message(self.words_of(error), bad=True),
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
        methods = gr.update(choices=self.methods(session, model), value=label)
        yield {self.method: methods, self.message: "", self.session: session}

    @_told
    def draw(self, values: dict[Any, Any], progress: gr.Progress = _PROGRESS) -> Iterator[Updates]:
        """Draw the three samples, and show each as it is done."""
        session, difference = values[self.session], values[self.difference]
        if not (model := text("the model", values[self.model])):
            raise ValueError("choose a model.")
        if not (prompt := text("the prompt", values[self.prompt])):
            raise ValueError("say in the prompt what to draw.")
        request = DrawRequest(
            model=model,
            spec=self.spec(session, values[self.method]),
            prompt=prompt,
            budget=whole("evaluations", values[self.budget]),
            threshold=number("the threshold", values[self.threshold]),
            steps=whole("steps", values[self.steps]),
            seed=whole("seed", values[self.seed]),
            guidance=number("the guidance scale", values[self.guidance]),
            sampler=one_of("the sampler", values[self.sampler], dict(self.models.offer(model).samplers).values()),
        )
        empty = {shown: panels.figure(panel, {}) for panel, shown in self.panels.items()}
        yield {self.message: "", self.session: session, **empty}
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
        session, model = values[self.session], text("the model", values[self.playground.model])
        steps, lines = whole("steps", values[self.steps]), text("the prompts", values[self.prompts]).split("\n")
        request = PlanRequest(
            model,
            budgets_of(text("the evaluations", values[self.budgets]), steps),
            pairs=whole("pairs", values[self.pairs]),
            seed=whole("the first seed", values[self.seed]),
            steps=steps,
            effort=one_of("the effort", values[self.effort], WORK),
            guidance=number("the guidance scale", values[self.playground.guidance]),
            prompts=tuple(text("the prompt", line) for line in lines if line.strip()),
        )
        results = ""
        yield {self.message: "", self.result: results, self.session: session}
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
    "max_file_size": UPLOAD,
    "state_session_capacity": VISITORS,
    "footer_links": [],
    # With the fonts of the visitor's system.
    "theme": gr.themes.Default(
        font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace"), primary_hue="blue"
    ),
    "css": _FOLDER.joinpath("style.css").read_text(encoding="utf-8"),
}
