"""Alignment of a small diffusion transformer on 8x8 digits with a classifier: what it gains, and what its end costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from research.training.alignment import (
    Termination,
    Until,
    attention_loss,
    feature_loss,
    gradient_cosine,
)
from skipcast.models.judge import frechet_distance

WIDTH, HEADS, BLOCKS, SIDE, PATCH = 64, 4, 4, 8, 2
TOKENS, PIXELS = (SIDE // PATCH) ** 2, PATCH**2
ALIGNED = 2  # the block whose output is aligned, counted from 0
PAIRS = ((1, 2), (2, 3))  # student's and teacher's attention
WEIGHT = 0.5
PROJECTOR = 256
BATCH, RATE, EMA, CLIP = 64, 1e-3, 0.999, 1.0
EULER = 15
LOW = 0.1  # HASTE reads gradients at such times and below
CLASSES, HELD_OUT = 10, 360
Report = Callable[[str], None]


class NotInstalled(Exception):
    """The package with the digits is not installed."""


def digits() -> tuple[Tensor, Tensor]:
    """The 1797 digits of scikit-learn in [-1, 1], (M, 8, 8), and their classes, in an order drawn once.

    Raises:
        NotInstalled: it is not there.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise NotInstalled("The digits are those of scikit-learn: pip install scikit-learn.") from error
    found = load_digits()
    order = torch.randperm(len(found.images), generator=torch.Generator().manual_seed(0))
    return torch.from_numpy(found.images).float()[order] / 8 - 1, torch.from_numpy(found.target)[order].long()


def tokens_of(images: Tensor) -> Tensor:
    """(B, 8, 8) to (B, 16, 4): patches of 2x2."""
    n = SIDE // PATCH
    return images.view(-1, n, PATCH, n, PATCH).transpose(2, 3).reshape(-1, TOKENS, PIXELS)


def images_of(tokens: Tensor) -> Tensor:
    """The inverse of `tokens_of`."""
    n = SIDE // PATCH
    return tokens.view(-1, n, n, PATCH, PATCH).transpose(2, 3).reshape(-1, SIDE, SIDE)


