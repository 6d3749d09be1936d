"""Who is where and when: read, compute and finish of consecutive items, held up by events instead of by the clock."""

from __future__ import annotations

import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.prediction.overlap import overlapped

PATIENCE = 20  # seconds until a test gives up on something that should happen at once
STEPS = ("read", "compute", "finish")
ReadNext = Callable[[], None]


class Large:
    """Something that a weak reference can watch."""


def soon(true: Callable[[], bool]) -> bool:
    """Whether something comes true; a thread may still hold its last item for a moment."""
    until = time.monotonic() + PATIENCE
    while not true() and time.monotonic() < until:
        time.sleep(0.001)
    return true()


def extra_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("read", "finish"))]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from((*STEPS, "", "")), st.integers(0, 2)), max_size=6))
def test_every_item_gets_its_own_result_or_error_in_order(items: list[tuple[str, int]]) -> None:
    done: list[tuple[str, int]] = []

    def step(name: str, number: int) -> None:
        done.append((name, number))
        if items[number][0] == name:
            raise ValueError(f"{name} {number}")

    def read(number: int) -> str:
        step("read", number)
        return f"r{number}"

    def compute(number: int, arrived: str, read_next: ReadNext) -> str:
        for _ in range(items[number][1]):  # not at all, once, or twice
            read_next()
        step("compute", number)
        return f"c{number} of {arrived}"

    def finish(number: int, made: str) -> str:
        step("finish", number)
        return f"f{number} of {made}"

    found = [*overlapped(range(len(items)), read=read, compute=compute, finish=finish)]
    assert [number for number, _ in found] == [*range(len(items))]
    for (number, result), (broken, _) in zip(found, items, strict=True):
        if broken:
            assert isinstance(result, ValueError)
            assert str(result) == f"{broken} {number}"
        else:
            assert result == f"f{number} of c{number} of r{number}"
    for number, (broken, _) in enumerate(items):
        reached = STEPS[: STEPS.index(broken) + 1] if broken else STEPS
        assert [name for name in STEPS if (name, number) in done] == [*reached]
    assert max(Counter(done).values(), default=1) == 1
    assert not extra_threads()


def test_an_item_may_be_asked_for_while_another_is_computed() -> None:
    begun = [threading.Event() for _ in range(4)]
    during: list[bool] = []

    def read(number: int) -> int:
        begun[number].set()
        return number

    def compute(number: int, arrived: int, read_next: ReadNext) -> int:
        read_next()
        if number < 3:
            during.append(begun[number + 1].wait(PATIENCE))
        return arrived

    assert [*overlapped(range(4), read=read, compute=compute, finish=lambda number, made: made)] == [
        (number, number) for number in range(4)
    ]
    assert during == [True] * 3


def test_without_being_asked_reading_waits_for_the_end_of_the_computation() -> None:
    reads: list[int] = []
    seen: list[list[int]] = []

    def read(number: int) -> int:
        reads.append(number)
        return number

    def compute(number: int, arrived: int, read_next: ReadNext) -> int:
        time.sleep(0.02)
        seen.append([*reads])
        return arrived

    assert len([*overlapped(range(3), read=read, compute=compute, finish=lambda number, made: made)]) == 3
    assert seen == [[0], [0, 1], [0, 1, 2]]


def test_asking_twice_reads_one_item_ahead() -> None:
    reads: list[int] = []
    seen: list[list[int]] = []

    def read(number: int) -> int:
        reads.append(number)
        return number

    def compute(number: int, arrived: int, read_next: ReadNext) -> int:
        for _ in range(3):
            read_next()
            time.sleep(0.01)
        assert soon(lambda: len(reads) >= min(5, number + 2))
        seen.append([*reads])
        return arrived

    assert len([*overlapped(range(5), read=read, compute=compute, finish=lambda number, made: made)]) == 5
    assert seen == [[*range(min(5, number + 2))] for number in range(5)]


def test_finishing_overlaps_the_next_computation() -> None:
    begun = [threading.Event() for _ in range(4)]
    during: list[bool] = []

    def compute(number: int, arrived: int, read_next: ReadNext) -> int:
        begun[number].set()
        return arrived

    def finish(number: int, made: int) -> int:
        if number < 3:
            during.append(begun[number + 1].wait(PATIENCE))
        return made

    results = overlapped(range(4), read=lambda number: number, compute=compute, finish=finish)
    assert [number for number, _ in results] == [0, 1, 2, 3]
    assert during == [True] * 3


@pytest.mark.parametrize("slow", STEPS)
def test_at_most_one_item_is_in_each_step(slow: str) -> None:
    lock, inside, most = threading.Lock(), Counter[str](), Counter[str]()
    where: dict[str, set[str]] = {name: set() for name in STEPS}

    @contextmanager
    def counted(name: str) -> Iterator[None]:
        with lock:
            inside[name] += 1
            most[name] = max(most[name], inside[name])
            where[name].add(threading.current_thread().name)
        time.sleep(0.01 if name == slow else 0.001)
        yield
        with lock:
            inside[name] -= 1

    def read(number: int) -> int:
        with counted("read"):
            return number

    def compute(number: int, arrived: int, read_next: ReadNext) -> int:
        with counted("compute"):
            read_next()
            time.sleep(0.002)
            return arrived

    def finish(number: int, made: int) -> int:
        with counted("finish"):
            return made

    assert len([*overlapped(range(6), read=read, compute=compute, finish=finish)]) == 6
    assert most == dict.fromkeys(STEPS, 1)
    assert where["compute"] == {threading.current_thread().name}
    assert len(set.union(*where.values())) == 3


