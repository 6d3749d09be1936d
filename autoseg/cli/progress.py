"""Progress: a bar with the time left on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from typing import Any

QUIET_S = 10.0  # without a terminal, at most one line in this time


class ProgressDisplay:
    """Called with (stage, done, total, text); one bar per stage."""

    def __init__(self) -> None:
        self.stage = ""
        self.bar: Any = None
        self.started = self.spoken = 0.0
        self.first = 0

    def __call__(self, stage: str, done: int, total: int, text: str) -> None:
        """Show that `done` of `total` are done."""
        if stage != self.stage:
            self.close()
            self.stage, self.started, self.spoken, self.first = stage, time.monotonic(), 0.0, done
            if sys.stderr.isatty():
                from tqdm import tqdm

                self.bar = tqdm(total=total, initial=done, desc=stage, file=sys.stderr, dynamic_ncols=True, leave=True)
        if self.bar is not None:
            self.bar.set_postfix_str(text, refresh=done == self.bar.n)
            self.bar.update(done - self.bar.n)
        elif done >= total or time.monotonic() - self.spoken > QUIET_S:
            self.spoken = time.monotonic()
            print(
                f"{stage} {done}/{total}{self._left(done, total)} {text}".rstrip(),
                file=sys.stderr,
                flush=True,
            )

    def announce(self, text: str) -> None:
        """Say which part of a longer work begins."""
        self.close()
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the bar that is shown."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
        self.stage = ""

    def _left(self, done: int, total: int) -> str:
        if done <= self.first or done >= total:
            return ""
        left_s = (time.monotonic() - self.started) / (done - self.first) * (total - done)
        return f" ({left_s / 60:.0f} min left)" if left_s >= 90 else f" ({left_s:.0f} s left)"
