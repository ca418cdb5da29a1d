"""What is kept of visitors, and the strip of steps."""

from __future__ import annotations

from skipcast.ui.jobs import STOPPED, Job
from skipcast.ui.strip import strip
from skipcast.ui.visitors import Visitors


def test_visitors_share_nothing_and_leave_nothing() -> None:
    visitors = Visitors()
    one, two = visitors["one"], visitors["two"]
    assert visitors["one"] is one
    assert one.folder != two.folder

    def forever(job: Job) -> None:
        while True:
            job.check()

    events = iter(one.begin("draw", Job(forever)))
    visitors.leave("one")
    assert next(events) == STOPPED
    assert not one.folder.exists()
    assert two.folder.exists()
    assert len(visitors) == 1
    visitors.leave("nobody")
    visitors.close()
    assert not two.folder.parent.exists()


def test_a_new_job_ends_the_old_one_of_its_kind_alone() -> None:
    visitors = Visitors()

    def once(job: Job) -> None:
        job.check()
        job.tell("done")

    old, other = Job(once), Job(once)
    visitor = visitors["one"]
    visitor.begin("draw", old)
    visitor.begin("solve", other)
    assert list(visitor.begin("draw", Job(once))) == ["done"]
    assert list(old) == [STOPPED]
    assert list(other) == ["done"]
    visitors.close()


def test_the_strip_marks_evaluated_steps() -> None:
    drawn = strip((0, 3), 5)
    assert drawn.count('class="on"') == 2
    assert drawn.count('class="off"') == 3
    assert 'aria-label="evaluated 2 of 5 steps: 0, 3"' in drawn
