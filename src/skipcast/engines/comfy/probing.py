"""What a sampler of ComfyUI does, found by running it on numbers instead of a model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skipcast.engines.comfy.network import SAME, Network
from skipcast.plans.propagation import Matrix

_FIT = "use one such as euler, dpmpp_2m, ipndm or deis"


class _Unfit(ValueError):
    """What is found of a sampler by running it."""


class _Model:
    """Stands for the model in a sampler's run: notes where it is called, and answers with what it is told to.

    Args:
        network: of the model.
        size: of the one sample, (1, 1, 1, size).
        answers: one network output for each call; None for outputs of zeros.
    """

    def __init__(self, network: Network, size: int, answers: Tensor | None) -> None:
        self.network, self.answers = network, answers
        self.levels: list[float] = []
        self.states: list[Tensor] = []
        sampling = network.sampling
        patcher = SimpleNamespace(get_model_object=lambda name: sampling)
        self.inner_model = SimpleNamespace(
            inner_model=SimpleNamespace(model_sampling=sampling), model_patcher=patcher, model_options={}
        )
        self.noise = self.latent_image = torch.zeros(1, 1, 1, size)

    def __call__(self, x: Tensor, sigma: Tensor, *_: Any, model_options: Any = None, **__: Any) -> Tensor:
        if (model_options or {}).get("sampler_post_cfg_function"):
            raise _Unfit("it looks at the outputs without guidance as well, which are not forecast")
        level = float(sigma.flatten()[0])
        place = len(self.levels)
        self.levels.append(level)
        self.states.append(x.detach().clone())
        if self.answers is None or place >= len(self.answers):
            return torch.zeros_like(x)
        return self.network.denoised(level, self.answers[place].to(x).view_as(x), x)


def name_of(sampler: Any) -> str:
    """How a SAMPLER is called."""
    function = getattr(sampler, "sampler_function", None)
    name = getattr(function, "__name__", None) or type(sampler).__name__
    return str(name).removeprefix("sample_")


def _run(sampler: Any, network: Network, sigmas: Tensor, x: Tensor, answers: Tensor | None) -> tuple[_Model, Tensor]:
    """The sampler's run on a stand-in, and its last sample.

    Raises:
        ValueError: it cannot be run so.
    """
    model, sigmas = _Model(network, x.shape[-1], answers), sigmas.clone()  # uni_pc writes into its own
    extra = {"model_options": {"transformer_options": {"sample_sigmas": sigmas}}, "seed": 0}
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            found = sampler.sampler_function(
                model, x, sigmas, extra_args=extra, callback=None, disable=True, **sampler.extra_options
            )
    except _Unfit as error:
        raise ValueError(f"sampler {name_of(sampler)} cannot be followed: {error}; {_FIT}.") from error
    except Exception as error:  # of any kind: other people's samplers
        raise ValueError(
            f"sampler {name_of(sampler)} cannot be followed: run on numbers it ends with {type(error).__name__} "
            f"({error}); {_FIT}."
        ) from error
    return model, found


def check_sampler(sampler: Any, network: Network, sigmas: Tensor) -> None:
    """Refuse by name a sampler that adds noise, or evaluates otherwise than once at every step; nothing is evaluated.

    A SAMPLER of another class than ComfyUI's own has no function that could be tried, and is not looked at.

    Args:
        sampler: of ComfyUI.
        network: of the model.
        sigmas: of the run.

    Raises:
        ValueError: with the reason and what to use instead.
    """
    if not hasattr(sampler, "sampler_function"):
        return
    sigmas = sigmas.detach().cpu()
    model, last = _run(sampler, network, sigmas, torch.zeros(1, 1, 1, 4), None)
    wanted = sigmas[:-1].tolist()
    if len(model.levels) != len(wanted) or not np.allclose(model.levels, wanted, rtol=SAME):
        raise ValueError(
            f"sampler {name_of(sampler)} evaluates {len(model.levels)} times over {len(wanted)} steps, at levels "
            f"between them or more than once; {_FIT}."
        )
    if any(bool(state.count_nonzero()) for state in (*model.states, last)):  # of nothing but zeros
        raise ValueError(f"sampler {name_of(sampler)} adds noise at its steps, which no forecast can know; {_FIT}.")


def table_of(sampler: Any, network: Network, sigmas: Tensor) -> Matrix:
    """The states of a sampler as weights on its noise and the network's outputs, (N + 1, N + 1).

    Found by running it on unit vectors: x_i = sum_b table[i, b] basis_b in the basis (x_0, y_0 .. y_{N-1}).

    Args:
        sampler: of ComfyUI.
        network: of the model.
        sigmas: of the run, (N + 1,).

    Raises:
        ValueError: it is none of ComfyUI's class, adds noise, evaluates between steps, or is not linear.
    """
    if not hasattr(sampler, "sampler_function"):
        raise ValueError(f"{type(sampler).__name__} is no sampler that can be recorded: {_FIT} (KSamplerSelect).")
    check_sampler(sampler, network, sigmas)
    try:
        return _table(sampler, network, sigmas.detach().cpu().double())
    except _Unfit:
        raise
    except ValueError:  # some round to float32 on their way, and trip over float64
        return _table(sampler, network, sigmas.detach().cpu().float())


def _table(sampler: Any, network: Network, sigmas: Tensor) -> Matrix:
    size = len(sigmas)
    unit = torch.eye(size, dtype=sigmas.dtype)
    model, last = _run(sampler, network, sigmas, unit[:1, None, None, :], unit[1:])
    states = torch.cat([*model.states, last]).reshape(size, size).double()
    drawn = torch.randn(size, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inputs = drawn.to(sigmas.dtype)
    again, found = _run(sampler, network, sigmas, inputs[:1, None, None, :], inputs[1:])
    reached = torch.cat([*again.states, found]).reshape(size, 3).double()
    if not (states @ drawn - reached).norm() <= 1e-4 * reached.norm():
        raise _Unfit(
            f"sampler {name_of(sampler)} is not linear in its sample and the outputs, so no fixed weights describe it; "
            f"{_FIT}."
        )
    return states.numpy()
