"""Repositories of plans read from: a folder, or the hub at one commit; every file of bounded size and known digest."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from skipcast.checks import shown
from skipcast.hub.manifest import MANIFEST, MOST_BYTES, File, Listed, Manifest
from skipcast.plans.plan import MOST_BYTES as MOST_OF_A_PLAN
from skipcast.plans.plan import Plan, Reference
from skipcast.reading import parse_json, read_regular

_COMMIT = re.compile(r"[0-9a-f]{40}")
_OF_A_PLAN = "it is a repository of plans if `skipcast publish` made it"


@dataclass(frozen=True)
class Repository:
    """The files of a repository.

    Args:
        name: owner/name, or the folder as it was given.
        commit: on the hub; None for a folder.
        cached: read what is in the hub's cache alone.
    """

    name: str
    commit: str | None = None
    cached: bool = False

    @functools.cached_property
    def manifest(self) -> Manifest:
        """What is in it.

        Raises:
            ValueError: no manifest, or one that is none; names the repository.
        """
        try:
            return Manifest.from_bytes(self.read(MANIFEST, MOST_BYTES))
        except (OSError, ValueError) as error:
            raise ValueError(f"{shown(self.name)[1:-1]}: {error}") from error

    def plan(self, listed: Listed) -> Plan:
        """One of its plans, which is proved to be the one that the manifest tells of.

        Raises:
            ValueError: its file is missing, changed or none.
        """
        try:
            plan = Plan.from_dict(parse_json(self.content(listed.plan, MOST_OF_A_PLAN)))
            listed.check(plan)
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.name}, {listed.plan.path}: {error}") from error
        return plan

    def content(self, file: File, most: int) -> bytes:
        """What a file of the manifest holds.

        Raises:
            ValueError: it is missing, too large, or not what the manifest says.
        """
        content = self.read(file.path, most)
        if hashlib.sha256(content).hexdigest() != file.sha256:
            raise ValueError(f"it is not what {MANIFEST} says (its sha256 differs); fetch both again")
        return content

    def read(self, path: str, most: int) -> bytes:
        """A file of at most so many bytes."""
        if self.commit is not None:
            return read_regular(fetched(self.name, path, self.commit, most, cached=self.cached), most)
        folder = os.path.realpath(self.name)
        place = os.path.realpath(os.path.join(folder, path))
        if os.path.commonpath([folder, place]) != folder:  # by a link
            raise ValueError(f"{path} leads out of the folder")
        return read_regular(place, most, f"no {path}; {_OF_A_PLAN}")


def repository(name: str, revision: str | None = None) -> Repository:
    """A folder, or a repository of the hub at the commit that a revision stands for now.

    Args:
        name: of a folder that is there, or owner/name.
        revision: a branch, a tag or a commit; the main branch by default.

    Raises:
        ValueError: it is neither, or cannot be had.
    """
    if os.path.isdir(name):
        if revision is not None:
            raise ValueError(f"revision={revision!r:.100} is of a hub id, and {name} is a folder; leave it out.")
        return Repository(name)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        raise ValueError(f"{shown(name)} is neither a folder nor a hub id of the form owner/name.")
    manifest = fetched(name, MANIFEST, revision, MOST_BYTES)
    return Repository(name, manifest.parent.name)  # the cache calls the folder by the commit


def fetched(name: str, path: str, revision: str | None, most: int, *, cached: bool = False) -> Path:
    """The file of a repository in the hub's cache, fetched where it is not there and not larger than `most` bytes.

    Raises:
        ValueError: it cannot be had, or is larger.
        ImportError: huggingface_hub is missing.
    """
    try:
        import huggingface_hub
        from huggingface_hub import constants
    except ModuleNotFoundError as error:
        raise ImportError('what is on the hub needs huggingface_hub; run: pip install "skipcast[diffusers]"') from error
    cached, size = cached or bool(constants.HF_HUB_OFFLINE), None
    if not cached and revision is not None and _COMMIT.fullmatch(revision):
        with suppress(Exception):  # of a commit that is in the cache there is nothing newer
            return Path(huggingface_hub.hf_hub_download(name, path, revision=revision, local_files_only=True))
    if not cached:
        with suppress(Exception):  # as without a connection: what is in the cache may do
            url = huggingface_hub.hf_hub_url(name, path, revision=revision)
            size = huggingface_hub.get_hf_file_metadata(url).size
    if size is not None and size > most:
        raise ValueError(f"{name}: {path} has {size} bytes, more than the {most} that such a file may have.")
    try:
        return Path(huggingface_hub.hf_hub_download(name, path, revision=revision, local_files_only=cached))
    except Exception as error:  # each of its own kind, some of which are no errors of the system
        at = f" at revision {revision!r:.100}" if revision else ""
        reason = " ".join(str(error).split())
        cure = "it is not in the hub's cache, and the hub is not asked" if cached else _OF_A_PLAN
        raise ValueError(f"no {path} in {name}{at} ({cure}): {reason:.300}") from error


def plan_from_hub(
    repo: str, evaluations: int | None, reference: Reference, name: str | None, revision: str | None
) -> Plan:
    """The plan that `Plan.from_hub` means."""
    found = repository(repo, revision)
    try:
        listed = found.manifest.chosen(evaluations, reference, name)
    except ValueError as error:
        raise ValueError(f"Plan.from_hub({repo!r:.200}): {error}") from error
    return found.plan(listed)


def cached_repositories() -> Iterator[Repository]:
    """Those with a manifest in the hub's cache, at every commit that is there."""
    try:
        from huggingface_hub import constants
    except ModuleNotFoundError:  # nothing can be in its cache
        return
    for manifest in sorted(Path(constants.HF_HUB_CACHE).glob(f"models--*--*/snapshots/*/{MANIFEST}")):
        owner, _, name = manifest.parents[2].name.removeprefix("models--").partition("--")
        yield Repository(f"{owner}/{name}", manifest.parent.name, cached=True)
