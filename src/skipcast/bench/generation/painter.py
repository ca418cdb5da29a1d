"""What a worker does: one pipeline, and one portion of pictures after the other."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from skipcast.bench.generation.encode import encoded
from skipcast.bench.generation.orders import Order, Picture, Portion
from skipcast.models.load import load_model
from skipcast.pipelines.accelerate import accelerate
from skipcast.pipelines.calls import arguments, guided


@dataclass(frozen=True)
class Drawn:
    """A picture as the content of its file."""

    picture: Picture
    suffix: str
    content: bytes
    evaluations: int  # all that it took
    trusted: bool | None  # of the first drawing; None where nothing tells
    again: bool  # drawn again with the other plan


class Painter:
    """Draws portions; the model is loaded when it is made.

    Args:
        order: how pictures are drawn.
    """

    def __init__(self, order: Order) -> None:
        torch.set_num_threads(order.threads)
        self._order = order
        dtype = getattr(torch, order.dtype) if order.dtype else None
        model = load_model(order.model, dtype, offload=order.offload)
        if order.revision not in (None, model.revision):
            raise ValueError(
                f"the weights of {order.model} are {model.revision} where this worker is, and {order.revision} where "
                "it was started; put the same weights there."
            )
        self._pipe: Any = model.pipe
        self._call = dict(model.call)
        if order.size is not None:
            self._call.update(height=order.size, width=order.size)
        if order.guidance is not None:
            self._call.update(guided(self._pipe, order.guidance))

    def run(self, task: Portion) -> list[Drawn]:
        """Draw a portion; what is not to be trusted is drawn again where there is a plan for that.

        Raises:
            ValueError: the method does not suit the pipeline, or it returns something else than pictures.
        """
        order = self._order
        files, evaluations, trusted = self._draw(task.pictures, order.method)
        if len(files) != len(task.pictures):
            raise ValueError(f"the pipeline drew {len(files)} pictures of {len(task.pictures)} prompts; use --batch 1.")
        taken = [evaluations] * len(files)
        fine = list(trusted) if trusted is not None else [None] * len(files)
        again = [place for place, good in enumerate(fine) if good is False] if order.retry is not None else []
        if again:
            second, more, _ = self._draw([task.pictures[place] for place in again], order.retry)
            for place, file in zip(again, second, strict=True):
                files[place] = file
                taken[place] += more
        return [
            Drawn(picture, *file, evaluations=spent, trusted=good, again=place in again)
            for place, (picture, file, spent, good) in enumerate(zip(task.pictures, files, taken, fine, strict=True))
        ]

    def _draw(
        self, chosen: Sequence[Picture], method: Any
    ) -> tuple[list[tuple[str, bytes]], int, tuple[bool, ...] | None]:
        """Files, evaluations and what is trusted."""
        steps = self._order.steps
        given = arguments(self._call, [one.prompt for one in chosen], [one.seed for one in chosen], steps)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="this plan was made for")  # the records tell of every picture
            with accelerate(self._pipe, method) if method is not None else nullcontext(None) as acceleration:
                found = self._pipe(**given)
        if acceleration is None:
            return encoded(found), steps, None
        summary = acceleration.summary()
        return encoded(found), summary.evaluations, summary.trusted
