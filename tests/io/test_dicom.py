from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless, generate_uid
from scipy.spatial.transform import Rotation

from autoseg.core.errors import DataError
from autoseg.io.dicom import find_series, read_series, series_geometry

CT, SEG = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.66.4"
RNG = np.random.default_rng(5)
OBLIQUE = Rotation.from_euler("xyz", [20, -15, 35], degrees=True).as_matrix()
AXIAL = np.eye(3)


def save(path: Path, header: Dataset, pixels: np.ndarray, *, syntax: str = ExplicitVRLittleEndian) -> Path:
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = syntax
    big = syntax == ExplicitVRBigEndian
    header.PixelData = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<")).tobytes()
    header["PixelData"].VR = "OB" if pixels.itemsize == 1 else "OW"
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(
        path, header, enforce_file_format=True, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=not big
    )
    return path


@pytest.fixture
def series(tmp_path):
    """Function that writes a series and returns its folder; `change(header, k)` edits the header of slice k."""

    def write(
        voxels: np.ndarray,
        *,
        folder: str = "",
        axes: np.ndarray = AXIAL,
        spacing: tuple[float, ...] = (2.5, 0.8, 0.6),
        origin: tuple[float, ...] = (-120.5, 33.25, -700),
        skip: tuple[int, ...] = (),
        change=lambda header, k: None,
        name=lambda k: f"{k:03d}.dcm",
        uid: str | None = None,
        study: str | None = None,
        syntax: str = ExplicitVRLittleEndian,
        **fields,
    ) -> Path:
        uid, study = uid or generate_uid(), study or generate_uid()
        for k, plane in enumerate(voxels):
            if k in skip:
                continue
            header = Dataset()
            header.SOPClassUID, header.SOPInstanceUID = CT, generate_uid()
            header.StudyInstanceUID, header.SeriesInstanceUID, header.FrameOfReferenceUID = study, uid, "1.2.9"
            header.Modality, header.SeriesDescription, header.SeriesNumber = "CT", "chest", 4
            header.PatientID, header.StudyDate, header.InstanceNumber = "p1", "20200131", k + 1
            header.Rows, header.Columns, header.SamplesPerPixel = *plane.shape, 1
            header.PhotometricInterpretation = "MONOCHROME2"
            header.BitsAllocated = header.BitsStored = plane.dtype.itemsize * 8
            header.HighBit, header.PixelRepresentation = header.BitsStored - 1, int(plane.dtype.kind == "i")
            header.PixelSpacing = [spacing[1], spacing[2]]
            header.SliceThickness = "9"
            header.ImageOrientationPatient = [f"{value:.12f}"[:16] for value in axes[:, :2].T.ravel()]
            position = np.array(origin) + axes[:, 2] * spacing[0] * k
            header.ImagePositionPatient = [f"{value:.10f}"[:16] for value in position]
            for key, value in fields.items():
                setattr(header, key, value)
            change(header, k)
            save(tmp_path / folder / name(k), header, plane, syntax=syntax)
        return tmp_path / folder

    return write


def only(folder: Path):
    """The one series of a folder without problems."""
    found, problems = find_series(folder)
    assert not problems, problems
    assert len(found) == 1, found
    return found[0]


def refused(folder: Path) -> str:
    """What is said when the one series of a folder is read, from headers alone or with the pixels."""
    with pytest.raises(DataError) as caught:
        read_series(only(folder))
    assert all(problem.found and problem.next for problem in caught.value.problems)
    return str(caught.value)


VOXELS = RNG.integers(-1000, 2000, size=(7, 6, 5)).astype(np.int16)


