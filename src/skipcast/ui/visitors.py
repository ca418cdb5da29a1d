"""What the page keeps of each visitor: plans, the newest pictures, and the jobs under way. Nothing is shared."""

from __future__ import annotations

import shutil
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skipcast.bench.rows import stem
from skipcast.models.shipped import PLAN
from skipcast.plans.plan import Plan

if TYPE_CHECKING:
    from skipcast.ui.jobs import Job
    from skipcast.ui.wishes import Picture


@dataclass
class Visitor:
    """One open page.

    Args:
        folder: where the files of this visitor's plans lie.
        plans: uploaded and solved ones, by the name that the list shows.
        shown: the newest picture of every panel.
        kept: what the newest reference was drawn with, and the reference.
        jobs: what is under way, by kind.
    """

    folder: Path
    plans: dict[str, Plan] = field(default_factory=dict)
    shown: dict[str, Picture] = field(default_factory=dict)
    kept: tuple[Any, Picture] | None = None
    jobs: dict[str, Job] = field(default_factory=dict)

    def add(self, plan: Plan, name: str) -> str:
        """Take a plan in under a name of its own, save it, and return that name."""
        label, number = f"my {name}", 1
        while label in self.plans:
            number += 1
            label = f"my {name}-{number}"
        plan.save(self.folder / f"{label.removeprefix('my ')}{PLAN}")
        self.plans[label] = plan
        return label

    def file(self, label: str) -> Path:
        """The file of a plan."""
        return self.folder / f"{label.removeprefix('my ')}{PLAN}"

    def upload(self, path: str | Path) -> str:
        """Read a plan's file and take it in; returns its name.

        Raises:
            FileNotFoundError, ValueError: the file is no plan.
        """
        try:
            plan = Plan.load(path)
        except ValueError as error:  # without the folder that the upload happens to lie in
            raise ValueError(str(error).replace(str(path), Path(path).name)) from error
        return self.add(plan, stem(path))

    def begin(self, kind: str, job: Job) -> Job:
        """Remember a job; an earlier one of its kind is stopped."""
        self.stop(kind)
        self.jobs[kind] = job
        return job

    def stop(self, kind: str | None = None) -> None:
        """Stop the job of a kind, or all of them."""
        for known, job in list(self.jobs.items()):
            if kind in (None, known):
                job.stop()


class Visitors:
    """Visitors by the identity of their page."""

    def __init__(self) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="skipcast-ui-"))
        self._known: dict[str, Visitor] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._known)

    def __getitem__(self, key: str) -> Visitor:
        with self._lock:
            if key not in self._known:
                self._known[key] = Visitor(Path(tempfile.mkdtemp(dir=self._home)))
            return self._known[key]

    def leave(self, key: str) -> None:
        """Stop what this visitor has under way and forget everything."""
        with self._lock:
            gone = self._known.pop(key, None)
        if gone is not None:
            gone.stop()
            shutil.rmtree(gone.folder, ignore_errors=True)

    def close(self) -> None:
        """Forget all of them, and their files."""
        for key in list(self._known):
            self.leave(key)
        shutil.rmtree(self._home, ignore_errors=True)
