"""Tokenizer and text encoder of `shapes-wan`: UMT5 of tiny configuration over the words of its captions."""

from __future__ import annotations

import re

from transformers import T5TokenizerFast, UMT5Config, UMT5EncoderModel

from research.training.text import small_encoder, unigram
from skipcast.models.clips import MOTIONS, SPEEDS, caption
from skipcast.models.pipeline import CLIP_TEXT_TOKENS
from skipcast.models.scenes import COLOURS, SHAPES

WIDTH = 128


def words() -> list[str]:
    """Every word and punctuation mark that a caption can hold, sorted."""
    axes = [(shape, "red", "blue", "up", "slow") for shape in SHAPES]
    axes += [("star", one, other, "up", "slow") for one in COLOURS for other in COLOURS]
    axes += [("star", "red", "blue", motion, speed) for motion in MOTIONS for speed in SPEEDS]
    lines = [caption(*axis, template) for axis in axes for template in range(3)]
    return sorted(set(re.findall(r"[a-z]+|,", " ".join(lines))))


def build_tokenizer() -> T5TokenizerFast:
    return unigram(words(), CLIP_TEXT_TOKENS)


def build_text_encoder(tokenizer: T5TokenizerFast) -> UMT5EncoderModel:
    return UMT5EncoderModel(UMT5Config(**small_encoder(tokenizer, WIDTH)))
