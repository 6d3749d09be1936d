"""How the intensities of each channel are brought to a common scale."""

from __future__ import annotations

from autoseg.core.plan import Normalization

BY_CHANNEL_NAME: dict[str, Normalization] = {
    "ct": "ct",
    "nonorm": "none",
    "rescale_to_0_1": "rescale_0_1",
    "rgb_to_0_1": "rgb_0_1",
    "zscore": "zscore",
}
MASK_BELOW = 0.75


def normalization(
    channel_names: list[str], *, relative_size_after_crop: float
) -> tuple[list[Normalization], list[bool], str]:
    """Scheme per channel, whether it is computed in the nonzero mask only, and the reason (rule 3.8).

    Hounsfield units mean the same in every scan, so CT keeps them; other channels are z-scored per image.
    Where cropping to the nonzero region removed over a quarter of the image, the zeros would spoil that
    statistic and are left out.
    """
    schemes: list[Normalization] = [BY_CHANNEL_NAME.get(name.casefold(), "zscore") for name in channel_names]
    masked = relative_size_after_crop < MASK_BELOW
    use_mask = [scheme == "zscore" and masked for scheme in schemes]
    named = ", ".join(f"{name} -> {scheme}" for name, scheme in zip(channel_names, schemes, strict=True))
    reason = (
        f"by channel name: {named}; the nonzero region is {relative_size_after_crop:.0%} of the image, "
        f"so z-scores {'use' if masked else 'need not use'} the mask"
    )
    return schemes, use_mask, reason
