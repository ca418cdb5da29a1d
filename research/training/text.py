"""A tokenizer of whole words and a small text encoder of the T5 kind, for captions of few words."""

from __future__ import annotations

import string
from collections.abc import Iterable
from typing import Any

from transformers import T5TokenizerFast


def unigram(words: Iterable[str], tokens: int) -> T5TokenizerFast:
    """Unigram model with one piece per word; unknown words fall back to letters.

    Args:
        words: of the captions.
        tokens: the most of a prompt.
    """
    letters = [*string.ascii_lowercase, ","]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -12.0)]
    pieces += [(f"\u2581{word}", -4.0) for word in words if word != ","]
    pieces += [(letter, -10.0 if letter != "," else -4.0) for letter in letters]
    return T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=tokens)


def small_encoder(tokenizer: T5TokenizerFast, width: int) -> dict[str, Any]:
    """The configuration of a text encoder of two layers, for `T5Config` and `UMT5Config`."""
    return {
        "vocab_size": len(tokenizer),
        "d_model": width,
        "d_kv": 32,
        "d_ff": 2 * width,
        "num_layers": 2,
        "num_heads": 4,
        "relative_attention_num_buckets": 16,
        "relative_attention_max_distance": 16,
        "dropout_rate": 0.0,
        "feed_forward_proj": "gated-gelu",
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
