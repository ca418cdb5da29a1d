"""The picture grid: its rows, its differences, its labels, pictures of any size."""

from __future__ import annotations

import pytest
import torch
from PIL import Image, ImageChops

from skipcast import report
from support.records import PROMPTS


def test_grid_has_a_row_per_method_and_per_difference() -> None:
    reference = torch.zeros(2, 3, 64, 64)
    picture = torch.full((2, 3, 64, 64), 0.1)
    one = report.grid([picture], ["a:evaluations=5"], PROMPTS, reference=reference)
    two = report.grid([picture, picture], ["a:evaluations=5", "b:evaluations=5"], PROMPTS, reference=reference)
    assert two.width == one.width
    assert two.height - one.height == 2 * (128 + 6)
    columns = [one.getpixel((one.width - 60, one.height - 60 - 134 * i)) for i in range(3)]
    assert columns == [(102,) * 3, (26,) * 3, (0,) * 3]  # 4 x 0.1, 0.1 and the reference, from below


@pytest.mark.parametrize("height, width", [(16, 16), (96, 160), (300, 200)])
def test_grid_takes_pictures_of_any_size_and_long_texts(height: int, width: int) -> None:
    pictures = torch.rand(1, 3, height, width)
    image = report.grid(
        [pictures],
        ["name:" + "option=1," * 30],
        ["word " * 80 + "x" * 80],
        reference=pictures,
        reference_label="r" * 90,
    )
    assert image.width == 190 + max(round(128 * width / max(height, width)), 96) + 6
    assert image.height < 3 * 140 + 100


def test_grid_refuses_what_does_not_fit() -> None:
    reference = torch.zeros(2, 3, 8, 8)
    with pytest.raises(ValueError, match="labels"):
        report.grid([reference], [], PROMPTS, reference=reference)
    with pytest.raises(ValueError, match=r"pictures of a must be \(2, 3, H, W\)"):
        report.grid([reference[:1]], ["a"], PROMPTS, reference=reference)
    with pytest.raises(ValueError, match="pictures of reference"):
        report.grid([], [], PROMPTS[:1], reference=reference)


def test_evaluations_that_all_share_stand_once_above() -> None:
    picture = torch.zeros(2, 3, 64, 64)

    def drawn(*labels: str) -> Image.Image:
        return report.grid([picture] * len(labels), labels, PROMPTS, reference=picture)

    def changed(one: Image.Image, other: Image.Image) -> tuple[int, int, int, int] | None:
        return ImageChops.difference(one, other).getbbox()

    short = drawn("a", "b:order=1")
    heading = changed(drawn("a:evaluations=5", "b:order=1,evaluations=5"), short)
    assert heading is not None
    assert heading[2] < 190  # in the label column,
    assert heading[3] < short.height - 5 * (128 + 6)  # above the reference
    for labels in (("a:evaluations=5", "b:order=1,evaluations=6"), ("a:evaluations=5", "b:order=1")):
        rows = changed(drawn(*labels), short)
        assert rows is not None
        assert rows[1] > short.height - 4 * (128 + 6)
