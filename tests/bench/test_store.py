"""Several pictures per call, and every picture as a file."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from skipcast import checkpoint, report
from skipcast.bench.grid import cells, groups, requested, states
from skipcast.bench.media import encoded
from skipcast.bench.run import assemble
from skipcast.bench.spec import read_spec
from skipcast.bench.store import Store
from skipcast.checkpoint import Folder
from support.runs import files, metrics, run, same

GRID = """\
models: [tiny]
steps: [6]
methods: [resilphase, euler, teacache]
budgets: [4]
prompts: [a large red star, a small green ring, a blue heart]
seeds: 2
converged_steps: 12
flops: false
batch: 4
"""
SHORT = "models: [tiny]\nsteps: [4]\nmethods: [euler]\nbudgets: [2]\nflops: false\nprompts: [a red star]\nseeds: 2\n"


@pytest.fixture(scope="module")
def batched(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished bench run of four pictures per call, two in the last."""
    (tiny / "batched.yaml").write_text(GRID)
    folder = tmp_path_factory.mktemp("batched") / "out"
    run(tiny / "batched.yaml", folder)
    return folder


def test_groups_are_consecutive_pictures_and_digests_hold_the_company(write: Callable[[str], Path]) -> None:
    spec = read_spec(write(GRID))
    (state,) = states(spec)
    found = groups(spec, state.model)
    assert [[(one.index, one.number) for one in group] for group in found] == [
        [(0, 0), (0, 1), (1, 0), (1, 1)],
        [(2, 0), (2, 1)],
    ]
    alone = groups(read_spec(write(GRID.replace("batch: 4", "batch: 1"))), state.model)
    assert [one for group in alone for one in group] == [one for group in found for one in group]
    rows, _ = requested(spec, state)
    digests = {cell.pairs: cell.digest for cell in cells(spec, state, rows[:1]) if cell.stage == 2}
    other = read_spec(write(GRID.replace("a blue heart", "a white heart")))
    changed = {cell.pairs: cell.digest for cell in cells(other, states(other)[0], rows[:1]) if cell.stage == 2}
    assert digests[found[0]] == changed[found[0]]
    assert not {digests[found[1]]} & set(changed.values())


def test_records_are_one_per_picture_and_say_with_how_many_they_were_drawn(batched: Path) -> None:
    records = report.read(batched / "results.jsonl")
    assert len(records) == 6 * 4
    own = [(r["prompt_index"], r["number"], r["seed"]) for r in records if r["name"] == "euler"]
    assert len(set(own)) == 6
    assert [place[:2] for place in own] == [(i, n) for i in range(3) for n in range(2)]
    assert {r["settings"]["batch"] for r in records} == {4}
    driven = [r for r in records if r["name"] == "teacache"]
    assert [r["decided_with"] for r in driven] == [4, 4, 4, 4, 2, 2]
    assert {r["calibrated_on"]["images"] for r in driven} == {4}
    assert [r["timing"]["cell_images"] for r in driven] == [4, 4, 4, 4, 2, 2]
    assert len({r["image_sha256"] for r in records}) == len({r["latents_sha256"] for r in records}) == 24


def test_a_batch_is_near_single_pictures_and_measured_alike(
    write: Callable[[str], Path], tmp_path: Path, batched: Path
) -> None:
    run(write(GRID.replace("batch: 4", "batch: 1").replace(", teacache", "")), tmp_path / "out")
    told = {(r["method"], r["seed"]): r for r in report.read(batched / "results.jsonl")}
    for record in report.read(tmp_path / "out" / "results.jsonl"):
        together = told[record["method"], record["seed"]]
        assert together["latent_error"] == (record["latent_error"] and pytest.approx(record["latent_error"], rel=1e-3))
        assert together["psnr_converged"] == pytest.approx(record["psnr_converged"], abs=0.01)
        assert together["cached_bytes"] == record["cached_bytes"]


