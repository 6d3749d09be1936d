"""The same tasks for autoseg. Prints the seconds that the task alone took, imports left out.

Usage: own_task.py resample_image|resample_labels|plan|train|export ...
"""

import os
import sys
import time
from pathlib import Path

import numpy as np


def resample(kind: str, volume_file: str, new_shape: str, spacings: str) -> float:
    """Resample a volume as preprocessing does."""
    from autoseg.ops.resample import resample_image, separate_axis
    from autoseg.ops.resample_labels import resample_labels

    volume = np.load(volume_file)
    shape = tuple(map(int, new_shape.split(",")))
    old, new = (list(map(float, part.split(","))) for part in spacings.split(";"))
    started = time.perf_counter()
    axis = separate_axis(old, new)
    if kind == "resample_labels":
        result = resample_labels(volume, new_shape=shape, separate_axis=axis)
    else:
        result = resample_image(volume[None], new_shape=shape, separate_axis=axis)[0]
    seconds = time.perf_counter() - started
    np.save(volume_file.replace(".npy", ".own.npy"), result)
    return seconds


def plan(fingerprint: str, raw: str) -> float:
    """Plan from a fingerprint that is there."""
    from autoseg import planning
    from autoseg.core.declaration import read_declaration
    from autoseg.core.fingerprint import Fingerprint

    started = time.perf_counter()
    planning.plan(Fingerprint.read(Path(fingerprint)), read_declaration(Path(raw)), dataset=Path(raw).name)
    return time.perf_counter() - started


def export(logits_file: str, new_shape: str) -> float:
    """From rows of logits, stored row by row, to labels on another grid; the rows come a few at a time."""
    import torch

    from autoseg.core.labels import LabelScheme
    from autoseg.nets.device import keep_freed_memory
    from autoseg.prediction.decode import decode, native_rows

    keep_freed_memory()  # as the command does
    stored = np.load(logits_file, mmap_mode="r")
    rows, n_classes, *plane = stored.shape
    shape = tuple(map(int, new_shape.split(",")))
    scheme = LabelScheme(declared={"background": 0, **{f"label {i}": i for i in range(1, n_classes)}})

    def slabs():
        with open(logits_file, "rb") as file:
            file.seek(stored.offset)
            for row in range(0, rows, 8):
                here = (min(8, rows - row), n_classes, *plane)
                block = np.fromfile(file, np.float32, int(np.prod(here))).reshape(here)
                yield torch.from_numpy(np.ascontiguousarray(block.transpose(1, 0, 2, 3)))

    started = time.perf_counter()
    labels, row = np.empty(shape, scheme.output_dtype), 0
    with torch.inference_mode():
        for block in native_rows(slabs(), shape_in=(rows, *plane), shape_out=shape, separate_axis=None):
            labels[row : row + block.shape[1]] = decode(block, scheme)
            row += block.shape[1]
    seconds = time.perf_counter() - started
    np.save(logits_file.replace(".npy", ".labels.npy"), labels)
    return seconds


def train(preprocessed: str, fold: str, epochs: str) -> float:
    """Train fold 0 of 3d_fullres for so many epochs of one step, without validation on images."""
    import torch

    from autoseg import training
    from autoseg.core.plan import Plan
    from autoseg.core.recipe import RECIPES
    from autoseg.core.splits import default_splits
    from autoseg.io.case_store import CaseStore

    store = CaseStore(Path(preprocessed) / "default__3d_fullres")
    job = training.FoldJob(
        store=store.folder,
        plan=Plan.read(Path(preprocessed) / "plans" / "default.json"),
        configuration="3d_fullres",
        recipe=RECIPES["default"].with_changes(epochs=int(epochs), iterations=1),
        split=default_splits({case: case for case in store.case_ids()})[0],
        folder=Path(fold),
        device=torch.device("cpu"),
    )
    started = time.perf_counter()
    training.train_fold(job)
    return time.perf_counter() - started


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as every command of autoseg does
    task, *arguments = sys.argv[1:]
    named = {"plan": plan, "train": train, "export": export}
    seconds = named[task](*arguments) if task in named else resample(task, *arguments)
    print(f"task_seconds {seconds}")
