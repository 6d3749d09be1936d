"""Begin a training with the weights of another one."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from autoseg.core.errors import UsageError
from autoseg.core.workspace import fold_files
from autoseg.io.weights import load_weights

HEADS = "heads."  # the last layers, one output per label: those of another task mean something else


def pretrained_file(model: Path) -> Path:
    """The weights to begin with: a file; those of a fold; of a results folder those of fold all, or the first.

    Raises:
        UsageError: there are none.
    """
    for path in (model, model / "weights.safetensors"):
        if path.is_file():
            return path
    finished = fold_files(model, "weights.safetensors")
    if not finished:
        raise UsageError(
            f"--pretrained {model} is no weights file and no results folder with a finished fold; give the folder "
            "that holds model.json and fold_0, or one of its folds"
        )
    return finished.get("all", next(iter(finished.values())))


def load_pretrained(network: nn.Module, path: Path) -> None:
    """Give a network all weights of another one but those of its last layers, which stay new. Source: nnU-Net 2.8.1.

    Raises:
        UsageError: the networks differ elsewhere.
        DataError: the file is damaged or none of autoseg.
    """
    theirs, _ = load_weights(path)
    own = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(HEADS)}
    theirs = {name: tensor for name, tensor in theirs.items() if not name.startswith(HEADS)}
    shapes = [{name: tuple(tensor.shape) for name, tensor in tensors.items()} for tensors in (own, theirs)]
    if shapes[0] != shapes[1]:
        name = next(name for name in (*own, *theirs) if shapes[0].get(name) != shapes[1].get(name))
        found = " and ".join(str(known.get(name, "missing")) for known in shapes)
        raise UsageError(
            f"--pretrained {path} is of another network ({name}: {found}); copy `network` of that model's "
            "configuration into the plan file (the numbers of channels must be the same), or train without it"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(theirs[name])