@pytest.mark.parametrize("axes", [AXIAL, OBLIQUE, AXIAL[:, [1, 2, 0]], AXIAL * (-1, 1, -1), OBLIQUE[:, [2, 0, 1]]])
@pytest.mark.parametrize("downwards", [False, True])
def test_geometry_is_what_was_written_and_what_simpleitk_reads(series, axes, downwards):
    names = RNG.permutation(len(VOXELS))
    stored = VOXELS[::-1] if downwards else VOXELS
    step = axes[:, 2] * 2.5
    start = np.array((-120.5, 33.25, -700))

    def upside_down(header, k):
        header.ImagePositionPatient = [f"{value:.10f}"[:16] for value in start + step * (6 - k)]

    folder = series(
        stored, axes=axes, name=lambda k: f"IM{names[k]}", change=upside_down if downwards else lambda header, k: None
    )
    found = only(folder)
    voxels, geometry, warnings = read_series(found)
    assert not warnings
    assert np.array_equal(voxels, VOXELS)
    assert voxels.dtype == np.int16
    assert geometry.shape == found.shape == VOXELS.shape
    np.testing.assert_allclose(geometry.spacing_mm, (2.5, 0.8, 0.6), rtol=1e-9)
    np.testing.assert_allclose(geometry.origin_mm, start, atol=1e-9)
    np.testing.assert_allclose(np.reshape(geometry.direction, (3, 3)), axes, atol=1e-9)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(path) for path in found.files])
    image = reader.Execute()
    assert np.array_equal(sitk.GetArrayFromImage(image), voxels)
    np.testing.assert_allclose(image.GetSpacing(), geometry.spacing_mm[::-1], rtol=1e-9)
    np.testing.assert_allclose(image.GetOrigin(), geometry.origin_mm, atol=1e-9)
    np.testing.assert_allclose(image.GetDirection(), geometry.direction, atol=1e-9)


def test_the_series_carries_what_is_needed_to_choose_and_name_it(series):
    found = only(series(VOXELS, uid="1.2.3", study="1.2"))
    assert (found.uid, found.study_uid, found.number, found.part, found.parts) == ("1.2.3", "1.2", 4, 1, 1)
    assert (found.description, found.modality, found.patient_id, found.study_date) == ("chest", "CT", "p1", "20200131")
    assert found.title == "series 4 (chest)"
    assert [path.name for path in found.files] == [f"{k:03d}.dcm" for k in range(7)]


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless], ids=lambda s: s.name
)
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2"])
def test_voxels_of_every_encoding_come_back(series, syntax, dtype):
    voxels = RNG.integers(0, np.iinfo(dtype).max, size=(3, 16, 18)).astype(dtype)
    folder = series(voxels, syntax=ExplicitVRLittleEndian if syntax == RLELossless else syntax)
    if syntax == RLELossless:
        for path in folder.iterdir():
            header = pydicom.dcmread(path)
            header.compress(RLELossless)
            header.save_as(path)
    read, _, _ = read_series(only(folder))
    assert np.array_equal(read, voxels)
    assert read.dtype == (np.int32 if dtype == "u2" else np.int16)


def test_slope_and_intercept_of_each_slice_are_applied(series):
    slopes, intercepts = [0.5, 1.25, 3, 0.001, 7, 1, -2], [0, -3.5, 10, 1e-3, -1024, 0, 5]

    def rescale(header, k):
        header.RescaleSlope, header.RescaleIntercept = str(slopes[k]), str(intercepts[k])

    voxels, _, _ = read_series(only(series(VOXELS, change=rescale)))
    assert voxels.dtype == np.float32
    expected = VOXELS * np.reshape(slopes, (7, 1, 1)) + np.reshape(intercepts, (7, 1, 1))
    np.testing.assert_allclose(voxels, expected, rtol=1e-6)


@pytest.mark.parametrize(("slope", "intercept"), [(1, -1024), (2, 60000), (1, 40000), (300, -7)])
def test_whole_values_stay_integers_that_hold_them(series, slope, intercept):
    voxels, _, _ = read_series(only(series(VOXELS, RescaleSlope=str(slope), RescaleIntercept=str(intercept))))
    assert np.array_equal(voxels, VOXELS.astype(np.int64) * slope + intercept)
    assert voxels.dtype == (np.int16 if abs(intercept) == 1024 else np.int32)


def test_a_value_that_needs_a_wider_type_late_in_the_stack_widens_the_volume(series):
    voxels = np.zeros((5, 4, 4), dtype=np.uint16)
    voxels[0], voxels[3, 1, 1] = 7, 65535
    assert np.array_equal(read_series(only(series(voxels)))[0], voxels)


