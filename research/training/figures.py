"""What the cards of the reference models show: shares of prompts followed, curves of losses, sheets of pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from research.training.judge import Drawn


def adherence(judge: Any, images: Tensor, drawn: Drawn) -> dict[str, float]:
    """Share of images on which the judge reads what the prompt names, per attribute and for all of them together."""
    seen = judge.read(images)
    right = {name: seen[name].numpy() == truth for name, truth in drawn.labels().items()}
    shares = {name: float(value.mean()) for name, value in right.items()}
    return {**shares, "all": float(np.logical_and.reduce(list(right.values())).mean())}


def contact_sheet(images: Tensor, columns: int = 8, scale: int = 2) -> Image.Image:
    """Images side by side, enlarged."""
    n, _, h, w = images.shape
    rows = -(-n // columns)
    sheet = np.ones((rows * (h + 2), columns * (w + 2), 3), dtype=np.float32)
    for i, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        y, x = i // columns * (h + 2) + 1, i % columns * (w + 2) + 1
        sheet[y : y + h, x : x + w] = image
    image = Image.fromarray((sheet * 255).round().astype("uint8"))
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def curve_svg(series: dict[str, list[tuple[float, float]]], *, x_label: str, y_label: str) -> str:
    """A small line chart; every series has a dash of its own and its name at the end of its line."""
    width, height, left, bottom = 640, 280, 56, 40
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    top, low = float(np.quantile(ys, 0.995)), min(ys)

    def place(x: float, y: float) -> str:
        u = left + (width - left - 110) * x / max(xs)
        v = 12 + (height - bottom - 12) * (1 - (min(y, top) - low) / ((top - low) or 1))
        return f"{u:.1f},{v:.1f}"

    lines = []
    for i, (name, points) in enumerate(series.items()):
        dash = ("", "6 3", "2 3")[i % 3]
        path = " ".join(place(x, y) for x, y in points)
        u, v = place(*points[-1]).split(",")
        lines.append(
            f'<polyline points="{path}" fill="none" stroke="#1f4e79" stroke-width="1.5" stroke-dasharray="{dash}"/>'
        )
        lines.append(f'<text x="{float(u) + 6}" y="{float(v) + 4 - 14 * i}">{name}</text>')
    ticks = "".join(
        f'<text x="{left - 6}" y="{float(place(0, y).split(",")[1]) + 4}" text-anchor="end">{y:.2f}</text>'
        for y in np.linspace(low, top, 5)
    )
    ticks += "".join(
        f'<text x="{place(x, low).split(",")[0]}" y="{height - bottom + 16}" text-anchor="middle">{x:.0f}</text>'
        for x in np.linspace(0, max(xs), 6)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        ' font-family="sans-serif" font-size="11">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(lines)}{ticks}'
        f'<text x="{width / 2}" y="{height - 6}" text-anchor="middle">{x_label}</text>'
        f'<text x="4" y="10">{y_label}</text></svg>\n'
    )


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records that `fit` wrote, one per 50 steps."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def smooth(log: list[dict[str, Any]], key: str, window: int = 4, *, along: str = "step") -> list[tuple[float, float]]:
    """(`along`, mean of the newest `window` records) where `key` was logged."""
    points = [(record[along], record[key]) for record in log if key in record]
    values = [value for _, value in points]
    return [
        (step, sum(values[max(0, i - window + 1) : i + 1]) / (i + 1 - max(0, i - window + 1)))
        for i, (step, _) in enumerate(points)
    ]
