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
    """Scheme per channel, whether its statistics come from the nonzero mask only, and the reason (reference rule 3.8).

    Hounsfield units mean the same in every scan, so CT keeps them; other channels are z-scored per image. Where cropping
    to the nonzero region removed over a quarter of the image, the zeros would spoil that statistic and are left out.
    """
    schemes: list[Normalization] = [BY_CHANNEL_NAME.get(name.casefold(), "zscore") for name in channel_names]
    masked = relative_size_after_crop < MASK_BELOW
    use_mask = [scheme == "zscore" and masked for scheme in schemes]
    reason = (
        f"by channel name: {', '.join(f'{n} -> {s}' for n, s in zip(channel_names, schemes, strict=True))}; nonzero region "
        f"is {relative_size_after_crop:.0%} of the image, so z-scores {'use' if masked else 'need not use'} the mask"
    )
    return schemes, use_mask, reason
