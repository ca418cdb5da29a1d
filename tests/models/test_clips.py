"""The drawn clips: deterministic, moving as their captions say, and described by them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from skipcast.models.clips import (
    FRAMES,
    HELD_OUT,
    MOTIONS,
    RADIUS,
    SIDE,
    SPEEDS,
    UNSEEABLE,
    Clip,
    caption,
    captions,
    draw,
    poses,
    read_caption,
    sample_clip,
)
from skipcast.models.scenes import COLOURS, SHAPES


def plain(motion: str, speed: str, shape: str = "circle") -> Clip:
    """One upright white shape on black, its path centred."""
    clip = sample_clip(1, np.random.default_rng(0))
    zero = np.zeros(1, dtype=np.int64)
    return dataclasses.replace(
        clip,
        shape=zero + SHAPES.index(shape),
        colour=zero + COLOURS.index("white"),
        background=zero + COLOURS.index("black"),
        motion=zero + MOTIONS.index(motion),
        speed=zero + SPEEDS.index(speed),
        centre=np.zeros((1, 2), np.float32),
        angle=np.zeros(1, np.float32),
        scale=np.ones(1, np.float32),
        amount=np.ones(1, np.float32),
        gradient=np.zeros((1, 2), np.float32),
    )


def test_clips_are_a_function_of_the_seed() -> None:
    first, again, other = (draw(sample_clip(3, np.random.default_rng(seed))) for seed in (5, 5, 6))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert (first.shape, first.dtype) == ((3, FRAMES, 3, SIDE, SIDE), np.float32)
    assert 0 <= first.min() <= first.max() <= 1


def middle(clip: Clip) -> np.ndarray:
    """Centre of the bright pixels of every frame, in pixels right and up: (F, 2)."""
    light = draw(clip)[0].mean(1) - 0.05
    places = np.arange(SIDE) + 0.5 - SIDE / 2
    total = light.sum((1, 2))
    return np.stack([(light.sum(1) * places).sum(1) / total, -(light.sum(2) * places).sum(1) / total], axis=1)


@pytest.mark.parametrize("speed, way", [("slow", 0.35), ("fast", 0.9)])
@pytest.mark.parametrize("motion, direction", [("left", (-1, 0)), ("right", (1, 0)), ("up", (0, 1)), ("down", (0, -1))])
def test_a_move_goes_where_it_says_by_equal_steps(
    motion: str, direction: tuple[int, int], speed: str, way: float
) -> None:
    path = middle(plain(motion, speed))
    step = np.array(direction) * way * SIDE / 2 / (FRAMES - 1)
    assert np.allclose(np.diff(path, axis=0), step, atol=0.05)
    assert np.allclose(path.mean(0), 0, atol=0.05)


@pytest.mark.parametrize("motion, ratio", [("grows", 2.0), ("shrinks", 0.5)])
def test_areas_grow_with_the_square_of_the_radius(motion: str, ratio: float) -> None:
    light = draw(plain(motion, "fast"))[0].mean((1, 2, 3)) - 0.05
    assert light[-1] / light[0] == pytest.approx(ratio**2, rel=0.01)
    assert light[FRAMES // 2] * SIDE**2 / 0.92 == pytest.approx(np.pi * (0.92 * RADIUS * SIDE / 2) ** 2, rel=0.01)


@pytest.mark.parametrize("speed, times", [("slow", 1), ("fast", 2)])
def test_a_bounce_touches_the_ground_so_often(speed: str, times: int) -> None:
    up = poses(plain("bounces", speed))[0][0, :, 1]
    assert np.isclose(up, up.min()).sum() == times
    assert up[0] == up[-1] == up.max()
    assert up.max() - up.min() == pytest.approx(0.8)


def test_a_turn_is_anticlockwise() -> None:
    angles = np.rad2deg(poses(plain("turns", "fast", "cross"))[1][0])
    assert angles[0] == 0
    assert angles[-1] == pytest.approx(120, abs=1e-3)
    assert (np.diff(angles) > 0).all()


def test_some_combinations_are_never_drawn_and_some_only_when_held_out() -> None:
    def pairs(clip: Clip) -> set[tuple[str, str]]:
        return {(SHAPES[a], MOTIONS[b]) for a, b in zip(clip.shape, clip.motion, strict=True)}

    usual = pairs(sample_clip(4000, np.random.default_rng(0)))
    assert len(usual) == len(SHAPES) * len(MOTIONS) - len(HELD_OUT) - len(UNSEEABLE)
    assert not usual & {*HELD_OUT, *UNSEEABLE}
    assert pairs(sample_clip(200, np.random.default_rng(0), held_out=True)) == set(HELD_OUT)
    clip = sample_clip(200, np.random.default_rng(1))
    assert (clip.colour != clip.background).all()


def test_captions_tell_everything() -> None:
    rng = np.random.default_rng(3)
    clip = sample_clip(300, rng)
    for i, line in enumerate(captions(clip, rng)):
        assert read_caption(line) == {name: truth[i] for name, truth in clip.labels().items()}
    assert caption("star", "red", "orange", "left", "slow") == "a red star moves left slowly on an orange background"
    assert read_caption("a horse on a red background") == {"background": COLOURS.index("red")}
    with pytest.raises(ValueError, match="0 to 2, got 3"):
        caption("star", "red", "blue", "left", "slow", 3)
