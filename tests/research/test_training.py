"""Training machinery in miniature: resumable to the bit, packed as FLUX packs, judged by a known distance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from diffusers.models.transformers import transformer_flux
from torch import nn

from research.shapes_flux import text, transformer
from research.shapes_flux.judge import draw_scenes
from research.shapes_flux.teacher import PatchTeacher
from research.shapes_flux.transformer import (
    Alignment,
    Captioner,
    Latents,
    Student,
    build_transformer,
    hidden_matrices,
    image_ids,
    pack,
    train_transformer,
)
from research.training.fit import Recipe, fit
from research.training.judge import soften
from research.training.stages import STAGES, stage, stages
from skipcast.models.judge import Judge, frechet_distance
from skipcast.models.scenes import sample_scene


def problem() -> tuple[nn.Linear, Any]:
    torch.manual_seed(0)
    model = nn.Linear(4, 1)

    def loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        value = (model(x) - x.sum(1, keepdim=True)).square().mean()
        return value, {"error": value.item()}

    return model, loss


def test_a_finished_stage_is_not_run_again(tmp_path: Path) -> None:
    runs: list[str] = []

    def work() -> dict[str, Any]:
        runs.append("judge")
        return {"accuracy": 0.5}

    for _ in range(2):
        stage(tmp_path, "judge", work)
    assert runs == ["judge"]
    with stages(tmp_path).opened() as finished:
        assert json.loads(finished.read(STAGES, "judge"))["accuracy"] == 0.5


def test_measuring_on_the_way_sees_averages_and_changes_nothing(tmp_path: Path) -> None:
    recipe, seen = Recipe(steps=20, rate=0.05, warmup=5, ema=0.9), list[torch.Tensor]()
    plain, loss = problem()
    fit("plain", tmp_path, [plain], loss, recipe)
    model, loss = problem()
    fit("told", tmp_path, [model], loss, recipe, at=(10, 20), measure=lambda step: seen.append(model.weight.clone()))
    assert torch.equal(model.weight, plain.weight)
    assert torch.equal(seen[1], model.weight)  # which the loop ends with
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("muon", [False, True])
def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path, muon: bool) -> None:
    recipe = Recipe(steps=40, rate=0.05, warmup=5, ema=0.9, muon=muon)
    whole, loss = problem()
    fit("whole", tmp_path, [whole], loss, recipe, matrices=[whole.weight])

    killed, loss = problem()

    def dying(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        if step == 25:
            raise KeyboardInterrupt
        return loss(step)

    with pytest.raises(KeyboardInterrupt):
        fit("part", tmp_path, [killed], dying, recipe, matrices=[killed.weight], every=0.0)
    resumed, loss = problem()
    log = fit("part", tmp_path, [resumed], loss, recipe, matrices=[resumed.weight])
    assert torch.equal(resumed.weight, whole.weight)
    assert log[-1]["step"] == 40
    assert not list(tmp_path.glob("*.tmp"))


def test_muon_moves_a_matrix_along_an_orthogonal_one(tmp_path: Path) -> None:
    """The singular values of its first step are alike, up to Newton-Schulz's tolerance; AdamW's are not."""
    torch.manual_seed(0)
    spread = {}
    for muon in (False, True):
        model = nn.Linear(3, 3, bias=False)
        before = model.weight.detach().clone()

        def loss(step: int, model: nn.Linear = model) -> tuple[torch.Tensor, dict[str, float]]:
            x = torch.randn(64, 3, generator=torch.Generator().manual_seed(1)) * torch.tensor([5.0, 1.0, 0.2])
            return (model(x) - x.flip(1)).square().mean(), {}

        recipe = Recipe(steps=1, rate=0.1, warmup=1, weight_decay=0.0, muon=muon)
        fit(f"muon {muon}", tmp_path, [model], loss, recipe, matrices=[model.weight])
        values = torch.linalg.svdvals(model.weight.detach() - before)
        spread[muon] = (values.max() / values.min()).item()
    assert spread[True] < 2 < spread[False]


def test_muon_is_for_maps_between_features() -> None:
    model = build_transformer()
    names = {id(p): name for name, p in model.named_parameters()}
    chosen = [names[id(p)] for p in hidden_matrices(model)]
    assert "transformer_blocks.0.attn.to_q.weight" in chosen
    assert "single_transformer_blocks.3.proj_out.weight" in chosen
    assert not [name for name in chosen if "norm" in name or "embed" in name or name == "proj_out.weight"]


def test_rate_warms_up_and_ends_near_zero() -> None:
    recipe = Recipe(steps=100, rate=1.0, warmup=10, anneal=0.5)
    assert recipe.rate_at(0) == pytest.approx(0.1)
    assert recipe.rate_at(40) == 1.0
    assert recipe.rate_at(75) == pytest.approx(0.5)
    assert recipe.rate_at(99) < 0.01


def test_pack_is_flux_packing() -> None:
    latents = torch.randn(2, 16, 8, 8)
    assert torch.equal(pack(latents), FluxPipeline._pack_latents(latents, 2, 16, 8, 8))
    assert torch.equal(image_ids(), FluxPipeline._prepare_latent_image_ids(1, 4, 4, "cpu", torch.float32))


@pytest.mark.parametrize("alignment", [None, Alignment(until=1), Alignment(until=1, attention=True)])
def test_one_step_of_transformer_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alignment: Alignment | None
) -> None:
    monkeypatch.setattr(transformer, "BATCH", 4)
    rng = np.random.default_rng(0)
    features, maps = torch.randn(32, 16, 128).half(), torch.randn(32, 2, 4, 16, 16).half()
    data = Latents(torch.randn(32, 16, 64).half(), sample_scene(32, rng), features, maps)
    clip, t5 = text.build_clip_tokenizer(), text.build_t5_tokenizer()
    encoders, recipe = ((clip, text.build_clip(clip)), (t5, text.build_t5(t5))), Recipe(steps=1, rate=1e-3)
    told = list[int]()
    student, log = train_transformer(
        tmp_path, data, *encoders, recipe=recipe, alignment=alignment, compiled=False, at=(1,),
        measure=lambda step, student: told.append(step),
    )  # fmt: skip
    assert told == [1]
    assert ("attention" in log[0]) == (alignment is not None and alignment.attention)
    assert ("cosine" in log[0]) == (alignment is not None)
    assert 0.5 < log[0]["flow"] < 10
    assert (student.projector is not None) == (alignment is not None)


def test_attention_of_image_tokens_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its logits are those of the queries and keys that the attention itself multiplies."""
    clip, t5 = text.build_clip_tokenizer(), text.build_t5_tokenizer()
    student = Student(build_transformer(), text.build_clip(clip), text.build_t5(t5), attention=True)
    taken = []
    original = transformer_flux.dispatch_attention_fn

    def attend(query: torch.Tensor, key: torch.Tensor, *given: Any, **options: Any) -> Any:
        taken.append((query[:, -16:], key[:, -16:]))
        return original(query, key, *given, **options)

    monkeypatch.setattr(transformer_flux, "dispatch_attention_fn", attend)
    ids = Captioner(clip, t5)(["a large red star on a blue background", ""])
    _, _, maps = student(torch.randn(2, 16, 64), torch.rand(2), *ids)
    assert [found.shape for found in maps] == [(2, 4, 16, 16)] * 2
    for found, (query, key) in zip(maps, taken, strict=False):
        torch.testing.assert_close(found, torch.einsum("bqhd,bkhd->bhqk", query, key) / 8)


