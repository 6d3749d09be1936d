"""One image array -> its segmentation, streamed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from autoseg.ops.case_transform import prepare, prepare_segmentation, restore_labels
from autoseg.ops.resample import separate_axis
from autoseg.prediction.decode import decode_stream
from autoseg.prediction.ensemble import Ensemble
from autoseg.prediction.sliding_window import stream_logits


def predict_image(
    ensemble: Ensemble,
    image: NDArray[np.float32],
    *,
    spacing_mm: tuple[float, float, float],
    step: float = 0.5,
    progress: Callable[[float], None] = lambda share: None,
) -> NDArray:
    """Segment one image; in a cascade with its first stage first.

    Args:
        ensemble: the networks and the plan they were trained by.
        image: float32 (C, Z, Y, X), canonical orientation.
        spacing_mm: (z, y, x) of the image.
        step: share of the patch between neighbouring tiles.
        progress: called with the share of tiles that are done.

    Returns:
        (Z, Y, X) file label values in the scheme's smallest unsigned type.
    """
    plan, configuration, device = ensemble.plan, ensemble.configuration, str(ensemble.device)
    earlier = None
    if ensemble.previous is not None:
        earlier = predict_image(ensemble.previous, image, spacing_mm=spacing_mm, step=step)
    case = prepare(image, None, spacing_mm=spacing_mm, plan=plan, configuration=configuration, device=device)
    network_input = torch.from_numpy(case.image)
    if earlier is not None:
        labels = prepare_segmentation(plan.scheme.encode(earlier), case.grids, device=device)
        network_input = torch.cat([network_input, torch.from_numpy(labels)[None]])
    slabs = stream_logits(
        network_input,
        ensemble.logits,
        patch_size=tuple(configuration.patch_size),
        n_outputs=ensemble.n_outputs,
        step=step,
        device=ensemble.device,
        progress=progress,
    )
    grids, scheme = case.grids, plan.scheme
    inside = decode_stream(
        slabs,
        shape_in=grids.target_shape,
        shape_out=grids.cropped_shape,
        separate_axis=separate_axis(grids.target_spacing_mm, grids.spacing_mm),
        scheme=scheme,
    )
    values = inside.astype(scheme.output_dtype) if scheme.has_regions else scheme.decode(inside)
    return restore_labels(values, grids)
