"""The page of the playground: its controls and panels, and which handler answers which event."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import gradio as gr

from skipcast.ui import panels
from skipcast.ui.choices import FEWEST, MOST, USUAL, control
from skipcast.ui.handlers import BEGUN, Handlers, listed
from skipcast.ui.model import Offer, installed
from skipcast.ui.solving import WORK
from skipcast.ui.state import PANELS, Session

_HEAD = """# skipcast playground
Fewer evaluations of the network, the same image: how near does it come, and how fast?"""

_TIMES = "Each time is that of one call, from the prompt to the image; a warm-up is not counted."

_NUMBERS = """**Seconds** are those of one call, from the prompt to the image, measured while nobody else uses the
pipeline. Two steps are run before the first draw and not counted. One call scatters, and a small image spends much of
its time outside the network; `skipcast compare` measures in interleaved rounds.

**PSNR and SSIM** compare an image with that of the unaccelerated run, which evaluates every step: they say how faithful
an image is to what the model would have drawn, not how beautiful it is. Above about 40 dB the two are hard to tell
apart.

**Evaluations** are calls of the network per guidance branch. *Fewer steps* is a plain sampler that makes as many as the
accelerated run did: what acceleration has to beat.

**The strip** shows the steps of the run; the tall ones were evaluated. A **plan** compares what the network returns
with
what it forecasts, and says whether it trusts the image."""

_PLAN = """A plan says at which steps a model is evaluated and with which weights the sampler moves between them. To
make one, the unaccelerated model is recorded on a few prompts and seeds, and the plan is solved from that. Model and
guidance scale are those chosen in the playground."""

_EFFORT = "open loop makes no further network calls; low closes the loop; normal and high add joint sweeps of minutes"

_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
# One visitor at a time uses the pipeline; Gradio's queue shows the others how many wait before them.
_WORK: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": 1, "concurrency_id": "pipeline"}


def build(handlers: Handlers, home: str, start: Offer, guidance: float | None = None) -> Any:
    """Return the page as Gradio blocks.

    Args:
        handlers: the answers to its events.
        home: a folder for the files of the sessions.
        start: the offer that the page begins with.
        guidance: the guidance scale that the page begins with instead of the model's own.
    """
    with gr.Blocks(title="skipcast playground", analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        session = gr.State(partial(Session, home), delete_callback=Session.close)
        gr.Markdown(_HEAD)
        with gr.Tabs(selected="playground") as tabs:
            with gr.Tab("Playground", id="playground"):
                play = _playground(start, start.guidance if guidance is None else guidance)
            with gr.Tab("Make a plan", id="plan"):
                make = _plan_tab()
        _wire_playground(handlers, session, play)
        _wire_plans(handlers, session, play, make, tabs)
        page.unload(handlers.leave)
    page.queue(api_open=False, default_concurrency_limit=None)
    return page


def _playground(start: Offer, guidance: float | None) -> SimpleNamespace:
    """Make the controls and panels of the first tab and return them by name."""
    first = control(start.choices[0].spec, 50, start.model, {})
    known = list(dict.fromkeys([start.model, *installed()]))
    with gr.Row():
        with gr.Column(scale=4, min_width=300):
            model = gr.Dropdown(
                known, value=start.model, label="Model, folder or hub id", allow_custom_value=True, elem_id="model"
            )
            method = gr.Dropdown(
                listed(start.choices), value=start.choices[0].spec, label="Method or plan", allow_custom_value=True,
                info="or type one, such as taylorseer:order=2", elem_id="method",
            )  # fmt: skip
            budget = gr.Slider(FEWEST, MOST, value=USUAL, step=1, label="Evaluations", elem_id="budget")
            threshold = gr.Number(visible=False, label="", elem_id="threshold")
            note = gr.HTML(panels.message(first.words), padding=False, elem_id="note")
            prompt = gr.Textbox(start.prompts[0], label="Prompt", lines=2, elem_id="prompt")
            with gr.Accordion("Example prompts", open=False, elem_id="examples"):
                examples = gr.Dataset(components=[prompt], samples=[[text] for text in start.prompts], show_label=False)
            with gr.Row():
                seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=80, elem_id="seed")
                steps = gr.Number(
                    first.steps or 50, label="Steps", precision=0, minimum=2, maximum=1000, min_width=80,
                    elem_id="steps", interactive=first.steps is None,
                )  # fmt: skip
                scale = gr.Number(guidance, label="Guidance scale", min_width=80, elem_id="guidance")
            sampler = gr.Dropdown(
                listed(start.samplers), value=start.samplers[0].spec, label="Plain sampler to compare with",
                elem_id="sampler",
            )  # fmt: skip
            with gr.Row():
                draw = gr.Button("Draw", variant="primary", elem_id="draw", min_width=120)
                stop = gr.Button("Stop", visible=False, elem_id="stop", min_width=120)
            message = gr.HTML("", padding=False, elem_id="message")
            upload = gr.UploadButton("Upload a plan", file_types=[".json"], size="sm", elem_id="upload")
        with gr.Column(scale=9, min_width=300):
            with gr.Row(elem_classes="sc-panels"):
                shown = tuple(gr.HTML(panels.empty(panel), padding=False, elem_id=panel) for panel in PANELS)
            gr.HTML(panels.message(_TIMES), padding=False)
            difference = gr.Checkbox(label=f"show the differences, {panels.AMPLIFY} x", elem_id="difference")
            with gr.Accordion("What the numbers mean", open=False):
                gr.Markdown(_NUMBERS)
    return SimpleNamespace(
        model=model, method=method, upload=upload, note=note, budget=budget, threshold=threshold, prompt=prompt,
        examples=examples, seed=seed, steps=steps, guidance=scale, sampler=sampler, draw=draw, stop=stop,
        message=message, panels=shown, difference=difference,
    )  # fmt: skip


def _plan_tab() -> SimpleNamespace:
    """Make the controls of the second tab and return them by name."""
    gr.Markdown(_PLAN)
    with gr.Row():
        with gr.Column(scale=4, min_width=300):
            budgets = gr.Textbox(
                "10", label="Evaluations", info="several for several plans: 6, 8, 10", elem_id="plan-budgets"
            )
            with gr.Row():
                pairs = gr.Number(
                    8, label="Pairs", precision=0, minimum=1, maximum=256, min_width=90,
                    elem_id="plan-pairs",
                )  # fmt: skip
                seed = gr.Number(0, label="First seed", precision=0, minimum=0, min_width=90, elem_id="plan-seed")
                steps = gr.Number(
                    50, label="Steps", precision=0, minimum=2, maximum=1000, min_width=90, elem_id="plan-steps"
                )
            effort = gr.Radio(list(WORK), value="low", label="Effort", info=_EFFORT, elem_id="plan-effort")
            prompts = gr.Textbox(
                label="Prompts", lines=3, placeholder="one per line; empty: prompts that suit the model",
                elem_id="plan-prompts",
            )  # fmt: skip
            with gr.Row():
                make = gr.Button("Record and solve", variant="primary", elem_id="plan-make", min_width=120)
                stop = gr.Button("Stop", visible=False, elem_id="plan-stop", min_width=120)
        with gr.Column(scale=9, min_width=300):
            progress = gr.HTML("", padding=False, elem_id="plan-progress")
            result = gr.HTML("", padding=False, elem_id="plan-result")
            plans = gr.Dropdown([], label="Plan", visible=False, elem_id="plan-choice")
            with gr.Row():
                download = gr.DownloadButton("Download the plan", visible=False, elem_id="plan-download")
                use = gr.Button("Use it in the playground", visible=False, elem_id="plan-use")
    return SimpleNamespace(
        budgets=budgets, pairs=pairs, seed=seed, steps=steps, effort=effort, prompts=prompts, make=make, stop=stop,
        progress=progress, result=result, plans=plans, download=download, use=use,
    )  # fmt: skip


def _wire_playground(handlers: Handlers, session: Any, play: SimpleNamespace) -> None:
    governed = {
        "fn": handlers.govern,
        "inputs": [session, play.model, play.method, play.steps, play.budget],
        "outputs": [play.budget, play.threshold, play.steps, play.note],
    }
    play.model.change(
        handlers.choose_model,
        [session, play.model],
        [play.method, play.sampler, play.examples, play.prompt, play.guidance, play.message],
        **_QUIET,
    )
    play.method.change(**governed, **_QUIET)
    play.steps.input(**governed, **_QUIET)
    play.examples.click(lambda sample: sample[0], [play.examples], [play.prompt], **_QUIET)
    play.upload.upload(handlers.upload, [session, play.model, play.upload], [play.method, play.message], **_QUIET)
    request = [
        session, play.model, play.method, play.budget, play.threshold, play.steps, play.prompt, play.seed,
        play.guidance, play.sampler, play.difference,
    ]  # fmt: skip
    shown, buttons = list(play.panels), [play.draw, play.stop]
    drawing = play.draw.click(lambda: BEGUN, None, buttons, **_QUIET).then(
        handlers.draw, request, [*shown, play.message, *buttons], show_progress_on=shown, **_WORK
    )
    play.stop.click(
        handlers.stopped_drawing, [session, play.difference], [*shown, play.message, *buttons], **_QUIET
    )  # fmt: skip
    play.stop.click(None, cancels=[drawing])  # for a request that still waits in the queue
    play.difference.change(handlers.show, [session, play.difference], shown, **_QUIET)


def _wire_plans(handlers: Handlers, session: Any, play: SimpleNamespace, tab: SimpleNamespace, tabs: Any) -> None:
    request = [
        session, play.model, play.guidance, tab.budgets, tab.pairs, tab.seed, tab.steps, tab.effort, tab.prompts
    ]  # fmt: skip
    buttons = [tab.make, tab.stop]
    found = [tab.progress, tab.result, tab.plans, tab.download, tab.use, play.method, *buttons]
    solving = tab.make.click(lambda: BEGUN, None, buttons, **_QUIET).then(
        handlers.solve, request, found, show_progress_on=tab.progress, **_WORK
    )
    tab.stop.click(handlers.stopped_solving, [session], [tab.progress, *buttons], **_QUIET)
    tab.stop.click(None, cancels=[solving])
    tab.plans.input(handlers.pick, [session, tab.plans], [tab.download], **_QUIET)
    tab.use.click(handlers.use, [session, play.model, tab.plans], [play.method, tabs], **_QUIET)
