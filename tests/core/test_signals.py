from __future__ import annotations

import os
import signal
import threading

import pytest

from autoseg.core.errors import Interrupted
from autoseg.core.signals import remembered_signals, uninterrupted


def signalled(number: signal.Signals | None, reached: list[str], then: Exception | None = None) -> None:
    with uninterrupted():
        if number is not None:
            os.kill(os.getpid(), number)
        if then is not None:
            raise then
        reached.append("the end")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_of_the_context(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    reached: list[str] = []
    with pytest.raises(Interrupted) as caught:
        signalled(number, reached)
    assert reached == ["the end"]
    assert caught.value.signal == number
    assert signal.getsignal(number) == before


def test_what_fails_after_a_signal_is_an_interruption() -> None:
    with pytest.raises(Interrupted):
        signalled(signal.SIGTERM, [], then=EOFError("the server has ended"))
    with pytest.raises(EOFError):
        signalled(None, [], then=EOFError("nobody has signalled"))


def test_a_second_ctrl_c_ends_at_once() -> None:
    received: list[int] = []

    def twice() -> None:
        with remembered_signals() as remembered:
            os.kill(os.getpid(), signal.SIGINT)
            received.extend(remembered)
            os.kill(os.getpid(), signal.SIGINT)
            received.append(0)

    with pytest.raises(KeyboardInterrupt):
        twice()
    assert received == [signal.SIGINT]


def test_sigterm_may_come_twice() -> None:
    with remembered_signals() as remembered:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
    assert remembered == [signal.SIGTERM, signal.SIGTERM, signal.SIGINT]


def test_other_threads_are_left_alone() -> None:
    found = []

    def work() -> None:
        with uninterrupted(), remembered_signals() as received:
            found.append(received)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [[]]
