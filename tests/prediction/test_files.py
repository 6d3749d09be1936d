from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import nn

from autoseg.core.errors import DataError, Problem
from autoseg.core.files import read_json, write_json
from autoseg.core.plan import Plan
from autoseg.core.trust import CaseTrust
from autoseg.prediction.ensemble import Ensemble
from autoseg.prediction.files import Target, predict_cases
from autoseg.prediction.record import PredictionRecord, asked_cases
from autoseg.prediction.scans import Scan

MakePlan = Callable[..., Plan]
RAS_TURNED = (0.0, -1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0)


class Levels(nn.Module):
    """Output k where the grey value is nearest to k."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([-((x[:, 0] - k) ** 2) for k in range(3)], dim=1)


class Above(nn.Module):
    """Regions where the grey value is at least 1, and at least 2."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[:, 0] - 0.5, x[:, 0] - 1.5], dim=1)


def ensemble_for(plan: Plan, network: nn.Module) -> Ensemble:
    return Ensemble(
        plan=plan,
        configuration=plan.configuration("small"),
        networks=(network,),
        folds=("0",),
        device=torch.device("cpu"),
        precision="float32",
    )


def predict_case(ensemble: Ensemble, case: Scan, path: Path) -> dict[str, Any]:
    ((name, result),) = predict_cases([ensemble], {case.id: (case, Target(labels=path))})
    assert name == case.id
    if isinstance(result, Exception):
        raise result
    assert result.pop("seconds") > 0
    assert CaseTrust(**result.pop("trust")).out_of_distribution is None
    return result


def write_image(path: Path, voxels: np.ndarray, direction: tuple = RAS_TURNED) -> None:
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((1.0, 2.0, 0.5))
    image.SetOrigin((5.0, -7.0, 11.0))
    image.SetDirection(direction)
    sitk.WriteImage(image, str(path))


def grey_levels() -> np.ndarray:
    voxels = np.zeros((7, 9, 6), dtype=np.int16)
    voxels[1:6, 2:8, 1:5] = np.random.default_rng(0).integers(1, 3, size=(5, 6, 4))
    return voxels


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_labels_are_written_on_the_grid_of_the_image(tmp_path: Path, make_plan: MakePlan, ending: str) -> None:
    voxels = grey_levels()
    write_image(tmp_path / f"in{ending}", voxels)
    plan = make_plan(labels={"background": 0, "dark": 4, "bright": 6}, spacing_mm=(0.5, 1.0, 2.0), mirror_axes=[0, 2])
    case = Scan(id="in", images=(tmp_path / f"in{ending}",))
    facts = predict_case(ensemble_for(plan, Levels()), case, tmp_path / "out" / f"in{ending}")
    written, image = (sitk.ReadImage(str(p)) for p in (tmp_path / "out" / f"in{ending}", case.images[0]))
    assert np.array_equal(sitk.GetArrayFromImage(written), np.array([0, 4, 6])[voxels])
    assert written.GetSpacing() == image.GetSpacing()
    assert written.GetOrigin() == image.GetOrigin()
    assert written.GetDirection() == image.GetDirection()
    assert facts == {
        "volumes_ml": {"dark": round(int((voxels == 1).sum()) * 1e-3, 4), "bright": (voxels == 2).sum() * 1e-3},
        "warnings": [],
    }


