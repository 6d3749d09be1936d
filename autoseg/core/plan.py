"""Every decision about a data set: Plan -> Configuration -> NetworkSpec. A file to read and to edit."""

from __future__ import annotations

from math import prod
from typing import Any, Literal

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    PositiveFloat,
    PositiveInt,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from autoseg.core.declaration import Labels, check_regions_order
from autoseg.core.errors import UsageError
from autoseg.core.files import content_key, unsafe_name
from autoseg.core.fingerprint import Intensities, Seen
from autoseg.core.labels import LabelScheme
from autoseg.core.records import Record, nearest

NOTHING = ("inherits_from", "previous_stage")  # need no line in a plan file where they are None
REST = ""  # key of all decisions that belong to no configuration
PREPARED_BY = ("spacing_mm", "normalization", "use_mask_for_norm")  # on which the preprocessed cases depend
Normalization = Literal["ct", "zscore", "rescale_0_1", "rgb_0_1", "none"]
Orientation = Literal["LPS", "RAS", "stored"]


class NetworkSpec(Record):
    """A network by its numbers, per stage from full resolution to bottleneck; axes in transposed order."""

    name: str = "plain_unet"
    features_per_stage: list[PositiveInt] = Field(min_length=1)
    strides: list[list[PositiveInt]]
    kernel_sizes: list[list[PositiveInt]]
    blocks_per_stage: list[PositiveInt]
    blocks_per_stage_decoder: list[PositiveInt]

    @model_validator(mode="after")
    def _one_entry_per_stage(self) -> NetworkSpec:
        stages = len(self.features_per_stage)
        for name in ("strides", "kernel_sizes", "blocks_per_stage"):
            if len(getattr(self, name)) != stages:
                raise ValueError(f"{name} has {len(getattr(self, name))} entries for {stages} stages")
        if len(self.blocks_per_stage_decoder) != stages - 1:
            raise ValueError(f"blocks_per_stage_decoder needs {stages - 1} entries")
        if any(stride != 1 for stride in self.strides[0]):
            raise ValueError("the first strides must be 1: the network's output has the size of its input")
        if len({len(entry) for entry in (*self.strides, *self.kernel_sizes)}) != 1:
            raise ValueError("all strides and kernel_sizes must have the same number of axes")
        if any(size % 2 == 0 for kernel in self.kernel_sizes for size in kernel):
            raise ValueError("kernel_sizes must be odd, so that an output voxel has a centre")
        return self


class Configuration(Record):
    """How images are prepared and which network sees them. Axes are in transposed order, coarsest first.

    `spacing_mm` and `patch_size` have two entries in 2d configurations, three otherwise. `mirror_axes` are
    axes of the patch; `mirror_label_pairs` holds label names that change places when the axis that separates
    left and right is mirrored. `reasons` says for each decision which rule made it and from which numbers.
    In a plan file a configuration with `inherits_from` gives only what differs from that other one; in memory it is
    complete. With `previous_stage` the segmentation of that configuration is a further input.
    """

    inherits_from: str | None = None
    previous_stage: str | None = None

    patch_size: list[PositiveInt] = Field(min_length=2, max_length=3)
    batch_size: PositiveInt
    spacing_mm: list[PositiveFloat] = Field(min_length=2, max_length=3)
    median_shape_voxels: list[float]
    normalization: list[Normalization]
    use_mask_for_norm: list[bool]
    batch_dice: bool
    network: NetworkSpec
    mirror_axes: list[int]
    mirror_label_pairs: list[tuple[str, str]] = Field(default_factory=list)
    reasons: dict[str, str] = Field(default_factory=dict)
    _given: frozenset[str] = PrivateAttr(default=frozenset())  # what an inheriting configuration gives itself

    @model_validator(mode="after")
    def _dimensions_agree(self) -> Configuration:
        dimensions = len(self.patch_size)
        if len(self.spacing_mm) != dimensions or any(len(s) != dimensions for s in self.network.strides):
            raise ValueError(f"patch_size has {dimensions} axes; spacing_mm and network.strides must have as many")
        if len(self.use_mask_for_norm) != len(self.normalization):
            raise ValueError("normalization and use_mask_for_norm must have one entry per channel")
        if strangers := set(self.mirror_axes) - set(range(dimensions)):
            raise ValueError(f"mirror_axes holds {min(strangers)}; the axes are 0 to {dimensions - 1}")
        for axis, size in enumerate(self.patch_size):
            stride = prod(strides[axis] for strides in self.network.strides)
            if size % stride:
                found = f"patch_size {size} along axis {axis} must be a multiple of {stride}"
                raise ValueError(f"{found} for these strides")
        return self

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return len(self.patch_size)

    def decisions(self) -> dict[str, Any]:
        """What a training depends on: all fields but reasons and statistics; defaults are left out, so that a field
        that a later version adds changes nothing.
        """
        told = {"reasons", "median_shape_voxels", "inherits_from"}
        return self.model_dump(mode="json", exclude=told, exclude_defaults=True)

    @property
    def given(self) -> frozenset[str]:
        """The fields that an inheriting configuration gives itself."""
        return self._given


