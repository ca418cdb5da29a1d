"""A guided network evaluated one branch at a time: every step of the pipeline is a pass of one branch.

A pipeline makes of both branches u + w (c - u), or a rescaled form of it. Given one output for both it makes that
output, whatever w is, so that a branch alone reaches the scheduler through the pipeline's own arithmetic and layout.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from skipcast.pipelines.hooks import Guest
from skipcast.pipelines.networks import Form, output_of, value_of
from skipcast.pipelines.rows import Undivided, picked_of, repeated
from skipcast.plans.closed_loop import BRANCHES, Pass

_CURE = "use a plan of whole evaluations, which profile.plan() solves without branches=True"


class Passes:
    """Answers the calls of the network in a run whose steps are passes.

    - "lead": the leading branch is evaluated, and its output stands for both.
    - "other": the other branch is evaluated at the sample of the pass before, whose output stands for the leading one.

    Args:
        branches: where the leading branch is found, one of `BRANCHES`.
        kinds: of every step, "lead" or "other".
    """

    def __init__(self, branches: str, kinds: Sequence[Pass]) -> None:
        if branches not in BRANCHES:
            raise ValueError(f"branches={branches!r} must be one of {', '.join(BRANCHES)}.")
        self.branches, self.kinds = branches, tuple(kinds)
        self._place = self._calls = 0
        self._form: Form | None = None
        self._kept: Tensor | None = None  # of the newest leading pass
        self._seen = False  # whether the rows of the batch are known to be both branches

    def answer(
        self, evaluate: Callable[..., Any], whole: Callable[[], Any], given: Mapping[str, Any], sample: str
    ) -> tuple[Any, bool]:
        """The output for a call of the network, and whether it was evaluated.

        Args:
            evaluate: the network, with arguments by name.
            whole: the call as it came.
            given: its arguments by name.
            sample: the name of the first.

        Raises:
            ValueError: calls that do not come as the plan says, or a batch that cannot be divided.
        """
        kind, number = self.kinds[min(self._place, len(self.kinds) - 1)], self._calls
        self._calls += 1
        if self.branches == "first call":
            if number < 2 and (number == 0) == (kind == "lead"):
                output = whole()
                if kind == "lead":
                    self._keep(output)
                return output, True
            return self._filled(self._lead(), given), False
        return self._filled(self._halves(kind, evaluate, given, sample), given), True

    def done(self) -> None:
        """The step is over.

        Raises:
            ValueError: the network was not called for both branches.
        """
        calls = self._calls
        self._place, self._calls = self._place + 1, 0
        if calls != (2 if self.branches == "first call" else 1):
            raise ValueError(
                f"the pipeline called its network {calls} times at a step, and this plan, whose leading guidance "
                f"branch is the {self.branches}, needs both branches at every step: give the guidance that it was "
                f"recorded with, or {_CURE}."
            )

    def bytes(self) -> int:
        """Memory of what is kept, in bytes."""
        return 0 if self._kept is None else self._kept.numel() * self._kept.element_size()

    def _keep(self, output: Any) -> None:
        self._form = Form(output)
        if not self._form.single:
            raise ValueError(f"the network returns further values beside the first, as of sound: {_CURE}.")
        self._kept = output_of(output).detach().clone()  # the network may reuse its output buffer

    def _lead(self) -> Tensor:
        if self._kept is None:
            raise ValueError(f"a run of passes begins with one of its leading guidance branch: {_CURE}.")
        return self._kept.clone()  # pipelines may compute in place

    def _filled(self, value: Tensor, given: Mapping[str, Any]) -> Any:
        assert self._form is not None
        return self._form.filled(value, return_dict=given.get("return_dict", True))

    def _halves(self, kind: Pass, evaluate: Callable[..., Any], given: Mapping[str, Any], sample: str) -> Tensor:
        """Both halves of the output, of which one is evaluated."""
        rows = len(given[sample])
        half, second = rows // 2, (kind == "lead") == (self.branches == "second half")
        if not self._seen and (rows % 2 or not repeated(value_of(given[sample]), half)):
            raise ValueError(
                f"the network is given {rows} rows that are not every sample once for each guidance branch: give the "
                f"guidance that the plan was recorded with, or {_CURE}."
            )
        self._seen = True
        picked = torch.arange(half, rows) if second else torch.arange(half)
        try:
            arguments = picked_of(given, sample, picked, rows)
        except Undivided as error:
            raise ValueError(f"{error}: {_CURE}.") from None
        output = evaluate(**arguments)
        if kind == "lead":
            self._keep(output)
        lead, value = self._lead(), output_of(output)
        return torch.cat([lead, value] if second else [value, lead])


class _Everywhere(Guest):
    """Acts in every call of a network, and knows its arguments by name."""

    def initialize_hook(self, module: nn.Module) -> nn.Module:
        self._parameters = list(inspect.signature(getattr(module, "_orig_mod", module).forward).parameters)
        return module

    def acts(self, module: nn.Module) -> bool:
        return True

    def named(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """All arguments of a call."""
        return {**dict(zip(self._parameters, args, strict=False)), **kwargs}


class PassHook(_Everywhere):
    """Has `Passes` answer every call of a network."""

    def __init__(self, passes: Passes) -> None:
        super().__init__()
        self.passes = passes

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        original, sample = self.fn_ref.original_forward, self._parameters[0]
        named = self.named(args, kwargs)
        return self.passes.answer(original, lambda: original(*args, **kwargs), named, sample)[0]


class Listening(_Everywhere):
    """Notes how many rows every call of a network has; each network needs one of its own."""

    def __init__(self, rows: list[int]) -> None:
        super().__init__()
        self.rows = rows

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        self.rows.append(len(self.named(args, kwargs)[self._parameters[0]]))
        return self.fn_ref.original_forward(*args, **kwargs)
