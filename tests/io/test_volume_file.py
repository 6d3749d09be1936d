from __future__ import annotations

import itertools
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from autoseg.core.errors import DataError
from autoseg.io.images import read_geometry, read_volume, with_data_files

RNG = np.random.default_rng(1)
FLOATS = RNG.normal(size=(7, 6, 5)).astype(np.float32)
ENDINGS = [".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd"]
SIGNED_PERMUTATIONS = [
    np.eye(3)[list(order)] * signs
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
def test_voxels_of_every_type_and_format_come_back(stored, ending, compress, dtype):
    voxels = RNG.integers(0, 100, size=(4, 3, 2)).astype(dtype)
    read, geometry = read_volume(stored(voxels, "a" + ending, compress=compress), case="a")
    assert read.dtype == voxels.dtype
    assert np.array_equal(read, voxels)
    assert geometry.shape == (4, 3, 2)
    np.testing.assert_allclose(geometry.spacing_mm, (2.5, 1.1, 0.7), rtol=1e-6)


@pytest.mark.parametrize("ending", ENDINGS)
def test_geometry_is_what_simpleitk_reads(stored, ending):
    direction = Rotation.random(random_state=3).as_matrix()
    path = stored(FLOATS, "a" + ending, direction=direction)
    image = sitk.ReadImage(path)
    for geometry in (read_geometry(path), read_volume(path, case="a")[1]):
        assert geometry.shape == image.GetSize()[::-1]
        assert geometry.spacing_mm == image.GetSpacing()[::-1]
        assert geometry.origin_mm == image.GetOrigin()
        assert geometry.direction == image.GetDirection()


@pytest.mark.parametrize("matrix", SIGNED_PERMUTATIONS, ids=str)
def test_canonical_equals_simpleitks_reorientation_to_lps(stored, matrix):
    path = stored(FLOATS, "a.nrrd", direction=matrix)
    expected = sitk.DICOMOrient(sitk.ReadImage(path), "LPS")
    voxels, geometry = read_volume(path, case="a")
    assert np.array_equal(geometry.orientation.apply(voxels), sitk.GetArrayFromImage(expected))
    canonical = geometry.canonical
    assert canonical.shape == expected.GetSize()[::-1]
    np.testing.assert_allclose(canonical.spacing_mm, expected.GetSpacing()[::-1], atol=1e-12)
    np.testing.assert_allclose(canonical.origin_mm, expected.GetOrigin(), atol=1e-9)
    np.testing.assert_allclose(canonical.direction, expected.GetDirection(), atol=1e-12)


@pytest.mark.parametrize("ending", ENDINGS)
def test_trailing_axes_of_size_1_are_dropped_from_voxels_and_geometry(tmp_path, ending):
    image = sitk.JoinSeries([sitk.GetImageFromArray(np.full((7, 6, 5), 3, dtype=np.uint8))])
    image.SetSpacing((1, 2, 3, 9))
    path = tmp_path / ("a" + ending)
    sitk.WriteImage(image, path)
    voxels, geometry = read_volume(path, case="a")
    assert voxels.shape == geometry.shape == (7, 6, 5)
    assert (voxels == 3).all()
    assert geometry.spacing_mm == (3, 2, 1)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(("bad", "found"), [(np.nan, "1 NaN and 0"), (np.inf, "0 NaN and 1"), (-np.inf, "0 NaN and 1")])
def test_a_voxel_that_is_no_number_is_refused(stored, ending, bad, found):
    voxels = FLOATS.copy()
    voxels[2, 3, 4] = bad
    with pytest.raises(DataError, match=found) as caught:
        read_volume(stored(voxels, "case_07_0000" + ending), case="case_07")
    assert str(caught.value).startswith(f"case_07 (case_07_0000{ending}): ")


def _data_file(path):
    """The file with the voxels: the image itself, or the one beside its header."""
    others = [other for other in path.parent.iterdir() if other != path]
    return others[0] if others else path


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("cut", [1, 2, 4, 5, 8, 9, 100, 0.3, 0.6, 0.95])
def test_truncated_files_of_every_format_are_refused(stored, ending, compress, cut):
    path = stored(FLOATS, "a" + ending, compress=compress)
    data = _data_file(path)
    content = data.read_bytes()
    data.write_bytes(content[: len(content) - (int(cut * len(content)) if cut < 1 else cut)])
    with pytest.raises(DataError, match=re.escape(f"a ({path.name}): ")):
        read_volume(path, case="a")


@pytest.mark.parametrize("ending", [ending for ending in ENDINGS if ending != ".nii"])
@pytest.mark.parametrize("position", [-2, -6, -30, -200, -300])
def test_a_changed_byte_in_compressed_data_is_refused(stored, ending, position):
    path = stored(FLOATS, "a" + ending)
    data = _data_file(path)
    content = bytearray(data.read_bytes())
    content[position] ^= 0x55
    data.write_bytes(content)
    with pytest.raises(DataError):
        read_volume(path, case="a")


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    "content", [b"", b"hello, this is text\n" * 100, b"\x89PNG\r\n\x1a\n" + bytes(900), bytes(999)]
)
def test_empty_and_foreign_files_are_refused(tmp_path, ending, content):
    path = tmp_path / ("a" + ending)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"^a \(a\.\w+.*\): (is|cannot)"):
        read_volume(path, case="a")
    with pytest.raises(DataError):
        read_geometry(path)