@pytest.mark.slow
def test_workers_and_batches_make_the_same_bytes(tiny: Path, tmp_path: Path, batched: Path) -> None:
    run(tiny / "batched.yaml", tmp_path / "out", workers=2)
    same(tmp_path / "out", batched)


def test_times_and_operations_are_of_one_picture(write: Callable[[str], Path], tmp_path: Path) -> None:
    text = SHORT.replace("flops: false", "flops: true") + "timing: {repeats: 1}\n"
    for batch in (1, 2):
        run(write(f"{text}batch: {batch}\n"), tmp_path / str(batch))
    one, two = (report.read(tmp_path / str(batch) / "results.jsonl") for batch in (1, 2))
    assert {record["timing"]["images"] for record in two} == {1}
    assert [record["flops"] for record in sorted(one, key=lambda r: (r["seed"], r["method"]))] == [
        record["flops"] for record in sorted(two, key=lambda r: (r["seed"], r["method"]))
    ]


def test_every_picture_is_a_file_with_its_own_pixels(batched: Path) -> None:
    records = report.read(batched / "results.jsonl")
    assert len({r["image"] for r in records}) == 24 == len(files(batched, "images"))
    for record in records:
        assert re.fullmatch(r"images/[0-9a-f]{32}-[0-3]\.png", record["image"])
    reference = [r for r in records if r["method"] == "reference"][:4]
    (sample,) = {Path(r["image"]).name[:32] for r in reference}
    images = load_file(batched / "samples" / f"{sample}.safetensors")["images"]
    for image, record in zip(images, reference, strict=True):
        pixels = np.asarray(Image.open(batched / record["image"]))
        assert (pixels == (image.permute(1, 2, 0) * 255).round().byte().numpy()).all()


def test_a_missing_picture_is_drawn_again_to_the_same_bytes(tiny: Path, tmp_path: Path, batched: Path) -> None:
    folder = tmp_path / "out"
    run(tiny / "batched.yaml", folder)
    victim = folder / report.read(folder / "results.jsonl")[-1]["image"]
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("*-*.png") if path.name[:32] != victim.name[:32]}
    victim.unlink()
    spec = read_spec(tiny / "batched.yaml")
    with Store(folder, spec).opened() as store:
        assert assemble(store, spec).missing == 1
    run(tiny / "batched.yaml", folder)
    same(folder, batched)
    assert kept == {path: path.stat().st_mtime_ns for path in kept}


