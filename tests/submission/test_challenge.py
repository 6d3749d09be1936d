from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.cli.submission import main
from autoseg.core.errors import DataError
from autoseg.submission import Challenge

VALUES = {"0": 0, "3": 205, "7": 1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "predictions"
    folder.mkdir()
    for number in (7, 12):
        labels = np.random.default_rng(number).choice([0, 3, 7], (3, 4, 5)).astype(np.uint8)
        image = sitk.GetImageFromArray(labels)
        image.SetSpacing((0.5, 0.6, 3.0))
        image.SetDirection((-1, 0, 0, 0, 1, 0, 0, 0, 1))
        sitk.WriteImage(image, str(folder / f"case_{number:04d}.nii.gz"))
    return folder


def challenge(tmp_path: Path, **content: object) -> list[str]:
    path = tmp_path / "challenge.json"
    path.write_text(json.dumps(content))
    return ["--challenge", str(path)]


def test_archive_has_the_names_values_and_types_that_are_wanted(folder: Path, tmp_path: Path) -> None:
    wanted = {
        "file": "out/{number}/{case}.mha",
        "case": "case_0*(?P<number>[0-9]+)",
        "data_type": "int16",
        "values": {"3": 205, "7": 1},
    }
    assert main(["-i", str(folder), "-o", str(tmp_path / "a.zip"), *challenge(tmp_path, **wanted)]) == 0
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert sorted(archive.namelist()) == ["out/12/case_0012.mha", "out/7/case_0007.mha"]
        for name in archive.namelist():
            found = sitk.ReadImage(archive.extract(name, tmp_path / "x"))
            source = sitk.ReadImage(str(folder / f"{Path(name).stem}.nii.gz"))
            labels, expected = (sitk.GetArrayFromImage(image) for image in (found, source))
            assert labels.dtype == np.int16
            assert np.array_equal(labels, np.select([expected == 3, expected == 7], [205, 1]))
            assert found.GetDirection() == source.GetDirection()
            assert found.GetSpacing() == pytest.approx(source.GetSpacing())
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip", "challenge.json", "predictions", "x"}


@pytest.mark.parametrize(
    ("wanted", "code", "told"),
    [
        ({"file": "{number}.nii.gz"}, 1, "which 'case' does not give"),
        ({"file": "same.nii.gz"}, 1, "as that of case_0007"),
        ({"file": "../{case}.nii.gz"}, 1, "begins with a dot"),
        ({"file": "{case}.mhd"}, 1, "must end in"),
        ({"case": "(", "file": "a.mha"}, 1, "no regular expression"),
        ({"case": "patient.*"}, 1, "does not match patient"),
        ({"values": {"7": 256}}, 1, "holds 256, which is no uint8"),
        ({"data_type": "float64"}, 1, "data_type"),
        ({"cases": ["case_0007", "case_0099"]}, 1, "has no prediction"),
        ({"cases": ["case_0007"]}, 1, "belongs to no expected case"),
        ({"fil": "a"}, 1, "did you mean"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], wanted: dict, code: int, told: str
) -> None:
    words = ["-i", str(folder), "-o", str(tmp_path / "a.zip"), "--json", *challenge(tmp_path, **wanted)]
    assert main(words) == code
    printed = capsys.readouterr()
    assert told in printed.out
    assert "Traceback" not in printed.err
    assert {path.name for path in tmp_path.iterdir()} == {"challenge.json", "predictions"}


def test_without_the_file_the_call_is_wrong(folder: Path, tmp_path: Path) -> None:
    assert main(["-i", str(folder), "-o", str(tmp_path / "a.zip"), "--challenge", str(tmp_path / "no.json")]) == 2


def test_an_archive_with_other_content_is_noticed(folder: Path, tmp_path: Path) -> None:
    rules, source = Challenge(values={3: 4}), folder / "case_0007.nii.gz"
    rules.convert(source, tmp_path / "good.nii.gz", case="c")
    rules.check(tmp_path / "good.nii.gz", source, case="c")
    for other in (Challenge(values={3: 5}), Challenge(values={3: 4}, data_type="int16")):
        with pytest.raises(DataError, match="reading it back"):
            other.check(tmp_path / "good.nii.gz", source, case="c")
    with pytest.raises(DataError, match=r"spacing|direction|origin|its labels"):
        rules.check(tmp_path / "good.nii.gz", folder / "case_0012.nii.gz", case="c")
