"""Ctrl-C and SIGTERM that wait for a good moment."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from autoseg.core.errors import Interrupted


@contextmanager
def remembered_signals() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT instead of dying of them; a second Ctrl-C ends the program at once.

    A second SIGTERM does not: a job scheduler sends one to every process of a job, and a parent passes on its own.
    Outside the main thread, which alone is told of signals, the list stays empty.
    """
    received: list[int] = []

    def remember(number: int, _: object) -> None:
        if number == signal.SIGINT and number in received:
            raise KeyboardInterrupt
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    old = {number: signal.signal(number, remember) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """A signal that comes in this context interrupts the program at its end. Raises Interrupted."""
    received: list[int] = []
    try:
        with remembered_signals() as received:
            yield
    finally:  # what failed, failed because of the signal: it went to the other processes too
        if received:
            raise Interrupted(received[0])