def test_the_volume_of_a_region_is_that_of_all_its_values(tmp_path: Path, make_plan: MakePlan) -> None:
    voxels = grey_levels()
    write_image(tmp_path / "a.nii.gz", voxels, direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    plan = make_plan(
        labels={"background": 0, "whole": [1, 2], "core": [2]},
        regions_class_order=(1, 2),
        spacing_mm=(0.5, 2.0, 1.0),
    )
    case = Scan(id="a", images=(tmp_path / "a.nii.gz",))
    facts = predict_case(ensemble_for(plan, Above()), case, tmp_path / "out.nii.gz")
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out.nii.gz"))), voxels)
    assert facts["volumes_ml"]["whole"] == pytest.approx((voxels > 0).sum() * 1e-3)
    assert facts["volumes_ml"]["core"] == pytest.approx((voxels == 2).sum() * 1e-3)


def test_a_constant_image_is_predicted_with_a_warning(tmp_path: Path, make_plan: MakePlan) -> None:
    write_image(tmp_path / "a.nii.gz", np.zeros((4, 4, 4), dtype=np.int16))
    case = Scan(id="a", images=(tmp_path / "a.nii.gz",))
    labels = {"background": 0, "dark": 1, "bright": 2}
    facts = predict_case(ensemble_for(make_plan(labels=labels), Levels()), case, tmp_path / "o.nii.gz")
    assert len(facts["warnings"]) == 1
    assert "all voxels are 0" in facts["warnings"][0]


def test_a_damaged_image_is_refused_and_nothing_is_written(tmp_path: Path, make_plan: MakePlan) -> None:
    (tmp_path / "a.nii.gz").write_bytes(b"no image")
    case = Scan(id="a", images=(tmp_path / "a.nii.gz",))
    with pytest.raises(DataError, match="a "):
        predict_case(ensemble_for(make_plan(), Levels()), case, tmp_path / "out" / "a.nii.gz")
    assert not (tmp_path / "out").exists()


def test_a_case_with_too_few_channels_is_refused(tmp_path: Path, make_plan: MakePlan) -> None:
    write_image(tmp_path / "a.nii.gz", grey_levels())
    case = Scan(id="a", images=(tmp_path / "a.nii.gz",))
    plan = make_plan(normalization=("none", "none"))
    with pytest.raises(DataError, match="1 channels where the model needs 2"):
        predict_case(ensemble_for(plan, Levels()), case, tmp_path / "o.nii.gz")


def test_the_record_survives_a_kill_and_forgets_failed_cases(tmp_path: Path) -> None:
    record = PredictionRecord(tmp_path, part=(0, 1), facts={"model": "m"})
    a, b = (tmp_path / f"{case}.nii.gz" for case in "ab")
    for path in (a, b):
        path.write_bytes(b"labels")
    record.add("a", key="k1", files=[a], facts={"seconds": 1.235, "volumes_ml": {}, "warnings": ["odd; look"]})
    record.add("b", key="k2", files=[b], facts={"seconds": 2, "volumes_ml": {}, "warnings": []})
    again = PredictionRecord(tmp_path, part=(0, 1), facts={"model": "m"})
    assert again.holds("a", key="k1", files=[a])
    assert not again.holds("a", key="k2", files=[a])
    assert again.holds("b", key="k2", files=[b])
    assert not again.holds("b", key="k2", files=[b, tmp_path / "b_probabilities.b2nd"])
    assert not again.holds("c", key="k1", files=[a])
    warnings = again.finish([Problem(case="b", file="b.nii.gz", found="damaged", next="replace")])
    assert [(warning.case, warning.found) for warning in warnings] == [("a", "odd; look")]
    value = read_json(tmp_path / "prediction.json")
    assert list(value["cases"]) == ["a"]
    assert value["cases"]["a"]["seconds"] == 1.235
    assert value["failures"] == [{"case": "b", "file": "b.nii.gz", "found": "damaged", "next": "replace"}]
    assert asked_cases(tmp_path) == {"a", "b"}


def test_parts_are_recorded_apart_and_asked_together(tmp_path: Path) -> None:
    assert asked_cases(tmp_path) is None
    for number, case in enumerate("ab"):
        record = PredictionRecord(tmp_path, part=(number, 2), facts={})
        record.add(case, key="k", files=[], facts={"warnings": []})
        record.finish([])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prediction_part0of2.json", "prediction_part1of2.json"]
    assert asked_cases(tmp_path) == {"a", "b"}


def test_a_file_that_was_written_since_is_not_kept(tmp_path: Path) -> None:
    """Two parts predict with one set of options, a run of all with another, then all with the first again."""
    path = tmp_path / "a.nii.gz"
    for part, key in (((0, 2), "first"), ((0, 1), "second")):
        path.write_text(key)
        PredictionRecord(tmp_path, part=part, facts={}).add("a", key=key, files=[path], facts={"warnings": []})
    again = PredictionRecord(tmp_path, part=(0, 1), facts={})
    assert not again.holds("a", key="first", files=[path])
    assert again.holds("a", key="second", files=[path])
    path.write_text("cut off")
    assert not again.holds("a", key="second", files=[path])
    path.unlink()
    assert not again.holds("a", key="second", files=[path])


def test_a_foreign_prediction_json_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "prediction.json", ["not", "ours"])
    with pytest.raises(DataError):
        PredictionRecord(tmp_path, part=(0, 1), facts={})
