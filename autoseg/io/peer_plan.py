"""nnU-Net v2's plans.json and dataset.json -> Plan, as far as a prediction needs them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ConfigDict, Field

from autoseg.core.declaration import DatasetJson
from autoseg.core.errors import DataError, Problem
from autoseg.core.files import read_json, unsafe_name
from autoseg.core.fingerprint import Intensities
from autoseg.core.plan import Configuration, NetworkSpec, Orientation, Plan, with_inherited
from autoseg.core.records import Record, nearest, parse

PLANS, DECLARATION = "plans.json", "dataset.json"
NETWORKS = {"PlainConvUNet": "plain_unet", "ResidualEncoderUNet": "residual_encoder_unet"}
NORMALIZATIONS = {
    "CTNormalization": "ct",
    "ZScoreNormalization": "zscore",
    "RescaleTo01Normalization": "rescale_0_1",
    "RGBTo01Normalization": "rgb_0_1",
    "NoNormalization": "none",
}
ORIENTATIONS: dict[str, Orientation] = {
    "SimpleITKIO": "stored",
    "NibabelIO": "stored",
    "NibabelIOWithReorient": "RAS",
    "SimpleITKIOWithReorient": "RAS",
}
RESAMPLING = "resample_data_or_seg_to_shape"
SLOPES = (None, 0.01)
OWN_NETWORK = "only its plain and residual encoder U-Nets with instance norm and LeakyReLU run here"
NOT_HERE = "predict with nnU-Net, or train again with autoseg_train"


class _Theirs(Record):
    """A record of another program's file: keys that mean nothing for a prediction are passed over."""

    model_config = ConfigDict(extra="ignore")


class _Architecture(_Theirs):
    network_class_name: str
    arch_kwargs: dict[str, Any]


class _Configuration(_Theirs):
    """A configuration, inheritance resolved; `architecture` is missing in plans of versions before 2.4."""

    patch_size: list[int]
    spacing: list[float]
    batch_size: int
    median_image_size_in_voxels: list[float] = Field(default_factory=list)
    normalization_schemes: list[str]
    use_mask_for_norm: list[bool]
    batch_dice: bool = False
    previous_stage: str | None = None
    preprocessor_name: str = "DefaultPreprocessor"
    resampling_fn_data: str = RESAMPLING
    resampling_fn_data_kwargs: dict[str, Any] = Field(default_factory=dict)
    resampling_fn_probabilities: str = RESAMPLING
    resampling_fn_probabilities_kwargs: dict[str, Any] = Field(default_factory=dict)
    architecture: _Architecture | None = None
    UNet_class_name: str = ""
    UNet_base_num_features: int = 32
    unet_max_num_features: int = 320
    n_conv_per_stage_encoder: list[int] = Field(default_factory=list)
    n_conv_per_stage_decoder: list[int] = Field(default_factory=list)
    conv_kernel_sizes: list[list[int]] = Field(default_factory=list)
    pool_op_kernel_sizes: list[list[int]] = Field(default_factory=list)


class _Plans(_Theirs):
    dataset_name: str
    plans_name: str
    transpose_forward: tuple[int, int, int]
    image_reader_writer: str = "SimpleITKIO"
    label_manager: str = "LabelManager"
    configurations: dict[str, dict[str, Any]]
    # called by_modality until version 2.0
    foreground_intensity_properties_per_channel: dict[str, dict[str, float]] = Field(default_factory=dict)
    foreground_intensity_properties_by_modality: dict[str, dict[str, float]] = Field(default_factory=dict)


