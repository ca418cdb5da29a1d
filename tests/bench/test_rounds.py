"""A call of any pipeline comes back as pictures or videos in [0, 1] and the sample that it ended on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from families.base import Family
from families.videos import FAMILIES
from skipcast.bench import metrics
from skipcast.bench.rounds import Batch, Outcome, call, outcome, score, telling
from skipcast.bench.settings import Settings
from skipcast.models.load import draws_videos
from skipcast.pipelines.accelerate import accelerate
from skipcast.samplers import Sampler
from support.tiny import flux_pipeline


def settings(**given: object) -> Settings:
    return Settings(steps=4, evaluations=(2,), converged_steps=0, call=given)


def made(images: Tensor, latents: Tensor) -> Outcome:
    return Outcome(images, latents, 1.0, 4, None, 0)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_videos_have_frames_and_end_on_their_latents(family: Family, tmp_path: Path) -> None:
    pipe = family.build()
    pipe.set_progress_bar_config(disable=True)
    count = 1 if family.name == "HunyuanVideo 1.5" else 2  # its decoder takes one at a time
    given: list[dict[str, object]] = [family.prompt(number) for number in range(count)]
    batch = Batch(given, [0, 1][:count], [3, 4][:count])  # type: ignore[arg-type]
    images, latents, seconds = call(pipe, batch, settings(**family.call()), 4)
    assert images.ndim == 5
    assert images.shape[0] == latents.shape[0] == count
    assert images.shape[2] == 3
    assert images.shape[1] > 1
    assert images.dtype == latents.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 1
    assert seconds > 0
    if count == 1:
        assert torch.equal(latents, family.run(pipe, steps=4, seed=3))
    pipe.save_config(tmp_path)
    assert draws_videos(tmp_path)


def test_a_pipeline_without_callbacks_tells_of_its_steps_too() -> None:
    family = next(family for family in FAMILIES if family.name == "HunyuanVideo 1.5")
    pipe = family.build()
    heard: list[tuple[int, Tensor]] = []
    with telling(pipe, lambda step, latents: heard.append((step, latents))) as given:
        assert given == {}
        last = family.run(pipe, steps=4)
    assert [step for step, _ in heard] == [0, 1, 2, 3]
    assert torch.equal(heard[-1][1], last)
    assert "step" not in vars(pipe.scheduler)
    batch = Batch([family.prompt(0)], [0], [3])  # type: ignore[list-item]
    few = outcome(pipe, batch, settings(**family.call()), Sampler("euler", 2), 4)
    with accelerate(pipe, Sampler("euler", 2)):
        assert torch.equal(few.latents, family.run(pipe, steps=4, seed=3))


def test_pictures_are_no_videos(tmp_path: Path) -> None:
    pipe = flux_pipeline()
    pipe.save_config(tmp_path)
    assert not draws_videos(tmp_path)
    batch = Batch(["a red star", "a blue heart"], [0, 1], [3, 4])
    drawn = outcome(pipe, batch, settings(), None, 4)
    assert drawn.images.shape == (2, 3, 64, 64)
    assert (drawn.evaluations, drawn.evaluated_steps) == (4, None)


def test_metrics_of_pictures_are_the_mean_over_the_frames_of_a_video() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(2, 3, 3, 16, 16, generator=generator) for _ in range(2))
    one, other = made(a, a.flatten(1)), made(b, b.flatten(1))
    frames = torch.stack([metrics.psnr(a[:, f], b[:, f]) for f in range(3)], dim=1)
    assert torch.equal(score("psnr", one, other), frames.mean(dim=1))
    assert torch.equal(score("flicker", one, other), metrics.flicker(a, b))
    assert torch.equal(score("relative_l2", one, other), metrics.relative_l2(a.flatten(1), b.flatten(1)))
    pictures, others = made(a[:, 0], a), made(b[:, 0], b)
    assert torch.equal(score("psnr", pictures, others), frames[:, 0])
    with pytest.raises(ValueError, match="frames before channels"):
        score("flicker", pictures, others)
