"""The nodes, in ComfyUI's V3 schema: what their sockets and widgets are called, and which function does the work."""

from __future__ import annotations

from typing import Any

import torch

from skipcast.checks import shown
from skipcast.engines.comfy import files
from skipcast.engines.comfy.forecast import forecasting, method_of, names
from skipcast.engines.comfy.recording import Pairs, record, solve
from skipcast.engines.comfy.sampler import plan_sampler
from skipcast.plans.plan import FORMAT, MOST_BYTES, Plan
from skipcast.plans.profile import Profile
from skipcast.plans.refine import EFFORTS
from skipcast.reading import read_object

CATEGORY = "sampling/skipcast"
#: The first choice of a list of files that another socket may stand for.
CONNECTED = "(connected)"


def _io() -> Any:
    from comfy_api.latest import io

    return io


def _plans() -> Any:
    return _io().Custom("SKIPCAST_PLAN")


def _profiles() -> Any:
    return _io().Custom("SKIPCAST_PROFILE")


def _shown(text: str, *outputs: Any) -> Any:
    """Outputs of a node that shows a text as well."""
    from comfy_api.latest import ui

    return _io().NodeOutput(*outputs, ui=ui.PreviewText(text))


class LoadPlan:
    """A plan from `models/skipcast`."""

    @classmethod
    def define_schema(cls) -> Any:
        io = _io()
        return io.Schema(
            node_id="SkipcastLoadPlan",
            display_name="Load Plan (skipcast)",
            category=CATEGORY,
            description="Loads a plan: the evaluated steps and the weights that were solved for one model.",
            inputs=[
                io.Combo.Input(
                    "plan_name",
                    options=files.listed(files.PLAN),
                    tooltip="A file NAME.plan.json in models/skipcast. Press R after adding one.",
                )
            ],
            outputs=[_plans().Output(display_name="plan", tooltip="For Plan Sampler and Plan Info.")],
        )

    @classmethod
    def fingerprint_inputs(cls, plan_name: str) -> str:
        return files.fingerprint(plan_name)

    @classmethod
    def execute(cls, plan_name: str) -> Any:
        path = files.path_of(plan_name)
        kind = read_object(path, 2 * MOST_BYTES, "a plan").get("format")
        if kind != FORMAT:
            raise ValueError(
                f"{plan_name} is of format {shown(kind)}, {FORMAT!r} is needed; of a plan that begins again where a "
                "sample is doubted, save one of its two plans by itself."
            )
        return _io().NodeOutput(Plan.load(path))


class PlanSampler:
    """A plan as SAMPLER and SIGMAS."""

    @classmethod
    def define_schema(cls) -> Any:
        io = _io()
        return io.Schema(
            node_id="SkipcastPlanSampler",
            display_name="Plan Sampler (skipcast)",
            category=CATEGORY,
            description="Samples by a plan: both outputs go into SamplerCustomAdvanced (or SamplerCustom).",
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model that the plan was made for; its noise levels are compared. Connect the one that "
                    "the guider has.",
                ),
                _plans().Input("plan", tooltip="From Load Plan or Solve Plan."),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Below 1, image to image: the share of the plan's unaccelerated steps that is run, from "
                    "the noise level of the first of them.",
                ),
                io.Float.Input(
                    "guidance",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="The guidance scale, for a plan that holds for several. 0 takes it from the guider: its "
                    "cfg, or the scale of FluxGuidance.",
                ),
                io.Boolean.Input(
                    "strict",
                    default=True,
                    tooltip="Refuse a model whose noise levels (shift) are not those that the plan was made for. Off, "
                    "the plan's own levels are run on it.",
                ),
            ],
            outputs=[
                io.Sampler.Output(tooltip="Takes the sigmas beside it, and no others."),
                io.Sigmas.Output(tooltip="The noise levels of the plan's evaluations; may be cut at the front."),
            ],
        )

    @classmethod
    def execute(cls, model: Any, plan: Plan, denoise: float, guidance: float, strict: bool) -> Any:
        made = plan_sampler(model, plan, denoise=denoise, guidance=guidance or None, strict=strict)
        return _io().NodeOutput(*made)


class Forecast:
    """A model whose outputs are forecast at some steps."""

    @classmethod
    def define_schema(cls) -> Any:
        io = _io()
        return io.Schema(
            node_id="SkipcastForecast",
            display_name="Forecast (skipcast)",
            category=CATEGORY,
            description="Evaluates the model at some steps and forecasts the others, with ComfyUI's own samplers of "
            "one evaluation per step.",
            inputs=[
                io.Model.Input("model", tooltip="Any model; it stays as it is, a clone forecasts."),
                io.Combo.Input(
                    "method",
                    options=names(),
                    default="lagrange",
                    tooltip="The rule of the forecast; all of them act on the guided output at steps known before.",
                ),
                io.Int.Input(
                    "evaluations",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="Steps of a run at which the model is evaluated. 0 leaves the method's published schedule.",
                ),
                io.String.Input(
                    "options",
                    default="",
                    tooltip='Further options of the method, such as "order=2,warmup=3"; `skipcast methods` lists them.',
                ),
            ],
            outputs=[io.Model.Output(tooltip="For a guider or a KSampler.")],
        )

    @classmethod
    def execute(cls, model: Any, method: str, evaluations: int, options: str) -> Any:
        return _io().NodeOutput(forecasting(model, method_of(method, evaluations, options)))


