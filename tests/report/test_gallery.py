"""Which images a page embeds: the worst of what matters most, as far as there is room, and never in silence."""

from __future__ import annotations

import base64
import math
import os
import re
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from skipcast import report
from skipcast.report.gallery import gallery, order
from support.fuzz import damage
from support.records import PROMPTS, record, written

SIDE = 16


def drawn(folder: Path, name: str, shade: int, side: int = SIDE) -> str:
    """A PNG of noise around a shade; its path from the folder."""
    noise = np.random.default_rng(list(name.encode())).integers(0, 40, (side, side, 3))
    path = folder / "images" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((noise + shade).astype(np.uint8)).save(path)
    return f"images/{name}.png"


def loop(folder: Path, name: str) -> str:
    """An animated WebP of three frames."""
    frames = [Image.new("RGB", (SIDE, SIDE), (80 * i, 20, 20)) for i in range(3)]
    path = folder / "images" / f"{name}.webp"
    path.parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100, loop=0)
    return f"images/{name}.webp"


def kept(folder: Path, seeds: int = 3, side: int = SIDE) -> list[dict[str, Any]]:
    """A plan, a forecaster and a sampler at two budgets, with images; the worst are of the last seeds."""
    found = []
    rows = [("reference", "reference", 50)] + [
        (f"{name}:evaluations={n}", kind, n)
        for n in (5, 10)
        for name, kind in (("euler", "sampler"), ("taylorseer", "forecast"), ("plan", "plan"))
    ]
    for label, kind, budget in rows:
        for index in range(len(PROMPTS)):
            for seed in range(seeds):
                good = 3 * budget + {"plan": 9, "forecast": 5}.get(kind, 0)
                psnr = None if kind == "reference" else good - 4.0 * seed - index
                name = f"{label.replace(':', '-')}-{index}-{seed}"
                shade = 100 if kind == "reference" else 100 + 5 * seed
                found.append(
                    record(label, kind, budget, index, psnr, seed=seed, image=drawn(folder, name, shade, side))
                )
    return found


def loaded(folder: Path, records: list[dict[str, Any]]) -> report.Results:
    return report.load([written(folder / "results.jsonl", records)])


def test_the_worst_come_first_and_each_stands_beside_its_reference(tmp_path: Path) -> None:
    found = loaded(tmp_path, kept(tmp_path))
    ((state, rows),) = found.rows.items()
    made = gallery(found, state, rows)
    assert made is not None
    assert [shown["label"] for shown in made.methods][:3] == [
        "plan, 10 evaluations", "taylorseer, 10 evaluations", "euler, 10 evaluations",
    ]  # fmt: skip
    for shown in made.methods:
        psnrs = [float(cell["psnr"].removesuffix(" dB")) for cell in shown["cells"]]
        assert psnrs == sorted(psnrs)
        for cell in shown["cells"]:
            name = f"reference-{PROMPTS.index(cell['prompt'])}-{cell['seed']}.png"
            assert cell["reference"] is not None
            assert list(made.images)[cell["reference"]] == uri(tmp_path / "images" / name)
    assert (made.named, made.missing) == (36, 0)


def uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def test_room_is_kept_to_and_shared(tmp_path: Path) -> None:
    found = loaded(tmp_path, kept(tmp_path))
    ((state, rows),) = found.rows.items()
    whole = gallery(found, state, rows)
    assert whole is not None
    room = sum(map(len, whole.images)) // 4
    made = gallery(found, state, rows, room)
    assert made is not None
    assert sum(map(len, made.images)) <= room
    assert len(made.methods) >= 3  # fewer images of each, rather than fewer methods
    assert len(made.methods[0]["cells"]) < len(whole.methods[0]["cells"])
    none = gallery(found, state, rows, 10)
    assert none is not None
    assert none.methods == []


def test_large_images_are_shrunk(tmp_path: Path) -> None:
    found = loaded(tmp_path, kept(tmp_path, seeds=1, side=400))
    made = gallery(found, *next(iter(found.rows.items())))
    assert made is not None
    assert made.shrunk
    with Image.open(BytesIO(base64.b64decode(next(iter(made.images)).partition(",")[2]))) as image:
        assert image.size == (384, 384)
    assert "shrunk to 384 pixels" in report.html(found)


def hostile(path: Path, kind: str) -> None:
    """What an image of a stranger may be instead."""
    secret = path.parents[2] / "secret.png"
    Image.new("RGB", (4, 4), "red").save(secret)
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(secret)
    elif kind == "links":
        path.parent.rename(path.parents[1] / "old")
        path.parent.symlink_to(secret.parent)
        secret.rename(secret.with_name(path.name))
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "many pixels":
        head = struct.pack(">4sIIBBBBB", b"IHDR", 60_000, 60_000, 8, 2, 0, 0, 0)
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)))
    elif kind == "long":
        path.write_bytes(b"")
        os.truncate(path, 2**33)
    else:
        kinds = {"gif": "GIF", "tiff": "TIFF"}
        Image.new("RGB", (4, 4), "red").save(path, kinds[kind])