def test_a_real_png_or_nrrd_under_another_formats_name_is_refused(stored, tmp_path):
    path = tmp_path / "a.png"
    sitk.WriteImage(sitk.Image(5, 6, sitk.sitkUInt8), path)
    nrrd = stored(FLOATS, "b.nrrd")
    for file, ending in itertools.product((path, nrrd), (".nii.gz", ".mha")):
        renamed = tmp_path / ("renamed" + ending)
        renamed.write_bytes(file.read_bytes())
        with pytest.raises(DataError):
            read_volume(renamed, case="a")


@pytest.mark.parametrize("ending", ENDINGS)
def test_flat_and_many_dimensional_images_are_refused(tmp_path, ending):
    for size, found in (([5, 6], "2D image"), ([5, 6, 7, 2], r"4D image \(5x6x7x2\)")):
        path = tmp_path / ("a" + ending)
        sitk.WriteImage(sitk.Image(size, sitk.sitkInt16), path)
        with pytest.raises(DataError, match=found):
            read_volume(path, case="a")
        with pytest.raises(DataError, match=found):
            read_geometry(path)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kind", [sitk.sitkVectorUInt8, sitk.sitkVectorFloat32])
def test_several_numbers_per_voxel_are_refused(tmp_path, ending, kind):
    path = tmp_path / ("a" + ending)
    sitk.WriteImage(sitk.Image([5, 6, 7], kind, 3), path)
    with pytest.raises(DataError, match=r"numbers per voxel|5D image"):
        read_volume(path, case="a")


def _meta(spacing="1 1 1", matrix="1 0 0 0 1 0 0 0 1", dims="3 4 5", extra="") -> bytes:
    return (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
        f"{extra}TransformMatrix = {matrix}\nOffset = 0 0 0\nElementSpacing = {spacing}\nDimSize = {dims}\n"
        "ElementType = MET_UCHAR\nElementDataFile = LOCAL\n"
    ).encode()


def _nrrd(directions="(1,0,0) (0,1,0) (0,0,1)", extra="") -> bytes:
    place = f"space: left-posterior-superior\nspace directions: {directions}\n" if directions else ""
    return f"NRRD0004\ntype: uchar\ndimension: 3\n{place}sizes: 3 4 5\nencoding: raw\n{extra}\n".encode()


@pytest.mark.parametrize(
    ("name", "header", "found"),
    [
        ("a.mha", _meta(spacing="0 1 1"), "spacing 0 1 1"),
        ("a.mha", _meta(spacing="1 -1 1"), "spacing 1 -1 1"),
        ("a.mha", _meta(spacing="1 1 nan"), "spacing"),
        ("a.mha", _meta(matrix="1 0 0 1 0 0 0 0 1"), "no rotation"),
        ("a.mha", _meta(matrix="0 0 0 0 0 0 0 0 0"), "no rotation"),
        ("a.mha", _meta(matrix="1 0 0 .5 1 0 0 0 1"), "no rotation"),
        ("a.mha", _meta(matrix="2 0 0 0 1 0 0 0 1"), "no rotation"),
        ("a.mha", _meta(dims="0 4 5"), "no voxels"),
        ("a.mha", _meta(dims="30000 40000 50000"), "memory|damaged"),
        ("a.nrrd", _nrrd("(0,0,0) (0,1,0) (0,0,1)"), "spacing 0 1 1"),
        ("a.nrrd", _nrrd("(1,0,0) (1,0,0) (0,0,1)"), "no rotation"),
        ("a.nrrd", _nrrd("(1,0,0) (.3,1,0) (0,0,1)"), "no rotation"),
        ("a.nrrd", _nrrd("", extra="spacings: -1 1 1\n"), "spacing -1 1 1"),
        ("a.nrrd", _nrrd("", extra="spacings: 0 1 1\n"), "damaged"),
    ],
)
def test_impossible_places_are_refused(tmp_path, name, header, found):
    path = tmp_path / name
    path.write_bytes(header + bytes(60))
    with pytest.raises(DataError, match=found):
        read_geometry(path) if "damaged" not in found else read_volume(path, case="a")
    with pytest.raises(DataError, match=found):
        read_volume(path, case="a")


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"pixdim": (1, 0, 2, 3, 0, 0, 0, 0)}, "spacing 0 2 3"),
        ({"pixdim": (1, 1, -2, 3, 0, 0, 0, 0)}, "spacing 1 -2 3"),
        ({"qform_code": 0, "sform_code": 1, "srow": (0,) * 12}, "no rotation"),
        ({"qform_code": 0, "sform_code": 1, "srow": (1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0)}, "no rotation"),
        ({"qform_code": 0, "sform_code": 1, "srow": (1, 0.5, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)}, "no rotation"),
    ],
)
def test_impossible_places_in_nifti_headers_are_refused(nifti, fields, found):
    path = nifti(FLOATS, **fields)
    with pytest.raises(DataError, match=found):
        read_geometry(path)
    with pytest.raises(DataError, match=found):
        read_volume(path, case="a")


