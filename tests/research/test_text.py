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


def test_every_caption_fits() -> None:
    clip, t5 = build_clip_tokenizer(), build_t5_tokenizer()
    assert max(map(len, t5(lines())["input_ids"])) <= TEXT_TOKENS
    assert max(map(len, clip(lines())["input_ids"])) <= CLIP_TOKENS


def test_words_are_single_tokens_of_t5() -> None:
    t5 = build_t5_tokenizer()
    for line in lines()[::7]:
        assert len(t5.tokenize(line)) == len(re.findall(r"[a-z]+|,", line))
    assert t5.unk_token_id not in t5("an elephant")["input_ids"]  # unknown words fall back to letters


def test_tokenizers_survive_saving(tmp_path: Path) -> None:
    clip, t5 = build_clip_tokenizer(), build_t5_tokenizer()
    clip.save_pretrained(tmp_path / "clip")
    t5.save_pretrained(tmp_path / "t5")
    line = "a small dotted purple hexagon on an orange background"
    assert CLIPTokenizer.from_pretrained(tmp_path / "clip")(line) == clip(line)
    assert T5TokenizerFast.from_pretrained(tmp_path / "t5")(line)["input_ids"] == t5(line)["input_ids"]
    assert t5.model_max_length == TEXT_TOKENS
    assert "crescent" in words()
