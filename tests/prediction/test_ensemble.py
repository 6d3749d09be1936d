from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import nn

from autoseg.core.errors import DataError, UsageError
from autoseg.core.plan import Model, Plan
from autoseg.core.workspace import fold_folder
from autoseg.io.weights import save_weights
from autoseg.nets.build import build_network, networks
from autoseg.prediction.ensemble import Ensemble, load_ensemble

MakePlan = Callable[..., Plan]
CPU = torch.device("cpu")
SIDED = {"background": 0, "left_kidney": 4, "spleen": 5, "right_kidney": 9}
PAIRS = [("left_kidney", "right_kidney")]


def new_network(plan: Plan, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    spec = plan.configuration("small").network
    network = build_network(spec, n_channels=len(plan.channel_names), n_outputs=plan.scheme.n_outputs)
    return network.eval()


def ensemble_of(plan: Plan, *, seeds: tuple[int, ...] = (0,), mirroring: bool = True) -> Ensemble:
    return Ensemble(
        plan=plan,
        configuration=plan.configuration("small"),
        networks=tuple(new_network(plan, seed) for seed in seeds),
        folds=tuple(str(seed) for seed in seeds),
        device=CPU,
        precision="float32",
        mirroring=mirroring,
    )


def flipped_mean(ensemble: Ensemble, tiles: torch.Tensor, *, axes: list[int], side: int | None) -> torch.Tensor:
    """Mean over networks and over every subset of `axes`; outputs 1 and 3 swap when `side` is flipped."""
    answers = []
    for chosen in product([False, True], repeat=len(axes)):
        flips = [axis for axis, flip in zip(axes, chosen, strict=True) if flip]
        for network in ensemble.networks:
            with torch.no_grad():
                out = network(torch.flip(tiles, [2 + axis for axis in flips]))
            out = torch.flip(out, [2 + axis for axis in flips])
            answers.append(out[:, [0, 3, 2, 1]] if side in flips else out)
    return torch.stack(answers).mean(dim=0)


def tiles_for(plan: Plan, n: int = 2) -> torch.Tensor:
    shape = (n, len(plan.channel_names), *plan.configuration("small").patch_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize(
    ("patch", "axes"),
    [((8, 4, 6), [0, 1, 2]), ((4, 8, 8), [1, 2]), ((8, 8, 8), []), ((8, 6), [0, 1]), ((6, 8), [1])],
)
def test_logits_are_the_mean_over_networks_and_flips(make_plan: MakePlan, patch: tuple, axes: list[int]) -> None:
    plan = make_plan(patch_size=patch, mirror_axes=axes, normalization=("none", "none"))
    ensemble, tiles = ensemble_of(plan, seeds=(0, 1, 2)), tiles_for(plan)
    logits = ensemble.logits(tiles)
    for at_once in (2, 3, 6, 100):  # whatever goes through the networks together
        torch.testing.assert_close(ensemble.logits(tiles, at_once=at_once), logits, atol=1e-5, rtol=1e-5)
    assert logits.shape == (2, 2, *patch)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, flipped_mean(ensemble, tiles, axes=axes, side=None), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("transpose", "patch", "axes", "side"),
    [
        ((0, 1, 2), (8, 4, 6), [0, 1, 2], 2),
        ((2, 0, 1), (8, 4, 6), [0, 1, 2], 0),
        ((1, 2, 0), (8, 4, 6), [0, 2], 1),
        ((0, 1, 2), (8, 6), [0, 1], 1),
        ((1, 2, 0), (8, 6), [0, 1], 0),
        ((2, 0, 1), (8, 6), [0, 1], None),
    ],
)
def test_label_pairs_change_places_when_sides_do(
    make_plan: MakePlan, transpose: tuple, patch: tuple, axes: list[int], side: int | None
) -> None:
    plan = make_plan(patch_size=patch, transpose=transpose, labels=SIDED, mirror_axes=axes, mirror_label_pairs=PAIRS)
    ensemble, tiles = ensemble_of(plan, seeds=(0, 1)), tiles_for(plan)
    expected = flipped_mean(ensemble, tiles, axes=axes, side=side)
    torch.testing.assert_close(ensemble.logits(tiles), expected, atol=1e-5, rtol=1e-5)


def test_a_mirrored_patient_gets_the_mirrored_answer(make_plan: MakePlan) -> None:
    plan = make_plan(labels=SIDED, mirror_axes=[2], mirror_label_pairs=PAIRS)
    ensemble, tiles = ensemble_of(plan), tiles_for(plan)
    mirrored = ensemble.logits(tiles.flip(4)).flip(4)
    for at_once in (1, 4, 100):
        answer = ensemble.logits(tiles, at_once=at_once)
        torch.testing.assert_close(mirrored[:, [0, 3, 2, 1]], answer, atol=1e-5, rtol=1e-5)


def test_without_mirroring_every_network_is_asked_once(make_plan: MakePlan) -> None:
    plan = make_plan(mirror_axes=[0, 1, 2])
    ensemble, tiles = ensemble_of(plan, seeds=(0, 1), mirroring=False), tiles_for(plan)
    expected = flipped_mean(ensemble, tiles, axes=[], side=None)
    torch.testing.assert_close(ensemble.logits(tiles), expected, atol=1e-5, rtol=1e-5)


def test_tiles_stay_as_they_were(make_plan: MakePlan) -> None:
    class Echo(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    plan = make_plan(normalization=("none", "none"), mirror_axes=[0])
    ensemble = Ensemble(
        plan=plan,
        configuration=plan.configuration("small"),
        networks=(Echo(), Echo()),
        folds=("0", "1"),
        device=CPU,
        precision="float32",
    )
    tiles = tiles_for(plan)
    before = tiles.clone()
    torch.testing.assert_close(ensemble.logits(tiles), before)
    assert torch.equal(tiles, before)


@pytest.fixture
def results(tmp_path: Path, make_plan: MakePlan) -> tuple[Path, Plan]:
    """A results folder with folds 0, 1 and all."""
    plan = make_plan(mirror_axes=[0])
    Model(configuration="small", plan=plan, autoseg_version="0").write(tmp_path / "model.json")
    for seed, fold in enumerate(["0", "1", "all"]):
        path = fold_folder(tmp_path, fold) / "weights.safetensors"
        save_weights(path, new_network(plan, seed).state_dict(), facts={})
    fold_folder(tmp_path, 2).mkdir()
    return tmp_path, plan


@pytest.mark.parametrize(
    ("folds", "expected"), [(None, ("0", "1")), (["1"], ("1",)), (["all"], ("all",)), (["1", "0"], ("1", "0"))]
)
def test_the_folds_asked_for_are_loaded(
    results: tuple[Path, Plan], folds: list[str] | None, expected: tuple[str, ...]
) -> None:
    folder, plan = results
    ensemble = load_ensemble(folder, folds=folds, device=CPU, precision="float32")
    assert ensemble.folds == expected
    assert not any(network.training for network in ensemble.networks)
    seeds = tuple(["0", "1", "all"].index(fold) for fold in expected)
    tiles = tiles_for(plan)
    assert torch.equal(ensemble.logits(tiles), ensemble_of(plan, seeds=seeds).logits(tiles))


def test_all_is_taken_when_there_is_nothing_else(results: tuple[Path, Plan]) -> None:
    folder, _ = results
    for fold in (0, 1):
        (fold_folder(folder, fold) / "weights.safetensors").unlink()
    assert load_ensemble(folder, folds=None, device=CPU).folds == ("all",)


class Foreign(nn.Module):
    """As plugins may be: it computes with numbers while it is built, and keeps what is not among its weights."""

    def __init__(self, n_channels: int, n_outputs: int) -> None:
        super().__init__()
        self.scale = torch.linspace(1, 2, 3)[1].item()
        self.register_buffer("shift", torch.tensor(0.25), persistent=False)
        self.convolution = nn.Conv3d(n_channels, n_outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convolution(x) * self.scale + self.shift


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_network_of_a_plugin_is_loaded(
    tmp_path: Path, make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    name = f"foreign_{dtype}"
    networks.register(name)(lambda spec, n_channels, n_outputs: Foreign(n_channels, n_outputs))
    plan = make_plan()
    configuration = plan.configuration("small")
    network = configuration.network.with_changes(name=name)
    plan = plan.with_changes(configurations={"small": configuration.with_changes(network=network)})
    Model(configuration="small", plan=plan, autoseg_version="0").write(tmp_path / "model.json")
    original = Foreign(1, 2)
    save_weights(fold_folder(tmp_path, 0) / "weights.safetensors", original.to(dtype).state_dict(), facts={})
    loaded = load_ensemble(tmp_path, folds=None, device=CPU, precision="float32", mirroring=False)
    tiles = tiles_for(plan)
    torch.testing.assert_close(loaded.logits(tiles), original.float()(tiles).detach())


def test_folds_that_are_missing_are_named(results: tuple[Path, Plan]) -> None:
    with pytest.raises(UsageError, match=r"fold 2, 7 is not trained.*there: 0, 1, all"):
        load_ensemble(results[0], folds=["0", "2", "7"], device=CPU)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"model\.json"):
        load_ensemble(tmp_path, folds=None, device=CPU)


def test_weights_of_another_network_are_refused(results: tuple[Path, Plan], make_plan: MakePlan) -> None:
    folder, _ = results
    other = new_network(make_plan(features=(4, 6)), 0)
    save_weights(fold_folder(folder, 1) / "weights.safetensors", other.state_dict(), facts={})
    with pytest.raises(DataError, match="do not fit the network"):
        load_ensemble(folder, folds=None, device=CPU)
