"""Recording a model inside ComfyUI, and solving a plan on it: no diffusers, and the conditionings of its own nodes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skipcast.checks import guarded, shown
from skipcast.engines.comfy.network import TRAINED, Network
from skipcast.engines.comfy.probing import name_of, table_of
from skipcast.engines.comfy.sampler import PROBED, PROBES, guidance_of, interrupted
from skipcast.grid import Vector
from skipcast.plans.closed_loop import Program
from skipcast.plans.plan import COMFYUI, Origin, Plan, versions
from skipcast.plans.profile import Profile
from skipcast.plans.propagation import Levels
from skipcast.plans.refine import EFFORTS, Advance

#: Inner products of a first and a last output that differ by more, relative to their size, are not the recorded ones;
#: in half precision.
_SAME, _SAME_COARSE = 1e-3, 5e-2
#: What of a conditioning is the text's; the rest, such as the guidance that FLUX is told, stays the guider's.
_OF_THE_TEXT = ("cross_attn", "pooled_output", "model_conds", "uuid")

#: Told how many evaluations are done.
Count = Callable[[int], None]
#: Takes (model, x, sigmas, extra_args) and returns the last sample, as samplers do.
Function = Callable[[Any, Tensor, Tensor, dict[str, Any]], Tensor]


@dataclass(frozen=True)
class Pairs:
    """What is recorded: prompts, seeds and guidance scales, one each.

    Args:
        prompts: "" for the guider's own conditioning.
        seeds: as of a RandomNoise node.
        scales: None for the guider's own.
        argument: "cfg", or "guidance" for a network that is told it.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    scales: tuple[float | None, ...]
    argument: str = "cfg"

    def __len__(self) -> int:
        return len(self.prompts)

    @classmethod
    def of(cls, guider: Any, prompts: str, seed: int, count: int, scales: str) -> Pairs:
        """From the texts of a node.

        Args:
            guider: whose scale is varied.
            prompts: one a line; "" for the guider's own conditioning with `count` seeds.
            seed: of the first pair; the others count on.
            count: pairs without prompts.
            scales: of guidance, with commas between; every pair is recorded at each. "" for the guider's own.

        Raises:
            ValueError: no numbers, or a guider without a scale.
        """
        lines = [line.strip() for line in prompts.splitlines() if line.strip()] or [""] * count
        try:
            values = sorted({float(word) for word in scales.replace(",", " ").split()})
        except ValueError:
            raise ValueError(f"Record Profile(scales={scales!r}) must be numbers with commas between.") from None
        argument = "cfg" if guidance_of(guider, "cfg") is not None else "guidance"
        if argument == "cfg" and guidance_of(guider, "guidance") is not None and guidance_of(guider, "cfg") == 1.0:
            argument = "guidance"
        if values and guidance_of(guider, argument) is None:
            raise ValueError(
                f"Record Profile(scales={scales!r}): {type(guider).__name__} has no one guidance scale; connect a "
                "CFGGuider, or put FluxGuidance before a BasicGuider."
            )
        numbers: list[float | None] = [*values] if values else [None]
        seeds = [seed + i for i in range(len(lines))]
        return cls(
            tuple(lines * len(numbers)),
            tuple(seeds * len(numbers)),
            tuple(number for number in numbers for _ in lines),
            argument,
        )


