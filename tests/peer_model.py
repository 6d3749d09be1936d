"""Models as nnU-Net v2 leaves them, made by hand: tensors under its names, checkpoints, results folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoseg.core.plan import NetworkSpec
from autoseg.nets.build import build_network

Tensors = dict[str, torch.Tensor]


def spec(name: str = "plain_unet", blocks: tuple[int, ...] = (2, 1, 3)) -> NetworkSpec:
    return NetworkSpec(
        name=name,
        features_per_stage=[4, 8, 8],
        strides=[[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        kernel_sizes=[[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        blocks_per_stage=list(blocks),
        blocks_per_stage_decoder=[1, 2],
    )


def plain_names(network: NetworkSpec) -> dict[str, str]:
    """nnU-Net's name of every layer of a PlainConvUNet -> ours, spelt out without a rule."""
    names = {}
    for stage, convs in enumerate(network.blocks_per_stage):
        for conv in range(convs):
            names[f"encoder.stages.{stage}.0.convs.{conv}.conv"] = f"encoder.{stage}.layers.{3 * conv}"
            names[f"encoder.stages.{stage}.0.convs.{conv}.norm"] = f"encoder.{stage}.layers.{3 * conv + 1}"
    return {**names, **decoder_names(network)}


def decoder_names(network: NetworkSpec) -> dict[str, str]:
    names = {}
    for stage, convs in enumerate(reversed(network.blocks_per_stage_decoder)):
        names[f"decoder.transpconvs.{stage}"] = f"up.{stage}"
        names[f"decoder.seg_layers.{stage}"] = f"heads.{stage}"
        for conv in range(convs):
            names[f"decoder.stages.{stage}.convs.{conv}.conv"] = f"decoder.{stage}.layers.{3 * conv}"
            names[f"decoder.stages.{stage}.convs.{conv}.norm"] = f"decoder.{stage}.layers.{3 * conv + 1}"
    return names


def residual_names(network: NetworkSpec) -> dict[str, str]:
    names = {"encoder.stem.convs.0.conv": "encoder.0.0.layers.0", "encoder.stem.convs.0.norm": "encoder.0.0.layers.1"}
    width = network.features_per_stage[0]
    for stage, blocks in enumerate(network.blocks_per_stage):
        strided = any(step > 1 for step in network.strides[stage])
        for block in range(blocks):
            own = f"encoder.{stage}.{block + (1 if stage == 0 else 0)}"
            theirs = f"encoder.stages.{stage}.blocks.{block}"
            names[f"{theirs}.conv1.conv"], names[f"{theirs}.conv1.norm"] = (
                f"{own}.first.layers.0",
                f"{own}.first.layers.1",
            )
            names[f"{theirs}.conv2.conv"], names[f"{theirs}.conv2.norm"] = f"{own}.second", f"{own}.norm"
            if block == 0 and network.features_per_stage[stage] != width:
                at = 1 if strided else 0  # the pooling stands first
                names[f"{theirs}.skip.{at}.conv"] = f"{own}.shortcut.{at}"
                names[f"{theirs}.skip.{at}.norm"] = f"{own}.shortcut.{at + 1}"
        width = network.features_per_stage[stage]
    return {**names, **decoder_names(network)}


def their_tensors(
    network: NetworkSpec, seed: int = 0, n_channels: int = 2
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Tensors of a random network under nnU-Net's names, with its repetitions, and under ours."""
    torch.manual_seed(seed)
    own = build_network(network, n_channels=n_channels, n_outputs=3).state_dict()
    # small biases, so that the answer depends on the image
    own = {n: torch.randn_like(t) * (0.1 if n.endswith("bias") else 1) for n, t in own.items()}
    names = (plain_names if network.name == "plain_unet" else residual_names)(network)
    theirs = {}
    for peer, ours in names.items():
        for part in ("weight", "bias"):
            if f"{ours}.{part}" in own:
                theirs[f"{peer}.{part}"] = own[f"{ours}.{part}"]
                stem, _, kind = peer.rpartition(".")
                if kind in ("conv", "norm"):
                    theirs[f"{stem}.all_modules.{['conv', 'norm'].index(kind)}.{part}"] = own[f"{ours}.{part}"]
    theirs |= {f"decoder.{name}": tensor for name, tensor in theirs.items() if name.startswith("encoder.")}
    return theirs, own


def save(path: Path, tensors: dict[str, torch.Tensor], **changes: Any) -> Path:
    value = {
        "network_weights": tensors,
        "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.01}]},
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5), np.float32(0.25)], "epoch": [np.int64(3)]},
        "_best_ema": np.float64(0.7),
        "current_epoch": 1,
        "init_args": {"configuration": "3d_fullres", "fold": 0, "device": torch.device("cpu")},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 2),
        **changes,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(value, path)
    return path


