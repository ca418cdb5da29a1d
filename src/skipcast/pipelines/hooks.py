"""Our hooks in diffusers' registry: put on, kept on, taken off without a trace."""

from __future__ import annotations

import copy
import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

from diffusers.hooks import HookRegistry, ModelHook
from torch import nn

from skipcast.pipelines.branches import Branch

HOOK = "skipcast"
#: Parts of the names under which other caches register their hooks.
_FOREIGN = ("cache", "taylorseer", "pyramid", "faster", "first_block", "mag_")


class _Listener(ModelHook):  # type: ignore[misc]
    """Lets everything pass; its branch hears of `cache_context` for a hook that stands outside a compiled call."""

    _is_stateful = True

    def __init__(self, branch: Any) -> None:
        super().__init__()
        self.branch = branch

    def reset_state(self, module: nn.Module) -> nn.Module:
        return module


#: Held while hooks are put on or taken off: pipelines that share a network come and go in several threads.
_CHANGES = threading.RLock()


class Guest(ModelHook):  # type: ignore[misc]
    """What one accelerated pipeline makes of the calls of a module; other pipelines may call the same module."""

    #: Whether it has hooks inside the module too, which know one call at a time.
    alone = False

    def acts(self, module: nn.Module) -> bool:
        """Whether the call that is being made belongs to this pipeline."""
        raise NotImplementedError


class _Host(ModelHook):  # type: ignore[misc]
    """Hands every call of a module to the guest that it belongs to; calls of anybody else run plainly."""

    def __init__(self, *, stateful: bool) -> None:
        super().__init__()
        self._is_stateful = stateful  # so that `cache_context` reaches the branch below
        self.branch = Branch()
        self.guests: tuple[Guest, ...] = ()
        self._lock = threading.RLock()

    def initialize_hook(self, module: nn.Module) -> nn.Module:
        for guest in self.guests:
            guest.initialize_hook(module)
        return module

    def reset_state(self, module: nn.Module) -> nn.Module:
        return module  # a run begins with set_timesteps, not with the end of another

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with self._lock if any(guest.alone for guest in self.guests) else nullcontext():
            for guest in self.guests:
                if guest.acts(module):
                    return guest.new_forward(module, *args, **kwargs)
            return self.fn_ref.original_forward(*args, **kwargs)


@contextmanager
def registered(module: nn.Module, guest: Guest, name: str) -> Iterator[Registered]:
    """A guest on a module while in a `with` block; when the last one has left, the module is what it was."""
    with _CHANGES:
        place = getattr(vars(module).get("__deepcopy__"), "__self__", None)
        if not isinstance(place, Registered):
            place = Registered(module, name, stateful=guest._is_stateful)
        place.add(guest)
    try:
        yield place
    finally:
        with _CHANGES:
            place.remove(guest)