def test_rescaling_without_a_sop_class_in_the_data_set_is_not_forgotten(series):
    def forget(header, k):
        header.SOPClassUID = ""
        header.SOPInstanceUID = ""

    folder = series(VOXELS, RescaleSlope="1", RescaleIntercept="-1000")
    for path in folder.iterdir():
        header = pydicom.dcmread(path)
        forget(header, 0)
        header.save_as(path)
    assert np.array_equal(read_series(only(folder))[0], VOXELS - 1000)


def test_files_without_a_preamble_are_read(series):
    folder = series(VOXELS)
    for path in folder.iterdir():
        header = pydicom.dcmread(path)
        del header.file_meta, header.preamble
        pydicom.dcmwrite(path, header, implicit_vr=True, little_endian=True)
        assert path.read_bytes()[:2] == b"\x08\x00"
    assert np.array_equal(read_series(only(folder))[0], VOXELS)


def test_several_series_in_one_folder_and_below_are_sorted_out(series, tmp_path):
    series(VOXELS, name=lambda k: f"a{k}", uid="1.1", SeriesNumber=9)
    series(VOXELS + 1, name=lambda k: f"b{6 - k}.dcm", uid="1.2", SeriesNumber=2, axes=OBLIQUE)
    series(VOXELS + 2, folder="deep/er", uid="1.3", SeriesNumber=3)
    found, problems = find_series(tmp_path)
    assert not problems
    assert [one.uid for one in sorted(found, key=lambda one: one.uid)] == ["1.1", "1.2", "1.3"]
    for one in found:
        assert np.array_equal(read_series(one)[0], VOXELS + int(one.uid[-1]) - 1)


def test_a_series_without_uid_is_told_by_its_folder(series, tmp_path):
    for folder in "ab":
        series(VOXELS, folder=folder, change=lambda header, k: delattr(header, "SeriesInstanceUID"), study="1.2")
    found, problems = find_series(tmp_path)
    assert not problems
    assert [one.files[0].parent.name for one in found] == ["a", "b"]
    assert all(np.array_equal(read_series(one)[0], VOXELS) for one in found)


def test_what_is_no_image_is_passed_over(series, tmp_path, caplog):
    folder = series(VOXELS)
    (tmp_path / "notes.txt").write_text("DICM is a word\n" * 50)
    (tmp_path / "README").write_bytes(b"\x08\x00" + bytes(300))
    (tmp_path / "empty").touch()
    (tmp_path / "._000.dcm").write_bytes(b"\0\5\x16\7" + bytes(400))
    (tmp_path / "broken link").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    others = (SEG, "1.2.840.10008.5.1.4.1.1.481.3", "1.2.840.10008.5.1.4.1.1.11.1", "1.2.840.10008.1.3.10",
              "1.2.840.10008.5.1.4.1.1.481.2", "1.3.12.2.1107.5.9.1")  # fmt: skip
    for index, kind in enumerate(others):

        def other(header, k, kind=kind):
            header.SOPClassUID = kind
            if not kind.startswith("1.2.840.10008.5.1.4.1.1.481"):
                del header.ImagePositionPatient

        series(
            VOXELS[:1],
            folder="others",
            uid="1.2.3",
            study="1.2",
            change=other,
            name=lambda k, index=index: f"{index}.dcm",
        )
    assert np.array_equal(read_series(only(folder))[0], VOXELS)
    assert not caplog.records


def test_linked_folders_are_followed_once(series, tmp_path):
    series(VOXELS, folder="real")
    (tmp_path / "top").mkdir()
    (tmp_path / "top" / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "real")
    (tmp_path / "top" / "again").symlink_to(tmp_path / "real")
    assert np.array_equal(read_series(only(tmp_path / "top"))[0], VOXELS)


@pytest.mark.parametrize(("content", "found"), [(b"", "empty"), (b"\x89PNG" + bytes(200), "no DICOM file")])
def test_a_file_that_calls_itself_dicom_and_is_not_is_named(series, tmp_path, content, found):
    series(VOXELS)
    (tmp_path / "x.DCM").write_bytes(content)
    series, problems = find_series(tmp_path)
    assert len(series) == len(problems) == 1
    assert "x.DCM" in problems[0].file
    assert found in problems[0].found


def test_a_folder_that_is_none_is_refused_and_one_without_dicom_is_empty(tmp_path):
    with pytest.raises(DataError, match="no folder"):
        find_series(tmp_path / "x")
    assert find_series(tmp_path) == ([], [])


