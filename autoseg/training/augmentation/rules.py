"""What augmentation may do to a patch of this size: how far to turn, which axes to flip, how much to read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

# Beyond this ratio of edges a 3-D patch is so flat that turning out of its plane would mix few thick slices.
FLAT_PATCH_RATIO = 3.0
ELONGATED_2D_RATIO = 1.5
# The crop keeps this reserve, so that zooming out by up to 1 / 0.85 still finds image and not padding.
ZOOM_RESERVE = 0.85


@dataclass(frozen=True, kw_only=True)
class AugmentationRules:
    """Limits of the random changes to one configuration's patches.

    Attributes:
        patch_size: voxels of a training patch, (z, y, x) or (y, x).
        rotation_rad: largest rotation angle, either direction.
        dummy_2d: turn, scale and coarsen within planes only; array axis 0 is left alone.
        mirror_axes: spatial axes (0 = first) that may be flipped.
        mirror_label_pairs: per spatial axis, pairs of label values that a flip along it exchanges (left and
            right kidney).
        mask_channels: per image channel, whether it is 0 where the label is negative (outside the body).
    """

    patch_size: tuple[int, ...]
    rotation_rad: float
    dummy_2d: bool
    mirror_axes: tuple[int, ...]
    mirror_label_pairs: Mapping[int, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    mask_channels: tuple[bool, ...]

    def __post_init__(self) -> None:
        dimensions = len(self.patch_size)
        assert dimensions in (2, 3), self.patch_size
        assert not self.dummy_2d or dimensions == 3, "only a 3-D patch has planes"
        assert all(0 <= axis < dimensions for axis in (*self.mirror_axes, *self.mirror_label_pairs)), self.mirror_axes


def rules_for(
    patch_size: Sequence[int],
    *,
    mirror_axes: Sequence[int],
    mirror_label_pairs: Mapping[int, tuple[tuple[int, int], ...]],
    mask_channels: Sequence[bool],
) -> AugmentationRules:
    """Rules for a patch size: nnU-Net's ranges (reference rules, section 5).

    3-D patches turn by up to 30 degrees about each axis; flat ones (longest edge more than 3 times axis 0) by
    any angle within their plane. 2-D patches turn by any angle, elongated ones (longest edge more than 1.5
    times the shortest) by up to 15 degrees.
    """
    patch = tuple(int(edge) for edge in patch_size)
    flat = len(patch) == 3 and max(patch) / patch[0] > FLAT_PATCH_RATIO
    if len(patch) == 3:
        largest = math.pi if flat else math.radians(30)
    else:
        largest = math.radians(15) if max(patch) / min(patch) > ELONGATED_2D_RATIO else math.pi
    return AugmentationRules(
        patch_size=patch,
        rotation_rad=largest,
        dummy_2d=flat,
        mirror_axes=tuple(mirror_axes),
        mirror_label_pairs=dict(mirror_label_pairs),
        mask_channels=tuple(mask_channels),
    )


def crop_size(patch_size: Sequence[int], *, rotation_rad: float, dummy_2d: bool) -> tuple[int, ...]:
    """Voxels to read per axis, so that a turned or zoomed-out patch mostly finds image (nnU-Net's rule).

    The vector of patch edges is turned about each axis alone by the largest angle (90 degrees at most); the
    largest absolute extent per axis, divided by 0.85 and cut to an integer, is the crop. 128^3 and 30 degrees
    give 205^3.

    Args:
        patch_size: (z, y, x) or (y, x).
        rotation_rad: largest rotation angle.
        dummy_2d: axis 0 is not enlarged.
    """
    angle = min(abs(rotation_rad), math.pi / 2)
    cosine, sine = math.cos(angle), math.sin(angle)
    extent = [float(edge) for edge in patch_size]
    planes = [(1, 2), (2, 0), (0, 1)] if len(extent) == 3 else [(0, 1)]
    for first, second in planes:
        a, b = patch_size[first], patch_size[second]
        extent[first] = max(extent[first], abs(cosine * a + sine * b))
        extent[second] = max(extent[second], abs(cosine * b - sine * a))
    crop = [int(edge / ZOOM_RESERVE) for edge in extent]
    return (int(patch_size[0]), *crop[1:]) if dummy_2d else tuple(crop)