@pytest.mark.parametrize("kind", ["pipe", "link", "links", "device", "many pixels", "long", "gif", "tiff"])
def test_what_is_no_image_of_the_results_counts_as_missing(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "results"
    image = drawn(folder, "a", 50)
    found = loaded(folder, [record("euler", "sampler", 5, 0, 30.0, image=image)])
    hostile(folder / image, kind)
    made = gallery(found, *next(iter(found.rows.items())))
    assert made is not None
    assert (made.missing, made.images) == (1, {})


@given(st.data())
def test_damaged_images_are_shown_or_missing(tmp_path: Path, data: st.DataObject) -> None:
    image = drawn(tmp_path, "a", 50)
    path = tmp_path / image
    path.write_bytes(data.draw(damage(path.read_bytes())))
    found = loaded(tmp_path, [record("euler", "sampler", 5, 0, 30.0, image=image)])
    made = gallery(found, *next(iter(found.rows.items())))
    assert made is not None
    assert made.missing + len(made.images) == 1


def test_results_two_folders_down_may_name_their_images(tmp_path: Path) -> None:
    image = f"../../{drawn(tmp_path, 'a', 50)}"
    found = loaded(tmp_path / "a" / "b", [record("euler", "sampler", 5, 0, 30.0, image=image)])
    made = gallery(found, *next(iter(found.rows.items())))
    assert made is not None
    assert made.missing == 0


@pytest.mark.parametrize("lost", ["gone", "text"])
def test_missing_images_are_told_in_words(tmp_path: Path, lost: str) -> None:
    found = loaded(tmp_path, kept(tmp_path))
    for path in (tmp_path / "images").glob("plan-*"):
        if lost == "gone":
            path.unlink()
        else:
            path.write_text("no image")
    text = report.html(found)
    assert re.search(r"12 of the files that were looked for are not where the records say", text)
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    assert "None of the 36 images that the records name can be shown" in report.html(found)
    assert "The records name no images" in report.html(report.of([record("euler", "sampler", 5, 0, 20)]))


def test_images_of_several_folders_are_found(tmp_path: Path) -> None:
    lines = kept(tmp_path / "a")
    for path in list((tmp_path / "a" / "images").glob("plan-*")):
        (tmp_path / "b" / "images").mkdir(parents=True, exist_ok=True)
        path.rename(tmp_path / "b" / "images" / path.name)
    plans = [line for line in lines if line["kind"] == "plan"]
    others = [line for line in lines if line["kind"] != "plan"]
    found = report.load([written(tmp_path / "a" / "r.jsonl", others), written(tmp_path / "b" / "r.jsonl", plans)])
    made = gallery(found, *next(iter(found.rows.items())))
    assert made is not None
    assert (made.missing, made.methods[0]["kind"]) == (0, "plan")


@pytest.mark.parametrize(
    "psnrs, shown",
    [((math.inf, 30.0), ["30.0 dB", "identical"]), ((math.nan, 30.0), ["broken", "30.0 dB"]),
     ((None, None), ["PSNR not measured"] * 2)],
)  # fmt: skip
def test_what_is_not_a_number_is_told_in_words(tmp_path: Path, psnrs: tuple[float, float], shown: list[str]) -> None:
    image = drawn(tmp_path, "a", 50)
    lines = [record("euler", "sampler", 5, i, psnr, image=image) for i, psnr in enumerate(psnrs)]
    found = report.of(lines, tmp_path)
    made = gallery(found, *next(iter(found.rows.items())))
    assert made is not None
    assert [cell["psnr"] for cell in made.cells] == shown


def test_what_matters_most_is_at_the_middle_budget(tmp_path: Path) -> None:
    lines = [
        record(f"{name}:evaluations={n}", kind, n, 0, psnr)
        for n in (5, 10, 20)
        for name, kind, psnr in (
            ("a", "forecast", 20),
            ("b", "forecast", 30),
            ("euler", "sampler", 25),
            ("p", "plan", 9),
        )
    ]
    labels = [row.method for row in order(report.summarise(lines))]
    assert labels[:3] == ["p:evaluations=10", "b:evaluations=10", "euler:evaluations=10"]
    assert labels[3:6] == ["p:evaluations=5", "b:evaluations=5", "euler:evaluations=5"]
    assert len(labels) == len(set(labels)) == 12
    assert set(labels[9:]) == {f"a:evaluations={n}" for n in (5, 10, 20)}
