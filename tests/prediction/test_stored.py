"""Ensembles of stored probabilities against numpy, for every kind of labels and in any stored orientation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from autoseg.cli import ensemble
from autoseg.core.files import write_json
from autoseg.core.geometry import Geometry, Orientation
from autoseg.core.labels import LabelScheme
from autoseg.io.probability_file import ProbabilityFile
from autoseg.prediction import PredictionRecord, stored

SHAPE = (5, 6, 7)
LABELS = LabelScheme(declared={"background": 0, "b": 300, "a": 7})
REGIONS = LabelScheme(declared={"background": 0, "whole": (1, 2), "core": 2}, regions_class_order=(1, 2))
TURNED = Geometry(
    shape=SHAPE, spacing_mm=(3.0, 2.0, 1.0), origin_mm=(4.0, 5.0, 6.0), direction=(0, -1, 0, 0, 0, 1, -1, 0, 0)
)
STORED = Orientation(axes=(0, 1, 2), flipped=(False, False, False))


def write_image(path: Path, geometry: Geometry = TURNED) -> None:
    image = sitk.GetImageFromArray(np.zeros(geometry.shape, np.uint8))
    image.SetSpacing(geometry.spacing_mm[::-1])
    image.SetOrigin(geometry.origin_mm)
    image.SetDirection(geometry.direction)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def write_prediction(
    folder: Path,
    case: str,
    levels: NDArray[np.uint8],
    *,
    scheme: LabelScheme,
    rows: Orientation = STORED,
    geometry: Geometry = TURNED,
) -> None:
    """Levels (n_outputs, Z, Y, X) as stored, written along another axis; and a label file that gives the grid."""
    turned = rows.apply(levels.astype(np.float32) / 255)
    shape: Any = levels.shape[1:]
    box = tuple((0, n) for n in turned.shape[1:])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{case}_probabilities.b2nd"
    with ProbabilityFile(path, scheme=scheme, shape=shape, box=box, orientation=rows) as file:
        file.add(np.ascontiguousarray(turned))
    write_image(folder / f"{case}.nii.gz", geometry)


def random_levels(scheme: LabelScheme, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (scheme.n_outputs, *SHAPE), dtype=np.uint8)


def by_hand(files: list[NDArray[np.uint8]], scheme: LabelScheme) -> NDArray[np.int64]:
    """The likeliest label of the mean, the first of equals; or regions above a half, painted one after the other."""
    mean = np.mean([levels.astype(np.float64) for levels in files], axis=0) / 255
    if not scheme.has_regions:
        return np.array(sorted({0, *(v for v, *_ in scheme.foreground.values())}))[mean.argmax(axis=0)]
    labels = np.zeros(SHAPE, np.int64)
    for region, value in zip(mean, scheme.regions_class_order, strict=True):
        labels[region > 0.5] = value
    return labels


@pytest.mark.parametrize("scheme", [LABELS, REGIONS], ids=["labels", "regions"])
@pytest.mark.parametrize("slab", [1, 2**26])
def test_the_mean_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: LabelScheme, slab: int, capsys: Any
) -> None:
    monkeypatch.setattr(stored, "SLAB_BYTES", slab)
    ways = [STORED, Orientation(axes=(2, 0, 1), flipped=(True, False, True))]
    files = [random_levels(scheme, seed) for seed in (1, 2, 3)]
    for i, levels in enumerate(files):
        write_prediction(tmp_path / f"p{i}", "a b", levels, scheme=scheme, rows=ways[i % 2])
    words = ["-i", *(str(tmp_path / f"p{i}") for i in range(3)), "-o", str(tmp_path / "out"), "-np", "0", "--json"]
    assert ensemble.main(words) == 0
    image = sitk.ReadImage(str(tmp_path / "out" / "a b.nii.gz"))
    like = sitk.ReadImage(str(tmp_path / "p0" / "a b.nii.gz"))
    expected = by_hand(files, scheme)
    assert np.array_equal(sitk.GetArrayFromImage(image), expected)
    assert (image.GetDirection(), image.GetSpacing()) == (like.GetDirection(), like.GetSpacing())
    record = json.loads((tmp_path / "out" / "prediction.json").read_text())
    volumes = record["cases"]["a b"]["volumes_ml"]
    for name, members in scheme.foreground.items():
        assert volumes[name] == pytest.approx(np.isin(expected, members).sum() * 6 / 1000, abs=1e-4)
    assert json.loads(capsys.readouterr().out)["ensembled_now"] == 1
    assert ensemble.main(words) == 0  # kept
    assert json.loads(capsys.readouterr().out)["ensembled_now"] == 0


def test_what_cannot_be_averaged_is_told_and_the_rest_done(tmp_path: Path, capsys: Any) -> None:
    a, b, out = tmp_path / "a", tmp_path / "b", tmp_path / "out"
    other = LabelScheme(declared={"background": 0, "b": 300, "c": 7})
    for case in ("good", "lonely", "labels", "grid", "moved", "damaged"):
        write_prediction(a, case, random_levels(LABELS, 0), scheme=LABELS)
    write_image(a / "unlabelled.nii.gz")
    moved = replace(TURNED, origin_mm=(0.0, 5.0, 6.0))
    write_prediction(b, "moved", random_levels(LABELS, 1), scheme=LABELS, geometry=moved)
    write_json(a / "prediction.json", {"cases": {}, "failures": [{"case": "failed"}]})
    write_image(out / "lonely.nii.gz")  # of an ensemble before
    write_prediction(b, "good", random_levels(LABELS, 1), scheme=LABELS)
    write_prediction(b, "labels", random_levels(LABELS, 1), scheme=other)
    write_prediction(b, "grid", random_levels(LABELS, 1)[:, :3], scheme=LABELS)
    (b / "damaged_probabilities.b2nd").write_bytes(b"nothing")
    assert ensemble.main(["-i", str(a), str(b), "-o", str(out), "-np", "0", "--json"]) == 1
    printed = capsys.readouterr()
    found = {p["case"]: p["found"] for p in json.loads(printed.out)["problems"]}
    assert found.keys() == {"lonely", "labels", "grid", "moved", "damaged", "failed"}
    assert found["lonely"] == "has no probabilities"
    assert "has other labels than" in found["labels"]
    assert "has another grid than" in found["grid"]
    assert "origin 4 5 6 instead of" in found["moved"] or "instead of 4 5 6" in found["moved"]
    assert found["failed"] == "has no probabilities"
    assert "is no intact file of probabilities" in found["damaged"]
    assert [path.name for path in out.glob("*.nii.gz")] == ["good.nii.gz"]
    assert "Traceback" not in printed.err


def test_regions_in_another_order_are_other_outputs(tmp_path: Path, capsys: Any) -> None:
    turned = LabelScheme(declared={"background": 0, "core": 2, "whole": (1, 2)}, regions_class_order=(1, 2))
    for folder, scheme in (("a", REGIONS), ("b", turned)):
        write_prediction(tmp_path / folder, "p", random_levels(scheme, 0), scheme=scheme)
    words = ["-i", str(tmp_path / "a"), str(tmp_path / "b"), "-o", str(tmp_path / "out"), "-np", "0"]
    assert ensemble.main(words) == 1
    assert "has other labels than" in capsys.readouterr().err


def test_probabilities_of_an_earlier_prediction_are_not_averaged(tmp_path: Path, capsys: Any) -> None:
    source, other = tmp_path / "a", tmp_path / "b"
    for number, folder in enumerate((source, other)):
        write_prediction(folder, "p", random_levels(LABELS, number), scheme=LABELS)
    words = ["-i", str(source), str(other), "-o", str(tmp_path / "out"), "-np", "0", "--json"]
    record = PredictionRecord(source, part=(0, 1), facts={})
    record.add("p", key="new", files=[source / "p.nii.gz"], facts={"warnings": []})
    assert ensemble.main(words) == 1
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem["found"] == "is damaged, or of another prediction than the labels"
    record.add("p", key="new", files=[*source.glob("p[._]*")], facts={"warnings": []})
    assert ensemble.main(words) == 0


def test_without_an_image_file_the_way_out_is_told(tmp_path: Path, capsys: Any) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        write_prediction(folder, "p", random_levels(LABELS, 0), scheme=LABELS)
        (folder / "p.nii.gz").rename(folder / "p.dcm")
    assert ensemble.main(["-i", *map(str, folders), "-o", str(tmp_path / "out"), "-np", "0"]) == 1
    assert "--format nii.gz" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-i", "empty", "a", "-o", "out"], "holds no CASE_probabilities.b2nd; predict with --save_probabilities"),
        (["-i", "nowhere", "a", "-o", "out"], "holds no CASE_probabilities.b2nd"),
        (["-i", "a", "-o", "out"], "two or more different folders"),
        (["-i", "a", "empty", "a/", "-o", "out"], "two or more different folders"),
        (["-i", "empty", "a", "-o", "a"], "the output folder is the input folder"),
    ],
)
def test_a_wrong_call_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, words: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "a"):
        Path(name).mkdir()
    assert ensemble.main(words) == 2
    assert told in capsys.readouterr().err
    assert not Path("out").exists()
