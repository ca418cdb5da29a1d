"""Tokenizers: every caption fits, words stay whole for T5, and both survive saving."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from transformers import CLIPTokenizer, T5TokenizerFast

from research.shapes_flux.text import CLIP_TOKENS, TEXT_TOKENS, build_clip_tokenizer, build_t5_tokenizer, words
from skipcast.models.scenes import COLOURS, SHAPES, SIZES, TEXTURES, caption


def lines() -> list[str]:
    axes = itertools.product(SHAPES, COLOURS, SIZES, ("orange", "white"), (None, *TEXTURES), range(4))
    return [caption(*choice) for choice in axes]


CLIP, T5 = build_clip_tokenizer(), build_t5_tokenizer()


def test_every_caption_fits() -> None:
    assert max(map(len, T5(lines())["input_ids"])) <= TEXT_TOKENS
    assert max(map(len, CLIP(lines())["input_ids"])) <= CLIP_TOKENS


def test_words_are_single_tokens_of_t5() -> None:
    for line in lines()[::7]:
        assert len(T5.tokenize(line)) == len(re.findall(r"[a-z]+|,", line))
    assert T5.unk_token_id not in T5("an elephant")["input_ids"]  # unknown words fall back to letters


def test_tokenizers_survive_saving(tmp_path: Path) -> None:
    CLIP.save_pretrained(tmp_path / "clip")
    T5.save_pretrained(tmp_path / "t5")
    line = "a small dotted purple hexagon on an orange background"
    assert CLIPTokenizer.from_pretrained(tmp_path / "clip")(line) == CLIP(line)
    assert T5TokenizerFast.from_pretrained(tmp_path / "t5")(line)["input_ids"] == T5(line)["input_ids"]
    assert T5.model_max_length == TEXT_TOKENS
    assert "crescent" in words()
