"""How the intensities of each channel are brought to a common scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from autoseg.core.errors import UsageError
from autoseg.core.plan import Normalization
from autoseg.core.records import nearest

NONZERO = "zscore_nonzero"  # a z-score in the nonzero mask
WANTED = (*get_args(Normalization), NONZERO)

BY_CHANNEL_NAME: dict[str, Normalization] = {
    "ct": "ct",
    "nonorm": "none",
    "rescale_to_0_1": "rescale_0_1",
    "rgb_to_0_1": "rgb_0_1",
    "zscore": "zscore",
}
MASK_BELOW = 0.75


def normalization(
    channel_names: list[str], *, relative_size_after_crop: float, wanted: Sequence[str] = ()
) -> tuple[list[Normalization], list[bool], str]:
    """Scheme per channel, whether it is computed in the nonzero mask only, and the reason (rule 3.8).

    Hounsfield units mean the same in every scan, so CT keeps them; other channels are z-scored per image.
    Where cropping to the nonzero region removed over a quarter of the image, the zeros would spoil that
    statistic and are left out. `wanted` overrides all that: a name of WANTED per channel.

    Raises:
        UsageError: `wanted` has another number of entries than there are channels, or an unknown one.
    """
    if wanted:
        check_normalization(wanted, n_channels=len(channel_names))
        chosen: list[Normalization] = ["zscore" if name == NONZERO else name for name in wanted]  # type: ignore[misc]
        return chosen, [name == NONZERO for name in wanted], f"given by the user: {', '.join(wanted)}"
    schemes: list[Normalization] = [BY_CHANNEL_NAME.get(name.casefold(), "zscore") for name in channel_names]
    masked = relative_size_after_crop < MASK_BELOW
    use_mask = [scheme == "zscore" and masked for scheme in schemes]
    named = ", ".join(f"{name} -> {scheme}" for name, scheme in zip(channel_names, schemes, strict=True))
    reason = (
        f"by channel name: {named}; the nonzero region is {relative_size_after_crop:.0%} of the image, "
        f"so z-scores {'use' if masked else 'need not use'} the mask"
    )
    return schemes, use_mask, reason


def check_normalization(wanted: Sequence[str], *, n_channels: int) -> None:
    """Raises UsageError where `wanted`, unless empty, is not one known scheme per channel."""
    if wanted and len(wanted) != n_channels:
        raise UsageError(f"--normalization has {len(wanted)} entries for {n_channels} channels; give one per channel")
    for name in wanted:
        if name not in WANTED:
            raise UsageError(f"--normalization: there is no '{name}'; {nearest(name, [*WANTED])}")
