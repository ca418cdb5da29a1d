"""The prompts of the benchmark of videos are what their seed draws, and none of them is recorded or calibrated on."""

from __future__ import annotations

from pathlib import Path

from research.shapes_wan.captions import UNSEEN, of_benchmark
from skipcast.bench.prompts import prompts_to_record
from skipcast.models.clips import HELD_OUT, MOTIONS, read_caption
from skipcast.models.load import Model
from skipcast.models.scenes import SHAPES
from skipcast.models.worlds import CLIPS

FILE = Path(__file__).parents[2] / "research" / "specs" / "prompts-video.txt"


def test_the_file_is_what_the_seed_draws() -> None:
    recorded = prompts_to_record(Model("shapes-wan", None, world=CLIPS), 300)
    found = of_benchmark(recorded)
    assert tuple(FILE.read_text().splitlines()) == found
    assert len(set(found)) == 16
    assert not {*found} & {*recorded, *CLIPS.calibration}
    asked = [read_caption(line) for line in found]
    unseen = [(SHAPES[each["shape"]], MOTIONS[each["motion"]]) in HELD_OUT for each in asked]
    assert unseen[-UNSEEN:] == [True] * UNSEEN
    assert sum(unseen) == UNSEEN + 1  # one of those that every comparison draws
