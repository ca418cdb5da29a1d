"""Training of `shapes-wan` in miniature: what it learns from is what its pipeline later sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import typer

from research.pages import render
from research.shapes_wan import autoencoder, evaluate, text, transformer
from research.shapes_wan.assemble import export
from research.shapes_wan.judge import train_judge
from research.shapes_wan.train import grouped, normalised, ship, train
from research.shapes_wan.transformer import Alignment, Captioner, Latents, Student, train_transformer
from research.training import judge as training
from research.training.fit import Recipe
from research.training.stages import save_module
from skipcast.models import clips
from skipcast.models.clips import sample_clip
from skipcast.models.judge import ClipJudge
from skipcast.models.load import load_model
from support.tiny_clips import wan_pipeline


@pytest.mark.parametrize("alignment", [None, Alignment(until=1, block=1)])
def test_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alignment: Alignment | None) -> None:
    monkeypatch.setattr(transformer, "BATCH", 4)
    data = Latents(
        torch.randn(8, 16, 3, 6, 6).half(), sample_clip(8, np.random.default_rng(0)), torch.randn(8, 27, 6).half()
    )
    tokenizer = text.build_tokenizer()
    student, log = train_transformer(
        tmp_path, data, tokenizer, text.build_text_encoder(tokenizer), recipe=Recipe(steps=1, rate=1e-3),
        alignment=alignment, compiled=False,
    )  # fmt: skip
    assert ("cosine" in log[0]) == (alignment is not None)
    assert 0.5 < log[0]["flow"] < 10
    assert isinstance(student, Student)


def test_the_network_is_trained_on_what_the_pipeline_gives_it() -> None:
    """Prompts end in zeros, and noise levels count to 1000, in training as in the pipeline."""
    pipe = wan_pipeline()
    prompts = [
        "a red star moves left quickly on a blue background",
        "",
        "on a blue background, a red star slowly turns",
    ]
    student = Student(pipe.transformer, pipe.text_encoder, 0, Alignment(block=1)).eval()
    seen: list[torch.Tensor] = []
    handle = pipe.transformer.register_forward_pre_hook(
        lambda module, args, given: seen.extend((given["encoder_hidden_states"], given["timestep"])), with_kwargs=True
    )
    with torch.no_grad():
        student(torch.zeros(3, 16, 3, 6, 6), torch.full((3,), 0.5), Captioner(pipe.tokenizer)(prompts))
        pipe(prompts, num_inference_steps=1, guidance_scale=1.0, output_type="latent")
    handle.remove()
    assert torch.allclose(seen[0], seen[2], atol=1e-6)
    assert seen[1].tolist() == [500.0] * 3
    assert 0 < seen[3][0] <= 1000


def test_latents_are_those_that_the_pipeline_decodes() -> None:
    pipe = wan_pipeline()
    drawn = torch.rand(2, 3, 9, 48, 48) * 2 - 1
    latents = normalised(pipe.vae, drawn)
    assert latents.shape == (2, 16, 3, 6, 6)
    plain = pipe.vae.encode(drawn).latent_dist.mode()
    assert torch.allclose(latents, (plain - 0.1) / 1.5, atol=0.02)  # in bfloat16


def test_the_decoder_goes_on_and_latents_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoencoder, "BATCH", 2)
    monkeypatch.setattr(autoencoder, "TESTED", 2)
    vae = wan_pipeline().vae
    drawn = torch.rand(1, 3, 9, 48, 48) * 2 - 1
    before, rebuilt = normalised(vae, drawn), autoencoder.rebuild(vae, drawn)
    vae, figures = autoencoder.refine_decoder(vae, tmp_path, Recipe(steps=2, rate=1e-3, warmup=1))
    assert torch.equal(normalised(vae, drawn), before)
    assert not torch.equal(autoencoder.rebuild(vae, drawn), rebuilt)
    assert figures["psnr_worst"] <= figures["psnr_mean"]


def test_features_are_grouped_as_latents_group_frames() -> None:
    features = torch.arange(9.0).view(1, 9, 1, 1).expand(2, 9, 4, 3)
    found = grouped(features)
    assert found.shape == (2, 12, 6)
    assert found[0, :, 0].tolist() == [0] * 4 + [1] * 4 + [5] * 4
    assert found[0, :, 5].tolist() == [0] * 4 + [4] * 4 + [8] * 4


def test_a_judge_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("research.training.judge.TESTED", (20, 10))
    monkeypatch.setattr("research.shapes_wan.judge.BATCH", 6)
    judge, figures = train_judge(tmp_path, Recipe(steps=1, rate=1e-3))
    assert isinstance(judge, ClipJudge)
    assert set(figures["accuracy"]) == set(clips.ATTRIBUTES)


def test_what_is_shipped_is_loaded_measured_and_has_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = wan_pipeline()
    pipe.transformer.save_pretrained(tmp_path / "trained" / "transformer")
    pipe.text_encoder.save_pretrained(tmp_path / "trained" / "text_encoder")
    pipe.vae.save_pretrained(tmp_path / "vae_refined")
    save_module(ClipJudge(), tmp_path / "judge.safetensors")
    ship(tmp_path, tmp_path / "shipped")
    assert load_model(str(tmp_path / "shipped")).judge is not None
    monkeypatch.setattr(evaluate, "SWEEP", 2)
    monkeypatch.setattr(evaluate, "RARE", 2)
    monkeypatch.setattr(evaluate, "SCALES", (1.0, 3.0))
    monkeypatch.setattr(evaluate, "STEPS", 2)
    monkeypatch.setattr(evaluate, "DRAWN", 8)
    measured = evaluate.measure(str(tmp_path / "shipped"), 3)
    assert set(measured["adherence"]) == {*clips.ATTRIBUTES, "all"}
    text_of = render(
        "shapes-wan", measured=measured, missed=evaluate.missed(measured, 30.0), names=[*clips.ATTRIBUTES, "all"],
        attributes=clips.ATTRIBUTES, way=clips.WAY, turn=clips.TURN, growth=clips.GROWTH, held_out=["star"],
        clips="24,576", sizes={"transformer": 18e6}, trained={"judge": {"seconds": 60.0}}, parameters=9.1, lineage="",
    )  # fmt: skip
    assert "| judge | 1.0 |" in text_of
    assert "Size: 30.0 MB, the aim is 24 MB." in text_of
    assert "| 3 prompts |" in text_of
    assert "The autoencoder's PSNR:" in text_of


def test_a_part_that_gets_no_steps_stays_as_it_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, work = tmp_path / "weights", tmp_path / "work"
    pipe = wan_pipeline()
    export(pipe, ClipJudge(), weights)
    monkeypatch.setattr(training, "TESTED", (4, 4))
    monkeypatch.setattr("research.shapes_wan.judge.BATCH", 6)
    train(work, steps=0, decoder_steps=0, judge_steps=1, continue_from=weights, threads=1, weights=tmp_path / "next")
    again = tmp_path / "next"
    for part in ("transformer", "text_encoder", "vae"):
        (before,), (after,) = ([*folder.joinpath(part).glob("*.safetensors")] for folder in (weights, again))
        assert before.read_bytes() == after.read_bytes()
    assert (weights / "judge.safetensors").read_bytes() != (again / "judge.safetensors").read_bytes()
    with pytest.raises(typer.BadParameter, match="there is no transformer to keep"):
        train(work, steps=0, continue_from=None)


def test_clips_lie_side_by_side_in_a_loop() -> None:
    content = evaluate.loop(torch.rand(3, 9, 3, 48, 48), columns=2, scale=2)
    assert content.startswith(b"RIFF")
