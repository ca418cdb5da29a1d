"""Plain samplers as rows of a plan: where a solve may begin, and what its result may not fall behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from skipcast.forecasters import Lagrange
from skipcast.grid import Vector
from skipcast.plans.closed_loop import Table
from skipcast.plans.open_loop import Matrix, Steps, placed
from skipcast.plans.propagation import Levels, segments
from skipcast.samplers import adams_bashforth

#: Highest order of extrapolated outputs; on even steps higher ones are unstable.
ORDERS = 3
_CLEANEST = 1e-9  # a share of the clean sample, or of noise, below it is counted as this: half log-SNRs stay finite


def even(evaluations: int, steps: int) -> Steps:
    """floor(k N / m): where a sampler of m steps evaluates on the grid of N."""
    return tuple(k * steps // evaluations for k in range(evaluations))


def spacings(levels: Levels, evaluations: int) -> list[Steps]:
    """The evaluated steps of plain samplers on their own spacing: even in the step, and in the half log-SNR.

    The latter ends at the last step and is left out where the run begins in pure noise, whose log-SNR is not finite.
    """
    grid = levels.grid
    found = [even(evaluations, len(grid))]
    if grid.alpha[0] > _CLEANEST and grid.sigma[-1] > _CLEANEST and evaluations > 1:
        log_snr = np.log(grid.alpha / grid.sigma)
        wanted = np.linspace(log_snr[0], log_snr[-1], evaluations)
        nearest = [int(np.abs(log_snr - value).argmin()) for value in wanted]
        found.append(nearest if len(set(nearest)) == evaluations else placed(evaluations, len(grid)))  # type: ignore[arg-type]
    return list(dict.fromkeys(map(tuple, found)))


def plain_tables(levels: Levels, scale: Vector, evaluations: int) -> Iterator[Table]:
    """Euler, AB2, DPM-Solver++(2M) and UniPC as tables, on their own spacing snapped to the grid.

    Args:
        levels: of the recorded run.
        scale: factors of the network's input, (N,): the samplers' state is the scaled sample.
        evaluations: m.
    """
    for steps in spacings(levels, evaluations):
        times, factors = levels.grid.timestep[list(steps)], scale[list(steps)]
        for name in SAMPLERS:
            yield Table(steps, sampler_rows(name, levels, steps, scale), times, factors, name)


def extrapolated_rows(states: Matrix, steps: Steps, order: int) -> tuple[Vector, ...]:
    """The rows of the recorded sampler with outputs extrapolated between evaluated steps: Lagrange's forecaster.

    The output at a step is the polynomial in the step through the newest `order` + 1 evaluations, or as many as there
    are. Compiling the method on even steps gives the same rows.

    Args:
        states: table of the sampler in the basis (x_0, y_0 .. y_{N-1}), (N + 1, N + 1).
        steps: evaluated.
        order: of the polynomial.
    """
    known = np.zeros_like(states)
    known[0, 0] = 1.0
    for step in range(len(states) - 1):
        nodes = [place for place in steps if place <= step][-order - 1 :]
        known[1 + step, [1 + place for place in nodes]] = Lagrange(order).weights(np.array(nodes, float), float(step))
    return tuple(segments(states @ known, steps))


def extrapolated_tables(states: Matrix, timesteps: Vector, scale: Vector, evaluations: int) -> Iterator[Table]:
    """The recorded sampler with extrapolated outputs, of every order up to `ORDERS`, on even steps.

    Args:
        states: as in `extrapolated_rows`.
        timesteps: of the N steps.
        scale: factors of the network's input, (N,).
        evaluations: m.
    """
    steps = even(evaluations, len(timesteps))
    for order in range(1, min(ORDERS, evaluations - 1) + 1):
        rows = extrapolated_rows(states, steps, order)
        yield Table(steps, rows, timesteps[list(steps)], scale[list(steps)], f"lagrange:order={order}")


def sampler_rows(name: str, levels: Levels, steps: Steps, scale: Vector) -> tuple[Vector, ...]:
    """The rows (a_n, b_{n,0} .. b_{n,n}) of a plain sampler that evaluates these steps.

    The sampler is run on vectors of coefficients of (x_0, y_0 .. y_{m-1}), as `compile_plan` runs a method.

    Args:
        name: one of `SAMPLERS`.
        levels: of the recorded run.
        steps: evaluated.
        scale: factors of the network's input, (N,).
    """
    alpha, sigma = levels.at(steps)
    run = _Run(np.maximum(alpha, _CLEANEST), sigma)
    factors = np.append(scale[list(steps)], 1.0)
    unit = np.eye(len(steps) + 1)
    states = [unit[0]]
    for n in range(len(steps)):
        z = factors[n] * states[n]
        p, q = levels.clean(float(run.alpha[n]), float(sigma[n]))
        run.z.append(z)
        run.clean.append(p * z + q * unit[n + 1])
        states.append(SAMPLERS[name](run, n) / factors[n + 1])
    return tuple(segments(np.stack(states), range(len(steps))))


class _Run:
    """A sampler in the middle of a run: its states z_n and predictions D_n of the clean sample, as coefficients.

    Args:
        alpha: share of the clean sample at the m evaluations and at the end, (m + 1,), positive.
        sigma: noise level there, (m + 1,).
    """

    def __init__(self, alpha: Vector, sigma: Vector) -> None:
        self.alpha, self.sigma = alpha, sigma
        with np.errstate(divide="ignore"):
            self.log_snr = np.log(alpha) - np.log(sigma)
        self.z: list[Vector] = []
        self.clean: list[Vector] = []

    def width(self, n: int) -> float:
        """h_n, the change of log(alpha / sigma) over segment n; infinite where it ends without noise."""
        return float(self.log_snr[n + 1] - self.log_snr[n])

    def moved(self, n: int, clean: Vector) -> Vector:
        """z_{n+1} = sigma_{n+1} / sigma_n z_n + (alpha_{n+1} - sigma_{n+1} / sigma_n alpha_n) D, for a constant D."""
        carried = self.sigma[n + 1] / self.sigma[n]
        found: Vector = carried * self.z[n] + (self.alpha[n + 1] - carried * self.alpha[n]) * clean
        return found


def _euler(run: _Run, n: int) -> Vector:
    """The first-order step: Euler's of a flow, DDIM's (arXiv:2010.02502)."""
    return run.moved(n, run.clean[n])


def _ab2(run: _Run, n: int) -> Vector:
    """Adams and Bashforth's two-step rule for z / (alpha + sigma) over sigma / (alpha + sigma): a flow's own variables.

    In them every diffusion model is a flow: d(z / (alpha + sigma)) = v d(sigma / (alpha + sigma)), v = e - D.
    """
    size = run.alpha + run.sigma
    time = run.sigma / size
    first = max(0, n - 1)
    weights = adams_bashforth(time[first : n + 1], float(time[n + 1]))
    found = run.z[n] / size[n]
    for weight, k in zip(weights, range(first, n + 1), strict=True):
        noise = (run.z[k] - run.alpha[k] * run.clean[k]) / run.sigma[k]
        found = found + weight * (noise - run.clean[k])
    moved: Vector = size[n + 1] * found
    return moved


def _dpmpp2m(run: _Run, n: int) -> Vector:
    """DPM-Solver++(2M) (arXiv:2211.01095): D_n + (D_n - D_{n-1}) h_n / (2 h_{n-1}).

    Of first order at the first step, and where the end has no noise, so that h_n is infinite.
    """
    if n == 0 or not np.isfinite(run.width(n)):
        return _euler(run, n)
    return run.moved(n, run.clean[n] + (run.clean[n] - run.clean[n - 1]) * (0.5 * run.width(n) / run.width(n - 1)))


def _unipc(run: _Run, n: int) -> Vector:
    """UniPC of order 2 with B(h) = e^h - 1 (arXiv:2302.04867): a corrector for the state that was reached, then 2M.

    The corrected state replaces z_n in what follows; the evaluation at z_n stands. The corrector has the order of the
    prediction that it corrects, which was 1 at the first step.
    """
    if n:
        h = -run.width(n - 1)
        b1 = np.expm1(h) / h - 1
        b2 = b1 / h - 0.5
        right = np.array([b1, 2 * b2]) / np.expm1(h)
        new = run.clean[n] - run.clean[n - 1]
        if n == 1:
            change = 0.5 * new
        else:
            ratio = run.width(n - 2) / h
            first, second = np.linalg.solve(np.array([[1.0, 1.0], [ratio, 1.0]]), right)
            change = first * (run.clean[n - 2] - run.clean[n - 1]) / ratio + second * new
        run.z[n] = run.moved(n - 1, run.clean[n - 1] + change)
    return _dpmpp2m(run, n)


SAMPLERS: dict[str, Callable[[_Run, int], Vector]] = {
    "euler": _euler,
    "ab2": _ab2,
    "dpmpp2m": _dpmpp2m,
    "unipc": _unipc,
}
