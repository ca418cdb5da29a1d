"""Who does the work: this process, several processes that share nothing, or the actors of a Ray cluster.

One interface, and the same results: a task says everything that its result follows from.
"""

from skipcast.bench.executors.alone import InProcess as InProcess
from skipcast.bench.executors.base import Executor as Executor
from skipcast.bench.executors.base import Make as Make
from skipcast.bench.executors.base import Runner as Runner
from skipcast.bench.executors.base import WorkerError as WorkerError
from skipcast.bench.executors.cluster import Ray as Ray
from skipcast.bench.executors.processes import Processes as Processes


def executor(make: Make, workers: int | None = None, address: str | None = None) -> Executor:
    """The executor that is meant by options of a command.

    Args:
        make: makes the runner of each worker.
        workers: how many; None for one, or on a cluster as many as it has GPUs.
        address: of a Ray cluster; None for this machine without one.

    Raises:
        ImportError: Ray is not installed.
        ValueError: fewer than one worker.
    """
    if address is not None:
        return Ray(address, workers, make)
    return InProcess(make) if workers in (None, 1) else Processes(workers or 0, make)
