"""The transformer of `shapes-wan` and its training: `WanTransformer3DModel`, flow matching, alignment at first.

Flow matching (arXiv:2210.02747): x_s = (1 - s) x + s e, the network learns e - x, logit-normal s (arXiv:2403.03206).
Alignment (REPA, arXiv:2410.06940), until a fixed step (HASTE, arXiv:2505.16792): minus the mean cosine between
projected tokens of a middle block and a teacher's features of the frames that a token stands for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn
from transformers import T5TokenizerFast, UMT5EncoderModel

from research.shapes_wan import text
from research.shapes_wan.autoencoder import CHANNELS
from research.training.alignment import feature_loss
from research.training.fit import Recipe, fit
from skipcast.models.clips import Clip, captions
from skipcast.models.pipeline import CLIP_TEXT_TOKENS

WIDTH, HEADS, LAYERS = 256, 4, 6
BATCH = 128
EMPTY_SHARE = 0.1
LOGIT_MEAN, LOGIT_STD = 0.5, 1.2  # towards noise: the sampler's shift spends most of its steps there
RECIPE = Recipe(steps=3000, rate=1e-3, warmup=100, ema=0.999, anneal=0.4, muon=True)


@dataclass(frozen=True)
class Alignment:
    """Weight of the cosine term, the step at which it ends, the block that is aligned, the width of the projector."""

    weight: float = 0.5
    until: int = 1000
    block: int = 2
    width: int = 512


@dataclass(frozen=True)
class Latents:
    """The training set: latents (M, 16, 3, 6, 6), the clips they show, and the teacher's features (M, 27, D)."""

    latents: Tensor
    clip: Clip
    teacher: Tensor | None


def build_transformer() -> WanTransformer3DModel:
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=HEADS,
        attention_head_dim=WIDTH // HEADS,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        text_dim=text.WIDTH,
        freq_dim=WIDTH,
        ffn_dim=4 * WIDTH,
        num_layers=LAYERS,
        rope_max_seq_len=32,
    )


class Student(nn.Module):
    """Transformer and text encoder as one function of noisy latents, noise levels and token ids."""

    def __init__(self, transformer: nn.Module, encoder: UMT5EncoderModel, features: int, aligned: Alignment) -> None:
        super().__init__()
        self.transformer, self.encoder = transformer, encoder
        hidden = aligned.width
        self.projector = nn.Sequential(nn.Linear(WIDTH, hidden), nn.SiLU(), nn.Linear(hidden, features or 1))
        self.inner: Tensor | None = None
        transformer.blocks[aligned.block].register_forward_hook(self._keep)  # type: ignore[union-attr,index]

    def _keep(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.inner = output

    def forward(self, noisy: Tensor, sigma: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        mask = ids.ne(self.encoder.config.pad_token_id)
        # WanPipeline puts zeros where a prompt has ended.
        tokens = self.encoder(ids, mask.long())[0] * mask[..., None]
        output = self.transformer(
            hidden_states=noisy, timestep=1000 * sigma, encoder_hidden_states=tokens, return_dict=False
        )[0]
        assert self.inner is not None
        inner, self.inner = self.inner, None
        return output, inner


def hidden_matrices(transformer: nn.Module) -> list[nn.Parameter]:
    """The weights that Muon is for: maps between hidden features, once per token."""
    return [p for name, p in transformer.named_parameters() if p.ndim == 2 and "blocks." in name]


class Captioner:
    """Token ids of captions, remembered per sentence."""

    def __init__(self, tokenizer: T5TokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.known: dict[str, list[int]] = {}

    def __call__(self, lines: list[str]) -> Tensor:
        fresh = sorted({line for line in lines if line not in self.known})
        if fresh:
            ids = self.tokenizer(fresh, padding="max_length", max_length=CLIP_TEXT_TOKENS, truncation=True)["input_ids"]
            self.known.update(zip(fresh, ids, strict=True))
        return torch.tensor([self.known[line] for line in lines])


def train_transformer(
    folder: Path,
    data: Latents,
    tokenizer: T5TokenizerFast,
    encoder: UMT5EncoderModel,
    *,
    recipe: Recipe = RECIPE,
    alignment: Alignment | None = None,
    seed: int = 3,
    name: str = "transformer",
    compiled: bool = True,
    start: WanTransformer3DModel | None = None,
) -> tuple[Student, list[dict[str, Any]]]:
    """Train or resume transformer (from `start`, or anew) and text encoder together; they return averaged."""
    torch.manual_seed(seed)
    aligned = alignment if data.teacher is not None else None
    features = data.teacher.shape[-1] if data.teacher is not None else 0
    student = Student(start or build_transformer(), encoder, features, alignment or Alignment()).train()
    encoder.set_attn_implementation("eager")
    caption_ids = Captioner(tokenizer)
    run = torch.compile(student) if compiled else student

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([seed, step])
        rows = rng.integers(len(data.latents), size=BATCH)
        lines = captions(data.clip[rows], rng)
        lines = ["" if empty else line for line, empty in zip(lines, rng.random(BATCH) < EMPTY_SHARE, strict=True)]
        sigma = torch.sigmoid(torch.from_numpy(rng.normal(LOGIT_MEAN, LOGIT_STD, BATCH)).float())
        clean = data.latents[rows].float()
        noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32))
        noisy = torch.lerp(clean, noise, sigma[:, None, None, None, None])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            velocity, inner = run(noisy, sigma, caption_ids(lines))
        flow = (velocity.float() - (noise - clean)).square().mean()
        figures = {"flow": flow.item(), "clips": BATCH * (step + 1)}
        if aligned is None or data.teacher is None or step >= aligned.until:
            return flow, figures
        with torch.autocast("cpu", dtype=torch.bfloat16):
            guess = student.projector(inner)
        term = feature_loss(guess, data.teacher[rows])
        figures["cosine"] = -term.item()
        return flow + aligned.weight * term, figures

    log = fit(name, folder, [student], loss, recipe, matrices=hidden_matrices(student.transformer), every=120.0)
    encoder.set_attn_implementation("sdpa")
    return student.eval(), log
