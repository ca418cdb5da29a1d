"""A request for images as servers take it: which plan it means, the images, and what is known of them.

Nothing of a web framework is here: `ImageServer.answer` takes the body of `POST /v1/images/generations` and returns the
answer's, or raises a ValueError for status 400. `examples/serve_litserve.py` and `examples/serve_ray.py` serve it.
"""

from __future__ import annotations

import base64
import copy
import dataclasses
import io
import re
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from skipcast.checks import Checked, guarded, shown
from skipcast.engines.tiers import Quality, Tiers
from skipcast.plans.plan import Plan
from skipcast.reading import parse_json

if TYPE_CHECKING:
    from skipcast.pipelines.plan_scheduler import PlanScheduler  # with diffusers

#: What one request may have at most: images, pixels of a side, characters, bytes of its body.
_MOST, _SIDE, _CHARACTERS, _BYTES = 10, 4096, 32_000, 1_000_000
_LAST_SEED = 2**63 - _MOST - 1


@dataclass(frozen=True)
class ImageRequest(Checked):
    """The body of `POST /v1/images/generations`, as OpenAI's clients send it.

    Args:
        prompt: of at most 32000 characters.
        n: images, from 1 to 10; the i-th has the seed `seed` + i.
        size: "WIDTHxHEIGHT" in pixels; that of the pipeline by default. A plan may have been made for one size alone.
        seed: drawn where none is given, and answered.
        response_format: "b64_json", PNG files in the answer.
        quality: which of the plans.
        guidance_scale: the pipeline's own by default.
        model: not looked at, since a server has one.
        user: not looked at.

    Raises:
        ValueError: names the field.
    """

    prompt: str
    n: int = 1
    size: str | None = None
    seed: Any = None
    response_format: Literal["b64_json"] = "b64_json"
    quality: Quality = "auto"
    guidance_scale: float | None = None
    model: str | None = None
    user: str | None = None

    def __post_init__(self) -> None:
        if not self.prompt.strip() or len(self.prompt) > _CHARACTERS:
            raise ValueError(f"prompt must have from 1 to {_CHARACTERS} characters, got {len(self.prompt)}.")
        if not 1 <= self.n <= _MOST:
            raise ValueError(f"n={shown(self.n)} must be from 1 to {_MOST}.")
        if self.seed is not None and (type(self.seed) is not int or not 0 <= self.seed <= _LAST_SEED):
            raise ValueError(f"seed={shown(self.seed)} must be a whole number from 0 to {_LAST_SEED}.")
        self.pixels()

    def pixels(self) -> dict[str, int]:
        """The arguments of a pipeline call for the size."""
        if self.size in (None, "auto"):
            return {}
        found = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", self.size)  # type: ignore[arg-type]
        if not found or max(map(int, found.groups())) > _SIDE:
            raise ValueError(f"size={shown(self.size)} must be WIDTHxHEIGHT, each at most {_SIDE}, or auto.")
        return {"width": int(found[1]), "height": int(found[2])}

    @classmethod
    def of(cls, body: bytes | str | Mapping[str, Any]) -> ImageRequest:
        """The request of a body, as JSON text or as its object.

        Raises:
            ValueError: it is none, or has a field that is unknown or wrong.
        """
        if isinstance(body, bytes | str):
            if len(body) > _BYTES:
                raise ValueError(f"the request has {len(body)} bytes, of at most {_BYTES}.")
            try:
                body = parse_json(body)
            except ValueError as error:
                raise ValueError(f"the request is no JSON: {error}.") from None
        if not isinstance(body, Mapping):
            raise ValueError(f"the request must be a JSON object, got {shown(body)}.")
        known = [each.name for each in dataclasses.fields(cls)]
        for name in body:
            if name not in known:
                raise ValueError(f"the field {shown(name)} is unknown here; known: {', '.join(known)}.")
        if "prompt" not in body:
            raise ValueError("the request has no prompt.")
        return cls(**body)


