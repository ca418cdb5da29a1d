"""Evaluating the network of a pipeline at given samples and timesteps, through an ordinary pipeline call."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from diffusers import ModularPipeline
from diffusers.modular_pipelines import PipelineState
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

from skipcast.pipelines.calls import Prompt, arguments, described, undecoded, unpaired
from skipcast.pipelines.hooks import HOOK, registered
from skipcast.pipelines.networks import denoisers
from skipcast.pipelines.passes import Listening, Passes, PassHook
from skipcast.pipelines.plan_check import check_recorded
from skipcast.pipelines.steps import Override
from skipcast.plans.closed_loop import BRANCHES, Pass, Program
from skipcast.plans.plan import Origin, is_word
from skipcast.plans.propagation import Levels, grid_of, prediction_of

#: (number of the evaluation, the network's output, the sample it was made from) -> the next sample to evaluate at.
Move = Callable[[int, Tensor, Tensor], Tensor]


def scripted(
    scheduler: Any,
    timesteps: Sequence[float],
    move: Move,
    scale: Sequence[float] | None = None,
    pairs: int | None = None,
) -> Any:
    """Return a copy of `scheduler` that runs len(timesteps) evaluations and computes each next sample with `move`.

    Args:
        scheduler: any scheduler; its class, configuration and initial noise level stay what they are.
        timesteps: one for each evaluation, in any order.
        move: returns the next sample; called with whole batches in float32.
        scale: factor of the network's input at each evaluation; by default 1.
        pairs: number of samples of a batch, for pipelines whose batches may hold every sample twice.
    """
    made = copy.deepcopy(scheduler)
    begun, factors = made.set_timesteps, [1.0] * len(timesteps) if scale is None else list(scale)
    place = 0

    # Pipelines look at the signatures of both functions, which functools.wraps keeps.
    @functools.wraps(made.set_timesteps)
    def set_timesteps(*args: Any, **kwargs: Any) -> None:
        nonlocal place
        begun(*args, **kwargs)
        floating = made.timesteps.is_floating_point() or any(float(t) != int(t) for t in timesteps)
        kind = made.timesteps.dtype if made.timesteps.is_floating_point() else torch.float32
        values = torch.tensor(timesteps, dtype=kind if floating else made.timesteps.dtype)
        own = getattr(made, "sigmas", None)
        if own is not None and len(timesteps) >= len(own):  # pipelines look the level of every step up
            made.sigmas = _levels(made, timesteps)
        made.timesteps = values.to(made.timesteps.device)
        made.num_inference_steps = len(timesteps)
        place = 0

    @functools.wraps(made.step)
    def step(model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        nonlocal place
        given = (model_output.float(), sample.float())
        output, x = given if pairs is None else (unpaired(value, pairs) for value in given)
        moved = move(place, output, x).to(sample.dtype)
        if len(moved) != len(sample):
            moved = moved.repeat(len(sample) // len(moved), *[1] * (moved.ndim - 1))
        place += 1
        return SchedulerOutput(prev_sample=moved) if kwargs.get("return_dict", True) else (moved,)

    def scale_model_input(sample: Tensor, timestep: Any = None) -> Tensor:
        return sample if factors[place] == 1.0 else sample * factors[place]

    made.set_timesteps, made.step = set_timesteps, _Alone(made, "step", step)
    if hasattr(made, "scale_model_input"):
        made.scale_model_input = scale_model_input
    return made


def _levels(scheduler: Any, timesteps: Sequence[float]) -> Tensor:
    """The scheduler's noise levels at other timesteps, linear between its own, and its last one behind them."""
    known, levels = scheduler.timesteps.double().cpu().numpy(), scheduler.sigmas.double().cpu().numpy()
    order = np.argsort(known)
    found = np.interp(np.asarray(timesteps, dtype=np.float64), known[order], levels[: len(known)][order])
    return torch.from_numpy(np.append(found, levels[-1])).to(scheduler.sigmas)


