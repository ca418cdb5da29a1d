"""Alignment of a diffusion transformer with a teacher in its first steps: the terms of its loss, and when they end.

loss = diffusion + w_f L_features + w_a L_attention as long as the alignment lasts, and the diffusion loss alone
afterwards: features as in REPA (arXiv:2410.06940), attention maps and the end as in HASTE (arXiv:2505.16792).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Until = int | Literal["gradient"]


def feature_loss(guess: Tensor, features: Tensor) -> Tensor:
    """Minus the mean cosine of projected tokens and the teacher's features, both (..., D)."""
    return -F.cosine_similarity(guess.float(), features.float(), dim=-1).mean()


def attention_loss(students: Sequence[Tensor], teachers: Sequence[Tensor]) -> Tensor:
    """Mean of H(softmax teacher, softmax student) over pairs of layers, heads and tokens.

    Args:
        students: attention logits of each pair's student layer, (B, heads, queries, keys); the first heads are used
            where it has more than the teacher.
        teachers: those of its teacher layer, on the same tokens.

    Raises:
        ValueError: no pairs, lists of unlike length, fewer heads than the teacher's, other tokens.
    """
    if not students or len(students) != len(teachers):
        raise ValueError(
            f"students and teachers must be logits of the same layer pairs, got {len(students)} and {len(teachers)}."
        )
    terms = []
    for student, teacher in zip(students, teachers, strict=True):
        heads = teacher.shape[1]
        if student.shape[1] < heads or student.shape[2:] != teacher.shape[2:]:
            raise ValueError(
                f"students must have the teacher's tokens and at least its heads, got {tuple(student.shape)} for "
                f"{tuple(teacher.shape)}."
            )
        guess = student[:, :heads].float().log_softmax(-1)
        terms.append(-(teacher.float().softmax(-1) * guess).sum(-1).mean())
    return torch.stack(terms).mean()


def gradient_cosine(alignment: Tensor, diffusion: Tensor, inner: Tensor) -> Tensor:
    """Cosine of the gradients of two losses at a block's output (B, ...), for each sample: (B,).

    0 where a gradient is. The graph is kept, so that the loss itself can be differentiated afterwards.
    """
    gradients = (torch.autograd.grad(loss, inner, retain_graph=True)[0] for loss in (alignment, diffusion))
    a, b = (gradient.flatten(1).double() for gradient in gradients)
    length = a.norm(dim=1) * b.norm(dim=1)  # cosine_similarity would round the small gradients of a mean to 0
    return torch.where(length > 0, (a * b).sum(1) / length.clamp(min=torch.finfo(torch.float64).tiny), 0.0)


class Termination:
    """When the alignment ends: at a step, or once the gradients of both losses no longer agree.

    Every so many steps the loop reads the cosine of both gradients at the aligned block's output; `smoothed` is its
    exponential mean, corrected for its start. With "gradient" the alignment ends behind the reading at which that mean
    is no longer positive, but not before `minimum` steps. A fixed end may be read, too: it is then told and no more.

    Args:
        until: the step from which on nothing is aligned, or "gradient".
        minimum: steps before which gradients end nothing; their readings count nevertheless.
        every: steps from reading to reading.
        decay: weight of the past in the mean, from reading to reading.

    Raises:
        ValueError: neither steps nor "gradient"; a setting out of range.
    """

    def __init__(self, until: Until, *, minimum: int = 200, every: int = 10, decay: float = 0.9) -> None:
        if until != "gradient" and (not isinstance(until, int) or isinstance(until, bool) or until < 0):
            raise ValueError(f'until must be a step, or "gradient", got {until!r}.')
        if minimum < 0 or every < 1 or not 0 <= decay < 1:
            raise ValueError(
                f"minimum must be at least 0, every at least 1, decay in [0, 1), got {minimum}, {every}, {decay}."
            )
        self.until, self.minimum, self.every, self.decay = until, minimum, every, decay
        self.end = None if until == "gradient" else until
        self._sum, self._weight = 0.0, 0.0

    @property
    def smoothed(self) -> float | None:
        """The smoothed cosine; None before the first reading."""
        return self._sum / self._weight if self._weight else None

    def ended(self, step: int) -> bool:
        """Whether this step, counted from 0, is without alignment; the teacher is then not to be called."""
        return self.end is not None and step >= self.end

    def due(self, step: int) -> bool:
        """Whether this step's cosine is to be read."""
        return not self.ended(step) and step % self.every == self.every - 1

    def read(self, step: int, cosine: float) -> None:
        """Take a step's cosine into the mean; with "gradient", perhaps end behind this step."""
        self._sum = self.decay * self._sum + (1 - self.decay) * cosine
        self._weight = self.decay * self._weight + 1 - self.decay
        if self.until == "gradient" and step + 1 >= self.minimum and self._sum <= 0:
            self.end = step + 1

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run has to know."""
        return {"end": self.end, "sum": self._sum, "weight": self._weight}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`; an end that was fixed is that of this run's own setting."""
        self._sum, self._weight = state["sum"], state["weight"]
        if self.until == "gradient":
            self.end = state["end"]