class ImageServer:
    """A pipeline and its plans, behind one method; requests in several threads wait for one another.

    Args:
        pipe: of diffusers; it is left as it is.
        tiers: the plans.
        call: arguments of every call of the pipeline, such as the negative prompt.

    Raises:
        ValueError: the plans were made for another scheduler, or have knots over what the pipeline does not take.
    """

    def __init__(self, pipe: Any, tiers: Tiers, call: Mapping[str, Any] | None = None) -> None:
        from skipcast.pipelines.plan_scheduler import PlanScheduler

        tiers = tiers.adopted(pipe.scheduler)
        self.pipe, self.tiers, self._call, self._turn = pipe, tiers, dict(call or {}), threading.Lock()
        for plan in tiers.plans:
            PlanScheduler(plan).check_pipeline(pipe)
            self._scale(plan, None)

    @classmethod
    @guarded()
    def load(cls, model: str = "shapes-flux", plans: str | Path | None = None) -> ImageServer:
        """Of a reference model, a folder or a hub id, and of a file or folder of plans.

        Raises:
            ValueError: what cannot be loaded, or no plans are given and none ship.
        """
        from skipcast.models.load import load_model

        tiers = Tiers.load(plans) if plans is not None else Tiers.shipped(model)
        loaded = load_model(model)
        return cls(loaded.pipe, tiers, loaded.call)

    def answer(self, body: bytes | str | Mapping[str, Any]) -> dict[str, Any]:
        """The images of a request, and which plan drew them.

        Beside OpenAI's fields the answer has "seed" for each image and "plan": its `evaluations` of `steps`, the
        `predicted_psnr` against the unaccelerated run in dB with that of the worst twentieth (null where nothing is
        known), the guidance scale, and for each image whether it stayed within what was recorded.

        Raises:
            ValueError: the request is wrong, or means what its plan was not made for; says what to give.
        """
        import torch

        request = ImageRequest.of(body)
        plan = self.tiers.named(request.quality)
        scheduler, call = self._scheduler(plan, request.guidance_scale)
        seed = secrets.randbelow(2**31) if request.seed is None else request.seed
        seeds = range(seed, seed + request.n)
        own = copy.copy(self.pipe)
        own.scheduler = scheduler
        with self._turn:
            images = own(
                request.prompt,
                num_inference_steps=len(plan),
                num_images_per_prompt=request.n,
                generator=[torch.Generator("cpu").manual_seed(each) for each in seeds],
                **{**self._call, **request.pixels(), **call},
            ).images
        return {
            "created": int(time.time()),
            "data": [{"b64_json": _png(image), "seed": each} for image, each in zip(images, seeds, strict=True)],
            "output_format": "png",
            "quality": request.quality,
            "size": "x".join(map(str, images[0].size)),
            "plan": _described(scheduler),
        }

    def _scheduler(self, plan: Plan, scale: float | None) -> tuple[PlanScheduler, dict[str, Any]]:
        """The scheduler of one request, and the arguments of its guidance scale."""
        from skipcast.pipelines.calls import guided
        from skipcast.pipelines.plan_scheduler import PlanScheduler

        if plan.argument:
            value = self._scale(plan, scale)
            return PlanScheduler(plan, guidance=value), {plan.argument: value}
        if scale is None:
            return PlanScheduler(plan), {}
        call = {**guided(self.pipe, scale), **self._call}
        return PlanScheduler(plan, guidance=scale), {**call, **{key: scale for key in call if key.endswith("_scale")}}

    def _scale(self, plan: Plan, scale: float | None) -> float | None:
        """The guidance scale of a request, or the pipeline's own; None for a plan without knots."""
        from skipcast.pipelines.calls import argument_of

        if not plan.argument or scale is not None:
            return scale
        return argument_of(self.pipe, plan.argument, **self._call)


def _png(image: Any) -> str:
    held = io.BytesIO()
    image.save(held, format="PNG")
    return base64.b64encode(held.getvalue()).decode()


def _described(scheduler: PlanScheduler) -> dict[str, Any]:
    """What an answer says of the plan that was run."""
    plan = scheduler.plan
    return {
        "evaluations": len(plan),
        "steps": plan.origin.steps,
        "predicted_psnr": plan.predicted and _finite(plan.predicted.psnr),
        "predicted_psnr_of_worst": plan.predicted and _finite(plan.predicted.worst5),
        "guidance_scale": scheduler.guidance,
        "trusted": scheduler.trusted() if scheduler.checked else None,
    }


def _finite(decibels: float) -> float | None:
    return round(decibels, 2) if abs(decibels) < 1e30 else None
