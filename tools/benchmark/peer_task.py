"""One task of the peer, run in its environment. Prints the seconds that the task alone took, imports left out.

Usage: peer_task.py resample_image|resample_labels|plan ...
"""

import sys
import time

import numpy as np


def resample(kind: str, volume_file: str, new_shape: str, spacings: str) -> float:
    """Resample a volume as the peer's preprocessing does by default."""
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

    volume = np.load(volume_file)[None]
    shape = tuple(map(int, new_shape.split(",")))
    old, new = (list(map(float, part.split(","))) for part in spacings.split(";"))
    labels = kind == "resample_labels"
    started = time.perf_counter()
    result = resample_data_or_seg_to_shape(
        volume, shape, old, new, is_seg=labels, order=1 if labels else 3, order_z=0, force_separate_z=None
    )
    seconds = time.perf_counter() - started
    np.save(volume_file.replace(".npy", ".peer.npy"), result[0])
    return seconds


def plan(dataset: str) -> float:
    """Plan from a fingerprint that is there."""
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

    started = time.perf_counter()
    ExperimentPlanner(dataset).plan_experiment()
    return time.perf_counter() - started


if __name__ == "__main__":
    task, *arguments = sys.argv[1:]
    seconds = plan(*arguments) if task == "plan" else resample(task, *arguments)
    print(f"task_seconds {seconds}")
