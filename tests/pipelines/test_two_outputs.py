"""LTX-2, whose network returns sound beside video and whose pipeline copies its scheduler for the sound."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
import transformers
from packaging.version import Version
from torch import Tensor

import skipcast as sc
from families.base import drawn, mask
from families.parts import LANGUAGE, NETWORK, assembled, flow, language, made, redrawn
from skipcast.pipelines.networks import Form, inputs_of
from skipcast.pipelines.recording.replay import PipelineEvaluator
from support.seams import counted, state
from support.tiny import compiled

pytestmark = pytest.mark.skipif(Version(diffusers.__version__) < Version("0.42"), reason="needs a newer LTX2Pipeline")

HALF = "lagrange:order=1,schedule=even,evaluations=6"
CALL = {"height": 256, "width": 256, "num_frames": 33, "guidance_scale": 1.0, "guidance_rescale": 0.0}
for kind in ("", "audio_"):
    CALL |= {f"{kind}stg_scale": 0.0, f"{kind}modality_scale": 1.0}
CALL |= {"audio_guidance_scale": None, "audio_guidance_rescale": 0.0}


@pytest.fixture(scope="module")
def pipe() -> Any:
    from diffusers.pipelines import ltx2

    kinds = ("video", "audio")
    network = NETWORK | {"num_layers": 2, "cross_attention_dim": 16, "caption_channels": 16}
    sound = {"in_channels": 8, "out_channels": 8, "num_attention_heads": 2, "attention_head_dim": 8}
    heads = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "num_learnable_registers": None}
    texts = {f"{kind}_connector_{name}": value for kind in kinds for name, value in heads.items()}
    video = {"latent_channels": 4, "block_out_channels": (8,) * 4, "layers_per_block": (1,) * 5}
    decoder = {"decoder_block_out_channels": (8,) * 3, "decoder_layers_per_block": (1,) * 4}
    audio = {"base_channels": 8, "latent_channels": 2, "mel_bins": 16, "ch_mult": (1, 1, 1)}
    voice = {"upsample_kernel_sizes": [4], "upsample_factors": [2], "resnet_kernel_sizes": [3]}
    transformer = made(
        diffusers.LTX2VideoTransformer3DModel,
        **network,
        **{f"audio_{name}": value for name, value in (sound | {"cross_attention_dim": 16}).items()},
    )
    return assembled(
        diffusers.LTX2Pipeline,
        transformer=redrawn(transformer, std=0.1, vectors=0.1),
        connectors=made(ltx2.LTX2TextConnectors, caption_channels=16, text_proj_in_factor=1, **texts),
        vae=made(diffusers.AutoencoderKLLTX2Video, **video, **decoder),
        audio_vae=made(diffusers.AutoencoderKLLTX2Audio, **audio),
        vocoder=made(ltx2.LTX2Vocoder, in_channels=32, hidden_channels=8, resnet_dilations=[[1]], **voice),
        scheduler=flow(use_dynamic_shifting=True, shift_terminal=0.1),
        **language(transformers.LlamaModel, tokenizer=transformers.LlamaTokenizer(), **LANGUAGE),
    )


def prompt(number: int) -> dict[str, Tensor]:
    return {"prompt_embeds": drawn(100 + number, 1, 6, 16), "prompt_attention_mask": mask(6, 6 - number)}


def run(pipe: Any, **changes: Any) -> tuple[Tensor, Tensor]:
    """The final latents of video and sound."""
    noise = torch.Generator().manual_seed(0)
    call = {**CALL, "num_inference_steps": 12, "output_type": "latent", "return_dict": False, **changes}
    video, sound = pipe(**prompt(0), generator=noise, **call)
    return video, sound


def apart(found: tuple[Tensor, ...], truth: tuple[Tensor, ...]) -> list[float]:
    return [float((one - other).norm() / other.norm()) for one, other in zip(found, truth, strict=True)]


@pytest.mark.filterwarnings("ignore:hooks on proj_in")
def test_methods_forecast_video_and_sound(pipe: Any) -> None:
    with counted(pipe.transformer.proj_in) as counts:
        plain = run(pipe)
    assert list(counts.values()) == [12]
    before = state(pipe)
    for every in ("reuse:interval=1", "taylorseer:interval=1", "easycache:threshold=0"):
        with sc.accelerate(pipe, every):
            assert all(torch.equal(one, other) for one, other in zip(run(pipe), plain, strict=True))
    for method in (HALF, f"{HALF},target=output-drift"):
        with counted(pipe.transformer.proj_in) as counts, sc.accelerate(pipe, method) as acceleration:
            found = run(pipe)
        assert list(counts.values()) == [6]
        assert all(0 < error < 0.05 for error in apart(found, plain))
        assert list(acceleration.streams) == ["cond_uncond/audio_hidden_states"]
        (leader,), (sound,) = acceleration.runs.values(), acceleration.streams.values()
        assert [record.evaluated for record in sound.trace] == [record.evaluated for record in leader.trace]
        assert acceleration.summary().evaluations == 6
        assert sum(run.bytes() for run in acceleration.all_runs()) == 0
    assert state(pipe) == before


def test_every_guidance_branch_has_its_own_sound(pipe: Any) -> None:
    empty = {f"negative_{name}": value for name, value in prompt(1).items()}
    guided = empty | {
        "guidance_scale": 2.0,
        "stg_scale": 0.5,
        "modality_scale": 1.5,
        "spatio_temporal_guidance_blocks": [1],
    }
    plain = run(pipe, **guided)
    with sc.accelerate(pipe, HALF) as acceleration:
        found = run(pipe, **guided)
    assert all(error < 0.1 for error in apart(found, plain))
    assert set(acceleration.runs) == {"cond_uncond", "uncond_stg", "uncond_modality"}
    assert set(acceleration.streams) == {f"{name}/audio_hidden_states" for name in acceleration.runs}


@pytest.mark.filterwarnings("ignore:this plan was made for LTX2Pipeline")  # sound does not move as the video did
def test_the_video_is_recorded_and_a_plan_moves_both(pipe: Any) -> None:
    items = [prompt(number) for number in range(2)]
    profile = sc.record(pipe, items, seeds=0, num_inference_steps=12, progress=False, batch=1, **CALL)
    assert profile.grams.shape == (2, 13, 13)
    plain = run(pipe)
    with sc.accelerate(pipe, compiled(pipe, "reuse:interval=1")):
        assert max(apart(run(pipe), plain)) < 1e-6
    with sc.accelerate(pipe, profile.plan(evaluations=12, effort="low")):
        video, sound = apart(run(pipe), plain)
    # The solved weights amplify rounding, and those of sound are fitted on the video.
    assert video < 5e-6
    assert sound < 1e-4
    with pytest.raises(ValueError, match=r"samples a second value with a copy of its Flow.*plan without refine"):
        profile.plan(
            evaluations=6, effort="low", refine=PipelineEvaluator(pipe, profile.origin, prompts=items, batch=1)
        )


def test_a_further_value_belongs_to_the_first_input_of_its_shape() -> None:
    one, other = torch.zeros(2, 3), torch.zeros(2, 4)
    given = {"mask": torch.zeros(2, 3).long(), "sound": torch.ones(2, 3), "again": one, "text": other}
    assert inputs_of([one, one, one, torch.zeros(7)], given) == ["sound", "again", "", ""]
    form = Form((other, torch.zeros(1).long(), one))
    assert form.further == [one]
    video, count, sound = form.filled(other + 1, [one + 2], return_dict=False)
    assert (video.mean(), count.dtype, sound.mean()) == (1, torch.int64, 2)
    with pytest.raises(ValueError, match="return_dict=False at every step"):
        form.filled(other, [one], return_dict=True)
