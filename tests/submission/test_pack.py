from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import autoseg.submission
from autoseg.core.errors import DataError, Problem
from autoseg.submission import pack

CASES = ["case_01", "Größe 2", "-x.1"]


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "predictions"
    folder.mkdir()
    for number, case in enumerate(CASES):
        labels = np.full((3, 4, 5), number, np.uint8)
        sitk.WriteImage(sitk.GetImageFromArray(labels), str(folder / f"{case}.nii.gz"))
    (folder / "prediction.json").write_text("{}")
    (folder / ".123-case_09.nii.gz").write_bytes(b"left over")
    return folder


def problems_of(folder: Path, path: Path, **changes) -> list[Problem]:
    with pytest.raises(DataError) as caught:
        pack(folder, path=path, **{"cases": CASES, "ending": ".nii.gz"} | changes)
    assert not path.exists()
    assert not [*path.parent.glob(".*")]
    return list(caught.value.problems)


def test_archive_holds_exactly_the_expected_files_byte_for_byte(folder, tmp_path):
    pack(folder, path=tmp_path / "new" / "out.zip", cases=CASES, ending=".nii.gz")
    with zipfile.ZipFile(tmp_path / "new" / "out.zip") as archive:
        assert sorted(archive.namelist()) == sorted(f"{case}.nii.gz" for case in CASES)
        for name in archive.namelist():
            assert archive.read(name) == (folder / name).read_bytes()
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["out.zip"]


def test_same_predictions_give_the_same_archive(folder, tmp_path):
    pack(folder, path=tmp_path / "a.zip", cases=CASES, ending=".nii.gz")
    for file in folder.glob("*.nii.gz"):
        file.touch()
    pack(folder, path=tmp_path / "b.zip", cases=CASES[::-1], ending=".nii.gz")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_uncompressed_predictions_are_compressed(tmp_path):
    (tmp_path / "p").mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((20, 30, 40), np.uint8)), str(tmp_path / "p" / "a.nii"))
    pack(tmp_path / "p", path=tmp_path / "a.zip", cases=["a"], ending=".nii")
    assert (tmp_path / "a.zip").stat().st_size < 2000


def test_all_missing_cases_and_strangers_are_listed_at_once(folder, tmp_path):
    problems = problems_of(folder, tmp_path / "out.zip", cases=["case_01", "Größe 2", "y", "z"])
    assert [(p.case, Path(p.file).name) for p in problems] == [
        ("y", "y.nii.gz"),
        ("z", "z.nii.gz"),
        ("", "-x.1.nii.gz"),
    ]


def test_image_of_another_format_is_a_stranger(folder, tmp_path):
    (folder / "case_01.nrrd").write_bytes(b"")
    assert [Path(p.file).name for p in problems_of(folder, tmp_path / "out.zip")] == ["case_01.nrrd"]


def test_every_unreadable_file_is_named(folder, tmp_path):
    whole = (folder / "case_01.nii.gz").read_bytes()
    (folder / "case_01.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "-x.1.nii.gz").write_bytes(b"")
    assert sorted(p.case for p in problems_of(folder, tmp_path / "out.zip")) == ["-x.1", "case_01"]


@pytest.mark.parametrize("case", ["../case_01", "a/b", ".hidden", "a\\b", "line\nbreak", ""])
def test_unsafe_case_is_refused(folder, tmp_path, case):
    assert repr(case) in [p.case for p in problems_of(folder, tmp_path / "out.zip", cases=[*CASES, case])]


def test_case_listed_twice_is_refused(folder, tmp_path):
    assert "2 times" in problems_of(folder, tmp_path / "out.zip", cases=[*CASES, CASES[0]])[0].found


@pytest.mark.parametrize("changes", [{"cases": []}, {"ending": ".nhdr"}, {"ending": ".png"}])
def test_nothing_to_pack_is_refused(folder, tmp_path, changes):
    assert len(problems_of(folder, tmp_path / "out.zip", **changes)) == 1


def test_missing_folder_is_named(tmp_path):
    assert "does not exist" in problems_of(tmp_path / "nowhere", tmp_path / "out.zip")[0].found


def test_earlier_archive_survives_a_failure(folder, tmp_path):
    path = tmp_path / "out.zip"
    path.write_bytes(b"earlier")
    with pytest.raises(DataError):
        pack(folder, path=path, cases=["nobody"], ending=".nii.gz")
    assert path.read_bytes() == b"earlier"


def test_archive_that_lacks_a_file_is_not_delivered(folder, tmp_path, monkeypatch):
    add = autoseg.submission._add

    def add_less(archive, name, file):
        if name != "case_01.nii.gz":
            add(archive, name, file)

    monkeypatch.setattr(autoseg.submission, "_add", add_less)
    assert "names or sizes" in problems_of(folder, tmp_path / "out.zip")[0].found


@pytest.mark.parametrize("damage", ["one byte of the first file", "the directory at the end"])
def test_archive_damaged_on_its_way_to_the_disk_is_not_delivered(folder, tmp_path, monkeypatch, damage):
    verify = autoseg.submission._verify

    def verify_damaged(written, files, *, path):
        content = bytearray(written.read_bytes())
        if damage == "the directory at the end":
            content = content[:-60]
        else:
            content[60] ^= 0xFF
        written.write_bytes(content)
        verify(written, files, path=path)

    monkeypatch.setattr(autoseg.submission, "_verify", verify_damaged)
    assert "reading the archive back" in problems_of(folder, tmp_path / "out.zip")[0].found
