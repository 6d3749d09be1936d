"""Which device computes, in which precision."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from autoseg.core.errors import DeviceError, UsageError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, LARGEST_INT = -1, -3, 2**31 - 1  # of glibc's malloc.h


def choose_device(name: str | None) -> torch.device:
    """The device called `name` (cpu, cuda, cuda:1, mps), or the best one there is when None.

    Raises:
        UsageError: no such kind of device. DeviceError: this machine has none of that kind or number.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name} is no device; give cpu, cuda, cuda:1 or mps") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = f"{torch.cuda.device_count()} CUDA devices found"
        raise DeviceError(f"--device {name}: {found}; choose another or use cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("--device mps: this machine has no such device; use cpu")
    if device.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"--device {name} is not supported; give cpu, cuda, cuda:1 or mps")
    return device


def choose_devices(names: str | None) -> list[torch.device]:
    """Several devices, their names parted by commas; None stands for all GPUs that are visible, or the CPU.

    Raises:
        UsageError, DeviceError: as `choose_device`.
    """
    if names is None and torch.cuda.device_count() > 1:
        return [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    return [choose_device(name) for name in names.split(",")] if names is not None else [choose_device(None)]


def device_of_rank(name: str | None, *, local_rank: int, local_size: int) -> torch.device:
    """The device of one of `local_size` processes on a machine: each has a GPU of its own, or they share the CPU.

    Raises:
        UsageError: a device by number. DeviceError: there are fewer GPUs than processes; in each of them alike.
    """
    if name not in (None, "cpu", "cuda"):
        raise UsageError(f"--device {name}: several processes take cpu, cuda or nothing; each has a GPU of its own")
    if name == "cpu":
        return torch.device("cpu")
    if torch.cuda.device_count() < local_size:
        found = f"{local_size} processes need as many GPUs, and {torch.cuda.device_count()} were found"
        raise DeviceError(f"{found}; ask for fewer, or for processes on the CPU with --device cpu")
    return torch.device("cuda", local_rank)


@contextmanager
def enough_memory(todo: str | Callable[[], str]) -> Iterator[None]:
    """In this context a device without memory left is a DeviceError that ends in `todo`, or in what it returns."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        what = todo if isinstance(todo, str) else todo()
        raise DeviceError(f"{out_of_memory(error)}; {what}") from error


def out_of_memory(error: Exception) -> str | None:
    """What an error says about memory that did not suffice; None where it says something else."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        found = str(error).partition(" GPU ")[0]  # the rest advises programmers
        return f"the memory of the GPU does not suffice ({found})"
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
        return "the memory of this machine does not suffice"
    return None


def device_name(device: torch.device) -> str:
    """What the device is called by its maker; of a CPU "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def free_memory_gb(device: str | torch.device) -> float:
    """Memory that is free on a CUDA device."""
    return float(torch.cuda.mem_get_info(device)[0] / 1e9)


def choose_precision(device: torch.device, wanted: str = "auto") -> str:
    """float32, bf16 or fp16: with "auto" the fastest that the hardware computes natively.

    A CPU without bf16 instructions emulates them, many times slower than float32.
    """
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"
    if device.type == "cpu" and torch.backends.mkldnn.is_available() and _native_bf16():
        return "bf16"
    return "float32"


def _native_bf16() -> bool:
    # private names, some of them not in every version
    tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    native = any(getattr(torch.cpu, name, bool)() for name in tests)
    return native and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def keep_freed_memory() -> None:
    """On a CPU with glibc: hold memory that was freed for the next step instead of giving it back to the system.

    Feature maps of some hundred megabytes are allocated and freed in every step; each time, the system would hand out
    and clear every page of them anew. See documentation/decisions/0024.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for parameter in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            mallopt(parameter, LARGEST_INT)


def give_back_freed_memory() -> None:
    """Let the C library return to the system what `keep_freed_memory` made it keep; glibc only."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Context in which networks compute in `precision`."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16)
