"""Run a command; measure wall time and the peak memory of all its processes together. And where: the machine."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from autoseg.core.workers import available_cpus

SAMPLE_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Wall time, and the highest sum over the process tree of proportional set sizes (shared pages count once)."""

    seconds: float
    peak_gb: float


def run(command: list[str], *, log: Path, env: dict[str, str] | None = None, with_memory: bool = True) -> Measured:
    """Run a command to its end, its output going to `log`. Raises RuntimeError when it fails.

    Looking at the memory of a process of some gigabytes takes a good part of a CPU; without it the peak is 0.
    """
    started, peak = time.monotonic(), 0
    with open(log, "a") as output:
        output.write(f"$ {' '.join(command)}\n")
        output.flush()
        variables = {**os.environ, **(env or {})}
        process = subprocess.Popen(command, stdout=output, stderr=output, env=variables, start_new_session=True)
        while process.returncode is None:
            if with_memory:
                peak = max(peak, sum(map(_memory, _tree(process.pid))))
            with suppress(subprocess.TimeoutExpired):
                process.wait(SAMPLE_S)
    seconds = time.monotonic() - started
    _wait_for_group(process.pid)
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}; see {log}")
    return Measured(seconds=seconds, peak_gb=peak / 1e9)


def _wait_for_group(group: int) -> None:
    """Helper processes that unload their libraries must not disturb what is measured next."""
    with suppress(ProcessLookupError):
        while True:
            os.killpg(group, 0)
            time.sleep(SAMPLE_S)


def _tree(root: int) -> list[int]:
    """A process and all its descendants, as far as they still live."""
    found, waiting = [], [root]
    while waiting:
        process = waiting.pop()
        found.append(process)
        for task in Path(f"/proc/{process}/task").glob("*/children"):
            try:
                waiting += map(int, task.read_text().split())
            except OSError:  # it has just ended
                continue
    return found


def _memory(process: int) -> int:
    """Proportional set size in bytes; 0 for a process that has just ended."""
    try:
        rows = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(row.split()[1]) * 1024 for row in rows if row.startswith("Pss:")), 0)


def machine() -> dict[str, object]:
    """What a benchmark runs on."""
    import torch

    rows = Path("/proc/cpuinfo").read_text().splitlines()
    return {
        "cpu": next((row.partition(":")[2].strip() for row in rows if row.startswith("model name")), "unknown"),
        "cpus": available_cpus(),
        "memory_gb": round(int(Path("/proc/meminfo").read_text().split()[1]) / 1e6, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
