"""Measures of all cases -> Fingerprint."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autoseg.core.errors import DataError, Problem
from autoseg.core.files import content_key
from autoseg.core.fingerprint import Fingerprint, Intensities, LabelStatistics
from autoseg.fingerprinting.measure_case import CaseMeasure


def pooled(measures: dict[str, CaseMeasure]) -> Fingerprint:
    """Pool the measures of all cases, in the order of their ids.

    Raises:
        DataError: no case has any foreground voxel, so there is nothing to learn.
    """
    cases = sorted(measures)
    ordered = [measures[case] for case in cases]
    filled = [measure.samples for measure in ordered if measure.samples.shape[1]]
    if not filled:
        found, todo = "no case has a foreground voxel", "check that the masks are not empty"
        raise DataError(Problem(case="", file="labelsTr", found=found, next=todo))
    n_channels = filled[0].shape[0]
    return Fingerprint(
        spacings=[measure.spacing_mm for measure in ordered],
        shapes_after_crop=[measure.shape_after_crop for measure in ordered],
        foreground_intensity_properties_per_channel={
            str(channel): weighted_intensities([samples[channel] for samples in filled])
            for channel in range(n_channels)
        },
        median_relative_size_after_cropping=float(np.median([m.relative_size_after_crop for m in ordered])),
        cases=cases,
        absent_labels=_absent_labels(measures),
        ranges={str(c): [measures[case].ranges[c] for case in cases] for c in range(n_channels)},
        orientations=[measure.orientation for measure in ordered],
        tilts_deg=[measure.tilt_deg for measure in ordered],
        labels=_label_statistics(ordered),
        key=content_key([measure.key for measure in ordered]),
    )


def weighted_intensities(samples: Sequence[NDArray[np.float32]]) -> Intensities:
    """Statistics over the foreground in which every case counts the same, however many voxels it has.

    nnU-Net draws the same number of voxels from each case, with replacement; these are the values that its
    estimate scatters around. A percentile is the value at which the weights, summed in ascending order, pass
    it (the mean of two where they meet it exactly).
    """
    values = np.concatenate(samples).astype(np.float64)
    weights = np.concatenate([np.full(len(s), 1.0 / len(s)) for s in samples]) / len(samples)
    order = np.argsort(values, kind="stable")
    values, weights = values[order], weights[order]
    mean = float(np.sum(weights * values))
    passed = np.cumsum(weights)
    rounding = np.array([[-1e-9], [1e-9]])
    around = values[np.searchsorted(passed, np.array([0.005, 0.5, 0.995]) + rounding)]
    low, median, high = (float(v) for v in around.mean(axis=0))
    return Intensities(
        mean=mean,
        median=median,
        std=float(np.sqrt(np.sum(weights * (values - mean) ** 2))),
        min=float(values[0]),
        max=float(values[-1]),
        percentile_00_5=low,
        percentile_99_5=high,
    )


def _absent_labels(measures: dict[str, CaseMeasure]) -> dict[str, list[str]]:
    """Labels that occur somewhere but not in a case, for the cases that lack any."""
    known = sorted({name for measure in measures.values() for name in measure.labels})
    absent = {case: [name for name in known if name not in measures[case].labels] for case in sorted(measures)}
    return {case: names for case, names in absent.items() if names}


def _label_statistics(measures: list[CaseMeasure]) -> dict[str, LabelStatistics]:
    names = list(dict.fromkeys(name for measure in measures for name in measure.labels))
    statistics = {}
    for name in names:
        facts = np.array([measure.labels[name] for measure in measures if name in measure.labels])
        volume_ml, side_mm = (float(v) for v in facts.mean(axis=0))
        statistics[name] = LabelStatistics(cases=len(facts), mean_volume_ml=volume_ml, mean_side_mm=side_mm)
    return statistics
