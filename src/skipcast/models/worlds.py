"""What the reference models draw, and how comparisons ask them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skipcast.methods.families import read_index
from skipcast.models import clips, scenes


@dataclass(frozen=True)
class World:
    """The images or clips of a reference model, its prompts, and the arguments that its figures are made with.

    Args:
        name: of the reference model.
        pipeline: the class of diffusers, by which a folder is known.
        family: of its network, as methods are set.
        call: arguments of the calls of its card and of all comparisons.
        prompts: of a comparison that names none.
        calibration: prompts for finding thresholds; never among those compared, or methods that decide by values would
            be tuned on them.
        captions: random captions, without the combinations that training never showed.
    """

    name: str
    pipeline: str
    family: str
    call: Mapping[str, Any]
    prompts: tuple[str, ...]
    calibration: tuple[str, ...]
    captions: Callable[[int, np.random.Generator], list[str]]


def _captions_of_stills(count: int, rng: np.random.Generator) -> list[str]:
    return scenes.captions(scenes.sample_scene(count, rng), rng)


def _captions_of_clips(count: int, rng: np.random.Generator) -> list[str]:
    return clips.captions(clips.sample_clip(count, rng), rng)


STILLS = World(
    name="shapes-flux",
    pipeline="FluxPipeline",
    family="flux",
    call={"true_cfg_scale": 2.0, "negative_prompt": ""},
    prompts=(
        "a large striped red star on a blue background",
        "a small plain white crescent on a purple background",
        "a green ring on an orange background, large and dotted",
        "large plain blue heart, yellow background",  # a combination that training never showed
    ),
    calibration=(
        "a small dotted orange square on a green background",
        "large striped purple triangle, white background",
        "on a black background, a small plain yellow ring",
        "a blue hexagon on a red background, large",
        "a small striped black cross on an orange background",
        "on a yellow background, a large dotted green circle",
    ),
    captions=_captions_of_stills,
)
CLIPS = World(
    name="shapes-wan",
    pipeline="WanPipeline",
    family="wan",
    call={"guidance_scale": 3.0, "negative_prompt": ""},
    prompts=(
        "a red star moves left quickly on a blue background",
        "on a purple background, a white crescent slowly turns",
        "a green circle on an orange background quickly bounces",
        "a yellow triangle grows slowly on a black background",  # a combination that training never showed
    ),
    calibration=(
        "an orange square moves up slowly on a green background",
        "on a white background, a purple hexagon quickly shrinks",
        "a yellow ring on a black background slowly moves right",
        "a blue diamond turns quickly on a red background",
        "on an orange background, a black cross slowly bounces",
        "a green heart on a yellow background quickly grows",
    ),
    captions=_captions_of_clips,
)
WORLDS = {world.name: world for world in (STILLS, CLIPS)}


def world_in(folder: Path) -> World | None:
    """The world of the reference model in a folder, told by its judge and its class; None for any other pipeline.

    Raises:
        ValueError: the folder does not describe a pipeline.
    """
    if not (folder / "judge.safetensors").exists():
        return None
    named = read_index(folder).get("_class_name")
    return next((world for world in WORLDS.values() if world.pipeline == named), None)