class Block(nn.Module):
    """Attention and MLP before the residual sums; `condition` scales, shifts and gates both (AdaLN-zero)."""

    def __init__(self, conditioned: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH, elementwise_affine=not conditioned) for _ in range(2)])
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU("tanh"), nn.Linear(4 * WIDTH, WIDTH))
        self.modulation = nn.Linear(WIDTH, 6 * WIDTH) if conditioned else None
        if self.modulation is not None:
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def attend(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The attention's output, and its logits (B, heads, queries, keys)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, WIDTH // HEADS)).permute(2, 0, 3, 1, 4)
        logits = q @ k.mT * (WIDTH // HEADS) ** -0.5
        return self.out((logits.softmax(-1) @ v).transpose(1, 2).flatten(2)), logits

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        one, two = self.norms
        if self.modulation is None or condition is None:
            moved, logits = self.attend(one(x))
            x = x + moved
            return x + self.mlp(two(x)), logits
        scale, shift, gate, scale2, shift2, gate2 = self.modulation(condition)[:, None].chunk(6, -1)
        moved, logits = self.attend(one(x) * (1 + scale) + shift)
        x = x + gate * moved
        return x + gate2 * self.mlp(two(x) * (1 + scale2) + shift2), logits


class Teacher(nn.Module):
    """A classifier of the same tokens: its final tokens (B, 16, 64), attention logits, and classes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Linear(PIXELS, WIDTH), nn.Parameter(0.02 * torch.randn(TOKENS, WIDTH))
        self.blocks = nn.ModuleList([Block(False) for _ in range(BLOCKS)])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        x, maps = self.embed(tokens_of(images)) + self.place, []
        for block in self.blocks:
            x, logits = block(x)
            maps.append(logits)
        x = self.norm(x)
        return x, maps, self.head(x.mean(1))


class Student(nn.Module):
    """A DiT without classes: the velocity of tokens, the aligned block's output, and attention logits."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Linear(PIXELS, WIDTH), nn.Parameter(0.02 * torch.randn(TOKENS, WIDTH))
        self.time = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU())
        self.blocks = nn.ModuleList([Block(True) for _ in range(BLOCKS)])
        self.norm, self.last = nn.LayerNorm(WIDTH, elementwise_affine=False), nn.Linear(WIDTH, 2 * WIDTH)
        self.head = nn.Linear(WIDTH, PIXELS)
        for layer in (self.last, self.head):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        # Last, so that it takes nothing from the draws of the others.
        self.projector = nn.Sequential(
            nn.Linear(WIDTH, PROJECTOR), nn.SiLU(), nn.Linear(PROJECTOR, PROJECTOR), nn.SiLU(),
            nn.Linear(PROJECTOR, WIDTH),
        )  # fmt: skip

    def forward(self, tokens: Tensor, t: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        frequency = torch.logspace(0, 3, WIDTH // 2)
        angle = t[:, None] * frequency
        condition = self.time(torch.cat([angle.cos(), angle.sin()], -1))
        x, inner, maps = self.embed(tokens) + self.place, tokens, []
        for k, block in enumerate(self.blocks):
            x, logits = block(x, condition)
            maps.append(logits)
            inner = x if k == ALIGNED else inner
        scale, shift = self.last(condition)[:, None].chunk(2, -1)
        return self.head(self.norm(x) * (1 + scale) + shift), inner, maps


class Eye(nn.Module):
    """An independent classifier, in whose features (B, 64) images are compared."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(64, 64, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 64), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(64, CLASSES)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(images[:, None])
        return features, self.head(features)


def classifier(module: nn.Module, images: Tensor, labels: Tensor, iterations: int, seed: int) -> float:
    """Train on all but the last digits; their share that is told rightly. The module then stays as it is."""
    train = len(images) - HELD_OUT
    optimizer = torch.optim.AdamW(module.parameters(), lr=RATE, weight_decay=0.01, fused=True)
    for step in range(iterations):
        rows = torch.randint(train, (BATCH,), generator=torch.Generator().manual_seed(10_000 * seed + step))
        F.cross_entropy(module(images[rows])[-1], labels[rows]).backward()
        optimizer.step()
        optimizer.zero_grad()
    module.eval().requires_grad_(False)
    return float((module(images[train:])[-1].argmax(-1) == labels[train:]).float().mean())


@dataclass(frozen=True)
class Run:
    """What is aligned, and until when; the whole run where that is None."""

    name: str
    features: bool = False
    attention: bool = False
    until: Until | None = None


def runs(stop: int) -> tuple[Run, ...]:
    """The five that are compared."""
    return (
        Run("none", until=0),
        Run("REPA", True),
        Run("REPA + attention", True, True),
        Run(f"REPA, stopped at {stop}", True, until=stop),
        Run(f"REPA + attention, stopped at {stop}", True, True, until=stop),
    )


class Training:
    """One run's loss, step by step; the draws of a step are a function of the seed and the step alone.

    `calls` counts the teacher's. `agreement` and `low` are smoothed gradient cosines, of all samples and of those with
    t at most 0.1; they are read and end nothing unless the run says so.
    """

    def __init__(self, run: Run, images: Tensor, teacher: nn.Module, iterations: int, seed: int) -> None:
        torch.manual_seed(seed)
        self.run, self.images, self.teacher, self.seed = run, images, teacher, seed
        self.student = Student()
        self.agreement = Termination(iterations if run.until is None else run.until)
        self.low = Termination(iterations)
        self.trigger = Termination("gradient")
        self.calls = 0

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Clean images, noise of their tokens, and times."""
        rng = torch.Generator().manual_seed(1_000_000 * (1 + self.seed) + step)
        rows = torch.randint(len(self.images), (BATCH,), generator=rng)
        return (
            self.images[rows],
            torch.randn(BATCH, TOKENS, PIXELS, generator=rng),
            torch.rand(BATCH, generator=rng),
        )

    def loss(self, step: int) -> Tensor:
        """The loss to descend in this step."""
        images, noise, t = self.batch(step)
        clean = tokens_of(images)
        velocity, inner, maps = self.student(torch.lerp(clean, noise, t[:, None, None]), t)
        flow = (velocity - (noise - clean)).square().mean()
        if self.agreement.ended(step):
            return flow
        self.calls += 1
        with torch.no_grad():
            features, theirs, _ = self.teacher(images)
        term = feature_loss(self.student.projector(inner), features)
        if self.agreement.due(step):
            cosine = gradient_cosine(term, flow, inner)
            self.agreement.read(step, float(cosine.mean()))
            if self.trigger.due(step):
                self.trigger.read(step, float(cosine.mean()))
            if (t <= LOW).any():
                self.low.read(step, float(cosine[t <= LOW].mean()))
        loss = flow + WEIGHT * term if self.run.features else flow
        if self.run.attention:
            loss = loss + WEIGHT * attention_loss([maps[s] for s, _ in PAIRS], [theirs[k] for _, k in PAIRS])
        return loss


@torch.no_grad()
def sampled(student: Student, samples: int, seed: int) -> Tensor:
    """Images of 15 Euler steps from t = 1 to 0."""
    x = torch.randn(samples, TOKENS, PIXELS, generator=torch.Generator().manual_seed(77 + seed))
    for step in range(EULER):
        x = x - student(x, torch.full((samples,), 1 - step / EULER))[0] / EULER
    return images_of(x)


def trained(
    training: Training, at: Sequence[int], told: Sequence[int], measure: Callable[[Student], float]
) -> dict[str, Any]:
    """Train to the last of `at`; distances of the averaged weights there, smoothed cosines at `told`."""
    student = training.student
    optimizer = torch.optim.AdamW(student.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    parameters = list(student.parameters())
    averaged = [p.detach().clone() for p in parameters]
    distances: dict[str, float] = {}
    cosines: list[list[float | None]] = []
    for step in range(max(at)):
        aligned = not training.agreement.ended(step)
        training.loss(step).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        torch._foreach_lerp_(averaged, [p.detach() for p in parameters], 1 - min(EMA, (1 + step) / (10 + step)))
        if aligned and step + 1 in told:
            cosines.append([step + 1, training.agreement.smoothed, training.low.smoothed])
        if step + 1 in at:
            own = [p.detach().clone() for p in parameters]
            _put(parameters, averaged)
            distances[str(step + 1)] = round(measure(student), 3)
            _put(parameters, own)
    return {"distance": distances, "calls": training.calls, "cosine": cosines, "trigger": training.trigger.end}


def _put(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for p, value in zip(parameters, values, strict=True):
        p.data.copy_(value)


class Scale:
    """Frechet distances in the features of a classifier that was trained on its own, to the digits of the training."""

    def __init__(self, images: Tensor, labels: Tensor, iterations: int) -> None:
        torch.manual_seed(1000)
        self.eye = Eye()
        self.accuracy = round(classifier(self.eye, images, labels, iterations, 1000), 3)
        self.real = self.eye(images[:-HELD_OUT])[0]
        self.floor = round(self(images[-HELD_OUT:]), 3)

    def __call__(self, images: Tensor) -> float:
        return frechet_distance(self.eye(images)[0], self.real)


def study(
    images: Tensor,
    labels: Tensor,
    seed: int,
    scale: Scale,
    *,
    at: Sequence[int],
    stop: int,
    samples: int,
    iterations: int,
    report: Report = lambda note: None,
) -> dict[str, Any]:
    """Every run with one seed, as plain JSON.

    Args:
        images: digits in [-1, 1], (M, 8, 8), more than 360.
        labels: their classes, (M,).
        seed: of the teacher, the student and its batches.
        scale: by which samples are compared.
        at: iterations at which they are, the last being the end.
        stop: iteration at which the stopped runs' alignment ends.
        samples: how many are compared.
        iterations: of the teacher.
    """
    torch.manual_seed(100 + seed)
    teacher = Teacher()
    accuracy = round(classifier(teacher, images, labels, iterations, seed), 3)
    report(f"seed {seed}: the teacher tells {accuracy:.1%} of held-out digits")
    told = sorted({max(at) * k // 9 for k in range(1, 10)})
    rows, parameters = [], 0
    for run in runs(stop):
        training = Training(run, images[:-HELD_OUT], teacher, max(at), seed)
        parameters = sum(p.numel() for p in training.student.parameters())
        found = trained(training, at, told, lambda student: scale(sampled(student, samples, seed)))
        rows.append({"name": run.name, **found})
        report(f"seed {seed}, {run.name}: {found}")
    return {"seed": seed, "teacher": accuracy, "parameters": parameters, "rows": rows}
