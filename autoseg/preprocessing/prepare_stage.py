"""The segmentation that an earlier stage made of a case, stored on the grid of the next stage."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from autoseg.core.dataset import Case
from autoseg.core.files import content_key
from autoseg.core.plan import Plan
from autoseg.io.case_store import StageStore
from autoseg.io.images import read_case
from autoseg.preprocessing.prepare_case import store_key


@dataclass(frozen=True, kw_only=True)
class StageJob:
    """A case, the label file that the earlier stage predicted for it, and the store of the configuration it is for."""

    case: Case
    prediction: Path
    plan: Plan
    configuration: str
    store: Path


def prepare_stage(job: StageJob) -> bool:
    """Bring a prediction to the grid of the preprocessed case; returns whether that was still to be done.

    Raises:
        DataError: all defects of the case and of the prediction.
    """
    store = StageStore(job.store)
    key = content_key(store_key(job.plan, job.configuration, job.case), files=[job.prediction])
    if store.key_of(job.case.id) == key:
        return False
    from autoseg.ops.case_transform import case_grids, prepare_segmentation

    loaded = read_case(replace(job.case, label=job.prediction), labels=job.plan.scheme)
    assert loaded.label is not None
    configuration = job.plan.configuration(job.configuration)
    spacing_mm = loaded.geometry.canonical.spacing_mm
    grids, _ = case_grids(loaded.image, spacing_mm=spacing_mm, plan=job.plan, configuration=configuration)
    patch_size = (1, *configuration.patch_size)[-3:]
    store.write(job.case.id, prepare_segmentation(loaded.label, grids), key=key, patch_size=patch_size)
    return True