def plans(network: NetworkSpec, **changes: Any) -> dict[str, Any]:
    """plans.json with 3d_fullres, 3d_lowres and a cascade of both."""
    kind = {"plain_unet": "unet.PlainConvUNet", "residual_encoder_unet": "unet.ResidualEncoderUNet"}[network.name]
    blocks = "n_conv_per_stage" if network.name == "plain_unet" else "n_blocks_per_stage"
    function = "resample_data_or_seg_to_shape"
    kwargs = {"is_seg": False, "order_z": 0, "force_separate_z": None}
    fullres = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [8, 16, 8],
        "median_image_size_in_voxels": [12.0, 20.0, 14.0],
        "spacing": [1.5, 1.0, 0.75],
        "normalization_schemes": ["CTNormalization", "ZScoreNormalization"],
        "use_mask_for_norm": [False, True],
        "resampling_fn_data": function,
        "resampling_fn_data_kwargs": {**kwargs, "order": 3},
        "resampling_fn_probabilities": function,
        "resampling_fn_probabilities_kwargs": {**kwargs, "order": 1},
        "batch_dice": True,
        "architecture": {
            "network_class_name": f"dynamic_network_architectures.architectures.{kind}",
            "arch_kwargs": {
                "n_stages": len(network.strides),
                "features_per_stage": network.features_per_stage,
                "conv_op": "torch.nn.modules.conv.Conv3d",
                "kernel_sizes": network.kernel_sizes,
                "strides": network.strides,
                blocks: network.blocks_per_stage,
                "n_conv_per_stage_decoder": network.blocks_per_stage_decoder,
                "conv_bias": True,
                "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                "dropout_op": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }
    statistics = {"max": 9.0, "mean": 2.0, "median": 2.0, "min": -3.0, "percentile_00_5": -2.0, "percentile_99_5": 8.0}
    return {
        "dataset_name": "Dataset007_Toy",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [1, 0, 2],
        "transpose_backward": [1, 0, 2],
        "label_manager": "LabelManager",
        "configurations": {
            "3d_fullres": fullres,
            "3d_lowres": {**fullres, "spacing": [3.0, 2.0, 1.5], "next_stage": "3d_cascade_fullres"},
            "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
        },
        "foreground_intensity_properties_per_channel": {str(c): {**statistics, "std": 1.5} for c in range(2)},
        **changes,
    }


def results_folder(
    folder: Path,
    network: NetworkSpec,
    *,
    configuration: str = "3d_fullres",
    folds: Sequence[str] = ("0",),
    extra_channels: int = 0,
    **changes: Any,
) -> Path:
    """A results folder of nnU-Net v2 inside `folder`, with random weights; `changes` go into plans.json."""
    own = folder / f"nnUNetTrainer__nnUNetPlans__{configuration}"
    own.mkdir(parents=True)
    (own / "plans.json").write_text(json.dumps(plans(network, **changes)))
    labels = {"background": 0, "one": 1, "two": 2}
    dataset = {"channel_names": {"0": "CT", "1": "MR"}, "labels": labels, "numTraining": 3, "file_ending": ".nii.gz"}
    (own / "dataset.json").write_text(json.dumps(dataset))
    init = {"configuration": configuration, "fold": 0, "device": torch.device("cpu")}
    for fold in folds:
        tensors, _ = their_tensors(network, seed=len(fold) + ord(fold[0]), n_channels=2 + extra_channels)
        save(own / f"fold_{fold}" / "checkpoint_final.pth", tensors, init_args=init)
    return own
