"""Worker processes that read crops ahead of the network. They draw nothing that depends on their number."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from batchgenerators.dataloading.multi_threaded_augmenter import MultiThreadedAugmenter

from autoseg.core.errors import DataError, DeviceError
from autoseg.core.workers import end_with_parent
from autoseg.training.sampling import CropRules, read_batch

PROBLEMS = "problems"  # of a batch that could not be read


class StepReader:
    """Reads the batches of steps first + i, first + i + n, ... for worker i of n: a loader of batchgenerators."""

    def __init__(self, rules: CropRules, *, first_step: int, workers: int) -> None:
        self.rules = rules
        self.step = first_step
        self.stride = max(1, workers)

    def set_thread_id(self, worker: int) -> None:
        """Called once inside each worker process."""
        self.step += worker
        # The parent decides when to stop: Ctrl-C and a job scheduler's SIGTERM reach the workers too, but the
        # step that is running needs them until the state is saved.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        end_with_parent()

    def __iter__(self) -> StepReader:
        return self

    def __next__(self) -> dict[str, Any]:
        try:
            batch = read_batch(self.rules, self.step)
        except DataError as error:  # which a worker process could not raise here
            return {PROBLEMS: error.problems}
        self.step += self.stride
        return batch


@contextmanager
def batches(rules: CropRules, *, first_step: int, workers: int) -> Iterator[Iterator[dict[str, Any]]]:
    """Iterator over the batches of steps first_step, first_step + 1, ...; endless and in order.

    They are read ahead by `workers` processes (0: in this process when asked for), which end with the context. Taking a
    batch raises DataError when a stored case is damaged, and DeviceError when one of the processes has died.
    """
    reader = StepReader(rules, first_step=first_step, workers=workers)
    if workers == 0:
        yield map(_sound, reader)
        return
    pool = MultiThreadedAugmenter(reader, None, workers, num_cached_per_queue=2, wait_time=0.005)
    pool.restart()
    processes = list(pool._processes)
    try:
        yield _watched(pool)
    finally:
        pool._finish()
        for process in processes:
            process.kill()  # one that hangs in a read; as a rule they have ended


def _watched(pool: MultiThreadedAugmenter) -> Iterator[dict[str, Any]]:
    while True:
        try:
            batch = next(pool)
        except RuntimeError as error:
            raise DeviceError(
                "a process that reads training crops has died, usually for lack of memory or because the case store "
                "was changed; free memory or preprocess again, then run the same command: training resumes"
            ) from error
        yield _sound(batch)


def _sound(batch: dict[str, Any]) -> dict[str, Any]:
    if PROBLEMS in batch:
        raise DataError(batch[PROBLEMS])
    return batch
