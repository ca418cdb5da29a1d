"""What authors set on other families of networks than the one that a method's own defaults are for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skipcast.checks import shown
from skipcast.reading import read_object

INDEX = "model_index.json"  # of a pipeline's folder

#: The family of a network, by the name of its class or of one that it derives from.
FAMILIES: dict[str, str] = {
    "FluxTransformer2DModel": "flux",
    "HunyuanVideoTransformer3DModel": "hunyuan-video",
    "WanTransformer3DModel": "wan",
    "DiTTransformer2DModel": "dit",
    "QwenImageTransformer2DModel": "qwen-image",
    "ZImageTransformer2DModel": "z-image",
    "MochiTransformer3DModel": "mochi",
    "Lumina2Transformer2DModel": "lumina2",
    "LTXVideoTransformer3DModel": "ltx-video",
    "HiDreamImageTransformer2DModel": "hidream",
    "CogVideoXTransformer3DModel": "cogvideox",
}

#: Options by method and family. Where a family is missing the method's defaults stand: those for FLUX.1, as a rule.
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    # Shenyi-Z/TaylorSeer@288776d, cache_init.py of each; DiT by its README.
    "taylorseer": {
        "hunyuan-video": {"warmup": 1, "interval": 5},
        "wan": {"warmup": 1, "interval": 5},
        "dit": {"warmup": 2, "interval": 4, "order": 4},
    },
    # zqc214/ResilPhase@d4afbe9; HunyuanVideo is set as FLUX.1 is.
    "resilphase": {"dit": {"warmup": 2, "interval": 4, "order": 4, "phase": "chebyshev"}},
    # Shenyi-Z/Cache4Diffusion@91a1949, hunyuan_video/speca-hunyuan_video.
    "speca": {
        "hunyuan-video": {
            "base": 1.0, "decay": 0.1, "floor": 0.1, "min_forecasts": 4, "max_forecasts": 12, "warmup": 1,
        },
    },
    # Tammytcl/FreqCa@e0a4bf3, qwen_image. Nothing is published for videos, whose tokens form no square; this one of
    # both transforms runs along any number of tokens.
    "freqca": {
        family: {"transform": "fft"}
        for family in ("qwen-image", "hunyuan-video", "wan", "mochi", "ltx-video", "cogvideox")
    },
    # H-EmbodVis/EasyCache@5127804; no setting for images is published.
    "easycache": {"wan": {"warmup": 10, "threshold": 0.05}, "hunyuan-video": {"warmup": 5, "threshold": 0.025}},
    # ali-vilab/TeaCache@7c10efc, for the families that have one polynomial.
    "teacache": {
        "hunyuan-video": {"polynomial": "hunyuan-video", "threshold": 0.15},
        "mochi": {"polynomial": "mochi", "threshold": 0.09},
        "lumina2": {"polynomial": "lumina2", "threshold": 0.3},
        "ltx-video": {"polynomial": "ltx-video", "threshold": 0.05},
        "hidream": {"polynomial": "hidream", "threshold": 0.3},
    },
    # jiwoogit/SeaCache@0a91c2b; on Wan the latents are filtered, as by diffusers' hook: its first norm is no module.
    "seacache": {
        "hunyuan-video": {"threshold": 0.2, "power": 3.0, "forced": "filtered"},
        "wan": {
            "threshold": 0.25, "power": 3.0, "probe": "input", "order": 1, "max_forecasts": 2, "forced": "filtered",
        },
    },
    # argsss/DPCache@59f08a4.
    "dpcache": {"wan": {"steps": "dpcache-wan-12", "warmup": 4}},
    # UnicomAI/MeanCache@2e12280.
    "meancache": {"z-image": {"steps": "meancache-zimage-15"}},
}  # fmt: skip

#: Settings that a number of evaluations stands instead of.
_COUNTED = ("interval", "growth")


def family_of(network: Any) -> str | None:
    """The family of a network or of its class; None where it is not known, as inside other wrappers than torch's."""
    inner = getattr(network, "_orig_mod", network)
    kind = inner if isinstance(inner, type) else type(inner)
    return next((FAMILIES[base.__name__] for base in kind.__mro__ if base.__name__ in FAMILIES), None)


def named_family(model: str) -> str | None:
    """The family of a model by name: a family, a class of networks, or the folder of a diffusers pipeline.

    None where the class of the folder's network belongs to no family that methods have settings for.

    Raises:
        ValueError: no such name, and no such folder.
    """
    if model in FAMILIES.values():
        return model
    if model in FAMILIES:
        return FAMILIES[model]
    if not os.path.isfile(os.path.join(model, INDEX)):
        known = ", ".join(sorted({*FAMILIES.values(), *FAMILIES}))
        raise ValueError(f"model {shown(model)} is neither the folder of a pipeline nor one of {known}.")
    parts = read_index(Path(model))
    classes = [class_of(parts, part) for part in ("transformer", "unet")]
    return next((FAMILIES[name] for name in classes if name in FAMILIES), None)


def read_index(folder: Path) -> dict[str, Any]:
    """What the `model_index.json` in the folder of a pipeline says.

    Raises:
        FileNotFoundError, ValueError: there is none, or it says nothing.
    """
    return read_object(folder / INDEX, 2**24, "the description of a pipeline")


def class_of(index: Mapping[str, Any], part: str) -> str:
    """The class of a part of a pipeline, such as its scheduler; "" if it names none."""
    named = index.get(part)
    return str(named[1]) if isinstance(named, list) and len(named) == 2 and isinstance(named[1], str) else ""


def settings(name: str, family: str | None, given: Mapping[str, object]) -> dict[str, Any]:
    """The options that a method's authors set on a family, less those that are given."""
    found = SETTINGS.get(name, {}).get(family or "", {})
    counted = _COUNTED if "evaluations" in given else ()
    return {option: value for option, value in found.items() if option not in (*given, *counted)}
