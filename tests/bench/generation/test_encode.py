"""Whatever a pipeline returns becomes files, or one clear error."""

from __future__ import annotations

from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from skipcast.bench.generation.encode import encoded

VALUES = np.random.default_rng(0).random((2, 5, 16, 24, 3), dtype=np.float32)


def test_pictures_are_png() -> None:
    image = Image.fromarray((VALUES[0, 0] * 255).astype(np.uint8))
    ((suffix, content),) = encoded(SimpleNamespace(images=[image]))
    assert suffix == ".png"
    assert np.array_equal(np.asarray(Image.open(BytesIO(content))), np.asarray(image))


@pytest.mark.parametrize("pillow", [False, True])
def test_videos_are_animated_webp_without_loss(pillow: bool) -> None:
    exact = (VALUES * 255).round().astype(np.uint8)
    given = [[Image.fromarray(frame) for frame in video] for video in exact] if pillow else VALUES
    files = encoded(SimpleNamespace(frames=given))
    assert [suffix for suffix, _ in files] == [".webp", ".webp"]
    for (_, content), video in zip(files, exact, strict=True):
        found = Image.open(BytesIO(content))
        assert (found.n_frames, found.size) == (5, (24, 16))
        for place, frame in enumerate(video):
            found.seek(place)
            assert np.array_equal(np.asarray(found.convert("RGB")), frame)


def test_what_is_neither_is_refused() -> None:
    with pytest.raises(ValueError, match="neither pictures nor videos but SimpleNamespace"):
        encoded(SimpleNamespace(audios=[0]))
