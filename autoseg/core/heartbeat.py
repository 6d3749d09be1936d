"""A file that says that somebody is at work on a folder, and is touched for as long as that is true."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from autoseg.core.errors import DataError, UsageError
from autoseg.core.files import write_json
from autoseg.core.records import Record

NAME = "running.json"
BEAT_S = 20.0
DEAD_AFTER_S = 300.0  # the clocks of a cluster's machines and its file server may differ by minutes


class Worker(Record):
    """Who is at work: a process on a machine."""

    host: str
    process: int

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


@contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """Keep running.json in `folder` for the time of this context.

    Raises:
        UsageError: another process is at work there.
    """
    if other := worker_in(folder):
        raise UsageError(
            f"{folder} is being worked on by {other}; wait until it is done, or stop it (one that was killed on "
            f"another machine is taken for dead after {DEAD_AFTER_S / 60:.0f} minutes)"
        )
    path = folder / NAME
    write_json(path, Worker(host=socket.gethostname(), process=os.getpid()).model_dump())
    over = threading.Event()
    beating = threading.Thread(target=_beat, args=(path, over), daemon=True)
    beating.start()
    try:
        yield
    finally:
        over.set()
        beating.join()
        path.unlink(missing_ok=True)


def _beat(path: Path, over: threading.Event) -> None:
    while not over.wait(BEAT_S):
        with suppress(OSError):  # the folder was moved away
            os.utime(path)


def worker_in(folder: Path) -> Worker | None:
    """Who is at work in a folder; None when nobody is, or when the one who was has died."""
    path = folder / NAME
    try:
        worker = Worker.read(path)
        quiet_s = time.time() - path.stat().st_mtime
    except (DataError, OSError):
        return None
    here = worker.host == socket.gethostname()
    dead = quiet_s > DEAD_AFTER_S or (here and (worker.process == os.getpid() or not _lives(worker.process)))
    return None if dead else worker


def died_in(folder: Path) -> bool:
    """Whether somebody who was at work in a folder has died without a word."""
    return (folder / NAME).is_file() and worker_in(folder) is None


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it belongs to somebody else
    return True