def read_peer_plan(folder: Path, *, mirror_axes: Mapping[str, list[int]]) -> Plan:
    """The plan of a results folder of nnU-Net v2, with the named configurations and those that they follow.

    Args:
        folder: holds plans.json and dataset.json.
        mirror_axes: per configuration that is wanted the axes of the patch along which its checkpoint may be
            mirrored; none for those that are not named.

    Raises:
        DataError: a file is missing or damaged, or asks for what autoseg does not compute: another network,
            preprocessing, resampling or reader of images.
    """
    path = folder / PLANS
    theirs = parse(_Plans, read_json(path), source=path)
    declaration = _declaration(folder / DECLARATION)
    reader = theirs.image_reader_writer
    if reader not in ORIENTATIONS:
        _refuse(path, f"its images were read by {reader}, and autoseg reads {', '.join(ORIENTATIONS)}")
    if theirs.label_manager != "LabelManager":
        _refuse(path, f"its labels are of a kind of its own ({theirs.label_manager})")
    for name in (theirs.plans_name, theirs.dataset_name):
        if unsafe := unsafe_name(name):
            _refuse(path, f"a name in it {unsafe}")
    configurations: dict[str, Any] = {}
    wanted = [*mirror_axes]
    while wanted:
        name = wanted.pop()
        axes = mirror_axes.get(name, [])
        if name not in theirs.configurations:
            _refuse(path, f"has no configuration {name}; {nearest(name, [*theirs.configurations])}")
        try:
            whole = with_inherited(name, theirs.configurations)
        except ValueError as error:
            _refuse(path, str(error))
        one = parse(_Configuration, whole, source=f"{path}: {name}")
        configurations[name] = _configuration(one, axes, path)
        if one.previous_stage is not None and one.previous_stage not in (*configurations, *wanted):
            wanted.append(one.previous_stage)
    measured = theirs.foreground_intensity_properties_per_channel or theirs.foreground_intensity_properties_by_modality
    scheme = declaration.scheme
    plan = {
        "planner": theirs.plans_name,
        "dataset": theirs.dataset_name,
        "transpose_forward": theirs.transpose_forward,
        "channel_names": [*declaration.channel_names.values()],
        "labels": declaration.labels,
        "regions_class_order": [*scheme.regions_class_order] if scheme.has_regions else [],
        "file_ending": declaration.file_ending,
        "orientation": ORIENTATIONS[reader],
        "intensities": [_intensities(measured.get(channel), path) for channel in declaration.channel_names],
        "configurations": configurations,
    }
    return parse(Plan, plan, source=str(path))


def _declaration(path: Path) -> DatasetJson:
    value = read_json(path)
    if isinstance(value, dict) and "channel_names" not in value and "modality" in value:
        value["channel_names"] = value.pop("modality")  # the older name
    return parse(DatasetJson, value, source=path)


def _configuration(theirs: _Configuration, mirror_axes: list[int], path: Path) -> dict[str, Any]:
    if theirs.preprocessor_name != "DefaultPreprocessor":
        _refuse(path, f"its images were prepared by a {theirs.preprocessor_name} of its own")
    for what, order in (("data", 3), ("probabilities", 1)):
        function = getattr(theirs, f"resampling_fn_{what}")
        told = getattr(theirs, f"resampling_fn_{what}_kwargs")
        usual = {"order": order, "order_z": 0, "force_separate_z": None}
        if function != RESAMPLING or any(told.get(key, value) != value for key, value in usual.items()):
            _refuse(path, f"its {what} are resampled by {function} with {told}, not as nnU-Net does by default")
    strangers = [name for name in theirs.normalization_schemes if name not in NORMALIZATIONS]
    if strangers:
        _refuse(path, f"its intensities are normalised by {strangers[0]}; known are {', '.join(NORMALIZATIONS)}")
    own = {
        "previous_stage": theirs.previous_stage,
        "patch_size": theirs.patch_size,
        "batch_size": theirs.batch_size,
        "spacing_mm": theirs.spacing,
        "median_shape_voxels": theirs.median_image_size_in_voxels,
        "normalization": [NORMALIZATIONS[name] for name in theirs.normalization_schemes],
        "use_mask_for_norm": theirs.use_mask_for_norm,
        "batch_dice": theirs.batch_dice,
        "network": _network(theirs, path).model_dump(),
        "mirror_axes": mirror_axes,
    }
    return parse(Configuration, own, source=str(path)).model_dump()


