"""The world of `shapes-wan`: clips of nine 48x48 frames in which one shape moves, and their captions.

A `Clip` is a batch of attribute indices and poses; `draw` turns it into pixels, with the outlines and colours of the
still images (`skipcast.models.scenes`). Everything is a function of a seed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipcast.models.scenes import COLOURS, RGB, SHAPES, SOFTNESS, FloatArray, IntArray, outline

SIDE, FRAMES = 48, 9
MOTIONS = ("left", "right", "up", "down", "turns", "grows", "shrinks", "bounces")
SPEEDS = ("slow", "fast")
ATTRIBUTES = {"shape": SHAPES, "colour": COLOURS, "background": COLOURS, "motion": MOTIONS, "speed": SPEEDS}

#: Combinations of shape and motion that training never shows; the model card reports on them apart.
HELD_OUT = (("star", "bounces"), ("heart", "turns"), ("square", "left"), ("triangle", "grows"))
#: A round shape that turns is one that stands still.
UNSEEABLE = (("circle", "turns"), ("ring", "turns"))

#: What a motion covers in a clip, slow and fast: half sides, degrees, a ratio of radii, times on the ground.
WAY, TURN, GROWTH, BOUNCES = (0.35, 0.9), (45.0, 120.0), (1.35, 2.0), (1, 2)
RADIUS = 0.46  # of half the side
DROP = 0.8  # of a bounce, in half sides

_DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, 1), "down": (0, -1)}
VERBS = {name: f"moves {name}" for name in _DIRECTIONS} | {name: name for name in MOTIONS[4:]}
_ADVERBS = {"slow": "slowly", "fast": "quickly"}


@dataclass(frozen=True)
class Clip:
    """A batch of B clips before they are drawn; every field has length B (`centre`, `gradient`: (B, 2))."""

    shape: IntArray
    colour: IntArray
    background: IntArray
    motion: IntArray
    speed: IntArray
    centre: FloatArray  # of the path, in half sides
    angle: FloatArray
    scale: FloatArray
    amount: FloatArray  # of the motion, as a factor
    gradient: FloatArray  # change of brightness across the side, right and down

    def __len__(self) -> int:
        return len(self.shape)

    def labels(self) -> dict[str, IntArray]:
        """The attributes that the judge reads, as indices into `ATTRIBUTES`."""
        return {name: getattr(self, name) for name in ATTRIBUTES}

    def __getitem__(self, rows: IntArray | slice) -> Clip:
        return Clip(**{name: value[rows] for name, value in vars(self).items()})


def _among(pairs: tuple[tuple[str, str], ...], shape: IntArray, motion: IntArray) -> NDArray[np.bool_]:
    found = np.zeros(len(shape), dtype=bool)
    for a, b in pairs:
        found |= (shape == SHAPES.index(a)) & (motion == MOTIONS.index(b))
    return found


def sample_clip(count: int, rng: np.random.Generator, *, held_out: bool = False) -> Clip:
    """Draw `count` random clips; `held_out=True` draws only the combinations that training leaves out."""
    shape, motion = rng.integers(len(SHAPES), size=count), rng.integers(len(MOTIONS), size=count)
    if held_out:
        pick = rng.integers(len(HELD_OUT), size=count)
        shape = np.array([SHAPES.index(HELD_OUT[i][0]) for i in pick], dtype=np.int64)
        motion = np.array([MOTIONS.index(HELD_OUT[i][1]) for i in pick], dtype=np.int64)
    else:
        while (mask := _among((*HELD_OUT, *UNSEEABLE), shape, motion)).any():
            shape[mask] = rng.integers(len(SHAPES), size=int(mask.sum()))
            motion[mask] = rng.integers(len(MOTIONS), size=int(mask.sum()))
    colour = rng.integers(len(COLOURS), size=count)
    return Clip(
        shape=shape,
        colour=colour,
        background=(colour + rng.integers(1, len(COLOURS), size=count)) % len(COLOURS),  # never the shape's own colour
        motion=motion,
        speed=rng.integers(len(SPEEDS), size=count),
        centre=rng.uniform(-0.12, 0.12, (count, 2)).astype(np.float32),
        angle=rng.uniform(-np.pi / 9, np.pi / 9, count).astype(np.float32),
        scale=rng.uniform(0.94, 1.06, count).astype(np.float32),
        amount=rng.uniform(0.92, 1.08, count).astype(np.float32),
        gradient=rng.uniform(-0.12, 0.12, (count, 2)).astype(np.float32),
    )


def poses(clip: Clip) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Centre (B, T, 2), angle (B, T) and radius (B, T) of the shape in every frame; lengths in half sides, y upward."""
    time = np.linspace(0, 1, FRAMES, dtype=np.float32)
    amount = clip.amount[:, None]
    centre = np.repeat(clip.centre[:, None], FRAMES, axis=1)
    angle = np.repeat(clip.angle[:, None], FRAMES, axis=1)
    radius = np.repeat((RADIUS * clip.scale)[:, None], FRAMES, axis=1)

    def of(motion: str) -> NDArray[np.bool_]:
        rows: NDArray[np.bool_] = clip.motion == MOTIONS.index(motion)
        return rows

    for name, (right, up) in _DIRECTIONS.items():
        way = np.asarray(WAY, np.float32)[clip.speed][:, None] * amount * (time - 0.5)
        centre[of(name)] += (way[..., None] * np.array((right, up), np.float32))[of(name)]
    turned = np.deg2rad(np.asarray(TURN, np.float32))[clip.speed][:, None] * amount * time
    angle[of("turns")] += turned[of("turns")]
    ratio = np.asarray(GROWTH, np.float32)[clip.speed][:, None] ** (amount * (time - 0.5))
    radius[of("grows")] *= ratio[of("grows")]
    radius[of("shrinks")] /= ratio[of("shrinks")]
    phase = (np.asarray(BOUNCES, np.float32)[clip.speed][:, None] * time + 0.5) % 1
    height = DROP * amount * ((1 - (2 * phase - 1) ** 2) - 0.5)
    centre[of("bounces"), :, 1] += height[of("bounces")]
    return centre, angle, radius