def test_no_item_is_computed_while_the_one_before_the_last_is_unfinished() -> None:
    """Else finished results would pile up where writing is the slowest step."""
    finished: list[int] = []
    seen: list[int] = []

    def compute(number: int, arrived: int, read_next: ReadNext) -> int:
        seen.append(len(finished))
        return arrived

    def finish(number: int, made: int) -> int:
        time.sleep(0.02)
        finished.append(number)
        return made

    assert len([*overlapped(range(5), read=lambda number: number, compute=compute, finish=finish)]) == 5
    assert all(before >= number - 1 for number, before in enumerate(seen))


def test_what_was_read_and_made_is_released() -> None:
    scans: list[weakref.ref[Large]] = []
    made: list[weakref.ref[Large]] = []
    released: list[tuple[bool, bool]] = []

    def read(number: int) -> Large:
        scan = Large()
        scans.append(weakref.ref(scan))
        return scan

    def compute(number: int, scan: Large, read_next: ReadNext) -> Large:
        earlier_scans, earlier_made = scans[:number], made[: max(0, number - 1)]
        released.append(
            (
                soon(lambda: all(scan() is None for scan in earlier_scans)),
                soon(lambda: all(result() is None for result in earlier_made)),
            )
        )
        read_next()
        result = Large()
        made.append(weakref.ref(result))
        return result

    for number, _ in overlapped(range(4), read=read, compute=compute, finish=lambda number, result: number):
        assert soon(lambda until=number: made[until]() is None)
    assert released == [(True, True)] * 4
    assert all(reference() is None for reference in (*scans, *made))


@pytest.mark.parametrize("kept", [False, True], ids=["dropped", "kept"])
@pytest.mark.parametrize("broken", STEPS)
def test_a_failed_item_is_released(broken: str, kept: bool) -> None:
    """Also where what went wrong is kept: its frames know the item no longer."""
    scans: list[weakref.ref[Large]] = []
    released: list[bool] = []

    def fail(name: str, number: int) -> None:
        if (name, number) == (broken, 0):
            raise ValueError(name)

    def read(number: int) -> Large:
        scan = Large()
        scans.append(weakref.ref(scan))
        fail("read", number)
        return scan

    def compute(number: int, scan: Large, read_next: ReadNext) -> Large:
        if number == 2:
            released.append(soon(lambda: scans[0]() is None))
        fail("compute", number)
        return scan

    def finish(number: int, made: Large) -> int:
        fail("finish", number)
        return number

    outcomes: list[object] = []
    for _, outcome in overlapped(range(3), read=read, compute=compute, finish=finish):
        outcomes.append(outcome if kept else str(outcome))
        del outcome
    assert released == [True]
    assert [str(outcome) for outcome in outcomes] == [broken, "1", "2"]


def test_what_was_read_goes_with_its_last_user() -> None:
    """A computation that lets go of its image really frees it: nobody else holds it."""
    gone: list[bool] = []

    def compute(number: int, scan: Large, read_next: ReadNext) -> int:
        reference = weakref.ref(scan)
        del scan
        gone.append(soon(lambda: reference() is None))
        return number

    results = overlapped(range(2), read=lambda number: Large(), compute=compute, finish=lambda number, made: made)
    assert [*results] == [(0, 0), (1, 1)]
    assert gone == [True, True]


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_closing_early_ends_the_threads(taken: int) -> None:
    reads: list[int] = []

    def read(number: int) -> int:
        reads.append(number)
        return number

    def compute(number: int, arrived: int, read_next: ReadNext) -> int:
        read_next()
        return arrived

    results = overlapped(range(100), read=read, compute=compute, finish=lambda number, made: made)
    assert [next(results)[0] for _ in range(taken)] == [*range(taken)]
    assert bool(extra_threads()) == bool(taken)
    results.close()
    assert not extra_threads()
    assert len(reads) <= taken + 2  # the next one is being computed, and the one after it read
    n_reads = len(reads)
    time.sleep(0.01)
    assert len(reads) == n_reads


def test_an_interrupt_in_the_computation_passes() -> None:
    finished: list[int] = []

    def compute(number: int, arrived: int, read_next: ReadNext) -> int:
        read_next()
        if number == 1:
            raise KeyboardInterrupt
        return arrived

    results = overlapped(
        range(9), read=lambda number: number, compute=compute, finish=lambda number, made: finished.append(number)
    )
    with pytest.raises(KeyboardInterrupt):
        list(results)
    assert not extra_threads()
    assert set(finished) <= {0}


@pytest.mark.parametrize("step", ["read", "finish"])
def test_an_interrupt_in_a_thread_passes(step: str) -> None:
    def interrupt(name: str, number: int) -> int:
        if (name, number) == (step, 1):
            raise KeyboardInterrupt
        return number

    results = overlapped(
        range(4),
        read=lambda number: interrupt("read", number),
        compute=lambda number, arrived, read_next: arrived,
        finish=lambda number, made: interrupt("finish", number),
    )
    with pytest.raises(KeyboardInterrupt):
        list(results)
    assert not extra_threads()


def test_an_error_of_the_items_comes_after_what_was_begun() -> None:
    def items() -> Iterator[int]:
        yield from (1, 2)
        raise OSError("no third item")

    def compute(number: int, arrived: int, read_next: ReadNext) -> int:
        read_next()
        return arrived * 10

    results = overlapped(items(), read=lambda n: n, compute=compute, finish=lambda n, made: made)
    assert [next(results), next(results)] == [(1, 10), (2, 20)]
    with pytest.raises(OSError, match="no third item"):
        next(results)
