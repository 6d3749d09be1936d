"""Folds on several devices: each device takes the next fold when it has finished one, in a process of its own."""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from autoseg.core.errors import AutosegError, DeviceError, Interrupted
from autoseg.core.signals import uninterrupted
from autoseg.core.workers import available_cpus
from autoseg.pipeline.fold_task import FoldTask, train_and_validate
from autoseg.pipeline.outcome import Progress

TOLD_EVERY_S = 1.0
Result = dict[str, Any] | Exception


@dataclass(kw_only=True)
class _Running:
    task: FoldTask
    device: torch.device
    process: BaseProcess
    told: tuple[str, int, int, str] = ("", 0, 0, "")


def run_in_queue(
    tasks: Sequence[FoldTask], devices: Sequence[torch.device], *, progress: Progress
) -> Iterator[tuple[str, Result]]:
    """Train and validate folds, one at a time on each device; yields (fold, its facts or what went wrong).

    A device on which a fold fails for want of it gets no other while there are others. When this process is
    interrupted, so are the folds, and it waits until each has saved its state.
    """
    waiting, free = [*tasks], [*devices]
    running: dict[connection.Connection, _Running] = {}
    n_done = 0
    try:
        while waiting or running:
            while waiting and free:
                with uninterrupted():  # or a fold would run on of which nothing is known here
                    listening, one = _start(waiting.pop(0), free.pop(0), n_devices=len(devices))
                    running[listening] = one
            for ready in connection.wait([*running]):
                assert isinstance(ready, connection.Connection)
                one = running[ready]
                kind, content = _receive(ready, one)
                if kind == "progress":
                    one.told = content
                    progress("folds", *_summary(n_done, len(tasks), [*running.values()]))
                    continue
                one.process.join()
                del running[ready]
                if not (isinstance(content, DeviceError) and (free or running)):  # else it would fail all the others
                    free.append(one.device)
                n_done += 1
                yield one.task.fold, content
    finally:
        for one in running.values():
            one.process.terminate()
        for one in running.values():
            one.process.join()


def _summary(n_done: int, n_folds: int, running: Sequence[_Running]) -> tuple[int, int, str]:
    """Thousandths done of all folds together, and what each that is running does."""
    shares = [done / max(1, total) for _, done, total, _ in (one.told for one in running)]
    text = " | ".join(f"{stage} {text}".strip() for stage, _, _, text in (one.told for one in running))
    return int(1000 * (n_done + sum(shares))), 1000 * n_folds, text


def _start(task: FoldTask, device: torch.device, *, n_devices: int) -> tuple[connection.Connection, _Running]:
    context = multiprocessing.get_context("spawn")  # CUDA cannot be used in a forked process
    listening, telling = context.Pipe(duplex=False)
    placed = replace(task, job=replace(task.job, device=device))
    level = logging.getLogger().getEffectiveLevel()
    process = context.Process(target=_work, args=(placed, telling, level, n_devices), name=f"fold {task.fold}")
    process.start()
    telling.close()
    return listening, _Running(task=task, device=device, process=process)


def _receive(listening: connection.Connection, one: _Running) -> tuple[str, Any]:
    try:
        message: tuple[str, Any] = listening.recv()
        return message
    except EOFError:
        one.process.join()
        return "result", DeviceError(
            f"the process of fold {one.task.fold} on {one.device} ended with code {one.process.exitcode} and without a "
            "word, usually for lack of memory; its state is saved up to some minutes ago"
        )


def _work(task: FoldTask, telling: connection.Connection, level: int, n_devices: int) -> None:
    """What the process of a fold does."""
    logging.basicConfig(level=level, format=f"fold {task.fold}: %(message)s")
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C reaches the parent alone, which passes it on once
    signal.signal(signal.SIGTERM, _stop)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_stop_with, args=(parent.sentinel,), daemon=True).start()
    if task.plugin is not None:
        importlib.import_module(task.plugin)
    if task.job.device.type == "cpu":
        torch.set_num_threads(max(1, available_cpus() // n_devices))
    last = 0.0

    def progress(stage: str, done: int, total: int, text: str) -> None:
        nonlocal last
        if time.monotonic() - last > TOLD_EVERY_S:
            last = time.monotonic()
            _tell(telling, ("progress", (stage, done, total, text)))

    result: Result
    try:
        result = train_and_validate(task, progress)
    except KeyboardInterrupt:
        return
    except (AutosegError, OSError) as error:
        result = error
    except Exception as error:
        found = f"unexpected {type(error).__name__}: {error}"
        result = DeviceError(f"{found}; run this fold alone with --debug (-f {task.fold}) and report what it prints")
    _tell(telling, ("result", result))


def _tell(telling: connection.Connection, message: tuple[str, Any]) -> None:
    with suppress(OSError):  # the parent has gone: the signal that ends this process is on its way
        telling.send(message)


def _stop(number: int, _: object) -> None:
    raise Interrupted(number)


def _stop_with(parent: int) -> None:
    """End, with the state saved, when the parent is gone."""
    connection.wait([parent])
    os.kill(os.getpid(), signal.SIGTERM)
