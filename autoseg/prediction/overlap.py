"""Reading, computing and writing of consecutive items at the same time."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")
Made = TypeVar("Made")
Result = TypeVar("Result")


def overlapped(
    items: Iterable[Item],
    *,
    read: Callable[[Item], Read],
    compute: Callable[[Item, Read, Callable[[], None]], Made],
    finish: Callable[[Item, Made], Result],
) -> Iterator[tuple[Item, Result | Exception]]:
    """Do read, compute and finish for every item; yield its result, or what went wrong with it, in order.

    `compute` runs in this thread, `read` of the next item and `finish` of the last one in two others. At most one item
    is in each of the three. `compute` is given a function that begins to read the next item; where it does not call it
    (because memory is scarce), reading begins when it is done.
    """
    waiting = iter(items)
    ended: list[Exception] = []  # what the items' iterator raised: no fault of the item that is computed then
    with ThreadPoolExecutor(1, "read") as reader, ThreadPoolExecutor(1, "finish") as writer:
        reading: deque[tuple[Item, Future[Read]]] = deque()
        finishing: deque[tuple[Item, Future[Result]]] = deque()

        def read_next() -> None:
            if reading or ended:
                return
            try:
                item = next(waiting)
            except StopIteration:
                return
            except Exception as error:
                ended.append(error)
                return
            reading.append((item, reader.submit(read, item)))

        read_next()
        while reading:
            item, arriving = reading.popleft()
            try:
                made = compute(item, _taken(arriving), read_next)
            except Exception as error:
                traceback.clear_frames(error.__traceback__)  # which would keep the item's arrays alive
                outcome: Future[Result] = Future()
                outcome.set_exception(error)
            else:
                outcome = writer.submit(finish, item, made)
                del made
            read_next()
            if finishing:
                yield _outcome(*finishing.popleft())
            finishing.append((item, outcome))
        yield from (_outcome(*pair) for pair in finishing)
    if ended:
        raise ended[0]


def _taken(future: Future[Read]) -> Read:
    """The result of a future, which no longer holds it afterwards: it may be large."""
    result = future.result()
    future._result = None  # type: ignore[attr-defined]
    return result


def _outcome(item: Item, future: Future[Result]) -> tuple[Item, Result | Exception]:
    try:
        return item, future.result()
    except Exception as error:
        traceback.clear_frames(error.__traceback__)  # which would keep the item's arrays alive
        return item, error
