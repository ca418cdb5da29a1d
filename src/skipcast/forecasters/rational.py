"""TC-Pade in three readings: the released code, a reconstruction of the paper, and the paper's formulas as printed.

All three remember every step, forecast ones too, so R_0, R_1, R_2 are the residuals of the three steps before. The
order of the steps counts, their distances do not. Reference: arXiv:2603.02943.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from skipcast.forecasters.base import Forecaster
from skipcast.history import History, Point
from skipcast.stability import stability_score


class _ItemByItem(Forecaster):
    """A recursive rule for one item, (...), mapped over the batch, (B, ...), so that norms never mix items.

    The published norms run over the whole tensor; with a batch of one that is the same.
    """

    recursive = True
    min_evaluations = 3

    @abstractmethod
    def _item(self, r: list[Tensor], point: Point) -> Tensor:
        """The residual of one item from the stored ones, newest first: each (...), float32 or wider."""

    def forecast(self, history: History, point: Point) -> Tensor:
        newest_first = [history[-1 - age].value for age in range(len(history))]
        dtype = newest_first[0].dtype
        wide = torch.promote_types(dtype, torch.float32)
        columns = zip(*(value.to(wide) for value in newest_first), strict=True)
        return torch.stack([self._item(list(stored), point) for stored in columns]).to(dtype)


@dataclass(frozen=True)
class PadeCode(_ItemByItem):
    """TC-Pade as released: a clamped, damped average of the two newest residuals, element by element.

        d = |R_0 - R_1|,  A = (|R_0| + |R_1|) / 2,  sigma = exp(-5 d / (A + 1e-7)),  c = [stability_score < threshold]
        q = (2 sigma R_0 - sigma R_1) / (1 - 0.1 sigma c)
        m = 0.6 R_0 + 0.4 R_1,  q clamped to m +- max(d / 2, A / 10)
        R_pade = (0.7 sigma + 0.3) q + 0.7 (1 - sigma) m

    By step s and horizon T: 0.9 R_0 + 0.1 R_1 up to 0.3 T, then R_pade, and after 0.8 T R_pade + 0.3 (R_0 - R_1).

    Unlike the paper's, no denominator depends on R, sigma is one per element, and the numerator starts from the newest
    residual. A static residual grows by 10 %. The released forward pass forecasts only where the score passes, so there
    c is 1 at every forecast; with other controllers it need not be. Too few residuals for the effective order, or a
    result that is not finite, fall back on shares 4 : 3 : 2 : 1 of the newest ones, times a factor that is 0.8 for all
    but the smallest moves. Half types are computed in float32, in the released code as they are. Tensors are (B, ...);
    the released output carries a share of the input's move besides, which is the target `CarriedDrift(0.2)`. Reference:
    arXiv:2603.02943, repository Alibaba-YuFeng/TC_Pade.

    Args:
        order: highest effective order, 2 to 4. It is 2 unless the residuals are nearly parallel (mean cosine of the
            two newest pairs above 0.90 for 3, above 0.98 for 4), and only decides about the fallback.
        threshold: N of the released code; its 1.4 always passes, below 1 it acts.
        horizon: T of the stages. The released class is fixed to 20 whatever the run, so that at 50 steps the late rule
            holds from step 17 on; None for the steps of the run, which the text means.
    """

    window = 6

    order: int = 3
    threshold: float = 1.4
    horizon: int | None = 20

    def __post_init__(self) -> None:
        if not 2 <= self.order <= 4:
            raise ValueError(f"PadeCode(order=...) must be 2, 3 or 4, got {self.order}; 3 is the released one.")
        if not self.threshold >= 0:
            raise ValueError(f"PadeCode(threshold=...) must be >= 0, got {self.threshold}; above 1 all pass.")
        if self.horizon is not None and self.horizon < 1:
            raise ValueError(
                f"PadeCode(horizon=...) must be at least 1, got {self.horizon}; None stands for the steps of the run."
            )

    def _item(self, r: list[Tensor], point: Point) -> Tensor:
        if len(r) == 1:
            return r[0]
        horizon = point.steps if self.horizon is None else self.horizon
        if point.step <= 0.3 * horizon:
            return 0.9 * r[0] + 0.1 * r[1]
        value = self._pade(r)
        return value + 0.3 * (r[0] - r[1]) if point.step > 0.8 * horizon else value

    def _pade(self, r: list[Tensor]) -> Tensor:
        if len(r) <= self.order and len(r) <= self._effective_order(r):  # the first half spares cosines nobody asks for
            return self._average(r)
        d = (r[0] - r[1]).abs()
        size = 0.5 * (r[0].abs() + r[1].abs())
        sigma = torch.exp(-5 * d / (size + 1e-7))
        c = 1.0 if self._passes(r) else 0.0
        q = (2 * sigma * r[0] - sigma * r[1]) / (1 - 0.1 * sigma * c)
        mean = 0.6 * r[0] + 0.4 * r[1]
        reach = torch.maximum(0.5 * d, 0.1 * size)
        q = mean + (q - mean).clamp(-reach, reach)
        value = (0.7 * sigma + 0.3) * q + (0.7 - 0.7 * sigma) * mean
        for candidate in (value, r[0] + 0.5 * (r[0] - r[1])):
            if candidate.isfinite().all():
                return candidate
        return self._average(r)

    def _passes(self, r: list[Tensor]) -> bool:
        return len(r) < 5 or self.threshold > 1 or stability_score(*r[:3]) < self.threshold

    def _effective_order(self, r: list[Tensor]) -> int:
        if len(r) < 3:
            return self.order
        cosines = [float(F.cosine_similarity(a.flatten(), b.flatten(), dim=0)) for a, b in (r[:2], r[1:3])]
        cosine = sum(cosines) / 2
        return min(self.order, 4 if cosine > 0.98 else 3 if cosine > 0.90 else 2)

    def _average(self, r: list[Tensor]) -> Tensor:
        shares = [0.4, 0.3, 0.2, 0.1][: min(len(r), self._effective_order(r))]
        mean = sum((w / sum(shares) * value for w, value in zip(shares, r, strict=False)), torch.zeros_like(r[0]))
        if len(r) < 3:  # the released code has not set its factor yet
            return mean
        move: Tensor = torch.linalg.vector_norm(r[0] - r[1])
        return mean * (1 / (1 + 10 * move)).clamp(0.8, 1.2)


@dataclass(frozen=True)
class _Staged(_ItemByItem):
    """The paper's three stages by the share of steps that remain: an average, the Pade term, that term and slope."""

    window = 3

    alpha: float = 0.9
    beta: float = 0.3
    early: float = 0.7
    late: float = 0.2
    rate: float = 10.0

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not 0 <= self.alpha <= 1:
            raise ValueError(
                f"{name}(alpha=...) must lie in [0, 1], got {self.alpha}; it is the newest residual's share."
            )
        if not self.beta >= 0:
            raise ValueError(f"{name}(beta=...) must be >= 0, got {self.beta}; 0 adds no slope in the late stage.")
        if not 0 <= self.late <= self.early <= 1:
            raise ValueError(
                f"{name}(early=..., late=...) must satisfy 0 <= late <= early <= 1, got {self.early} and {self.late}; "
                "both are shares of the run that remain."
            )
        if not self.rate > 0:
            raise ValueError(f"{name}(rate=...) must be positive, got {self.rate}; the paper's lambda is 10.")

    @abstractmethod
    def _pade(self, r: list[Tensor]) -> Tensor:
        """R_pade from three residuals, newest first."""

    def _item(self, r: list[Tensor], point: Point) -> Tensor:
        if len(r) == 1:
            return r[0]
        remaining = (point.steps - point.step) / point.steps
        if len(r) < 3 or remaining > self.early:
            return self.alpha * r[0] + (1 - self.alpha) * r[1]
        value = self._pade(r)
        return value + self.beta * (r[0] - r[1]) if remaining < self.late else value

    def _sigma(self, r: list[Tensor]) -> Tensor:
        """exp(-lambda |R_0 - R_1| / |R_0 + R_1|): 1 where nothing moves, 0 where all turns round; a scalar."""
        norm = torch.linalg.vector_norm
        return torch.exp(-self.rate * norm(r[0] - r[1]) / (norm(r[0] + r[1]) + torch.finfo(r[0].dtype).tiny))


