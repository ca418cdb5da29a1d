"""How straight a trajectory of residuals runs: the two readings of TC-Pade's trajectory stability indicator.

Both look at the two newest moves v = r0 - r1 and v' = r1 - r2, as unit vectors u and u' over the whole tensor, batch
included: the published decision is one for the batch. Reference: TC-Pade, arXiv:2603.02943.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _unit(move: Tensor) -> Tensor:
    flat = move.flatten()
    unit: Tensor = flat / (torch.linalg.vector_norm(flat) + 1e-12)
    return unit


def stability_score(r0: Tensor, r1: Tensor, r2: Tensor) -> float:
    """|u - u'| / 2 = sin(angle / 2), in [0, 1]: 0 where the path is straight, 1 where it turns back.

    The released code forecasts while the score is below N; its 1.4 always passes. The text prints "skip if TSI >=
    theta" with thetas up to 1.3, which no score reaches; `one_plus_cosine` is the reading that fits them.

    Args:
        r0: the newest residual, of any shape, then the one before (`r1`) and the one before that (`r2`).
    """
    wide = torch.promote_types(r0.dtype, torch.float32)
    r0, r1, r2 = r0.to(wide), r1.to(wide), r2.to(wide)
    return 0.5 * float(torch.linalg.vector_norm(_unit(r0 - r1) - _unit(r1 - r2)))


def one_plus_cosine(r0: Tensor, r1: Tensor, r2: Tensor) -> float:
    """1 + cos(angle) = 2 - |u - u'|^2 / 2, in [0, 2]: 2 where the path is straight, or where nothing moved.

    Forecasting at theta and above makes the paper's 1.3, 1.0 and 0.7 mean angles of up to 72.5, 90 and 107.5 degrees,
    in the order of its speeds; a reconstruction, which neither the text nor the code states.

    Args:
        r0: the newest residual, of any shape, then the one before (`r1`) and the one before that (`r2`).
    """
    return 2.0 - 2.0 * stability_score(r0, r1, r2) ** 2
