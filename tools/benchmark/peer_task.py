"""One task of the peer, run in its environment. Prints the seconds that the task alone took, imports left out.

Usage: peer_task.py resample_image|resample_labels|plan|export ...
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


def export(logits_file: str, new_shape: str) -> float:
    """From logits to labels on another grid, as after a prediction."""
    import os

    import torch
    from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
    from nnunetv2.utilities.label_handling.label_handling import LabelManager
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    logits = torch.from_numpy(np.load(logits_file))
    shape = tuple(map(int, new_shape.split(",")))
    finer = [n / m for n, m in zip(logits.shape[1:], shape, strict=True)]
    function = "resample_data_or_seg_to_shape"
    configuration = {
        "spacing": [1.0, 1.0, 1.0],
        "architecture": {},
        "resampling_fn_probabilities": function,
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
    }
    plans = PlansManager(
        {"configurations": {"x": configuration}, "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2]}
    )
    labels = LabelManager({"background": 0, **{f"label {i}": i for i in range(1, len(logits))}}, None)
    properties = {
        "spacing": finer,
        "shape_before_cropping": shape,
        "shape_after_cropping_and_before_resampling": shape,
        "bbox_used_for_cropping": [[0, n] for n in shape],
    }
    started = time.perf_counter()
    found = convert_predicted_logits_to_segmentation_with_correct_shape(
        logits, plans, plans.get_configuration("x"), labels, properties, num_threads_torch=os.cpu_count()
    )
    seconds = time.perf_counter() - started
    np.save(logits_file.replace(".npy", ".labels.npy"), found)
    return seconds


if __name__ == "__main__":
    task, *arguments = sys.argv[1:]
    named = {"plan": plan, "export": export}
    seconds = named[task](*arguments) if task in named else resample(task, *arguments)
    print(f"task_seconds {seconds}")
