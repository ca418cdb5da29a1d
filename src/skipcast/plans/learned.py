"""Forecasters whose weights are fitted to a profile, in closed form."""

from __future__ import annotations

import numpy as np

from skipcast.checks import guarded
from skipcast.forecasters import L2P
from skipcast.plans.profile import Matrix, Profile


@guarded(ridge=0)
def fit_l2p(profile: Profile, ridge: float = 1e-5) -> L2P:
    """L2P's weights for the recorded outputs: each step by ridge least squares on all steps before it.

    W_i = (G + ridge m I)^-1 g, with G_jk = <F_j, F_k> and g_j = <F_j, F_i> for j, k < i, averaged over elements and
    pairs, and m the mean of G's diagonal. The authors minimise the same squared error, without a penalty, by 200 epochs
    of gradient descent from reuse on 50 recorded runs (arXiv:2604.26365); the closed form and its ridge are those of
    the port nanguoyu/Golden-Path-Hypothesis at commit 41bc4e7, `lib/l2p.py`, function `solve_l2p_weights`. Outputs are
    recorded as the scheduler receives them, after guidance. The fit knows evaluations only; in a run earlier forecasts
    stand among them, whose errors large weights amplify, and a larger ridge than the port's is often the better one.

        forecaster = fit_l2p(sc.Profile.load("my.profile.safetensors"))
        method = sc.Method(forecaster, sc.controllers.Periodic(1, 5))

    Raises:
        ValueError: a negative ridge, or one so small that the recorded outputs do not determine the weights.
    """
    steps = profile.origin.steps
    outputs = profile.grams.mean(axis=0)[1 : steps + 1, 1 : steps + 1]
    try:
        rows = [_row(outputs, step, ridge) for step in range(steps)]
    except np.linalg.LinAlgError as error:
        raise ValueError(
            f"fit_l2p(ridge={ridge}) leaves weights open, as recorded outputs depend on each other; take a larger one."
        ) from error
    return L2P(tuple(rows))


def _row(gram: Matrix, step: int, ridge: float) -> tuple[float, ...]:
    before = gram[:step, :step]
    penalty = ridge * before.diagonal().mean() if step else 0.0
    found = np.linalg.solve(before + penalty * np.eye(step), gram[:step, step])
    return tuple(found.tolist())
