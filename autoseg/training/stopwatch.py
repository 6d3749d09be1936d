"""Where the time of an epoch goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Adds up the seconds of named parts of the work; on a GPU it waits until the part is done."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Context whose time counts as `part`."""
        self._wait()
        started = time.perf_counter()
        yield
        self._wait()
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - started

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def table(self, *, steps: int) -> str:
        """A line per part: share of the time and milliseconds per step, the largest first."""
        total = sum(self.seconds.values())
        ordered = sorted(self.seconds.items(), key=lambda item: -item[1])
        return "\n".join(
            f"  {name:<12} {seconds / total:6.1%} {1000 * seconds / steps:10.1f} ms" for name, seconds in ordered
        )
