"""The evaluator of a pipeline: a pipeline call whose samples and told times a program decides."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import torch
from torch import Tensor

from skipcast.backends.calls import Prompt, arguments, described, is_word, undecoded
from skipcast.backends.denoisers import denoisers
from skipcast.backends.recorded import check_recorded
from skipcast.backends.scripted import scripted, swapped
from skipcast.planning.evaluator import Program
from skipcast.planning.origin import Origin


class PipelineEvaluator:
    """Evaluates the network of `pipe` with the prompts, seeds and call of a recording.

    Args:
        pipe: the pipeline, with the scheduler it was recorded with.
        origin: whose prompts, seeds and call are used.
        batch: pairs per pipeline call.
        prompts: the recorded ones, needed where they were not texts: an origin keeps the words for them alone.
        call: the recorded arguments that are no plain values, such as a picture, for the same reason.

    Raises:
        ValueError: another scheduler or configuration than the recorded one, or other prompts.
    """

    def __init__(
        self, pipe: Any, origin: Origin, batch: int = 8, *, prompts: Sequence[Prompt] | None = None, **call: Any
    ) -> None:
        check_recorded(pipe.scheduler, origin)
        if prompts is None and not origin.texts:
            raise ValueError(
                "this profile was recorded on arguments that are not texts, of which it keeps the words alone; pass "
                "refine=PipelineEvaluator(pipe, profile.origin, prompts=...) with the recorded ones."
            )
        self.prompts = origin.prompts if prompts is None else tuple(prompts)
        if tuple(map(described, self.prompts)) != origin.prompts:
            raise ValueError("PipelineEvaluator(prompts=...) are not those that were recorded; give the same in order.")
        lost = [name for name, value in origin.call.items() if is_word(value) and name not in call]
        if lost:
            raise ValueError(
                f"this profile was recorded with {lost[0]}={origin.call[lost[0]]}, kept as a word alone; pass "
                f"refine=PipelineEvaluator(pipe, profile.origin, {lost[0]}=...) with the recorded one."
            )
        self.pipe, self.origin, self.batch, self._given = pipe, origin, batch, call
        self.evaluations = 0
        self.coarse = denoisers(pipe)[0].dtype in (torch.bfloat16, torch.float16)

    def groups(self, pairs: Sequence[int]) -> list[list[int]]:
        """The pairs in calls of at most `batch`, of the same arguments each."""
        return [some[i : i + self.batch] for some in self.origin.alike(pairs) for i in range(0, len(some), self.batch)]

    def call(self, pairs: Sequence[int], told: Sequence[float], scale: Sequence[float], program: Program) -> None:
        """Run `program` on the pairs in one pipeline call of len(told) evaluations."""
        running: Generator[Tensor, Tensor, None] | None = None

        def move(place: int, output: Tensor, sample: Tensor) -> Tensor:
            nonlocal running
            if running is None:
                running = program(sample)
                next(running)
            self.evaluations += len(pairs)
            try:
                return running.send(output)
            except StopIteration:
                if place != len(told) - 1:
                    raise RuntimeError(f"the program ended after {place + 1} of {len(told)} evaluations.") from None
                return sample

        origin = self.origin
        prompts, seeds = [self.prompts[i] for i in pairs], [origin.seeds[i] for i in pairs]
        given = arguments({**origin.call_of(pairs[0]), **self._given}, prompts, seeds)
        with swapped(self.pipe, scripted(self.pipe.scheduler, told, move, scale, len(pairs))):
            self.pipe(num_inference_steps=self.origin.steps, **undecoded(self.pipe), **given)
