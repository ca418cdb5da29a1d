"""The shipped plans as a repository of the hub, without a hub."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
from typer.testing import CliRunner

from skipcast.cli import app
from skipcast.models.shipped import plans_folder, shipped_profile
from support.hub import COMMIT, REPO


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `skipcast publish --dry-run` writes of the shipped plans, which every test leaves as it is."""
    out = tmp_path_factory.mktemp("published") / "out"
    source = str(plans_folder() / "shapes-flux")
    command = ["publish", source, "--repo", REPO, "--base-model", "shapes-flux", "--license", "apache-2.0"]
    command += ["--profile", str(shipped_profile("shapes-flux")), "--out", str(out), "--dry-run", "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    found = {path.relative_to(out).as_posix(): path.stat().st_size for path in out.rglob("*") if path.is_file()}
    assert document == {"folder": str(out), "files": document["files"], "repo": REPO, "commit": None}
    assert document["files"] == found
    return out


@pytest.fixture
def cache(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache with that repository at one commit, main and v1, and no hub to ask; gives the snapshot."""
    owner = tmp_path / "cache" / f"models--{REPO.replace('/', '--')}"
    shutil.copytree(published, owner / "snapshots" / COMMIT)
    (owner / "refs").mkdir()
    for name in ("main", "v1"):
        (owner / "refs" / name).write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return owner / "snapshots" / COMMIT
