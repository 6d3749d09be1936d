"""A scan that was read: into the frame that a model knows, and its labels back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autoseg.core.errors import DataError, Problem
from autoseg.core.geometry import Geometry, Orientation
from autoseg.io.images import LoadedCase
from autoseg.ops.case_transform import Grids
from autoseg.prediction.ensemble import Ensemble
from autoseg.prediction.image import PreparedImage, prepare_image
from autoseg.prediction.unusual import unusual


@dataclass(frozen=True, kw_only=True)
class LoadedScan:
    """A scan that is ready for the networks, as stored on disk at `geometry`.

    `to_frame` leads from the stored array to the frame that the models know, `to_rows` on to the axes in which their
    answers come.
    """

    image: PreparedImage
    geometry: Geometry
    to_frame: Orientation
    warnings: tuple[str, ...]

    @property
    def to_rows(self) -> Orientation:
        """From the stored array to the order of axes of the networks."""
        return self.to_frame.then(Orientation(axes=self.image.grids.transpose, flipped=(False, False, False)))


def prepare_scan(members: Sequence[Ensemble], loaded: LoadedCase) -> LoadedScan:
    """Prepare a scan for every model.

    Raises:
        DataError: it has another number of channels than the models need.
    """
    plan, geometry = members[0].plan, loaded.geometry
    if loaded.image.shape[0] != len(plan.channel_names):
        found = f"has {loaded.image.shape[0]} channels where the model needs {len(plan.channel_names)}"
        raise DataError(Problem(case=loaded.id, found=found, next="give all channels in the model's order"))
    to_frame = geometry.orientation_to(plan.orientation)
    spacing_mm = tuple(geometry.spacing_mm[axis] for axis in to_frame.axes)
    from_canonical = geometry.orientation.inverse.then(to_frame)
    image = prepare_image(members, from_canonical.apply(loaded.image), spacing_mm=spacing_mm)  # type: ignore[arg-type]
    ranges = [(float(channel.min()), float(channel.max())) for channel in loaded.image]
    warnings = [f"{warning.found}; {warning.next}" for warning in loaded.warnings]
    strange = {sentence: None for member in members for sentence in _unusual(member, image.grids, geometry, ranges)}
    warnings += strange
    return LoadedScan(image=image, geometry=geometry, to_frame=to_frame, warnings=tuple(warnings))


def _unusual(member: Ensemble, grids: Grids, geometry: Geometry, ranges: Sequence[tuple[float, float]]) -> list[str]:
    if member.seen is None:
        return []
    backward = member.plan.transpose_backward
    spacing_mm = [grids.spacing_mm[axis] for axis in backward]
    return unusual(
        member.seen,
        spacing_mm=spacing_mm,
        extent_mm=[grids.cropped_shape[axis] * mm for axis, mm in zip(backward, spacing_mm, strict=True)],
        ranges=ranges,
        orientation=geometry.orientation.code,
        tilt_deg=geometry.tilt_deg,
        normalization=member.configuration.normalization,
    )