class RecordProfile:
    """A recording of the unaccelerated run."""

    @classmethod
    def define_schema(cls) -> Any:
        io = _io()
        return io.Schema(
            node_id="SkipcastRecordProfile",
            display_name="Record Profile (skipcast)",
            category=CATEGORY,
            description="Runs the unaccelerated sampler for some pairs of prompt and seed, and keeps what plans are "
            "solved from. Costs one unaccelerated run per pair and scale.",
            inputs=[
                io.Guider.Input("guider", tooltip="As for SamplerCustomAdvanced; its positive prompt gives way to "
                                "those below, everything else of it stays."),
                io.Sampler.Input("sampler", tooltip="The sampler to imitate: deterministic, of one evaluation per "
                                 "step, such as euler or dpmpp_2m."),
                io.Sigmas.Input("sigmas", tooltip="The unaccelerated steps, from BasicScheduler with denoise 1. Plans "
                                "hold for these noise levels."),
                io.Latent.Input("latent_image", tooltip="An empty latent of the size that plans are for; only its "
                                "shape is used."),
                io.Clip.Input("clip", optional=True, tooltip="Encodes the prompts below; not needed without any."),
                io.String.Input("prompts", default="", multiline=True, tooltip="One a line, one pair each: 8 to try, "
                                "32 and more for use, like those that plans are for. Empty: the guider's own prompt, "
                                "with as many seeds as pairs."),
                io.Int.Input("pairs", default=8, min=1, max=4096, tooltip="How many seeds, where there are no "
                             "prompts."),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF - 4096, control_after_generate=False,
                             tooltip="Of the first pair; the others count on from it."),
                io.String.Input("scales", default="", tooltip="Guidance scales with commas between, such as 2, 3.5, 5: "
                                "every pair is recorded at each, and plans hold for all between. Empty: the guider's."),
                io.Int.Input("batch", default=1, min=1, max=64, tooltip="Pairs per call of the model, where their "
                             "prompts are encoded to one length."),
                io.String.Input("name", default="profile", tooltip="Saved as models/skipcast/NAME.profile.safetensors; "
                                "a file of this name is replaced."),
            ],
            outputs=[_profiles().Output(display_name="profile", tooltip="For Solve Plan.")],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        guider: Any,
        sampler: Any,
        sigmas: Any,
        latent_image: Any,
        prompts: str,
        pairs: int,
        seed: int,
        scales: str,
        batch: int,
        name: str,
        clip: Any = None,
    ) -> Any:
        from comfy.sample import fix_empty_latent_channels
        from comfy.utils import ProgressBar

        path = files.new_path(name, files.PROFILE)
        if "noise_mask" in latent_image or bool(torch.count_nonzero(latent_image["samples"])):
            raise ValueError("Record Profile(latent_image=...) must be an empty latent: whole runs are recorded.")
        latent = fix_empty_latent_channels(guider.model_patcher, latent_image["samples"])
        wanted = Pairs.of(guider, prompts, seed, pairs, scales)
        bar = ProgressBar(len(wanted) * (len(sigmas) - 1))
        found = record(
            guider,
            sampler,
            sigmas,
            latent.shape[1:],
            wanted,
            clip=clip,
            batch=batch,
            count=lambda done: bar.update(done),
        )
        found.save(path)
        return _shown(f"{len(found)} pairs of {found.origin.steps} steps: {path.name}", found)


