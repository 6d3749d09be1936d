"""The device and the precision that a computation runs with."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from autoseg.core.errors import DeviceError, UsageError
from autoseg.nets import device as device_module
from autoseg.nets.device import autocast, choose_device, choose_precision, enough_memory

CPU = torch.device("cpu")


def test_the_cpu_can_always_be_chosen() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device(None).type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["", "gpu", "cuda:x", "meta", "3"])
def test_what_is_no_device_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="give cpu, cuda"):
        choose_device(name)


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(DeviceError, match=f"cuda:{torch.cuda.device_count()}: .* CUDA devices found"):
        choose_device(f"cuda:{torch.cuda.device_count()}")


def test_a_wanted_precision_is_taken() -> None:
    assert [choose_precision(CPU, wanted) for wanted in ("float32", "bf16")] == ["float32", "bf16"]


@pytest.mark.parametrize(("native", "expected"), [(False, "float32"), (True, "bf16")])
def test_the_cpu_uses_bf16_only_where_it_has_instructions(
    native: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_module, "_native_bf16", lambda: native)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert choose_precision(CPU) == expected
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert choose_precision(CPU) == "float32"


def test_older_torch_without_the_tests_counts_as_without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert choose_precision(CPU) == "float32"


def test_full_precision_needs_no_autocast() -> None:
    image = torch.ones(1, 1, 3, 3)
    with autocast(CPU, "float32"):
        assert not torch.is_autocast_enabled("cpu")
        assert (image @ image).dtype == torch.float32
    with autocast(CPU, "bf16"):
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16


def test_a_full_device_is_told_in_words() -> None:
    told = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of ..."
    found = r"memory of the GPU .*Tried to allocate 2.00 GiB\.\); close something"
    with pytest.raises(DeviceError, match=found), enough_memory("close something"):
        raise torch.cuda.OutOfMemoryError(told)


@pytest.mark.skipif(sys.platform != "linux", reason="the C library of Linux")
def test_kept_memory_can_be_given_back() -> None:
    code = """
import torch
from autoseg.core.workers import used_memory_gb
from autoseg.nets.device import give_back_freed_memory, keep_freed_memory
keep_freed_memory()
blocks = [torch.ones(2_000_000) for _ in range(50)]
del blocks
held = used_memory_gb()
give_back_freed_memory()
print(held - used_memory_gb())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0.3
