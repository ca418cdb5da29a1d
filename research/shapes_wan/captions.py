"""The prompts of the benchmark of videos: `python -m research.shapes_wan.captions` prints its file."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from skipcast.models.clips import captions, sample_clip
from skipcast.models.worlds import CLIPS

USUAL, UNSEEN = 9, 3  # drawn, besides the four that every comparison draws
_SEED = 28


def of_benchmark(recorded: Collection[str] = ()) -> tuple[str, ...]:
    """The prompts of comparisons, and as many drawn as make 16, of which three ask for what training never showed.

    Args:
        recorded: captions that plans are recorded on, which must not come.
    """
    found = list(CLIPS.prompts)
    without = {*CLIPS.calibration, *recorded}
    for count, held_out in ((USUAL, False), (UNSEEN, True)):
        rng, goal = np.random.default_rng([_SEED, int(held_out)]), len(found) + count
        while len(found) < goal:
            (line,) = captions(sample_clip(1, rng, held_out=held_out), rng)
            if line not in found and line not in without:
                found.append(line)
    return tuple(found)


if __name__ == "__main__":
    print(*of_benchmark(), sep="\n")
