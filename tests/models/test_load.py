"""Loading: the shipped model, folders, and clear refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline

import skipcast as sc
from research.shapes_flux.evaluate import adherence, prompts_of
from skipcast.models.load import load_model, reference_folder
from skipcast.models.pipeline import CALL, generators
from support.reference_model import save_tiny
from support.tiny import PROMPT, latents

LIMIT = 24_000_000  # bytes of all shipped weights


def test_a_saved_pipeline_loads_as_plain_flux_and_draws_the_same(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    ours = load_model(str(tmp_path)).pipe
    plain = FluxPipeline.from_pretrained(tmp_path, torch_dtype=torch.float32, local_files_only=True)
    plain.set_progress_bar_config(disable=True)
    assert type(ours) is FluxPipeline
    explicit = latents(plain, steps=3, height=64, width=64, max_sequence_length=12)
    assert torch.equal(latents(ours, steps=3), explicit)


def test_unknown_models_are_refused() -> None:
    with pytest.raises(ValueError, match="shapes-flux"):
        sc.load_reference("no-such")
    with pytest.raises(ValueError, match="neither"):
        load_model("no-such")


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="could not load"):
        load_model(str(tmp_path))


def test_the_shipped_model_is_small_and_draws_what_is_asked() -> None:
    folder = reference_folder("shapes-flux")
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= LIMIT
    model = load_model("shapes-flux")
    assert model.judge is not None
    lines, scene = prompts_of(24, seed=123)
    images = model.pipe(
        lines,
        num_inference_steps=20,
        generator=generators(range(24)),
        output_type="pt",
        true_cfg_scale=CALL["true_cfg_scale"],
        negative_prompt=[""] * 24,
    ).images
    shares = adherence(model.judge, images, scene)
    assert shares["colour"] >= 0.9
    assert shares["background"] >= 0.9
    assert shares["shape"] >= 0.7


def test_the_default_call_of_the_shipped_model_is_64_by_64() -> None:
    image = sc.load_reference("shapes-flux")(PROMPT, num_inference_steps=2).images[0]
    assert image.size == (64, 64)
