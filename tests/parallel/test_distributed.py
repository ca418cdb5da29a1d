"""CHORDS over two processes: their answers are those of one process, to the bit."""

from __future__ import annotations

import datetime
import os
import time
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import skipcast as sc
from support import toy
from support.tiny import PROMPT, flux_pipeline

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="torch was built without gloo"
)

GRID = sc.TimeGrid.shifted(12, shift=2.0)
DEADLOCK = 60  # seconds that a process waits for the other one
RUNS: dict[str, dict[str, Any]] = {
    "published": {"init": (0, 6)},
    "forecast": {"init": (0, 3), "coarse": "lagrange:order=1"},
    "stopped": {"init": (0, 6), "stop": 1},
}


def denoiser(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    return toy.network(x, float(timestep))


def of_denoiser(**options: Any) -> list[Any]:
    return list(sc.chords(denoiser, toy.noise(2), grid=GRID, cores=2, **options))


def of_pipeline(pipe: Any, **options: Any) -> list[Any]:
    call = {"num_inference_steps": 12, "output_type": "latent", "generator": torch.Generator().manual_seed(3)}
    return list(sc.chords(pipe, PROMPT, cores=2, init=(0, 5), **{**call, **options}))


def kept(answers: list[Any]) -> list[tuple[Any, ...]]:
    return [(a.core, a.rounds, a.samples, a.change, None if a.output is None else a.output.images) for a in answers]


def error_of(call: Any) -> str:
    try:
        call()
    except ValueError as error:
        return str(error)
    return "nothing"


def work(rank: int, folder: str) -> None:
    """What one process finds, in a file of its own."""
    torch.set_num_threads(1)
    wait = datetime.timedelta(seconds=DEADLOCK)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=wait)
    world, found = dist.group.WORLD, dict[str, Any]()
    try:
        for name, options in RUNS.items():
            found[name] = kept(of_denoiser(group=world, **options))
        found["pipeline"] = kept(of_pipeline(flux_pipeline(), group=world))
        found["three"] = error_of(lambda: sc.chords(denoiser, toy.noise(2), grid=GRID, cores=3, group=world))
        found["agree"] = error_of(lambda: of_denoiser(group=world, init=(0, 6), stop=0.1))
        dist.barrier()
        other = sc.chords(denoiser, toy.noise(2, seed=rank), grid=GRID, cores=2, init=(0, 6), group=world)
        found["noise"] = error_of(lambda: next(other)) if rank else "not seen"
        if not rank:
            dist.isend(torch.stack([toy.noise(2).sum(), toy.noise(2).square().sum()]), 1).wait()
    except BaseException:
        found["failed"] = traceback.format_exc()
        torch.save(found, f"{folder}/{rank}.pt")
        os._exit(1)  # the other process waits for this one otherwise
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What both processes have found."""
    folder = tmp_path_factory.mktemp("chords")
    processes = mp.spawn(work, args=(str(folder),), nprocs=2, join=False)
    failed, end = "", time.monotonic() + 4 * DEADLOCK
    try:
        while not processes.join(timeout=1):
            if time.monotonic() > end:
                raise TimeoutError("the processes wait for one another")
    except Exception as error:
        failed = str(error)
    finally:
        for process in processes.processes:
            process.kill()
    found = [torch.load(path) if (path := Path(folder) / f"{rank}.pt").exists() else {} for rank in range(2)]
    failed = "".join(one.get("failed", "") for one in found) or failed
    assert not failed, failed
    return found


def same(found: list[Any], wanted: list[Any]) -> None:
    assert len(found) == len(wanted)
    for (core, rounds, samples, change, _), answer in zip(found, kept(wanted), strict=True):
        assert (core, rounds) == answer[:2]
        assert torch.equal(samples, answer[2])
        assert change is answer[3] is None or torch.equal(change, answer[3])


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_give_the_answers_of_one(ranks: list[dict[str, Any]], name: str) -> None:
    same([*ranks[1][name], *ranks[0][name]], of_denoiser(**RUNS[name]))


def test_a_pipeline_on_two_processes(ranks: list[dict[str, Any]]) -> None:
    pipe = flux_pipeline()
    wanted = of_pipeline(pipe)
    same([*ranks[1]["pipeline"], *ranks[0]["pipeline"]], wanted)
    plain = pipe(
        PROMPT, num_inference_steps=12, output_type="latent", generator=torch.Generator().manual_seed(3)
    ).images
    assert torch.equal(ranks[0]["pipeline"][-1][4], plain)
    assert torch.equal(ranks[1]["pipeline"][-1][4], ranks[1]["pipeline"][-1][2])


def test_what_processes_cannot_share_is_refused(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        assert found["three"] == "chords(cores=3) must be the 2 processes of its group."
        assert "all processes to agree" in found["agree"]
    assert "the noise of core 1 is not that of core 0; seed all processes alike" in ranks[1]["noise"]
