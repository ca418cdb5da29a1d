"""Models of the hub are told apart by the commit that their revision stands for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest

from skipcast import report
from skipcast.bench.grid import states
from skipcast.bench.spec import read_spec
from skipcast.models.load import hub_folder, load_model
from support.runs import run
from support.tiny import flux_pipeline

FIRST, SECOND = "a" * 40, "b" * 40
GRID = """\
steps: [4]
methods: [euler]
budgets: [2]
prompts: [a red star]
seeds: 1
flops: false
call: {max_sequence_length: 12}
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub with two commits of one model, and nothing to ask beside it."""
    cache = tmp_path / "hub"
    for seed, commit in enumerate((FIRST, SECOND)):
        flux_pipeline(seed).save_pretrained(cache / "models--someone--small" / "snapshots" / commit)
    refs = cache / "models--someone--small" / "refs"
    refs.mkdir()
    (refs / "main").write_text(FIRST)
    (refs / "next").write_text(SECOND)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return cache


def test_a_revision_is_a_commit_before_anything_is_drawn(write: Callable[[str], Path], hub: Path) -> None:
    spec = read_spec(
        write(
            "models:\n  - someone/small\n  - {model: someone/small, revision: next}\n"
            f"  - {{model: someone/small, revision: {SECOND}, dtype: float32}}\n"
        )
    )
    assert [model.revision for model in spec.models] == [FIRST, SECOND, SECOND]
    assert {model.scheduler for model in spec.models} == {"FlowMatchEulerDiscreteScheduler"}
    digests = {state.digest for state in states(spec)}
    assert len(digests) == 3
    (hub / "models--someone--small" / "refs" / "main").write_text(SECOND)
    (moved,) = read_spec(write("models: [someone/small]\n")).models
    assert moved.revision == SECOND


def test_the_commit_is_what_is_loaded_and_recorded(write: Callable[[str], Path], tmp_path: Path, hub: Path) -> None:
    run(
        write(
            f"models: [{{model: someone/small, size: 64}}, {{model: someone/small, size: 64, revision: next}}]\n{GRID}"
        ),
        tmp_path / "out",
    )
    first, _, second, _ = report.read(tmp_path / "out" / "results.jsonl")
    assert (first["revision"], second["revision"]) == (FIRST, SECOND)
    assert first["model"] == second["model"] == "someone/small"
    assert first["image_sha256"] != second["image_sha256"]
    folder = str(hub / "models--someone--small" / "snapshots" / SECOND)
    run(write(f"models: [{{model: {folder}, size: 64}}]\n{GRID}"), tmp_path / "folder")
    assert report.read(tmp_path / "folder" / "results.jsonl")[0]["image_sha256"] == second["image_sha256"]


@pytest.mark.parametrize(
    "text, line, words",
    [
        ("models:\n  - someone/small\n  - someone/else\n", 3, "no model 'someone/else' in the hub's cache"),
        ("models:\n  - model: someone/small\n    revision: none\n", 3, "no model 'someone/small' at revision 'none'"),
        ("models:\n  - model: someone/small\n    revision: 12\n", 3, "revision must be a text, got 12"),
        ("models:\n  - model: tiny\n    revision: main\n", 3, "revision is of a hub id, and tiny is a folder"),
        ("models:\n  - model: shapes-flux\n    revision: main\n", 3, "shapes-flux is a folder"),
        ("models:\n  - model: someone/small\n    revison: main\n", 3, "Did you mean 'revision'?"),
    ],
)
def test_errors_name_file_and_line(write: Callable[[str], Path], hub: Path, text: str, line: int, words: str) -> None:
    path = write(text)
    with pytest.raises(ValueError) as caught:
        read_spec(path)
    assert str(caught.value).startswith(f"{path}, line {line}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_that_the_cache_lacks_are_named_where_they_cannot_be_had(
    write: Callable[[str], Path], hub: Path
) -> None:
    snapshot = hub / "models--someone--small" / "snapshots" / FIRST
    for path in (snapshot / "transformer").glob("*.safetensors"):
        path.unlink()
    with pytest.raises(ValueError, match=r"grid.yaml, line 2: the weights of .*transformer are missing"):
        read_spec(write("models:\n  - someone/small\n"))


def test_a_model_of_the_hub_is_loaded_at_its_revision(hub: Path) -> None:
    assert hub_folder("someone/small").name == FIRST
    assert load_model("someone/small", revision=SECOND).revision == SECOND
    with pytest.raises(ValueError, match=r"hf download someone/none --revision v2"):
        hub_folder("someone/none", "v2")
    with pytest.raises(ValueError, match="revision='main' is of a hub id"):
        load_model(str(hub_folder("someone/small")), revision="main")
