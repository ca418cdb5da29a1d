"""Load a pipeline by reference name, local folder or hub id."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError

from skipcast.checks import guarded, shown
from skipcast.methods.families import INDEX, named_family, read_index
from skipcast.models.worlds import WORLDS, World, world_in
from skipcast.reading import open_regular, parse_json, why

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from skipcast.models.judge import ClipJudge, Judge

REFERENCES = tuple(WORLDS)
#: What diffusers and transformers raise of a folder that holds something else than they expect.
_OF_A_FOLDER = (AttributeError, LookupError, OSError, RecursionError, SafetensorError, TypeError, ValueError)
_MOST_OF_A_HEAD = 100_000_000  # bytes; safetensors has the same limit


@dataclass(frozen=True)
class Model:
    """A loaded pipeline with what a comparison needs to know of it.

    Args:
        name: as the user gave it.
        pipe: the pipeline.
        judge: reads attributes off images or clips; only reference models have one.
        call: default arguments of a call, such as the guidance.
        revision: what identifies the weights, if known.
        world: of a reference model, its prompts and captions.
    """

    name: str
    pipe: DiffusionPipeline
    judge: Judge | ClipJudge | None = None
    call: Mapping[str, Any] = field(default_factory=dict)
    revision: str | None = None
    world: World | None = None


def reference_folder(name: str) -> Path:
    """The folder of a shipped reference model.

    Raises:
        ValueError: no such model, or its weights are not in this installation.
    """
    if name not in REFERENCES:
        raise ValueError(f"unknown reference model {shown(name)}; known: {', '.join(REFERENCES)}.")
    folder = data_folder() / "weights" / name
    if not (folder / "model_index.json").exists():
        make = "make reference" if name == REFERENCES[0] else "make reference-wan"
        raise ValueError(f"the weights of {name!r} are missing from this installation; run `{make}` to train them.")
    return folder


def data_folder() -> Path:
    """The folder of the distribution `skipcast-models`, which holds what reference models learned.

    Raises:
        ImportError: it is not installed.
    """
    try:
        from skipcast_models import FOLDER
    except ModuleNotFoundError as error:
        raise ImportError('reference models are data of their own; run: pip install "skipcast[models]"') from error
    return FOLDER


@guarded()
def load_reference(name: str = "shapes-flux", dtype: torch.dtype | None = None) -> DiffusionPipeline:
    """A small trained pipeline that ships with the package, ready on the CPU.

    Args:
        name: "shapes-flux", a `FluxPipeline` of 64x64 images, or "shapes-wan", a `WanPipeline` of nine 48x48 frames.
        dtype: of the weights; float32 by default.

    Raises:
        ValueError: unknown name, or weights not installed.
    """
    _need_transformers()
    from skipcast.models.pipeline import load_folder

    return load_folder(reference_folder(name), dtype or torch.float32)


@guarded()
def load_model(
    model: str, dtype: torch.dtype | None = None, *, offload: bool = False, revision: str | None = None
) -> Model:
    """A reference name, a local folder or a hub id, as a `Model`.

    Args:
        model: reference models stay on the CPU, others go to a GPU where there is one.
        dtype: of the weights; float32 on the CPU and bfloat16 on a GPU by default.
        offload: keep on the GPU only the part of the model that is at work.
        revision: of a hub id, a branch, a tag or a commit; its main branch by default.

    Raises:
        ValueError: none of the three can be loaded; says what was tried. Its weights are pickled. Or a revision of what
            is no hub id.
        ImportError: transformers is missing.
    """
    _need_transformers()
    from diffusers import DiffusionPipeline

    from skipcast.models.pipeline import load_folder, load_judge

    folder = folder_of(model)
    if revision is not None and folder:
        raise ValueError(f"revision={revision!r} is of a hub id, and {model} is a folder; leave it out.")
    if folder:
        check_weights(folder)
        if (folder / INDEX).exists():
            read_index(folder)
    if folder and (world := world_in(folder)):
        pipe = load_folder(folder, dtype or torch.float32)
        return Model(model, pipe, load_judge(folder), world.call, weights_hash(folder), world)
    gpu = torch.cuda.is_available()
    try:
        chosen = dtype or (torch.bfloat16 if gpu else torch.float32)
        pipe = DiffusionPipeline.from_pretrained(
            model, torch_dtype=chosen, revision=revision, local_files_only=hub_is_closed(), use_safetensors=True
        )
    except _OF_A_FOLDER as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"could not load {model!r:.300} as a diffusers pipeline with safetensors weights: {reason:.600}"
        ) from error
    if gpu and offload:
        pipe.enable_model_cpu_offload()
    elif gpu:
        pipe.to("cuda")
    pipe.set_progress_bar_config(disable=True)
    return Model(model, pipe, revision=weights_hash(folder) if folder else revision)


def folder_of(model: str) -> Path | None:
    """The folder of a reference model, or the folder that is named; None for a hub id.

    Raises:
        ValueError: it is none of the three, or the weights of the reference model are not in this installation.
    """
    folder = reference_folder(model) if model in REFERENCES else Path(model)
    if os.path.exists(folder):
        return folder
    if model.count("/") != 1 or model.startswith((".", "/")):
        raise ValueError(
            f"no model {model!r:.300}: it is neither a reference model ({', '.join(REFERENCES)}), nor a folder, "
            "nor a hub id of the form owner/name."
        )
    return None


def family_at(model: str) -> str | None:
    """The family of the network of a reference name, a folder or a hub id, by its description; nothing is loaded.

    None where it is not known.

    Raises:
        ValueError: as `folder_of` and `hub_folder`.
    """
    folder = folder_of(model) or hub_folder(model)
    return named_family(str(folder)) if (folder / INDEX).is_file() else None


def hub_folder(name: str, revision: str | None = None) -> Path:
    """The folder of a model of the hub in the user's cache; it is called by the commit.

    What the cache holds is taken as it stands there. For what it does not hold the hub is queried, unless that is
    forbidden by HF_HUB_OFFLINE; then only the description of the pipeline is fetched.

    Args:
        name: owner/name.
        revision: a branch, a tag or a commit; the main branch by default.

    Raises:
        ValueError: it is not in the cache and cannot be had.
    """
    from huggingface_hub import constants, hf_hub_download

    for local in (True, False):
        try:
            found = hf_hub_download(name, "model_index.json", revision=revision, local_files_only=local)
            return Path(found).parent
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
    at, option = (f" at revision {revision!r}", f" --revision {revision}") if revision else ("", "")
    cure = f"download it with `hf download {name}{option}`, or give a folder"
    raise ValueError(f"no model {name!r}{at} in the hub's cache, {constants.HF_HUB_CACHE}; {cure}. ({reason})")


def hub_is_closed() -> bool:
    """Whether the hub must not be queried, so that nothing comes but what the cache holds."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def draws_videos(folder: Path) -> bool:
    """Whether the pipeline of a folder makes videos: its class of diffusers then returns frames."""
    import diffusers
    from diffusers.utils import BaseOutput

    named = read_index(folder).get("_class_name")
    kind = getattr(diffusers, named, None) if isinstance(named, str) else None
    if not isinstance(kind, type):  # of another package: known once it has drawn
        return False
    outputs = vars(sys.modules[kind.__module__]).values()
    return any(
        inspect.isclass(found) and issubclass(found, BaseOutput) and "frames" in found.__annotations__
        for found in outputs
    )


