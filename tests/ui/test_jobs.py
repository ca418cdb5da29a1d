"""Work whose events are read as they come."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from skipcast.ui.jobs import STOPPED, Failed, Job, Stopped, watched
from support.tiny import flux_pipeline, latents


def test_events_come_in_order() -> None:
    def work(job: Job) -> None:
        for i in range(3):
            job.tell(i)

    assert list(Job(work)) == [0, 1, 2]


def test_errors_are_told_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    def mendable(job: Job) -> None:
        job.tell("begun")
        raise ValueError("steps must be more")

    def unexpected(job: Job) -> None:
        raise ZeroDivisionError("oh")

    assert list(Job(mendable)) == ["begun", Failed("steps must be more")]
    assert not caplog.records
    assert list(Job(unexpected)) == [Failed("ZeroDivisionError: oh")]
    assert "ZeroDivisionError" in caplog.text  # whoever runs the server finds the traceback there


def test_a_stopped_job_ends_at_its_next_check() -> None:
    def work(job: Job) -> None:
        while True:
            job.check()
            job.tell("on")

    job = Job(work)
    found = []
    for event in job:
        found.append(event)
        job.stop()
    assert found[0] == "on"
    assert found[-1] == STOPPED


def test_who_stops_listening_stops_the_work() -> None:
    ended = threading.Event()

    def work(job: Job) -> None:
        try:
            while True:
                job.check()
                job.tell("on")
        finally:
            ended.set()

    events = iter(Job(work))
    next(events)
    events.close()  # type: ignore[attr-defined]
    assert ended.is_set()


def test_watching_counts_calls_and_leaves_nothing_behind() -> None:
    pipe = flux_pipeline()
    plain = latents(pipe, 3)
    made: list[int] = []
    with watched(pipe, lambda: made.append(1)):
        seen = latents(pipe, 3)
    assert len(made) == 6  # three steps of two guidance branches
    assert (seen == plain).all()

    def stop() -> None:
        raise Stopped

    before: Any = pipe.scheduler
    with pytest.raises(Stopped), watched(pipe, stop):
        latents(pipe, 3)
    assert not pipe.transformer._forward_pre_hooks
    assert pipe.scheduler is before
    assert (latents(pipe, 3) == plain).all()
