"""Our hooks in diffusers' registry: put on, kept on, taken off without a trace."""

from __future__ import annotations

from typing import Any

from diffusers.hooks import HookRegistry, ModelHook
from diffusers.hooks.hooks import BaseState, StateManager
from torch import nn

HOOK = "driftcast"
#: Parts of the names under which other caches register their hooks.
_FOREIGN = ("cache", "taylorseer", "pyramid", "faster", "first_block", "mag_")


class Registered:
    """A hook on a module while in a `with` block; afterwards the module's attributes are what they were."""

    def __init__(self, module: nn.Module, hook: ModelHook, name: str) -> None:
        self.module, self.hook, self.name = module, hook, name

    def __enter__(self) -> Registered:
        own = vars(self.module)
        self.had_registry, self.had_forward = "_diffusers_hook" in own, "forward" in own
        self.registry = HookRegistry.check_if_exists_or_initialize(self.module)
        self._register()
        return self

    def _register(self) -> None:
        self.registry.register_hook(self.hook, self.name)
        self.top = self.module.forward

    def _lost(self) -> bool:
        """Whether somebody else's forward stands where ours was put, and no later hook of the registry did that."""
        return bool(self.registry._hook_order[-1] == self.name and self.module.forward is not self.top)

    def _forget(self) -> None:
        place = self.registry._hook_order.index(self.name)
        self.registry._hook_order.pop(place)
        self.registry._fn_refs.pop(place)
        del self.registry.hooks[self.name]

    def ensure(self) -> None:
        """Register again where the forward was replaced: model offload takes its own off and on after every call."""
        if self._lost():
            self._forget()
            self._register()

    def __exit__(self, *_: object) -> None:
        if self._lost():
            self._forget()
        else:
            self.registry.remove_hook(self.name, recurse=False)
        # Removal leaves the original forward as an instance attribute and the registry in place.
        if not self.registry.hooks:
            if not self.had_forward:
                vars(self.module).pop("forward", None)
            if not self.had_registry:
                vars(self.module).pop("_diffusers_hook", None)


class Branch(StateManager):  # type: ignore[misc]
    """Learns the guidance branch from `cache_context`; the name is opaque, and None where a pipeline sets none."""

    def __init__(self) -> None:
        super().__init__(BaseState)
        self.name: str | None = None

    def set_context(self, context: Any) -> None:
        self.name = getattr(context, "name", context)

    def reset(self, *args: Any, **kwargs: Any) -> None:
        self.name = None


def forget_children(denoiser: nn.Module) -> None:
    """Registries cache the list of hooked descendants; it has changed."""
    registry = vars(denoiser).get("_diffusers_hook")
    if registry is not None:
        registry._child_registries_cache = None


def check_no_other_cache(denoiser: nn.Module) -> None:
    """Refuse a denoiser on which a cache of diffusers, of cache-dit or of ours is enabled; ValueError says which."""
    kind = type(denoiser).__name__
    if getattr(denoiser, "is_cache_enabled", False):
        raise ValueError(f"another cache is already enabled on {kind}; call its disable_cache() before accelerate().")
    if getattr(denoiser, "_is_cached", False):
        raise ValueError("cache-dit is already enabled on this pipeline; call cache_dit.disable_cache(pipe) first.")
    for path, module in denoiser.named_modules():
        registry = getattr(module, "_diffusers_hook", None)
        for name in registry.hooks if registry is not None else ():
            where = path or kind
            if name.startswith(HOOK):
                raise ValueError(f"this pipeline is already accelerated (hook on {where}); leave that context first.")
            if any(mark in name.lower() for mark in _FOREIGN):
                raise ValueError(f"another cache is already enabled: hook {name!r} on {where}; remove it first.")
