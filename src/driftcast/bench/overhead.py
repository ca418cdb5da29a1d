"""What a forecast step costs beside an evaluation, seam by seam: `python -m driftcast.bench.overhead`.

A network of FLUX.1's depth with random weights runs on the CPU. Timed is the whole denoiser call: at the output seam
that is the forecast alone; at the stack seam also the embedders, the hooks of the skipped blocks and the final layers;
at the module seam also norms, modulation and gates of every block. Schedulers are left out. Plain and accelerated
trajectories take turns in one process, the first round is a warm-up, and figures are medians over the others.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from statistics import median

import torch

from driftcast.backends.bare import BareFlux
from driftcast.backends.diffusers import accelerate
from driftcast.controllers import FixedSteps
from driftcast.forecasters import Lagrange
from driftcast.method import Method
from driftcast.targets import GlobalDrift, ModuleOutputs, Output, Target

#: The seams, with the share of an evaluation that a forecast step may cost.
SEAMS: tuple[tuple[Target, float | None], ...] = ((Output(), 0.005), (GlobalDrift(), 0.03), (ModuleOutputs(), None))
STEPS, EVALUATED = 10, (0, 1, 4)


@dataclass(frozen=True)
class Cost:
    """Medians in seconds; `evaluation` is that of the plain network, `hooked` that of an evaluated step."""

    seam: str
    target: str
    evaluation: float
    hooked: float
    forecast: float
    bar: float | None

    @property
    def ratio(self) -> float:
        return self.forecast / self.evaluation


def measure(pipe: BareFlux, rounds: int = 5) -> list[Cost]:
    """The cost of a forecast step at every seam, from `rounds` rounds after one of warm-up."""
    plain: list[float] = []
    hooked: dict[str, list[float]] = {target.seam: [] for target, _ in SEAMS}
    forecast: dict[str, list[float]] = {target.seam: [] for target, _ in SEAMS}
    for number in range(rounds + 1):
        for target in (None, *(target for target, _ in SEAMS)):
            method = None if target is None else Method(Lagrange(1), FixedSteps(EVALUATED), target=target)
            with nullcontext() if method is None else accelerate(pipe, method):
                seconds = pipe.run(len(EVALUATED) if method is None else STEPS)
            if number == 0:
                continue
            if target is None:
                plain += seconds
                continue
            for step, taken in enumerate(seconds):
                (hooked if step in EVALUATED else forecast)[target.seam].append(taken)
    evaluation = median(plain)
    return [
        Cost(t.seam, repr(t), evaluation, median(hooked[t.seam]), median(forecast[t.seam]), bar) for t, bar in SEAMS
    ]


def table(costs: Sequence[Cost]) -> str:
    """For people."""
    lines = [f"evaluation of the plain network: {1e3 * costs[0].evaluation:.2f} ms"]
    lines += [f"{'seam':10}{'evaluated step':>16}{'forecast step':>16}{'of an evaluation':>18}{'bar':>8}"]
    for cost in costs:
        bar = "" if cost.bar is None else f"{cost.bar:.1%}"
        times = f"{1e3 * cost.hooked:13.2f} ms{1e3 * cost.forecast:13.3f} ms"
        lines.append(f"{cost.seam:10}{times}{cost.ratio:18.3%}{bar:>8}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m driftcast.bench.overhead", description=__doc__)
    parser.add_argument("--double", type=int, default=19, help="double-stream blocks")
    parser.add_argument("--single", type=int, default=38, help="single-stream blocks")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--image-tokens", type=int, default=256)
    parser.add_argument("--text-tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5, help="after one round of warm-up")
    parser.add_argument("--json", action="store_true", help="one JSON object for machines")
    given = vars(parser.parse_args(argv))
    rounds, as_json = given.pop("rounds"), given.pop("json")
    costs = measure(BareFlux(**given), rounds)
    if as_json:
        settings = {**given, "rounds": rounds, "threads": torch.get_num_threads(), "torch": torch.__version__}
        print(json.dumps({"settings": settings, "costs": [{**asdict(cost), "ratio": cost.ratio} for cost in costs]}))
    else:
        print(
            f"{given['double']} + {given['single']} blocks, width {given['width']}, {torch.get_num_threads()} thread(s)"
        )
        print(table(costs))


if __name__ == "__main__":
    main()
