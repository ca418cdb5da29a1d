"""A repository of plans as files: the manifest, a folder for each plan, the card, the profile; and their upload."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import skipcast
from skipcast.checkpoint import write_folder
from skipcast.checks import Checked, shown
from skipcast.hub.card import Card
from skipcast.hub.manifest import CARD, MANIFEST, File, Listed, Manifest
from skipcast.pipelines.plan_levels import mu_of
from skipcast.pipelines.plan_scheduler import PlanScheduler
from skipcast.plans.plan import Plan
from skipcast.plans.profile import Profile
from skipcast.reading import read_regular, sealed_text

PLAN_FILE, SCHEDULER_FILE, PROFILE = "plan.json", "scheduler_config.json", ".profile.safetensors"
SUFFIX = ".plan.json"
#: What an upload removes where it is not among the new files: plans that the manifest no longer lists.
OURS = (f"*/{PLAN_FILE}", f"*/{SCHEDULER_FILE}", f"*{PROFILE}", "grid.*")
_GRIDS = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Publication(Checked):
    """What is to be published; its words are left out unless they are asked for.

    Args:
        repo: owner/name on the hub.
        plans: by the names of their files, without the ending.
        base_model: the hub id of the model that was recorded; "" takes it from the plans.
        profile: from which others solve plans of other budgets.
        prompts: publish the recorded prompts, seeds and states of the profile, and texts such as negative prompts.
        measured: a Markdown table for the card.
        grid: name and content of an image of samples for the card.
        license: of the plans.
        pipeline_tag: of the card; by default that of the recorded pipeline.
    """

    repo: str
    plans: Mapping[str, Plan]
    base_model: str = ""
    profile: Profile | None = None
    prompts: bool = False
    measured: str = ""
    grid: tuple[str, bytes] | None = None
    license: str = ""
    pipeline_tag: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", self.repo) or re.search(r"--|\.\.", self.repo):
            raise ValueError(f"--repo {shown(self.repo)} must be owner/name on the hub, such as me/FLUX.1-dev-plans.")
        if not self.plans:
            raise ValueError(f"there is no plan to publish: no file *{SUFFIX} was given.")
        self._check_one_model()
        if self.grid is not None and Path(self.grid[0]).suffix.lower() not in _GRIDS:
            raise ValueError(f"--grid {self.grid[0]} must be an image: {', '.join(_GRIDS)}.")

    def _check_one_model(self) -> None:
        """Refuse plans of several models, and a base model that is not theirs."""
        (first, one), *others = self.plans.items()
        for name, plan in others:
            for what in ("scheduler", "model", "revision", "fingerprint"):
                a, b = getattr(one.origin, what), getattr(plan.origin, what)
                if a and b and a != b:
                    raise ValueError(
                        f"{first} was made for {what} {shown(a)}, {name} for {shown(b)}: a repository holds the plans "
                        "of one model; publish them into two."
                    )
        recorded = next((plan.origin.model for plan in self.plans.values() if plan.origin.model), "")
        if not (self.base_model or recorded):
            raise ValueError(
                "these plans do not say which model of the hub they were recorded from; give it with --base-model, "
                "such as black-forest-labs/FLUX.1-dev."
            )
        if recorded and self.base_model not in ("", recorded):
            raise ValueError(
                f"--base-model {self.base_model}: these plans were recorded from {recorded}; leave it out."
            )
        object.__setattr__(self, "base_model", self.base_model or recorded)
        given = self.profile and (self.profile.origin, one.origin)
        if given and any(getattr(given[0], what) != getattr(given[1], what) for what in ("scheduler", "revision")):
            raise ValueError("--profile is of another model than the plans; give the one that they were solved from.")

    def files(self) -> dict[str, bytes]:
        """Everything by its path in the repository.

        Raises:
            ValueError: a plan whose scheduler the installed diffusers does not have.
        """
        files: dict[str, bytes] = {}

        def added(path: str, content: bytes) -> File:
            files[path] = content
            return File(path, hashlib.sha256(content).hexdigest())

        listed, chosen = [], {}
        for name, plan in named(self.plans).items():
            plan.whole(f"publish, for {name},")  # other engines load what is published
            public = plan if self.prompts else replace(plan, origin=plan.origin.public())
            chosen[name], scheduler = public, None
            file = added(f"{name}/{PLAN_FILE}", sealed_text(public.as_dict()))
            if plan.origin.scheduler:
                text = PlanScheduler(public).to_json_string()
                scheduler = added(f"{name}/{SCHEDULER_FILE}", text.encode())
            listed.append(Listed.of(name, public, file, scheduler, mu_of(public)))
        profile = None
        if self.profile is not None:
            given = self.profile if self.prompts else self.profile.public()
            profile = added(f"{given.origin.reference}{PROFILE}", given.as_bytes())
        manifest = Manifest(self.base_model, tuple(listed), profile, skipcast.__version__)
        added(MANIFEST, manifest.as_bytes())
        grid = ""
        if self.grid is not None:
            grid = f"grid{Path(self.grid[0]).suffix.lower()}"
            added(grid, self.grid[1])
        card = Card(self.repo, manifest, chosen, self.measured, grid, self.license, self.pipeline_tag, self.prompts)
        added(CARD, card.text().encode())
        return files


def named(plans: Mapping[str, Plan]) -> dict[str, Plan]:
    """Plans by the names of their folders: the evaluations, unless several have as many; else the names of their files.

    Those of a converged reference are told apart by their files' names too.
    """
    counts = [plan.evaluations for plan in plans.values() if plan.origin.reference == "default"]

    def name(file: str, plan: Plan) -> str:
        alone = plan.origin.reference == "default" and counts.count(plan.evaluations) == 1
        return str(plan.evaluations) if alone else file

    found = {name(file, plan): plan for file, plan in plans.items()}
    if len(found) < len(plans):  # a file is called by the evaluations of another plan
        return dict(plans)
    ordered = sorted(found.items(), key=lambda item: (item[1].origin.reference != "default", item[1].evaluations))
    return dict(ordered)


def read_plans(sources: Sequence[Path]) -> dict[str, Plan]:
    """The plans of files and of folders, by the names of their files.

    Plans of passes in a folder are left out, since what loads from the hub runs whole evaluations alone.

    Raises:
        FileNotFoundError, ValueError: a file is missing or none, a folder holds none, or two have one name.
    """
    found: dict[str, Plan] = {}
    for source in sources:
        files = sorted(source.glob(f"*{SUFFIX}")) if source.is_dir() else [source]
        if not files:
            raise ValueError(f"{source} holds no plan, a file that ends in {SUFFIX}; make one with `skipcast plan`.")
        for file in files:
            name = re.sub(r"[^A-Za-z0-9._-]+", "-", file.name.removesuffix(SUFFIX)).strip("-._") or "plan"
            if name in found:
                raise ValueError(f"{file} has the name of another plan, {name}; rename one of the two.")
            plan = Plan.load(file)
            if plan.branches and source.is_dir():
                continue
            found[name] = plan
        if not found:
            raise ValueError(f"{source} holds plans of passes alone, which cannot be published; solve others.")
    return found


def check_target(folder: Path) -> None:
    """Refuse, before any work is done, a folder that is there and holds no plans.

    Raises:
        ValueError: names it and the cure.
    """
    if folder.exists() and not (folder / MANIFEST).is_file():
        raise ValueError(f"{folder} is there already and holds something else; remove it, or give another --out.")


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a repository whole or not at all; one of exactly these files, as a dry run has left it, stays.

    Raises:
        ValueError: the folder holds other files.
    """
    if not folder.exists():
        write_folder(folder, files)
        return
    there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not path.is_dir()}
    same = there.keys() == files.keys() and all(
        there[name].stat().st_size == len(content) and read_regular(there[name], len(content)) == content
        for name, content in files.items()
    )
    if not same:
        raise ValueError(f"{folder} is there already and holds other plans; remove it, or give another --out.")


