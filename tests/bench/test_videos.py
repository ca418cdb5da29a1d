"""Bench runs of models that make videos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

import skipcast as sc
from families.videos import FAMILIES
from skipcast import report
from skipcast.bench import metrics
from skipcast.bench.compare import compare
from skipcast.bench.grid import cells, requested, states
from skipcast.bench.spec import read_spec
from skipcast.models.load import load_model
from skipcast.plans.propagation import grid_of
from support.runs import comparison, files, run, same

GRID = """\
models: [film]
steps: [4]
methods: [resilphase, euler]
budgets: [3]
plans: [film.plan.json]
prompts: [a cat on a sofa, rain]
seeds: 1
batch: 2
metrics: [psnr, ssim, relative_l2, flicker]
converged_steps: 8
samples: all
fps: 12
call: {num_frames: 9, height: 128, width: 128, guidance_scale: 3.0}
"""


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of videos, a plan for it, and the spec of a bench run."""
    folder = tmp_path_factory.mktemp("film")
    family = next(family for family in FAMILIES if family.name == "LTX-Video")
    pipe = family.build()
    pipe.save_pretrained(folder / "film")
    family.run(pipe, steps=4)
    sc.compile_plan(sc.method("lagrange:order=1,evaluations=3"), grid_of(pipe.scheduler)).save(
        folder / "film.plan.json"
    )
    (folder / "grid.yaml").write_text(GRID)
    return folder


@pytest.fixture(scope="module")
def swept(film: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the finished bench run."""
    folder = tmp_path_factory.mktemp("videos") / "out"
    run(film / "grid.yaml", folder)
    return folder


def of(records: list[dict[str, Any]], method: str) -> list[dict[str, Any]]:
    return [record for record in records if record["method"].startswith(method)]


def test_records_tell_of_videos_and_point_to_loops(swept: Path) -> None:
    records = report.read(swept / "results.jsonl")
    assert len(records) == 2 * 4
    for record in records:
        assert (record["frames"], record["fps"]) == (9, 12)
        assert record["image"].endswith(".webp")
        assert "judge" not in record
    assert set(records[0]["metrics"]) == {"psnr", "ssim", "latent_error", "flicker"}
    assert records[0]["metrics"]["flicker"] == "lower is better"
    for method in ("resilphase", "euler", "plan"):
        for record in of(records, method):
            assert record["evaluations"] == 3
            assert min(record[key] for key in ("psnr", "ssim", "latent_error", "flicker")) > 0
            assert record["flicker_converged"] > 0


def test_files_and_metrics_are_those_of_the_samples(swept: Path) -> None:
    records = report.read(swept / "results.jsonl")
    found = {}
    for method in ("reference", "euler"):
        for place, record in enumerate(of(records, method)):
            digest = Path(record["image"]).name[:32]
            found[method, place] = load_file(swept / "samples" / f"{digest}.safetensors")["images"][place]
            with Image.open(swept / record["image"]) as file:
                assert file.n_frames == 9
                file.seek(8)
                shown = np.asarray(file.convert("RGB"))
            assert (shown == (found[method, place][8].permute(1, 2, 0) * 255).round().byte().numpy()).all()
    for place, record in enumerate(of(records, "euler")):
        own, reference = found["euler", place], found["reference", place]
        assert record["psnr"] == metrics.psnr(own, reference).mean().item()
        assert record["flicker"] == metrics.flicker(own[None], reference[None]).item()


def test_a_missing_loop_is_drawn_again(film: Path, tmp_path: Path, swept: Path) -> None:
    run(film / "grid.yaml", tmp_path / "out")
    (victim, *_) = sorted((tmp_path / "out" / "images").iterdir())
    victim.unlink()
    run(film / "grid.yaml", tmp_path / "out")
    same(tmp_path / "out", swept)
    assert len(files(swept, "images")) == 8


def test_another_speed_is_another_file(film: Path) -> None:
    (film / "slower.yaml").write_text(GRID.replace("fps: 12", "fps: 6"))
    digests = []
    for name in ("grid", "slower"):
        spec = read_spec(film / f"{name}.yaml")
        (state,) = states(spec)
        digests.append({cell.digest for cell in cells(spec, state, requested(spec, state)[0])})
    assert not digests[0] & digests[1]


def test_metrics_of_videos_are_refused_for_pictures(write: Callable[[str], Path], film: Path) -> None:
    path = write("models:\n  - tiny\nmetrics:\n  - psnr\n  - flicker\n")
    with pytest.raises(ValueError, match=r"grid.yaml, line 5: flicker is of videos, and tiny draws images"):
        read_spec(path)
    (path.parent / "film").symlink_to(film / "film")
    assert [model.video for model in read_spec(write("models: [tiny, film]\n")).models] == [False, True]
    with pytest.raises(ValueError, match=r"line 2: flicker is of videos, and tiny draws images"):
        read_spec(write("models: [film, tiny]\nmetrics: [flicker]\n"))


def test_time_of_a_video(film: Path, tmp_path: Path) -> None:
    text = GRID.replace("plans: [film.plan.json]", "timing: {repeats: 1}").replace("[resilphase, ", "[")
    (film / "timed.yaml").write_text(text)
    run(film / "timed.yaml", tmp_path / "out")
    for record in report.read(tmp_path / "out" / "results.jsonl"):
        assert 0 < record["timing"]["loop"]["median"] < record["timing"]["call"]["median"]
        assert record["flops"] > 0


def test_a_comparison_of_videos(film: Path) -> None:
    call = {"num_frames": 9, "height": 128, "width": 128, "guidance_scale": 3.0}
    model = load_model(str(film / "film"))
    given = {"steps": 4, "budgets": 3, "prompts": "a cat on a sofa", "converged_steps": 8, "call": call}
    found = compare(comparison(model, "euler", **given), model)
    (sampler,) = (record for record in found.records if record["kind"] == "sampler")
    assert sampler["psnr"] > 0
    assert sampler["settings"]["converged_agreement_db"] > 0
    assert found.images["euler:evaluations=3"].shape == (1, 3, 128, 128)
