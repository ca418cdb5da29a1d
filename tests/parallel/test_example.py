"""The example of torchrun: as the only process of its group, and by torchrun in two."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image

import skipcast as sc

EXAMPLE = Path(__file__).parents[2] / "examples" / "chords_torchrun.py"
pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="torch was built without gloo"
)


def test_the_example_saves_its_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["chords_torchrun.py", "--steps", "4"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert capsys.readouterr().out.startswith("core None, round 1")
    assert Path("chords-4.png").is_file()


@pytest.mark.slow  # three processes load diffusers
@pytest.mark.skipif(torch.cuda.is_available(), reason="the example takes nccl where there is CUDA")
def test_torchrun_saves_the_images_of_one_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(EXAMPLE), "--steps", "6"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [(core, int(rounds)) for core, rounds in re.findall(r"core (\w+), round (\d+),", done.stdout)]
    pipe = sc.load_reference("shapes-flux")
    pipe.set_progress_bar_config(disable=True)
    given = {"prompt": "a large red star on a blue background", "num_inference_steps": 6}
    wanted = list(
        sc.chords(
            pipe,
            cores=2,
            init="uniform",
            coarse="lagrange:order=2",
            generator=torch.Generator().manual_seed(0),
            **given,
        )
    )
    assert sorted(found) == sorted((str(answer.core), answer.rounds) for answer in wanted)
    saved = np.asarray(Image.open(tmp_path / f"chords-{wanted[-1].rounds}.png"))
    assert np.array_equal(saved, np.asarray(wanted[-1].output.images[0]))
    plain = pipe(generator=torch.Generator().manual_seed(0), **given).images[0]
    assert np.array_equal(saved, np.asarray(plain))