def _network(theirs: _Configuration, path: Path) -> NetworkSpec:
    if theirs.architecture is None:
        return _network_of_old_plans(theirs, path)
    kind = theirs.architecture.network_class_name.rpartition(".")[2]
    if kind not in NETWORKS:
        _refuse(path, f"its network is a {kind}; {OWN_NETWORK}")
    told, dimensions = theirs.architecture.arch_kwargs, len(theirs.patch_size)
    norm = {"eps": 1e-5, "affine": True, **(told.get("norm_op_kwargs") or {})}
    usual = (
        "InstanceNorm" in str(told.get("norm_op"))
        and norm["affine"] is True
        and norm["eps"] == 1e-5
        and not norm.get("track_running_stats")
        and str(told.get("nonlin")).endswith("LeakyReLU")
        and (told.get("nonlin_kwargs") or {}).get("negative_slope") in SLOPES
        and not told.get("nonlin_first")
        and not told.get("stem_channels")
        and not told.get("squeeze_excitation")
        and "Bottleneck" not in str(told.get("block"))
        and told.get("pool_type", "conv") == "conv"
    )
    if not usual:
        _refuse(path, f"its {kind} is built in another way; {OWN_NETWORK}")
    try:
        stages = int(told["n_stages"])
        blocks = told["n_conv_per_stage" if kind == "PlainConvUNet" else "n_blocks_per_stage"]
        return NetworkSpec(
            name=NETWORKS[kind],
            features_per_stage=_each(told["features_per_stage"], stages),
            strides=[_each(one, dimensions) for one in _each(told["strides"], stages)],
            kernel_sizes=[_each(one, dimensions) for one in _each(told["kernel_sizes"], stages)],
            blocks_per_stage=_each(blocks, stages),
            blocks_per_stage_decoder=_each(told["n_conv_per_stage_decoder"], stages - 1),
        )
    except (KeyError, TypeError, ValueError) as error:
        _refuse(path, f"describes no complete network ({error})")


def _network_of_old_plans(theirs: _Configuration, path: Path) -> NetworkSpec:
    """Plans of versions before 2.4 give a few numbers from which the network follows."""
    if theirs.UNet_class_name not in NETWORKS:
        _refuse(path, f"its network is a {theirs.UNet_class_name or 'network without a name'}; {OWN_NETWORK}")
    stages = len(theirs.n_conv_per_stage_encoder)
    try:
        return NetworkSpec(
            name=NETWORKS[theirs.UNet_class_name],
            features_per_stage=[
                min(theirs.UNet_base_num_features * 2**stage, theirs.unet_max_num_features) for stage in range(stages)
            ],
            strides=theirs.pool_op_kernel_sizes,
            kernel_sizes=theirs.conv_kernel_sizes,
            blocks_per_stage=theirs.n_conv_per_stage_encoder,
            blocks_per_stage_decoder=theirs.n_conv_per_stage_decoder,
        )
    except ValueError as error:
        _refuse(path, f"describes no complete network ({error})")


def _each(value: Any, count: int) -> list[Any]:
    """One entry per stage or axis: nnU-Net also takes a single number for all."""
    return [value] * count if isinstance(value, int) else list(value)


def _intensities(measured: dict[str, float] | None, path: Path) -> Intensities:
    """Statistics of a channel; a channel that was never measured (all normalised by themselves) has zeros."""
    keys = list(Intensities.model_fields)
    if measured is None:
        return Intensities(**dict.fromkeys(keys, 0.0))
    return parse(Intensities, {key: measured[key] for key in keys if key in measured}, source=str(path))


def _refuse(path: Path, found: str) -> NoReturn:
    raise DataError(Problem(case="", file=str(path), found=found, next=NOT_HERE))
