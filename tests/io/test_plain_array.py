"""Blosc2 files that hold arrays are opened; those that hold something to be run are refused before Blosc2 sees them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import blosc2
import numpy as np
import pytest
from numpy.typing import NDArray

from autoseg.core.errors import DataError
from autoseg.io import plain_array
from autoseg.io.case_store import StageStore
from autoseg.io.plain_array import open_plain_array
from autoseg.io.probability_file import open_probabilities

NUMBERS = np.arange(60.0).reshape(3, 4, 5)
STORED = {"codec": blosc2.Codec.LZ4, "clevel": 0}  # bytes as they are


def save(path: Path, array: NDArray[np.generic] = NUMBERS, **options: object) -> blosc2.NDArray:
    return blosc2.asarray(array, urlpath=str(path), mode="w", **options)


def lazy_expression(path: Path) -> None:
    (save(path.with_name("operand.b2nd")) + 1).save(urlpath=str(path))


def lazy_function(path: Path) -> None:
    def leave_a_mark(inputs, output, offset):
        from pathlib import Path

        Path("mark").write_text("this was run")
        output[:] = inputs[0]

    operand = save(path.with_name("operand.b2nd"))
    blosc2.lazyudf(leave_a_mark, (operand,), np.float64).save(urlpath=str(path))


def proxy(path: Path) -> None:
    blosc2.Proxy(save(path.with_name("operand.b2nd")), urlpath=str(path), mode="w")


def entry(name: str) -> Callable[[Path], None]:
    """An array with an entry by which versions of Blosc2 know what to make of it, behind as many others as fit."""

    def make(path: Path) -> None:
        others = {f"entry {i:02}": "x" * 1000 for i in range(13)}
        save(path, meta={**others, name: {"kind": "lazyexpr", "version": 1}})

    make.__name__ = name
    return make


MAKERS = [lazy_expression, lazy_function, proxy, entry("LazyArray"), entry("proxy-source"), entry("b2o")]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What Blosc2 is asked to open; the working directory is a temporary one."""
    seen: list[str] = []
    original = blosc2.open

    def spied(path: str, **options: object) -> object:
        seen.append(path)
        return original(path, **options)

    monkeypatch.setattr(plain_array.blosc2, "open", spied)
    monkeypatch.chdir(tmp_path)
    return seen


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_what_would_be_run_is_never_opened(tmp_path: Path, opened: list[str], make: Callable[[Path], None]) -> None:
    path = tmp_path / "a.b2nd"
    make(path)
    assert path.is_file()
    opened.clear()
    with pytest.raises(ValueError, match="something to be run"):
        open_plain_array(path)
    with pytest.raises(DataError, match="something to be run"):
        open_probabilities(path)
    path.rename(tmp_path / "case.segmentation.b2nd")
    with pytest.raises(DataError, match="something to be run"):
        StageStore(tmp_path).open("case")
    assert opened == []
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("array", [NUMBERS, np.zeros((0, 3)), np.array(7), np.ones((1, 2, 1), np.uint8)], ids=np.shape)
def test_plain_arrays_are_opened(tmp_path: Path, opened: list[str], array: NDArray[np.generic]) -> None:
    save(tmp_path / "a.b2nd", array, meta={"ours": {"a": 1}})
    found = open_plain_array(tmp_path / "a.b2nd")
    np.testing.assert_array_equal(found[...], array)
    assert found.dtype == array.dtype
    assert opened == [str(tmp_path / "a.b2nd")]


@pytest.mark.skipif(os.name != "posix", reason="Blosc2 makes no memory maps on Windows")
def test_options_reach_blosc2(tmp_path: Path) -> None:
    save(tmp_path / "a.b2nd")
    found = open_plain_array(tmp_path / "a.b2nd", mmap_mode="r", dparams={"nthreads": 1})
    np.testing.assert_array_equal(found[1:, 2], NUMBERS[1:, 2])
    assert found.schunk.dparams.nthreads == 1


@pytest.mark.parametrize("name", plain_array.EXECUTABLE)
def test_names_in_the_data_do_no_harm(tmp_path: Path, name: bytes) -> None:
    data = np.frombuffer(bytes(range(256)) * 8 + name + bytes(range(256)), np.uint8).copy()
    save(tmp_path / "a.b2nd", data, cparams=STORED)
    assert name in (tmp_path / "a.b2nd").read_bytes()
    np.testing.assert_array_equal(open_plain_array(tmp_path / "a.b2nd")[:], data)


def test_what_is_no_array_is_a_value_error(tmp_path: Path) -> None:
    blosc2.SChunk(data=b"abc" * 100, urlpath=str(tmp_path / "bytes.b2nd"), mode="w")
    with pytest.raises(ValueError, match="SChunk"):
        open_plain_array(tmp_path / "bytes.b2nd")
    save(tmp_path / "whole.b2nd")
    content = (tmp_path / "whole.b2nd").read_bytes()
    damaged = tmp_path / "damaged.b2nd"
    for broken in (b"", b"hello", content[:9], content[:14], content[:100], content[:-1], bytes(40) + content[40:]):
        damaged.write_bytes(broken)
        with pytest.raises(ValueError):  # noqa: PT011  the words are Blosc2's
            open_plain_array(damaged)


def test_what_cannot_be_read_is_an_oserror(tmp_path: Path, opened: list[str]) -> None:
    with pytest.raises(FileNotFoundError):
        open_plain_array(tmp_path / "none.b2nd")
    (tmp_path / "folder.b2nd").mkdir()
    with pytest.raises(OSError, match="folder"):
        open_plain_array(tmp_path / "folder.b2nd")
    assert opened == []


def test_a_damaged_byte_is_a_value_error_or_none(tmp_path: Path) -> None:
    save(tmp_path / "a.b2nd", meta={"ours": {"a": 1}})
    content, refused = (tmp_path / "a.b2nd").read_bytes(), 0
    for at in range(len(content)):
        (tmp_path / "a.b2nd").write_bytes(content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :])
        try:
            open_plain_array(tmp_path / "a.b2nd")
        except ValueError:
            refused += 1
    assert refused > 50
