"""The page of videos: made of a bench run of a model of clips, with loops of its worst clips."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from PIL import Image

import skipcast as sc
from research.pages import video
from skipcast.bench.results import Results, load
from skipcast.bench.spec import read_spec
from skipcast.models.load import load_model
from skipcast.models.worlds import CLIPS
from support.runs import run
from support.tiny_clips import save_tiny_clips

ROOT = Path(__file__).parents[2]
GRID = """\
models: [tiny]
steps: [12]
methods: [taylorseer, "lagrange:order=1,target=output,schedule=even", euler, ab2, unipc]
budgets: [5, 10]
plans: [tiny.plan.json]
prompts:
  - a red star moves left quickly on a blue background
  - on a purple background, a white crescent slowly turns
seeds: 1
batch: 2
metrics: [psnr, ssim, worst_frame, flicker, error_flicker, judge]
converged_steps: 24
images: true
flops: false
timing: {repeats: 1}
"""
EXPERTS = {
    "boundary": 0.875,
    "clips": 2,
    "rows": [{"method": "euler", "evaluations": 5, "evaluations_of_two": 5, "one": 30.0, "two": 29.5}],
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("clips")
    model = load_model(str(save_tiny_clips(folder / "tiny")))
    profile = sc.record(
        model.pipe, CLIPS.calibration[:4], seeds=9000, num_inference_steps=12, revision=model.revision,
        progress=False, **model.call,
    )  # fmt: skip
    profile.plan(evaluations=10).save(folder / "tiny.plan.json")
    (folder / "grid.yaml").write_text(GRID)
    run(folder / "grid.yaml", folder / "out")
    return load([folder / "out" / "results.jsonl"])


def test_the_page_tells_of_frames_and_motion(results: Results) -> None:
    text = video.page(results, results, EXPERTS, "command", "make benchmark-video")
    assert "## 5 evaluations of 12" in text
    assert "## 10 evaluations of 12" in text
    (header,) = {line for line in text.splitlines() if "worst frame dB" in line and "NFE" in line}
    names = [cell.strip() for cell in header.strip("|").split("|")]
    assert {"PSNR dB", "worst frame dB", "SSIM", "flicker", "error flicker", "motion", "vs sampler"} <= set(names)
    assert "| `euler` | 5.0 / 5.0 | 30.0 | 29.5 |" in text
    lines = [line for line in text.splitlines() if line.startswith(("| 5 | forecast |", "| 10 | plan |"))]
    assert len(lines) == 2
    assert "| 5 | 5 | 1.00 | none | none |" in text  # beside itself nothing moves


def test_the_worst_clips_play_side_by_side(results: Results) -> None:
    content = video.loops(results)
    assert content is not None
    with Image.open(io.BytesIO(content)) as image:
        assert image.n_frames == 9
        assert image.size == (4 * 50 * 2, 2 * 50 * 2)


def test_clips_are_enlarged_without_smoothing() -> None:
    content = video.side_by_side([[torch.zeros(9, 3, 4, 4)]], scale=3)
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (18, 18)


def test_the_spec_of_the_benchmark_is_of_clips() -> None:
    spec = read_spec(ROOT / "research" / "specs" / "record-video.yaml")
    (model,) = spec.models
    assert (model.name, model.video, model.world) == ("shapes-wan", True, "shapes-wan")
    assert len(spec.prompts_of(model)) == 16
    assert not set(spec.prompts_of(model)) & {pair.prompt for pair in spec.calibration_pairs(model)}
