"""The transformer of `shapes-flux` and its training: `FluxTransformer2DModel`, flow matching, optional alignment.

Flow matching (arXiv:2210.02747): x_s = (1 - s) x + s e, the network learns e - x, logit-normal s (arXiv:2403.03206).
Alignment (REPA, arXiv:2410.06940): for the first steps, minus the mean cosine between projected image tokens after the
last double block and the teacher's feature map of the clean image; it stops at a fixed step, or where the gradients of
both losses no longer agree (HASTE, arXiv:2505.16792). HASTE's alignment of attention maps needs a teacher that attends,
and that of the shipped weights is convolutional; `research.shapes_flux.alignment` measures it with one that does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FluxTransformer2DModel
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

from research.shapes_flux import text
from research.shapes_flux.autoencoder import CHANNELS
from research.training.alignment import Termination, Until, attention_loss, feature_loss, gradient_cosine
from research.training.fit import Recipe, fit
from skipcast.models.scenes import Scene, captions

WIDTH, HEADS = 256, 4
BATCH = 256
EMPTY_SHARE = 0.1
LOGIT_MEAN, LOGIT_STD = 0.5, 1.2  # towards noise: the sampler's shift spends most of its steps there
RECIPE = Recipe(steps=6000, rate=1e-3, warmup=100, ema=0.999, anneal=0.4, muon=True)


@dataclass(frozen=True)
class Alignment:
    """How the transformer is aligned with the teacher.

    Args:
        weight: of the cosine term, and of the attention term.
        until: the step at which both end, or "gradient".
        width: of the projector.
        attention: whether the image tokens' attention in the double blocks is aligned, too.

    Raises:
        ValueError: `until` is neither a step nor "gradient".
    """

    weight: float = 0.5
    until: Until = 750
    width: int = 512
    attention: bool = False

    def __post_init__(self) -> None:
        Termination(self.until)


@dataclass(frozen=True)
class Latents:
    """The training set: packed latents (M, 16, 64), the scenes they show, and what a teacher sees there.

    Features (M, 16, D), and attention logits among the 16 places, (M, layers, heads, 16, 16).
    """

    packed: Tensor
    scene: Scene
    teacher: Tensor | None
    attention: Tensor | None = None


def build_transformer() -> FluxTransformer2DModel:
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * CHANNELS,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=WIDTH // HEADS,
        num_attention_heads=HEADS,
        joint_attention_dim=text.T5_WIDTH,
        pooled_projection_dim=text.CLIP_WIDTH,
        guidance_embeds=False,
        axes_dims_rope=(16, 24, 24),
    )


def pack(latents: Tensor) -> Tensor:
    """(B, 16, 8, 8) to (B, 16, 64): 2x2 neighbours become channels, as in FLUX."""
    b, c, h, w = latents.shape
    return latents.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * c)


def image_ids(side: int = 4) -> Tensor:
    """(side^2, 3): zero, row, column."""
    ids = torch.zeros(side, side, 3)
    ids[..., 1] = torch.arange(side)[:, None]
    ids[..., 2] = torch.arange(side)[None, :]
    return ids.view(-1, 3)


class Watched:
    """Attention logits among the image tokens of a joint attention, (B, heads, 16, 16), of its last call."""

    def __init__(self, attention: nn.Module) -> None:
        self.logits: Tensor | None = None
        self._rotary: tuple[Tensor, Tensor] | None = None
        self._query: Tensor | None = None
        self._key: Tensor | None = None
        attention.register_forward_pre_hook(self._begin, with_kwargs=True)
        attention.norm_q.register_forward_hook(self._keep_query)  # type: ignore[union-attr]
        attention.norm_k.register_forward_hook(self._keep_key)  # type: ignore[union-attr]
        attention.register_forward_hook(self._end)

    def _begin(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self._rotary = kwargs["image_rotary_emb"]

    def _keep_query(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self._query = output

    def _keep_key(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self._key = output

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        assert self._query is not None
        assert self._key is not None
        assert self._rotary is not None
        places = self._query.shape[1]
        rotary = tuple(table[-places:] for table in self._rotary)  # text stands before the image
        query, key = (apply_rotary_emb(each, rotary, sequence_dim=1) for each in (self._query, self._key))
        self.logits = torch.einsum("bqhd,bkhd->bhqk", query, key) * query.shape[-1] ** -0.5
        self._query = self._key = self._rotary = None


class Student(nn.Module):
    """Transformer and text encoders as one function of noisy latents, noise levels and token ids."""

    def __init__(
        self,
        transformer: nn.Module,
        clip: CLIPTextModel,
        t5: T5EncoderModel,
        features: int = 0,
        *,
        attention: bool = False,
    ) -> None:
        super().__init__()
        self.transformer, self.clip, self.t5 = transformer, clip, t5
        hidden = Alignment.width
        self.projector = (
            nn.Sequential(
                nn.Linear(WIDTH, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, features)
            )
            if features
            else None
        )
        self.inner: Tensor | None = None
        transformer.transformer_blocks[-1].register_forward_hook(self._keep)  # type: ignore[union-attr,index]
        blocks: Any = transformer.transformer_blocks if attention else ()
        self.watched = [Watched(block.attn) for block in blocks]

    def _keep(self, module: nn.Module, args: Any, output: tuple[Tensor, Tensor]) -> None:
        self.inner = output[1]

    def forward(
        self, noisy: Tensor, sigma: Tensor, t5_ids: Tensor, clip_ids: Tensor
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The velocity, the aligned block's output, and the attention logits that are watched."""
        tokens = self.t5(t5_ids)[0]
        output = self.transformer(
            hidden_states=noisy,
            timestep=sigma,
            pooled_projections=self.clip(clip_ids).pooler_output,
            encoder_hidden_states=tokens,
            txt_ids=torch.zeros(tokens.shape[1], 3),
            img_ids=image_ids(),
            return_dict=False,
        )[0]
        assert self.inner is not None
        inner, self.inner = self.inner, None
        maps = [watched.logits for watched in self.watched if watched.logits is not None]
        return output, inner, maps


