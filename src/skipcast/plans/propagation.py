"""The states of a sampler as fixed combinations of its noise and its outputs, found by running the scheduler itself."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

from skipcast.checks import guarded
from skipcast.grid import TimeGrid, Vector

Matrix = NDArray[np.float64]

#: Words in a scheduler's name or algorithm that mean fresh noise at every step.
_STOCHASTIC = (
    "ancestral",
    "cogvideoxdpm",
    "cosinedpm",
    "ddpm",
    "heliosdmd",
    "lcm",
    "sasolver",
    "sde",
    "stochastic",
    "tcd",
    "unclip",
)
_CLIPPING = ("clip_sample", "thresholding")
_TOLERANCE = 1e-5
_NARROW: tuple[Callable[..., Tensor], ...] = (Tensor.float, Tensor.half, Tensor.bfloat16)


class _Doubled(TorchFunctionMode):
    """Everything that floats is computed in float64: schedulers cast to float32 and back as they go."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _NARROW:
            return args[0].double()
        given = {name: _wide(value) for name, value in (kwargs or {}).items()}
        result = func(*map(_wide, args), **given)
        return result.double() if isinstance(result, Tensor) and result.is_floating_point() else result


def _wide(value: Any) -> Any:
    return torch.float64 if isinstance(value, torch.dtype) and value.is_floating_point else value


