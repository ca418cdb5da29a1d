"""A tokenizer of whole words, for captions of few words."""

from __future__ import annotations

import string
from collections.abc import Iterable

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