def test_missing_slices_are_counted_and_placed(series):
    voxels = np.zeros((20, 4, 4), dtype=np.int16)
    text = refused(series(voxels, skip=(5, 6, 12)))
    assert "3 slices are missing between -690 mm (image 5) and -682.5 mm (image 8)" in text
    assert "between -672.5 mm (image 12) and -667.5 mm (image 14)" in text
    assert "2.5 mm apart" in text


def test_one_missing_slice_of_a_short_oblique_stack_is_found(series):
    assert "1 slice is missing" in refused(series(VOXELS[:4], axes=OBLIQUE, skip=(2,)))


def test_many_holes_are_summed_up(series):
    text = refused(series(np.zeros((90, 4, 4), dtype=np.int16), skip=tuple(range(5, 80, 7))))
    assert "11 slices are missing" in text
    assert "8 more places" in text


def test_doubled_positions_are_refused(series, tmp_path):
    folder = series(VOXELS, uid="1.2", study="1.9")
    series(VOXELS[:2], uid="1.2", study="1.9", name=lambda k: f"again{k}")
    text = refused(folder)
    assert "9 images lie at only 7 places" in text
    assert "000.dcm and again0" in text
    assert "time points" in text


def test_copies_of_files_are_called_copies(series, tmp_path):
    folder = series(VOXELS)
    shutil.copy(tmp_path / "003.dcm", tmp_path / "copy of 003.dcm")
    text = refused(folder)
    assert "1 image is there twice, 003.dcm and copy of 003.dcm" in text
    assert "remove the copies" in text


def test_several_time_points_with_jitter_are_refused_as_such(series):
    for time in range(20):
        origin = (-120.5 + 1e-4 * time, 33.25, -700 + 2e-4 * time)
        folder = series(VOXELS, uid="1.2", study="1.9", origin=origin, name=lambda k, time=time: f"{time}-{k}")
    assert "140 images lie at only 7 places" in refused(folder)


@pytest.mark.parametrize("degrees", [1, 8, -20])
def test_a_tilted_gantry_is_refused_with_its_angle(series, degrees):
    def tilt(header, k):
        header.ImagePositionPatient = [0, round(float(np.tan(np.radians(degrees)) * 2.5 * k), 6), 2.5 * k]

    voxels = np.zeros((30, 4, 4), dtype=np.int16)
    assert f"angle of {abs(degrees)} degrees" in refused(series(voxels, change=tilt))


def _moved(header, axis, mm):
    position = [float(value) for value in header.ImagePositionPatient]
    position[axis] += mm
    header.ImagePositionPatient = [round(value, 6) for value in position]


@pytest.mark.parametrize(
    ("axis", "part", "answer"),
    [(2, 0.009, ""), (2, 0.011, "warns"), (2, 0.09, "warns"), (2, 0.11, "refuses"), (2, 0.4, "refuses"),
     (0, 0.09, ""), (0, 0.11, "warns"), (1, 0.45, "warns"), (0, 0.55, "refuses"), (1, 0.55, "refuses")],
)  # fmt: skip
def test_one_slice_out_of_place_is_accepted_warned_of_or_refused(series, axis, part, answer):
    unit = (0.6, 0.8, 2.5)[axis]
    folder = series(VOXELS, change=lambda header, k: _moved(header, axis, part * unit if k == 3 else 0))
    if answer == "refuses":
        assert ("apart" if axis == 2 else "sideways") in refused(folder)
        return
    _, geometry, warnings = read_series(only(folder))
    assert bool(warnings) == bool(answer), warnings
    assert geometry.spacing_mm[0] == pytest.approx(2.5)


def test_a_change_of_distance_within_the_stack_is_refused(series):
    voxels = np.zeros((40, 4, 4), dtype=np.int16)
    text = refused(series(voxels, change=lambda header, k: _moved(header, 2, max(0, k - 20) * 0.5)))
    assert "2.5 to 3 mm apart" in text


def test_coordinates_with_two_decimals_are_accepted_silently(series):
    def rounded(header, k):
        header.ImagePositionPatient = [f"{float(value):.2f}" for value in header.ImagePositionPatient]

    for axes in (AXIAL, OBLIQUE):
        folder = series(np.zeros((300, 3, 3), np.int16), axes=axes, spacing=(0.6, 0.7, 0.7), change=rounded)
        _, geometry, warnings = read_series(only(folder))
        assert not [text for text in warnings if "sideways" in text]
        assert geometry.spacing_mm[0] == pytest.approx(0.6, abs=1e-4)


