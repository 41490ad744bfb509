"""Where subjects are prepared: in processes of this machine, or on a dask cluster that is there.

Both yield a subject's outcomes as soon as it is done, and outlive a worker that dies.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed

from joblib.externals.loky import ProcessPoolExecutor
from joblib.externals.loky.process_executor import TerminatedWorkerError

from metavoxel.errors import MetaVoxelError
from metavoxel.preprocess.cohort import Job, Outcome, bury, interrupted, run_subject

Executor = Callable[[Sequence[Job]], Iterator[list[Outcome]]]

_LOOK_EVERY = 0.5  # seconds between a worker's looks at whether its parent lives
# A scan is prepared in one thread: scans beside each other are faster, and give the same bits.
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1",
}


def on_this_machine(workers: int) -> Executor:
    """So many subjects at a time, each in a process of its own.

    A worker that dies (for lack of memory, say) breaks the pool. The subjects that were under way
    are then tried again alone, so that the one that kills is known; the others go on together.
    """

    def run(jobs: Sequence[Job]) -> Iterator[list[Outcome]]:
        left = {job.subject: job for job in jobs}
        while left:
            try:
                for outcomes in _pool([*left.values()], workers):
                    del left[outcomes[0].subject]
                    yield outcomes
            except TerminatedWorkerError:
                suspects = [job for job in left.values() if interrupted(job)]
                for job in suspects or [*left.values()][:1]:
                    del left[job.subject]
                    yield from _alone(job)

    return run


def _alone(job: Job) -> Iterator[list[Outcome]]:
    """A subject with nothing beside it; a scan that kills its process is named, and left out."""
    dead: list[Outcome] = []
    while job.scans:
        try:
            (outcomes,) = _pool([job], 1)
            yield dead + outcomes
            return
        except TerminatedWorkerError:
            killed, job = bury(job, "its process was killed, most likely because memory ran out")
            dead += killed
    yield dead


def _pool(jobs: Sequence[Job], workers: int) -> Iterator[list[Outcome]]:
    pool = ProcessPoolExecutor(
        workers, initializer=_serve, initargs=(os.getpid(),), env=_ONE_THREAD
    )
    try:
        for future in as_completed([pool.submit(run_subject, job) for job in jobs]):
            yield future.result()
    finally:  # when interrupted, at once: what a worker was writing has a temporary name
        pool.shutdown(wait=True, kill_workers=True)


def _serve(parent: int) -> None:
    """Of a worker: leave interrupts to the parent, and end with it, however it ends.

    A parent that is killed takes no leave of its workers, who would wait for work for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_EVERY)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def on_dask(address: str) -> Executor:
    """As many subjects at a time as the cluster of a dask scheduler takes.

    Its workers must see the same files at the same paths. Raises MetaVoxelError if it is not there.
    """
    try:
        from distributed import Client, KilledWorker
        from distributed import as_completed as as_they_come
    except ImportError:
        raise MetaVoxelError(
            "--executor needs dask. Install it with: pip install 'metavoxel[prep,dask]'"
        ) from None

    def run(jobs: Sequence[Job]) -> Iterator[list[Outcome]]:
        try:
            client = Client(address, timeout="10s", set_as_default=False)
        except (OSError, ValueError):
            raise MetaVoxelError(
                f"{address}: no dask scheduler answers there. Start one with: dask scheduler"
            ) from None
        with client:
            futures = client.map(run_subject, jobs, pure=False)
            in_hand = {f.key: (f, job) for f, job in zip(futures, jobs, strict=True)}
            coming = as_they_come(futures, loop=client.loop)
            try:
                for future in coming:
                    _, job = in_hand.pop(future.key)
                    try:
                        yield future.result()
                    except KilledWorker:
                        dead, rest = bury(job, "the dask workers that had it were killed")
                        yield dead
                        if rest.scans:
                            again = client.submit(run_subject, rest, pure=False)
                            in_hand[again.key] = again, rest
                            coming.add(again)
            finally:
                client.cancel([future for future, _ in in_hand.values()])

    return run
