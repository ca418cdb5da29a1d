"""The denoiser calls that an accelerated sampler makes, as calibration data of quantisation; ranges over time."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as tree

from skipcast.checks import guarded
from skipcast.methods import names
from skipcast.methods.families import family_of
from skipcast.parts import Method
from skipcast.pipelines import calls as pipeline_calls
from skipcast.pipelines.accelerate import accelerate
from skipcast.pipelines.networks import denoisers
from skipcast.pipelines.steps import overridden
from skipcast.plans.adaptive import AdaptivePlan
from skipcast.plans.plan import Plan
from skipcast.samplers import Sampler

#: Largest factor that time-weighted ranges move from activations to weights.
MOST = 10.0


@dataclass(frozen=True, eq=False)
class DenoiserCall:
    """One call of a denoiser, as it can be made again.

    Args:
        denoiser: which of the pipeline's, by the name of its component; "transformer", "transformer_2", "unet".
        run: the run of the pipeline that it belongs to, from 0.
        index: the call within the run, from 0; both guidance branches count.
        args: positional arguments, tensors on the device they were kept on.
        kwargs: arguments by name.
    """

    denoiser: str
    run: int
    index: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def to(self, device: torch.device | str) -> DenoiserCall:
        """The same call with its tensors on a device."""
        return DenoiserCall(self.denoiser, self.run, self.index, *_moved((self.args, self.kwargs), device))


def _moved(values: Any, device: torch.device | str | None) -> Any:
    """Arguments with their tensors copied to a device; None for where they are."""

    def moved(value: Any) -> Any:
        return value.detach().to(device or value.device, copy=True) if isinstance(value, Tensor) else value

    return tree.tree_map(moved, values)


@guarded(batch=1, pipe=None, num_inference_steps=1)
def calibration_calls(
    pipe: Any,
    method: str | Method | Sampler | Plan | AdaptivePlan | None,
    prompts: Sequence[pipeline_calls.Prompt],
    *,
    seeds: Sequence[int] | int = 0,
    num_inference_steps: int = 50,
    batch: int = 1,
    device: str | torch.device | None = "cpu",
    **call: Any,
) -> list[DenoiserCall]:
    """Run an accelerated pipeline and keep the denoiser calls that it makes: those, and no others.

        calls = sc.calibration_calls(pipe, plan, prompts, num_inference_steps=50)
        quantize_(pipe.transformer, SmoothQuantConfig(Int8StaticActivationInt8WeightConfig(), step="prepare"))
        sc.replay(pipe.transformer, calls)
        quantize_(pipe.transformer, SmoothQuantConfig(Int8StaticActivationInt8WeightConfig(), step="convert"))

    On a quantised pipeline it records the calls of its own trajectories, for a second calibration (PAR).

    Args:
        pipe: a diffusers pipeline.
        method: a plan, a sampler or a method at the output of the network, by name or as it is; None for the
            unaccelerated pipeline. What forecasts inside the network runs parts of it at other steps, which a replay of
            whole calls is not.
        prompts: texts, or mappings as for `record`.
        seeds: one per prompt, or the first of consecutive ones.
        num_inference_steps: as for the pipeline.
        batch: prompts per pipeline call.
        device: where arguments are kept; None for where they are.
        call: further arguments of the pipeline calls.

    Raises:
        ValueError: a method inside the network, a compiled denoiser, no prompts, arguments that are set here.
    """
    if not callable(pipe) or not hasattr(pipe, "scheduler"):
        raise ValueError(
            f"calibration_calls(pipe=...) needs a diffusers pipeline with a scheduler, got {type(pipe).__name__}."
        )
    found = names.method(method, family_of(denoisers(pipe)[0])) if isinstance(method, str) else method
    if isinstance(found, Method) and found.target.seam != "output":
        raise ValueError(
            f"calibration_calls(method=...): {found.target!r} runs parts of the network at forecast steps, which whole "
            "calls do not show; take a plan, or target=output."
        )
    if not len(prompts):
        raise ValueError("calibration_calls(prompts=[]) holds no prompt; give at least one, better 8.")
    drawn = list(range(seeds, seeds + len(prompts))) if isinstance(seeds, int) else list(seeds)
    if len(drawn) != len(prompts):
        raise ValueError(f"calibration_calls(seeds=...) has {len(drawn)} entries for {len(prompts)} prompts.")
    for name in call:
        if name in pipeline_calls.OURS:
            raise ValueError(f"calibration_calls({name}=...) is set here; give {pipeline_calls.OURS[name]}.")
    networks = {name: part for name, part in pipe.components.items() if any(part is one for one in denoisers(pipe))}
    kept: list[DenoiserCall] = []
    with ExitStack() as stack:
        for name, network in networks.items():
            stack.enter_context(_kept(network, name, kept, device))
        if found is not None:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="somebody else has replaced the forward")  # it is us
                stack.enter_context(accelerate(pipe, found))
        for run, first in enumerate(range(0, len(prompts), batch)):
            some = slice(first, first + batch)
            given = pipeline_calls.arguments(call, prompts[some], drawn[some], num_inference_steps)
            begun = len(kept)
            pipe(**{**given, **pipeline_calls.undecoded(pipe)})
            kept[begun:] = [DenoiserCall(c.denoiser, run, i, c.args, c.kwargs) for i, c in enumerate(kept[begun:])]
    return kept


@contextmanager
def _kept(network: nn.Module, name: str, kept: list[DenoiserCall], device: Any) -> Iterator[None]:
    """Keep the arguments of every call that reaches a network; put on before an acceleration, which stands outside."""
    if getattr(network, "_compiled_call_impl", None) is not None:
        raise ValueError(f"calibration_calls(pipe=...): its {name} is compiled; take the calls before compile().")
    original = network.forward

    @functools.wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        kept.append(DenoiserCall(name, 0, 0, *_moved((args, kwargs), device)))
        return original(*args, **kwargs)

    with overridden(network, "forward", forward):
        yield


@torch.no_grad()
@guarded(calls=None)
def replay(network: nn.Module, calls: Iterable[DenoiserCall]) -> int:
    """Make recorded calls of a network again, as between the prepare and convert steps of a quantisation.

    It is the `forward_loop` of nvidia-modelopt, too: `mtq.quantize(net, config, lambda net: sc.replay(net, calls))`. A
    library that counts calls to tell steps apart must be told how many one run makes: the calls of `run` 0.

    Args:
        network: the denoiser that the calls were taken from, prepared, or a copy.
        calls: of that denoiser alone.

    Returns:
        How many were made.

    Raises:
        ValueError: no calls, or those of several denoisers.
    """
    if not hasattr(calls, "__iter__"):
        raise ValueError(f"replay(calls=...) must be calls of calibration_calls, got {type(calls).__name__}.")
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    names_of, count = set[str](), 0
    for call in calls:
        if not isinstance(call, DenoiserCall):
            raise ValueError(f"replay(calls=...) must come from calibration_calls, got {type(call).__name__}.")
        names_of.add(call.denoiser)
        if len(names_of) > 1:
            raise ValueError(f"replay(calls=...) are of {' and '.join(sorted(names_of))}; choose those of one.")
        there = call.to(device)
        network(*there.args, **there.kwargs)
        count += 1
    if not count:
        raise ValueError("replay(calls=...) holds no call.")
    return count


# Ranges over time.


def channel_ranges(
    network: nn.Module, calls: Sequence[DenoiserCall], chosen: Callable[[nn.Module, str], bool] | None = None
) -> dict[str, Tensor]:
    """The largest absolute value that every input channel of every linear layer takes in each call.

    Args:
        network: as for `replay`.
        calls: K of them.
        chosen: (module, name) -> whether it is measured; by default every `nn.Linear`.

    Returns:
        Name of the layer -> (K, channels).
    """
    found: dict[str, list[Tensor]] = {}
    layers = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and (chosen is None or chosen(module, name))
    }

    def measure(name: str, _module: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen = given[0].detach().abs().reshape(-1, given[0].shape[-1]).amax(0).float().cpu()
        if len(found[name]) and found[name][-1].isnan().all():
            found[name][-1] = seen
        else:  # called more than once in one call of the network
            found[name][-1] = torch.maximum(found[name][-1], seen)

    with ExitStack() as stack:
        for name, layer in layers.items():
            found[name] = []
            handle = layer.register_forward_pre_hook(functools.partial(measure, name))
            stack.callback(handle.remove)
        for call in calls:
            for name, layer in layers.items():
                found[name].append(torch.full((layer.in_features,), torch.nan))
            replay(network, [call])
    return {name: torch.stack(each) for name, each in found.items()}


def time_weighted(ranges: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Factors that balance channels by an average over time, weighted by each call's own range.

        w_t = max_c M[t, c],    m_c = sum_t w_t M[t, c] / sum_t w_t,    r_c = sqrt(clip(m_c / min_c m_c, 1, 10))

    Args:
        ranges: layer -> M, (calls, channels), as of `channel_ranges`; layers that were not called are left out.

    Returns:
        Layer -> r, (channels,), for `balance`.

    Reference: the temporal channel-wise reparametrisation of TCAQ-DM, arXiv:2412.16700, whose printed formula could
    not be read: SmoothQuant (arXiv:2211.10438) with a weighted mean over time in the place of the maximum.
    """
    found = {}
    for name, measured in ranges.items():
        known = measured[measured.isfinite().all(1)]
        if not len(known):
            continue
        weight = known.amax(1, keepdim=True)
        mean = (weight * known).sum(0) / weight.sum().clamp_min(torch.finfo(torch.float32).tiny)
        least = mean[mean > 0].min() if bool((mean > 0).any()) else mean.new_ones(())
        found[name] = (mean / least).clamp(1.0, MOST).sqrt()
    return found