class SolvePlan:
    """A plan from a recording, closed on the model."""

    @classmethod
    def define_schema(cls) -> Any:
        io = _io()
        return io.Schema(
            node_id="SkipcastSolvePlan",
            display_name="Solve Plan (skipcast)",
            category=CATEGORY,
            description="Solves for the steps and weights that come closest to the recorded runs, and tries them on "
            "the model.",
            inputs=[
                io.Guider.Input("guider", tooltip="The one that was recorded; it is compared."),
                _profiles().Input("profile", optional=True, tooltip="From Record Profile; or choose a saved one "
                          "below."),
                io.Clip.Input("clip", optional=True, tooltip="The one of the recording, if it had prompts."),
                io.Combo.Input("profile_name", options=[CONNECTED, *files.listed(files.PROFILE)], default=CONNECTED,
                               tooltip="A file in models/skipcast, instead of the socket."),
                io.Int.Input("evaluations", default=10, min=0, max=1000, tooltip="Evaluations of the plan, the cost of "
                             "an image. 0: the fewest that reach the PSNR below."),
                io.Float.Input("psnr", default=0.0, min=0.0, max=120.0, step=0.5, tooltip="Mean PSNR against the "
                               "unaccelerated latents in dB, over their range. 0 with a number of evaluations."),
                io.Combo.Input("effort", options=list(EFFORTS), default="low", tooltip="low: 2 evaluations per "
                               "evaluation of the plan, pair and candidate. normal and high move all weights together, "
                               "worth it for plans that are used long."),
                io.Int.Input("batch", default=1, min=1, max=64, tooltip="Pairs per call of the model."),
                io.String.Input("name", default="plan", tooltip="Saved as models/skipcast/NAME.plan.json; a file of "
                                "this name is replaced."),
            ],
            outputs=[_plans().Output(display_name="plan", tooltip="For Plan Sampler and Plan Info.")],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, profile_name: str, **given: Any) -> str:
        return "" if profile_name == CONNECTED else files.fingerprint(profile_name)

    @classmethod
    def execute(
        cls,
        guider: Any,
        profile_name: str,
        evaluations: int,
        psnr: float,
        effort: str,
        batch: int,
        name: str,
        profile: Profile | None = None,
        clip: Any = None,
    ) -> Any:
        from comfy.utils import ProgressBar

        path = files.new_path(name, files.PLAN)
        if (profile is None) == (profile_name == CONNECTED):
            raise ValueError(
                "Solve Plan(profile=...): connect a profile and leave profile_name at "
                f"{CONNECTED!r}, or choose a file and connect none."
            )
        profile = Profile.load(files.path_of(profile_name)) if profile is None else profile
        bar = ProgressBar(1000)
        found = solve(
            profile,
            guider,
            evaluations=evaluations,
            psnr=psnr,
            effort=effort,
            clip=clip,
            batch=batch,
            advance=lambda note, share: bar.update_absolute(min(999, int(1000 * share))),
        )
        found.save(path)
        bar.update_absolute(1000)
        return _shown(f"{path.name}\n{described(found)}", found)


class PlanInfo:
    """What a plan says of itself."""

    @classmethod
    def define_schema(cls) -> Any:
        io = _io()
        return io.Schema(
            node_id="SkipcastPlanInfo",
            display_name="Plan Info (skipcast)",
            category=CATEGORY,
            description="Says what a plan was made for, what it evaluates, and what it is expected to reach.",
            inputs=[_plans().Input("plan", tooltip="From Load Plan or Solve Plan.")],
            outputs=[
                io.String.Output(display_name="text", tooltip="In lines; connect it to Preview Any to read it."),
                io.Int.Output(display_name="evaluations", tooltip="Evaluations of the network per image."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, plan: Plan) -> Any:
        text = described(plan)
        return _shown(text, text, len(plan))


def described(plan: Plan) -> str:
    """What a plan was made for, what it evaluates, and what it is expected to reach, in lines."""
    origin, predicted = plan.origin, plan.predicted
    call = ", ".join(f"{name} {value}" for name, value in origin.call.items())
    lines = [
        f"{plan.evaluations} evaluations of {origin.steps} steps ({plan.speedup:.1f} times fewer)",
        f"made for {origin.pipeline or origin.scheduler or 'a grid'}{f' ({call})' if call else ''}",
        f"steps {', '.join(map(str, plan.steps))}",
    ]
    if plan.knots:
        lines.append(f"for {plan.argument} from {plan.knots[0].value:g} to {plan.knots[-1].value:g}")
    for knot in plan.knots or (plan,):
        if knot.predicted is not None:
            at = f"at {knot.value:g}: " if plan.knots else ""  # type: ignore[union-attr]
            kind = "held out" if knot.predicted.held_out else "fitted on"
            lines.append(
                f"{at}{knot.predicted.psnr:.1f} dB expected on average, {knot.predicted.worst:.1f} dB at worst of "
                f"{knot.predicted.pairs} pairs ({kind})"
            )
    if predicted is None:
        lines.append("what it reaches is not known")
    if origin.shape:
        lines.append(f"recorded on latents of {' x '.join(map(str, origin.shape))}")
    return "\n".join(lines)


NODES = (LoadPlan, PlanSampler, Forecast, RecordProfile, SolvePlan, PlanInfo)


def extension() -> Any:
    """ComfyUI's extension with the nodes.

    Raises:
        ImportError: outside ComfyUI.
    """
    try:
        from comfy_api.latest import ComfyExtension, io
    except ImportError as error:
        raise ImportError(
            f"the nodes of skipcast need ComfyUI 0.3.64 or newer around them ({error}); put the pack into its "
            "custom_nodes, or for scripts of your own use skipcast.accelerate."
        ) from error
    files.register()
    # ComfyUI's base class is known here at the earliest.
    made = [type(node.__name__, (node, io.ComfyNode), {"__doc__": node.__doc__}) for node in NODES]

    class Pack(ComfyExtension):  # type: ignore[misc, no-any-unimported, unused-ignore]
        async def get_node_list(self) -> list[type]:
            return made

    return Pack()
