"""The trained folds of one configuration, ready to see tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from pathlib import Path

import torch
from torch import nn

from autoseg import __version__
from autoseg.core.errors import DataError, Problem, UsageError
from autoseg.core.plan import Configuration, Model, Plan
from autoseg.core.workspace import fold_files, fold_folder
from autoseg.io.weights import load_weights
from autoseg.nets.build import build_network, channels_last
from autoseg.nets.device import autocast, choose_precision


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Networks of all folds on one device, with the plan they were trained by."""

    plan: Plan
    configuration: Configuration
    networks: tuple[nn.Module, ...]
    folds: tuple[str, ...]
    device: torch.device
    precision: str
    mirroring: bool = True

    @property
    def n_outputs(self) -> int:
        """Output channels of the networks."""
        return self.plan.scheme.n_outputs

    @torch.inference_mode()
    def logits(self, tiles: torch.Tensor) -> torch.Tensor:
        """Mean logits over folds and mirrored copies.

        Args:
            tiles: float32 (B, C, *patch) on `device`.

        Returns:
            float32 (B, n_outputs, *patch).
        """
        total = None
        mirrors = self._mirrors()
        for axes in mirrors:
            dims = [2 + axis for axis in axes]
            flipped = tiles.flip(dims) if dims else tiles
            flipped = flipped.contiguous(memory_format=channels_last(self.configuration.dimensions))
            outputs = self._swapped_outputs(axes)
            for network in self.networks:
                with autocast(self.device, self.precision):
                    out = network(flipped)
                out = out.float().flip(dims) if dims else out.float()
                if total is None:
                    # In the memory format of the outputs: on a CPU, adding across formats takes 15 times as long.
                    total = torch.zeros_like(out)
                total += out if outputs is None else out[:, outputs]
        assert total is not None
        return total.div_(len(mirrors) * len(self.networks))

    def _mirrors(self) -> list[tuple[int, ...]]:
        axes = self.configuration.mirror_axes if self.mirroring else []
        return list(chain.from_iterable(combinations(axes, n) for n in range(len(axes) + 1)))

    def _swapped_outputs(self, axes: Sequence[int]) -> list[int] | None:
        """Order of output channels that undoes a left-right flip, None when no label changes places."""
        pairs = self.configuration.mirror_label_pairs
        if not pairs or self.plan.left_right_axis(self.configuration.dimensions) not in axes:
            return None
        scheme = self.plan.scheme
        order = list(range(self.n_outputs))
        for left, right in pairs:
            a, b = (scheme.values.index(scheme.foreground[name][0]) for name in (left, right))
            order[a], order[b] = b, a
        return order


def load_ensemble(
    folder: Path, *, folds: Sequence[str] | None, device: torch.device, precision: str = "auto", mirroring: bool = True
) -> Ensemble:
    """Load the trained folds of a results folder; `folds=None` takes all that are finished.

    Raises:
        UsageError: the folder is no model, or a fold that was asked for is not trained.
        DataError: a file is damaged or does not fit the plan.
    """
    if not (folder / "model.json").is_file():
        raise UsageError(f"{folder} holds no model.json; train first, or give the folder of a trained configuration")
    model = Model.read(folder / "model.json")
    trained = [*fold_files(folder, "weights.safetensors")]
    wanted = list(folds) if folds is not None else [fold for fold in trained if fold != "all"] or trained
    missing = [fold for fold in wanted if fold not in trained]
    if missing or not wanted:
        names = ", ".join(missing) or "any"
        raise UsageError(
            f"fold {names} is not trained in {folder} (finished: {', '.join(trained) or 'none'}); train it"
        )
    configuration = model.plan.configuration(model.configuration)
    networks = tuple(_load_network(model, configuration, fold_folder(folder, fold), device) for fold in wanted)
    return Ensemble(
        plan=model.plan,
        configuration=configuration,
        networks=networks,
        folds=tuple(wanted),
        device=device,
        precision=choose_precision(device, precision),
        mirroring=mirroring,
    )


def _load_network(model: Model, configuration: Configuration, folder: Path, device: torch.device) -> nn.Module:
    path = folder / "weights.safetensors"
    tensors, facts = load_weights(path)
    network = build_network(
        configuration.network, n_channels=len(model.plan.channel_names), n_outputs=model.plan.scheme.n_outputs
    )
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        found = (
            f"the weights do not fit the network of {model.configuration} (made by {facts.get('autoseg_version', '?')})"
        )
        todo = f"use the model.json it was trained with; this is autoseg {__version__}"
        raise DataError(Problem(case="", file=str(path), found=found, next=todo)) from error
    return network.eval().to(device)
