"""Every family that is known from the inside: its blocks are skipped whole, and what goes on has their form."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.models.embeddings import get_1d_rotary_pos_embed, get_2d_rotary_pos_embed_lumina
from torch import Tensor, nn

import skipcast as sc
from families.all import NAMED
from families.parts import made
from skipcast.controllers import FixedSteps
from skipcast.forecasters import Reuse
from skipcast.pipelines.seams.layouts import LAYOUTS, Blocks, Modules, find_layout
from skipcast.targets import GlobalDrift, LastHidden, ModuleOutputs, SpanDrift, StagedSpans, Target
from support.seams import Spy, counted, hooked, state
from support.tiny import Stop


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


TWO = {"num_layers": 2, "num_single_layers": 2}
IMAGE = drawn(1, 4, 8, 8)
VIDEO = drawn(1, 4, 2, 8, 8)
TOKENS = drawn(1, 9, 16)
TEXT = drawn(1, 5, 12)
KEPT = torch.tensor([[1, 1, 1, 1, 0]])
#: What networks are built with and called with where a class takes it.
COMMON = (
    {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 3, "in_channels": 4, "out_channels": 4}
    | {"text_embed_dim": 12, "text_dim": 12, "joint_attention_dim": 12, "cross_attention_dim": 12, "hidden_size": 16}
    | {"axes_dims_rope": (2, 2, 4), "rope_axes_dim": (2, 2, 4), "sample_size": 8, "pos_embed_max_size": 8}
    | {"time_embed_dim": 8, "condition_dim": 4, "intermediate_size": 16, "freq_dim": 8, "ffn_dim": 16}
)
GIVEN = {name: torch.tensor([[8.0, 8.0]]) for name in ("original_size", "target_size", "crop_coords")} | {
    "encoder_hidden_states": TEXT,
    "img_ids": torch.arange(27.0).view(9, 3) % 3,
    "txt_ids": torch.zeros(5, 3),
    "timestep": torch.tensor([0.5]),
}

#: Of each class without a tiny pipeline: how else it is built, its sample, and what else it is called with.
BARE: dict[str, tuple[dict[str, Any], Tensor, dict[str, Any]]] = {
    "AceStepTransformer1DModel": (
        {"num_hidden_layers": 3, "num_key_value_heads": 1, "head_dim": 8, "in_channels": 12}
        | {"audio_acoustic_hidden_dim": 4, "encoder_hidden_size": 12},
        drawn(1, 8, 4),
        {"timestep_r": torch.tensor([0.2]), "context_latents": drawn(1, 8, 8)},
    ),
    "AllegroTransformer3DModel": (
        {"attention_head_dim": 12, "cross_attention_dim": 24, "sample_height": 8, "sample_width": 8}
        | {"sample_frames": 2, "caption_channels": 12},
        VIDEO,
        {},
    ),
    "BriaTransformer2DModel": ({**TWO, "in_channels": 16}, TOKENS, {}),
    "BriaFiboTransformer2DModel": (
        {**TWO, "in_channels": 16, "text_encoder_dim": 6},
        TOKENS,
        {"text_encoder_layers": [drawn(1, 5, 6) + number for number in range(4)]},
    ),
    "ChronoEditTransformer3DModel": ({"attention_head_dim": 12, "rope_max_seq_len": 32}, VIDEO, {}),
    "CogView3PlusTransformer2DModel": ({}, IMAGE, {}),
    "CogView4Transformer2DModel": ({"rope_axes_dim": (256, 256)}, IMAGE, {}),
    "ConsisIDTransformer3DModel": (
        {"num_layers": 4, "sample_width": 8, "sample_height": 8, "sample_frames": 5, "max_text_seq_length": 5}
        | {"is_train_face": True, "cross_attn_dim_head": 4, "cross_attn_num_heads": 2, "LFE_id_dim": 8}
        | {"LFE_vit_dim": 8, "LFE_depth": 5, "LFE_dim_head": 4, "LFE_num_heads": 2, "LFE_num_id_token": 2}
        | {"LFE_num_querie": 3, "LFE_output_dim": 10},
        drawn(1, 2, 4, 8, 8),
        {"id_cond": drawn(1, 8), "id_vit_hidden": [drawn(1, 6, 8) for _ in range(5)]},
    ),
    "CosmosTransformer3DModel": (
        {"attention_head_dim": 16, "adaln_lora_dim": 4, "max_size": (4, 8, 8), "concat_padding_mask": False}
        | {"extra_pos_embed_type": None},
        VIDEO,
        {},
    ),
    "EasyAnimateTransformer3DModel": ({"attention_head_dim": 16, "patch_size": 2, "mmdit_layers": 2}, VIDEO, {}),
    "ErnieImageTransformer2DModel": (
        {"ffn_hidden_size": 16, "text_in_dim": 12},
        drawn(1, 4, 4, 4),
        {"text_bth": TEXT, "text_lens": torch.tensor([4])},
    ),
    "GlmImageTransformer2DModel": (
        {"prior_vq_quantizer_codebook_size": 8},
        IMAGE,
        {"prior_token_id": torch.arange(16)[None] % 8, "prior_token_drop": torch.zeros(1, 16, dtype=torch.bool)},
    ),
    "HunyuanDiT2DModel": (
        {"patch_size": 2, "num_layers": 4, "cross_attention_dim_t5": 16, "pooled_projection_dim": 8}
        | {"text_len": 5, "text_len_t5": 5, "use_style_cond_and_image_meta_size": False},
        IMAGE,
        {"text_embedding_mask": KEPT, "encoder_hidden_states_t5": drawn(1, 5, 16), "text_embedding_mask_t5": KEPT},
    ),
    "HunyuanImageTransformer2DModel": (
        {**TWO, "num_refiner_layers": 1, "rope_axes_dim": (4, 4)},
        drawn(1, 4, 4, 4),
        {"encoder_attention_mask": KEPT},
    ),
    "HunyuanVideoFramepackTransformer3DModel": (
        {**TWO, "num_refiner_layers": 1, "guidance_embeds": False, "pooled_projection_dim": 8}
        | {"has_image_proj": True, "image_proj_dim": 6, "has_clean_x_embedder": True},
        VIDEO,
        {"encoder_attention_mask": KEPT, "pooled_projections": drawn(1, 8), "image_embeds": drawn(1, 3, 6)}
        | {"indices_latents": torch.arange(2), "latents_clean": drawn(1, 4, 2, 8, 8)}
        | {"indices_latents_clean": torch.arange(2), "latents_history_2x": drawn(1, 4, 2, 8, 8)}
        | {"indices_latents_history_2x": torch.arange(2), "latents_history_4x": drawn(1, 4, 4, 8, 8)}
        | {"indices_latents_history_4x": torch.arange(4)},
    ),
    "Ideogram4Transformer2DModel": (
        {"adaln_dim": 8, "llm_features_dim": 12, "mrope_section": (2, 1, 1)},
        drawn(1, 14, 4),
        {"encoder_hidden_states": drawn(1, 14, 12), "position_ids": torch.arange(42).view(1, 14, 3) % 5}
        | {"segment_ids": torch.zeros(1, 14, dtype=torch.long), "indicator": torch.tensor([[3] * 5 + [2] * 9])},
    ),
    "JoyImageEditTransformer3DModel": ({"rope_dim_list": [2, 2, 4]}, VIDEO, {}),
    "Kandinsky5Transformer3DModel": (
        {"in_text_dim": 12, "in_text_dim2": 8, "time_dim": 8, "model_dim": 16, "ff_dim": 16, "num_text_blocks": 1}
        | {"num_visual_blocks": 3, "axes_dims": (2, 2, 4)},
        drawn(1, 2, 8, 8, 4),
        {"pooled_projections": drawn(1, 8)}
        | {"visual_rope_pos": [torch.arange(2), torch.arange(4), torch.arange(4)], "text_rope_pos": torch.arange(5)},
    ),
    "Krea2Transformer2DModel": (
        {"num_key_value_heads": 1, "timestep_embed_dim": 8, "text_hidden_dim": 12, "num_text_layers": 2}
        | {"text_num_attention_heads": 2, "text_num_key_value_heads": 2, "text_intermediate_size": 12},
        drawn(1, 9, 4),
        {"encoder_hidden_states": drawn(1, 5, 2, 12), "position_ids": torch.arange(42).view(14, 3) % 5},
    ),
    "LongCatImageTransformer2DModel": ({**TWO, "in_channels": 16}, TOKENS, {}),
    "LuminaNextDiT2DModel": (
        {"num_kv_heads": 1, "multiple_of": 8},
        IMAGE,
        {"encoder_mask": KEPT, "image_rotary_emb": get_2d_rotary_pos_embed_lumina(8, 16, 16)}
        | {"cross_attention_kwargs": {}},
    ),
    "MotifVideoTransformer3DModel": ({"num_layers": 1, "num_single_layers": 3, "num_decoder_layers": 2}, VIDEO, {}),
    "NucleusMoEImageTransformer2DModel": (
        {"in_channels": 16, "moe_enabled": False, "out_channels": 16},
        TOKENS,
        {"img_shapes": (1, 3, 3)},
    ),
    "OmniGenTransformer2DModel": (
        {"num_key_value_heads": 2, "pad_token_id": 0, "vocab_size": 16, "time_step_dim": 8}
        | {"rope_scaling": {"type": "su", "long_factor": [1.0] * 4, "short_factor": [1.0] * 4}},
        IMAGE,
        {"input_ids": torch.arange(5)[None], "input_img_latents": [], "input_image_sizes": {}}
        | {"attention_mask": torch.ones(1, 22, 22), "position_ids": torch.arange(22)[None]},
    ),
    "OvisImageTransformer2DModel": ({**TWO, "in_channels": 16, "out_channels": 16}, TOKENS, {}),
    "PRXTransformer2DModel": ({"context_in_dim": 12, "num_heads": 2, "depth": 3, "axes_dim": [4, 4]}, IMAGE, {}),
    "QwenImage21Transformer2DModel": (
        {"context_in_dim": 12},
        drawn(1, 16, 4),
        {"img_shapes": [[(1, 4, 4)]], "img_mask": torch.tensor([[False] * 5 + [True] * 4])},
    ),
    "SanaVideoTransformer3DModel": (
        {"attention_head_dim": 12, "num_cross_attention_heads": 2, "cross_attention_head_dim": 12}
        | {"cross_attention_dim": 24, "caption_channels": 12},
        VIDEO,
        {},
    ),
    "SkyReelsV2Transformer3DModel": ({"attention_head_dim": 12, "rope_max_seq_len": 32}, VIDEO, {}),
    "StableAudio3DiTModel": (
        {"io_channels": 4, "embed_dim": 16, "depth": 3, "num_heads": 2, "cond_token_dim": 12}
        | {"global_cond_dim": 8, "local_add_cond_dim": 6, "timestep_features_dim": 8, "num_memory_tokens": 2},
        drawn(1, 4, 8),
        {"global_hidden_states": drawn(1, 8)},
    ),
    "StableAudioDiTModel": (
        {"num_key_value_attention_heads": 1, "time_proj_dim": 8, "global_states_input_dim": 8}
        | {"cross_attention_input_dim": 12},
        drawn(1, 4, 8),
        {"global_hidden_states": drawn(1, 1, 8)}
        | {"rotary_embedding": get_1d_rotary_pos_embed(4, 9, use_real=True, repeat_interleave_real=False)},
    ),
    "WanVACETransformer3DModel": (
        {"attention_head_dim": 12, "rope_max_seq_len": 32, "vace_layers": [0, 2], "vace_in_channels": 6},
        VIDEO,
        {"control_hidden_states": drawn(1, 6, 2, 8, 8)},
    ),
}


@dataclass
class Case:
    """A transformer with a scheduler, enough of a pipeline for `accelerate`, and the arguments of one call."""

    transformer: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    scheduler: Any = field(default_factory=FlowMatchEulerDiscreteScheduler)

    def begin(self) -> None:
        self.scheduler.set_timesteps(4)
        self.scheduler.set_begin_index(0)

    @torch.no_grad()
    def call(self, step: int, **further: Any) -> Tensor:
        self.scheduler._step_index = step
        output = self.transformer(*self.args, **{**self.kwargs, **further})
        output = output[0] if isinstance(output, tuple) else getattr(output, "sample", output)
        return torch.stack(output) if isinstance(output, list) else output

    def moved(self) -> Case:
        """The same call of another sample, which is the first argument."""
        if self.args:
            return replace(self, args=(_moved(self.args[0]), *self.args[1:]))
        name = next(iter(inspect.signature(self.transformer.forward).parameters))
        return replace(self, kwargs={**self.kwargs, name: _moved(self.kwargs[name])})

    @property
    def name(self) -> str:
        return next(kind.__name__ for kind in type(self.transformer).__mro__ if kind.__name__ in LAYOUTS)

    @property
    def blocks(self) -> list[nn.Module]:
        lists = LAYOUTS[self.name].lists
        return [block for blocks in lists for block in getattr(self.transformer, blocks.name)]


def _moved(sample: Any) -> Any:
    return [_moved(part) for part in sample] if isinstance(sample, list) else 0.5 * sample + 0.3


def _bare(name: str) -> Case:
    kind: Any = getattr(diffusers, name)
    config, sample, given = BARE[name]
    transformer = made(kind, COMMON, **config)
    with torch.no_grad():
        for parameter in transformer.parameters():  # many blocks add nothing before they are trained
            parameter.add_(0.1 * torch.randn_like(parameter))
    taken = inspect.signature(kind.forward).parameters
    common = {name: value for name, value in GIVEN.items() if name in taken}
    return Case(transformer, (), {"hidden_states": sample, **common, **given})


#: Of the other classes: a family that has one.
PIPED = {
    "AuraFlowTransformer2DModel": "AuraFlow",
    "ChromaTransformer2DModel": "Chroma",
    "CogVideoXTransformer3DModel": "CogVideoX",
    "DiTTransformer2DModel": "DiT",
    "Flux2Transformer2DModel": "FLUX.2",
    "FluxTransformer2DModel": "FLUX.1",
    "HiDreamImageTransformer2DModel": "HiDream-I1",
    "HunyuanVideo15Transformer3DModel": "HunyuanVideo 1.5",
    "HunyuanVideoTransformer3DModel": "HunyuanVideo",
    "LTXVideoTransformer3DModel": "LTX-Video",
    "Lumina2Transformer2DModel": "Lumina 2",
    "MochiTransformer3DModel": "Mochi",
    "PixArtTransformer2DModel": "PixArt-Sigma",
    "QwenImageTransformer2DModel": "Qwen-Image",
    "SanaTransformer2DModel": "Sana",
    "SD3Transformer2DModel": "Stable Diffusion 3",
    "WanTransformer3DModel": "Wan 2.1",
    "ZImageTransformer2DModel": "Z-Image",
}


def _piped(name: str) -> Case:
    """The transformer of a tiny pipeline, and what the pipeline calls it with first."""
    family = NAMED[PIPED[name]]
    pipe = family.build()
    calls: list[tuple[Any, Any]] = []

    def look(_: nn.Module, args: Any, kwargs: Any) -> None:
        calls.append((args, kwargs))
        raise Stop

    handle = pipe.transformer.register_forward_pre_hook(look, with_kwargs=True)
    with pytest.raises(Stop):
        family.run(pipe, steps=4)
    handle.remove()
    return Case(pipe.transformer, *calls[0])


@functools.cache
def case_of(name: str) -> Case:
    if not hasattr(diffusers, name):
        pytest.skip(f"diffusers {diffusers.__version__} has no {name}")
    return _bare(name) if name in BARE else _piped(name)


def names(*fields: str) -> list[str]:
    """Classes whose layouts have these fields filled."""
    return [name for name in sorted(LAYOUTS) if all(getattr(LAYOUTS[name], wanted) for wanted in fields)]


@pytest.fixture(params=names())
def case(request: pytest.FixtureRequest) -> Case:
    return case_of(request.param)


def inner(block: nn.Module) -> list[nn.Module]:
    """The modules inside; but DiT asks its first block for the embedding of the time after all blocks have run."""
    return [module for path, module in block.named_modules() if path and not path.startswith("norm1.emb")]


@contextmanager
def work_in(blocks: list[nn.Module]) -> Iterator[list[bool]]:
    """Which blocks run, known on exit."""
    found: list[bool] = []
    with counted(*(part for block in blocks for part in inner(block))) as counts:
        yield found
    found += [any(counts[part] for part in inner(block)) for block in blocks]


def test_every_layout_is_tried() -> None:
    assert {*BARE, *PIPED} == set(LAYOUTS)


def _spans(case: Case) -> list[tuple[Target, tuple[int, int]]]:
    """Targets, and the span that is skipped at the second of four steps."""
    depth = len(case.blocks)
    whole: list[tuple[Target, tuple[int, int]]] = [(GlobalDrift(), (0, depth)), (LastHidden(), (0, depth))]
    if LAYOUTS[case.name].linked:
        return whole
    double, *rest = [len(getattr(case.transformer, blocks.name)) for blocks in LAYOUTS[case.name].lists]
    meeting: list[tuple[Target, tuple[int, int]]] = [
        (SpanDrift(skip_first="double"), (double, depth)),
        (SpanDrift(skip_last=depth - double), (0, double)),
    ]
    return [
        *whole,
        (SpanDrift(skip_first=1), (1, depth)),
        (SpanDrift(skip_last=1), (0, depth - 1)),
        (SpanDrift(skip_first=1, skip_last=1), (1, depth - 1)),
        (SpanDrift(skip_last=1, verify=True), (0, depth - 1)),
        (StagedSpans(share=0.6, boundary=1.0), (depth - round(0.6 * depth), depth)),
        (StagedSpans(share=0.6, boundary=0.0), (0, round(0.6 * depth))),
        *(meeting if rest else []),
    ]


def test_an_evaluated_step_reused_at_the_same_input_is_the_same_output(case: Case) -> None:
    """And every block returns what it returns when it runs: as many tensors, of the same shapes."""
    plain = case.call(0)
    forms: list[Any] = []
    # The case without what its own calls change.
    frozen = SimpleNamespace(transformer=case.transformer, scheduler=Case, config={})
    for target, span in _spans(case):
        before = state(frozen)
        forms.clear()
        with sc.accelerate(case, sc.Method(Reuse(), FixedSteps((0,)), target=target)):
            case.begin()
            with hooked(case.blocks, lambda _m, _a, output: forms.append(_form(output))):
                with work_in(case.blocks) as ran:
                    assert torch.equal(case.call(0), plain), target
                assert all(ran), target
                with work_in(case.blocks) as ran:
                    found = case.call(1)
        assert ran == [not span[0] <= place < span[1] for place in range(len(ran))]
        assert forms[: len(ran)] == forms[len(ran) :], target
        assert torch.allclose(found, plain, rtol=1e-4, atol=1e-4 * float(plain.abs().max())), target
        assert state(frozen) == before
    assert torch.equal(case.call(0), plain)


def _form(output: Any) -> Any:
    return [_form(part) for part in output] if isinstance(output, tuple) else getattr(output, "shape", output)


class Passing:
    """What enters and leaves the first and the last block of a span, as image and text tokens."""

    def __init__(self, case: Case, span: tuple[int, int]) -> None:
        lists = [(blocks, len(getattr(case.transformer, blocks.name))) for blocks in LAYOUTS[case.name].lists]
        kinds = [blocks for blocks, count in lists for _ in range(count)]
        self.case, self.count = case, 0
        self.ends = [(place, kinds[place]) for place in (0, span[0], span[1] - 1)]

    def _taken(self, kind: Blocks, found: Any) -> list[Tensor | None]:
        """Image and text tokens in what a block is given or returns."""
        if kind.returns == "image":
            return [found, None]
        if kind.returns == "text, image":
            return [found[1], found[0]]
        if kind.returns == "image, text":
            return list(found)
        if kind.returns == "text + image":
            return [found[:, self.count :], found[:, : self.count]]
        return [found[:, : -self.count], found[:, -self.count :]]

    def __call__(self, step: int) -> tuple[list[Tensor | None], list[Tensor | None]]:
        (first, _), (start, kind), (stop, last) = self.ends
        found: dict[str, Any] = {}

        def before(block: nn.Module, args: Any, kwargs: Any) -> None:
            given = inspect.signature(type(block).forward).bind(block, *args, **kwargs).arguments
            if block is self.case.blocks[first] and "," in self.ends[0][1].returns:
                self.count = given[self.ends[0][1].text].shape[1]
            if block is self.case.blocks[start]:
                pair = kind.returns.split(", ")
                names = [kind.image if part == "image" else kind.text for part in pair] if len(pair) > 1 else []
                found["in"] = [given[name] for name in names] if names else given[kind.image]

        def after(block: nn.Module, _: Any, output: Any) -> None:
            found["out"] = output

        handles = [self.case.blocks[place].register_forward_pre_hook(before, with_kwargs=True) for place in {0, start}]
        handles.append(self.case.blocks[stop].register_forward_hook(after))
        self.case.call(step)
        for handle in handles:
            handle.remove()
        return self._taken(kind, found["in"]), self._taken(last, found["out"])


def test_what_a_span_added_is_added_to_the_same_tokens_of_another_input(case: Case) -> None:
    """Image and text tokens by hand: what entered now, and what left less what entered at the evaluated step."""
    other = case.moved()
    for target, span in _spans(case):
        if isinstance(target, LastHidden):
            continue
        evaluated, now = Passing(case, span)(0), Passing(other, span)(0)
        with sc.accelerate(other, sc.Method(Reuse(), FixedSteps((0,)), target=target)):
            other.begin()
            case.call(0)
            found = Passing(other, span)(1)
        for part, (old, left, new, got) in enumerate(zip(*evaluated, now[0], found[1], strict=True)):
            if got is None or (part == 1 and span[1] == len(case.blocks)):
                continue  # text that leaves the last block is never used
            assert old is not None
            assert new is not None
            assert left is not None
            assert torch.allclose(got, new + left - old, rtol=1e-4, atol=1e-4 * float(left.abs().max())), target
            assert part or not torch.allclose(new, old), target  # text that enters the first block is the same


@pytest.mark.parametrize("name", [name for name in names() if not LAYOUTS[name].linked])
def test_what_the_first_block_adds_is_shown(name: str) -> None:
    case = case_of(name)
    spy = Spy((0,), "block")
    with sc.accelerate(case, sc.Method(Reuse(), spy, target=SpanDrift(skip_first=1))) as acceleration:
        case.begin()
        for step in range(3):
            case.call(step)
        value = acceleration.all_runs()[0].history[-1].value
    assert torch.equal(spy.seen[1], spy.seen[2])
    assert spy.seen[1].shape == value.shape  # both are about the image tokens alone
    assert spy.seen[1].abs().max() > 0


# The block of LTX modulates by itself, behind its norm: tests/pipelines/test_probes.py.
@pytest.mark.parametrize("name", [name for name in names("modulation") if name != "LTXVideoTransformer3DModel"])
def test_the_modulated_input_is_shown(name: str) -> None:
    case = case_of(name)
    spy, inputs = Spy((0,), "modulated"), []
    note = hooked([case.blocks[0].norm1], lambda _m, _a, output: inputs.append(output[0]))
    with note, sc.accelerate(case, sc.Method(Reuse(), spy, target=GlobalDrift())):
        case.begin()
        for step in range(2):
            case.call(step)
    assert torch.equal(spy.seen[1], inputs[1])  # what the block itself made of the same tokens at step 0


def test_a_modulated_input_that_is_not_published_is_refused() -> None:
    for name in ("WanTransformer3DModel", "SD3Transformer2DModel"):
        with pytest.raises(sc.IncompatibleParts, match=r"Block has no norm that makes it of the tokens and the time"):
            sc.accelerate(case_of(name), sc.Method(Reuse(), Spy((0,), "modulated"), target=GlobalDrift()))


def test_linked_blocks_are_skipped_together_or_not_at_all() -> None:
    for target in (SpanDrift(skip_first=1), StagedSpans()):
        with pytest.raises(ValueError, match=r"HunyuanDiT2DModel read more than the tokens.*GlobalDrift\(\)"):
            sc.accelerate(case_of("HunyuanDiT2DModel"), sc.Method(Reuse(), target=target))


@pytest.mark.parametrize("name", names("additions"))
def test_what_reaches_between_the_blocks_is_refused(name: str) -> None:
    case = case_of(name)
    for addition in LAYOUTS[name].additions:
        with sc.accelerate(case, sc.Method(Reuse(), target=GlobalDrift())):
            case.begin()
            with pytest.raises(ValueError, match=f"{addition} changes what happens between the blocks.*target=output"):
                case.call(0, **{addition: [0]})


def test_derived_and_wrapped_classes_are_known_by_the_nearest_known_class() -> None:
    case = case_of("DiTTransformer2DModel")

    class Mine(diffusers.DiTTransformer2DModel):
        pass

    mine = Mine(**case.transformer.config)
    assert find_layout(mine, GlobalDrift()) == (LAYOUTS["DiTTransformer2DModel"], mine)
    wrapped = torch.nn.Module()
    wrapped._orig_mod = mine
    assert find_layout(wrapped, GlobalDrift())[1] is mine


def test_unknown_classes_are_refused_by_name() -> None:
    class Unknown(nn.Module):
        pass

    with pytest.raises(ValueError, match=r"stack, which is not known for Unknown \(known: .*WanTr.*target=output"):
        find_layout(Unknown(), GlobalDrift())
    with pytest.raises(ValueError, match=r"modules of every block.*SanaTr.* \(known: FluxTr.*SD3Tr.*WanTr"):
        find_layout(case_of("SanaTransformer2DModel").transformer, ModuleOutputs())


def test_a_block_of_another_version_is_refused_by_its_parameter() -> None:
    transformer = _bare("PRXTransformer2DModel").transformer

    class Other(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return tokens

    transformer.blocks = nn.ModuleList([Other()])
    pipe = SimpleNamespace(transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler())
    with pytest.raises(ValueError, match=r"Other takes no 'hidden_states' in this version.*target=output"):
        sc.accelerate(pipe, sc.Method(Reuse(), target=GlobalDrift()))


def test_blocks_that_keep_the_first_frame_are_known_but_their_norm_is_not() -> None:
    """HunyuanVideo from an image has blocks of another class, whose norm wants more than the time."""
    full = case_of("HunyuanVideoTransformer3DModel")
    config = {**full.transformer.config, "image_condition_type": "token_replace"}
    torch.manual_seed(0)
    case = replace(full, transformer=diffusers.HunyuanVideoTransformer3DModel(**config).eval())
    plain = case.call(0)
    with sc.accelerate(case, sc.Method(Reuse(), FixedSteps((0,)), target=StagedSpans(boundary=0.0))):
        case.begin()
        case.call(0)
        assert torch.allclose(case.call(1), plain, rtol=1e-4, atol=1e-4)
    with pytest.raises(sc.IncompatibleParts, match="TokenReplaceTransformerBlock has no 'norm1' that makes it"):
        sc.accelerate(case, sc.Method(Reuse(), Spy((0,), "modulated"), target=GlobalDrift()))


@pytest.mark.parametrize("single", [0, 2])
def test_a_stack_may_lack_one_of_its_lists(single: int) -> None:
    """Without pairs nothing tells text from image, so the joined tensor is forecast whole."""
    full = case_of("Flux2Transformer2DModel")
    config = {**full.transformer.config, "num_layers": 2 - single, "num_single_layers": single}
    torch.manual_seed(0)
    case = replace(full, transformer=diffusers.Flux2Transformer2DModel(**config).eval())
    plain = case.call(0)
    with sc.accelerate(case, sc.Method(Reuse(), FixedSteps((0,)), target=GlobalDrift())) as acceleration:
        case.begin()
        case.call(0)
        tokens = acceleration.all_runs()[0].history[-1].value.shape[1]
        with work_in(case.blocks) as ran:
            assert torch.allclose(case.call(1), plain, atol=1e-5)
    assert not any(ran)
    words = case.kwargs["encoder_hidden_states"].shape[1] if single else 0
    assert tokens == case.kwargs["hidden_states"].shape[1] + words


def test_a_batch_that_shrinks_during_the_run_is_another_branch() -> None:
    case = _bare("PRXTransformer2DModel")
    case.begin()
    plain = case.call(1)
    with sc.accelerate(case, sc.Method(Reuse(), FixedSteps((0,)), target=GlobalDrift())):
        case.begin()
        both = {name: torch.cat((value, value)) for name, value in case.kwargs.items()}
        case.call(0, **both)
        assert torch.equal(case.call(1), plain)  # of which nothing was evaluated yet


#: Networks whose modules are known.
GATED = [name for name in names() if all(blocks.modules != Modules() for blocks in LAYOUTS[name].lists)]


@pytest.mark.parametrize("name", GATED)
def test_modules_by_hand(name: str) -> None:
    """At a forecast step every attention and MLP returns what it did, whatever enters it, and the rest runs."""
    case = case_of(name)
    case.begin()
    plain, moved = case.call(0), case.moved()
    with sc.accelerate(case, sc.Method(Reuse(), FixedSteps((0,)), target=ModuleOutputs())):
        case.begin()
        assert torch.equal(case.call(0), plain)
        found = moved.call(1)
    modules = [
        module
        for blocks in LAYOUTS[name].lists
        for block in getattr(case.transformer, blocks.name)
        for wanted in (*blocks.modules.pairs, *blocks.modules.singles)
        if (module := getattr(block, wanted, None)) is not None
    ]
    noted: dict[nn.Module, Any] = {}

    def note_or_replace(module: nn.Module, _: Any, output: Any) -> Any:
        return noted.setdefault(module, output)

    handles = [module.register_forward_hook(note_or_replace) for module in modules]
    case.call(0)
    expected = moved.call(1)
    for handle in handles:
        handle.remove()
    assert len(noted) == len(modules)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * float(plain.abs().max()))
    assert not torch.allclose(found, moved.call(1), rtol=1e-3, atol=1e-3 * float(plain.abs().max()))


def test_the_families_of_published_settings_have_modules() -> None:
    assert {"FluxTransformer2DModel", "HunyuanVideoTransformer3DModel", "WanTransformer3DModel"} <= set(GATED)
    assert {"DiTTransformer2DModel", "QwenImageTransformer2DModel", "SD3Transformer2DModel"} <= set(GATED)


@pytest.mark.parametrize("name", GATED)
def test_speca_verifies_where_modules_are_known(name: str) -> None:
    case = case_of(name)
    with sc.accelerate(case, "speca:base=1e9,min_forecasts=1,warmup=1") as acceleration:
        case.begin()
        for step in range(3):
            case.call(step)
        (run,) = acceleration.runs.values()
        assert run.verified is not None
        assert float(run.verified) < 1e-3  # the input is the same, and so is what the last module makes of it
