"""The drawn world: deterministic, anti-aliased, and described by its captions."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from skipcast.models.scenes import (
    COLOURS,
    HELD_OUT,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    caption,
    captions,
    draw,
    read_caption,
    sample_scene,
)


def plain(shape: str) -> Scene:
    """One large, centred, upright, plain white shape on black."""
    scene = sample_scene(1, np.random.default_rng(0))
    zero = np.zeros(1, dtype=np.int64)
    return dataclasses.replace(
        scene,
        shape=zero + SHAPES.index(shape),
        colour=zero + COLOURS.index("white"),
        background=zero + COLOURS.index("black"),
        size=zero + 1,
        texture=zero,
        centre=np.zeros((1, 2), np.float32),
        angle=np.zeros(1, np.float32),
        scale=np.ones(1, np.float32),
        gradient=np.zeros((1, 2), np.float32),
    )


def test_pictures_are_a_function_of_the_seed() -> None:
    first, again, other = (draw(sample_scene(4, np.random.default_rng(seed))) for seed in (5, 5, 6))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert (first.shape, first.dtype) == ((4, 3, 64, 64), np.float32)
    assert 0 <= first.min() <= first.max() <= 1


@pytest.mark.parametrize(
    "shape, area",
    [
        ("circle", np.pi * (0.92 * 0.66 * 32) ** 2),
        ("square", (1.6 * 0.66 * 32) ** 2),
        ("cross", (4 * 0.3 * 0.95 - 4 * 0.3**2 + 4 * 0.3 * 0.95) * (0.66 * 32) ** 2),
        ("ring", np.pi * (0.96**2 - 0.48**2) * (0.66 * 32) ** 2),
    ],
)
def test_areas_are_those_of_the_geometry(shape: str, area: float) -> None:
    image = draw(plain(shape))[0, 0]
    cover = (image - 0.05) / (0.97 - 0.05)
    assert cover.sum() == pytest.approx(area, rel=0.02)


@pytest.mark.parametrize("shape", [s for s in SHAPES if s != "crescent"])
def test_shapes_are_symmetric_and_have_soft_edges(shape: str) -> None:
    image = draw(plain(shape))[0, 0]
    assert np.allclose(image, image[:, ::-1], atol=1e-5)
    edge = (image > 0.1) & (image < 0.9)
    assert edge.sum() > 40


def test_held_out_combinations_never_appear_in_training() -> None:
    pairs = {(s, c) for s, c in HELD_OUT}
    scene = sample_scene(5000, np.random.default_rng(1))
    seen = {(SHAPES[s], COLOURS[c]) for s, c in zip(scene.shape, scene.colour, strict=True)}
    assert not seen & pairs
    assert len(seen) == len(SHAPES) * len(COLOURS) - len(pairs)
    rare = sample_scene(200, np.random.default_rng(1), held_out=True)
    assert {(SHAPES[s], COLOURS[c]) for s, c in zip(rare.shape, rare.colour, strict=True)} == pairs
    assert (scene.colour != scene.background).all()


def test_caption_templates() -> None:
    what = ("star", "orange", "large", "blue")
    assert caption(*what, "striped") == "a large striped orange star on a blue background"
    assert caption(*what, None, 1) == "an orange star on a blue background, large"
    assert caption(*what, "dotted", 2) == "large dotted orange star, blue background"
    assert caption("ring", "red", "small", "orange", None, 3) == "on an orange background, a small red ring"
    with pytest.raises(ValueError, match="template"):
        caption(*what, None, 4)


def test_captions_are_read_back() -> None:
    for shape, size, texture, template in itertools.product(SHAPES, SIZES, (None, *TEXTURES), range(4)):
        line = caption(shape, "red", size, "green", texture, template)
        assert read_caption(line) == {
            "shape": SHAPES.index(shape),
            "size": SIZES.index(size),
            "colour": COLOURS.index("red"),
            "background": COLOURS.index("green"),
        }
    assert read_caption("a photograph of a fox") == {}


def test_a_third_of_the_captions_leave_the_texture_out() -> None:
    rng = np.random.default_rng(3)
    scene = sample_scene(900, rng)
    lines = captions(scene, rng)
    silent = sum(not any(texture in line for texture in TEXTURES) for line in lines)
    assert silent / 900 == pytest.approx(1 / 3, abs=0.06)
