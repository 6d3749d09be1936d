"""One case, read once, prepared for every configuration that lacks it."""

from __future__ import annotations

from collections.abc import Iterator
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
from autoseg.io.images import LoadedCase, read_case, with_data_files

STORE_VERSION = 2
LOCATIONS_SEED = 1234
PART_VOXELS = 1 << 20
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
    loaded = read_case(job.case, labels=job.plan.scheme)
    for name in missing:
        _store(job, loaded, name, keys[name])
    return missing


def _store(job: PrepareJob, loaded: LoadedCase, name: str, key: str) -> None:
    """Prepare one configuration and write it; its arrays are gone before the next one is prepared."""
    # torch takes seconds to import, and only workers need it
    from autoseg.nets.device import enough_memory
    from autoseg.ops.case_transform import prepare

    configuration = job.plan.configuration(name)
    with enough_memory("preprocess with fewer processes (-np 1) or with --device cpu"):
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
        locations=class_locations(case.label, job.plan.scheme),
        meta=CaseMeta(key=key),
        patch_size=(1, *configuration.patch_size)[-3:],
    )


def class_locations(label: NDArray[np.int16], scheme: LabelScheme) -> dict[int, NDArray[np.int32]]:
    """Where each class (or region) lies: voxel coordinates to centre foreground patches on.

    Per class all its voxels up to 10,000; of larger ones 10,000 or 1 %, whichever is more, drawn without replacement.
    Memory beyond the result is about 25 MB: the label (Z, Y, X) is passed twice in parts, to count and to collect.

    Returns:
        {position in the scheme's foreground: int32 (n, 3), in raster order}, and ANNOTATED -> all annotated voxels
        (sampled alike) when the scheme has an ignore label.
    """
    members = {key: np.array(values) for key, values in enumerate(scheme.regions_inside)}
    if scheme.ignore_inside is not None:
        members[ANNOTATED] = np.arange(scheme.ignore_inside)
    n_values, lowest = len(scheme.values), 0 if ANNOTATED in members else 1

    def counted(part: NDArray[np.int16]) -> NDArray[np.bool_]:
        return (part >= lowest) & (part < n_values)  # beyond: ignored

    sizes = sum(np.bincount(part[counted(part)], minlength=n_values) for _, part in _parts(label))
    random = np.random.default_rng(LOCATIONS_SEED)
    drawn = {}
    for key, values in members.items():
        total = int(sizes[values].sum())
        n = min(total, max(10_000, int(np.ceil(0.01 * total))))
        if n:
            drawn[key] = np.sort(random.choice(total, n, replace=False, shuffle=False))
    found: dict[int, list[NDArray[np.intp]]] = {key: [] for key in drawn}
    passed = dict.fromkeys(drawn, 0)
    for first, part in _parts(label):
        voxels = np.flatnonzero(counted(part))
        by_value = voxels[np.argsort(part[voxels], kind="stable")]
        ends = np.cumsum(np.bincount(part[voxels], minlength=n_values))
        for key, ranks in drawn.items():
            runs = [by_value[(ends[v - 1] if v else 0) : ends[v]] for v in members[key]]
            here = runs[0] if len(runs) == 1 else np.sort(np.concatenate(runs))
            low, high = np.searchsorted(ranks, (passed[key], passed[key] + len(here)))
            found[key].append(first + here[ranks[low:high] - passed[key]])
            passed[key] += len(here)
    return {
        key: np.stack(np.unravel_index(np.concatenate(parts), label.shape), axis=1).astype(np.int32)
        for key, parts in found.items()
    }


def _parts(label: NDArray[np.int16]) -> Iterator[tuple[int, NDArray[np.int16]]]:
    """(position of its first voxel, some consecutive voxels of the flat label)."""
    flat = label.ravel()
    for first in range(0, flat.size, PART_VOXELS):
        yield first, flat[first : first + PART_VOXELS]
