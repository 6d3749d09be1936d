"""A workspace made by hand: raw data, two plans' worth of results of two folds, and no training at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg import __version__
from autoseg.core.files import content_key, write_json
from autoseg.core.labels import LabelScheme
from autoseg.core.plan import Model, Plan
from autoseg.core.recipe import RECIPES
from autoseg.core.scores import Scores
from autoseg.evaluation import evaluate, pool_scores, write_scores

NAME = "Dataset900_Toy"
SHAPE = (6, 16, 18)
CASES = [f"case_{number}" for number in range(6)]
SCHEME = LabelScheme(declared={"background": 0, "body": 2, "core": 5})


@dataclass(frozen=True)
class World:
    """Where everything lies, and how to add to it."""

    top: Path
    plan: Plan
    folds: tuple[list[str], ...] = (CASES[:3], CASES[3:])

    @staticmethod
    def write_image(path: Path, array: Any) -> Path:
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((0.8, 0.9, 2.5))
        image.SetOrigin((-30.0, 12.0, 4.0))
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(path))
        return path

    @staticmethod
    def truth_of(case: str) -> np.ndarray:
        """A box with another in it, at a place that depends on the case."""
        labels, shift = np.zeros(SHAPE, np.uint8), CASES.index(case)
        labels[1:5, 3 : 9 + shift, 2:10] = 2
        labels[2:4, 4:7, 4:8] = 5
        return labels

    @staticmethod
    def with_stray(labels: np.ndarray, size: int = 3) -> np.ndarray:
        """The labels with a part that lies apart from all others."""
        result = labels.copy()
        result[0, 0, 18 - size :] = 2
        return result

    @property
    def raw(self) -> Path:
        return self.top / "raw" / NAME

    def model(self, configuration: str) -> Path:
        return self.top / "results" / NAME / f"hand__{configuration}"

    @property
    def where(self) -> list[str]:
        return ["-d", "900", "--workspace", str(self.top)]

    def add_fold(
        self, configuration: str, fold: int, change: Callable[[np.ndarray], np.ndarray], *, epochs: int = 2
    ) -> None:
        """A finished, validated fold whose predictions are the changed truth."""
        folder = self.model(configuration) / f"fold_{fold}"
        self.begin_fold(configuration, fold, epochs=epochs, done=epochs)
        weights, validation = folder / "weights.safetensors", folder / "validation"
        weights.write_bytes(b"weights")
        cases = self.folds[fold]
        files = {c: self.write_image(validation / f"{c}.nii.gz", change(self.truth_of(c))) for c in cases}
        truths = {c: self.raw / "labelsTr" / f"{c}.nii.gz" for c in cases}
        write_scores(evaluate(files, truths, labels=SCHEME, workers=0)[0], validation)
        (validation / ".made_from").write_text(content_key(files=[weights]))

    def begin_fold(self, configuration: str, fold: int | str, *, epochs: int, done: int) -> None:
        """A fold of which some epochs are done."""
        folder = self.model(configuration) / f"fold_{fold}"
        recipe = RECIPES["quick"].with_changes(name="mine", epochs=epochs)
        recipe.write(folder / "recipe.json")
        row = {"train_loss": -0.5, "val_loss": -0.4, "pseudo_dice_mean": 0.5, "seconds": 3.0, "data_wait_share": 0.0}
        rows = [{"epoch": n, **row} for n in range(done)]
        (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        Model(configuration=configuration, plan=self.plan, autoseg_version=__version__).write(
            self.model(configuration) / "model.json"
        )

    def pool(self, configuration: str) -> None:
        """The pooled cross-validation of both folds."""
        folders = [self.model(configuration) / f"fold_{fold}" / "validation" for fold in (0, 1)]
        scores = pool_scores([Scores.read(folder / "summary.json") for folder in folders])
        write_scores(scores, self.model(configuration) / "crossval")


@pytest.fixture
def world(tmp_path: Path, make_plan: Callable[..., Plan]) -> World:
    """Raw data, splits and a plan with the configurations "small" and "coarse"; no results."""
    plan = make_plan(labels=dict(SCHEME.declared))
    plan = plan.with_changes(configurations=dict.fromkeys(("small", "coarse"), plan.configurations["small"]))
    world = World(top=tmp_path, plan=plan)
    declaration = {"channel_names": {"0": "CT"}, "labels": SCHEME.declared, "file_ending": ".nii.gz"}
    write_json(world.raw / "dataset.json", {**declaration, "numTraining": len(CASES)})
    for number, case in enumerate(CASES):
        labels = world.truth_of(case)
        world.write_image(world.raw / "labelsTr" / f"{case}.nii.gz", labels)
        noise = np.random.default_rng(number).normal(size=SHAPE)
        image = (100.0 * labels + 20 * noise).astype(np.float32)
        world.write_image(world.raw / "imagesTr" / f"{case}_0000.nii.gz", image)
    prepared = tmp_path / "preprocessed" / NAME
    splits = [{"train": world.folds[1 - i], "val": world.folds[i]} for i in (0, 1)]
    write_json(prepared / "splits.json", splits)
    plan.write(prepared / "plans" / "hand.json")
    return world


@pytest.fixture
def trained(world: World) -> World:
    """Two finished configurations: "small" is perfect but for a stray part in fold 0, "coarse" is worse."""
    for fold in (0, 1):
        world.add_fold("small", fold, world.with_stray if fold == 0 else np.copy)
        world.add_fold("coarse", fold, lambda labels: np.roll(labels, 1, axis=1))
    world.pool("small")
    world.pool("coarse")
    return world


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command's main; returns exit code, standard output and standard error."""

    def call(main: Callable[[Sequence[str]], int], *argv: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([*map(str, argv)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call