def test_slightly_turned_slices_are_refused(series):
    turned = Rotation.from_euler("z", 1, degrees=True).as_matrix()

    def turn(header, k):
        if k == 2:
            header.ImageOrientationPatient = [round(float(value), 6) for value in turned[:, :2].T.ravel()]

    text = refused(series(VOXELS, change=turn))
    assert "1 of 7 slices are turned" in text
    assert "002.dcm" in text


def test_pixels_of_another_size_are_refused(series):
    def widen(header, k):
        if k in (0, 4):
            header.PixelSpacing = [0.8, 0.61]

    assert "2 of 7 slices have pixels of another size" in refused(series(VOXELS, change=widen))


def test_a_localizer_within_a_series_becomes_a_part_of_its_own(series, tmp_path):
    series(VOXELS, uid="1.2", study="1.9")
    coronal = AXIAL[:, [0, 2, 1]] * (1, -1, 1)
    series(VOXELS[:2], uid="1.2", study="1.9", axes=coronal, name=lambda k: f"scout{k}")
    series(np.zeros((3, 9, 9), np.int16), uid="1.2", study="1.9", name=lambda k: f"large{k}")
    found, problems = find_series(tmp_path)
    assert not problems
    assert [(one.shape, one.part, one.parts) for one in found] == [
        ((7, 6, 5), 1, 3),
        ((3, 9, 9), 2, 3),
        ((2, 6, 5), 3, 3),
    ]
    voxels, _, warnings = read_series(found[0])
    assert np.array_equal(voxels, VOXELS)
    assert "3 stacks" in warnings[0]
    assert found[1].title == "series 4 (chest), part 2 of 3"


def test_slices_around_an_axis_are_no_volume(series, tmp_path):
    def turn(header, k):
        axes = Rotation.from_euler("z", 15 * k, degrees=True).as_matrix()[:, [0, 2]]
        header.ImageOrientationPatient = [round(float(value), 6) for value in axes.T.ravel()]

    series(np.zeros((12, 4, 4), np.int16), change=turn)
    found, problems = find_series(tmp_path)
    assert not found
    assert "12 images point in 12 directions" in problems[0].found


@pytest.mark.parametrize(
    ("fields", "spacing"),
    [({"SpacingBetweenSlices": "4"}, 4), ({}, 9), ({"SpacingBetweenSlices": "-3"}, 3), ({"SliceThickness": "x"}, None)],
)
def test_a_single_slice_takes_its_thickness_from_the_header(series, fields, spacing):
    folder = series(VOXELS[:1], **fields) if spacing else series(VOXELS[:1], SliceThickness=None)
    if spacing is None:
        assert "thickness is unknown" in refused(folder)
        return
    voxels, geometry, warnings = read_series(only(folder))
    assert geometry.spacing_mm == (spacing, 0.8, 0.6)
    assert f"{spacing} mm" in warnings[0]
    assert np.array_equal(voxels, VOXELS[:1])


def _drop(*keys):
    def change(header, k):
        for key in keys:
            delattr(header, key)

    return change


def _set(**fields):
    def change(header, k):
        for key, value in fields.items():
            setattr(header, key, value)

    return change