def test_a_teacher_attends_among_the_places_of_the_tokens() -> None:
    teacher = PatchTeacher().eval()
    images, scene = draw_scenes(3, [0])
    tokens, logits = teacher.seen(images)
    assert tokens.shape == (3, 16, 128)
    assert logits.shape == (3, 2, 4, 16, 16)
    assert bool((logits.exp().sum(-1) < 1).all())  # the class token has the rest
    assert set(teacher.read(images)) == set(scene.labels())


def test_frechet_distance_of_gaussians_is_known() -> None:
    rng = np.random.default_rng(0)
    a = torch.from_numpy(rng.normal(0, 1, (200_000, 2)))
    b = torch.from_numpy(rng.normal(0, 1, (200_000, 2)) * np.array([2.0, 1.0]) + np.array([3.0, 0.0]))
    assert frechet_distance(a, b) == pytest.approx(9 + 1, abs=0.1)  # |m - m'|^2 + (2 - 1)^2
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="two rows"):
        frechet_distance(a[:1], b)


def test_softening_blurs_by_its_width_and_keeps_the_light() -> None:
    """A point spreads to a bell of the given deviation; nothing happens below a tenth of a pixel."""
    point = torch.zeros(1, 3, 33, 33)
    point[:, :, 16, 16] = 1.0
    bell = soften(point, 1.5)[0, 0]
    offset = torch.arange(33) - 16.0
    assert bell.sum().item() == pytest.approx(1.0, abs=1e-5)
    assert (bell.sum(0) * offset**2).sum().sqrt().item() == pytest.approx(1.5, rel=0.02)
    assert torch.allclose(bell, bell.T)
    assert soften(point, 0.05) is point


def test_judge_reads_every_attribute() -> None:
    judge = Judge().eval()
    images = torch.rand(3, 3, 64, 64)
    widths = {name: tuple(x.shape) for name, x in judge(images).items()}
    assert widths == {"shape": (3, 10), "colour": (3, 8), "size": (3, 2), "background": (3, 8)}
    assert judge.feature_map(images).shape == (3, 16, 128)
    assert judge.features(images).shape == (3, 128)
