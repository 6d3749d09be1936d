"""What is unusual about an image, compared with those that a model was trained with."""

from __future__ import annotations

from collections.abc import Sequence

from autoseg.core.fingerprint import Seen

# A model bears some strangeness; beyond this a person should look at the result.
SPACING_FACTOR = 1.5
EXTENT_FACTOR = 2.0
RANGE_SHARE = 0.25  # of the range of intensities that was seen
TILT_MARGIN_DEG = 15.0
AXES = ("z", "y", "x")
RELATIVE = ("zscore", "rescale_0_1")  # normalised by the image itself: its scale of intensities means nothing


def unusual(
    seen: Seen,
    *,
    spacing_mm: Sequence[float],
    extent_mm: Sequence[float],
    ranges: Sequence[tuple[float, float]],
    orientation: str,
    tilt_deg: float,
    normalization: Sequence[str],
) -> list[str]:
    """One sentence per property that lies outside of what the training images had.

    Args:
        seen: what they had.
        spacing_mm: (z, y, x) of the image.
        extent_mm: size of its nonzero region, (z, y, x).
        ranges: lowest and highest intensity of each channel.
        orientation: how the image is stored, as LPS.
        tilt_deg: how far its axes are from the patient's.
        normalization: of each channel, by the plan.
    """
    sentences = []
    for axis, value, (low, high) in zip(AXES, spacing_mm, seen.spacing_mm, strict=True):
        if not low / SPACING_FACTOR <= value <= high * SPACING_FACTOR:
            sentences.append(f"spacing along {axis} is {value:.3g} mm; training images had {_range(low, high)} mm")
    for axis, value, (low, high) in zip(AXES, extent_mm, seen.extent_mm, strict=True):
        if not low / EXTENT_FACTOR <= value <= high * EXTENT_FACTOR:
            found = f"the image measures {value:.0f} mm along {axis}"
            sentences.append(f"{found}; training images measured {_range(low, high)} mm")
    for channel, (own, known, scheme) in enumerate(zip(ranges, seen.intensities, normalization, strict=False)):
        margin = RANGE_SHARE * (known.highest - known.lowest)
        off = own[0] > known.highest_minimum + margin or own[1] < known.lowest_maximum - margin
        beyond = own[0] < known.lowest - margin or own[1] > known.highest + margin
        if scheme not in RELATIVE and (off or beyond):
            found = f"intensities of channel {channel} are {_range(*own)}"
            sentences.append(f"{found}; those of training images are {_range(known.lowest, known.highest)}")
    if seen.orientations and orientation not in seen.orientations:
        found = f"the image is stored as {orientation}, training images as {', '.join(seen.orientations)}"
        sentences.append(f"{found}; it is turned as its header says, so see that this is true")
    if seen.largest_tilt_deg is not None and tilt_deg > seen.largest_tilt_deg + TILT_MARGIN_DEG:
        found = f"the image's axes are tilted by {tilt_deg:.0f} degrees"
        sentences.append(f"{found}; those of training images by up to {seen.largest_tilt_deg:.0f}")
    return sentences


def _range(low: float, high: float) -> str:
    return f"{low:.4g}" if f"{low:.4g}" == f"{high:.4g}" else f"{low:.4g} to {high:.4g}"