BAD = [
    (_set(NumberOfFrames="5"), "in one file"),
    (_set(SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1"), "in one file"),
    (_set(SamplesPerPixel=3, PhotometricInterpretation="RGB"), "colour"),
    (_set(PhotometricInterpretation="MONOCHROME1"), "inverted"),
    (_drop("ImagePositionPatient"), "where in the patient"),
    (_drop("ImageOrientationPatient"), "where in the patient"),
    (_set(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "perpendicular"),
    (_set(ImageOrientationPatient=[0, 0, 0, 0, 0, 0]), "perpendicular"),
    (_drop("PixelSpacing"), "PixelSpacing"),
    (_set(PixelSpacing=[0, 1]), "PixelSpacing"),
    (_set(PixelSpacing=[-1, 1]), "PixelSpacing"),
    (_drop("Rows"), "truncated"),
    (_set(RescaleSlope="0"), "RescaleSlope"),
    (_set(RescaleSlope="1e39"), "RescaleSlope"),
    (_set(ModalityLUTSequence=[Dataset()]), "Modality LUT"),
]


@pytest.mark.parametrize(("change", "found"), BAD, ids=lambda value: value if isinstance(value, str) else "")
def test_images_that_are_no_slices_are_named_once_per_series(series, tmp_path, change, found):
    series(VOXELS, change=change)
    ok, problems = find_series(tmp_path)
    assert not ok
    assert len(problems) == 1
    assert found in problems[0].found
    assert "and 6 more files" in problems[0].found
    assert problems[0].case == "series 4 (chest)"


@pytest.mark.parametrize(("change", "found"), BAD, ids=lambda value: value if isinstance(value, str) else "")
def test_one_such_image_keeps_the_series_from_being_read(series, change, found):
    text = refused(series(VOXELS, change=lambda header, k: change(header, k) if k == 6 else None))
    assert found in text
    assert "006.dcm" in text


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("value", [b"abc ", b"nan ", b"1,5 ", b"\xff\xfe", b"1\\2 "])
@pytest.mark.parametrize("key", ["PixelSpacing", "RescaleSlope", "ImagePositionPatient", "InstanceNumber", "PatientID"])
def test_bytes_that_are_no_numbers_never_show_a_traceback(series, tmp_path, key, value):
    folder = series(VOXELS, RescaleSlope="1", RescaleIntercept="0")
    for path in folder.iterdir():
        header = pydicom.dcmread(path)
        element = header[key]
        raw = pydicom.dataelem.RawDataElement(element.tag, element.VR, len(value), value, 0, False, True)
        header._dict[element.tag] = raw
        header.save_as(path)
    found, problems = find_series(tmp_path)
    if key in ("InstanceNumber", "PatientID"):
        assert np.array_equal(read_series(found[0])[0], VOXELS)
    elif key == "PixelSpacing" and value == b"1\\2 ":
        assert series_geometry(found[0])[0].spacing_mm == (2.5, 1, 2)
    else:
        assert not found
        assert len(problems) == 1


@pytest.mark.parametrize("keep", [*range(0, 1470, 37), -1, -2, -50])
def test_a_truncated_file_is_named_wherever_it_ends(series, tmp_path, keep):
    folder = series(np.zeros((5, 16, 16), np.int16))
    path = folder / "002.dcm"
    content = path.read_bytes()
    path.write_bytes(content[:keep])
    assert len(path.read_bytes()) < len(content)
    found, problems = find_series(folder)
    texts = [str(problem) for problem in problems]
    for one in found:
        try:
            read_series(one)
        except DataError as error:
            texts.append(str(error))
    assert any("002.dcm" in text for text in texts), texts


def test_damaged_bytes_never_show_a_traceback(series, tmp_path):
    folder = series(np.zeros((2, 16, 16), np.int16))
    path = folder / "001.dcm"
    content = path.read_bytes()
    for _ in range(300):
        broken = np.frombuffer(content, np.uint8).copy()
        places = RNG.integers(0, len(content), size=8)
        broken[places] = RNG.integers(0, 256, size=8)
        path.write_bytes(broken.tobytes())
        for one in find_series(folder)[0]:
            with contextlib.suppress(DataError):
                voxels, geometry, _ = read_series(one)
                assert voxels.shape == geometry.shape


def test_all_unreadable_files_of_a_series_are_named(series):
    folder = series(np.zeros((5, 16, 16), np.int16))
    found = only(folder)
    (folder / "001.dcm").unlink()
    (folder / "003.dcm").write_bytes((folder / "003.dcm").read_bytes()[:-1])
    with pytest.raises(DataError) as caught:
        read_series(found)
    assert [Path(problem.file).name for problem in caught.value.problems] == ["001.dcm", "003.dcm"]
    assert "no longer there" in caught.value.problems[0].found
    assert "truncated" in caught.value.problems[1].found


@pytest.mark.parametrize("name", ["ünïcödé Å à", "-dash", "a b.c", "quo\"te'", "[1]*?", "日本"])
def test_unusual_names_are_read(series, name):
    folder = series(VOXELS, folder=name, name=lambda k: f"{name}{k}")
    assert np.array_equal(read_series(only(folder))[0], VOXELS)


def test_a_name_that_is_no_text_is_refused(series, tmp_path):
    folder = series(VOXELS)
    try:
        (folder / "003.dcm").rename(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.dcm"))
    except OSError:
        pytest.skip("this file system takes no such names")
    assert "bytes that are no text" in refused(folder)


def test_reading_takes_about_the_memory_of_the_volume(series):
    found = only(series(np.zeros((60, 200, 200), np.int16), RescaleSlope="0.5", RescaleIntercept="0"))
    read_series(found)
    tracemalloc.start()
    voxels, _, _ = read_series(found)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert voxels.dtype == np.float32
    assert peak < 1.2 * voxels.nbytes


def test_find_series_reads_no_pixels(series):
    folder = series(np.zeros((3, 16, 16), np.int16))
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:-400])
    assert series_geometry(only(folder))[0].shape == (3, 16, 16)
    assert refused(folder).count("truncated") == 3


REAL = {
    "prostatex_0000/hbv": (19, 128, 84),
    "prostatex_0000/t2w_tra": (19, 384, 384),
    "prostatex_0000/t2w_sag": (19, 320, 320),
    "prostatex_0001/adc": (19, 128, 84),
    "dcmqi_ct3slice_liver_seg": (3, 512, 512),
    "rt_utils_ct_rtstruct": (2, 512, 512),
    "totalsegmentator_ct_jpeg2000": (20, 512, 512),
}


@pytest.mark.parametrize("folder", REAL)
def test_real_series_are_what_simpleitks_series_reader_makes_of_them(real_data, folder):
    found = only(real_data / "dicom" / folder)
    voxels, geometry, warnings = read_series(found)
    assert not warnings
    assert voxels.shape == REAL[folder]
    assert voxels.dtype == np.int16
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(path) for path in found.files])
    image = reader.Execute()
    assert np.array_equal(sitk.GetArrayFromImage(image), voxels)
    np.testing.assert_allclose(image.GetSpacing(), geometry.spacing_mm[::-1], rtol=1e-9)
    np.testing.assert_allclose(image.GetOrigin(), geometry.origin_mm, atol=1e-9)
    np.testing.assert_allclose(image.GetDirection(), geometry.direction, atol=1e-6)