def hidden_matrices(transformer: nn.Module) -> list[nn.Parameter]:
    """The weights that Muon is for: maps between hidden features, once per token; modulation is once per image."""
    return [p for name, p in transformer.named_parameters() if p.ndim == 2 and "blocks." in name and "norm" not in name]


class Captioner:
    """Token ids of captions, remembered per sentence."""

    def __init__(self, clip: CLIPTokenizer, t5: T5TokenizerFast) -> None:
        self.clip, self.t5 = clip, t5
        self.known: dict[str, tuple[list[int], list[int]]] = {}

    def __call__(self, lines: list[str]) -> tuple[Tensor, Tensor]:
        fresh = sorted({line for line in lines if line not in self.known})
        if fresh:
            t5 = self.t5(fresh, padding="max_length", max_length=text.TEXT_TOKENS, truncation=True)["input_ids"]
            clip = self.clip(fresh, padding="max_length", max_length=text.CLIP_TOKENS, truncation=True)["input_ids"]
            self.known.update({line: pair for line, *pair in zip(fresh, t5, clip, strict=True)})  # type: ignore[misc]
        pairs = [self.known[line] for line in lines]
        return torch.tensor([p[0] for p in pairs]), torch.tensor([p[1] for p in pairs])


def _subset(scene: Scene, rows: np.ndarray[Any, Any]) -> Scene:
    return Scene(**{name: value[rows] for name, value in vars(scene).items()})


def train_transformer(
    folder: Path,
    data: Latents,
    clip: tuple[CLIPTokenizer, CLIPTextModel],
    t5: tuple[T5TokenizerFast, T5EncoderModel],
    *,
    recipe: Recipe = RECIPE,
    alignment: Alignment | None = None,
    seed: int = 3,
    name: str = "transformer",
    compiled: bool = True,
    start: FluxTransformer2DModel | None = None,
    at: Sequence[int] = (),
    measure: Callable[[int, Student], None] | None = None,
) -> tuple[Student, list[dict[str, Any]]]:
    """Train or resume transformer (from `start`, or anew) and text encoders together; they return averaged.

    After the steps of `at`, `measure` is told the step and given the student with averaged weights.
    """
    torch.manual_seed(seed)
    align = alignment is not None and data.teacher is not None
    features = data.teacher.shape[-1] if align and data.teacher is not None else 0
    watches = alignment is not None and alignment.attention and data.attention is not None
    student = Student(start or build_transformer(), clip[1], t5[1], features, attention=watches).train()
    # Attention written out: the fused CPU kernel's backward takes almost half the step on 28 tokens.
    student.transformer.set_attention_backend("_native_math")  # type: ignore[operator]
    clip[1].set_attn_implementation("eager")
    caption_ids = Captioner(clip[0], t5[0])
    # Only the transformer is compiled; the hook on its last double block is traced with it.
    run = torch.compile(student) if compiled else student
    termination = Termination(alignment.until if alignment is not None else 0)

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([seed, step])
        rows = rng.integers(len(data.packed), size=BATCH)
        lines = captions(_subset(data.scene, rows), rng)
        lines = ["" if empty else line for line, empty in zip(lines, rng.random(BATCH) < EMPTY_SHARE, strict=True)]
        t5_ids, clip_ids = caption_ids(lines)
        sigma = torch.sigmoid(torch.from_numpy(rng.normal(LOGIT_MEAN, LOGIT_STD, BATCH)).float())
        clean = data.packed[rows].float()
        noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32))
        noisy = torch.lerp(clean, noise, sigma[:, None, None])
        ended = alignment is None or termination.ended(step)
        # Only where it decides: compiled, the network does not tell the gradient at a tensor inside it.
        reads = not ended and termination.until == "gradient" and termination.due(step)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            velocity, inner, maps = (student if reads else run)(noisy, sigma, t5_ids, clip_ids)
        flow = (velocity.float() - (noise - clean)).square().mean()
        figures = {"flow": flow.item(), "images": BATCH * (step + 1)}
        if ended or alignment is None or data.teacher is None or student.projector is None:
            return flow, figures
        with torch.autocast("cpu", dtype=torch.bfloat16):
            guess = student.projector(inner)
        term = feature_loss(guess, data.teacher[rows])
        figures["cosine"] = -term.item()
        if reads:
            termination.read(step, float(gradient_cosine(term, flow, inner).mean()))
        if termination.smoothed is not None:
            figures["agreement"] = termination.smoothed
        total = flow + alignment.weight * term
        if data.attention is not None and maps:
            theirs = data.attention[rows].float().unbind(1)
            attended = attention_loss(maps, theirs)
            figures["attention"] = attended.item()
            total = total + alignment.weight * attended
        return total, figures

    log = fit(
        name,
        folder,
        [student],
        loss,
        recipe,
        matrices=hidden_matrices(student.transformer),
        every=120.0,
        states=[termination],
        at=at,
        measure=None if measure is None else lambda step: measure(step, student),
    )
    student.transformer.set_attention_backend("native")  # type: ignore[operator]
    clip[1].set_attn_implementation("sdpa")
    return student.eval(), log