class Registered:
    """Our one hook on a module, for all pipelines that are accelerated on it.

    Of a module that was compiled in place (`module.compile()`, `compile_repeated_blocks`), the compiled call is wrapped
    instead of the forward that it was compiled from: decisions stay outside the graph, which then has no break.
    """

    def __init__(self, module: nn.Module, name: str, *, stateful: bool) -> None:
        self.module, self.hook, self.name = module, _Host(stateful=stateful), name
        self._compiled: Callable[..., Any] | None = None

    def add(self, guest: Guest) -> None:
        """Take a guest in."""
        first = not self.hook.guests
        self.hook.guests = (*self.hook.guests, guest)
        if first:
            self._put_on()
        else:
            guest.initialize_hook(self.module)
            guest.fn_ref = self.hook.fn_ref

    def remove(self, guest: Guest) -> None:
        """Let a guest go."""
        self.hook.guests = tuple(other for other in self.hook.guests if other is not guest)
        if not self.hook.guests:
            self._take_off()

    def _put_on(self) -> None:
        own = vars(getattr(self.module, "_orig_mod", self.module))  # torch.compile's wrapper keeps a registry there
        self.had_registry, self.had_forward = "_diffusers_hook" in own, "forward" in vars(self.module)
        self.registry = HookRegistry.check_if_exists_or_initialize(self.module)
        self._register()
        vars(self.module).update(__deepcopy__=self._copied, __getstate__=self._state)

    def _copied(self, memo: dict[int, Any]) -> Any:
        """A copy of the module as it was without the hook, which would have the copy run the original's network."""
        with _CHANGES:
            self._take_off()
            try:
                return copy.deepcopy(self.module, memo)
            finally:
                self._put_on()

    def _state(self) -> Any:
        """What the module is without the hook, for shallow copies and pickles; nor what removed hooks leave on it."""
        with _CHANGES:
            self._take_off()
            try:
                found = type(self.module).__getstate__(self.module)
                if isinstance(found, dict):
                    left = {"forward"} if getattr(found.get("forward"), "__self__", None) is self.module else set()
                    left |= set() if self.registry.hooks else {"_diffusers_hook"}
                    found = {name: value for name, value in found.items() if name not in left}
                return found
            finally:
                self._put_on()

    def _register(self) -> None:
        self._compiled = vars(self.module).get("_compiled_call_impl")
        if self._compiled is None:
            before = self.module.forward
            self.registry.register_hook(self.hook, self.name)
            self._ref = self.hook.fn_ref
            self._ours = self._ref.forward
            functools.update_wrapper(self.module.forward, before)  # diffusers before 0.40 hides the signature
        else:
            self.hook.initialize_hook(self.module)
            self.hook.fn_ref = SimpleNamespace(original_forward=self._compiled)
            self._around = functools.partial(self.hook.new_forward, self.module)
            self.module._compiled_call_impl = self._around
            if self.hook._is_stateful:
                own = vars(self.module).get("forward")
                self.registry.register_hook(_Listener(self.hook.branch), self.name)
                # It only listens: another forward under the compiled call would be compiled anew.
                if own is None:
                    del self.module.forward
                else:
                    self.module.forward = own
        for guest in self.hook.guests:
            guest.fn_ref = self.hook.fn_ref
        self.top = self.module.forward

    def _holders(self) -> list[tuple[dict[str, Any], str]]:
        """Attributes, of the module and of hooks above ours, that hold our forward."""
        places: list[dict[str, Any]] = [vars(self.module), *map(vars, self.registry._fn_refs)]  # type: ignore[list-item]
        return [(place, name) for place in places for name, value in place.items() if value is self.top]

    def _lost(self) -> bool:
        """Whether nobody calls our forward any more, or somebody outside the registry has put theirs in its place."""
        order = self.registry._hook_order
        if self.name not in order or self._compiled is not None:
            return False
        return not self._holders() or bool(order[-1] == self.name and self.module.forward is not self.top)

    def _repair(self) -> None:
        """Step in again where the removal of a hook below ours put the forward in our place."""
        if self._compiled is None and self._ref.forward is not self._ours:
            self._ref.original_forward, self._ref.forward = self._ref.forward, self._ours

    def _unregister(self) -> None:
        self._repair()
        if self._compiled is not None and vars(self.module).get("_compiled_call_impl") is self._around:
            self.module._compiled_call_impl = self._compiled
        if self.name not in self.registry.hooks:
            return
        # By hand: the registry's own removal would cut out the hook above, and leave it with ours to go back to.
        place = self.registry._hook_order.index(self.name)
        self.registry._hook_order.pop(place)
        del self.registry.hooks[self.name]
        ours = self.registry._fn_refs.pop(place)
        below = ours.original_forward or ours.forward
        for owner, name in self._holders():
            owner[name] = below
        ours.forward = below  # whoever else holds our forward passes through it

    def ensure(self) -> None:
        """Register again where our place was taken: model offload removes its hooks after every call, and ours with
        them, and a module may have been compiled since."""
        with _CHANGES:
            self._ensure()

    def _ensure(self) -> None:
        compiled = vars(self.module).get("_compiled_call_impl")
        self._repair()
        order = self.registry._hook_order
        if self.name in order and any(name.startswith("cp_") for name in order[order.index(self.name) + 1 :]):
            raise RuntimeError(
                "context parallelism was enabled inside accelerate(), which then sees a share of every sample; call "
                "enable_parallelism() first."
            )
        if self._lost() or compiled is not (None if self._compiled is None else self._around):
            self._unregister()
            self._register()

    def _take_off(self) -> None:
        for name in ("__deepcopy__", "__getstate__"):
            vars(self.module).pop(name, None)
        self._unregister()
        # Removal leaves the original forward as an instance attribute and the registry in place; a wrapper that
        # somebody put there meanwhile stays.
        if not self.had_forward and inspect.ismethod(vars(self.module).get("forward")):
            del self.module.forward
        if not self.had_registry and not self.registry.hooks:
            vars(getattr(self.module, "_orig_mod", self.module)).pop("_diffusers_hook", None)


def forget_children(denoiser: nn.Module) -> None:
    """Registries cache the list of hooked descendants; it has changed."""
    registry = getattr(denoiser, "_diffusers_hook", None)
    if registry is not None:
        registry._child_registries_cache = None


def check_no_other_cache(denoiser: nn.Module, *, ours: bool = False) -> None:
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
                if ours:
                    continue
                raise ValueError(f"this network is already accelerated (hook on {where}); leave that context first.")
            if any(mark in name.lower() for mark in _FOREIGN):
                raise ValueError(f"another cache is already enabled: hook {name!r} on {where}; remove it first.")


def foreign_forwards(denoiser: nn.Module) -> list[str]:
    """Where somebody else has put a forward of theirs, as caches do that patch networks by hand.

    A class keeps its forward in the module that defines it; an instance has one of its own only under the hooks of
    diffusers and accelerate.
    """
    found = []
    for path, module in denoiser.named_modules():
        where = path or type(denoiser).__name__
        kind = next(kind for kind in type(module).__mro__ if "forward" in vars(kind))
        if getattr(vars(kind)["forward"], "__module__", kind.__module__) != kind.__module__:
            found.append(f"the forward of class {kind.__name__} ({where})")
        elif "forward" in vars(module) and not {"_hf_hook", "_diffusers_hook"} & vars(module).keys():
            found.append(f"the forward of {where}")
    return found


def readers(denoiser: nn.Module) -> list[str]:
    """Modules inside a denoiser that somebody listens to with torch's own hooks."""
    return [
        path
        for path, module in denoiser.named_modules()
        if path and (module._forward_hooks or module._forward_pre_hooks)
    ]