def propagation(scheduler: Any, begin: int | None = None) -> Matrix:
    """Row i holds the coefficients of state x_i in the basis (x_0, y_0 .. y_{N-1}), (N + 1, N + 1).

    A copy of the scheduler, on which `set_timesteps` was called, is run on unit vectors in float64; it is itself left
    alone. For Euler, row i = (1, d_0, .., d_{i-1}, 0, ..) with d_k = sigma_{k+1} - sigma_k. With `begin`, or the
    scheduler's own begin index, the run starts anew at that step: x_0 is the sample there, and N the steps that follow.

    Raises:
        ValueError: the scheduler is stochastic, of second order, or not linear; or it is not prepared.
    """
    check_linear(scheduler)
    steps = len(_timesteps(scheduler, begin))
    kind = type(scheduler).__name__
    # Large enough that whatever clips its samples clips these.
    drawn = 3 * torch.randn(steps + 1, 1, 1, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.random.fork_rng(devices=[]):
        once, twice = (_states(scheduler, begin, drawn[0], list(drawn[1:])) for _ in range(2))
    if not once.isfinite().all():
        raise ValueError(f"scheduler {kind} gives no finite states on this grid; use other options or another one.")
    if not torch.equal(once, twice):
        raise ValueError(f"scheduler {kind} moves the same sample differently each time; use a deterministic one.")
    unit = torch.eye(steps + 1, dtype=torch.float64).view(steps + 1, 1, 1, steps + 1)
    table = _states(scheduler, begin, unit[0], list(unit[1:])).flatten(1)
    guess = table @ drawn.flatten(1)
    if (guess - once.flatten(1)).norm() > _TOLERANCE * once.norm():
        raise ValueError(
            f"scheduler {kind} is not linear in its sample and its outputs, so no fixed weights describe it; use one "
            "such as FlowMatchEulerDiscreteScheduler, DDIMScheduler or DPMSolverMultistepScheduler."
        )
    return table.numpy()


def input_scale(scheduler: Any, begin: int | None = None) -> Vector:
    """The factors by which `scale_model_input` multiplies the sample at each step, (N,); 1 where there is none.

    `begin` as for `propagation`.

    Raises:
        ValueError: it does something else than multiply by a number; or the scheduler is not prepared.
    """
    check_linear(scheduler)
    timesteps = _timesteps(scheduler, begin)
    factors = np.ones(len(timesteps))
    if not hasattr(scheduler, "scale_model_input"):
        return factors
    made = _copy(scheduler, begin)
    sample = torch.randn(1, 1, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with _Doubled():
        for i, timestep in enumerate(timesteps):
            scaled = made.scale_model_input(sample.clone(), timestep)
            factors[i] = float((scaled * sample).sum() / (sample * sample).sum())
            if not (scaled - factors[i] * sample).norm() <= _TOLERANCE * scaled.norm():
                raise ValueError(
                    f"scheduler {type(scheduler).__name__} does not scale the network's input by a number at step {i}; "
                    "use one such as EulerDiscreteScheduler or DPMSolverMultistepScheduler."
                )
            made.step(sample.clone(), timestep, sample.clone(), return_dict=False)
    return factors


def adds_noise(scheduler: Any) -> bool:
    """Whether a scheduler draws fresh noise at every step, by its name and configuration."""
    config = getattr(scheduler, "config", {})
    marks = (type(scheduler).__name__.lower(), str(config.get("algorithm_type", "")).lower())
    named = any(word in mark for word in _STOCHASTIC for mark in marks)
    return named or bool(config.get("stochastic_sampling", False)) or (config.get("eta") or 0) > 0


def check_steps(scheduler: Any, reader: str = "plan") -> None:
    """Refuse by name a scheduler whose steps cannot be known, or which is stochastic, of second order, or inverse.

    Raises:
        ValueError: with the reason and the cure; `reader` is what would have to know its noise.
    """
    kind = type(scheduler).__name__
    levels = "sigmas" if hasattr(scheduler, "sigmas") else "alphas_cumprod"
    for attribute in ("set_timesteps", "step", "timesteps", levels):
        if not hasattr(scheduler, attribute):
            raise ValueError(
                f"scheduler {kind} is not supported: it has no {attribute!r}, from which its steps would be known; use "
                "a scheduler such as FlowMatchEulerDiscreteScheduler or DPMSolverMultistepScheduler."
            )
    if getattr(scheduler, "order", 1) != 1:
        raise ValueError(
            f"scheduler {kind} is of order {scheduler.order} and evaluates every noise level more than once; "
            "use a first-order or multistep scheduler such as FlowMatchEulerDiscreteScheduler."
        )
    if adds_noise(scheduler):
        raise ValueError(
            f"scheduler {kind} adds noise at every step, which no {reader} can know; use a deterministic one."
        )
    if "Inverse" in kind:
        raise ValueError(
            f"scheduler {kind} goes from clean to noisy, and only runs from noisy to clean are known; invert without "
            "accelerate()."
        )
    others = list(inspect.signature(scheduler.step).parameters.values())[3:]  # after output, timestep and sample
    open_ended = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [other.name for other in others if other.default is other.empty and other.kind not in open_ended]
    if needed:
        raise ValueError(
            f"scheduler {kind} is not supported: its step() also asks for {', '.join(needed)}; use a scheduler such as "
            "FlowMatchEulerDiscreteScheduler or DPMSolverMultistepScheduler."
        )


def check_linear(scheduler: Any) -> None:
    """Refuse by name a scheduler that is stochastic, of second order, or clips its samples.

    Raises:
        ValueError: with the reason and the cure.
    """
    check_steps(scheduler)
    kind, config = type(scheduler).__name__, getattr(scheduler, "config", {})
    for option in _CLIPPING:
        if config.get(option, False):
            raise ValueError(
                f"scheduler {kind} with {option}=True is not linear; set {option}=False, as in "
                f"pipe.scheduler = {kind}.from_config(pipe.scheduler.config, {option}=False)."
            )


def _timesteps(scheduler: Any, begin: int | None = None) -> Tensor:
    fresh = getattr(scheduler, "step_index", None) is None
    if getattr(scheduler, "num_inference_steps", None) is None or not fresh:
        state = "not prepared" if fresh else "in the middle of a run"
        raise ValueError(f"scheduler {type(scheduler).__name__} is {state}; call its set_timesteps() first.")
    timesteps: Tensor = scheduler.timesteps.cpu()
    return timesteps[(getattr(scheduler, "begin_index", None) or 0) if begin is None else begin :]


def _copy(scheduler: Any, begin: int | None) -> Any:
    """A copy on the CPU whose noise levels are float64; its timesteps keep their dtype, by which steps are found."""
    made = copy.deepcopy(scheduler)
    if begin is not None and hasattr(made, "set_begin_index"):
        made.set_begin_index(begin)
    for name, value in vars(made).items():
        if isinstance(value, Tensor):
            on_cpu = value.cpu()
            setattr(made, name, on_cpu.double() if value.is_floating_point() and name != "timesteps" else on_cpu)
    return made


def _states(scheduler: Any, begin: int | None, first: Tensor, outputs: Sequence[Tensor]) -> Tensor:
    """x_0 .. x_N of a run on given outputs, float64."""
    made, x, states = _copy(scheduler, begin), first, [first]
    with _Doubled():
        for timestep, output in zip(_timesteps(scheduler, begin), outputs, strict=True):
            if hasattr(made, "scale_model_input"):  # some schedulers note that it was called
                made.scale_model_input(x.clone(), timestep)
            try:
                x = made.step(output.clone(), timestep, x.clone(), return_dict=False)[0]
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"scheduler {type(scheduler).__name__} does not step as others do: {error}."
                ) from error
            states.append(x)
    return torch.stack(states)


# The noise levels of a prepared scheduler, as methods and plans see them.


def grid_of(scheduler: Any, begin: int | None = None) -> TimeGrid:
    """The steps that a prepared scheduler is about to take, from `begin` on; by default from its begin index.

    A time that is evaluated twice in a row (PNDM's second step) stands for two steps: the first of them is placed
    halfway to the step before it.

    Raises:
        ValueError: its noise levels do not fall.
    """
    if begin is None:
        begin = getattr(scheduler, "begin_index", None) or 0
    config = scheduler.config
    timesteps = scheduler.timesteps.double().cpu().numpy()
    if not hasattr(scheduler, "sigmas"):
        signal = scheduler.alphas_cumprod.double().cpu().numpy()[timesteps.round().astype(int)]
        sigma = _apart(np.sqrt(1 - signal))
        return _from(begin, timesteps, np.sqrt(1 - sigma**2), sigma)
    sigma = scheduler.sigmas[: len(timesteps)].double().cpu().numpy()
    if config.get("invert_sigmas", False):  # Mochi counts from noise up
        sigma = 1 - sigma
    sigma = _apart(sigma)
    flow = config.get("use_flow_sigmas", False) or config.get("prediction_type") == "flow_prediction"
    # Every scheduler but those of flows, whose noise has size 1, tells how large its first noise is.
    if flow or not hasattr(scheduler, "init_noise_sigma"):
        return _from(begin, timesteps, 1 - sigma, sigma)
    scale = 1 / np.sqrt(1 + sigma**2)  # k-diffusion's sigma is noise over signal
    return _from(begin, timesteps, scale, sigma * scale)


def prediction_of(scheduler: Any) -> Prediction | None:
    """What the network of a scheduler predicts; None where its configuration does not tell."""
    flow = "flow_prediction" if "FlowMatch" in type(scheduler).__name__ else None
    named = scheduler.config.get("prediction_type", flow)
    return "velocity" if named == "flow_prediction" else named if named in _CLEAN else None


def _from(begin: int, timesteps: Vector, alpha: Vector, sigma: Vector) -> TimeGrid:
    """The grid from a step on; cut last, because the place of a repeated step follows from the one before it."""
    return TimeGrid(timestep=timesteps[begin:], alpha=alpha[begin:], sigma=sigma[begin:])


def _apart(sigma: Vector) -> Vector:
    """The levels with the first of two equal neighbours moved halfway to the one before."""
    out = sigma.copy()
    for i in range(1, len(sigma) - 1):
        if sigma[i] == sigma[i + 1] and sigma[i - 1] > sigma[i]:
            out[i] = (sigma[i - 1] + sigma[i]) / 2
    return out


# What a network predicts, and where.

Prediction = Literal["velocity", "epsilon", "sample", "v_prediction", "score"]
#: What a network predicts -> the clean sample as p z + q y, of z = alpha x_0 + sigma e and its output y.
_CLEAN: dict[str, Callable[[float, float], tuple[float, float]]] = {
    "velocity": lambda alpha, sigma: (1 / (alpha + sigma), -sigma / (alpha + sigma)),
    "epsilon": lambda alpha, sigma: (1 / alpha, -sigma / alpha),
    "sample": lambda alpha, sigma: (0.0, 1.0),
    "v_prediction": lambda alpha, sigma: (alpha, -sigma),
    "score": lambda alpha, sigma: (1 / alpha, sigma**2 / alpha),
}
PREDICTIONS = tuple(_CLEAN)


@dataclass(frozen=True)
class Levels:
    """Where the steps of a run lie, and what its network predicts there.

    Args:
        grid: the N steps.
        end: (alpha, sigma) of the final sample.
        prediction: one of `PREDICTIONS`.
    """

    grid: TimeGrid
    end: tuple[float, float]
    prediction: Prediction

    def __post_init__(self) -> None:
        if self.prediction not in _CLEAN:
            raise ValueError(f"prediction={self.prediction!r} must be one of {', '.join(PREDICTIONS)}.")

    def clean(self, alpha: float, sigma: float) -> tuple[float, float]:
        """The clean sample as p z + q y of a state z = alpha x_0 + sigma e and its output y: (p, q)."""
        return _CLEAN[self.prediction](alpha, sigma)

    def at(self, steps: Sequence[int]) -> tuple[Vector, Vector]:
        """alpha and sigma at the evaluated steps and at the end, (m + 1,) each."""
        places = list(steps)
        return np.append(self.grid.alpha[places], self.end[0]), np.append(self.grid.sigma[places], self.end[1])


@guarded()
def first_order(grid: TimeGrid, end: tuple[float, float] = (1.0, 0.0), prediction: Prediction = "velocity") -> Matrix:
    """The first-order sampler of a prediction, in the basis (x_0, y_0 .. y_{N-1}): (N + 1, N + 1).

    Every step takes the clean part and the noise of the sample as the output tells them, and mixes them anew:

        x_{i+1} = alpha_{i+1} clean_i + sigma_{i+1} noise_i,      x_i = alpha_i clean_i + sigma_i noise_i

    which is Euler's step of a flow, and DDIM's elsewhere.

    Args:
        grid: the N steps.
        end: alpha and sigma behind the last step.
        prediction: one of `PREDICTIONS`: "velocity" is noise - clean, of a flow; "v_prediction" is alpha noise - sigma
            clean; "score" is -noise / sigma.

    Raises:
        ValueError: an unknown prediction, one that does not tell both parts at some step, or an end that is no lower.

    Reference: DDIM, arXiv:2010.02502, equation 12.
    """
    levels = Levels(grid, end, prediction)
    if np.shape(end) != (2,) or not np.isfinite(end).all() or not 0 <= end[1] < grid.sigma[-1]:
        raise ValueError(
            f"end={end!r} must be (alpha, sigma) with 0 <= sigma < {grid.sigma[-1]:g}, the last level of the grid."
        )
    alpha, sigma = levels.at(range(len(grid)))
    if prediction == "velocity" and not np.allclose(alpha, 1 - sigma, atol=1e-6):
        raise ValueError(
            'prediction="velocity" is that of a flow, noise - clean with alpha = 1 - sigma, which this grid or its end '
            'is not; for v = alpha noise - sigma clean give prediction="v_prediction".'
        )
    if prediction == "v_prediction" and not np.allclose(grid.alpha**2 + grid.sigma**2, 1, atol=1e-4):
        raise ValueError(
            'prediction="v_prediction" needs a grid with alpha^2 + sigma^2 = 1; see "velocity" for a flow.'
        )
    if prediction in ("epsilon", "score") and (grid.alpha == 0).any():
        raise ValueError(
            f"prediction={prediction!r} says nothing of the clean sample where alpha = 0; begin the grid below, or "
            'predict "sample", "velocity" or "v_prediction".'
        )
    table = np.eye(len(grid) + 1)
    for i in range(len(grid)):
        of_x, of_y = levels.clean(float(alpha[i]), float(sigma[i]))
        carried = sigma[i + 1] / sigma[i]
        mixed = alpha[i + 1] - carried * alpha[i]
        table[i + 1] = (carried + mixed * of_x) * table[i]
        table[i + 1, i + 1] = mixed * of_y
    return table


#: Weights below this share of their row's largest are rounding; as zeros they let outputs be forgotten.
_ROUNDING = 1e-12


def segments(states: Matrix, steps: Sequence[int]) -> Iterator[Vector]:
    """The rows (a_n, b_{n,0} .. b_{n,n}) of a plan that reaches given states, from one evaluated step to the next.

        a_n = X[s_{n+1}, x_0] / X[s_n, x_0] - 1,      b_n = X[s_{n+1}, y] - (1 + a_n) X[s_n, y]

    Args:
        states: X, in the basis (x_0, y_0 .. y_{N-1}), of which only evaluated y have weights, (N + 1, N + 1).
        steps: the evaluated ones.

    Raises:
        ValueError: a state holds nothing of x_0.
    """
    places = [step + 1 for step in steps]
    for n, (start, end) in enumerate(zip(steps, [*steps[1:], len(states) - 1], strict=True)):
        if abs(states[start, 0]) < 1e-8:
            raise ValueError(f"the state at step {start} holds nothing of the noise it began with, so no row exists.")
        share = states[end, 0] / states[start, 0]
        weights = (states[end] - share * states[start])[places[: n + 1]]
        row = np.concatenate([[share - 1], weights])
        row[np.abs(row) < _ROUNDING * np.abs(row).max()] = 0.0
        yield row
