"""Clusters that an executor starts, joins, or does not find."""

from __future__ import annotations

from functools import partial

import pytest

from skipcast.bench import workers
from skipcast.bench.workers import InProcess, Ray, WorkerError, executor
from support.clusters import gone, need_ray
from support.runners import Adder, Sum

MAKE = partial(Adder, 0)


@pytest.mark.slow
def test_a_cluster_of_its_own_is_gone_in_the_end() -> None:
    need_ray()
    import ray

    assert not ray.is_initialized()
    work = Ray("local", None, MAKE)
    assert list(work.map([])) == []
    assert not ray.is_initialized()  # not for nothing
    assert [result.number for _, result in work.map([Sum(5)])] == [5]
    work.close()
    assert not ray.is_initialized()
    gone()


def test_a_cluster_that_is_not_there_is_told() -> None:
    need_ray()
    work = Ray("127.0.0.1:1", 1, MAKE)
    with pytest.raises(WorkerError, match=r"--ray 127.0.0.1:1: no cluster to join there .*ray start --head"):
        list(work.map([Sum(1)]))
    work.close()


@pytest.mark.parametrize("address", ["here", "", "http://x:1", "local:"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    need_ray()
    with pytest.raises(ValueError, match=r"give local, auto, HOST:PORT or ray://HOST:PORT"):
        executor(MAKE, 1, address)


def test_without_ray_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "skipcast\[ray\]"'):
        executor(MAKE, 2, "local")
    assert isinstance(executor(MAKE), InProcess)


@pytest.mark.slow
@pytest.mark.parametrize("workers, expected", [(None, 2), (3, 3)])
def test_actors_share_the_gpus_of_a_cluster(workers: int | None, expected: int) -> None:
    """One each, or several on one where there are more actors than GPUs; no CPU is asked for."""
    need_ray()
    import ray

    ray.init(num_cpus=1, num_gpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        work = Ray("local", workers, MAKE)
        found = [result for _, result in work.map(Sum(n, seconds=0.2) for n in range(60))]
        work.close()
        assert ray.is_initialized()  # it was there before
    finally:
        ray.shutdown()
    gone()
    assert sorted(result.number for result in found) == list(range(60))
    assert len({result.place for result in found}) == expected


@pytest.mark.slow
def test_machines_that_are_lost_are_done_without_and_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    need_ray()
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setattr(workers, "_PATIENCE", 5.0)
    monkeypatch.setattr(workers, "_LIMIT", 10.0)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    machines = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    work = Ray("auto", 2, MAKE)
    try:
        found = []
        for place, (task, result) in enumerate(work.map(Sum(n, seconds=0.3) for n in range(12))):
            found.append((task.number, result.number))
            if place == 5:
                cluster.remove_node(machines.pop())
        assert sorted(found) == [(n, n) for n in range(12)]
        done = []

        def last_one_lost() -> None:
            for task, _ in work.map(Sum(n, seconds=0.3) for n in range(12)):
                done.append(task.number)
                if len(done) == 3:
                    cluster.remove_node(machines.pop())

        with pytest.warns(UserWarning, match="waiting on"), pytest.raises(WorkerError, match="machines of the cluster"):
            last_one_lost()
        assert done == list(range(len(done)))
        cluster.add_node(num_cpus=2)
        assert [task.number for task, _ in work.map([Sum(3)])] == [3]
    finally:
        work.close()
        ray.shutdown()
        cluster.shutdown()
    gone()
