"""Along which axes patches may be mirrored, and which labels change places then."""

from __future__ import annotations

from autoseg.core.fingerprint import Fingerprint, LabelStatistics
from autoseg.core.labels import LabelScheme, left_right_pairs

LEFT_RIGHT = 2  # canonical array axis along which left and right differ


def mirroring(scheme: LabelScheme, fingerprint: Fingerprint) -> tuple[bool, list[tuple[str, str]], str]:
    """Whether the left-right axis may be mirrored, the label pairs to swap then, and the reason.

    A pair of names (left_kidney, right_kidney) is believed when the training labels confirm it: similar mean
    volumes (within a factor 2) and centroids on opposite sides of each other. Labels that tell sides without
    a confirmed partner, such as left and right ventricle of the heart, forbid mirroring along that axis.
    """
    pairs, lonely = left_right_pairs(list(scheme.foreground))
    if scheme.has_regions and pairs:
        return False, [], "regions tell left from right: no mirroring along that axis"
    confirmed = [pair for pair in pairs if _mirror_images(*(fingerprint.labels.get(name) for name in pair))]
    doubtful = [f"{left}/{right}" for left, right in pairs if (left, right) not in confirmed] + lonely
    if doubtful:
        why = f"sides without a confirmed mirror partner ({', '.join(doubtful)}): no left-right mirroring"
        return False, [], why
    if confirmed:
        swapped = ", ".join(f"{left}/{right}" for left, right in confirmed)
        why = f"left and right change places when mirrored: {swapped} (volumes and positions agree)"
        return True, confirmed, why
    return True, [], "no label tells left from right"


def _mirror_images(left: LabelStatistics | None, right: LabelStatistics | None) -> bool:
    if left is None or right is None:
        return False
    volumes = sorted((left.mean_volume_ml, right.mean_volume_ml))
    return volumes[0] > 0 and volumes[1] / volumes[0] <= 2 and left.mean_side_mm > right.mean_side_mm
