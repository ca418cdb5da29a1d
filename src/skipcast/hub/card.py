"""The card of a repository of plans: what the hub shows of it, and what a reader needs to use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from skipcast.checks import shown
from skipcast.hub.manifest import Listed, Manifest
from skipcast.plans.plan import COMFYUI, Plan, Prediction, is_word

TAGS = ("skipcast", "sampling-plan")
#: What the name of a pipeline's class says of its task, the first that fits.
_TASKS = (
    ("ImageToVideo", "image-to-video"),
    ("I2V", "image-to-video"),
    ("Video", "text-to-video"),
    ("Wan", "text-to-video"),
    ("CogVideo", "text-to-video"),
    ("LTX", "text-to-video"),
    ("Mochi", "text-to-video"),
    ("Img2Img", "image-to-image"),
    ("Inpaint", "image-to-image"),
    ("Edit", "image-to-image"),
    ("Kontext", "image-to-image"),
    ("Audio", "text-to-audio"),
)


@dataclass(frozen=True)
class Card:
    """The text of README.md.

    Args:
        repo: owner/name.
        manifest: of the repository.
        plans: by the names of their folders.
        measured: a Markdown table; "" for none.
        grid: path of an image in the repository; "" for none.
        license: of the plans; "" for none.
        pipeline_tag: task; "" takes it from the recorded pipeline.
        prompts: whether the recorded prompts are in the profile.
    """

    repo: str
    manifest: Manifest
    plans: Mapping[str, Plan]
    measured: str = ""
    grid: str = ""
    license: str = ""
    pipeline_tag: str = ""
    prompts: bool = False

    def text(self) -> str:
        """The whole card, metadata first.

        Raises:
            ImportError: huggingface_hub is missing.
        """
        try:
            from huggingface_hub import ModelCardData
        except ModuleNotFoundError as error:
            raise ImportError('cards need huggingface_hub; run: pip install "skipcast[diffusers]"') from error
        about = ModelCardData(
            base_model=self.manifest.base_model,
            base_model_relation="adapter",  # used with the model, whose weights stay as they are
            library_name="diffusers",
            pipeline_tag=self.pipeline_tag or self._task(),
            tags=list(TAGS),
            license=self.license or None,
        )
        parts = [self._head(), self._table(), self._usage(), self._grid(), self._recorded(), self._files()]
        return f"---\n{about.to_yaml().strip()}\n---\n\n" + "\n\n".join(filter(None, parts)) + "\n"

    @property
    def _first(self) -> Listed:
        """The plan that the examples use: the one in the middle of those for the unaccelerated run."""
        plans = [each for each in self.manifest.plans if each.reference == "default"] or list(self.manifest.plans)
        return plans[len(plans) // 2]

    @property
    def _in_comfyui(self) -> bool:
        return self.plans[self._first.name].origin.pipeline.startswith(COMFYUI)

    def _task(self) -> str:
        kind = self.plans[self._first.name].origin.pipeline
        return next((task for word, task in _TASKS if word in kind), "text-to-image")

    def _head(self) -> str:
        base = self.manifest.base_model
        return (
            f"# Sampling plans for {base}\n\n"
            f"Each plan samples [{base}](https://huggingface.co/{base}) with a fraction of the evaluations of its "
            "network, without other weights: it says which steps are evaluated, and with which weights the sampler "
            "moves from one to the next. Solved from recordings of the model with `skipcast`."
        )

    def _table(self) -> str:
        lines = [
            "| folder | evaluations | of steps | reaches | guidance | predicted PSNR, dB | 5 % worst | pairs |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for each in self.manifest.plans:
            reached = "the unaccelerated run" if each.reference == "default" else "the converged run"
            values = _joined(f"{value:g}" for value in each.knots) or _guidance(self.plans[each.name])
            mean, worst = (_joined(f"{getattr(p, what):.1f}" for p in each.predicted) for what in ("psnr", "worst5"))
            pairs = _joined(dict.fromkeys(str(p.pairs) for p in each.predicted))
            lines.append(
                f"| `{each.name}` | {each.evaluations} | {each.steps} | {reached} | {values} | {mean or '-'} | "
                f"{worst or '-'} | {pairs or '-'} |"
            )
        judged = {_judged(p) for each in self.manifest.plans for p in each.predicted}
        text = "## What they reach\n\n" + "\n".join(lines)
        of = "latents, over their range," if self._in_comfyui else "image"
        text += f"\n\nPSNR of the {of} against the run of all steps with the same prompt and seed"
        text += f", {'; '.join(sorted(judged))}." if judged else "; nothing is predicted of plans with a -."
        return f"{text}\n\n### Measured\n\n{self.measured.strip()}" if self.measured.strip() else text

    def _usage(self) -> str:
        listed = self._first
        origin = self.plans[listed.name].origin
        kind, call, scale, at = origin.pipeline or "DiffusionPipeline", dict(origin.call), "", ""
        if self._in_comfyui:  # whose arguments are those of nodes
            kind, call = "DiffusionPipeline", {}
        if listed.knots:
            value = listed.knots[len(listed.knots) // 2]
            scale = f", guidance={value:g}"
            if self._in_comfyui:
                at = f".at({value:g})"
            else:
                call[str(listed.argument)] = value
        plain = {key: given for key, given in call.items() if not is_word(given)}
        options = "".join(f", {key}={given!r}" for key, given in plain.items())
        by_count = str(listed.evaluations) == listed.name
        name = f"evaluations={listed.evaluations}" if by_count else f'name="{listed.name}"'
        loaded = [f"from diffusers import {kind}", "", f'pipe = {kind}.from_pretrained("{self.manifest.base_model}")']
        accelerated = [
            "import skipcast as sc",
            *loaded,
            f'plan = sc.Plan.from_hub("{self.repo}", {name}){at}',
            "with sc.accelerate(pipe, plan):",
            f'    image = pipe("...", num_inference_steps={listed.steps}{options}).images[0]',
        ]
        parts = ["## Use", _block(accelerated)]
        if self._in_comfyui:
            file = f"`{listed.plan.path}`, renamed to end in `.plan.json`,"
            parts.insert(1, f"In ComfyUI put {file} into `models/skipcast` and load it with the node Load Plan.")
            parts.insert(2, "In diffusers, on a pipeline with the same noise levels, called with the same guidance:")
        if listed.scheduler is not None:
            made = f'sc.PlanScheduler.from_pretrained("{self.repo}", subfolder="{listed.name}"{scale})'
            evaluated = f'image = pipe("...", num_inference_steps={listed.evaluations}{options}).images[0]'
            parts += ["or as a scheduler, which runs wherever pipelines of diffusers do:"]
            parts += [_block([f"pipe.scheduler = {made}", evaluated])]
        over = f" It holds for every {listed.argument} between the first and the last of the table." if scale else ""
        parts.append(
            f"A plan fits one model, one scheduler and one size of the image.{over} It is refused on another grid, and "
            "other weights are warned of."
        )
        return "\n\n".join(parts)

    def _grid(self) -> str:
        return f"## Samples\n\n![Samples]({self.grid})" if self.grid else ""

    def _recorded(self) -> str:
        listed = self._first
        origin = self.plans[listed.name].origin
        call = ", ".join(f"{key}={value!r}" for key, value in origin.call.items())
        varied = ", ".join(f"{key} in {sorted(set(values))}" for key, values in origin.varied.items())
        norms = ", ".join(f"`{name}` {norm:g}" for name, norm in origin.fingerprint.items())
        facts = {
            "pipeline": origin.pipeline,
            "scheduler": ", ".join(filter(None, (origin.scheduler, f"{origin.steps} steps"))),
            "call": "; ".join(filter(None, (call, varied))),
            "size": f"{listed.size[0]} x {listed.size[1]}" if listed.size else "",
            "sample": " x ".join(map(str, origin.shape)),
            "shift (mu)": "" if listed.mu is None else f"{listed.mu:.4g}",
            "pairs of a prompt and a seed": str(len(origin.pairs)),
            "revision of the weights": origin.revision or "",
            "norms of weights": norms,
            "versions": ", ".join(f"{name} {found}" for name, found in origin.versions.items()),
        }
        return "## How they were recorded\n\n" + "\n".join(f"- {key}: {value}" for key, value in facts.items() if value)

    def _files(self) -> str:
        lines = ["`plans.json` lists every plan with its digest."]
        if self.manifest.profile is not None:
            kept = "with the recorded prompts and states" if self.prompts else "without the recorded prompts"
            lines.append(
                f"`{self.manifest.profile.path}` is the recording {kept}, from which `skipcast plan` solves other "
                "budgets."
            )
        return "## Files\n\n" + " ".join(lines)


def _joined(words: object) -> str:
    return " / ".join(words)  # type: ignore[arg-type]


def _block(lines: list[str]) -> str:
    return "```python\n" + "\n".join(lines) + "\n```"


def _guidance(plan: Plan) -> str:
    call = plan.origin.call
    found = call.get("true_cfg_scale", call.get("guidance_scale", call.get("cfg")))
    return "-" if found is None else shown(found)


def _judged(prediction: Prediction) -> str:
    if not prediction.closed:
        return "predicted from the recording alone"
    return "predicted on pairs that were kept out of the fit" if prediction.held_out else "on the fitted pairs"
