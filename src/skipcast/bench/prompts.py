"""The prompts of benchmarks and of calibration, and the one reader of files of prompts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from skipcast.models.load import Model
from skipcast.models.worlds import STILLS, WORLDS
from skipcast.reading import read_regular

SHAPES_PROMPTS, SHAPES_CALIBRATION = STILLS.prompts, STILLS.calibration
GENERAL_PROMPTS = (
    "a photograph of a red fox in fresh snow, early morning light",
    "a watercolour of a harbour town with sailing boats",
    "a bowl of ramen on a wooden table, steam rising, close-up",
    "an isometric drawing of a small bookshop at night",
)
GENERAL_CALIBRATION = (
    "a lighthouse on a cliff in a storm",
    "an oil painting of two chess players in a park",
    "a macro photograph of a dragonfly on a reed",
    "a poster of a mountain railway, flat colours",
    "a white kitchen with copper pans and morning sun",
    "an astronaut reading a newspaper on a bench",
)
_MOST_BYTES = 2**26  # of a file of prompts
_RECORDED = 4711  # seed of the captions that a reference model is recorded on


def usual_prompts(world: str | None) -> tuple[str, ...]:
    """The prompts of a comparison that names none: of the world of a reference model, else general ones."""
    return WORLDS[world].prompts if world else GENERAL_PROMPTS


def calibration_prompts(world: str | None) -> tuple[str, ...]:
    """Prompts for finding thresholds; they must not be compared, or what decides by values would be tuned on them."""
    return WORLDS[world].calibration if world else GENERAL_CALIBRATION


def read_prompts(file: Path) -> list[tuple[int, str]]:
    """The lines of a UTF-8 text file that hold a prompt, with their numbers.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not text, no prompt in it, or the same prompt twice; names the line.
    """
    missing = f"prompts {file}: no such file; give a text file with one prompt per line."
    raw = read_regular(file, _MOST_BYTES, missing)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ValueError(f"{file}, line {line}: not UTF-8 text; save it as such.") from error
    found: dict[str, int] = {}
    for line, words in enumerate(text.split("\n"), start=1):
        if not (prompt := words.strip()):
            continue
        if prompt in found:
            raise ValueError(
                f"{file}, line {line}: the prompt of line {found[prompt]} again, which would give the same images; "
                "remove one of them, or use more seeds."
            )
        found[prompt] = line
    if not found:
        raise ValueError(f"prompts {file} holds no prompt; write one per line.")
    return [(line, prompt) for prompt, line in found.items()]


def prompts_to_record(model: Model, count: int) -> tuple[str, ...]:
    """Prompts to profile a model on, always the same and none of those that comparisons draw; more only adds.

    A reference model gets captions of its own world without the held-out combinations, other models the calibration
    prompts over and over, for the seeds differ.
    """
    if (world := model.world) is None:
        return tuple(GENERAL_CALIBRATION[i % len(GENERAL_CALIBRATION)] for i in range(count))
    rng, found = np.random.default_rng(_RECORDED), list[str]()
    while len(found) < count:
        (line,) = world.captions(1, rng)
        if line not in (*world.prompts, *found):
            found.append(line)
    return tuple(found)