class Guided:
    """A guider of ComfyUI with the conditioning, the scale and the noise of any pairs.

    Args:
        guider: whose model and further conditionings are taken; it is left as it is.
        pairs: what is recorded.
        clip: encodes the prompts; None where there are none.
        shape: of one latent.
        batch: pairs per call, where their conditionings have one shape.

    Raises:
        ValueError: prompts without a clip.
    """

    def __init__(self, guider: Any, pairs: Pairs, clip: Any, shape: Sequence[int], batch: int) -> None:
        if any(pairs.prompts) and clip is None:
            raise ValueError("clip=...: prompts must be encoded; connect the CLIP of the model, or leave them empty.")
        self.guider, self.pairs, self.shape, self.batch = guider, pairs, tuple(shape), batch
        self.network = Network(guider.model_patcher.get_model_object("model_sampling"))
        known = {prompt: self._encoded(prompt, clip) for prompt in dict.fromkeys(pairs.prompts)}
        self._conds = [known[prompt] for prompt in pairs.prompts]

    def _encoded(self, prompt: str, clip: Any) -> list[Any] | None:
        """The conditioning of a prompt with the guider's further settings; None for the guider's own."""
        if not prompt:
            return None
        interrupted()
        own = self.guider.original_conds["positive"]
        kept = {key: value for key, value in own[0].items() if key not in _OF_THE_TEXT} if own else {}
        found = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
        return [[tokens, {**kept, **more}] for tokens, more in found]

    def groups(self, pairs: Sequence[int]) -> list[list[int]]:
        """Consecutive pairs whose conditionings go together, at most `batch` each."""
        found: list[list[int]] = []
        for pair in pairs:
            fits = found and len(found[-1]) < self.batch and self._key(found[-1][0]) == self._key(pair)
            found[-1].append(pair) if fits else found.append([pair])
        return found

    def _key(self, pair: int) -> Any:
        """What pairs of one call have in common; an object of its own for conditionings that go alone."""
        conds = self._conds[pair]
        if conds is None:
            return self.pairs.scales[pair], None
        if len(conds) != 1:
            return object()
        tokens, more = conds[0]
        kinds = [(key, value.shape if isinstance(value, Tensor) else id(value)) for key, value in more.items()]
        return self.pairs.scales[pair], tokens.shape, sorted(kinds, key=lambda kind: kind[0])

    def _guider(self, pairs: Sequence[int]) -> Any:
        """The guider of these pairs."""
        made, scale = copy.copy(self.guider), self.pairs.scales[pairs[0]]
        made.original_conds = dict(self.guider.original_conds)
        conds = [self._conds[pair] for pair in pairs]
        if conds[0] is not None:
            stacked = conds[0]
            if len(pairs) > 1:
                tokens = torch.cat([cond[0][0] for cond in conds])  # type: ignore[index]
                more = {
                    key: torch.cat([cond[0][1][key] for cond in conds]) if isinstance(value, Tensor) else value  # type: ignore[index]
                    for key, value in conds[0][0][1].items()
                }
                stacked = [[tokens, more]]
            made.inner_set_conds({"positive": stacked})
        if scale is not None and self.pairs.argument == "cfg":
            made.cfg = scale
        elif scale is not None:
            made.original_conds["positive"] = [{**cond, "guidance": scale} for cond in made.original_conds["positive"]]
        return made

    def noise(self, pairs: Sequence[int]) -> Tensor:
        """The noise of a RandomNoise node for a single latent, of each pair."""
        from comfy.sample import prepare_noise

        empty = torch.zeros(1, *self.shape)
        return torch.cat([prepare_noise(empty, self.pairs.seeds[pair]) for pair in pairs])

    def sample(self, pairs: Sequence[int], function: Function, sigmas: Tensor, noise: Tensor) -> None:
        """Run a function as the sampler of these pairs, with the model where ComfyUI puts it."""
        from comfy.samplers import KSAMPLER

        def run(model: Any, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any], **_: Any) -> Tensor:
            return function(model, x, sigmas, extra_args)

        self._guider(pairs).sample(
            noise,
            torch.zeros(len(pairs), *self.shape),
            KSAMPLER(run),
            sigmas,
            disable_pbar=True,
            seed=self.pairs.seeds[pairs[0]],
        )


class _Tape:
    """The model of a run, which keeps every sample that it is called with, and the network's output."""

    def __init__(self, model: Any, network: Network, count: Count) -> None:
        self._model, self._network, self._count = model, network, count
        self.states: list[Tensor] = []
        self.outputs: list[Tensor] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, x: Tensor, sigma: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        interrupted()
        denoised: Tensor = self._model(x, sigma, *args, **kwargs)
        self.states.append(x.float().cpu())
        self.outputs.append(self._network.output(float(sigma.flatten()[0]), denoised, x).float().cpu())
        self._count(len(x))
        return denoised


@guarded("Record Profile", guider=None, sampler=None, clip=None, batch=1)
def record(
    guider: Any,
    sampler: Any,
    sigmas: Tensor,
    shape: Sequence[int],
    pairs: Pairs,
    *,
    clip: Any = None,
    batch: int = 1,
    count: Count = lambda done: None,
) -> Profile:
    """Run a sampler unaccelerated on some pairs, and keep what plans are solved from.

    Args:
        guider: of ComfyUI.
        sampler: linear, deterministic and of one evaluation per step, such as euler or dpmpp_2m.
        sigmas: of the unaccelerated run, down to 0.
        shape: of one latent, without the batch.
        pairs: prompts, seeds and scales.
        clip: encodes the prompts.
        batch: pairs per call.
        count: told after every call how many evaluations it was.

    Raises:
        ValueError: a sampler that no fixed weights describe, sigmas that end above 0, a model that cannot be followed,
            or prompts without a clip; before any evaluation. Outputs that are not finite.
    """
    levels = sigmas.double().cpu().numpy()
    if sigmas.ndim != 1 or len(levels) < 3 or levels[-1] != 0 or (np.diff(levels) >= 0).any():
        raise ValueError(
            "Record Profile(sigmas=...) must be at least two levels that fall, and 0 at the end, got "
            f"{shown(levels.tolist())}; connect a BasicScheduler with denoise=1."
        )
    guided = Guided(guider, pairs, clip, shape, batch)
    network = guided.network
    table = table_of(sampler, network, sigmas)
    where = network.levels(levels)

    def tapes() -> Iterator[tuple[Tensor, Tensor]]:
        for group in guided.groups(range(len(pairs))):
            found: dict[str, Tensor] = {}

            def taped(
                model: Any, x: Tensor, given: Tensor, extra_args: dict[str, Any], found: dict[str, Tensor] = found
            ) -> Tensor:
                tape = _Tape(model, network, count)
                last: Tensor = sampler.sampler_function(
                    tape, x, given.clone(), extra_args=extra_args, callback=None, disable=True, **sampler.extra_options
                )
                found["states"] = torch.stack([*tape.states, last.float().cpu()], 1)
                found["outputs"] = torch.stack(tape.outputs, 1)
                return last

            guided.sample(group, taped, sigmas, guided.noise(group))
            yield found["states"], found["outputs"]

    return Profile.taped(
        tapes(),
        timesteps=np.array([network.timestep(float(level)) for level in levels[:-1]]),
        states=table,
        scale=np.array([network.scale(float(level)) for level in levels[:-1]]),
        origin=_origin(guided, sampler, levels, where),
    )