def test_the_spacing_of_a_compressed_ct_is_the_true_one_and_not_its_thickness(real_data):
    folder = real_data / "dicom" / "totalsegmentator_ct_jpeg2000"
    found = only(folder)
    header = pydicom.dcmread(found.files[0], stop_before_pixels=True)
    assert (header.SliceThickness, header.file_meta.TransferSyntaxUID.name[:9]) == (3, "JPEG 2000")
    voxels, geometry, _ = read_series(found)
    assert geometry.spacing_mm == (2, 0.9765625, 0.9765625)
    mask = sitk.ReadImage(real_data / "dicom" / "totalsegmentator_ct_jpeg2000_seg.nii.gz")
    stored = sitk.DICOMOrient(mask, "LPS")
    assert stored.GetSize()[::-1] == geometry.shape
    np.testing.assert_allclose(stored.GetOrigin(), geometry.origin_mm, atol=1e-3)
    body = voxels[sitk.GetArrayFromImage(stored) > 0].mean() - voxels[sitk.GetArrayFromImage(stored) == 0].mean()
    assert body > 300


def test_a_truncated_compressed_file_is_named(real_data, tmp_path):
    folder = tmp_path / "ct"
    shutil.copytree(real_data / "dicom" / "totalsegmentator_ct_jpeg2000", folder)
    victim = sorted(folder.iterdir())[4]
    victim.chmod(0o644)
    content = victim.read_bytes()
    for cut in (9, 5000, len(content) // 2):
        victim.write_bytes(content[:-cut])
        text = refused(folder)
        assert victim.name in text
        assert "truncated" in text


def test_the_whole_real_folder_is_sorted_out(real_data):
    found, problems = find_series(real_data / "dicom")
    assert not problems
    assert len(found) == 9
    files = list(itertools.chain(*(one.files for one in found)))
    assert len(files) == len(set(files)) == 6 * 19 + 3 + 2 + 20
