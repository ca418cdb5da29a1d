"""What the tree as a whole must not contain."""

from __future__ import annotations

import gzip
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: Until the first release the library had the name of somebody else's package.
OLD = b"drift" + b"cast"


def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a checkout")
    return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_the_old_name_is_gone() -> None:
    found = []
    for path in tracked():
        content = path.read_bytes()
        held = gzip.decompress(content) if path.suffix == ".gz" else content
        if OLD in held.lower() or OLD in str(path.relative_to(ROOT)).lower().encode():
            found.append(str(path.relative_to(ROOT)))
    assert found == []
