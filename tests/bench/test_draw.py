"""A call of any pipeline comes back as images or videos in [0, 1] and the sample that it ended on."""

from __future__ import annotations

import ast
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from families.base import Family
from families.videos import FAMILIES
from skipcast.bench import metrics
from skipcast.bench.draw import Pair, Sample, draw, listening
from skipcast.bench.work import score
from skipcast.models.load import draws_videos
from skipcast.pipelines.accelerate import accelerate
from skipcast.samplers import Sampler
from support.tiny import flux_pipeline


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_videos_have_frames_and_end_on_their_latents(family: Family, tmp_path: Path) -> None:
    pipe = family.build()
    pipe.set_progress_bar_config(disable=True)
    count = 1 if family.name == "HunyuanVideo 1.5" else 2  # its decoder takes one at a time
    made = draw(pipe, [Pair(family.prompt(number), 3 + number) for number in range(count)], steps=4, call=family.call())
    images, latents = made.images, made.latents
    assert images.ndim == 5
    assert images.shape[0] == latents.shape[0] == count
    assert images.shape[2] == 3
    assert images.shape[1] > 1
    assert images.dtype == latents.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 1
    assert made.seconds > 0
    if count == 1:
        assert torch.equal(latents, family.run(pipe, steps=4, seed=3))
    pipe.save_config(tmp_path)
    assert draws_videos(tmp_path)


def test_a_pipeline_without_callbacks_tells_of_its_steps_too() -> None:
    family = next(family for family in FAMILIES if family.name == "HunyuanVideo 1.5")
    pipe = family.build()
    heard: list[tuple[int, Tensor]] = []
    with listening(pipe, lambda step, latents: heard.append((step, latents))) as given:
        assert given == {}
        last = family.run(pipe, steps=4)
    assert [step for step, _ in heard] == [0, 1, 2, 3]
    assert torch.equal(heard[-1][1], last)
    assert "step" not in vars(pipe.scheduler)
    few = draw(pipe, [Pair(family.prompt(0), 3)], Sampler("euler", 2), steps=4, call=family.call())
    with accelerate(pipe, Sampler("euler", 2)):
        assert torch.equal(few.latents, family.run(pipe, steps=4, seed=3))


def test_pictures_are_no_videos(tmp_path: Path) -> None:
    pipe = flux_pipeline()
    pipe.save_config(tmp_path)
    assert not draws_videos(tmp_path)
    pairs = [Pair("a red star", 3), Pair("a blue heart", 4)]
    drawn = draw(pipe, pairs, steps=4, loop=True)
    assert drawn.images.shape == (2, 3, 64, 64)
    assert (drawn.evaluations, drawn.evaluated_steps, drawn.trusted) == (4, None, None)
    assert drawn.loop_seconds is not None
    assert 0 < drawn.loop_seconds < drawn.seconds
    hidden = draw(pipe, pairs, steps=4, decode=False)
    assert torch.equal(hidden.images, hidden.latents)
    assert torch.equal(hidden.latents, drawn.latents)


def test_metrics_of_pictures_are_the_mean_over_the_frames_of_a_video() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(2, 3, 3, 16, 16, generator=generator) for _ in range(2))
    one, other = Sample(a, a.flatten(1)), Sample(b, b.flatten(1))
    frames = torch.stack([metrics.psnr(a[:, f], b[:, f]) for f in range(3)], dim=1)
    assert torch.equal(score("psnr", one, other), frames.mean(dim=1))
    assert torch.equal(score("flicker", one, other), metrics.flicker(a, b))
    assert torch.equal(score("relative_l2", one, other), metrics.relative_l2(a.flatten(1), b.flatten(1)))
    images, others = Sample(a[:, 0], a), Sample(b[:, 0], b)
    assert torch.equal(score("psnr", images, others), frames[:, 0])
    with pytest.raises(ValueError, match="frames before channels"):
        score("flicker", images, others)


VALUES = np.random.default_rng(0).random((2, 5, 16, 24, 3), dtype=np.float32)


class Foreign:
    """A pipeline that returns what it was made with, whatever is requested."""

    def __init__(self, **output: object) -> None:
        self.output = SimpleNamespace(**output)

    def __call__(self, callback_on_step_end: Any, **_: object) -> object:
        callback_on_step_end(self, 0, 0, {"latents": torch.zeros(2, 4)})
        return self.output


@pytest.mark.parametrize("pillow", [False, True])
@pytest.mark.parametrize("video", [False, True])
def test_outputs_of_any_form_become_the_same_tensor(pillow: bool, video: bool) -> None:
    exact = (VALUES * 255).round().astype(np.uint8)
    frames = [[Image.fromarray(frame) for frame in one] for one in exact] if pillow else exact.astype(np.float32) / 255
    given = {"frames": frames} if video else {"images": frames[0]}
    found = draw(Foreign(**given), [Pair("a", 0), Pair("b", 1)], steps=1).images
    expected = torch.from_numpy((exact if video else exact[0]).astype(np.float32) / 255).movedim(-1, -3)
    assert torch.equal(found, expected)


def test_what_is_neither_is_refused() -> None:
    with pytest.raises(ValueError, match="neither images nor videos but SimpleNamespace"):
        draw(Foreign(audios=[0]), [Pair("a", 0)], steps=1)


def test_only_draw_and_the_recording_call_a_pipeline() -> None:
    """A call whose function is named pipe: `pipe(...)`, `model.pipe(...)`, `self._pipe(...)`."""
    root = Path(__file__).parents[2]
    found = set()
    for file in [*root.glob("src/**/*.py"), *root.glob("research/**/*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
                name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
                if name.lstrip("_") == "pipe":
                    found.add(str(file.relative_to(root)))
    recording = {f"recording/{name}" for name in ("call", "replay")}
    measuring = {"alignment", "magnitudes", "polynomials", "sensitivities"}  # what a network does inside, in plain runs
    pipelines = {f"src/skipcast/pipelines/{name}.py" for name in recording | measuring | {"calibration", "chords"}}
    research = {f"research/{name}.py" for name in ("chords/study", "fidelity/hooks", "tuning/study")}
    assert found == {"src/skipcast/bench/draw.py", *research, *pipelines}