class Told(Record):
    """What the user told the planner; None and nothing mean that it decides itself."""

    gpu_memory_gb: PositiveFloat | None = None
    spacing_mm: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None
    normalization: tuple[str, ...] = ()


class Plan(Record):
    """All that a prediction needs to know besides the weights.

    `orientation` is the one that the network knows: LPS (canonical, in which autoseg trains), RAS, or as the files
    store it; other models than our own may be trained in these.
    """

    schema_version: Literal[1] = 1
    planner: str
    dataset: str
    transpose_forward: tuple[int, int, int]
    channel_names: list[str]
    labels: Labels
    regions_class_order: list[int] = Field(default_factory=list)
    file_ending: str
    orientation: Orientation = "LPS"
    intensities: list[Intensities]
    configurations: dict[str, Configuration]
    reasons: dict[str, str] = Field(default_factory=dict)
    fingerprint_key: str = ""
    told: Told = Field(default_factory=Told)
    # A hash of each configuration before anybody edited it, under "" of all the rest; version 0.1.0 kept none.
    planned: dict[str, str] | None = None

    @model_validator(mode="wrap")
    @classmethod
    def _inherit(cls, value: Any, check: ModelWrapValidatorHandler[Plan]) -> Plan:
        configurations = value.get("configurations") if isinstance(value, dict) else None
        if not isinstance(configurations, dict):
            return check(value)
        plan = check(
            {**value, "configurations": {name: with_inherited(name, configurations) for name in configurations}}
        )
        for name, configuration in [*plan.configurations.items()]:
            parent = plan.configurations.get(configuration.inherits_from or "")
            if parent is not None:
                own = configurations[name]
                differs = (k for k in type(parent).model_fields if getattr(configuration, k) != getattr(parent, k))
                plan.configurations[name] = configuration.model_copy()  # the plan that it came from keeps its own
                plan.configurations[name]._given = frozenset(differs) | frozenset(
                    own.given if isinstance(own, Configuration) else own
                )
        return plan

    @field_validator("regions_class_order")
    @classmethod
    def _one_value_per_region(cls, order: list[int], info: ValidationInfo) -> list[int]:
        check_regions_order(order, info.data.get("labels"))
        return order

    @model_validator(mode="after")
    def _parts_agree(self) -> Plan:
        if sorted(self.transpose_forward) != [0, 1, 2]:
            raise ValueError(f"transpose_forward {[*self.transpose_forward]} must hold 0, 1 and 2 once each")
        if len(self.intensities) != len(self.channel_names):
            counts = f"{len(self.intensities)} intensities for {len(self.channel_names)} channel_names"
            raise ValueError(f"there are {counts}; each channel needs its own")
        for name, configuration in self.configurations.items():
            if unsafe := unsafe_name(name):
                raise ValueError(f"configuration {name!r}: the name {unsafe}, and folders are called by it")
            parent = configuration.inherits_from
            if parent is not None and parent not in self.configurations:
                raise ValueError(f"configuration '{name}' inherits from {parent!r}, which is not in this plan")
            if len(configuration.normalization) != len(self.channel_names):
                raise ValueError(f"configuration '{name}' must have one normalization per channel")
            swapped = {label for pair in configuration.mirror_label_pairs for label in pair}
            self._check_previous_stages(name)
            if strangers := swapped - set(self.labels):
                raise ValueError(f"mirror_label_pairs of '{name}' holds '{min(strangers)}', which is no label")
        return self

    def _check_previous_stages(self, name: str) -> None:
        seen = [name]
        while (stage := self.configurations[seen[-1]].previous_stage) is not None:
            if stage not in self.configurations:
                hint = nearest(stage, [*self.configurations])
                raise ValueError(f"previous_stage '{stage}' of '{seen[-1]}' is no configuration; {hint}")
            if stage in seen:
                raise ValueError(f"previous_stage of '{name}' leads in a circle")
            seen.append(stage)

    @model_serializer(mode="wrap")
    def _shorten(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Inheriting configurations with what they give themselves only, the others without empty keys."""
        value: dict[str, Any] = whole(self)
        for name, fields in value["configurations"].items():
            given = self.configurations[name].given
            if fields["inherits_from"] is None:
                kept = {k: v for k, v in fields.items() if k not in NOTHING or v is not None}
            else:
                kept = {k: v for k, v in fields.items() if k in given or k == "inherits_from"}
            value["configurations"][name] = kept
        return value

    def in_file(self) -> dict[str, dict[str, Any]]:
        """The configurations as they stand in the plan file."""
        return self.model_dump(mode="json")["configurations"]  # type: ignore[no-any-return]

    def marked(self) -> Plan:
        """This plan, knowing what it is now, so that later changes can be told from what was planned."""
        keys = {name: _key(facts) for name, facts in self.in_file().items()}
        return self.with_changes(planned={**keys, REST: self._key_of_the_rest()})

    @property
    def edited(self) -> tuple[str, ...]:
        """Configurations that somebody added or changed since they were planned; none where that is not known."""
        known = self.planned
        return () if known is None else tuple(n for n, facts in self.in_file().items() if _key(facts) != known.get(n))

    @property
    def edited_elsewhere(self) -> bool:
        """Whether somebody changed decisions that belong to no configuration."""
        return self.planned is not None and self.planned.get(REST) != self._key_of_the_rest()

    def _key_of_the_rest(self) -> str:
        return content_key(self.transpose_forward, [one.model_dump() for one in self.intensities])

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

    def input_channels(self, name: str) -> int:
        """Channels that the network of a configuration sees: the image's, and one per label of an earlier stage."""
        earlier = self.configuration(name).previous_stage is not None
        return len(self.channel_names) + (len(self.scheme.values) - 1 if earlier else 0)

    def stages(self, name: str) -> list[str]:
        """A configuration and those whose segmentations it needs, the first stage of a cascade last."""
        found = [name]
        while (stage := self.configuration(found[-1]).previous_stage) is not None:
            found.append(stage)
        return found

    def stored_as(self, name: str) -> str:
        """The configuration whose preprocessed cases serve this one too: itself, or one that it inherits them from."""
        own = self.configuration(name)
        while (parent := self.configurations[name].inherits_from) is not None:
            other = self.configurations[parent]
            if any(getattr(own, key) != getattr(other, key) for key in PREPARED_BY):
                break
            name = parent
        return name

    def configuration(self, name: str) -> Configuration:
        """A configuration by name. Raises UsageError naming the nearest one."""
        if name not in self.configurations:
            raise UsageError(f"no configuration '{name}' in the plan; {nearest(name, [*self.configurations])}")
        return self.configurations[name]


def with_inherited(name: str, configurations: dict[str, Any]) -> Any:
    """A configuration as it stands in a file, with the fields that it inherits; ValueError where that is impossible."""
    fields, heirs = configurations[name], [name]
    parent = fields.get("inherits_from") if isinstance(fields, dict) else None
    while parent is not None:
        if not isinstance(parent, str) or parent in heirs or not isinstance(configurations.get(parent), dict):
            found = f"configuration '{heirs[-1]}' inherits from {parent!r}"
            hint = nearest(str(parent), [other for other in configurations if other not in heirs])
            raise ValueError(f"{found}, which does not exist or leads in a circle; {hint}".rstrip("; "))
        fields = {**configurations[parent], **fields}
        heirs.append(parent)
        parent = configurations[parent].get("inherits_from")
    return fields


def _key(fields: dict[str, Any]) -> str:
    """Hash of the decisions of a configuration; the reasons for them are none."""
    return content_key({key: value for key, value in fields.items() if key != "reasons"})


class Model(Record):
    """A trained configuration as it lies in its results folder: model.json beside the fold_* folders.

    `seen` are the ranges of the training images, None where nobody measured them; `origin` says who trained it.
    """

    schema_version: Literal[1] = 1
    configuration: str
    plan: Plan
    autoseg_version: str
    seen: Seen | None = None
    origin: str = "autoseg"
