"""Agreement, block by block, against whole-volume numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autoseg.core.labels import LabelScheme
from autoseg.core.plan import Plan
from autoseg.prediction import agreement as module
from autoseg.prediction.agreement import Agreement
from autoseg.prediction.decode import decode
from autoseg.prediction.ensemble import Ensemble
from autoseg.prediction.image import Settings, prepare_image, segment

MakePlan = Callable[..., Plan]
LABELS = LabelScheme(declared={"background": 0, "b": 9, "a": 4, "c": 5})
REGIONS = LabelScheme(
    declared={"background": 0, "whole": (1, 2, 3), "core": (2, 3), "tip": 3}, regions_class_order=(1, 2, 3)
)


def expected(logits: np.ndarray, labels: np.ndarray, scheme: LabelScheme) -> dict[str, float | None]:
    """2 A / (P + N) of whole volumes, in float64."""
    logits = logits.astype(np.float64)
    shares = 1 / (1 + np.exp(-logits)) if scheme.has_regions else np.exp(logits) / np.exp(logits).sum(axis=0)
    found: dict[str, float | None] = {}
    for name, members in scheme.foreground.items():
        share, given_to = shares[scheme.outputs[name]], np.isin(labels, members)
        total = share.sum() + given_to.sum()
        found[name] = 2 * share[given_to].sum() / total if given_to.any() else None
    return found


@settings(max_examples=40, deadline=None)
@given(
    scheme=st.sampled_from([LABELS, REGIONS]),
    shape=st.tuples(*[st.integers(1, 7)] * 3),
    rows=st.integers(1, 4),
    seed=st.integers(0, 1000),
    certainty=st.sampled_from([0.1, 2.0, 30.0]),
)
def test_blocks_give_what_the_whole_volume_gives(
    scheme: LabelScheme, shape: tuple[int, int, int], rows: int, seed: int, certainty: float
) -> None:
    values = np.random.default_rng(seed).normal(0, certainty, (scheme.n_outputs, *shape)).astype(np.float32)
    logits = torch.from_numpy(values)
    found = Agreement(scheme, n_voxels=int(np.prod(shape)))
    for start in range(0, shape[0], rows):
        block = logits[:, start : start + rows]
        found.add(block, decode(block, scheme))
    truth = expected(values, decode(logits, scheme), scheme)
    assert found.of_labels() == {
        name: None if value is None else pytest.approx(value, abs=2e-6) for name, value in truth.items()
    }


def test_certain_labels_agree_and_evenly_split_ones_by_their_share() -> None:
    """All voxels of one label, of whose probability q: 2 q n / (q n + n)."""
    for share in (0.5001, 0.8, 1 - 1e-7):
        logits = torch.zeros(2, 2, 3, 4)
        logits[1] = float(np.log(share / (1 - share)))
        scheme = LabelScheme(declared={"background": 0, "a": 1})
        found = Agreement(scheme, n_voxels=24)
        found.add(logits, decode(logits, scheme))
        assert found.of_labels()["a"] == pytest.approx(2 * share / (1 + share), abs=1e-5)


@pytest.mark.parametrize("scheme", [LABELS, REGIONS])
def test_of_large_images_a_quarter_is_looked_at(scheme: LabelScheme, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ALL_VALUES", 100)
    coarse = torch.randn(1, scheme.n_outputs, 4, 5, 5, generator=torch.Generator().manual_seed(1))
    logits = torch.nn.functional.interpolate(coarse, size=(12, 40, 41), mode="trilinear")[0] * 6
    labels = decode(logits, scheme)
    found = Agreement(scheme, n_voxels=labels.size)
    found.add(logits, labels)
    part = expected(logits[:, :, ::4].numpy(), labels[:, ::4], scheme)
    whole = expected(logits.numpy(), labels, scheme)
    for name, value in found.of_labels().items():
        assert value == pytest.approx(part[name], abs=2e-6)
        assert value == pytest.approx(whole[name], abs=0.03)


class Sure(nn.Module):
    """Sure of the output whose number is nearest to the grey value, which it sees with a shift."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        nearest = (x[:, 0] + self.shift).round().clamp(0, 2).long()
        return 8.0 * nn.functional.one_hot(nearest, 3).movedim(-1, 1)


def test_folds_that_contradict_each_other_agree_less(make_plan: MakePlan) -> None:
    plan = make_plan(labels={"background": 0, "dark": 7, "bright": 300}, spacing_mm=(0.8, 1.0, 1.3))
    image = np.random.default_rng(3).uniform(0, 2.5, size=(1, 12, 13, 14)).astype(np.float32)
    alone = Ensemble(
        plan=plan,
        configuration=plan.configuration("small"),
        networks=(Sure(0.0),),
        folds=("0",),
        device=torch.device("cpu"),
        precision="float32",
    )
    found = []
    for shift in (0.0, 0.2, 0.4):
        members = [replace(alone, networks=(*alone.networks, Sure(shift)), folds=("0", "1"))]
        agreement = Agreement(plan.scheme, n_voxels=image[0].size)
        prepared = prepare_image(members, image, spacing_mm=(1.0, 1.0, 1.0))
        shares: list[np.ndarray] = []
        labels = segment(
            members,
            prepared,
            Settings(),
            agreement=agreement,
            on_probabilities=lambda row, block, shares=shares: shares.append(block.log().numpy().copy()),  # type: ignore[misc]
        )
        assert agreement.of_labels() == {
            name: pytest.approx(value, abs=1e-5)
            for name, value in expected(np.concatenate(shares, axis=1), labels, plan.scheme).items()
        }
        found.append(agreement.of_labels()["dark"])
    assert found == sorted(found, reverse=True)
    assert found[2] < found[0] - 0.03


def test_a_block_of_millions_of_voxels_is_summed_exactly() -> None:
    name = "a"
    logits = torch.zeros(LABELS.n_outputs, 1, 4000, 5000)
    logits[LABELS.outputs[name]] = float(np.log(0.97 / 0.01))  # 0.97, and 0.01 for each of the others
    agreement = Agreement(LABELS, n_voxels=1)
    agreement.add(logits, decode(logits, LABELS))
    assert agreement.of_labels()[name] == pytest.approx(2 * 0.97 / 1.97, abs=1e-4)


@pytest.mark.parametrize("scheme", [LABELS, REGIONS])
def test_a_label_between_the_lines_that_are_looked_at_is_not_taken_for_absent(
    scheme: LabelScheme, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoseg.prediction.agreement.ALL_VALUES", 10)
    logits = torch.zeros(scheme.n_outputs, 2, 8, 8)
    logits[0] = -3.0 if scheme.has_regions else 3.0
    name = [*scheme.foreground][-1]
    logits[scheme.outputs[name], :, 1] = 9.0
    labels = decode(logits, scheme)
    agreement = Agreement(scheme, n_voxels=logits[0].numel())
    agreement.add(logits, labels)
    assert scheme.mask(labels, name).any()
    assert name not in agreement.of_labels()
