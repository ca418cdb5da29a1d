"""Where plans and profiles lie in ComfyUI: `models/skipcast`, and what else its model paths name for it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

FOLDER = "skipcast"
PLAN, PROFILE = ".plan.json", ".profile.safetensors"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,99}")


def register() -> None:
    """Tell ComfyUI of the folder."""
    import folder_paths

    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))
    paths, _ = folder_paths.folder_names_and_paths[FOLDER]
    # A folder of its own begins without endings, which means all files.
    folder_paths.folder_names_and_paths[FOLDER] = (paths, {".json", ".safetensors"})


def listed(ending: str) -> list[str]:
    """The files of the folder with this ending."""
    import folder_paths

    register()
    return sorted(name for name in folder_paths.get_filename_list(FOLDER) if name.endswith(ending))


def path_of(name: str) -> Path:
    """The path of a listed file.

    Raises:
        FileNotFoundError: it is not there.
    """
    import folder_paths

    register()
    found = folder_paths.get_full_path(FOLDER, name)
    if found is None:
        raise FileNotFoundError(
            f"no file {name!r} in {' or '.join(folder_paths.get_folder_paths(FOLDER))}; put it there and refresh (R)."
        )
    return Path(found)


def new_path(name: str, ending: str) -> Path:
    """Where a file of this name is to be written, in the first of the folders.

    Raises:
        ValueError: a name that is none for a file there.
    """
    import folder_paths

    register()
    stem = name.removesuffix(ending)
    if not _NAME.fullmatch(stem):
        raise ValueError(f"name={name!r} must be letters, digits, spaces and ._- alone, and begin with the former two.")
    folder = Path(folder_paths.get_folder_paths(FOLDER)[0])
    folder.mkdir(parents=True, exist_ok=True)
    return folder / (stem + ending)


def fingerprint(name: Any) -> str:
    """What changes when a listed file does."""
    try:
        found = path_of(str(name)).stat()
    except OSError:
        return ""
    return f"{name} {found.st_mtime_ns} {found.st_size}"