def check_weights(folder: Path) -> None:
    """Refuse a pipeline of which a part has weights only in a form that may hold more than numbers.

    Raises:
        ValueError: names the part and the cure.
    """
    for config in sorted(folder.glob("*/config.json")):
        suffixes = {file.suffix for file in config.parent.iterdir()}
        if ".safetensors" not in suffixes and suffixes & {".bin", ".pt", ".pth", ".ckpt"}:
            raise ValueError(
                f"the weights of {config.parent} are pickled, and reading such a file may run code in it; load the "
                "pipeline with diffusers where you trust it, and save it again by save_pretrained() as safetensors."
            )


def weights_hash(folder: Path) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of all weights of a folder.

    They are those of its .safetensors files; a part in several files counts as if `save_pretrained` had put it in one.

    Raises:
        ValueError: a file is broken, or `check_weights` refuses the folder.
    """
    check_weights(folder)
    parts: dict[Path, list[Path]] = {}
    for path in sorted(folder.rglob("*.safetensors")):
        parts.setdefault(path.parent, []).append(path)
    digest = hashlib.sha256()
    for paths in parts.values():
        for piece in _joined(paths) if len(paths) > 1 else _pieces(paths[0]):
            digest.update(piece)
    return digest.hexdigest()[:12]


#: The kinds of numbers in the order of safetensors' files, the last ones first.
_KINDS = ("BOOL", "F4", "F6_E2M3", "F6_E3M2", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "I16", "U16", "F16", "BF16",
          "I32", "U32", "F32", "C64", "F64", "I64", "U64")  # fmt: skip


def _pieces(path: Path, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    """The bytes of a file; weights may be larger than the memory."""
    with open_regular(path) as file:
        file.seek(start)
        left = os.fstat(file.fileno()).st_size - start if end is None else end - start
        while left > 0 and (part := file.read(min(left, 1 << 24))):
            left -= len(part)
            yield part


def _joined(paths: Sequence[Path]) -> Iterator[bytes]:
    """The one file that several would be; where they have a tensor twice, as variants do, one file after the other."""
    tensors: dict[str, _Stored] = {}
    count = 0
    for path in paths:
        with open_regular(path) as file:
            size = int.from_bytes(file.read(8), "little")
            head = file.read(size) if size <= _MOST_OF_A_HEAD else b""
        try:
            for name, about in parse_json(head).items():
                if name != "__metadata__":
                    start, end = about["data_offsets"]
                    kind, shape, length = _KINDS.index(about["dtype"]), list(about["shape"]), int(end - start)
                    tensors[name] = _Stored(path, 8 + size + start, kind, shape, length)
                    count += 1
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no file of weights: {why(error)}; fetch it again.") from error
    if count != len(tensors):
        for path in paths:
            yield from _pieces(path)
        return
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    order, place = sorted(tensors, key=lambda name: (-tensors[name].kind, name)), 0
    for name in order:
        one = tensors[name]
        offsets = [place, place := place + one.length]
        header[name] = {"dtype": _KINDS[one.kind], "shape": one.shape, "data_offsets": offsets}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in order:
        one = tensors[name]
        yield from _pieces(one.path, one.start, one.start + one.length)


class _Stored(NamedTuple):
    """Where a tensor lies in the files of a part."""

    path: Path
    start: int
    kind: int
    shape: list[int]
    length: int


def _need_transformers() -> None:
    if importlib.util.find_spec("transformers") is None:
        raise ImportError('pipelines with text encoders need transformers; run: pip install "skipcast[models]"')
