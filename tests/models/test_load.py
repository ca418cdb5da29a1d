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
COUNT = 12


def test_a_saved_pipeline_loads_as_plain_flux_and_draws_the_same(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    ours = load_model(str(tmp_path)).pipe
    plain = FluxPipeline.from_pretrained(tmp_path, torch_dtype=torch.float32, local_files_only=True)
    plain.set_progress_bar_config(disable=True)
    assert type(ours) is FluxPipeline
    explicit = latents(plain, steps=3, height=64, width=64, max_sequence_length=12)
    assert torch.equal(latents(ours, steps=3), explicit)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shapes-flux"):
        sc.load_reference("no-such")
    with pytest.raises(ValueError, match="neither"):
        load_model("no-such")
    with pytest.raises(ValueError, match="could not load"):
        load_model(str(tmp_path))


def test_the_shipped_model_is_small_and_draws_what_is_asked() -> None:
    folder = reference_folder("shapes-flux")
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= LIMIT
    model = load_model("shapes-flux")
    assert model.judge is not None
    assert model.pipe(PROMPT, num_inference_steps=2).images[0].size == (64, 64)
    lines, scene = prompts_of(COUNT, seed=123)
    call = {"true_cfg_scale": CALL["true_cfg_scale"], "negative_prompt": [""] * COUNT, "num_inference_steps": 12}
    images = model.pipe(lines, generator=generators(range(COUNT)), output_type="pt", **call).images
    shares = adherence(model.judge, images, scene)
    assert shares["colour"] >= 0.9
    assert shares["background"] >= 0.9
    assert shares["shape"] >= 0.7
