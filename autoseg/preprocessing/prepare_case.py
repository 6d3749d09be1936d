"""One case, read once, prepared for every configuration that lacks it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.core.dataset import Case
from autoseg.core.errors import DataError, Problem
from autoseg.core.files import content_key
from autoseg.core.labels import LabelScheme
from autoseg.core.plan import Plan
from autoseg.io.case_store import CaseMeta, CaseStore
from autoseg.io.images import read_case, with_data_files
from autoseg.ops.case_transform import prepare

STORE_VERSION = 1
LOCATIONS_SEED = 1234
ANNOTATED = -1  # key of the locations of all annotated voxels, kept when there is an ignore label


@dataclass(frozen=True, kw_only=True)
class PrepareJob:
    """One case, the store folder of each configuration it is wanted for, and the device that resamples."""

    case: Case
    plan: Plan
    stores: dict[str, Path]
    device: str = "cpu"


def store_key(plan: Plan, configuration: str, case: Case) -> str:
    """Hash of all that the stored case depends on: its files and those decisions of the plan that shape it."""
    c = plan.configuration(configuration)
    decisions = (c.spacing_mm, c.normalization, c.use_mask_for_norm, plan.transpose_forward, plan.labels)
    used = [i.model_dump() for i, scheme in zip(plan.intensities, c.normalization, strict=True) if scheme == "ct"]
    return content_key(STORE_VERSION, *decisions, used, files=with_data_files(case.files))


def prepare_case(job: PrepareJob) -> list[str]:
    """Prepare and store a case; returns the configurations for which that was still to be done.

    Raises:
        DataError: all defects of the case.
    """
    try:
        keys = {name: store_key(job.plan, name, job.case) for name in job.stores}
    except OSError as error:
        problem = Problem(
            case=job.case.id,
            file=str(error.filename),
            found=f"cannot be read ({error.strerror})",
            next="check the file and its permissions",
        )
        raise DataError(problem) from error
    missing = [name for name, folder in job.stores.items() if not CaseStore(folder).has(job.case.id, keys[name])]
    if not missing:
        return []
    scheme = job.plan.scheme
    loaded = read_case(job.case, labels=scheme)
    for name in missing:
        configuration = job.plan.configuration(name)
        case = prepare(
            loaded.image,
            loaded.label,
            spacing_mm=loaded.geometry.canonical.spacing_mm,
            plan=job.plan,
            configuration=configuration,
            device=job.device,
        )
        assert case.label is not None
        CaseStore(job.stores[name]).write(
            job.case.id,
            image=case.image,
            label=case.label,
            locations=class_locations(case.label, scheme),
            meta=CaseMeta(key=keys[name]),
            patch_size=(1, *configuration.patch_size)[-3:],
        )
    return missing


def class_locations(label: NDArray[np.int16], scheme: LabelScheme) -> dict[int, NDArray[np.int32]]:
    """Where each class (or region) lies: voxel coordinates to centre foreground patches on.

    Per class all its voxels up to 10,000; of larger ones 10,000 or 1 %, whichever is more, drawn without replacement.

    Returns:
        {position in the scheme's foreground: int32 (n, 3)}, and ANNOTATED -> all annotated voxels (sampled alike) when
        the scheme has an ignore label.
    """
    random = np.random.RandomState(LOCATIONS_SEED)
    flat = label.ravel()
    wanted: dict[int, NDArray[np.intp]] = {}
    if scheme.ignore_inside is not None:
        wanted[ANNOTATED] = np.flatnonzero((flat >= 0) & (flat != scheme.ignore_inside))
    foreground = np.flatnonzero(flat > 0)
    values = flat[foreground]
    for position, members in enumerate(scheme.regions_inside):
        chosen = values == members[0] if len(members) == 1 else np.isin(values, members)
        wanted[position] = foreground[chosen]
    locations = {}
    for key, voxels in wanted.items():
        n = min(len(voxels), max(10_000, int(np.ceil(0.01 * len(voxels)))))
        if n:
            drawn = voxels if n == len(voxels) else random.choice(voxels, n, replace=False)
            locations[key] = np.stack(np.unravel_index(drawn, label.shape), axis=1).astype(np.int32)
    return locations
