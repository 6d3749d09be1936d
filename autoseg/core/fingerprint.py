"""What was measured on a data set."""

from __future__ import annotations

from pydantic import Field, model_validator

from autoseg.core.records import Record


class Intensities(Record):
    """Statistics of one channel over the foreground voxels of all cases."""

    mean: float
    median: float
    std: float
    min: float
    max: float
    percentile_00_5: float
    percentile_99_5: float


class LabelStatistics(Record):
    """One label over all cases that hold it: how often, how large, how far from the midplane of the image."""

    cases: int
    mean_volume_ml: float
    mean_side_mm: float  # centroid minus image centre along canonical x; positive is the patient's left


class SeenIntensities(Record):
    """Intensities of one channel over all training images: how low and how high their minima and maxima lie."""

    lowest: float
    highest_minimum: float
    lowest_maximum: float
    highest: float


class Seen(Record):
    """Ranges of what the training images of a model had: lowest and highest along z, y, x; intensities by channel."""

    cases: int
    spacing_mm: list[tuple[float, float]] = Field(min_length=3, max_length=3)
    extent_mm: list[tuple[float, float]] = Field(min_length=3, max_length=3)
    intensities: list[SeenIntensities] = Field(default_factory=list)
    orientations: list[str] = Field(default_factory=list)  # see Orientation.code
    largest_tilt_deg: float | None = None


class Fingerprint(Record):
    """Shapes and spacings per case, pooled intensities; the keys of nnU-Net's dataset_fingerprint.json."""

    spacings: list[tuple[float, float, float]] = Field(min_length=1)
    shapes_after_crop: list[tuple[int, int, int]] = Field(min_length=1)
    foreground_intensity_properties_per_channel: dict[str, Intensities]
    median_relative_size_after_cropping: float = Field(gt=0, le=1)
    cases: list[str] = Field(default_factory=list)
    absent_labels: dict[str, list[str]] = Field(default_factory=dict)  # of the cases that lack any
    ranges: dict[str, list[tuple[float, float]]] = Field(default_factory=dict)  # lowest, highest per channel and case
    orientations: list[str] = Field(default_factory=list)  # how each image is stored, as LPS
    tilts_deg: list[float] = Field(default_factory=list)  # and how far its axes are from the patient's
    labels: dict[str, LabelStatistics] = Field(default_factory=dict)
    key: str = ""

    @property
    def seen(self) -> Seen:
        """The ranges that a model trained with these cases knows."""
        extents = [
            [n * mm for n, mm in zip(shape, spacing, strict=True)]
            for shape, spacing in zip(self.shapes_after_crop, self.spacings, strict=True)
        ]
        intensities = []
        for channel in sorted(self.ranges, key=int):
            low, high = zip(*self.ranges[channel], strict=True)
            intensities.append(
                SeenIntensities(lowest=min(low), highest_minimum=max(low), lowest_maximum=min(high), highest=max(high))
            )
        return Seen(
            cases=len(self.spacings),
            spacing_mm=[(min(axis), max(axis)) for axis in zip(*self.spacings, strict=True)],
            extent_mm=[(min(axis), max(axis)) for axis in zip(*extents, strict=True)],
            intensities=intensities,
            orientations=sorted(set(self.orientations)),
            largest_tilt_deg=max(self.tilts_deg, default=None),
        )

    @model_validator(mode="after")
    def _same_length(self) -> Fingerprint:
        if len(self.spacings) != len(self.shapes_after_crop):
            raise ValueError(f"{len(self.spacings)} spacings but {len(self.shapes_after_crop)} shapes_after_crop")
        if any(value <= 0 for triple in (*self.spacings, *self.shapes_after_crop) for value in triple):
            raise ValueError("spacings and shapes must be positive")
        return self
