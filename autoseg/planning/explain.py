"""Every decision of a plan with its rule, the numbers that went in, and what would change it."""

from __future__ import annotations

from dataclasses import dataclass

from autoseg.core.plan import Configuration, Plan


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """One decision: what was decided, by which rule, from which numbers, and what would change it."""

    decision: str
    value: str
    rule: str
    numbers: str
    change: str


# decision -> (rule, what would change it). The rules are nnU-Net's; each stands in a file of its own in this folder.
RULES = {
    "transpose_forward": (
        "the axis with the coarsest target spacing comes first, so that 2d slices are cut across it",
        "another target spacing (--spacing)",
    ),
    "spacing_mm": (
        "the median over all cases; the 10th percentile along an axis over 3 times coarser and shorter than the others",
        "other images, or --spacing z y x",
    ),
    "patch_size": (
        "the largest patch whose feature maps fit the memory; from a cube in millimetres, at most the median image, "
        "it shrinks along the axis that is largest against the median image",
        "more or less memory (--gpu_memory_gb), another planner, another spacing",
    ),
    "network": (
        "axes are halved while they keep 4 voxels and are not over 2 times coarser than the finest; kernels are 3 wide "
        "where the spacing is within a factor of 2 of the finest",
        "another patch size or spacing, or another planner (plain or residual encoder)",
    ),
    "batch_size": (
        "what the memory holds besides the patch, at most a share of all voxels of the data set, at least 2",
        "more memory (--gpu_memory_gb), more or larger cases",
    ),
    "normalization": (
        "by channel name: CT is clipped and scaled with the numbers of the whole data set, others image by image",
        "another name in channel_names of dataset.json, or --normalization",
    ),
    "use_mask_for_norm": (
        "z-scores are computed in the nonzero region where cropping to it removes over a quarter of the images",
        "--normalization zscore_nonzero",
    ),
    "batch_dice": (
        "on for 2d, and for 3d_fullres where a patch sees so little of the image that a 3d_lowres is planned",
        "for 3d_fullres, a larger patch (--gpu_memory_gb)",
    ),
    "mirror_axes": (
        "all axes, but left-right only where no label tells the sides apart or its mirror partner is confirmed",
        "label names in dataset.json, or mirror_axes and mirror_label_pairs in the plan file",
    ),
    "previous_stage": (
        "where a 3d_lowres is planned, a cascade refines its segmentation at full resolution",
        "whatever makes 3d_lowres superfluous: larger patches or a coarser spacing",
    ),
}
WHERE = "edit the plan file"
EDITED = "changed or added in the plan file, perhaps together with others here"


def explain(plan: Plan) -> dict[str, list[Explanation]]:
    """Explanations of the plan as a whole (under "plan") and of each configuration, in the order of RULES."""
    edited = plan.edited
    reasons = {"transpose_forward": EDITED} if plan.edited_elsewhere else plan.reasons
    found = {"plan": [_explained("transpose_forward", f"{[*plan.transpose_forward]}", reasons)]}
    for name, configuration in plan.configurations.items():
        values = {k: v for k, v in _values(configuration).items() if _is_own(k, configuration)}
        reasons = dict.fromkeys(values, EDITED) if name in edited else configuration.reasons
        found[name] = [_explained(decision, value, reasons) for decision, value in values.items()]
    return found


def _is_own(decision: str, configuration: Configuration) -> bool:
    """Whether a decision is told here: what is inherited is told where it comes from."""
    if decision == "previous_stage":
        return configuration.previous_stage is not None
    return configuration.inherits_from is None or decision in configuration.given


def _explained(decision: str, value: str, reasons: dict[str, str]) -> Explanation:
    rule, change = RULES[decision]
    return Explanation(
        decision=decision,
        value=value,
        rule=rule,
        numbers=reasons.get(decision, "nothing else"),
        change=f"{change}; or {WHERE}",
    )


def _values(c: Configuration) -> dict[str, str]:
    def by_axis(values: list[float] | list[int]) -> str:
        return " x ".join(f"{value:.4g}" for value in values)

    strides = ", ".join("x".join(map(str, stride)) for stride in c.network.strides[1:])
    pairs = "".join(f", {a} and {b} change places" for a, b in c.mirror_label_pairs)
    return {
        "previous_stage": str(c.previous_stage),
        "spacing_mm": by_axis(c.spacing_mm),
        "patch_size": by_axis(c.patch_size),
        "network": f"{c.network.name}, {len(c.network.strides)} stages, {c.network.features_per_stage[0]} to "
        f"{c.network.features_per_stage[-1]} features, strides {strides or 'none'}",
        "batch_size": str(c.batch_size),
        "normalization": ", ".join(c.normalization),
        "use_mask_for_norm": ", ".join("yes" if mask else "no" for mask in c.use_mask_for_norm),
        "batch_dice": "on" if c.batch_dice else "off",
        "mirror_axes": f"{c.mirror_axes}{pairs}",
    }
