"""The batches of a task, prepared by worker processes."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset

from lineament.train.task import Batch, Part, Task


class _Steps(Dataset[Batch]):
    """The batches of a task by step, for workers to prepare."""

    def __init__(self, task: Task, part: Part) -> None:
        self.task, self.part = task, part

    def __getitem__(self, step: int) -> Batch:
        return self.task.batch(step, self.part)


def batches(task: Task, part: Part, start: int, workers: int) -> Iterator[Batch]:
    """The arrays of every step from ``start``, without end.

    Args:
        task: The task.
        part: The part of every batch.
        start: The first step.
        workers: Number of processes that prepare batches. 0: this process.
    """
    return iter(
        DataLoader(
            _Steps(task, part),
            batch_size=None,
            sampler=itertools.count(start),
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            collate_fn=_as_it_is,
            worker_init_fn=_end_with_parent,
        )
    )


def _as_it_is(batch: Any) -> Any:
    """Workers send arrays as bytes; each tensor would wait for the worker to pass a file."""
    return batch


def _end_with_parent(_: int) -> None:
    """End this worker when the training is killed. PyTorch's own check waits for the queue, which may be full."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
