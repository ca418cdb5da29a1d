"""Picture pipelines of one network each: diffusion transformers with joint, crossed or no attention to text."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLQwenImage,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from torch import Tensor, nn
from transformers import (
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3Model,
    UMT5Config,
    UMT5EncoderModel,
)

from families.base import Family, drawn
from research.shapes_flux import text

CHANNELS = 4
TEXT_TOKENS = 6
TEXT_WIDTH = 12
POOLED_WIDTH = 10


def redrawn(network: nn.Module) -> nn.Module:
    """Every parameter random: published architectures start with zeros that would hide time, text or everything."""
    numbers = torch.Generator("cpu").manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5, generator=numbers)
            else:
                parameter.normal_(float(name.endswith("weight")), 0.1, generator=numbers)
    return network.eval()


def assembled(pipeline: type, transformer: nn.Module, vae: nn.Module, scheduler: Any, **encoders: Any) -> Any:
    """A pipeline whose prompts come encoded; its encoders are there because some cannot be loaded without."""
    pipe = pipeline(transformer=redrawn(transformer), vae=vae, scheduler=scheduler, **encoders)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def beside_tokenizer(encoder: PreTrainedModel) -> dict[str, Any]:
    """A text encoder of the right class; any tokenizer will do beside it."""
    return {"text_encoder": encoder.eval(), "tokenizer": text.build_t5_tokenizer()}


#: Every language model here is one layer of this shape.
LANGUAGE = {
    "vocab_size": 256,
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": TEXT_WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 6,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


def picture_vae(levels: int = 4) -> AutoencoderKL:
    """Halves a picture at every level but the first."""
    torch.manual_seed(0)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(4,) * levels,
        norm_num_groups=2,
        latent_channels=CHANNELS,
        sample_size=64,
    ).eval()


def mask(number: int) -> Tensor:
    """Odd prompts are a token shorter."""
    kept = torch.ones(1, TEXT_TOKENS, dtype=torch.long)
    kept[:, TEXT_TOKENS - number % 2 :] = 0
    return kept


def encoded(number: int, *, masks: bool = True) -> dict[str, Any]:
    """An encoded prompt, and the encoded empty prompt that guidance leads away from."""
    given = {
        "prompt_embeds": drawn(100 + number, 1, TEXT_TOKENS, TEXT_WIDTH),
        "negative_prompt_embeds": drawn(99, 1, TEXT_TOKENS, TEXT_WIDTH),
    }
    if masks:
        given |= {"prompt_attention_mask": mask(number), "negative_prompt_attention_mask": mask(0)}
    return given


def stable_diffusion_3() -> StableDiffusion3Pipeline:
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=TEXT_WIDTH,
        caption_projection_dim=16,
        pooled_projection_dim=POOLED_WIDTH,
        pos_embed_max_size=8,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    clips, t5 = text.build_clip_tokenizer(), text.build_t5_tokenizer()
    clip = CLIPTextModelWithProjection(text.build_clip(clips).config).eval()
    return assembled(
        StableDiffusion3Pipeline,
        transformer,
        picture_vae(),
        scheduler,
        text_encoder=clip,
        tokenizer=clips,
        text_encoder_2=clip,
        tokenizer_2=clips,
        text_encoder_3=text.build_t5(t5).eval(),
        tokenizer_3=t5,
    )


def pooled_text(number: int) -> dict[str, Any]:
    return {
        **encoded(number, masks=False),
        "pooled_prompt_embeds": drawn(200 + number, 1, POOLED_WIDTH),
        "negative_pooled_prompt_embeds": drawn(199, 1, POOLED_WIDTH),
    }


def qwen_image() -> QwenImagePipeline:
    torch.manual_seed(0)
    transformer = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=4 * CHANNELS,
        out_channels=CHANNELS,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=TEXT_WIDTH,
        axes_dims_rope=(4, 6, 6),
    )
    vae = AutoencoderKLQwenImage(
        base_dim=4,
        z_dim=CHANNELS,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.0] * CHANNELS,
        latents_std=[1.0] * CHANNELS,
    ).eval()
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=0.9,
        base_image_seq_len=256,
        max_image_seq_len=8192,
        shift_terminal=0.02,
    )
    vision = {"depth": 1, "hidden_size": 8, "num_heads": 2, "intermediate_size": 8, "out_hidden_size": TEXT_WIDTH}
    encoder = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=LANGUAGE, vision_config=vision))
    return assembled(QwenImagePipeline, transformer, vae, scheduler, **beside_tokenizer(encoder))


def qwen_text(number: int) -> dict[str, Any]:
    return {
        **encoded(number, masks=False),
        "prompt_embeds_mask": mask(0),
        "negative_prompt_embeds_mask": mask(0),
    }


def pixart_sigma() -> PixArtSigmaPipeline:
    torch.manual_seed(0)
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=CHANNELS,
        out_channels=2 * CHANNELS,
        num_layers=3,
        cross_attention_dim=16,
        sample_size=8,
        patch_size=2,
        interpolation_scale=2,
        use_additional_conditions=False,
        caption_channels=TEXT_WIDTH,
    )
    scheduler = DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear")
    return assembled(PixArtSigmaPipeline, transformer, picture_vae(), scheduler, text_encoder=None, tokenizer=None)


def dit() -> DiTPipeline:
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=CHANNELS,
        out_channels=2 * CHANNELS,
        num_layers=3,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=1000,
    )
    # It always decodes: a picture as large as its latents, far from where the pipeline cuts it off, stands for them.
    vae = picture_vae(levels=1)
    vae.decoder.conv_out.weight.data.mul_(0.25)
    return assembled(DiTPipeline, transformer, vae, DDIMScheduler(clip_sample=False))


def sana() -> SanaPipeline:
    torch.manual_seed(0)
    transformer = SanaTransformer2DModel(
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=3,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=TEXT_WIDTH,
        sample_size=4,
        patch_size=1,
    )
    vae = AutoencoderDC(
        latent_channels=CHANNELS,
        attention_head_dim=4,
        encoder_block_out_channels=(4,) * 4,
        decoder_block_out_channels=(4,) * 4,
        encoder_layers_per_block=(1,) * 4,
        decoder_layers_per_block=(1,) * 4,
        encoder_qkv_multiscales=((),) * 4,
        decoder_qkv_multiscales=((),) * 4,
    ).eval()
    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    encoders = beside_tokenizer(Gemma2Model(Gemma2Config(**LANGUAGE)))
    return assembled(SanaPipeline, transformer, vae, scheduler, **encoders)


def z_image() -> ZImagePipeline:
    torch.manual_seed(0)
    transformer = ZImageTransformer2DModel(
        in_channels=CHANNELS,
        dim=32,
        n_layers=3,
        n_refiner_layers=2,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=TEXT_WIDTH,
        axes_dims=[4, 6, 6],
        axes_lens=[64, 16, 16],
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=6.0)
    encoders = beside_tokenizer(Qwen3Model(Qwen3Config(**LANGUAGE)))
    return assembled(ZImagePipeline, transformer, picture_vae(), scheduler, **encoders)


def listed_text(number: int) -> dict[str, Any]:
    """A list of prompts as long as they are."""
    return {
        "prompt_embeds": [drawn(100 + number, TEXT_TOKENS - number % 2, TEXT_WIDTH)],
        "negative_prompt_embeds": [drawn(99, TEXT_TOKENS, TEXT_WIDTH)],
    }


def aura_flow() -> AuraFlowPipeline:
    torch.manual_seed(0)
    transformer = AuraFlowTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_mmdit_layers=2,
        num_single_dit_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=TEXT_WIDTH,
        caption_projection_dim=16,
        pos_embed_max_size=16,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.73)
    encoder = UMT5EncoderModel(
        UMT5Config(vocab_size=256, d_model=TEXT_WIDTH, d_kv=6, d_ff=12, num_layers=1, num_heads=2)
    )
    return assembled(AuraFlowPipeline, transformer, picture_vae(), scheduler, **beside_tokenizer(encoder))


def lumina_2() -> Lumina2Pipeline:
    torch.manual_seed(0)
    transformer = Lumina2Transformer2DModel(
        sample_size=8,
        in_channels=CHANNELS,
        hidden_size=32,
        num_layers=3,
        num_refiner_layers=2,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=8,
        axes_dim_rope=(4, 6, 6),
        axes_lens=(32, 16, 16),
        cap_feat_dim=TEXT_WIDTH,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=6.0)
    encoders = beside_tokenizer(Gemma2Model(Gemma2Config(**LANGUAGE)))
    return assembled(Lumina2Pipeline, transformer, picture_vae(), scheduler, **encoders)


SMALL = {"height": 64, "width": 64, "output_type": "latent"}

FAMILIES: tuple[Family, ...] = (
    Family(
        name="Stable Diffusion 3",
        example="stabilityai/stable-diffusion-3.5-medium",
        build=stable_diffusion_3,
        prompt=pooled_text,
        fixed={**SMALL, "guidance_scale": 4.5},
        guidance="batched",
    ),
    Family(
        name="Qwen-Image",
        example="Qwen/Qwen-Image",
        build=qwen_image,
        prompt=qwen_text,
        fixed={**SMALL, "true_cfg_scale": 4.0},
        guidance="separate",
    ),
    Family(
        name="PixArt-Sigma",
        example="PixArt-alpha/PixArt-Sigma-XL-2-1024-MS",
        build=pixart_sigma,
        prompt=encoded,
        fixed={**SMALL, "negative_prompt": None, "guidance_scale": 4.5, "use_resolution_binning": False},
        guidance="batched",
    ),
    Family(
        name="DiT",
        example="facebook/DiT-XL-2-256",
        build=dit,
        prompt=lambda number: {"class_labels": [207 + number]},
        fixed={"guidance_scale": 4.0, "output_type": "np"},
        guidance="batched",
        result=lambda output: torch.from_numpy(output[0]),
    ),
    Family(
        name="Sana",
        example="Efficient-Large-Model/Sana_1600M_1024px_diffusers",
        build=sana,
        prompt=encoded,
        fixed={
            "height": 32,
            "width": 32,
            "output_type": "latent",
            "negative_prompt": None,
            "guidance_scale": 4.5,
            "use_resolution_binning": False,
        },
        guidance="batched",
    ),
    Family(
        name="Z-Image",
        example="Tongyi-MAI/Z-Image",
        build=z_image,
        prompt=listed_text,
        fixed={**SMALL, "guidance_scale": 4.0},
        guidance="batched",
    ),
    Family(
        name="AuraFlow",
        example="fal/AuraFlow-v0.3",
        build=aura_flow,
        prompt=encoded,
        fixed={**SMALL, "guidance_scale": 3.5},
        guidance="batched",
    ),
    Family(
        name="Lumina 2",
        example="Alpha-VLLM/Lumina-Image-2.0",
        build=lumina_2,
        prompt=encoded,
        fixed={**SMALL, "guidance_scale": 4.0},
        guidance="separate",
    ),
)
