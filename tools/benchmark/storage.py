"""How to store preprocessed cases: codec, chunk shape, float16 or float32. Prints one table.

Usage: storage.py --store FOLDER --patch Z Y X [--cases N]; FOLDER is a case store made by autoseg_preprocess.
Reads random crops of the patch as training does, with one thread; every file has been read once before.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import blosc2
import numpy as np

from autoseg.io.case_store import CaseStore, chunk_layout

CODECS = {
    "LZ4": (blosc2.Codec.LZ4, 5),
    "LZ4HC": (blosc2.Codec.LZ4HC, 9),
    "ZSTD 1": (blosc2.Codec.ZSTD, 1),
    "ZSTD 5": (blosc2.Codec.ZSTD, 5),
    "none": (blosc2.Codec.LZ4, 0),
}
CROPS = 40


def layouts(shape: tuple[int, ...], patch: tuple[int, ...], itemsize: int) -> dict[str, tuple]:
    """Chunks and blocks by name."""
    whole, patch_chunks = tuple(shape), tuple(map(min, patch, shape))
    return {
        "half a patch": chunk_layout(shape, patch, itemsize=itemsize),
        "a patch": (patch_chunks, tuple(max(1, n // 2) for n in patch_chunks)),
        "slices": ((1, *whole[1:]), (1, *whole[1:])),
        "32 cubed": (tuple(min(32, n) for n in shape), tuple(min(16, n) for n in shape)),
    }


def crop(rng: np.random.Generator, shape: tuple[int, ...], patch: tuple[int, ...]) -> tuple[slice, ...]:
    """A random box of at most the patch."""
    starts = [int(rng.integers(0, max(1, n - p + 1))) for n, p in zip(shape, patch, strict=True)]
    return tuple(slice(a, a + p) for a, p in zip(starts, patch, strict=True))


def measure(images: list[np.ndarray], patch: tuple[int, ...], *, codec: str, layout: str, dtype: type) -> list[str]:
    """One row: how the cases are stored, megabytes per case, seconds to write one, crops per second."""
    name, level = CODECS[codec]
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        files, written = [], 0.0
        for i, image in enumerate(images):
            array = np.ascontiguousarray(image.astype(dtype))
            chunks, blocks = layouts(image.shape[1:], patch, array.itemsize)[layout]
            path = Path(folder) / f"{i}.b2nd"
            started = time.perf_counter()
            stored = blosc2.empty(
                array.shape,
                array.dtype,
                urlpath=str(path),
                mode="w",
                chunks=(1, *chunks),
                blocks=(1, *blocks),
                cparams={"codec": name, "clevel": level, "nthreads": 1, "filters": [blosc2.Filter.SHUFFLE]},
            )
            stored[...] = array
            written += time.perf_counter() - started
            files.append(path)
        times = []
        for _ in range(CROPS):
            i = int(rng.integers(len(files)))
            box = crop(rng, images[i].shape[1:], patch)
            started = time.perf_counter()
            stored = blosc2.open(str(files[i]), mode="r", mmap_mode="r", dparams={"nthreads": 1})
            np.asarray(stored[(slice(None), *box)], dtype=np.float32)
            times.append(time.perf_counter() - started)
        megabytes = sum(path.stat().st_size for path in files) / len(files) / 1e6
    return [
        np.dtype(dtype).name, codec, layout, f"{megabytes:.2f}", f"{written / len(images):.3f}",
        f"{1 / float(np.median(times)):.0f}",
    ]  # fmt: skip


def main() -> None:
    """Vary one thing at a time around what autoseg does: float32, LZ4, half a patch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--patch", type=int, nargs=3, required=True)
    parser.add_argument("--cases", type=int, default=6)
    args = parser.parse_args()
    store, patch = CaseStore(args.store), tuple(args.patch)
    images = [store.open(case).image[:] for case in store.case_ids()[: args.cases]]
    print(f"{len(images)} cases of about {images[0].shape}, patch {patch}")
    print("| type | codec | chunks | MB per case | s to write | crops per s |\n| --- | --- | --- | --- | --- | --- |")
    trials = [("LZ4", "half a patch", np.float32), ("LZ4", "half a patch", np.float16)]
    trials += [(codec, "half a patch", np.float32) for codec in CODECS if codec != "LZ4"]
    trials += [("LZ4", layout, np.float32) for layout in ("a patch", "slices", "32 cubed")]
    for codec, layout, dtype in trials:
        print(f"| {' | '.join(measure(images, patch, codec=codec, layout=layout, dtype=dtype))} |", flush=True)
    worst = max(float(np.abs(image - image.astype(np.float16).astype(np.float32)).max()) for image in images)
    largest = max(float(np.abs(image).max()) for image in images)
    print(f"float16: largest rounding error {worst:.2g} where the largest value is {largest:.3g}")


if __name__ == "__main__":
    main()
