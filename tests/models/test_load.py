"""Loading: the shipped model, folders, and clear refusals."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline
from safetensors.torch import save, save_file

import skipcast as sc
from research.shapes_flux.evaluate import prompts_of
from research.training.figures import adherence
from skipcast.bench.spec import Spec
from skipcast.models.load import load_model, reference_folder, weights_hash
from skipcast.models.pipeline import generators, load_folder
from skipcast.models.worlds import STILLS
from support.reference_model import save_tiny
from support.tiny import PROMPT, flux_pipeline, latents

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


def test_weights_are_known_by_what_they_hold(tmp_path: Path) -> None:
    """One file a part as `save_pretrained` writes it, or several: the same; another number: others."""
    pipe = flux_pipeline()
    pipe.save_pretrained(tmp_path / "whole")
    known = weights_hash(tmp_path / "whole")
    pipe.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert len(list((tmp_path / "parts").rglob("*.safetensors"))) > len(
        list((tmp_path / "whole").rglob("*.safetensors"))
    )
    assert weights_hash(tmp_path / "parts") == known == load_model(str(tmp_path / "parts")).revision
    victim = max((tmp_path / "parts" / "transformer").glob("*.safetensors"))
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(content)
    assert weights_hash(tmp_path / "parts") != known
    for bad in (b"", b"\xff" * 8, (9).to_bytes(8, "little") + b'{"a": {}}', (10**9).to_bytes(8, "little")):
        victim.write_bytes(bad)
        with pytest.raises(ValueError, match=f"{victim} is no file of weights: .*fetch it again"):
            weights_hash(tmp_path / "parts")


def test_several_files_count_as_the_one_that_safetensors_writes(tmp_path: Path) -> None:
    kinds = [torch.float32, torch.bfloat16, torch.int64, torch.float16, torch.uint8, torch.float64, torch.float8_e4m3fn]
    tensors = {f"{name}{place}": torch.arange(3).to(kind) for place, kind in enumerate(kinds) for name in "bä"}
    names = sorted(tensors)
    for place, some in enumerate((names[::2], names[1::2])):
        save_file({name: tensors[name] for name in some}, tmp_path / f"{place}.safetensors", {"format": "pt"})
    whole = hashlib.sha256(save(tensors, {"format": "pt"})).hexdigest()[:12]
    assert weights_hash(tmp_path) == whole


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("touched"),)


@pytest.mark.parametrize("state", [{}, {"a": Evil()}], ids=["tensors", "code"])
def test_pickled_weights_are_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_tiny(tmp_path / "tiny")
    (weights,) = (tmp_path / "tiny" / "vae").glob("*.safetensors")
    torch.save(state, weights.with_suffix(".bin"))
    weights_hash(tmp_path / "tiny")  # what is read is beside it
    weights.unlink()
    words = "the weights of .*vae are pickled, .*save it again by save_pretrained"
    for refuse in (load_model, lambda folder: weights_hash(Path(folder)), lambda folder: Spec.of(models=folder)):
        with pytest.raises(ValueError, match=words):
            refuse(str(tmp_path / "tiny"))
    with pytest.raises(OSError, match="safetensors"):
        load_folder(tmp_path / "tiny")
    assert not Path("touched").exists()


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"null", b'{"_class_name": []}', b"[" * 10**5, b"\xff"])
def test_a_broken_description_is_no_model(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model_index.json").write_bytes(content)
    for refuse in (load_model, lambda folder: Spec.of(models=folder)):
        with pytest.raises(ValueError) as caught:
            refuse(str(tmp_path))
        assert len(str(caught.value).splitlines()) == 1
        assert str(tmp_path)[-30:] in str(caught.value)


def test_the_shipped_model_is_small_and_draws_what_is_asked() -> None:
    folder = reference_folder("shapes-flux")
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= LIMIT
    model = load_model("shapes-flux")
    assert model.judge is not None
    assert model.pipe(PROMPT, num_inference_steps=2).images[0].size == (64, 64)
    lines, scene = prompts_of(COUNT, seed=123)
    call = {"true_cfg_scale": STILLS.call["true_cfg_scale"], "negative_prompt": [""] * COUNT, "num_inference_steps": 12}
    images = model.pipe(lines, generator=generators(range(COUNT)), output_type="pt", **call).images
    shares = adherence(model.judge, images, scene)
    assert shares["colour"] >= 0.9
    assert shares["background"] >= 0.9
    assert shares["shape"] >= 0.7
