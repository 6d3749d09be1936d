"""The trained folds of one configuration, ready to see tiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, combinations
from pathlib import Path

import torch
from torch import nn

from autoseg import __version__
from autoseg.core.errors import DataError, Problem, UsageError, refuse_file
from autoseg.core.fingerprint import Seen
from autoseg.core.plan import Configuration, Model, Plan
from autoseg.core.trust import Trust
from autoseg.core.workspace import TRUST, fold_files, fold_folder
from autoseg.io.feature_file import AGAIN, FEATURES, read_features
from autoseg.io.weights import load_weights, weights_of_state
from autoseg.nets.build import build_network, channels_last
from autoseg.nets.device import autocast, choose_precision
from autoseg.nets.unet import UNet
from autoseg.ops.familiarity import Familiar
from autoseg.ops.stage_input import exchange, one_hot

WEIGHTS = {
    "final": "weights.safetensors",
    "best": "weights_best.safetensors",
    "latest": "state_latest.safetensors",
}


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Networks of all folds on one device, and the plan they were trained by.

    `name` is the configuration's; `previous` is a cascade's first stage; `files` are the weights of all of it; `seen`
    is what is known of the training images, `origin` who trained it. `familiar` says per network what features its
    training images have (None where nobody measured them), `trust` what Dice to expect.
    """

    plan: Plan
    configuration: Configuration
    name: str = ""
    networks: tuple[nn.Module, ...]
    folds: tuple[str, ...]
    device: torch.device
    precision: str
    mirroring: bool = True
    previous: Ensemble | None = None
    files: tuple[Path, ...] = ()
    seen: Seen | None = None
    origin: str = "autoseg"
    familiar: tuple[Familiar | None, ...] = ()
    trust: Trust | None = None

    @property
    def n_outputs(self) -> int:
        """Output channels of the networks."""
        return self.plan.scheme.n_outputs

    @property
    def n_channels(self) -> int:
        """Input channels of the networks; in a cascade one per label of the earlier stage more than the image has."""
        earlier = 0 if self.previous is None else len(self.plan.scheme.values) - 1
        return len(self.plan.channel_names) + earlier

    @property
    def patch(self) -> tuple[int, int, int]:
        """Voxels of a tile; of a 2d configuration one slice."""
        return (1, *self.configuration.patch_size)[-3:]  # type: ignore[return-value]

    @torch.inference_mode()
    def logits(self, tiles: torch.Tensor, *, at_once: int = 1) -> torch.Tensor:
        """Mean logits over folds and mirrored copies.

        Args:
            tiles: float32 (B, C, *patch) on `device`; in a cascade the last channel holds the values inside of the
                earlier stage's segmentation.
            at_once: tiles that a network sees together; mirrored copies count as tiles.

        Returns:
            float32 (B, n_outputs, *patch).
        """
        total = None
        mirrors, memory_format = self._mirrors(), channels_last(self.configuration.dimensions)
        together = max(1, at_once // len(tiles))
        for group in (mirrors[i : i + together] for i in range(0, len(mirrors), together)):
            copies = [self._input(tiles.flip(_dims(axes)) if axes else tiles, axes) for axes in group]
            batch = torch.cat(copies).contiguous(memory_format=memory_format)
            for network in self.networks:
                with autocast(self.device, self.precision):
                    answers = [*network(batch).float().split(len(tiles))]
                for axes in group:
                    outputs, out = self._swapped_outputs(axes), answers.pop(0)  # held once: of 118 classes it is large
                    out = out.flip(_dims(axes)) if axes else out
                    if total is None:
                        # In the memory format of the outputs: on a CPU, adding across formats takes 15 times as long.
                        total = torch.zeros_like(out)
                    total += out if outputs is None else out[:, outputs]
        assert total is not None
        return total.div_(len(mirrors) * len(self.networks))

    def _mirrors(self) -> list[tuple[int, ...]]:
        axes = self.configuration.mirror_axes if self.mirroring else []
        return list(chain.from_iterable(combinations(axes, n) for n in range(len(axes) + 1)))

    def _input(self, tiles: torch.Tensor, axes: Sequence[int]) -> torch.Tensor:
        """What the networks see of tiles that were flipped along `axes`."""
        if self.previous is None:
            return tiles
        pairs = self.plan.scheme.inside_pairs(self._swapped_names(axes))
        labels = exchange(tiles[:, -1].long(), pairs)
        return torch.cat([tiles[:, :-1], one_hot(labels, len(self.plan.scheme.values))], dim=1)

    def _swapped_names(self, axes: Sequence[int]) -> list[tuple[str, str]]:
        """Labels that change places when an image is flipped along `axes`."""
        across = self.plan.left_right_axis(self.configuration.dimensions) in axes
        return self.configuration.mirror_label_pairs if across else []

    def _swapped_outputs(self, axes: Sequence[int]) -> list[int] | None:
        """Order of output channels that undoes a left-right flip, None when no label changes places."""
        pairs, channel = self._swapped_names(axes), self.plan.scheme.outputs
        order = list(range(self.n_outputs))
        for left, right in pairs:
            order[channel[left]], order[channel[right]] = channel[right], channel[left]
        return order if pairs else None


def _dims(axes: Sequence[int]) -> list[int]:
    """Spatial axes as dimensions of a batch."""
    return [2 + axis for axis in axes]


def load_ensemble(
    folder: Path,
    *,
    folds: Sequence[str] | None,
    device: torch.device,
    precision: str = "auto",
    mirroring: bool = True,
    previous_folds: Sequence[str] | None = None,
    weights: str = "final",
) -> Ensemble:
    """Load the trained folds of a results folder; `folds=None` takes all that are finished.

    `weights` are those at the end of the training (final), of the best smoothed pseudo-Dice so far (best), or of the
    last saved state (latest); the last two are there while a fold is still being trained. With the second stage of a
    cascade comes the first (`previous_folds` of it), which lies in the folder beside.

    Raises:
        UsageError: the folder is no model, or a fold that was asked for is not trained.
        DataError: a file is damaged or does not fit the plan.
    """
    if not (folder / "model.json").is_file():
        raise UsageError(f"{folder} holds no model.json; train first, or give the folder of a trained configuration")
    model = Model.read(folder / "model.json")
    trained = [*fold_files(folder, WEIGHTS[weights])]
    wanted = list(folds) if folds is not None else [fold for fold in trained if fold != "all"] or trained
    missing = [fold for fold in wanted if fold not in trained]
    if missing or not wanted:
        names = ", ".join(missing) or "any"
        kind = "is not trained" if weights == "final" else f"has no {weights} weights"
        raise UsageError(f"fold {names} {kind} in {folder} (there: {', '.join(trained) or 'none'}); train it")
    configuration = model.plan.configuration(model.configuration)
    previous = None
    if configuration.previous_stage is not None:
        earlier = folder.resolve().with_name(f"{model.plan.planner}__{configuration.previous_stage}")
        previous = load_ensemble(
            earlier,
            folds=previous_folds,
            device=device,
            precision=precision,
            mirroring=mirroring,
            previous_folds=previous_folds,
            weights=weights,
        )
    files = [fold_folder(folder, fold) / WEIGHTS[weights] for fold in wanted]
    networks = tuple(_load_network(model, configuration, file, device) for file in files)
    final = weights == "final"  # whose features and answers were measured
    known = [
        _load_familiar(file.with_name(FEATURES), network) if final else None
        for file, network in zip(files, networks, strict=True)
    ]
    return Ensemble(
        plan=model.plan,
        configuration=configuration,
        name=model.configuration,
        networks=networks,
        files=(*files, *(() if previous is None else previous.files)),
        folds=tuple(wanted),
        device=device,
        precision=choose_precision(device, precision),
        mirroring=mirroring,
        previous=previous,
        seen=model.seen,
        origin=model.origin,
        familiar=tuple(known),
        trust=_load_trust(folder / TRUST) if final and (folder / TRUST).is_file() else None,
    )


def load_members(
    folders: Sequence[Path],
    *,
    folds: Sequence[str] | None,
    device: torch.device,
    precision: str = "auto",
    mirroring: bool = True,
    weights: str = "final",
) -> tuple[Ensemble, ...]:
    """Load models that answer together, see `load_ensemble`.

    Raises:
        UsageError: one of them is no model, or they have other labels, channels or axes than the first.
        DataError: a file is damaged.
    """
    members = tuple(
        load_ensemble(folder, folds=folds, device=device, precision=precision, mirroring=mirroring, weights=weights)
        for folder in folders
    )
    first = members[0].plan
    for folder, member in zip(folders[1:], members[1:], strict=True):
        for what in ("labels", "regions_class_order", "channel_names", "orientation", "transpose_forward"):
            own, other = getattr(first, what), getattr(member.plan, what)
            if own != other or (what == "labels" and not first.scheme.means_the_same(member.plan.scheme)):
                raise UsageError(
                    f"{folders[0]} and {folder} cannot answer together: {what} is {own} in one and {other} in the "
                    "other; predict with each"
                )
    return members


def _load_trust(path: Path) -> Trust:
    try:
        return Trust.read(path)
    except DataError as error:
        raise DataError(replace(problem, next=AGAIN) for problem in error.problems) from error


def _load_familiar(path: Path, network: nn.Module) -> Familiar | None:
    """What the training images of a network are like; None where that was not measured."""
    if not path.is_file() or not isinstance(network, UNet) or not network.has_features:
        return None
    arrays, _ = read_features(path)
    if len(arrays["mean"]) != network.n_features:
        refuse_file(path, f"holds {len(arrays['mean'])} features of a network that has {network.n_features}", AGAIN)
    return Familiar(**arrays)


def _without_memory(build: Callable[[], nn.Module]) -> nn.Module | None:
    """The network with tensors that take no memory until weights that fit are assigned.

    None where that does not work: a network of a plugin may compute with numbers while it is built, or hold what is
    not among its weights.
    """
    try:
        with torch.device("meta"):
            network = build()
    except Exception:
        return None
    named = {name for name, _ in chain(network.named_parameters(), network.named_buffers())}
    return network if named <= network.state_dict().keys() else None


def _load_network(model: Model, configuration: Configuration, path: Path, device: torch.device) -> nn.Module:
    tensors, facts = load_weights(path)
    if path.name == WEIGHTS["latest"]:
        tensors = weights_of_state(tensors)
    build = partial(
        build_network,
        configuration.network,
        n_channels=model.plan.input_channels(model.configuration),
        n_outputs=model.plan.scheme.n_outputs,
    )
    network = _without_memory(build)
    assign = network is not None
    network = network or build()
    types = {name: tensor.dtype for name, tensor in network.state_dict().items()}
    try:
        network.load_state_dict({name: t.to(types.get(name, t.dtype)) for name, t in tensors.items()}, assign=assign)
    except RuntimeError as error:
        found = (
            f"the weights do not fit the network of {model.configuration} (made by {facts.get('autoseg_version', '?')})"
        )
        todo = f"use the model.json it was trained with; this is autoseg {__version__}"
        raise DataError(Problem(case="", file=str(path), found=found, next=todo)) from error
    memory_format = channels_last(configuration.dimensions)
    return network.eval().to(device, memory_format=memory_format)  # type: ignore[call-overload,no-any-return]
