"""Tokenizers and text encoders of `shapes-flux`: CLIP and T5 of tiny configuration over the words of its captions."""

from __future__ import annotations

import itertools
import re

from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

from research.training.text import small_encoder, unigram
from skipcast.models.pipeline import TEXT_TOKENS as TEXT_TOKENS
from skipcast.models.scenes import COLOURS, SHAPES, SIZES, TEXTURES, caption

CLIP_TOKENS = 32
T5_WIDTH = 128
CLIP_WIDTH = 64


def words() -> list[str]:
    """Every word and punctuation mark that a caption can hold, sorted."""
    axes = itertools.product(("star",), COLOURS, SIZES, COLOURS, (None, *TEXTURES), range(4))
    lines = [caption(*choice) for choice in axes] + [caption(s, "red", "small", "blue", None) for s in SHAPES]
    return sorted(set(re.findall(r"[a-z]+|,", " ".join(lines))))


def build_clip_tokenizer() -> CLIPTokenizer:
    """Byte-pair encoding whose merges spell out each word left to right; unknown words fall back to letters."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + [","]
    vocabulary = ["<|startoftext|>", "<|endoftext|>", "<|pad|>", *letters, *(f"{letter}</w>" for letter in letters)]
    merges: list[tuple[str, str]] = []
    for word in words():
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        left = pieces[0]
        for right in pieces[1:]:
            merges.append((left, right))
            left += right
            vocabulary.append(left)
    merges = list(dict.fromkeys(merges))
    ids = {piece: i for i, piece in enumerate(dict.fromkeys(vocabulary))}
    return CLIPTokenizer(vocab=ids, merges=merges, pad_token="<|pad|>", model_max_length=CLIP_TOKENS)


def build_t5_tokenizer() -> T5TokenizerFast:
    """Unigram model with one piece per word; unknown words fall back to letters."""
    return unigram(words(), TEXT_TOKENS)


def build_clip(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=CLIP_WIDTH,
            intermediate_size=4 * CLIP_WIDTH,
            projection_dim=CLIP_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=CLIP_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_t5(tokenizer: T5TokenizerFast) -> T5EncoderModel:
    return T5EncoderModel(T5Config(**small_encoder(tokenizer, T5_WIDTH)))