def test_a_half_written_or_foreign_picture_is_named(tiny: Path, tmp_path: Path) -> None:
    (tiny / "short.yaml").write_text(SHORT)
    folder = tmp_path / "out"
    run(tiny / "short.yaml", folder)
    (victim, *_) = sorted((folder / "images").iterdir())
    content = victim.read_bytes()
    victim.write_bytes(content[:-20])
    with pytest.raises(ValueError, match=rf"^{re.escape(str(victim))}, line 1: half-written or changed"):
        run(tiny / "short.yaml", folder)
    victim.write_bytes(content)
    draft = folder / "images" / f".{'0' * 32}-12.png.77"
    draft.write_bytes(b"half")
    run(tiny / "short.yaml", folder)
    assert not draft.exists()
    (folder / "images" / "mine.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"mine.png, line 1: no file of cells of a bench run"):
        run(tiny / "short.yaml", folder)


def test_pictures_can_be_left_out_and_taken_up_again(tiny: Path, tmp_path: Path) -> None:
    with_them, without = tiny / "short.yaml", tiny / "bare.yaml"
    with_them.write_text(SHORT)
    without.write_text(f"{SHORT}images: false\n")
    folder = tmp_path / "out"
    run(without, folder)
    assert not (folder / "images").exists()
    assert {r["image"] for r in report.read(folder / "results.jsonl")} == {None}
    bare = metrics(folder)
    run(with_them, folder)
    assert len(files(folder, "images")) == 4
    assert all((folder / r["image"]).exists() for r in report.read(folder / "results.jsonl"))
    run(without, folder)
    assert metrics(folder) == bare


def test_pictures_are_there_before_the_values_of_their_cell(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tiny / "short.yaml").write_text(SHORT)
    written: list[str] = []
    whole = checkpoint.write_whole

    def noting(path: Path, content: bytes) -> Any:
        written.append(f"{path.parent.name}/{path.stem[:32]}")
        return whole(path, content)

    monkeypatch.setattr(checkpoint, "write_whole", noting)
    run(tiny / "short.yaml", tmp_path / "out")
    for place, name in enumerate(written):
        kind, _, digest = name.partition("/")
        if kind == "cells":
            assert f"images/{digest}" in written[:place]
            assert f"images/{digest}" not in written[place:]


def test_records_of_a_state_point_to_the_same_files(write: Callable[[str], Path], tmp_path: Path) -> None:
    run(write(SHORT.replace("steps: [4]", "steps: [4, 5]")), tmp_path / "out")
    for number in (1, 2):
        folder = tmp_path / "out" / "by-state" / str(number)
        records = report.read(folder / "results.jsonl")
        assert len(records) == 4
        for record in records:
            assert record["image"].startswith("../../images/")
            assert (folder / record["image"]).resolve().is_file()


def test_a_cell_drawn_without_pictures_and_interrupted_while_it_gets_them(tiny: Path, tmp_path: Path) -> None:
    """The values are of the draw without them, the files of the one with them: both are of the same picture."""
    with_them, without = tiny / "short.yaml", tiny / "bare.yaml"
    with_them.write_text(SHORT)
    without.write_text(f"{SHORT}images: false\n")
    run(without, tmp_path / "out")
    run(with_them, tmp_path / "whole")
    (tmp_path / "whole" / "images").rename(tmp_path / "out" / "images")
    run(with_them, tmp_path / "out")
    assert metrics(tmp_path / "out") == metrics(tmp_path / "whole")


def test_videos_are_loops_without_loss() -> None:
    video = torch.rand(5, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    content = encoded(video, 8)
    assert content == encoded(video, 8)
    with Image.open(io.BytesIO(content)) as file:
        assert (file.n_frames, file.info["loop"]) == (5, 0)
        for number, frame in enumerate(video):
            file.seek(number)
            shown = np.asarray(file.convert("RGB"))
            assert file.info["duration"] == 125
            assert (shown == (frame.permute(1, 2, 0) * 255).round().byte().numpy()).all()


def test_values_of_a_cell_are_as_they_were_told(batched: Path) -> None:
    """The converged run has no record and no picture."""
    told = [json.loads(path.read_text().splitlines()[1]) for path in (batched / "cells").iterdir()]
    bare = [values for values in told if not values["records"]]
    assert len(bare) == 2
    assert {values["image_bytes"] for values in bare} == {None}


def test_a_finished_cell_is_read_once_to_open_and_once_to_assemble(
    tiny: Path, tmp_path: Path, batched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bench run of very many cells opens and assembles in seconds."""
    reads: list[str] = []
    whole = Folder.read

    def counted(folder: Folder, kind: str, name: str) -> bytes:
        reads.append(name)
        return whole(folder, kind, name)

    monkeypatch.setattr(Folder, "read", counted)
    spec = read_spec(tiny / "batched.yaml")
    with Store(batched, spec).opened() as opened:
        cell_files = {path.stem for path in (batched / "cells").iterdir()}
        assert len(reads) == len(set(reads))
        reads.clear()
        assemble(opened, spec)
    assert sorted(name for name in reads if name in cell_files) == sorted(
        path.stem for path in (batched / "cells").iterdir() if '"records": []' not in path.read_text()
    )


def test_what_no_byte_can_hold_does_not_wrap_around() -> None:
    image = torch.tensor([-0.5, 0.5, 1.01, float("nan")]).view(1, 2, 2).expand(3, 2, 2)
    with Image.open(io.BytesIO(encoded(image, 8))) as opened:
        assert np.asarray(opened)[..., 0].tolist() == [[0, 128], [255, 255]]
