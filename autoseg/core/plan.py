"""Every decision about a data set: Plan -> Configuration -> NetworkSpec. A file to read and to edit."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from autoseg.core.errors import UsageError
from autoseg.core.fingerprint import Intensities
from autoseg.core.labels import LabelScheme
from autoseg.core.records import Record, nearest

SCHEMA_VERSION = 1
Normalization = Literal["ct", "zscore", "rescale_0_1", "rgb_0_1", "none"]


class NetworkSpec(Record):
    """A network by its numbers. Lists are per stage, from full resolution to the bottleneck; axes in transposed order."""

    name: str = "plain_unet"
    features_per_stage: list[int] = Field(min_length=1)
    strides: list[list[int]]
    kernel_sizes: list[list[int]]
    blocks_per_stage: list[int]
    blocks_per_stage_decoder: list[int]

    @model_validator(mode="after")
    def _one_entry_per_stage(self) -> NetworkSpec:
        stages = len(self.features_per_stage)
        for name in ("strides", "kernel_sizes", "blocks_per_stage"):
            if len(getattr(self, name)) != stages:
                raise ValueError(f"{name} has {len(getattr(self, name))} entries for {stages} stages")
        if len(self.blocks_per_stage_decoder) != stages - 1:
            raise ValueError(f"blocks_per_stage_decoder needs {stages - 1} entries")
        return self


class Configuration(Record):
    """How images are prepared and which network sees them. Axes are in transposed order, coarsest first.

    `spacing_mm` and `patch_size` have two entries in 2d configurations, three otherwise. `mirror_axes` are axes of the
    patch; `mirror_label_pairs` holds label names that change places when the axis that separates left and right is
    mirrored. `reasons` says for each decision which rule made it and from which numbers.
    """

    patch_size: list[int] = Field(min_length=2, max_length=3)
    batch_size: int = Field(ge=1)
    spacing_mm: list[float] = Field(min_length=2, max_length=3)
    median_shape_voxels: list[float]
    normalization: list[Normalization]
    use_mask_for_norm: list[bool]
    batch_dice: bool
    network: NetworkSpec
    mirror_axes: list[int]
    mirror_label_pairs: list[tuple[str, str]] = []
    reasons: dict[str, str] = {}

    @model_validator(mode="after")
    def _dimensions_agree(self) -> Configuration:
        dimensions = len(self.patch_size)
        if len(self.spacing_mm) != dimensions or any(len(s) != dimensions for s in self.network.strides):
            raise ValueError(f"patch_size has {dimensions} axes; spacing_mm and network.strides must have as many")
        if any(value <= 0 for value in (*self.patch_size, *self.spacing_mm)):
            raise ValueError("patch_size and spacing_mm must be positive")
        for axis, size in enumerate(self.patch_size):
            stride = 1
            for strides in self.network.strides:
                stride *= strides[axis]
            if size % stride:
                raise ValueError(f"patch_size {size} along axis {axis} must be a multiple of {stride} for these strides")
        return self

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return len(self.patch_size)


class Plan(Record):
    """All that a prediction needs to know besides the weights."""

    schema_version: Literal[1] = SCHEMA_VERSION
    planner: str
    dataset: str
    transpose_forward: tuple[int, int, int]
    channel_names: list[str]
    labels: dict[str, int | list[int]]
    regions_class_order: list[int] = []
    file_ending: str
    intensities: list[Intensities]
    configurations: dict[str, Configuration]
    reasons: dict[str, str] = {}
    fingerprint_key: str = ""

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, value: Any) -> Any:
        configurations = value.get("configurations") if isinstance(value, dict) else None
        if not isinstance(configurations, dict):
            return value
        resolved = {name: _resolve(name, configurations, ()) for name in configurations}
        return {**value, "configurations": resolved}

    @property
    def transpose_backward(self) -> tuple[int, int, int]:
        """Inverse permutation of `transpose_forward`."""
        return tuple(self.transpose_forward.index(axis) for axis in range(3))  # type: ignore[return-value]

    def left_right_axis(self, dimensions: int) -> int | None:
        """Axis of a patch along which left and right differ (canonical x); None where a 2d patch lacks it."""
        axis = self.transpose_forward.index(2) - (3 - dimensions)
        return axis if axis >= 0 else None

    @property
    def scheme(self) -> LabelScheme:
        """The labels as a LabelScheme."""
        declared = {n: tuple(v) if isinstance(v, list) else v for n, v in self.labels.items()}
        return LabelScheme(declared=declared, regions_class_order=tuple(self.regions_class_order))

    def configuration(self, name: str) -> Configuration:
        """A configuration by name. Raises UsageError naming the nearest one."""
        if name not in self.configurations:
            raise UsageError(f"no configuration '{name}' in the plan; {nearest(name, [*self.configurations])}")
        return self.configurations[name]


def _resolve(name: str, configurations: dict[str, Any], seen: tuple[str, ...]) -> Any:
    own = configurations[name]
    if not isinstance(own, dict) or "inherits_from" not in own:
        return own
    parent = own["inherits_from"]
    if parent not in configurations or parent in (*seen, name):
        raise ValueError(f"configuration '{name}' inherits from '{parent}', which does not exist or leads in a circle")
    fields = {key: value for key, value in own.items() if key != "inherits_from"}
    return {**_resolve(parent, configurations, (*seen, name)), **fields}


class Model(Record):
    """A trained configuration as it lies in its results folder: model.json beside the fold_* folders."""

    schema_version: Literal[1] = SCHEMA_VERSION
    configuration: str
    plan: Plan
    autoseg_version: str
