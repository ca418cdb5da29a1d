"""Work in a thread whose events are read as they come, and that can be stopped at every network call."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from skipcast.pipelines.networks import denoisers

_log = logging.getLogger(__name__)


class Stopped(Exception):
    """Thrown inside the work when its visitor stopped it or left."""


@dataclass(frozen=True)
class Failed:
    """The work ended early, with one clear message."""

    message: str


STOPPED = Failed("stopped")


class Job:
    """Runs `work(job)` in a thread; iterating gives what it tells, and a `Failed` where it ended early.

    Whoever stops iterating stops the work too. Errors that a user can mend are told as they are; others are logged
    with their traceback and told in one line.
    """

    def __init__(self, work: Callable[[Job], None]) -> None:
        self._work = work
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._end = object()

    def tell(self, event: Any) -> None:
        """Hand an event to whoever iterates."""
        self._events.put(event)

    def stop(self) -> None:
        """Have the work end at its next `check`."""
        self._stop.set()

    def check(self) -> None:
        """Raise `Stopped` if the work is to end."""
        if self._stop.is_set():
            raise Stopped

    def __iter__(self) -> Iterator[Any]:
        thread = threading.Thread(target=self._run, name="skipcast-ui", daemon=True)
        thread.start()
        try:
            while (event := self._events.get()) is not self._end:
                yield event
        finally:
            self.stop()
            thread.join()

    def _run(self) -> None:
        try:
            self._work(self)
        except Stopped:
            self.tell(STOPPED)
        except (ValueError, RuntimeError, ImportError, OSError) as error:
            self.tell(Failed(str(error)))
        except Exception as error:
            _log.exception("the playground met an error that it did not expect")
            self.tell(Failed(f"{type(error).__name__}: {error}"))
        finally:
            self.tell(self._end)


@contextmanager
def watched(pipe: Any, tick: Callable[[], None]) -> Iterator[None]:
    """Call `tick` before every call of the pipeline's networks, forecast ones too; what it raises ends the run.

    The hooks are gone on exit.
    """

    def hook(*_: Any) -> None:
        tick()

    handles = [network.register_forward_pre_hook(hook) for network in denoisers(pipe)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
