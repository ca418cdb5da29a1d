"""Several processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait

from skipcast.bench.executors.base import Answer, Desk, Make, packed
from skipcast.bench.executors.pool import Died, Job, Member, Pool

_LEAVING = 5.0  # seconds that an idle worker has to end


class Processes(Pool["_Process"]):
    """Several processes of this machine, each on a GPU of its own as far as there are any.

    Args:
        count: of processes.
        make: makes the runner of each.
    """

    def __init__(self, count: int, make: Make) -> None:
        super().__init__(count)
        self._make = packed(make)

    def _start(self) -> _Process:
        taken = [member.gpu for member in self._members]
        return _Process(self._make, min(_gpus(), key=taken.count, default=None))

    def _ready(self, members: Sequence[_Process]) -> Sequence[_Process]:
        speaking = wait([member.connection for member in members])
        return [member for member in members if member.connection in speaking]


class _Process(Member):
    """A worker's process, seen from outside."""

    def __init__(self, make: bytes, gpu: str | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.gpu = gpu
        self.connection, far = context.Pipe()
        self.process = context.Process(target=_serve, args=(far, gpu, make), daemon=True)
        self.process.start()
        far.close()  # so that its end is seen here

    def send(self, job: Job) -> bool:
        try:
            self.connection.send_bytes(packed(job.task))
        except OSError:
            return False
        self.job = job
        return True

    def begin(self) -> None:
        pass

    def answer(self) -> Answer:
        try:
            found = pickle.loads(self.connection.recv_bytes())
        except (EOFError, OSError) as error:
            raise Died(str(error)) from error
        assert isinstance(found, Answer)
        return found

    def close(self) -> None:
        self.connection.close()
        if self.job is None:  # it sees that, and tidies up
            self.process.join(_LEAVING)
        if self.process.is_alive():
            self.process.terminate()
        self.process.join()


def _serve(connection: Connection, gpu: str | None, make: bytes) -> None:
    """The life of a worker: it ends when nobody listens any more."""
    if gpu is not None:  # before the first use of any
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    desk = Desk(make)
    while True:
        try:
            connection.send_bytes(desk.answer(connection.recv_bytes()))
        except (EOFError, OSError):
            return


def _gpus() -> list[str]:
    """Names of the GPUs that processes may be spread over; none where there is but one to share."""
    import torch

    count = torch.cuda.device_count()
    if count < 2:
        return []
    return os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
