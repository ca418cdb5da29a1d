"""The page of the playground: its controls and what they set off. What happens then is the desk's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from skipcast.ui import panels, texts
from skipcast.ui.choices import LEAST, MOST, USUAL, control, models
from skipcast.ui.desk import Desk, listed
from skipcast.ui.offers import Offer
from skipcast.ui.solving import WORK
from skipcast.ui.wishes import PANELS

_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}


def build(desk: Desk, start: Offer, guidance: float | None = None) -> Any:
    """The page as Gradio blocks.

    Args:
        desk: the handlers.
        start: the offer that the page begins with.
        guidance: what the page begins with instead of the model's own.
    """
    with gr.Blocks(title="skipcast playground", analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        gr.Markdown(texts.HEAD)
        with gr.Tabs(selected="playground") as tabs:
            with gr.Tab("Playground", id="playground"):
                play = _playground(start, start.guidance if guidance is None else guidance)
            with gr.Tab("Make a plan", id="plan"):
                make = _plan_tab()
        _wire_playground(desk, play)
        _wire_plans(desk, play, make, tabs)
        page.unload(desk.leave)
    page.queue(api_open=False, default_concurrency_limit=None)
    return page


@dataclass(frozen=True)
class Playground:
    """Controls and panels of the first tab."""

    model: Any
    method: Any
    upload: Any
    note: Any
    budget: Any
    dial: Any
    prompt: Any
    examples: Any
    seed: Any
    steps: Any
    guidance: Any
    sampler: Any
    draw: Any
    stop: Any
    message: Any
    panels: tuple[Any, ...]
    difference: Any


@dataclass(frozen=True)
class PlanTab:
    """Controls of the second tab."""

    budgets: Any
    pairs: Any
    seed: Any
    steps: Any
    effort: Any
    prompts: Any
    make: Any
    stop: Any
    progress: Any
    result: Any
    plans: Any
    download: Any
    use: Any


def _playground(start: Offer, guidance: float | None) -> Playground:
    first = control(start.choices[0].spec, 50, start.model, {})
    known = list(dict.fromkeys([start.model, *models()]))
    with gr.Row():
        with gr.Column(scale=4, min_width=300):
            model = gr.Dropdown(
                known, value=start.model, label="Model, folder or hub id", allow_custom_value=True, elem_id="model"
            )
            method = gr.Dropdown(
                listed(start.choices), value=start.choices[0].spec, label="Method or plan", allow_custom_value=True,
                info="or type one, such as taylorseer:order=2", elem_id="method",
            )  # fmt: skip
            budget = gr.Slider(LEAST, MOST, value=USUAL, step=1, label="Evaluations", elem_id="budget")
            dial = gr.Number(visible=False, label="", elem_id="dial")
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
                scale = gr.Number(guidance, label="Guidance", min_width=80, elem_id="guidance")
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
            gr.HTML(panels.message(texts.TIMES), padding=False)
            difference = gr.Checkbox(label=f"show the differences, {panels.AMPLIFY} x", elem_id="difference")
            with gr.Accordion("What the numbers mean", open=False):
                gr.Markdown(texts.NUMBERS)
    return Playground(
        model, method, upload, note, budget, dial, prompt, examples, seed, steps, scale, sampler, draw, stop, message,
        shown, difference,
    )  # fmt: skip


def _plan_tab() -> PlanTab:
    gr.Markdown(texts.PLAN)
    with gr.Row():
        with gr.Column(scale=4, min_width=300):
            budgets = gr.Textbox(
                "10", label="Evaluations", info="several for several plans: 6, 8, 10", elem_id="plan-budgets"
            )
            with gr.Row():
                pairs = gr.Number(
                    8, label="Pictures", precision=0, minimum=1, maximum=256, min_width=90,
                    elem_id="plan-pairs",
                )  # fmt: skip
                seed = gr.Number(0, label="First seed", precision=0, minimum=0, min_width=90, elem_id="plan-seed")
                steps = gr.Number(
                    50, label="Steps", precision=0, minimum=2, maximum=1000, min_width=90, elem_id="plan-steps"
                )
            effort = gr.Radio(list(WORK), value="low", label="Effort", info=texts.EFFORT, elem_id="plan-effort")
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
    return PlanTab(
        budgets, pairs, seed, steps, effort, prompts, make, stop, progress, result, plans, download, use
    )  # fmt: skip


def _wire_playground(desk: Desk, play: Playground) -> None:
    governed = {
        "fn": desk.govern,
        "inputs": [play.model, play.method, play.steps, play.budget],
        "outputs": [play.budget, play.dial, play.steps, play.note],
    }
    play.model.change(
        desk.choose_model,
        [play.model],
        [play.method, play.sampler, play.examples, play.prompt, play.guidance, play.message],
        **_QUIET,
    )
    play.method.change(**governed, **_QUIET)
    play.steps.input(**governed, **_QUIET)
    play.examples.click(lambda sample: sample[0], [play.examples], [play.prompt], **_QUIET)
    play.upload.upload(desk.upload, [play.model, play.upload], [play.method, play.message], **_QUIET)
    wish = [
        play.model, play.method, play.budget, play.dial, play.steps, play.prompt, play.seed, play.guidance,
        play.sampler, play.difference,
    ]  # fmt: skip
    shown = list(play.panels)
    play.draw.click(desk.draw, wish, [*shown, play.message, play.draw, play.stop], **_QUIET)
    play.stop.click(desk.stop_drawing, None, None, **_QUIET)
    play.difference.change(desk.show, [play.difference], shown, **_QUIET)


def _wire_plans(desk: Desk, play: Playground, tab: PlanTab, tabs: Any) -> None:
    order = [play.model, play.guidance, tab.budgets, tab.pairs, tab.seed, tab.steps, tab.effort, tab.prompts]
    found = [tab.progress, tab.result, tab.plans, tab.download, tab.use, play.method, tab.make, tab.stop]
    tab.make.click(desk.solve, order, found, **_QUIET)
    tab.stop.click(desk.stop_solving, None, None, **_QUIET)
    tab.plans.input(desk.pick, [tab.plans], [tab.download], **_QUIET)
    tab.use.click(desk.use, [play.model, tab.plans], [play.method, tabs], **_QUIET)
