"""Checkpoints of nnU-Net v2, opened without running anything in them, and their tensors under our names."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoseg.core.errors import refuse_file

if TYPE_CHECKING:
    import torch

# Every layer is stored under several names; one of them is enough.
REPEATED = ("decoder.encoder.", ".all_modules.")
WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod)\.)+")
PART = {"conv": 0, "norm": 1}
LAYERS = 3  # of a ConvBlock per convolution: convolution, norm, activation


@dataclass(frozen=True, kw_only=True)
class PeerCheckpoint:
    """What a checkpoint says about itself, and its tensors (on the CPU) under nnU-Net's names."""

    tensors: dict[str, torch.Tensor]
    configuration: str
    trainer: str
    mirror_axes: tuple[int, ...]


def read_peer_checkpoint(path: Path) -> PeerCheckpoint:
    """Read a checkpoint_*.pth of nnU-Net v2 with PyTorch's loader for tensors, which cannot run code.

    Besides tensors and plain values only NumPy numbers are let in: nnU-Net's log holds them.

    Raises:
        DataError: the file is missing, damaged, holds other objects than those, or is no checkpoint of nnU-Net.
    """
    import torch

    if not path.is_file():
        refuse_file(path, "does not exist", "check the path; --checkpoint names the file in each fold")
    try:
        with torch.serialization.safe_globals(_numpy_numbers()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the age of the format
            value: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        stranger = re.search(r"GLOBAL (\S+)", str(error))
        found = f"holds an object that a model needs not ({stranger[1]})" if stranger else "is damaged"
        refuse_file(path, f"{found}; it was not opened", "ask where the file comes from, or get it again")
    except Exception as error:
        # whatever a damaged archive makes the loader raise: EOFError, RuntimeError, KeyError, struct.error, ...
        refuse_file(path, f"is no intact checkpoint ({type(error).__name__})", "copy or download it again")
    try:
        tensors, init = value["network_weights"], value["init_args"]
        axes = value.get("inference_allowed_mirroring_axes") or ()
        return PeerCheckpoint(
            tensors={WRAPPERS.sub("", name): _tensor(tensor) for name, tensor in tensors.items()},
            configuration=str(init["configuration"]),
            trainer=str(value["trainer_name"]),
            mirror_axes=tuple(int(axis) for axis in axes),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        refuse_file(path, "is no checkpoint of nnU-Net v2", "give the results folder of a model that nnU-Net trained")


def _tensor(value: Any) -> torch.Tensor:
    import torch

    if not isinstance(value, torch.Tensor):
        raise TypeError(type(value))
    return value.float()


def _numpy_numbers() -> list[Any]:
    """NumPy's scalars and what they are made of, under the names that NumPy 1 and 2 give them."""
    import numpy as np

    scalar = np.float64(0).__reduce__()[0]
    modules = ("numpy._core.multiarray", "numpy.core.multiarray")
    kinds = (np.float64, np.float32, np.int64, np.int32, np.bool_)
    return [
        *((scalar, f"{module}.scalar") for module in modules),
        np.dtype,
        *(type(np.dtype(kind)) for kind in kinds),
    ]


def own_names(tensors: dict[str, torch.Tensor], *, path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a PlainConvUNet or ResidualEncoderUNet under the names of `autoseg.nets`.

    A convolution without bias gets one of zeros, which changes nothing.

    Raises:
        DataError: a name belongs to another network.
    """
    import torch

    named: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if any(part in name for part in REPEATED):
            continue
        own = _own_name(name)
        if own is None:
            found = f"holds '{name}', which neither a plain nor a residual encoder U-Net has"
            refuse_file(path, found, "its network is one of its own: predict with nnU-Net")
        named[own] = tensor
    for own in [*named]:
        bias = own.removesuffix("weight") + "bias"
        if own.endswith(".weight") and bias not in named and ".shortcut." not in own and named[own].ndim > 1:
            outputs = named[own].shape[1 if own.startswith("up.") else 0]
            named[bias] = torch.zeros(outputs)
    return named


def _own_name(name: str) -> str | None:
    for pattern, place in _RULES:
        match = re.fullmatch(rf"{pattern}\.(weight|bias)", name)
        if match:
            return f"{place(*match.groups()[:-1])}.{match[match.lastindex or 0]}"
    return None


def _plain(stage: str, conv: str, part: str) -> str:
    return f"encoder.{stage}.layers.{LAYERS * int(conv) + PART[part]}"


def _residual(stage: str, block: str) -> str:
    return f"encoder.{stage}.{int(block) + (stage == '0')}"  # the stem stands before the first stage's blocks


_RULES: tuple[tuple[str, Any], ...] = (
    (r"encoder\.stages\.(\d+)\.0\.convs\.(\d+)\.(conv|norm)", _plain),
    (r"encoder\.stem\.convs\.0\.(conv|norm)", lambda part: f"encoder.0.0.layers.{PART[part]}"),
    (
        r"encoder\.stages\.(\d+)\.blocks\.(\d+)\.conv1\.(conv|norm)",
        lambda stage, block, part: f"{_residual(stage, block)}.first.layers.{PART[part]}",
    ),
    (
        r"encoder\.stages\.(\d+)\.blocks\.(\d+)\.conv2\.(conv|norm)",
        lambda stage, block, part: f"{_residual(stage, block)}.{'second' if part == 'conv' else 'norm'}",
    ),
    (
        r"encoder\.stages\.(\d+)\.blocks\.(\d+)\.skip\.(\d+)\.(conv|norm)",
        lambda stage, block, at, part: f"{_residual(stage, block)}.shortcut.{int(at) + PART[part]}",
    ),
    (
        r"decoder\.stages\.(\d+)\.convs\.(\d+)\.(conv|norm)",
        lambda stage, conv, part: f"decoder.{stage}.layers.{LAYERS * int(conv) + PART[part]}",
    ),
    (r"decoder\.transpconvs\.(\d+)", lambda stage: f"up.{stage}"),
    (r"decoder\.seg_layers\.(\d+)", lambda stage: f"heads.{stage}"),
)


def fold_checkpoints(folder: Path, *, name: str, folds: Iterable[str] | None) -> dict[str, Path]:
    """Checkpoints of a results folder by fold; without `folds` those of a cross-validation, else of fold all.

    Raises:
        DataError: there is none, or a fold that was asked for has none.
    """
    there = {path.parent.name.removeprefix("fold_"): path for path in sorted(folder.glob(f"fold_*/{name}"))}
    wanted = [fold for fold in there if fold.isdecimal()] or [*there] if folds is None else list(folds)
    missing = [fold for fold in wanted if fold not in there]
    if missing or not wanted:
        what = f"fold {', '.join(missing)} has no {name}" if missing else f"no fold holds a {name}"
        refuse_file(folder, f"{what} (there: {', '.join(there) or 'none'})", "give another fold or --checkpoint")
    return {fold: there[fold] for fold in wanted}
