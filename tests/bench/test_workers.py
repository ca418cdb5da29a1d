"""One interface: whoever does the work, the same results, errors and second tries."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from skipcast.bench import workers
from skipcast.bench.workers import Executor, InProcess, Make, Processes, Ray, WorkerError, executor
from support.clusters import local_cluster
from support.runners import Adder, Sum

MAKE = partial(Adder, 100)
EVERYONE = ("alone", "processes", "ray")
RAY = pytest.param("ray", marks=pytest.mark.slow)  # to start actors takes seconds, on busy machines a minute
QUICK = ("alone", "processes", RAY)
APART = QUICK[1:]
Start = Callable[..., Executor]
#: On a machine that does other work an actor may take more than a minute to begin.
pytestmark = pytest.mark.filterwarnings("ignore:no worker has begun for 60 s")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with local_cluster():
        yield


@pytest.fixture
def start(request: pytest.FixtureRequest) -> Iterator[Start]:
    """Start an executor by its name; it is closed in the end."""
    started: list[Executor] = []

    def start(name: str, make: Make = MAKE, workers: int = 2) -> Executor:
        if name == "ray":
            request.getfixturevalue("cluster")
        made: dict[str, Callable[[], Executor]] = {
            "alone": lambda: InProcess(make),
            "processes": lambda: Processes(workers, make),
            "ray": lambda: Ray("local", workers, make),
        }
        started.append(made[name]())
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.mark.parametrize("name", EVERYONE)
def test_every_task_is_done_once_and_comes_back_with_its_result(start: Start, name: str) -> None:
    tasks = [Sum(n, content=bytes([n]) * 300_000) for n in range(7)]
    work = start(name)
    for _ in range(2):  # the same workers, again
        found = {task.number: result for task, result in work.map(tasks)}
        assert {n: result.number for n, result in found.items()} == {n: 100 + n for n in range(7)}
        assert all(result.content == task.content[::-1] for task, result in work.map(tasks[:2]))
    places = {result.place for result in found.values()}
    assert (os.getpid() in places) == (name == "alone")
    assert max(result.before for result in found.values()) >= 7  # a runner is made once
    assert list(work.map([])) == []


@pytest.mark.parametrize("name", QUICK)
def test_tasks_are_taken_as_workers_get_free(start: Start, name: str) -> None:
    taken: list[int] = []

    def tasks() -> Iterator[Sum]:
        for n in range(9):
            taken.append(n)
            yield Sum(n)

    seen = 0
    for _ in start(name).map(tasks()):
        seen += 1
        assert len(taken) <= seen + 2  # one for each worker is on its way
    assert seen == 9


@pytest.mark.parametrize("name", QUICK)
def test_errors_name_their_task(start: Start, name: str) -> None:
    work = start(name)
    for does, kind, words in (
        ("refuse", ValueError, "sum 3: not a number of mine."),
        ("fail", WorkerError, "sum 3: KeyError: 'spoon'"),
    ):
        with pytest.raises(kind) as caught:
            list(work.map([Sum(1), Sum(3, does)]))
        assert (type(caught.value), str(caught.value)) == (kind, words)
        assert caught.value.__cause__ is not None  # where it went wrong
    if name != "alone":
        with pytest.raises(WorkerError, match=r"sum 1: .*(pickle|local object)"):
            list(work.map([Sum(1, "strange")]))
    assert [result.number for _, result in work.map([Sum(5)])] == [105]


@pytest.mark.parametrize("name", QUICK)
def test_a_runner_that_cannot_be_made_is_told(start: Start, name: str) -> None:
    with pytest.raises(ValueError, match=r"sum 1: start=-1 must not be negative"):
        list(start(name, partial(Adder, -1)).map([Sum(1)]))


@pytest.mark.parametrize("name", APART)
def test_the_task_of_a_dead_worker_is_done_again(start: Start, name: str, tmp_path: Path) -> None:
    tasks = [Sum(n, "die", once=tmp_path / str(n)) if n in (1, 4) else Sum(n) for n in range(6)]
    assert sorted(result.number for _, result in start(name).map(tasks)) == [100, 101, 102, 103, 104, 105]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", APART)
def test_what_is_left_undone_does_not_come_later(start: Start, name: str) -> None:
    work = start(name)
    begun = work.map(Sum(n, seconds=0.05) for n in range(6))
    next(begun)
    begun.close()  # type: ignore[attr-defined]
    assert [task.number for task, _ in work.map([Sum(50)])] == [50]


class Mortal(workers._Apart):
    """Workers that die at the calls given, by number, and are replaced by others as long as there are any left."""

    _death = EOFError

    def __init__(self, count: int, dies: set[int], spare: int) -> None:
        super().__init__(MAKE)
        self.count, self.dies, self.spare, self.calls, self.gone = count, dies, spare, 0, list[int]()

    def _start(self) -> None:
        self._ready = list(range(self.count))

    def _replace(self, worker: int) -> bool:
        self.gone.append(worker)
        self._ready.remove(worker)
        begun: Future[None] = Future()
        self._starting[begun] = 10 * worker + 10
        if self.spare:
            self.spare -= 1
            begun.set_result(None)
        return False

    def _submit(self, worker: int, task: bytes) -> Future[bytes]:
        assert worker not in self.gone
        done: Future[bytes] = Future()
        self.calls += 1
        if self.calls in self.dies:
            done.set_exception(EOFError())
        else:
            done.set_result(workers.run_pickled(self._make, task))
        return done

    def close(self) -> None:
        pass


@pytest.mark.parametrize("spare", [0, 1, 9])
def test_the_tasks_of_workers_that_are_gone_are_done_by_those_that_are_left(spare: int) -> None:
    work = Mortal(3, {1, 5}, spare)
    assert sorted(result.number for _, result in work.map(map(Sum, range(9)))) == list(range(100, 109))
    assert work.calls == 11


def test_without_any_worker_it_is_told_after_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_PATIENCE", 0.01)
    monkeypatch.setattr(workers, "_LIMIT", 0.03)
    work, found = Mortal(2, {3, 4}, 0), list[int]()
    words = r"no worker has begun for 0 s: .* are gone, .* What is finished is kept: give the command again once"
    with pytest.warns(UserWarning, match="waiting on"), pytest.raises(WorkerError, match=words):
        found += (task.number for task, _ in work.map(map(Sum, range(9))))
    assert len(work.gone) == 2


class Bomb:
    """Kills whoever loads it."""

    def __reduce__(self) -> Any:
        return os._exit, (9,)

    def __str__(self) -> str:
        return "the bomb"


@pytest.mark.parametrize("name", APART)
@pytest.mark.parametrize("task, told", [(Sum(2, "die"), "sum 2"), (Bomb(), "the bomb")])
def test_a_task_that_kills_its_workers_is_given_up(start: Start, name: str, task: Any, told: str) -> None:
    work = start(name, workers=1)
    with pytest.raises(WorkerError, match=f"{told}: its worker died 3 times"):
        list(work.map([task]))
    assert [result.number for _, result in work.map([Sum(5)])] == [105]


@pytest.mark.parametrize("workers", [0, -1])
def test_workers_are_at_least_one(workers: int) -> None:
    with pytest.raises(ValueError, match=f"workers={workers} must be at least 1"):
        executor(MAKE, workers)


def test_options_choose_the_executor() -> None:
    assert isinstance(executor(MAKE), InProcess)
    assert isinstance(executor(MAKE, 1), InProcess)
    assert isinstance(executor(MAKE, 2), Processes)
    assert pickle.loads(pickle.dumps(MAKE))().start == 100
