from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from scipy.spatial.transform import Rotation

from autoseg.core.errors import DataError, UsageError
from autoseg.io.dicom import find_series, read_series, series_geometry
from autoseg.io.dicom_seg import write_dicom_seg

highdicom = pytest.importorskip("highdicom")

OBLIQUE = Rotation.from_euler("xyz", [20, -15, 35], degrees=True).as_matrix()
# values are neither consecutive nor small: they must not be taken for segment numbers
NAMES = {1: "liver", 7: "größe", 300: "spleen"}


@pytest.fixture
def series(tmp_path):
    """Function that writes an oblique series of 5 slices of 10 x 12 pixels and finds it; fields edit each header."""

    def write(*drop: str, **fields):
        study, uid = generate_uid(), generate_uid()
        for k in range(5):
            header = Dataset()
            header.SOPClassUID, header.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", generate_uid()
            header.StudyInstanceUID, header.SeriesInstanceUID, header.FrameOfReferenceUID = study, uid, "1.2.9"
            header.Modality, header.SeriesNumber, header.InstanceNumber = "CT", 4, k + 1
            header.PatientID, header.StudyDate, header.StudyTime, header.AccessionNumber = "p1", "20200131", "", ""
            header.Rows, header.Columns, header.SamplesPerPixel = 10, 12, 1
            header.PhotometricInterpretation = "MONOCHROME2"
            header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 1
            header.PixelSpacing, header.SliceThickness = [0.8, 0.6], "9"
            header.ImageOrientationPatient = [f"{value:.12f}"[:16] for value in OBLIQUE[:, :2].T.ravel()]
            position = np.array((-120.5, 33.25, -700)) + OBLIQUE[:, 2] * 2.5 * k
            header.ImagePositionPatient = [f"{value:.10f}"[:16] for value in position]
            for key, value in fields.items():
                setattr(header, key, value)
            for key in drop:
                delattr(header, key)
            header.file_meta = FileMetaDataset()
            header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            header.PixelData = bytes(240)
            header["PixelData"].VR = "OW"
            # shuffled names
            path = tmp_path / "series" / f"{(k * 3) % 5}"
            path.parent.mkdir(exist_ok=True)
            pydicom.dcmwrite(path, header, enforce_file_format="SOPInstanceUID" in header)
        return find_series(tmp_path / "series")[0][0]

    return write


def labels_on(geometry, values=tuple(NAMES)) -> np.ndarray:
    labels = np.random.default_rng(2).choice((0, *values), size=geometry.shape).astype(np.int16)
    labels[1] = 0
    labels[0][labels[0] == values[-1]] = 0
    return labels


def write(path: Path, labels: np.ndarray, series, **options) -> pydicom.Dataset:
    geometry = series_geometry(series)[0]
    write_dicom_seg(
        path, labels, series=series, geometry=geometry, **{"names": NAMES, "algorithm": "autoseg model 5"} | options
    )
    assert [other for other in path.parent.iterdir() if other.is_file()] == [path]
    return pydicom.dcmread(path)


def overlay(seg: pydicom.Dataset, series, names=NAMES) -> np.ndarray:
    """Labels on the slices that the frames name, by pydicom alone; positions are compared with the slices'."""
    slices = {one.uid: k for k, one in enumerate(series.slices)}
    labels = np.zeros(series.shape, dtype=np.int16)
    values = dict(enumerate(sorted(names), start=1))
    shared = seg.SharedFunctionalGroupsSequence[0]
    orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    frames = seg.pixel_array.reshape(-1, *series.shape[1:])
    for plane, frame in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        source = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        k = slices[source]
        np.testing.assert_allclose(
            frame.PlanePositionSequence[0].ImagePositionPatient, series.slices[k].position_mm, atol=1e-6
        )
        np.testing.assert_allclose(orientation, series.slices[k].orientation, atol=1e-6)
        # of a single segment highdicom says it once for all frames
        identity = frame if "SegmentIdentificationSequence" in frame else shared
        number = identity.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        assert not (labels[k][plane > 0] > 0).any()
        labels[k][plane > 0] = values[number]
    return labels


