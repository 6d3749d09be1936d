"""A small data set that can be learnt: the structures are brighter than the noise around them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg.core.plan import Plan
from autoseg.core.recipe import Recipe
from autoseg.core.splits import Split
from autoseg.io.case_store import CaseMeta, CaseStore
from autoseg.io.class_index import build_index
from autoseg.preprocessing.prepare_case import class_locations
from autoseg.training import FoldJob

MakeStore = Callable[..., Path]


@pytest.fixture
def toy_fold() -> Callable[..., FoldJob]:
    """Builds a fold on the four toy cases of `make_store`, three to train and one to validate, on the CPU."""

    def build(plan: Plan, store: Path, folder: Path, recipe: Recipe, *, loaders: int = 0) -> FoldJob:
        return FoldJob(
            store=store,
            plan=plan,
            configuration="small",
            recipe=recipe,
            split=Split(train=["a", "b", "c"], val=["d"]),
            folder=folder,
            device=torch.device("cpu"),
            loaders=loaders,
        )

    return build


@pytest.fixture
def make_store(tmp_path: Path) -> MakeStore:
    """Writes cases a, b, ... into a case store, as preprocessing does, and returns its folder."""

    def write(plan: Plan, *, shapes: Sequence[tuple[int, int, int]] = ((12, 14, 13),) * 4) -> Path:
        store = CaseStore(tmp_path / "store")
        patch = plan.configuration("small").patch_size
        for number, shape in enumerate(shapes):
            rng = np.random.default_rng(number)
            label = np.zeros(shape, dtype=np.int16)
            for value in range(1, len(plan.scheme.values)):
                low = [int(rng.integers(0, max(1, n - 5))) for n in shape]
                label[tuple(slice(a, a + 5) for a in low)] = value
            image = rng.normal(0, 0.3, size=(len(plan.channel_names), *shape)).astype(np.float32) + 2 * label
            store.write(
                "abcdefgh"[number],
                image=image.astype(np.float32),
                label=label,
                locations=class_locations(label, plan.scheme),
                meta=CaseMeta(key="made by hand"),
                patch_size=(1, *patch)[-3:],
            )
        build_index(store)
        return store.folder

    return write