def draw(clip: Clip) -> FloatArray:
    """Pixels of clips: (B, T, 3, 48, 48), float32 in [0, 1]."""
    axis = (np.arange(SIDE, dtype=np.float32) + 0.5) / (SIDE / 2) - 1
    right, up = np.meshgrid(axis, -axis)
    centre, angle, radius = poses(clip)
    dx, dy = right - centre[..., 0, None, None], up - centre[..., 1, None, None]
    cos, sin = np.cos(angle)[..., None, None], np.sin(angle)[..., None, None]
    size = radius[..., None, None]
    u, v = (cos * dx + sin * dy) / size, (-sin * dx + cos * dy) / size  # in the shape's own frame

    distance = np.empty_like(u)
    for index, name in enumerate(SHAPES):
        rows = clip.shape == index
        if rows.any():
            distance[rows] = outline(name, u[rows], v[rows])
    cover = np.clip(0.5 - distance * size * (SIDE / 2 / SOFTNESS), 0, 1)[:, :, None]
    slope = clip.gradient[:, 0, None, None] * right - clip.gradient[:, 1, None, None] * up
    paper = (RGB[clip.background][:, :, None, None] + slope[:, None])[:, None]
    ink = RGB[clip.colour][:, None, :, None, None]
    return np.clip(paper + cover * (ink - paper), 0, 1).astype(np.float32)


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def captions(clip: Clip, rng: np.random.Generator) -> list[str]:
    """One sentence per clip, from three templates."""
    templates = rng.integers(3, size=len(clip)).tolist()
    return [
        caption(SHAPES[shape], COLOURS[colour], COLOURS[ground], MOTIONS[motion], SPEEDS[speed], template)
        for shape, colour, ground, motion, speed, template in zip(
            clip.shape, clip.colour, clip.background, clip.motion, clip.speed, templates, strict=True
        )
    ]


def caption(shape: str, colour: str, background: str, motion: str, speed: str, template: int = 0) -> str:
    """One caption: template 0 is 'a red star moves left slowly on a blue background'."""
    thing = f"{_article(colour)} {colour} {shape}"
    ground = f"{_article(background)} {background} background"
    verb, adverb = VERBS[motion], _ADVERBS[speed]
    if template == 0:
        return f"{thing} {verb} {adverb} on {ground}"
    if template == 1:
        return f"on {ground}, {thing} {adverb} {verb}"
    if template == 2:
        return f"{thing} on {ground} {adverb} {verb}"
    raise ValueError(f"caption(template=...) must be 0 to 2, got {template}")


def read_caption(text: str) -> dict[str, int]:
    """The attributes that a caption asks for, as indices into `ATTRIBUTES`; those it does not name are left out.

    A colour before the word 'background' is the background's, any other the shape's.
    """
    words = re.findall(r"[a-z]+", text.lower())
    speeds = {adverb: name for name, adverb in _ADVERBS.items()}
    requested: dict[str, int] = {}
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word in SHAPES:
            requested["shape"] = SHAPES.index(word)
        elif word in MOTIONS:
            requested["motion"] = MOTIONS.index(word)
        elif word in speeds:
            requested["speed"] = SPEEDS.index(speeds[word])
        elif word in COLOURS:
            requested["background" if following == "background" else "colour"] = COLOURS.index(word)
    return requested