def by_highdicom(path: Path, series, names=NAMES) -> np.ndarray:
    seg = highdicom.seg.segread(path)
    read = seg.get_pixels_by_source_instance(
        [one.uid for one in series.slices], combine_segments=True, assert_missing_frames_are_empty=True
    )
    return np.array((0, *sorted(names)), dtype=np.int16)[read]


def test_labels_come_back_on_their_slices_with_highdicom_and_with_pydicom(series, tmp_path):
    one = series()
    labels = labels_on(one)
    path = tmp_path / "out" / "a.dcm"
    seg = write(path, labels, one)
    assert np.array_equal(overlay(seg, one), labels)
    assert np.array_equal(by_highdicom(path, one), labels)
    assert seg.NumberOfFrames == sum(int((plane == value).any()) for plane in labels for value in NAMES)
    assert seg.SegmentationType == "BINARY"


def test_the_volume_lies_where_the_series_lies(series, tmp_path):
    one = series()
    geometry = series_geometry(one)[0]
    write(tmp_path / "out" / "a.dcm", np.full(one.shape, 7), one)
    volume = highdicom.seg.segread(tmp_path / "out" / "a.dcm").get_volume(combine_segments=True)
    expected = np.eye(4)
    matrix = np.reshape(geometry.direction, (3, 3))
    # highdicom's axes are (slice, row, column)
    expected[:3, :3] = matrix[:, ::-1] * geometry.spacing_mm
    expected[:3, 3] = geometry.origin_mm
    turned = volume.match_geometry(
        highdicom.VolumeGeometry(expected, spatial_shape=geometry.shape, coordinate_system="PATIENT")
    )
    np.testing.assert_allclose(turned.affine, expected, atol=1e-5)
    assert (turned.array == 2).all()


def test_the_true_spacing_is_written_and_not_the_thickness_of_the_header(series, tmp_path):
    one = series()
    seg = write(tmp_path / "out" / "a.dcm", labels_on(one), one)
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert (measures.SliceThickness, measures.SpacingBetweenSlices) == (pytest.approx(2.5), pytest.approx(2.5))
    assert list(measures.PixelSpacing) == [0.8, 0.6]


def test_segments_have_names_values_codes_and_colours(series, tmp_path):
    one = series()
    colours = {1: (255, 0, 0), 300: (0, 128, 255)}
    seg = write(tmp_path / "out" / "a.dcm", labels_on(one), one, colours=colours)
    assert [item.SegmentNumber for item in seg.SegmentSequence] == [1, 2, 3]
    assert [item.SegmentLabel for item in seg.SegmentSequence] == ["liver", "größe", "spleen"]
    assert [item.SegmentDescription for item in seg.SegmentSequence] == [f"label value {v}" for v in NAMES]
    for item, colour in zip(seg.SegmentSequence, (colours[1], None, colours[300]), strict=True):
        assert item.SegmentAlgorithmType == "AUTOMATIC"
        assert item.SegmentAlgorithmName == "autoseg model 5"
        assert item.SegmentedPropertyCategoryCodeSequence[0].CodeMeaning == "Anatomical Structure"
        assert item.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Organ"
        if colour is None:
            assert "RecommendedDisplayCIELabValue" not in item
        else:
            lab = highdicom.color.CIELabColor.from_dicom_value(item.RecommendedDisplayCIELabValue)
            assert lab.to_rgb() == colour
    # an independent value: pure red is L* 53.24, a* 80.09, b* 67.20
    l, a, b = seg.SegmentSequence[0].RecommendedDisplayCIELabValue  # noqa: E741
    found = (l / 65535 * 100, a / 65535 * 255 - 128, b / 65535 * 255 - 128)
    np.testing.assert_allclose(found, (53.24, 80.09, 67.20), atol=0.1)


