"""What a worker does: one pipeline, and one portion of images after the other."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from skipcast.bench.draw import How, Pair, Sample, draw
from skipcast.bench.generation.orders import Order, Portion
from skipcast.bench.media import FRAMES_PER_SECOND, encoded, suffix_of
from skipcast.models.load import load_model
from skipcast.pipelines.calls import guided
from skipcast.plans.plan import Plan


@dataclass(frozen=True)
class Drawn:
    """An image as the content of its file."""

    pair: Pair
    content: bytes
    evaluations: int  # all that it took
    trusted: bool | None  # of the first drawing; None where nothing checks
    again: bool  # drawn again with the other plan

    @property
    def suffix(self) -> str:
        """What its file ends in."""
        return suffix_of(self.content)


class Painter:
    """Draws portions; the model is loaded when it is made.

    Args:
        order: how images are drawn.
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
        """Draw a portion.

        Raises:
            ValueError: the method does not suit the pipeline, or it returns something else than images.
        """
        order = self._order
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="this plan was made for")  # the records tell of every image
            return drawn(self._pipe, task.pairs, order.method, order.retry, order.steps, self._call)[0]


def drawn(
    pipe: Any, pairs: Sequence[Pair], method: How, retry: Plan | None, steps: int, call: Mapping[str, Any]
) -> tuple[list[Drawn], Sample]:
    """Pairs as files, and the first sample; what it is not trusted on is drawn again where there is a plan for that.

    Raises:
        ValueError: the method does not suit the pipeline, or it draws another number of images.
    """
    first = draw(pipe, pairs, method, steps=steps, call=call)
    if len(first.images) != len(pairs):
        raise ValueError(f"the pipeline drew {len(first.images)} images of {len(pairs)} prompts; use --batch 1.")
    evaluations = first.summary.evaluations if first.summary else steps
    trusted = first.trusted or (None,) * len(pairs)
    found = [
        Drawn(pair, encoded(image, FRAMES_PER_SECOND), evaluations, good, again=False)
        for pair, image, good in zip(pairs, first.images, trusted, strict=True)
    ]
    again = [place for place, good in enumerate(trusted) if good is False] if retry is not None else []
    if again:
        second = draw(pipe, [pairs[place] for place in again], retry, steps=steps, call=call)
        more = second.summary.evaluations if second.summary else steps
        for place, image in zip(again, second.images, strict=True):
            content = encoded(image, FRAMES_PER_SECOND)
            found[place] = Drawn(pairs[place], content, evaluations + more, trusted[place], again=True)
    return found, first
