"""Context parallelism over two processes: both decide alike, and the samples are those of one process."""

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
from support.seams import MODULES, OUTPUT, STACK, method_at
from support.tiny import flux_pipeline, latents

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="torch was built without gloo"
)

STEPS = 12
#: None stands for a plan. The last three decide by what they see on the way.
METHODS: dict[str, Any] = {
    "output": OUTPUT,
    "stack": STACK,
    "hidden": "taylorseer:order=1,interval=3,target=hidden",
    "modules": MODULES,
} | {"plan": None, "fbcache": "fbcache:threshold=0.3", "teacache": "teacache:threshold=0.3", "speca": "speca"}
#: They look at the values of all tokens, which no process has at an inner seam.
REFUSED = ("freqca", "svd-cache")
DEADLOCK = 60  # seconds that a process waits for the other one
SUM = 1e-5


def on_a_cpu() -> None:
    """diffusers takes the rank modulo the number of accelerators, which is nought without any."""
    torch.accelerator.device_count = lambda: 2  # type: ignore[method-assign]


def pipeline() -> Any:
    return flux_pipeline(num_layers=1, num_single_layers=3)


def run(pipe: Any) -> torch.Tensor:
    return latents(pipe, STEPS, true_cfg_scale=1.0)


def shared(pipe: Any) -> Any:
    """The pipeline with its tokens split over both processes."""
    from diffusers import ContextParallelConfig

    pipe.transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
    return pipe


def error_of(call: Any) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def enabled_inside() -> None:
    pipe = pipeline()
    with sc.accelerate(pipe, OUTPUT):
        shared(pipe)
        run(pipe)


def work(rank: int, folder: str) -> None:
    """What one process finds, in a file of its own."""
    torch.set_num_threads(1)
    wait = datetime.timedelta(seconds=DEADLOCK)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=wait)
    on_a_cpu()
    found: dict[str, Any] = {}
    try:
        single, pipe = pipeline(), shared(pipeline())
        plain = run(single)
        found["plain"] = (run(pipe) - plain).norm() / plain.norm()
        plan = method_at("plan", single)
        for name, spec in METHODS.items():
            method = spec or plan
            with sc.accelerate(single, method) as alone:
                wanted = run(single)
            with sc.accelerate(pipe, method) as acceleration:
                got = run(pipe)
            found[name] = {
                "error": (got - wanted).norm() / wanted.norm(),
                "effect": (wanted - plain).norm() / plain.norm(),
                "alone": alone.summary().evaluated_steps,
                "evaluated": acceleration.summary().evaluated_steps,
            }
        found["after"] = (run(pipe) - plain).norm() / plain.norm()
        for name in REFUSED:
            found[name] = error_of(lambda name=name: sc.accelerate(pipe, f"{name}:target=drift"))
        found["inside"] = error_of(enabled_inside)
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
    folder = tmp_path_factory.mktemp("parallel")
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


def test_without_a_method_two_processes_give_the_samples_of_one(ranks: list[dict[str, Any]]) -> None:
    """Before all methods, and after them."""
    assert max(found[when] for found in ranks for when in ("plain", "after")) < SUM


@pytest.mark.parametrize("name", METHODS)
def test_both_processes_evaluate_the_steps_of_one_and_give_its_samples(ranks: list[dict[str, Any]], name: str) -> None:
    for found in (ranks[0][name], ranks[1][name]):
        assert found["evaluated"] == ranks[0][name]["alone"]
        assert 0 < len(found["evaluated"]) < STEPS
        assert found["error"] < SUM < 10 * SUM < found["effect"]


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_look_at_all_tokens_is_refused_by_name(ranks: list[dict[str, Any]], name: str) -> None:
    for found in ranks:
        assert found[name].startswith("IncompatibleParts: ")
        assert "of which a process has only its share under context parallelism; use target=output" in found[name]


def test_parallelism_that_is_enabled_inside_is_refused(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        assert found["inside"].startswith("RuntimeError: context parallelism was enabled inside accelerate()")
