"""Held-out prompts: fixed, half of the drawn ones never trained, and none of them ever recorded."""

from __future__ import annotations

from pathlib import Path

from research.plans.captions import DRAWN, FILE, OF_RECORD, held_out, of_record, recorded
from skipcast.bench.prompts import SHAPES_CALIBRATION, SHAPES_PROMPTS, prompts_to_record
from skipcast.models.load import Model
from skipcast.models.scenes import COLOURS, HELD_OUT, SHAPES, read_caption
from skipcast.models.worlds import STILLS

ROOT = Path(__file__).parents[3]


def of_the_file() -> tuple[str, ...]:
    return tuple((ROOT / FILE).read_text().splitlines())


def shipped_recordings() -> tuple[str, ...]:
    return prompts_to_record(Model("shapes-flux", None, world=STILLS), 200)


def test_the_file_is_what_the_seed_draws() -> None:
    further = (ROOT / "docs/results/prompts.txt").read_text().splitlines()
    assert of_the_file() == held_out(further, shipped_recordings())
    assert of_the_file()[:4] == SHAPES_PROMPTS
    assert len(set(of_the_file())) == 16


def test_half_of_the_drawn_prompts_were_never_trained() -> None:
    requested = [read_caption(prompt) for prompt in of_the_file()[-DRAWN:]]
    unseen = [(SHAPES[found["shape"]], COLOURS[found["colour"]]) in HELD_OUT for found in requested]
    assert sum(unseen) == DRAWN // 2


def test_no_held_out_prompt_is_recorded() -> None:
    held = set(of_the_file())
    assert not held & {*shipped_recordings(), *SHAPES_CALIBRATION}
    draws = [recorded(16, draw, held) for draw in range(4)]
    assert all(len(set(found)) == 16 and not held & set(found) for found in draws)
    assert len({found[0] for found in draws}) == 4
    assert recorded(4, 0, held) == draws[0][:4]


def test_the_benchmark_of_record_has_64_prompts_of_its_own() -> None:
    found = tuple((ROOT / "research/specs/prompts-64.txt").read_text().splitlines())
    assert found == of_record(of_the_file(), shipped_recordings())
    assert len(set(found)) == OF_RECORD == 64
    assert not set(found) & {*shipped_recordings(), *SHAPES_CALIBRATION}
