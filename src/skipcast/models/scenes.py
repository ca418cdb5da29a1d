"""The world of `shapes-flux`: anti-aliased 64x64 images of one shape on a soft background, and their captions.

A `Scene` is a batch of attribute indices and poses; `draw` turns it into pixels with signed distances, so that every
edge is anti-aliased. Everything is a function of a seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIDE = 64
SOFTNESS = 1.5  # width of an anti-aliased edge, in pixels
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "heart", "crescent", "hexagon", "diamond")
COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "white", "black")
SIZES = ("small", "large")
TEXTURES = ("plain", "striped", "dotted")
ATTRIBUTES = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "background": COLOURS}

#: Combinations of shape and colour that training never shows; the model card reports on them apart.
HELD_OUT = (("circle", "orange"), ("cross", "green"), ("heart", "blue"), ("diamond", "yellow"))

RGB = np.array(
    [
        (0.86, 0.13, 0.13),
        (0.13, 0.62, 0.20),
        (0.14, 0.28, 0.86),
        (0.96, 0.88, 0.14),
        (0.97, 0.53, 0.08),
        (0.53, 0.17, 0.68),
        (0.97, 0.97, 0.97),
        (0.05, 0.05, 0.05),
    ],
    dtype=np.float32,
)
_RADIUS = np.array((0.36, 0.66), dtype=np.float32)  # of half the side: small, large

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Scene:
    """A batch of B images before they are drawn; every field has length B (`centre`: (B, 2), in half sides)."""

    shape: IntArray
    colour: IntArray
    size: IntArray
    background: IntArray
    texture: IntArray
    centre: FloatArray
    angle: FloatArray
    scale: FloatArray
    gradient: FloatArray  # (B, 2): change of brightness across the side, right and down

    def __len__(self) -> int:
        return len(self.shape)

    def labels(self) -> dict[str, IntArray]:
        """The attributes that the judge reads, as indices into `ATTRIBUTES`."""
        return {name: getattr(self, name) for name in ATTRIBUTES}


def _held_out_mask(shape: IntArray, colour: IntArray) -> NDArray[np.bool_]:
    pairs = [(SHAPES.index(s), COLOURS.index(c)) for s, c in HELD_OUT]
    return np.array([(s, c) in pairs for s, c in zip(shape.tolist(), colour.tolist(), strict=True)], dtype=bool)


def sample_scene(count: int, rng: np.random.Generator, *, held_out: bool = False) -> Scene:
    """Draw `count` random scenes; `held_out=True` draws only the combinations that training leaves out.

    Position varies by 15 % of the side, rotation by 20 degrees, each uniformly to either side.
    """
    shape = rng.integers(len(SHAPES), size=count)
    colour = rng.integers(len(COLOURS), size=count)
    if held_out:
        pick = rng.integers(len(HELD_OUT), size=count)
        shape = np.array([SHAPES.index(HELD_OUT[i][0]) for i in pick], dtype=np.int64)
        colour = np.array([COLOURS.index(HELD_OUT[i][1]) for i in pick], dtype=np.int64)
    else:
        while (mask := _held_out_mask(shape, colour)).any():
            shape[mask] = rng.integers(len(SHAPES), size=int(mask.sum()))
            colour[mask] = rng.integers(len(COLOURS), size=int(mask.sum()))
    background = (colour + rng.integers(1, len(COLOURS), size=count)) % len(COLOURS)  # never the shape's own colour
    return Scene(
        shape=shape,
        colour=colour,
        size=rng.integers(len(SIZES), size=count),
        background=background,
        texture=rng.integers(len(TEXTURES), size=count),
        centre=rng.uniform(-0.3, 0.3, (count, 2)).astype(np.float32),
        angle=rng.uniform(-np.pi / 9, np.pi / 9, count).astype(np.float32),
        scale=rng.uniform(0.94, 1.06, count).astype(np.float32),
        gradient=rng.uniform(-0.12, 0.12, (count, 2)).astype(np.float32),
    )


def _polygon(x: FloatArray, y: FloatArray, sides: int, apothem: float, turn: float) -> FloatArray:
    angles = turn + 2 * np.pi * np.arange(sides) / sides
    return np.max([x * np.cos(a) + y * np.sin(a) for a in angles], axis=0) - np.float32(apothem)


def _star(x: FloatArray, y: FloatArray) -> FloatArray:
    # Fold the plane into one half of one point of the star; there the outline is a single line.
    fold = np.pi / 5
    angle = np.abs((np.arctan2(x, y) + fold) % (2 * fold) - fold)
    radius = np.hypot(x, y)
    px, py = radius * np.sin(angle), radius * np.cos(angle)
    tip, notch = np.array((0.0, 1.1)), 0.46 * np.array((np.sin(fold), np.cos(fold)))
    edge = notch - tip
    normal = np.array((-edge[1], edge[0])) / np.hypot(*edge)
    return ((px - tip[0]) * normal[0] + (py - tip[1]) * normal[1]).astype(np.float32)


def _heart(x: FloatArray, y: FloatArray) -> FloatArray:
    a = 0.62
    m = a / np.sqrt(2)
    y = y + np.float32(0.12)
    lobes = np.minimum(np.hypot(x - m, y - m), np.hypot(x + m, y - m)) - a
    return np.minimum((np.abs(x) + np.abs(y)) / np.sqrt(2) - a, lobes).astype(np.float32)


def outline(name: str, x: FloatArray, y: FloatArray) -> FloatArray:
    """Signed distance (negative inside) to a shape of about unit radius; y points up."""
    if name == "circle":
        return np.hypot(x, y) - np.float32(0.92)
    if name == "square":
        return np.maximum(np.abs(x), np.abs(y)) - np.float32(0.8)
    if name == "triangle":
        return _polygon(x, y + np.float32(0.15), 3, 0.55, -np.pi / 2)
    if name == "star":
        return _star(x, y)
    if name == "ring":
        return np.abs(np.hypot(x, y) - np.float32(0.72)) - np.float32(0.24)
    if name == "cross":
        bar, length = np.float32(0.3), np.float32(0.95)
        ax, ay = np.abs(x), np.abs(y)
        return np.minimum(np.maximum(ax - bar, ay - length), np.maximum(ax - length, ay - bar))
    if name == "heart":
        return _heart(x, y)
    if name == "crescent":
        return np.maximum(np.hypot(x, y) - 0.95, 0.78 - np.hypot(x - 0.48, y - 0.1)).astype(np.float32)
    if name == "hexagon":
        return _polygon(x, y, 6, 0.82, np.pi / 6)
    if name == "diamond":
        return ((np.abs(x) / 0.62 + np.abs(y) - 1.05) * 0.527).astype(np.float32)
    raise ValueError(f"unknown shape {name!r}; known: {', '.join(SHAPES)}")


def draw(scene: Scene) -> FloatArray:
    """Pixels of a scene: (B, 3, 64, 64), float32 in [0, 1]."""
    count = len(scene)
    axis = (np.arange(SIDE, dtype=np.float32) + 0.5) / (SIDE / 2) - 1
    right, up = np.meshgrid(axis, -axis)
    radius = (_RADIUS[scene.size] * scene.scale)[:, None, None]
    dx, dy = right - scene.centre[:, 0, None, None], up - scene.centre[:, 1, None, None]
    cos, sin = np.cos(scene.angle)[:, None, None], np.sin(scene.angle)[:, None, None]
    u, v = cos * dx + sin * dy, -sin * dx + cos * dy  # half sides, in the shape's own frame

    distance = np.empty((count, SIDE, SIDE), dtype=np.float32)
    for index, name in enumerate(SHAPES):
        rows = scene.shape == index
        if rows.any():
            distance[rows] = outline(name, u[rows] / radius[rows], v[rows] / radius[rows]) * radius[rows]
    cover = np.clip(0.5 - distance * (SIDE / 2 / SOFTNESS), 0, 1)[:, None]

    # Textures mix the colour with a lighter or darker shade of itself, with soft edges and a period of 12 pixels.
    period = np.float32(0.375)
    stripes = np.clip(0.5 + 2.0 * np.sin(2 * np.pi * v / period), 0, 1)
    lattice = np.hypot((u / period) % 1 - 0.5, (v / period) % 1 - 0.5)
    dots = np.clip(0.5 + (0.3 - lattice) * 8, 0, 1)
    kind = scene.texture[:, None, None]
    amount = (np.where(kind == 1, stripes, 0) + np.where(kind == 2, dots, 0)).astype(np.float32)[:, None]
    colour = RGB[scene.colour][:, :, None, None]
    bright = colour.mean(axis=1, keepdims=True) > 0.3
    shade = np.where(bright, 0.7 * colour, colour + 0.32 * (1 - colour))
    ink = colour + amount * (shade - colour)

    slope = scene.gradient[:, 0, None, None] * right - scene.gradient[:, 1, None, None] * up
    paper = RGB[scene.background][:, :, None, None] + slope[:, None]
    return np.clip(paper + cover * (ink - paper), 0, 1).astype(np.float32)


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def captions(scene: Scene, rng: np.random.Generator) -> list[str]:
    """One sentence per image, from four templates; the texture is left out of one caption in three."""
    lines = []
    templates = rng.integers(4, size=len(scene))
    silent = rng.random(len(scene)) < 1 / 3
    for i, template in enumerate(templates.tolist()):
        lines.append(
            caption(
                SHAPES[scene.shape[i]],
                COLOURS[scene.colour[i]],
                SIZES[scene.size[i]],
                COLOURS[scene.background[i]],
                None if silent[i] else TEXTURES[scene.texture[i]],
                template,
            )
        )
    return lines


def caption(shape: str, colour: str, size: str, background: str, texture: str | None, template: int = 0) -> str:
    """One caption: template 0 is 'a large striped red star on a blue background'."""
    adjectives = [size, *([texture] if texture else []), colour]
    thing = " ".join([*adjectives, shape])
    ground = f"{_article(background)} {background} background"
    if template == 0:
        return f"{_article(size)} {thing} on {ground}"
    if template == 1:
        tail = f"{size} and {texture}" if texture else size
        return f"{_article(colour)} {colour} {shape} on {ground}, {tail}"
    if template == 2:
        return f"{thing}, {background} background"
    if template == 3:
        return f"on {ground}, {_article(size)} {thing}"
    raise ValueError(f"caption(template=...) must be 0 to 3, got {template}")


def read_caption(text: str) -> dict[str, int]:
    """The attributes that a caption asks for, as indices into `ATTRIBUTES`; those it does not name are left out.

    A colour before the word 'background' is the background's, any other the shape's.
    """
    words = text.lower().replace(",", " ").split()
    requested: dict[str, int] = {}
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word in SHAPES:
            requested["shape"] = SHAPES.index(word)
        elif word in SIZES:
            requested["size"] = SIZES.index(word)
        elif word in COLOURS:
            requested["background" if following == "background" else "colour"] = COLOURS.index(word)
    return requested
