"""A profile: the Gram matrices of recorded trajectories, all that the open-loop solve needs to know of a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from skipcast.checkpoint import write_whole
from skipcast.grid import Vector
from skipcast.plans.plan import Origin

if TYPE_CHECKING:
    from skipcast.plans.plan import Plan
    from skipcast.plans.refine import Effort

Matrix = NDArray[np.float64]
FORMAT = "skipcast-profile-1"


@dataclass(frozen=True, eq=False)
class Profile:
    """Recorded trajectories of M pairs (prompt and seed), as inner products.

    The basis of a pair is x_0 (its noise) and the outputs y_0 .. y_{N-1} as the scheduler receives them; for the
    converged reference also its states x_1 .. x_N at the nodes of the grid. K = N + 1, or 2 N + 1.

    Args:
        grams: G[p, a, b] = mean over elements of basis_a basis_b of pair p, (M, K, K) float64.
        states: reference state i = sum_b states[i, b] basis_b, (N + 1, K).
        timesteps: what the steps tell the network, (N,).
        scale: factors by which the scheduler scales the network's input, (N,).
        gain: squared error of the decoded picture in [0, 1] over that of the final sample, per pair, (M,).
        origin: what was recorded.
        trajectory: x_i of every pair, (M, N + 1, *shape), which closing the loop needs; None if not kept.

    Raises:
        ValueError: shapes that do not fit together.
    """

    grams: NDArray[np.float64]
    states: Matrix
    timesteps: Vector
    scale: Vector
    gain: Vector
    origin: Origin
    trajectory: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("grams", "states", "timesteps", "scale", "gain"):
            value = np.array(getattr(self, name), dtype=np.float64)
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        n, pairs = self.origin.steps, len(self.grams)
        k = n + 1 if self.origin.reference == "default" else 2 * n + 1
        shapes = {
            "grams": (pairs, k, k),
            "states": (n + 1, k),
            "timesteps": (n,),
            "scale": (n,),
            "gain": (pairs,),
        }
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"Profile({name}=...) must be {shape}, got {getattr(self, name).shape}.")
        if not pairs or pairs != len(self.origin.prompts) or pairs != len(self.origin.seeds):
            raise ValueError(f"Profile(grams=...) holds {pairs} pairs, its origin {len(self.origin.prompts)} prompts.")
        kept = self.trajectory
        if kept is not None and kept.shape != (pairs, n + 1, *self.origin.shape):
            raise ValueError(f"Profile(trajectory=...) must be {(pairs, n + 1, *self.origin.shape)}.")

    def __len__(self) -> int:
        return len(self.grams)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whole or not at all."""
        names = ("grams", "states", "timesteps", "scale", "gain")
        tensors = {name: torch.tensor(getattr(self, name)) for name in names}
        rows, columns = np.triu_indices(self.grams.shape[1])
        tensors["grams"] = tensors["grams"][:, rows, columns].contiguous()  # symmetric: half of it says all
        if self.trajectory is not None:
            tensors["trajectory"] = self.trajectory.contiguous()
        about = {"format": FORMAT, "origin": json.dumps(self.origin.as_dict())}
        write_whole(Path(path), save(tensors, metadata=about))

    def plan(
        self,
        *,
        nfe: int | None = None,
        speedup: float | None = None,
        psnr: float | None = None,
        refine: Any = None,
        effort: str | Effort = "normal",
        batch: int = 8,
        steps: Sequence[int] | None = None,
        advance: Callable[[str], None] = lambda note: None,
    ) -> Plan:
        """The plan for a budget or for a quality; give exactly one of `nfe`, `speedup` and `psnr`.

        Args:
            nfe: network evaluations m.
            speedup: at least N / m.
            psnr: the fewest evaluations whose predicted mean PSNR against the reference reaches this many dB.
            refine: the pipeline that was recorded, on which the loop is closed; None solves from the Gram matrices
                alone (open loop), which sees no error of its own and is much worse.
            effort: of a refined plan. "low" closes the loop on two step sets, 2 m evaluations per pair; "normal" and
                "high" close more and add joint sweeps of about m^3 / 6 evaluations per pair each (at ten, six
                unaccelerated runs), which is worth it where a plan serves for long. Or an `Effort`.
            batch: pairs per pipeline call of the refinement.
            steps: evaluated steps to use instead of searched ones; with `nfe` their number, or none of the three.
            advance: called with a note after every candidate.

        Raises:
            ValueError: contradicting arguments, a budget out of range, a quality that no plan is predicted to reach
                (says what the best is), or a pipeline that is not the recorded one.
        """
        from skipcast.plans.budget import Request, plan  # the solver knows profiles, they do not know it

        request = Request(nfe=nfe, speedup=speedup, psnr=psnr, steps=steps, effort=effort, batch=batch)
        return plan(self, request, refine, advance)

    def curve(
        self,
        budgets: Sequence[int],
        *,
        refine: Any = None,
        effort: str | Effort = "normal",
        batch: int = 8,
        advance: Callable[[str], None] = lambda note: None,
    ) -> list[Plan]:
        """One plan for each number of evaluations; the arguments are those of `plan`."""
        return [self.plan(nfe=budget, refine=refine, effort=effort, batch=batch, advance=advance) for budget in budgets]

    @classmethod
    def load(cls, path: str | Path) -> Profile:
        """Read a profile.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is not a profile.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no profile {path}; record one with `skipcast profile MODEL --out {path}`.")
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                if about.get("format") != FORMAT:
                    raise ValueError(f"{path} is not a profile: format {about.get('format')!r}, not {FORMAT!r}.")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a profile: {error}.") from error
        trajectory = tensors.pop("trajectory", None)
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        try:
            arrays["grams"] = _unpacked(arrays["grams"], arrays["states"].shape[1])
            return cls(**arrays, origin=Origin(**json.loads(about["origin"])), trajectory=trajectory)
        except (KeyError, TypeError, IndexError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not a profile: {error}.") from error


def _unpacked(packed: Matrix, size: int) -> NDArray[np.float64]:
    """Symmetric matrices from their upper triangles, (M, K (K + 1) / 2) to (M, K, K)."""
    rows, columns = np.triu_indices(size)
    if packed.ndim != 2 or packed.shape[1] != len(rows):
        raise TypeError(f"grams are {packed.shape}, {len(rows)} numbers per pair are needed")
    full = np.empty((len(packed), size, size))
    full[:, rows, columns] = packed
    full[:, columns, rows] = packed
    return full