def test_all_slices_patient_and_study_are_referred_to(series, tmp_path):
    one = series(PatientName="Núñez^José", SpecificCharacterSet="ISO_IR 100")
    seg = write(tmp_path / "out" / "a.dcm", labels_on(one), one)
    assert str(seg.PatientName) == "Núñez^José"
    assert (seg.PatientID, seg.StudyInstanceUID, seg.FrameOfReferenceUID) == ("p1", one.study_uid, "1.2.9")
    assert seg.SeriesInstanceUID != one.uid
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == one.uid
    items = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {item.ReferencedSOPInstanceUID for item in items} == {each.uid for each in one.slices}


def test_an_empty_segment_is_kept_and_empty_labels_are_written(series, tmp_path):
    one = series()
    labels = labels_on(one)
    labels[labels == 7] = 0
    seg = write(tmp_path / "out" / "a.dcm", labels, one)
    assert len(seg.SegmentSequence) == 3
    assert np.array_equal(overlay(seg, one), labels)
    path = tmp_path / "none" / "a.dcm"
    seg = write(path, np.zeros(one.shape, np.uint8), one)
    assert len(seg.SegmentSequence) == seg.NumberOfFrames == 3
    assert len(seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 5
    assert not by_highdicom(path, one).any()
    assert not seg.pixel_array.any()


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8"])
def test_labels_of_every_integer_type_and_layout_are_written(series, tmp_path, dtype):
    one = series()
    names = {1: "a", 2: "b", 100: "c"}
    labels = labels_on(one, tuple(names)).astype(dtype)
    layout = np.asfortranarray(labels[::-1])[::-1]
    seg = write(tmp_path / "out" / "a.dcm", layout, one, names=names)
    assert np.array_equal(overlay(seg, one, names), labels)


def test_values_without_a_name_are_background(series, tmp_path):
    one = series()
    labels = labels_on(one)
    seg = write(tmp_path / "out" / "a.dcm", labels, one, names={7: "b"})
    assert np.array_equal(overlay(seg, one, {7: "b"}), np.where(labels == 7, 7, 0))
    labels[0, 0] = (-1, 6, 8, 299, 301, 32767, *[0] * 6)
    seg = write(tmp_path / "more" / "a.dcm", labels, one)
    assert np.array_equal(overlay(seg, one), np.where(np.isin(labels, list(NAMES)), labels, 0))


def test_three_hundred_segments(series, tmp_path):
    one = series()
    names = {value: f"n{value}" for value in range(1, 301)}
    labels = (np.arange(np.prod(one.shape)) % 301).reshape(one.shape)
    seg = write(tmp_path / "out" / "a.dcm", labels, one, names=names)
    assert np.array_equal(overlay(seg, one, names), labels)


@pytest.mark.parametrize(
    ("name", "label"),
    [("a\\b", "a_b"), ("x" * 80, "x" * 64), ("line\nbreak\x00", "line_break_"), ("肝臓", "肝臓"), ("  ", "unnamed")],
)
def test_names_that_dicom_cannot_hold_are_cut_to_what_it_can(series, tmp_path, name, label):
    one = series()
    seg = write(tmp_path / "out" / "a.dcm", labels_on(one), one, names={1: name}, algorithm=name)
    assert seg.SegmentSequence[0].SegmentLabel == label
    assert seg.SeriesDescription == label


@pytest.mark.parametrize(
    "drop",
    [("PatientID",), ("StudyDate",), ("StudyTime",), ("AccessionNumber",), ("SliceThickness",), ("InstanceNumber",),
     ("PatientID", "StudyDate", "StudyTime", "AccessionNumber", "SliceThickness", "InstanceNumber", "SeriesNumber")],
    ids=lambda keys: keys[0] if len(keys) == 1 else "all",
)  # fmt: skip
def test_images_may_lack_what_is_not_needed_to_refer_to_them(series, tmp_path, drop):
    one = series(*drop)
    labels = labels_on(one)
    assert np.array_equal(overlay(write(tmp_path / "out" / "a.dcm", labels, one), one), labels)


@pytest.mark.parametrize("drop", ["StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID"])
def test_images_without_identifiers_are_refused(series, tmp_path, drop):
    one = series(drop)
    with pytest.raises(DataError, match=f"lacks {drop}.*write the labels as NIfTI"):
        write(tmp_path / "out" / "a.dcm", labels_on(one), one)
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_gone_is_named_and_nothing_is_written(series, tmp_path):
    one = series()
    one.files[2].unlink()
    with pytest.raises(DataError, match="no longer be read"):
        write(tmp_path / "out" / "a.dcm", labels_on(one), one)
    assert not (tmp_path / "out").exists()


def test_without_highdicom_the_extra_is_named(series, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    one = series()
    with pytest.raises(UsageError, match=r"pip install 'autoseg\[dicom\]'"):
        write(tmp_path / "out" / "a.dcm", labels_on(one), one)


def test_an_old_file_stays_when_writing_fails(series, tmp_path, monkeypatch):
    one = series()
    path = tmp_path / "out" / "a.dcm"
    write(path, labels_on(one), one)
    old = path.read_bytes()

    def full(self, *args, **kwargs):
        Path(args[0]).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(highdicom.seg.Segmentation, "save_as", full)
    with pytest.raises(OSError, match="No space"):
        write(path, labels_on(one), one)
    assert path.read_bytes() == old
    assert [*path.parent.iterdir()] == [path]


def test_the_real_segmentation_of_a_ct_is_reproduced(real_data, tmp_path):
    folder = real_data / "dicom" / "dcmqi_ct3slice_liver_seg"
    found, problems = find_series(folder)
    assert len(found) == 1
    assert not problems
    voxels, geometry, _ = read_series(found[0])
    mask = sitk.ReadImage(folder / "liver_seg.nrrd")
    np.testing.assert_allclose(mask.GetOrigin(), geometry.origin_mm, atol=1e-3)
    np.testing.assert_allclose(mask.GetSpacing(), geometry.spacing_mm[::-1], atol=1e-6)
    np.testing.assert_allclose(mask.GetDirection(), geometry.direction, atol=1e-9)
    labels = sitk.GetArrayFromImage(mask)
    names = {int(labels.max()): "liver"}
    path = tmp_path / "out" / "a.dcm"
    ours, theirs = write(path, labels, found[0], names=names), pydicom.dcmread(folder / "liver.dcm")
    assert np.array_equal(overlay(ours, found[0], names), labels)
    assert np.array_equal(overlay(theirs, found[0], names), labels)
    assert np.array_equal(by_highdicom(path, found[0], names), labels)
    # the liver is where a CT shows soft tissue
    assert 0 < np.median(voxels[labels > 0]) < 200


@pytest.mark.parametrize("folder", ["prostatex_0000/t2w_tra", "prostatex_0000/t2w_sag", "prostatex_0001/adc"])
def test_labels_on_real_oblique_series_come_back(real_data, tmp_path, folder):
    one = find_series(real_data / "dicom" / folder)[0][0]
    labels = labels_on(one)
    path = tmp_path / "out" / "a.dcm"
    assert np.array_equal(overlay(write(path, labels, one), one), labels)
    assert np.array_equal(by_highdicom(path, one), labels)


def test_a_series_without_identifiers_cannot_be_referred_to(real_data, tmp_path):
    one = find_series(real_data / "dicom" / "totalsegmentator_ct_jpeg2000")[0][0]
    with pytest.raises(DataError, match="lacks SOPInstanceUID, SeriesInstanceUID, StudyInstanceUID"):
        write(tmp_path / "out" / "a.dcm", np.zeros(one.shape, np.int16), one)


def test_labels_on_another_grid_are_our_own_mistake(series, tmp_path):
    one = series()
    with pytest.raises(AssertionError):
        write(tmp_path / "out" / "a.dcm", np.zeros((4, 10, 12), np.int16), one)
    with pytest.raises(AssertionError):
        write(tmp_path / "out" / "a.dcm", np.zeros(one.shape, np.int16), replace(one, slices=one.slices[:-1]))
