"""Work that is killed at random moments and begun again."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable


def killed(work: Callable[[], object], kills: int, seconds: float, between: Callable[[bool], object]) -> None:
    """Kill work until it was hit so many times, each within so many seconds of its begin, and do it to its end then.

    Args:
        work: goes on where it was interrupted; done in a child, and at last in this process.
        kills: that hit.
        seconds: the latest moment of a kill; less than the work takes.
        between: called after every child, with whether it had come to its end before it was hit.
    """
    rng = random.Random(kills)
    while kills:
        child = os.fork()
        if child == 0:
            try:
                work()
            finally:
                os._exit(0)
        time.sleep(rng.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        kills -= os.WIFSIGNALED(status)
        between(not os.WIFSIGNALED(status))
    work()
