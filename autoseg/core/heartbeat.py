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
    path = folder / NAME
    me = Worker(host=socket.gethostname(), process=os.getpid())
    folder.mkdir(parents=True, exist_ok=True)
    if (other := worker_in(folder)) and (other.host == me.host or _beats(path)):
        raise UsageError(f"{folder} is being worked on by {other}; wait until it is done, or stop it")
    path.unlink(missing_ok=True)
    try:
        with open(path, "x") as file:  # of two that begin at once, one gets it
            file.write(me.model_dump_json())
    except FileExistsError as error:
        raise UsageError(
            f"{folder} is being worked on by somebody who began just now; wait until it is done"
        ) from error
    over = threading.Event()
    beating = threading.Thread(target=_beat, args=(path, over), daemon=True)
    beating.start()
    try:
        yield
    finally:
        over.set()
        beating.join()
        with suppress(DataError):
            if Worker.read(path) == me:
                path.unlink()


def _beats(path: Path) -> bool:
    """Whether a claim from another machine, whose clock may be another, is touched while one looks on."""
    first, end = path.stat().st_mtime, time.monotonic() + 3 * BEAT_S
    while time.monotonic() < end:
        time.sleep(BEAT_S / 10)
        with suppress(OSError):
            if path.stat().st_mtime != first:
                return True
    return False


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
    if os.name != "posix":  # where signal 0 is none
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it belongs to somebody else
    return True
