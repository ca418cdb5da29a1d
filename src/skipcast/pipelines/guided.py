"""Corrections on diffusers pipelines: the scheduler's own step, and what a correction changes of it."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skipcast.grid import Vector
from skipcast.guidance.corrections import Call, Correction
from skipcast.pipelines.steps import overridden
from skipcast.plans.propagation import Levels, check_linear, grid_of, input_scale, prediction_of

#: Latents to images, or images to latents.
Map = Callable[[Tensor], Tensor]


class _Guide:
    """The levels of a prepared scheduler, and the correction of one step of it."""

    def __init__(self, scheduler: Any, correction: Correction, decode: Map | None, encode: Map | None) -> None:
        self.scheduler, self.correction, self.decode, self.encode = scheduler, correction, decode, encode
        self.taken, self._table = 0, None
        self._levels: Levels | None = None
        self._scale: Vector = np.ones(0)

    def prepare(self, sample: Tensor) -> None:
        """A run begins: the scheduler has made itself another table of timesteps."""
        if self.scheduler.timesteps is self._table:
            return
        prediction = prediction_of(self.scheduler)
        assert prediction is not None  # known of this scheduler when the context was made
        fresh = copy.deepcopy(self.scheduler)
        if hasattr(fresh, "step_index"):
            fresh._step_index = None
        self._levels = Levels(grid_of(fresh, 0), (1.0, 0.0), prediction)
        self._scale = np.append(input_scale(fresh, 0), 1.0)
        self._table = self.scheduler.timesteps
        clean = sample.float() if self.decode is None else self.decode(sample.float())
        self.correction.check(clean, len(self._levels.grid))

    def corrected(self, place: int, output: Tensor, x: Tensor, found: Tensor) -> Tensor:
        """What the scheduler made of x, with the estimate corrected and the noise kept."""
        assert self._levels is not None
        alphas, sigmas = self._levels.at(range(len(self._levels.grid)))
        p, q = self._levels.clean(float(alphas[place]), float(sigmas[place]))
        scale = self._scale  # some schedulers keep their samples larger than the network sees them
        (alpha, alpha_next), (sigma, sigma_next) = (
            (levels[place : place + 2] / scale[place : place + 2]).tolist() for levels in (alphas, sigmas)
        )
        clean = p * float(scale[place]) * x.float() + q * output.float()
        if self.decode is None or self.encode is None:
            call = Call(place, x.float(), clean, alpha, sigma, alpha_next, sigma_next)
            shift = self.correction.denoised(call) - clean
            mean = found.float() + alpha_next * shift
            return self.correction.stepped(call, mean).to(found.dtype)
        image = self.decode(clean)
        # Noisy latents have no noisy image: the correction sees the clean one and the levels.
        call = Call(place, alpha * image, image, alpha, sigma, alpha_next, sigma_next)
        shift = self.encode(self.correction.denoised(call)) - self.encode(image)
        return (found.float() + alpha_next * shift).to(found.dtype)


@contextmanager
def corrected(
    pipe: Any, correction: Correction, *, decode: Map | None = None, encode: Map | None = None
) -> Iterator[None]:
    """Correct every step of a diffusers pipeline in a `with` block; the scheduler is restored exactly on exit.

        known = sc.guidance.DDS(operator, y)
        with sc.guidance.corrected(pipe, known), sc.accelerate(pipe, "lagrange:order=1,evaluations=20"):
            image = pipe(num_inference_steps=50).images[0]

    The scheduler steps with the network's output as it is, which is also what a method of `sc.accelerate` remembers,
    and its result is moved by alpha' (clean' - clean). Samples of models in pixel space are corrected directly. Those
    of latent models are decoded, corrected and encoded, x <- x + alpha' (E(clean') - E(D(z))) for the clean latent z:
    two encodings and one decoding per step, and as true to the measurement as the autoencoder is.

    Args:
        pipe: with a deterministic, linear scheduler, such as FlowMatchEulerDiscreteScheduler or DDIMScheduler.
        correction: one without gradients through the network, which a scheduler does not see.
        decode: latents to images, for a latent model; in its own shapes and scales.
        encode: images to latents.

    Raises:
        ValueError: the correction needs gradients, or overrides `stepped` for a latent model; the scheduler does not
            suit; a latent model without its two maps.

    Warns:
        UserWarning: no step was corrected, as where a plan has taken the place of the scheduler.
    """
    scheduler = pipe.scheduler
    _check(pipe, correction, decode, encode)
    guide = _Guide(scheduler, correction, decode, encode)
    original = scheduler.step

    # Pipelines look at the signature of step, which functools.wraps keeps.
    @functools.wraps(original)
    @torch.no_grad()
    def step(model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        guide.prepare(sample)
        result = original(model_output, timestep, sample, *args, **kwargs)
        index = getattr(scheduler, "step_index", None)
        place = int(index) - 1 if index is not None else _place(scheduler, timestep)
        guide.taken += 1
        if isinstance(result, tuple):
            return (guide.corrected(place, model_output, sample, result[0]), *result[1:])
        result.prev_sample = guide.corrected(place, model_output, sample, result.prev_sample)
        return result

    with overridden(scheduler, "step", step):
        yield
    if not guide.taken:
        warnings.warn(
            f"{type(correction).__name__} corrected no step: the scheduler of this {type(pipe).__name__} took none, as "
            "where a plan has replaced it; run plans under a correction with skipcast.guidance.sample.",
            stacklevel=3,
        )


def _place(scheduler: Any, timestep: Any) -> int:
    table = torch.as_tensor(scheduler.timesteps).double().cpu()
    return int((table - float(torch.as_tensor(timestep).flatten()[0])).abs().argmin())


def _check(pipe: Any, correction: Any, decode: Map | None, encode: Map | None) -> None:
    name = type(correction).__name__
    if not isinstance(correction, Correction):
        raise ValueError(
            "corrected(correction=...) must be a Correction, such as those of skipcast.guidance, got "
            f"{correction!r:.100}."
        )
    if correction.needs_vjp:
        raise ValueError(
            f"{name} takes gradients through the network, which a scheduler does not see; call the network yourself, "
            "with skipcast.guidance.sample(lambda x, t: pipe.unet(x, t).sample, ...), or use DDS or Proximal."
        )
    if (decode is None) != (encode is None):
        raise ValueError("corrected(decode=..., encode=...): a latent model needs both.")
    if decode is None and getattr(pipe, "vae", None) is not None:
        raise ValueError(
            f"{type(pipe).__name__} samples latents, and {name} measures images; give corrected(decode=..., "
            "encode=...)."
        )
    if decode is not None and type(correction).stepped is not Correction.stepped:
        raise ValueError(f"{name} moves noisy samples, which latents do not decode to; use DDS or Proximal.")
    kind = type(pipe.scheduler).__name__
    if hasattr(pipe.scheduler, "plan"):
        raise ValueError(
            f"{kind} merges the steps between evaluations, where nothing can be corrected; run the plan with "
            "skipcast.guidance.sample, or accelerate the pipeline with a method."
        )
    check_linear(pipe.scheduler)
    if prediction_of(pipe.scheduler) is None:
        raise ValueError(
            f"scheduler {kind} does not tell what its network predicts, so its clean estimate is not known."
        )