@dataclass(frozen=True)
class PadePaper(_Staged):
    """TC-Pade as its paper must mean it: newest first, safe at any scale, and reuse where the residual turns.

        sigma  = exp(-lambda |R_0 - R_1| / |R_0 + R_1|), one per item
        R_pade = sigma (2 R_0 - R_1) / (1 + (sigma / lambda) rho) + (1 - sigma) R_0

    With t of T steps remaining: alpha R_0 + (1 - alpha) R_1 while t > 0.7 T, then R_pade, and R_pade + beta (R_0 - R_1)
    once t < 0.2 T. With fewer than three residuals the first rule holds, with one it is reuse.

    Reconstructed: the printed numerator, 2 R_2 - R_1, points backwards, and the printed denominator,
    1 + (sigma / lambda) R_0, adds a pure number to a feature. rho and the share 1 - sigma of R_0 are this library's
    completion (at sigma = 0 the printed term is 0); alpha and beta come from the released code. A static residual
    shrinks by 1 / (1 + 1 / lambda), at every forecast anew. The published norms run over the whole tensor, here over
    each item. Tensors are (B, ...). Reference: arXiv:2603.02943.

    Args:
        alpha: alpha_1, the share of R_0 in the early stage; alpha_2 is the rest.
        beta: slope added in the late stage.
        early: share of steps remaining above which the early rule holds.
        late: share of steps remaining below which the late rule holds.
        rate: lambda.
        scale: what stands for R_0 in the denominator: "projection" for rho = <R_0, R_1> / |R_1|^2, at least 0 so that
            the denominator never falls below 1, or "one" for rho = 1.
    """

    scale: Literal["projection", "one"] = "projection"

    def _pade(self, r: list[Tensor]) -> Tensor:
        sigma = self._sigma(r)
        denominator = 1 + sigma / self.rate * self._rho(r)
        return sigma * (2 * r[0] - r[1]) / denominator + (1 - sigma) * r[0]

    def _rho(self, r: list[Tensor]) -> Tensor | float:
        if self.scale == "one":
            return 1.0
        inner = (r[0] * r[1]).sum().clamp(min=0)
        return inner / (r[1].square().sum() + torch.finfo(r[1].dtype).tiny)