def _origin(guided: Guided, sampler: Any, sigmas: Vector, levels: Levels | None) -> Origin:
    """What a profile says of where it comes from."""
    network, pairs = guided.network, guided.pairs
    alpha, sigma = network.shares(sigmas)
    config: dict[str, Any] = {"alpha": alpha.tolist(), "sigma": sigma.tolist()}
    config[PROBED] = network.even(np.array(PROBES)).tolist()
    if levels is not None:
        config["prediction"] = levels.prediction
    call: dict[str, Any] = {"sampler": name_of(sampler)}
    own = guidance_of(guided.guider, pairs.argument) if pairs.scales[0] is None else pairs.scales[0]
    varied = {}
    if len(set(pairs.scales)) > 1:
        varied[pairs.argument] = pairs.scales
    elif own is not None:
        call[pairs.argument] = own
    return Origin(
        pipeline=COMFYUI + type(guided.guider.model_patcher.model).__name__,
        scheduler="",
        config=config,
        steps=len(sigmas) - 1,
        call=call,
        varied=varied,
        prompts=pairs.prompts,
        texts=any(pairs.prompts),
        seeds=pairs.seeds,
        versions={**versions("skipcast", "torch"), "comfyui": _version()},
    )


def _version() -> str:
    try:
        from comfyui_version import __version__
    except ImportError:
        return "unknown"
    return str(__version__)


# Solving.


