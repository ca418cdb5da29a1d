"""Methods with targets inside the denoiser, and a FLUX transformer taken apart to check them by hand."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from skipcast import Method, Run
from skipcast.controllers import Controller, Periodic, Probe
from skipcast.forecasters import Lagrange, Reuse, TaylorSeer
from skipcast.pipelines.networks import denoisers
from skipcast.targets import ModuleOutputs, SpanDrift, StagedSpans, Target
from support.tiny import compiled, flux_transformer

EVERY_FOURTH = Periodic(3, 4)  # 0, 1, 2, 6 and 10 of 12
TARGETS: list[Target] = [
    SpanDrift(skip_first=1),
    SpanDrift(skip_first=1, skip_last=1),
    SpanDrift(skip_first="double"),
    SpanDrift(skip_last=1, verify=True),
    StagedSpans(share=0.6, boundary=0.5),
    ModuleOutputs(),
]
METHODS = [
    Method(Lagrange(1), EVERY_FOURTH, target=TARGETS[0]),
    Method(TaylorSeer(1, start=1), EVERY_FOURTH, target=TARGETS[1]),
    Method(Reuse(), EVERY_FOURTH, target=TARGETS[2]),
    Method(TaylorSeer(2, start=1), EVERY_FOURTH, target=TARGETS[3]),
    Method(Reuse(), EVERY_FOURTH, target=TARGETS[4]),
    Method(TaylorSeer(1, start=1), EVERY_FOURTH, target=TARGETS[5]),
]
#: Which forecast the output, the block stack and the modules of every block; a plan is made of the last one.
OUTPUT, STACK, LINEAR = "taylorseer:order=1,interval=3", "resilphase:interval=3", "lagrange:order=1,interval=3"
MODULES = Method(TaylorSeer(1), Periodic(3, 3), target=ModuleOutputs())
SEAMS = [OUTPUT, STACK, MODULES]


def method_id(method: str | Method) -> str:
    """A short test id."""
    return method if isinstance(method, str) else repr(method.target)


every_method = pytest.mark.parametrize("method", SEAMS, ids=method_id)
every_seam = pytest.mark.parametrize("seam", ["output", "stack", "modules", "plan"])


def method_at(seam: str, pipe: Any) -> Any:
    """The method of a seam; a plan for calls like the newest one of the pipeline."""
    return compiled(pipe, LINEAR) if seam == "plan" else {"output": OUTPUT, "stack": STACK, "modules": MODULES}[seam]


def state(pipe: Any) -> list[Any]:
    """Everything that accelerating could leave behind: instance attributes of every module, scheduler and pipeline."""
    modules = [
        (name, sorted(vars(module)), vars(module).get("forward"))
        for network in denoisers(pipe)
        for name, module in network.named_modules()
    ]
    return [modules, id(pipe.scheduler), sorted(vars(pipe.scheduler)), sorted(vars(pipe)), dict(pipe.config)]


def furniture(pipe: Any) -> list[Any]:
    """Everything that hooks leave on a pipeline, in words that hold for its twin too.

    Removing a hook leaves the class's own forward as an attribute, or an empty registry. Those count as nothing: after
    hooks that came and went inside a context there are fewer of them.
    """
    found: list[Any] = [sorted(vars(pipe)), type(pipe.scheduler), sorted(vars(pipe.scheduler)), dict(pipe.config)]
    for name, module in pipe.transformer.named_modules():
        own = dict(vars(module))
        registry = own.pop("_diffusers_hook", None)
        if inspect.ismethod(own.get("forward")):
            del own["forward"]
        torch_hooks = [len(own[key]) for key in ("_forward_hooks", "_forward_pre_hooks")]
        found.append((name, sorted(own), list(registry._hook_order) if registry else [], torch_hooks))
    return found


class Deep:
    """2 + 3 blocks with a scheduler, and the arguments of six steps; enough of a pipeline for `accelerate`."""

    def __init__(self, **changes: Any) -> None:
        self.transformer = flux_transformer(**{"num_layers": 2, "num_single_layers": 3, **changes})
        self.scheduler = FlowMatchEulerDiscreteScheduler()
        config, noise = self.transformer.config, torch.Generator().manual_seed(1)
        self.text = torch.randn(1, 5, config.joint_attention_dim, generator=noise)
        self.pooled = torch.randn(1, config.pooled_projection_dim, generator=noise)
        self.samples = torch.randn(6, 1, 4, 16, generator=noise)
        self.ids = torch.arange(9 * 3, dtype=torch.float32).view(9, 3) % 4

    @property
    def blocks(self) -> list[nn.Module]:
        return [*self.transformer.transformer_blocks, *self.transformer.single_transformer_blocks]

    @property
    def attentions(self) -> list[nn.Module]:
        """A part of every block that runs where its attention does; a skipped attention module is called itself."""
        return [block.attn.to_q for block in self.blocks]

    def begin(self, steps: int = 6) -> None:
        self.scheduler.set_timesteps(steps)
        self.scheduler.set_begin_index(0)
        self.times = self.scheduler.timesteps / 1000

    @torch.no_grad()
    def call(self, step: int, **further: Any) -> Tensor:
        """The denoiser at a step, on a sample that no earlier output has touched."""
        self.scheduler._step_index = step
        return self.transformer(
            hidden_states=self.samples[step],
            encoder_hidden_states=self.text,
            pooled_projections=self.pooled,
            timestep=self.times[step : step + 1],
            txt_ids=self.ids[:5],
            img_ids=self.ids[5:],
            return_dict=False,
            **further,
        )[0]

    @torch.no_grad()
    def embedded(self, step: int) -> SimpleNamespace:
        """What enters the first block."""
        net = self.transformer
        return SimpleNamespace(
            image=net.x_embedder(self.samples[step]),
            text=net.context_embedder(self.text),
            time=net.time_text_embed(self.times[step : step + 1] * 1000, self.pooled),
            rope=net.pos_embed(self.ids),
        )

    @torch.no_grad()
    def walk(self, at: SimpleNamespace, start: int, stop: int) -> None:
        """Tokens through blocks start .. stop - 1."""
        for block in self.blocks[start:stop]:
            at.text, at.image = block(at.image, at.text, at.time, at.rope)

    @torch.no_grad()
    def end(self, at: SimpleNamespace) -> Tensor:
        return self.transformer.proj_out(self.transformer.norm_out(at.image, at.time))


@dataclass(frozen=True)
class Spy(Controller):
    """Evaluates the steps given and keeps what it is shown at each; the first is evaluated without asking."""

    steps: tuple[int, ...]
    look: Probe = "none"
    seen: dict[int, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def probe(self) -> Probe:
        return self.look

    def check(self, steps: int) -> None: ...

    def evaluate(self, run: Run) -> bool:
        self.seen[run.step] = run.probe
        return run.step in self.steps


@contextmanager
def hooked(modules: Iterable[nn.Module], note: Callable[..., Any]) -> Iterator[None]:
    """With a forward hook on every one of the modules."""
    handles = [module.register_forward_hook(note) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def counted(*modules: nn.Module) -> Iterator[dict[nn.Module, int]]:
    """How often each of the modules ran."""
    counts = dict.fromkeys(modules, 0)

    def note(module: nn.Module, *_: Any) -> None:
        counts[module] += 1

    with hooked(modules, note):
        yield counts