def test_meta_data_that_simpleitk_misreads_without_a_word_is_refused(tmp_path):
    voxels, path = bytes(range(60)), tmp_path / "a.mha"
    packed = zlib.compress(voxels)

    def content(size: str, data: bytes) -> bytes:
        return _meta(extra=f"CompressedData = True\n{size}") + data

    path.write_bytes(content(f"CompressedDataSize = {len(packed)}\n", packed))
    assert read_volume(path, case="a")[0].tobytes() == voxels
    path.write_bytes(content("", packed))
    assert sitk.GetArrayFromImage(sitk.ReadImage(path)).tobytes() != voxels
    with pytest.raises(DataError, match="CompressedDataSize"):
        read_volume(path, case="a")
    short = zlib.compress(voxels[:40])
    path.write_bytes(content(f"CompressedDataSize = {len(short)}\n", short))
    sitk.ReadImage(path)
    with pytest.raises(DataError, match="40 of 60 bytes"):
        read_volume(path, case="a")


@pytest.mark.parametrize("ending", [".nhdr", ".mhd"])
def test_a_header_without_its_data_file_is_refused(stored, ending):
    path = stored(FLOATS, "a" + ending)
    _data_file(path).unlink()
    with pytest.raises(DataError, match="cannot be read"):
        read_volume(path, case="a")


@pytest.mark.parametrize("ending", [".nhdr", ".mhd", ".mha", ".nrrd"])
def test_the_data_file_of_a_header_is_known(stored, ending):
    path = stored(FLOATS, "a" + ending)
    detached = ending in (".nhdr", ".mhd")
    assert [*with_data_files([path, Path("b.nii.gz")])] == [
        path,
        *([_data_file(path)] if detached else []),
        Path("b.nii.gz"),
    ]


def test_lists_and_patterns_of_data_files_are_not_followed(tmp_path):
    for name in ("LIST", "slice_%03d.raw 0 9 1"):
        path = tmp_path / "a.mhd"
        path.write_text(f"ObjectType = Image\nNDims = 3\nElementDataFile = {name}\n")
        assert [*with_data_files([path])] == [path]


@pytest.mark.parametrize(("name", "message"), [("missing.nii.gz", "does not exist"), ("folder.nrrd", "is a folder")])
def test_a_path_without_a_file_is_refused(tmp_path, name, message):
    (tmp_path / "folder.nrrd").mkdir()
    with pytest.raises(DataError, match=message):
        read_geometry(tmp_path / name)


def test_an_unknown_ending_is_refused_with_the_known_ones(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"II*\0")
    with pytest.raises(DataError, match=r"no known ending; use one of \.nii\.gz"):
        read_geometry(tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["ünïcödé Å à.nii.gz", "-dash.nrrd", "a b.c.mha", "quo\"te'.nhdr", "Å à\xa0.mhd"])
def test_unusual_names_are_read(stored, tmp_path, name):
    path = stored(FLOATS, name)
    assert np.array_equal(read_volume(path, case="a")[0], FLOATS)


def test_microns_and_metres_become_millimetres(nifti):
    assert read_geometry(nifti(FLOATS, xyzt_units=3)).spacing_mm == pytest.approx((0.003, 0.002, 0.0015))
    assert read_geometry(nifti(FLOATS, xyzt_units=1)).spacing_mm == pytest.approx((3000, 2000, 1500))


def test_real_files_agree_with_simpleitk(real_data):
    files = sorted((real_data / "single_cases").rglob("*.*"))
    files = [f for f in files if f.name.endswith((".nii.gz", ".nrrd", ".mha")) and f.stat().st_size < 500_000]
    assert len(files) > 20
    for path in files:
        image = sitk.ReadImage(path)
        voxels, geometry = read_volume(path, case="a")
        assert np.array_equal(voxels, sitk.GetArrayFromImage(image)), path
        oriented = sitk.DICOMOrient(image, "LPS")
        assert np.array_equal(geometry.orientation.apply(voxels), sitk.GetArrayFromImage(oriented)), path
        np.testing.assert_allclose(geometry.canonical.origin_mm, oriented.GetOrigin(), atol=1e-3)