class GuiderEvaluator:
    """Evaluates a guider on the pairs of a profile that was recorded here; `Profile.plan(refine=...)` takes it.

    Args:
        guider: the one that was recorded.
        profile: its recording, with the trajectory.
        clip: encodes the prompts; None where there are none.
        batch: pairs per call.
        count: told after every call how many evaluations it was.

    Raises:
        ValueError: a profile that was not recorded in ComfyUI, or a guider whose first sample does not give what was
            recorded.
    """

    def __init__(
        self, guider: Any, profile: Profile, *, clip: Any = None, batch: int = 1, count: Count = lambda done: None
    ) -> None:
        origin = profile.origin
        kind = type(guider.model_patcher.model).__name__
        if origin.pipeline != COMFYUI + kind:
            raise ValueError(
                f"this profile was recorded from {origin.pipeline or origin.scheduler or 'a denoiser'}, this guider's "
                f"model is {kind} of ComfyUI; record it with the Record Profile node."
            )
        if profile.trajectory is None:
            raise ValueError("this profile holds no trajectories, which solving needs; record it anew.")
        (argument,) = list(origin.varied) or [
            next((name for name in ("cfg", "guidance") if name in origin.call), "cfg")
        ]
        scales = origin.varied.get(argument, (origin.call.get(argument),) * len(profile))
        pairs = Pairs(origin.prompts, origin.seeds, tuple(scales), argument)
        self._guided = Guided(guider, pairs, clip, origin.shape, batch)
        self._profile, self._start, self._count = profile, profile.trajectory[:, 0], count
        alpha, sigma = np.array(origin.config["alpha"]), np.array(origin.config["sigma"])
        self._sigmas: Vector = sigma if self._guided.network.flow else sigma / alpha
        self.evaluations = 0
        self._compare()

    @property
    def network(self) -> Network:
        """The guider's."""
        return self._guided.network

    @property
    def coarse(self) -> bool:
        """Whether outputs are rounded to half precision."""
        found = getattr(self._guided.guider.model_patcher, "model_dtype", lambda: torch.float32)()
        return found in (torch.float16, torch.bfloat16)

    @property
    def levels(self) -> Levels | None:
        """Where the recorded steps lie."""
        return self.network.levels(self._sigmas)

    def groups(self, pairs: Sequence[int]) -> list[list[int]]:
        """The pairs as they can go together into calls."""
        return self._guided.groups(pairs)

    def call(self, pairs: Sequence[int], timesteps: Sequence[float], scale: Sequence[float], program: Program) -> None:
        """Run `program` on the pairs, with one evaluation per timestep."""
        levels = [self._level(float(time), float(factor)) for time, factor in zip(timesteps, scale, strict=True)]
        start, network, ended = self._start[list(pairs)], self.network, False

        def run(model: Any, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any]) -> Tensor:
            nonlocal ended
            running = program(start.to(x))
            state = next(running)
            for level in levels:
                interrupted()
                denoised = model(state, state.new_full((len(state),), level), **extra_args)
                self.evaluations += len(pairs)
                self._count(len(pairs))
                try:
                    state = running.send(network.output(level, denoised, state))
                except StopIteration:
                    ended = True
                    break
            return x

        sigmas = torch.tensor([self._sigmas[0], 0.0], dtype=torch.float32)
        self._guided.sample(pairs, run, sigmas, torch.zeros_like(start))
        if not ended:
            raise RuntimeError(f"the program wants more than its {len(levels)} evaluations.")

    def _level(self, timestep: float, scale: float) -> float:
        """The noise level of a call."""
        profile = self._profile
        off = np.abs(profile.timesteps - timestep) / max(1.0, abs(timestep)) + np.abs(profile.scale - scale)
        i = int(off.argmin())
        if off[i] <= 1e-9:
            return float(self._sigmas[i])
        if self.network.flow:
            return timestep / TRAINED
        return self.network.sigma(timestep)

    def _compare(self) -> None:
        """Refuse a guider whose first sample does not give what was recorded of it, at the first and last step."""
        profile, steps = self._profile, (0, self._profile.origin.steps - 1)
        assert profile.trajectory is not None
        states = [profile.trajectory[:1, step] for step in steps]
        found: list[Tensor] = []

        def program(x: Tensor) -> Any:
            for state in states:
                y = yield state.to(x)
                found.append(y.cpu())

        self.call([0], profile.timesteps[list(steps)].tolist(), profile.scale[list(steps)].tolist(), program)
        noise, table = self._start[:1], profile.grams[0]
        for step, y in zip(steps, found, strict=True):
            place = 1 + step
            got = np.array([float((noise * y).mean()), float((y * y).mean())])
            size = np.array([np.sqrt(table[0, 0] * table[place, place]), table[place, place]])
            off = float((np.abs(got - table[[0, place], place]) / np.maximum(size, 1e-300)).max())
            if not off <= (_SAME_COARSE if self.coarse else _SAME):
                raise ValueError(
                    f"Solve Plan(guider=...) is not what was recorded: at step {step} the output of the first sample "
                    f"is off by {off:.1e} (relative); connect the same model, conditionings and CLIP."
                )


@guarded("Solve Plan", guider=None, clip=None, evaluations=0, psnr=0, batch=1)
def solve(
    profile: Profile,
    guider: Any,
    *,
    evaluations: int = 0,
    psnr: float = 0.0,
    effort: str = "normal",
    clip: Any = None,
    batch: int = 1,
    advance: Advance = lambda note, share: None,
    count: Count = lambda done: None,
) -> Plan:
    """The plan of a profile that was recorded here, its loop closed on the guider.

    Timesteps are left as they are where the model rounds them.

    Args:
        profile: as of `record`.
        guider: the one that was recorded.
        evaluations: of the plan; 0 for the fewest that reach `psnr`.
        psnr: over the range of the latents, in dB; 0 with `evaluations`.
        effort: "low", "normal" or "high".
        clip: encodes the prompts.
        batch: pairs per call.
        advance: told the newest table, and the share of the work that is done at most.
        count: told after every call how many evaluations it was.

    Raises:
        ValueError: both or neither of `evaluations` and `psnr`, an unknown effort, or a guider that is not the recorded
            one.
    """
    if bool(evaluations) == bool(psnr):
        raise ValueError(
            f"Solve Plan(evaluations={evaluations}, psnr={psnr:g}): give one of the two, and 0 for the other."
        )
    if effort not in EFFORTS:
        raise ValueError(f"Solve Plan(effort={effort!r}) must be one of {', '.join(EFFORTS)}.")
    evaluator = GuiderEvaluator(guider, profile, clip=clip, batch=batch, count=count)
    work = replace(EFFORTS[effort], free_timesteps=not evaluator.network.rounds)
    return profile.plan(
        evaluations=evaluations or None, psnr=psnr or None, refine=evaluator, effort=work, advance=advance
    )  # type: ignore[call-overload, no-any-return]
