"""Image files in, label files out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.core.files import set_aside
from autoseg.core.geometry import Geometry
from autoseg.core.trust import CaseTrust
from autoseg.io.probability_file import ProbabilityFile
from autoseg.prediction.ensemble import Ensemble
from autoseg.prediction.image import Settings
from autoseg.prediction.loaded import LoadedScan, prepare_scan
from autoseg.prediction.memory import MemoryPlan
from autoseg.prediction.overlap import overlapped
from autoseg.prediction.scans import Scan
from autoseg.prediction.trust import segment_with_trust

log = logging.getLogger(__name__)

Labels = NDArray[np.unsignedinteger]


@dataclass(frozen=True, kw_only=True)
class Segmented:
    """Labels (Z, Y, X) of a case in canonical orientation, and what is needed to write them."""

    labels: Labels
    geometry: Geometry
    warnings: tuple[str, ...]
    trust: CaseTrust


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a case's labels go, and its probabilities if they are wanted."""

    labels: Path
    probabilities: Path | None = None

    @property
    def paths(self) -> list[Path]:
        """All files of it."""
        return [path for path in (self.labels, self.probabilities) if path is not None]

    @property
    def resolved(self) -> Target:
        """The same with absolute paths, for a process that stands elsewhere."""
        probabilities = None if self.probabilities is None else self.probabilities.resolve()
        return Target(labels=self.labels.resolve(), probabilities=probabilities)


def predict_cases(
    members: Sequence[Ensemble],
    cases: Mapping[str, tuple[Scan, Target]],
    settings: Settings | None = None,
    *,
    progress: Callable[[str, float], None] = lambda case, share: None,
    treat: Callable[[Labels, float], Labels] = lambda labels, voxel_ml: labels,
) -> Iterator[tuple[str, dict[str, Any] | Exception]]:
    """Read cases, segment them, write their labels in the geometry of the image; all three at the same time.

    Args:
        members: models that answer together.
        cases: by id what to read and where to write.
        settings: how to predict.
        progress: called with a case's id and the share of its tiles that are done.
        treat: postprocessing of the labels (Z, Y, X), canonical, given the millilitres of a voxel.

    Yields:
        In order the id and {"seconds" of computing and writing, "volumes_ml" per label, "trust": a `CaseTrust` as a
        dictionary, "warnings": list of sentences}, or what went wrong: a DataError with all defects of the case, a
        DeviceError, an OSError. A file from before is set aside then.
    """
    settings, started = settings or Settings(), dict.fromkeys(cases, 0.0)
    scheme = members[0].plan.scheme
    printed: list[tuple[Any, ...]] = []

    def read(name: str) -> LoadedScan:
        return prepare_scan(members, cases[name][0].read())

    def compute(name: str, scan: LoadedScan, read_next: Callable[[], None]) -> Segmented:
        started[name] = time.monotonic()

        def planned(plan: MemoryPlan) -> None:
            way = (plan.place, plan.tiles_at_once, plan.read_ahead)
            if printed[-1:] != [way]:
                log.info("%s: %s", name, plan)
                printed.append(way)
            if plan.read_ahead:
                read_next()

        labels, trust = _segment(members, scan, cases[name][1], settings, lambda share: progress(name, share), planned)
        return Segmented(labels=labels, geometry=scan.geometry, warnings=(*scan.warnings, *trust.doubts), trust=trust)

    def finish(name: str, made: Segmented) -> dict[str, Any]:
        case, target = cases[name]
        labels = treat(made.labels, made.geometry.voxel_volume_ml)
        case.write_labels(target.labels, labels, names=scheme.names_of_values, model=members[0].plan.dataset)
        volumes = scheme.volumes_ml(labels, voxel_ml=made.geometry.voxel_volume_ml)
        seconds = round(time.monotonic() - started[name], 3)
        trust = made.trust.model_dump(mode="json")
        return {"seconds": seconds, "volumes_ml": volumes, "trust": trust, "warnings": [*made.warnings]}

    for name, result in overlapped(cases, read=read, compute=compute, finish=finish):
        if isinstance(result, Exception):
            for path in cases[name][1].paths:
                with suppress(OSError):
                    set_aside(path)  # an older prediction must not pass for this one
        yield name, result


def _segment(
    members: Sequence[Ensemble],
    scan: LoadedScan,
    target: Target,
    settings: Settings,
    progress: Callable[[float], None],
    planned: Callable[[MemoryPlan], None],
) -> tuple[NDArray[np.unsignedinteger], CaseTrust]:
    """Labels (Z, Y, X) in canonical orientation, and their trust; probabilities are written on the way."""
    if target.probabilities is None:
        return segment_with_trust(members, scan, settings, progress=progress, planned=planned)
    with ProbabilityFile(
        target.probabilities,
        scheme=members[0].plan.scheme,
        shape=scan.geometry.shape,
        box=scan.image.grids.box,
        orientation=scan.to_rows,
    ) as file:
        return segment_with_trust(
            members,
            scan,
            settings,
            progress=progress,
            planned=planned,
            on_probabilities=lambda row, block: file.add(block.cpu().numpy()),
        )