@dataclass(frozen=True)
class PadeLiteral(_Staged):
    """TC-Pade's formulas as printed, as a control: R_pade = (b_0 R_2 + b_1 R_1) / (1 + a_1 R_0), element by element.

    b_0 = 2 sigma, b_1 = -sigma, a_1 = sigma / lambda, with sigma and the stages of `PadePaper`. Four things are odd.
    At sigma = 1 the numerator 2 R_2 - R_1 extrapolates backwards, away from the forecast. 1 + a_1 R_0 depends on the
    unit of the feature and is singular at R_0 = -lambda / sigma, against which nothing protects here. Where the
    residual turns, sigma = 0, the forecast is 0 and not reuse. The printed x + R_hat adds to the feature of the
    step before; here, as in the released code, the target adds to the current input. alpha and beta come from the
    released code, and the norms run over each item instead of the whole tensor. Tensors are (B, ...). Reference:
    arXiv:2603.02943.

    Args:
        alpha: alpha_1, the share of R_0 in the early stage; alpha_2 is the rest.
        beta: slope added in the late stage.
        early: share of steps remaining above which the early rule holds.
        late: share of steps remaining below which the late rule holds.
        rate: lambda.
        newest_first: read the printed indices the other way round, (b_0 R_0 + b_1 R_1) / (1 + a_1 R_0).
    """

    newest_first: bool = False

    def _pade(self, r: list[Tensor]) -> Tensor:
        sigma = self._sigma(r)
        leading = r[0] if self.newest_first else r[2]
        return (2 * sigma * leading - sigma * r[1]) / (1 + sigma / self.rate * r[0])
