"""The model card says what was measured, and what falls short."""

from __future__ import annotations

import pytest

from research.shapes_flux.document import alignment_gain, card
from research.training.figures import curve_svg, smooth

SHARES = {"shape": 0.5, "colour": 0.99, "size": 1.0, "background": 0.97, "all": 0.48}
MEASURED = {
    "guidance": 2.0,
    "prompts": 500,
    "adherence": SHARES,
    "adherence_unseen_combinations": SHARES,
    "judge_on_drawn": SHARES,
    "judge_on_rebuilt": SHARES,
    "guidance_sweep": {"2": SHARES},
    "frechet": 3.25,
    "frechet_floor": 0.5,
    "autoencoder_psnr_mean": 30.6,
    "autoencoder_psnr_worst": 24.0,
}
STAGES = {"autoencoder": {"seconds": 600}, "transformer": {"seconds": 3000, "steps": 4300}}


def test_the_card_names_what_was_missed() -> None:
    text = card(STAGES, MEASURED, {"transformer": 20e6, "vae": 5e6}, None)
    assert "- shape: 50.0 % of prompts, the aim is 85.0 %." in text
    assert "- Size: 25.0 MB, the aim is 24 MB." in text
    assert "- colour" not in text
    assert "Softly grown." in card(STAGES, MEASURED, {"vae": 1e6}, None, "Softly grown.")
    fine = {**MEASURED, "adherence": {**SHARES, "shape": 0.9}}
    assert "all aims are met" in card(STAGES, fine, {"transformer": 20e6}, None)


def test_smoothing_is_a_trailing_mean() -> None:
    log = [{"step": i, "flow": float(i)} for i in (1, 2, 3, 4, 5)]
    assert smooth(log, "flow", window=2) == [(1, 1.0), (2, 1.5), (3, 2.5), (4, 3.5), (5, 4.5)]
    assert smooth(log, "cosine") == []
    images = [{"images": 256 * i, "flow": 1.0} for i in (1, 2)]
    assert smooth(images, "flow", along="images") == [(256, 1.0), (512, 1.0)]


def test_alignment_is_compared_at_equal_steps() -> None:
    aligned = [{"step": 50 * i, "flow": 1.0 / i} for i in range(1, 20)]
    plain = [{"step": 50 * i, "flow": 2.0 / i} for i in range(1, 5)]
    rows = alignment_gain(aligned, plain).splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == ["50", "100", "150", "200"]
    first = [float(cell) for cell in rows[0].split("|")[2:4]]
    assert first == pytest.approx([1.0, 2.0])


def test_the_curve_is_an_image_of_its_own() -> None:
    svg = curve_svg({"flow": [(0, 1.0), (50, 0.5), (100, 0.2)]}, x_label="step", y_label="loss")
    assert svg.startswith("<svg")
    assert svg.count("<polyline") == 1
    assert "http://www.w3.org/2000/svg" in svg
