"""The grid of images: its rows, its differences, its labels, images of any size."""

from __future__ import annotations

import pytest
import torch
from PIL import ImageChops

from skipcast import report
from support.records import PROMPTS


def test_grid_has_a_row_per_method_and_per_difference() -> None:
    reference = torch.zeros(2, 3, 64, 64)
    image = torch.full((2, 3, 64, 64), 0.1)
    one = report.grid({"a": image}, PROMPTS, reference=reference)
    two = report.grid({"a": image, "b": image}, PROMPTS, reference=reference)
    assert two.width == one.width
    assert two.height - one.height == 2 * (128 + 6)
    columns = [one.getpixel((one.width - 60, one.height - 60 - 134 * i)) for i in range(3)]
    assert columns == [(102,) * 3, (26,) * 3, (0,) * 3]  # 4 x 0.1, 0.1 and the reference, from below


@pytest.mark.parametrize("height, width", [(16, 16), (96, 160), (300, 200)])
def test_grid_takes_images_of_any_size_and_long_texts(height: int, width: int) -> None:
    images = torch.rand(1, 3, height, width)
    image = report.grid({"name:" + "option=1," * 30: images}, ["word " * 80 + "x" * 80], reference=images)
    assert image.width == 190 + max(round(128 * width / max(height, width)), 96) + 6
    assert image.height < 3 * 140 + 100


def test_grid_refuses_what_does_not_fit() -> None:
    reference = torch.zeros(2, 3, 8, 8)
    with pytest.raises(ValueError, match=r"images of a must be \(2, 3, H, W\)"):
        report.grid({"a": reference[:1]}, PROMPTS, reference=reference)
    with pytest.raises(ValueError, match="images of unaccelerated run"):
        report.grid({}, PROMPTS[:1], reference=reference)


def test_the_heading_stands_above_the_labels() -> None:
    image = torch.zeros(2, 3, 64, 64)
    one, other = (report.grid({"a": image}, PROMPTS, reference=image, heading=text) for text in ("", "at 10"))
    changed = ImageChops.difference(one, other).getbbox()
    assert changed is not None
    assert changed[2] < 190  # in the column of labels,
    assert changed[3] < one.height - 3 * (128 + 6)  # above the unaccelerated run
