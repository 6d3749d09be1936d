"""Checkpoints of nnU-Net: read without running anything, and every tensor under its new name."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from peer_model import save, spec, their_tensors

from autoseg.core.errors import DataError
from autoseg.core.plan import NetworkSpec
from autoseg.io.peer_weights import fold_checkpoints, own_names, read_peer_checkpoint


@pytest.mark.parametrize("network", [spec(), spec("residual_encoder_unet", (1, 3, 2))], ids=["plain", "residual"])
@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module."])
def test_every_tensor_gets_its_own_name(tmp_path: Path, network: NetworkSpec, prefix: str) -> None:
    theirs, own = their_tensors(network)
    path = save(tmp_path / "checkpoint_final.pth", {prefix + name: tensor for name, tensor in theirs.items()})
    checkpoint = read_peer_checkpoint(path)
    assert (checkpoint.configuration, checkpoint.trainer) == ("3d_fullres", "nnUNetTrainer")
    assert checkpoint.mirror_axes == (0, 2)
    found = own_names(checkpoint.tensors, path=path)
    assert found.keys() == own.keys()
    for name, tensor in own.items():
        assert torch.equal(found[name], tensor), name


def test_convolutions_without_bias_get_zeros(tmp_path: Path) -> None:
    theirs, own = their_tensors(spec())
    biases = [name for name in theirs if ".convs." in name and name.endswith((".conv.bias", ".all_modules.0.bias"))]
    without = {name: tensor for name, tensor in theirs.items() if name not in biases}
    found = own_names(without, path=tmp_path)
    assert found.keys() == own.keys()
    assert not found["encoder.0.layers.0.bias"].any()
    assert torch.equal(found["encoder.0.layers.1.bias"], own["encoder.0.layers.1.bias"])


def test_a_network_of_its_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="attention"):
        own_names({"encoder.attention.weight": torch.zeros(1)}, path=tmp_path)


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("where", ["network_weights", "logging", "trainer_name", "extra"])
def test_a_pickle_that_runs_code_does_not(tmp_path: Path, where: str) -> None:
    theirs, _ = their_tensors(spec())
    value: Any = Evil(tmp_path / "pwned")
    path = save(tmp_path / "a.pth", theirs, **{where: {"x": value}})
    with pytest.raises(DataError, match="not opened"):
        read_peer_checkpoint(path)
    assert not (tmp_path / "pwned").exists()


def test_a_bare_pickle_does_not_run_either(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(pickle.dumps({"network_weights": Evil(tmp_path / "pwned")}))
    with pytest.raises(DataError):
        read_peer_checkpoint(path)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Evil(tmp_path / "pwned"), protocol=2))
        file.writestr("archive/version", "3\n")
    path.write_bytes(archive.getvalue())
    with pytest.raises(DataError):
        read_peer_checkpoint(path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("keep", [0, 1, 1000, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused(tmp_path: Path, keep: float) -> None:
    path = save(tmp_path / "a.pth", their_tensors(spec())[0])
    content = path.read_bytes()
    path.write_bytes(content[: int(keep if keep >= 1 else keep * len(content))])
    with pytest.raises(DataError, match=r"copy or download|get it again"):
        read_peer_checkpoint(path)


NO_TENSORS = {"network_weights": {"a": 1}, "init_args": {"configuration": "x"}, "trainer_name": "y"}


@pytest.mark.parametrize("value", [{}, [], {"network_weights": {}}, NO_TENSORS])
def test_other_files_are_no_checkpoints(tmp_path: Path, value: Any) -> None:
    torch.save(value, tmp_path / "a.pth")
    with pytest.raises(DataError, match=r"no checkpoint of nnU-Net"):
        read_peer_checkpoint(tmp_path / "a.pth")


def test_folds_are_those_of_a_cross_validation_first(tmp_path: Path) -> None:
    for fold in ("0", "3", "all"):
        save(tmp_path / f"fold_{fold}" / "checkpoint_final.pth", {})
    assert list(fold_checkpoints(tmp_path, name="checkpoint_final.pth", folds=None)) == ["0", "3"]
    assert list(fold_checkpoints(tmp_path, name="checkpoint_final.pth", folds=["all"])) == ["all"]
    for wrong in ({"folds": ["7"], "name": "checkpoint_final.pth"}, {"folds": None, "name": "checkpoint_best.pth"}):
        with pytest.raises(DataError, match="fold"):
            fold_checkpoints(tmp_path, **wrong)