def upload(folder: Path, repo: str, *, private: bool = False, branch: str | None = None, tag: str | None = None) -> str:
    """Put a folder of plans on the hub, in one commit, and return its address.

    Plans that are there and not in the folder are removed in that commit; other files stay.

    Args:
        folder: as `Publication.files` and `write_folder` made it.
        repo: owner/name, made where there is none.
        private: make it one that only its owner sees.
        branch: to commit to, made where there is none; main by default.
        tag: of the commit.

    Raises:
        ValueError: the repository holds something else than plans, the tag is there already, or the hub refuses.
    """
    from huggingface_hub import HfApi

    api = HfApi(library_name="skipcast", library_version=skipcast.__version__)
    try:
        if api.repo_exists(repo) and _is_of_others(api, repo):
            raise ValueError(f"{repo} is there already and holds something else than plans; give another --repo.")
        if tag is not None and api.repo_exists(repo) and tag in {each.name for each in api.list_repo_refs(repo).tags}:
            raise ValueError(f"--tag {tag} is there already in {repo}, and tags are not moved; give the next one.")
        api.create_repo(repo, private=private, exist_ok=True)
        if branch is not None:
            api.create_branch(repo, branch=branch, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            commit_message="Plans of skipcast",
            revision=branch,
            delete_patterns=list(OURS),
        )
        if tag is not None:
            api.create_tag(repo, tag=tag, revision=done.oid)
    except ValueError:
        raise
    except Exception as error:  # each of its own kind, some of which are no errors of the system
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{repo} could not be published ({reason:.400}); the files are in {folder}. Log in with `hf auth login` "
            "and give the command again."
        ) from error
    return str(done.commit_url)


def _is_of_others(api: Any, repo: str) -> bool:
    """Whether a repository holds anything and no plans."""
    files = set(api.list_repo_files(repo)) - {".gitattributes", CARD}
    return bool(files) and MANIFEST not in files
