"""Networks that only feed the denoiser, such as a ControlNet: left out where the denoiser is forecast."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from skipcast.controllers import StaticController
from skipcast.parts import Method
from skipcast.pipelines.hooks import Guest
from skipcast.pipelines.session import Session
from skipcast.pipelines.steps import TIMES

#: Attributes of pipelines that hold them.
NAMES = ("controlnet",)


def companions(pipe: Any, method: Any) -> list[nn.Module]:
    """The networks that may be skipped: none unless the method forecasts the output at steps known beforehand."""
    if not isinstance(method, Method) or method.target.seam != "output":
        return []
    if not isinstance(method.controller, StaticController):
        return []
    return [network for name in NAMES if isinstance(network := getattr(pipe, name, None), nn.Module)]


class CompanionHook(Guest):
    """Evaluates together with the denoiser; at forecast steps it returns unused zeros of the same shapes."""

    def __init__(self, method: Method, session: Session) -> None:
        super().__init__()
        self.method, self.session = method, session
        self._last: Any = None  # zeros without memory, in the form of the newest evaluation
        self._shapes: dict[str, Any] = {}  # of everything that it was given then

    def initialize_hook(self, module: nn.Module) -> nn.Module:
        self._parameters = list(inspect.signature(module.forward).parameters)
        self._time = next((name for name in TIMES if name in self._parameters), "")
        return module

    def acts(self, module: nn.Module) -> bool:
        return self.session.owns(module)

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(self._parameters, args, strict=False)), **kwargs}
        shapes = {name: value.shape for name, value in given.items() if isinstance(value, Tensor)}
        # A changed batch, as under a callback that cuts guidance, is another branch of the denoiser, which begins here.
        if shapes == self._shapes and self.session.forecasts_next(self.method, given.get(self._time)):
            return self._last
        output = self.fn_ref.original_forward(*args, **kwargs)
        self._last, self._shapes = _emptied(output), shapes
        return output


def _emptied(output: Any) -> Any:
    """The same structure with every tensor a view of one zero."""
    if isinstance(output, Tensor):
        return torch.zeros((), dtype=output.dtype, device=output.device).expand(output.shape)
    if isinstance(output, dict):
        return type(output)(**{name: _emptied(value) for name, value in output.items()})
    if isinstance(output, list | tuple):
        return type(output)(_emptied(value) for value in output)
    return output
