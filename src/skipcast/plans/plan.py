"""A plan: which steps are evaluated, and with which weights the sampler moves from one to the next."""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skipcast.checkpoint import write_whole
from skipcast.checks import Checked, check, guarded, shown
from skipcast.grid import Vector
from skipcast.plans.closed_loop import BRANCHES, Pass, Table, passes_of
from skipcast.reading import read_sealed, sealed_text, unsealed, why

Reference = Literal["default", "converged"]
#: No grid has more steps, and no weight, time or inner product is larger; what is larger would overflow in a solve.
MOST_STEPS, LARGEST = 10_000, 1e30
#: Of what was recorded in ComfyUI: `Origin.pipeline` is this and the class of the model.
COMFYUI = "comfyui:"
_DTYPES = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class Origin(Checked):
    """Where recorded trajectories come from; everything in it is plain JSON.

    Args:
        pipeline: name of the pipeline's class.
        scheduler: name of the scheduler's class; "" for the grid of a denoiser that has none.
        config: its configuration; of such a grid its levels `alpha` and `sigma`, N and the end, and its `prediction`.
        steps: N, the steps of the recorded run.
        reference: "default", the N-step run itself, or "converged", the same model integrated finely.
        revision: what identifies the weights, if known.
        call: further arguments of the pipeline calls, such as the guidance.
        varied: arguments that differ from pair to pair, such as several guidance scales: one value per pair each.
        prompts: one per pair, as texts; a profile keeps them, a plan does not.
        texts: whether the pipeline was given these texts, or arguments of which they are descriptions.
        seeds: one per pair, as the prompts.
        pairs: one `pair_hash` per pair; follows from prompts and seeds where these are given.
        shape: of one sample, without the batch.
        versions: of the libraries that recorded it.
        arrays: what a denoiser without a pipeline takes: namespace, dtype and device of its arrays.
        model: the hub id of the model, if it came from there; `revision` is then its commit.
        fingerprint: norms of a few of its weights by their names, which tell a fine-tune from it.
    """

    pipeline: str
    scheduler: str
    config: Mapping[str, Any]
    steps: int
    reference: Reference = "default"
    revision: str | None = None
    call: Mapping[str, Any] = field(default_factory=dict)
    varied: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    prompts: tuple[str, ...] = ()
    texts: bool = True
    seeds: tuple[int, ...] = ()
    pairs: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    arrays: str = ""
    model: str = ""
    fingerprint: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= MOST_STEPS:
            raise ValueError(f"Origin(steps={shown(self.steps)}) must be from 1 to {MOST_STEPS}.")
        for name in ("prompts", "seeds", "pairs", "shape"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.prompts:
            object.__setattr__(self, "pairs", tuple(map(pair_hash, self.prompts, self.seeds)))
        object.__setattr__(self, "config", json.loads(json.dumps(dict(self.config))))
        object.__setattr__(self, "call", json.loads(json.dumps(dict(self.call))))
        object.__setattr__(self, "fingerprint", json.loads(json.dumps(dict(self.fingerprint))))
        varied = {name: tuple(values) for name, values in self.varied.items()}
        object.__setattr__(self, "varied", varied)
        for name, values in varied.items():
            if len(values) != len(self.pairs):
                raise ValueError(f"Origin(varied=...): {len(values)} values of {name} for {len(self.pairs)} pairs.")
        self._check_grid()

    def _check_grid(self) -> None:
        """Refuse levels of a grid without a scheduler that are none, and arrays of no known kind."""
        levels = [self.config.get(name) for name in ("alpha", "sigma")] if not self.scheduler else []
        if any(values is not None for values in levels):
            for name, values in zip(("alpha", "sigma"), levels, strict=True):
                numbers: list[Any] = [None]
                if isinstance(values, list) and len(values) == self.steps + 1:
                    numbers = values
                if not all(type(level) in (int, float) and abs(level) <= LARGEST for level in numbers):
                    raise ValueError(
                        f"Origin(config=...): {name} must be {self.steps + 1} numbers, the levels of {self.steps} "
                        f"steps and the end, got {shown(values)}."
                    )
        trained = self.config.get("num_train_timesteps", 1)  # of which schedulers make tables
        if type(trained) is not int or not 1 <= trained <= 1_000_000:
            raise ValueError(f"Origin(config=...): num_train_timesteps is {shown(trained)}, from 1 to a million exist.")
        if not all(0 <= norm <= LARGEST for norm in self.fingerprint.values()):
            raise ValueError(f"Origin(fingerprint={shown(self.fingerprint)}) must be norms by the names of weights.")
        words = self.arrays.split()
        if self.arrays and (len(words) not in (2, 3) or words[1] not in _DTYPES):
            raise ValueError(f"Origin(arrays={shown(self.arrays)}) must be a namespace, a dtype and a device.")

    def call_of(self, pair: int) -> dict[str, Any]:
        """The arguments of the pipeline call of one pair."""
        return {**self.call, **{name: values[pair] for name, values in self.varied.items()}}

    def public(self) -> Origin:
        """The same without words: prompts, seeds and texts such as `negative_prompt` are left out, hashes are kept."""
        kept = {name: _without_words(name, value) for name, value in self.call.items()}
        varied = {name: tuple(_without_words(name, value) for value in values) for name, values in self.varied.items()}
        return replace(self, prompts=(), seeds=(), call=kept, varied=varied)

    def alike(self, pairs: Sequence[int]) -> list[list[int]]:
        """The pairs in groups of the same arguments, in the order of their first pair."""
        groups: dict[str, list[int]] = {}
        for pair in pairs:
            groups.setdefault(json.dumps(self.call_of(pair), sort_keys=True), []).append(pair)
        return list(groups.values())

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON values; `Origin(**d)` makes it again."""
        left_out = {"pairs"} if self.prompts else {"prompts", "seeds"}
        # What older files do not have is left out, so that theirs are the same digests.
        left_out |= {name for name in ("arrays", "model", "fingerprint") if not getattr(self, name)}
        return {key: value for key, value in json.loads(json.dumps(asdict(self))).items() if key not in left_out}


def _without_words(name: str, value: Any) -> Any:
    return word(value) if isinstance(value, str) and value and "prompt" in name else value


def pair_hash(prompt: str, seed: int) -> str:
    """What identifies a pair without its words: the first 16 hexadecimal digits of SHA-256 over prompt and seed."""
    return hashlib.sha256(json.dumps([prompt, seed]).encode()).hexdigest()[:16]


def word(value: Any) -> str:
    """The placeholder that an origin holds for an argument that is no plain value, such as '<Image>'."""
    return f"<{type(value).__name__}>"


def is_word(value: Any) -> bool:
    """Whether a stored argument is a placeholder made by `word`."""
    return isinstance(value, str) and value.startswith("<") and value.endswith(">")


def versions(*packages: str) -> dict[str, str]:
    """The installed versions of these packages; "source" for one that is not installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "source"
    return found


FORMAT = "skipcast-plan-1"
MOST_BYTES = 2**26  # of a file; that of ten evaluations has ten thousand


@dataclass(frozen=True)
class Prediction(Checked, infinite=True):  # identical images
    """What a plan is expected to reach against its reference, from the errors of single pairs.

    Args:
        psnr: mean over the pairs, in dB.
        worst5: mean of the worst twentieth of the pairs (at least one), in dB.
        worst: the worst pair, in dB.
        pairs: how many.
        held_out: whether these pairs were kept out of the fit.
        closed: whether the plan was run (closed loop), or its error taken from the recording alone (open loop).
    """

    psnr: float
    worst5: float
    worst: float
    pairs: int
    held_out: bool
    closed: bool

    def __post_init__(self) -> None:
        for name, figure in {"psnr": self.psnr, "worst5": self.worst5, "worst": self.worst}.items():
            if not (abs(figure) <= LARGEST or figure == math.inf):
                raise ValueError(f"Prediction({name}=...) must be decibels, got {shown(figure)}.")
        if self.pairs < 1:
            raise ValueError(f"Prediction(pairs=...) must be at least 1, got {shown(self.pairs)}.")

    @classmethod
    def of(cls, psnr: ArrayLike, *, held_out: bool, closed: bool) -> Prediction:
        """From the PSNR of every pair, (M,)."""
        rising = np.sort(np.asarray(psnr, dtype=np.float64))
        if not len(rising):
            raise ValueError("Prediction.of(psnr=...) needs at least one pair.")
        worst = worst_twentieth(rising)
        return cls(float(rising.mean()), float(worst.mean()), float(rising[0]), len(rising), held_out, closed)

    def between(self, other: Prediction, share: float) -> Prediction:
        """The prediction at this share of the way to another one; it rests on the pairs of the smaller."""
        figures = {
            name: _mixed(getattr(self, name), getattr(other, name), share) for name in ("psnr", "worst5", "worst")
        }
        pairs = min(self.pairs, other.pairs)
        return Prediction(
            **figures,
            pairs=pairs,
            held_out=self.held_out and other.held_out,
            closed=self.closed and other.closed,
        )


def worst_twentieth(ordered: Vector) -> Vector:
    """The first twentieth of values that are ordered from the worst up, at least one of them."""
    return ordered[: max(1, round(len(ordered) / 20))]


#: What of a plan differs from knot to knot; the steps, and with them the grid and the scale, are shared.
_OF_A_KNOT = ("rows", "evaluation_timesteps", "forecasts", "expected", "predicted")


@dataclass(frozen=True, eq=False)
class Knot(Checked):
    """The numbers of a plan at one value of an argument of the pipeline's call, such as the guidance scale.

    Args:
        value: of the argument.
        rows: of the plan there, as the following are.
        evaluation_timesteps: what the network is told.
        forecasts: for the check at run time.
        expected: residuals of these forecasts.
        predicted: the fidelity to expect.
    """

    value: float
    rows: tuple[Vector, ...]
    evaluation_timesteps: Vector
    forecasts: tuple[Vector, ...] = ()
    expected: Vector | None = None
    predicted: Prediction | None = None

    def __post_init__(self) -> None:
        check("Knot(value=...)", self.value, float)
        object.__setattr__(self, "value", float(self.value))
        _freeze(self)

    @classmethod
    def of(cls, value: float, plan: Plan) -> Knot:
        """The numbers of a plan that was solved for this value."""
        return cls(value, **{name: getattr(plan, name) for name in _OF_A_KNOT})

    def between(self, other: Knot, value: float) -> Knot:
        """Every number on the line through this knot and another one."""
        u = (value - self.value) / (other.value - self.value)
        if u in (0.0, 1.0):  # exactly its numbers
            return other if u else self
        known = self.expected is not None and other.expected is not None
        return Knot(
            value,
            rows=tuple(_mixed(a, b, u) for a, b in zip(self.rows, other.rows, strict=True)),
            evaluation_timesteps=_mixed(self.evaluation_timesteps, other.evaluation_timesteps, u),
            forecasts=tuple(_mixed(a, b, u) for a, b in zip(self.forecasts, other.forecasts, strict=True)),
            # Beyond the knots a line may fall below zero, which no residual does.
            expected=np.maximum(_mixed(self.expected, other.expected, u), 0.0) if known else None,
            predicted=self.predicted.between(other.predicted, u) if self.predicted and other.predicted else None,
        )


def middle(knots: Sequence[Knot]) -> Knot:
    """The knot whose numbers a plan shows as its own."""
    return knots[len(knots) // 2]


def _mixed(a: Any, b: Any, share: float) -> Any:
    return (1 - share) * a + share * b


def _numbers(source: Plan | Knot) -> dict[str, Any]:
    """What differs from knot to knot, as plain JSON values."""
    return {
        "rows": [row.tolist() for row in source.rows],
        "evaluation_timesteps": source.evaluation_timesteps.tolist(),
        "forecasts": [row.tolist() for row in source.forecasts],
        "expected": None if source.expected is None else source.expected.tolist(),
        "predicted": None if source.predicted is None else asdict(source.predicted),
    }


@dataclass(frozen=True, eq=False)
class Plan(Checked):
    """Evaluated steps and weight rows: a linear multistep method made for one model and one grid.

    After the n-th evaluation, y_n = network(scale_n x, timestep_n), the sample moves on to the next evaluated step:

        x  <-  x + a_n x + sum_{j <= n} b_{n,j} y_j,      row n = (a_n, b_{n,0}, ..., b_{n,n})

    Args:
        steps: the m evaluated steps, 0 = s_0 < ... < s_{m-1} < N.
        rows: m rows, the n-th of n + 2 weights.
        timesteps: what the N steps of the scheduler tell the network, (N,).
        evaluation_timesteps: what the plan tells it at its m evaluations, (m,).
        scale: factors by which the scheduler scales the network's input there, (m,).
        origin: what the plan was made for; its prompts and seeds are dropped, the hashes of its pairs kept.
        forecasts: row n forecasts y_n from y_0 .. y_{n-1}, (n,) each, for the check at run time; () for none.
        expected: relative residuals of these forecasts on recorded pairs, mean and largest, (m, 2).
        predicted: the fidelity to expect; None where nothing is known, as for a compiled method.
        label: where the weights come from: "refined", "open loop", or the repr of a compiled method.
        argument: of the pipeline's call that the numbers depend on, such as "guidance_scale"; None without knots.
        knots: the numbers at two or more values of it, rising; () for a plan of one value. The plan's own numbers are
            then those of the middle knot (the later one of two), and `at` gives the plan for any value between.
        branches: "" for whole evaluations; otherwise the m evaluations are 2 m passes of one guidance branch each. A
            step that stands twice in `steps` has both, the leading branch first, then the guided output, and a zero row
            between them; one that stands once has the leading branch alone. The word says where that is found: "first
            call", or "first half" or "second half" of the batch.

    Raises:
        ValueError: a length or an order does not fit, or a number is not finite.

    Reference: the non-stationary solvers of arXiv:2403.01329 have this form; there they are trained by gradients.
    """

    steps: tuple[int, ...]
    rows: tuple[Vector, ...]
    timesteps: Vector
    evaluation_timesteps: Vector
    scale: Vector
    origin: Origin
    forecasts: tuple[Vector, ...] = ()
    expected: Vector | None = None
    predicted: Prediction | None = None
    label: str = "refined"
    argument: str | None = None
    knots: tuple[Knot, ...] = ()
    branches: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(int(step) for step in self.steps))
        for name in ("timesteps", "scale"):
            object.__setattr__(self, name, _frozen(getattr(self, name)))
        _freeze(self)
        object.__setattr__(self, "origin", replace(self.origin, prompts=(), seeds=()))
        object.__setattr__(self, "knots", tuple(self.knots))
        self._check()
        if self.knots or self.argument is not None:
            self._check_knots()

    def _check(self) -> None:
        steps, m = self.steps, len(self.steps)
        if self.branches:
            self._check_passes()
        elif not m or steps[0] != 0 or any(b <= a for a, b in zip(steps, steps[1:], strict=False)):
            raise ValueError(f"Plan(steps={shown(steps)}) must begin with 0 and rise.")
        if self.timesteps.ndim != 1 or steps[-1] >= len(self.timesteps):
            raise ValueError(f"Plan(steps={shown(steps)}) must stay below the {self.timesteps.size} timesteps.")
        if len(self.timesteps) != self.origin.steps:
            raise ValueError(
                f"Plan(timesteps=...) has {len(self.timesteps)} entries, its origin {self.origin.steps} steps."
            )
        if [row.shape for row in self.rows] != [(n + 2,) for n in range(m)]:
            raise ValueError(f"Plan(rows=...) needs {m} rows, the n-th of n + 2 weights: a_n and b_n,0 to b_n,n.")
        if self.forecasts and [row.shape for row in self.forecasts] != [(n,) for n in range(m)]:
            raise ValueError(f"Plan(forecasts=...) needs {m} rows, the n-th of n weights, or none at all.")
        if self.expected is not None and self.expected.shape != (m, 2):
            raise ValueError(f"Plan(expected=...) must be ({m}, 2), got {self.expected.shape}.")
        for name in ("evaluation_timesteps", "scale"):
            if getattr(self, name).shape != (m,):
                raise ValueError(f"Plan({name}=...) must have {m} entries, got shape {getattr(self, name).shape}.")
        everything = [*self.rows, *self.forecasts, self.timesteps, self.evaluation_timesteps, self.scale]
        if self.expected is not None:
            everything.append(self.expected)
        if not all(in_range(values) for values in everything):
            raise ValueError("Plan(...) holds weights, times or residuals that are not finite, or beyond 1e30.")

    def _check_passes(self) -> None:
        steps, m = self.steps, len(self.steps)
        if self.branches not in BRANCHES:
            raise ValueError(f"Plan(branches={shown(self.branches)}) must be one of {', '.join(BRANCHES)}, or empty.")
        falling = any(b < a for a, b in zip(steps, steps[1:], strict=False))
        if not m or m % 2 or steps[0] != 0 or falling or max(map(steps.count, steps)) > 2:
            raise ValueError(
                f"Plan(steps={shown(steps)}) must begin with 0, rise, and name an even number of passes, at most two "
                "of one step."
            )
        first = [n for n, kind in enumerate(self.passes[1:]) if kind == "other"]
        same = all(self.evaluation_timesteps[n : n + 1] == self.evaluation_timesteps[n + 1 : n + 2] for n in first)
        if not same or any(np.any(row) for n in first for row in self.rows[n : n + 1]):
            raise ValueError("Plan(rows=...): between two passes of one step the row is zero and the timestep stays.")

    def _check_knots(self) -> None:
        values = [knot.value for knot in self.knots]
        rising = all(a < b for a, b in zip(values, values[1:], strict=False)) and bool(np.isfinite(values).all())
        if not isinstance(self.argument, str) or len(values) < 2 or not rising:
            raise ValueError(
                f"Plan(argument={shown(self.argument)}, knots=...) needs the name of an argument and knots at two or "
                f"more values of it that rise, got {shown(values)}."
            )
        if len({(bool(knot.forecasts), knot.expected is None, knot.predicted is None) for knot in self.knots}) != 1:
            raise ValueError("Plan(knots=...): all knots or none have forecasts, expected residuals and predictions.")
        for knot in self.knots:
            self._with(knot)
        if _numbers(self) != _numbers(middle(self.knots)):
            raise ValueError(
                "Plan(rows=..., knots=...): its own numbers must be those of the middle knot; change the knots, or "
                "take plan.at(value) first."
            )

    def _with(self, knot: Knot) -> Plan:
        """The plan of one knot."""
        call = {**self.origin.call, str(self.argument): knot.value}
        return replace(
            self,
            origin=replace(self.origin, call=call, varied={}),
            argument=None,
            knots=(),
            **{name: getattr(knot, name) for name in _OF_A_KNOT},
        )

    @guarded()
    def at(self, value: float, *, extrapolate: bool = False) -> Plan:
        """The plan for one value of its argument: every number lies on the line between the two nearest knots.

            number = (1 - u) number_k + u number_{k+1},        u = (value - value_k) / (value_{k+1} - value_k)

        Args:
            value: of the argument; at a knot the numbers are exactly those of the knot. A plan without knots is its own
                at the guidance scale that it was recorded at.
            extrapolate: whether the value may lie outside the knots, on the line through the two that are nearest.

        Raises:
            ValueError: the value lies outside the knots, or is not that of a plan without any.
        """
        if not self.knots:
            recorded = self.origin.call
            scales = (recorded[name] for name in ("true_cfg_scale", "guidance_scale", "cfg") if name in recorded)
            if value == next(scales, math.nan):
                return self
            call = ", ".join(f"{key}={given!r}" for key, given in recorded.items())
            raise ValueError(
                f"{self!r} has no knots: it was made for one call alone ({call or 'nothing more'}). Run it as it was "
                "recorded, or record several with skipcast.record(..., guidance=[...]) and solve again."
            )
        values = [knot.value for knot in self.knots]
        if not np.isfinite(value) or not (extrapolate or values[0] <= value <= values[-1]):
            raise ValueError(
                f"{self.argument}={value:g} lies outside the {values[0]:g} to {values[-1]:g} that this plan was solved "
                "for; stay within, record further scales, or extrapolate with plan.at(..., extrapolate=True)."
            )
        k = min(max(bisect_right(values, value) - 1, 0), len(values) - 2)
        return self._with(self.knots[k].between(self.knots[k + 1], float(value)))

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def memory(self) -> int:
        """How many outputs a run holds at once at most, for its rows and its check."""
        until = last_uses([row[1:] for row in self.rows], self.forecasts)
        return max(sum(last > n for last in until[: n + 1]) for n in range(len(self)))

    @property
    def evaluations(self) -> int:
        """m, the network evaluations of a run: two passes are one."""
        return len(self.steps) // 2 if self.branches else len(self.steps)

    @property
    def passes(self) -> tuple[Pass, ...]:
        """What every entry of `steps` asks the network for."""
        return passes_of(self.steps, self.branches)

    @property
    def table(self) -> Table:
        """What a solver moves: rows and timesteps at the evaluated steps."""
        return Table(self.steps, self.rows, self.evaluation_timesteps, self.scale, self.label, self.branches)

    @property
    def speedup(self) -> float:
        """N / m, what fewer evaluations can give at most."""
        return len(self.timesteps) / self.evaluations

    def whole(self, caller: str) -> Plan:
        """The plan itself, for a caller that can run whole evaluations alone.

        Raises:
            ValueError: its evaluations are passes.
        """
        if self.branches:
            raise ValueError(
                f"{caller} was given {self!r}, whose evaluations are passes of one guidance branch each, which only "
                "sc.accelerate(pipe, plan) and sc.enable(pipe, plan) can ask a network for: run it there, or solve one "
                "without branches=True."
            )
        return self

    def __repr__(self) -> str:
        reached = f", {self.predicted.psnr:.1f} dB" if self.predicted else ""
        reached = f", {len(self)} passes{reached}" if self.branches else reached
        over = f", {self.argument} {self.knots[0].value:g} to {self.knots[-1].value:g}" if self.knots else ""
        return f"Plan({self.evaluations} of {self.origin.steps}, {self.origin.reference}, {self.label}{over}{reached})"

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON values, exact to the last bit."""
        knots = [{"value": knot.value, **_numbers(knot)} for knot in self.knots]
        return {
            "format": FORMAT,
            "label": self.label,
            **({"branches": self.branches} if self.branches else {}),  # as older files, which have the same digests
            "steps": list(self.steps),
            "timesteps": self.timesteps.tolist(),
            "scale": self.scale.tolist(),
            **({"argument": self.argument, "knots": knots} if knots else _numbers(self)),
            "origin": self.origin.as_dict(),
        }

    @classmethod
    @guarded()
    def from_dict(cls, values: dict[str, Any]) -> Plan:
        """The plan that `as_dict` wrote.

        Raises:
            ValueError: not a plan of this format.
        """
        try:
            given = unsealed(values, FORMAT)
            given["origin"] = Origin(**given["origin"])
            if "knots" not in given:
                return cls(**_read(given))
            knots = tuple(Knot(**_read(knot)) for knot in given.pop("knots"))
            shown_knot = middle(knots)
            return cls(**given, knots=knots, **{name: getattr(shown_knot, name) for name in _OF_A_KNOT})
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(f"not a plan: {why(error)}.") from error

    @guarded()
    def save(self, path: str | Path) -> None:
        """Write the plan as JSON text, whole or not at all."""
        write_whole(Path(path), sealed_text(self.as_dict()))

    @classmethod
    @guarded("Plan.from_hub", evaluations=1)
    def from_hub(
        cls,
        repo: str,
        evaluations: int | None = None,
        *,
        reference: Reference = "default",
        name: str | None = None,
        revision: str | None = None,
    ) -> Plan:
        """A plan from a repository that `skipcast publish` made.

            plan = sc.Plan.from_hub("owner/FLUX.1-dev-plans", evaluations=10)

        The manifest and the plan are taken from one commit; the file must have the digest that the manifest says. With
        HF_HUB_OFFLINE the hub's cache alone is read.

        Args:
            repo: owner/name, or a folder that `skipcast publish` wrote.
            evaluations: of the plan.
            reference: "default" or "converged", where there are plans for both.
            name: of the plan's folder in the repository, instead of the two.
            revision: a branch, a tag or a commit; the main branch by default.

        Raises:
            ValueError: no such repository or plan, or several plans that fit (says which); a file that is broken.
            ImportError: huggingface_hub is missing.
        """
        if evaluations is None and name is None:
            raise ValueError("Plan.from_hub(evaluations=...) must say how many, or name= which plan.")
        from skipcast.hub.fetch import plan_from_hub  # only where a plan is fetched

        return plan_from_hub(repo, evaluations, reference, name, revision)

    @classmethod
    @guarded()
    def load(cls, path: str | Path) -> Plan:
        """Read a plan.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is not a plan, or does not hold what was saved.
        """
        path = Path(path)
        cure = f"make one with `skipcast plan PROFILE --out {path}`"
        values = read_sealed(path, FORMAT, MOST_BYTES, "a plan", cure)
        try:
            return cls.from_dict(values)
        except ValueError as error:
            raise ValueError(f"{path} is {error}") from error


def _read(values: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers that `_numbers` wrote."""
    predicted = values["predicted"]
    return {**values, "predicted": None if predicted is None else Prediction(**predicted)}


def in_range(values: NDArray[np.float64]) -> bool:
    """Whether all numbers are finite, and none is beyond what a solve can bear."""
    return bool((np.abs(values) <= LARGEST).all())


def _freeze(owner: Plan | Knot) -> None:
    """Make the numbers of a plan or a knot float64 vectors that cannot be changed."""
    for name in ("rows", "forecasts"):
        object.__setattr__(owner, name, tuple(_frozen(row) for row in getattr(owner, name)))
    object.__setattr__(owner, "evaluation_timesteps", _frozen(owner.evaluation_timesteps))
    if owner.expected is not None:
        object.__setattr__(owner, "expected", _frozen(owner.expected))


def _frozen(values: ArrayLike) -> Vector:
    if np.size(values) and np.asarray(values).dtype.kind not in "fiu":
        raise TypeError(f"numbers are needed, got {shown(values)}")
    vector = np.array(values, dtype=np.float64)
    vector.setflags(write=False)
    return vector


def last_uses(rows: Sequence[Vector], forecasts: Sequence[Vector]) -> list[int]:
    """For every output j the last evaluation whose row or forecast weighs it; -1 for one that none does."""
    everything = [*enumerate(rows), *enumerate(forecasts)]
    return [max((n for n, row in everything if len(row) > j and row[j] != 0), default=-1) for j in range(len(rows))]