class _Alone(Override):
    """A step that only one object can take: a copy would move a second sample along with the first one's script."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        raise ValueError(
            f"the pipeline samples a second value with a copy of its {type(self.owner).__name__}, and only the first "
            "one can be evaluated step by step: record it with reference='default', and plan without refine."
        )


@contextmanager
def swapped(pipe: Any, scheduler: Any) -> Iterator[Any]:
    """Give the pipeline another scheduler within the context, and restore its own on exit."""
    before = pipe.scheduler
    pipe.scheduler = scheduler
    try:
        yield scheduler
    finally:
        pipe.scheduler = before


class _Begun(Exception):
    """Thrown to leave a pipeline call as soon as its scheduler is prepared."""


def prepare(pipe: Any, arguments: dict[str, Any]) -> Any:
    """A copy of the scheduler as the pipeline prepares it, with its own sigmas and shift; no network is evaluated."""
    made = copy.deepcopy(pipe.scheduler)
    begin = made.set_timesteps

    @functools.wraps(begin)
    def set_timesteps(*args: Any, **kwargs: Any) -> None:
        begin(*args, **kwargs)
        raise _Begun

    made.set_timesteps = set_timesteps
    try:
        with swapped(pipe, made):
            pipe(**{**undecoded(pipe), **arguments})
    except _Begun:
        del made.set_timesteps
        return made
    raise ValueError(f"{type(pipe).__name__} did not call its scheduler's set_timesteps; it cannot be recorded.")


def decoded(pipe: Any, sample: Tensor, timestep: float, arguments: dict[str, Any]) -> Tensor | None:
    """Float images in [0, 1] of a final sample, float64; None where the pipeline makes none."""
    # Only the decoder is wanted; one evaluation is what it costs to get past the loop.
    made = scripted(pipe.scheduler, [float(timestep)], lambda place, output, given: sample.to(given), pairs=len(sample))
    with swapped(pipe, made):
        try:
            output = pipe(output_type="pt", **arguments)
            images = output.get("images") if isinstance(output, PipelineState) else output[0]
        except torch.OutOfMemoryError:
            raise
        except (ValueError, TypeError, RuntimeError):
            return None
    if not isinstance(images, Tensor) or not images.is_floating_point() or len(images) != len(sample):
        return None
    images = images.double().cpu()
    return images if bool(((images >= 0) & (images <= 1)).all()) else None


#: Elements of all reference images together, up to which they are kept.
_KEPT = 2**28


class PipelineEvaluator:
    """Evaluates the network of `pipe` with the prompts, seeds and call of a recording.

    Args:
        pipe: the pipeline, with the scheduler it was recorded with.
        origin: the recording whose prompts, seeds and call are used.
        batch: pairs per pipeline call.
        prompts: the recorded prompts; needed if they were not texts, because an origin stores placeholders for them.
        call: the recorded arguments that are not plain values, such as an image, for the same reason.

    Raises:
        ValueError: the scheduler, its configuration or the prompts differ from the recorded ones.
    """

    def __init__(
        self, pipe: Any, origin: Origin, batch: int = 8, *, prompts: Sequence[Prompt] | None = None, **call: Any
    ) -> None:
        check_recorded(pipe.scheduler, origin)
        if not origin.prompts:
            raise ValueError(
                "this profile keeps no prompts, as published ones do not, so its runs cannot be made again: solve from "
                "it without refine=, or record the model."
            )
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
        self.evaluations: float = 0
        self._images: dict[int, Tensor] = {}
        self.coarse = denoisers(pipe)[0].dtype in (torch.bfloat16, torch.float16)

    @functools.cached_property
    def levels(self) -> Levels | None:
        """Where the recorded steps lie, found without an evaluation; None where the prediction has no name."""
        prediction = prediction_of(self._prepared)
        return None if prediction is None else Levels(grid_of(self._prepared), (1.0, 0.0), prediction)

    @functools.cached_property
    def _prepared(self) -> Any:
        """The scheduler as the pipeline prepares it."""
        return prepare(self.pipe, {**self._arguments([0]), "num_inference_steps": self.origin.steps})

    def groups(self, pairs: Sequence[int]) -> list[list[int]]:
        """Divide the pairs into calls of at most `batch` pairs with the same arguments."""
        return [some[i : i + self.batch] for some in self.origin.alike(pairs) for i in range(0, len(some), self.batch)]

    @functools.cached_property
    def branches(self) -> str:
        """Where the pipeline has its leading guidance branch, one of `BRANCHES`; found with a few evaluations.

        Of two halves of a batch that one leads which is nearer to the guided output u + w (c - u): c, where w > 1.

        Raises:
            ValueError: the network is not called for two branches, or what the pipeline makes of both in two passes is
                not the guided output.
        """
        rows, time = list[int](), self._prepared.timesteps[:1].tolist()

        def output(branches: str = "", kinds: tuple[Pass, ...] = ()) -> Tensor:
            found: list[Tensor] = []

            def program(x: Tensor) -> Generator[Tensor, Tensor, None]:
                for _ in kinds or ("whole",):
                    found.append((yield x))

            self._call([0], time * max(1, len(kinds)), [1.0] * max(1, len(kinds)), program, branches, kinds)
            return found[-1].double()

        with ExitStack() as stack:
            for network in denoisers(self.pipe):
                stack.enter_context(registered(network, Listening(rows), HOOK))
            whole = output()
        if rows == [1, 1]:
            lead = "first call"
        elif rows == [2]:
            lead = min(BRANCHES[1:], key=lambda half: float((output(half, ("lead",)) - whole).norm()))
        else:
            raise ValueError(
                f"plan(branches=True) needs a pipeline that evaluates two guidance branches at every step; this "
                f"{type(self.pipe).__name__} calls its network {len(rows)} times, with {rows} rows "
                "for a sample: switch guidance on when you record, or leave branches=True out."
            )
        if not (output(lead, ("lead", "other")) - whole).norm() <= 1e-3 * whole.norm():
            raise ValueError(
                f"plan(branches=True): two passes of this {type(self.pipe).__name__} do not make its guided output; "
                "leave branches=True out."
            )
        return lead

    @functools.cached_property
    def decodes(self) -> bool:
        """Whether the pipeline makes float images in [0, 1] of final samples, which `decoded` then gives."""
        levels = self._prepared.timesteps
        noise = torch.zeros(1, *self.origin.shape)
        return decoded(self.pipe, noise, float(levels[-1]), self._whole([0])) is not None

    def decoded(self, pairs: Sequence[int], samples: Tensor, *, reference: bool = False) -> Tensor:
        """Float images in [0, 1] of final samples of these pairs, at the cost of one evaluation each.

        Args:
            pairs: as many as there are samples.
            samples: final ones.
            reference: whether they are those of the recording, whose images are kept where they are small.

        Raises:
            ValueError: the pipeline makes none.
        """
        if reference and all(pair in self._images for pair in pairs):
            return torch.stack([self._images[pair] for pair in pairs]).double()
        self.evaluations += len(pairs)
        found = decoded(self.pipe, samples, float(self._prepared.timesteps[-1]), self._whole(pairs))
        if found is None:
            raise ValueError(f"{type(self.pipe).__name__} makes no float images in [0, 1] of its final samples.")
        if reference and found[0].numel() * len(self.prompts) <= _KEPT:
            self._images.update(zip(pairs, found.float(), strict=True))
        return found

    def _whole(self, pairs: Sequence[int]) -> dict[str, Any]:
        return {"num_inference_steps": self.origin.steps, **self._arguments(pairs)}

    def call(
        self,
        pairs: Sequence[int],
        timesteps: Sequence[float],
        scale: Sequence[float],
        program: Program,
        passes: Sequence[Pass] = (),
    ) -> None:
        """Run `program` on the pairs in one pipeline call of len(timesteps) evaluations, or passes."""
        self._call(pairs, timesteps, scale, program, self.branches if passes else "", passes)

    def _call(
        self,
        pairs: Sequence[int],
        timesteps: Sequence[float],
        scale: Sequence[float],
        program: Program,
        branches: str,
        kinds: Sequence[Pass],
    ) -> None:
        running: Generator[Tensor, Tensor, None] | None = None
        passes = Passes(branches, kinds) if kinds else None

        def move(place: int, output: Tensor, sample: Tensor) -> Tensor:
            nonlocal running
            if running is None:
                running = program(sample)
                next(running)
            self.evaluations += len(pairs) / 2 if passes else len(pairs)
            if passes:
                passes.done()
            try:
                return running.send(output)
            except StopIteration:
                if place != len(timesteps) - 1:
                    raise RuntimeError(
                        f"the program ended after {place + 1} of {len(timesteps)} evaluations."
                    ) from None
                return sample

        with ExitStack() as stack:
            stack.enter_context(swapped(self.pipe, scripted(self.pipe.scheduler, timesteps, move, scale, len(pairs))))
            if passes:
                for network in denoisers(self.pipe):
                    stack.enter_context(registered(network, PassHook(passes), HOOK))
            steps = self.origin.steps
            if isinstance(self.pipe, ModularPipeline):  # whose guiders stop behind so many
                steps = max(steps, len(timesteps))
            self.pipe(num_inference_steps=steps, **undecoded(self.pipe), **self._arguments(pairs))

    def _arguments(self, pairs: Sequence[int]) -> dict[str, Any]:
        """The recorded arguments of one call for these pairs."""
        prompts, seeds = [self.prompts[i] for i in pairs], [self.origin.seeds[i] for i in pairs]
        return arguments({**self.origin.call_of(pairs[0]), **self._given}, prompts, seeds)