class Balanced(nn.Module):
    """A linear layer with range moved from its input to its weights: y = (W r) (x / r) + b."""

    factors: Tensor

    def __init__(self, linear: nn.Linear, factors: Tensor) -> None:
        super().__init__()
        self.linear = nn.Linear(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        factors = factors.to(linear.weight)
        self.linear.weight = nn.Parameter(linear.weight.detach() * factors, requires_grad=False)
        if linear.bias is not None:
            self.linear.bias = linear.bias
        self.register_buffer("factors", factors)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x / self.factors)  # type: ignore[no-any-return]


@guarded()
def balance(network: nn.Module, factors: Mapping[str, Tensor]) -> None:
    """Replace linear layers by `Balanced` ones, in place, before static quantisation.

    Raises:
        ValueError: a name that is no linear layer of the network, or factors of another length.
    """
    layers = dict(network.named_modules())
    for name, values in factors.items():
        layer = layers.get(name)
        if not isinstance(layer, nn.Linear) or len(values) != layer.in_features:
            raise ValueError(f"balance(factors=...): {name!r} is no linear layer of {len(values)} inputs.")
    for name, values in factors.items():
        parent, _, last = name.rpartition(".")
        setattr(network.get_submodule(parent), last, Balanced(layers[name], values))  # type: ignore[arg-type]
