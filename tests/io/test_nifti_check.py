from __future__ import annotations

import gzip
import struct
import tracemalloc

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.core.errors import DataError
from autoseg.io.nifti_check import check_nifti, check_nifti_header

RNG = np.random.default_rng(0)
FLOATS = RNG.normal(size=(7, 6, 5)).astype(np.float32)
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
def test_good_files_of_all_types_and_byte_orders_pass(nifti, name, order, dtype):
    voxels = RNG.integers(0, 100, size=(7, 6, 5)).astype(dtype)
    path = nifti(voxels, name=name, order=order)
    check_nifti(path)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(path)), voxels), "the test file itself is wrong"


@pytest.mark.parametrize("dim", [(4, 5, 6, 7, 1, 1, 1, 1), (5, 5, 6, 7, 1, 1, 0, 0), (3, 5, 6, 7, 0, 0, 0, 0)])
def test_trailing_axes_of_size_1_are_accepted(nifti, dim):
    check_nifti(nifti(FLOATS, dim=dim))


@pytest.mark.parametrize("shape", [(1, 6, 5), (7, 1, 5), (7, 6, 1), (1, 1, 1)])
def test_volumes_one_voxel_thin_are_3d(nifti, shape):
    check_nifti(nifti(np.ones(shape, dtype=np.float32)))


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"dim": (2, 35, 6, 1, 1, 1, 1, 1)}, "2D image"),
        ({"dim": (1, 210, 1, 1, 1, 1, 1, 1)}, "1D image"),
        ({"dim": (4, 5, 6, 1, 7, 1, 1, 1)}, r"4D image \(5x6x1x7\)"),
        ({"dim": (5, 5, 6, 1, 1, 7, 1, 1)}, "5D image"),
        ({"dim": (0, 5, 6, 7, 1, 1, 1, 1)}, "damaged header"),
        ({"dim": (3, -5, 6, 7, 1, 1, 1, 1)}, "damaged header"),
        ({"dim": (3, 0, 6, 7, 1, 1, 1, 1)}, "damaged header"),
        ({"dim": (9, 5, 6, 7, 1, 1, 1, 1)}, "damaged header"),
        ({"pixdim": (1, 0, 2, 3, 0, 0, 0, 0)}, "spacing 0 2 3 mm"),
        ({"pixdim": (1, 1, -2, 3, 0, 0, 0, 0)}, "spacing 1 -2 3 mm"),
        ({"pixdim": (1, 1, 2, NAN, 0, 0, 0, 0)}, "spacing 1 2 nan mm"),
        ({"pixdim": (1, INF, 2, 3, 0, 0, 0, 0)}, "spacing inf 2 3 mm"),
        ({"datatype": 128}, "several numbers per voxel"),
        ({"datatype": 32}, "several numbers per voxel"),
        ({"datatype": 1536}, "unknown NIfTI datatype 1536"),
        ({"datatype": 0}, "unknown NIfTI datatype 0"),
        ({"magic": b"ni1\0"}, "one half of an .hdr/.img pair"),
        ({"magic": b"abc\0"}, "no NIfTI image"),
        ({"sizeof_hdr": 17}, "no NIfTI image"),
        ({"offset": NAN}, "vox_offset nan"),
        ({"offset": -5}, "vox_offset -5"),
        ({"quatern": (NAN, 0, 0)}, "NaN or infinity in the qform"),
        ({"qoffset": (0, INF, 0)}, "NaN or infinity in the qform"),
        ({"sform_code": 1, "srow": (NAN,) * 12}, "NaN or infinity in the sform"),
    ],
)
@pytest.mark.parametrize("check", [check_nifti, check_nifti_header])
def test_defects_of_the_header_are_refused(nifti, fields, found, check):
    path = nifti(FLOATS, **fields)
    with pytest.raises(DataError, match=found) as caught:
        check(path)
    assert all(problem.file == path.name and problem.next for problem in caught.value.problems)


def test_all_defects_of_a_header_are_named_at_once(nifti):
    path = nifti(FLOATS, dim=(4, 5, 6, 1, 7, 1, 1, 1), pixdim=(1, 0, 1, 1, 0, 0, 0, 0), datatype=0)
    with pytest.raises(DataError) as caught:
        check_nifti(path)
    assert len(caught.value.problems) == 3


def test_nan_in_an_unused_transform_is_accepted(nifti):
    check_nifti(nifti(FLOATS, sform_code=0, srow=(NAN,) * 12))


def test_nifti_2_is_refused_by_name(tmp_path):
    path = tmp_path / "two.nii"
    path.write_bytes(struct.pack("<i8s", 540, b"n+2\0\r\n\x1a\n") + bytes(1000))
    with pytest.raises(DataError, match="NIfTI-2"):
        check_nifti(path)


@pytest.mark.parametrize("cut", [1, 4, 7, 8, 9, 50, 400, 700])
def test_a_gzip_file_that_ends_early_is_refused(nifti, cut):
    path = nifti(FLOATS)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - cut])
    with pytest.raises(DataError, match="truncated"):
        check_nifti(path)


@pytest.mark.parametrize("kept", [1, 4, 100, 347, 348, 351, 352, 353, 1000, 352 + 4 * 210 - 1])
def test_a_plain_file_that_ends_early_is_refused(nifti, kept):
    path = nifti(FLOATS, name="case_07_0000.nii")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"truncated|no NIfTI image"):
        check_nifti(path)


def test_a_complete_gzip_of_too_little_data_is_refused(nifti):
    path = nifti(FLOATS)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1]))
    with pytest.raises(DataError, match="holds 839 of 840 bytes"):
        check_nifti(path)


def test_a_wrong_checksum_is_refused(nifti):
    path = nifti(FLOATS)
    content = bytearray(path.read_bytes())
    content[-6] ^= 0xFF  # inside the CRC
    path.write_bytes(content)
    with pytest.raises(DataError, match="fails the check"):
        check_nifti(path)


@pytest.mark.parametrize("position", [0, 100, 300])
def test_a_changed_byte_is_refused(nifti, position):
    path = nifti(FLOATS)
    content = bytearray(path.read_bytes())
    content[-400 + position] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(DataError):
        check_nifti(path)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_nan_and_infinity_are_counted(nifti, order, dtype, name):
    voxels = FLOATS.astype(dtype)
    voxels[0, 0, 0], voxels[-1, -1, -1], voxels[3, 3, 3] = NAN, INF, -INF
    with pytest.raises(DataError, match="1 NaN and 2 infinite"):
        check_nifti(nifti(voxels, order=order, name=name))


def test_nan_patterns_in_integers_and_outside_the_voxels_do_not_matter(nifti):
    pattern = np.frombuffer(np.full(210, np.nan, dtype=np.float32).tobytes(), dtype=np.int32).reshape(7, 6, 5)
    check_nifti(nifti(pattern))
    path = nifti(FLOATS, offset=352 + 840, gap=np.full(210, np.nan, dtype=np.float32).tobytes())
    check_nifti(path)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + np.float32(np.nan).tobytes()))
    check_nifti(path)


def test_values_that_lie_across_two_blocks_are_seen_whole(nifti):
    voxels = np.zeros((5, 250, 300), dtype=np.float64)
    voxels.flat[np.array([131027, 131028, 262100])] = NAN  # the first MiB ends inside one of them
    with pytest.raises(DataError, match="3 NaN"):
        check_nifti(nifti(voxels, offset=355, gap=b"abc", name="a.nii"))


def test_an_offset_inside_the_header_means_right_behind_it_as_for_simpleitk(nifti):
    voxels = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    path = nifti(voxels, name="a.nii", offset=0)
    check_nifti(path)
    path.write_bytes(path.read_bytes()[:-5])  # four bytes after the header count as voxels: still one too few
    with pytest.raises(DataError, match="7 of 8"):
        check_nifti(path)


def test_gzip_members_in_a_row_and_bytes_behind_them_are_accepted(nifti):
    path = nifti(FLOATS)
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[:100]) + gzip.compress(content[100:]) + bytes(20))
    check_nifti(path)


def test_a_gzip_file_named_nii_is_refused_with_advice(nifti):
    path = nifti(FLOATS)
    with pytest.raises(DataError, match=r"rename it to end in \.nii\.gz"):
        check_nifti(path.rename(path.with_name("a.nii")))


@pytest.mark.parametrize("content", [b"hello, this is text\n" * 50, b"\x89PNG\r\n\x1a\n" + bytes(500), b"\x1f\x8b"])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(content)
    with pytest.raises(DataError):
        check_nifti(path)


def test_memory_does_not_grow_with_the_file(nifti):
    path = nifti(np.zeros((40, 500, 500), dtype=np.float32))
    tracemalloc.start()
    try:
        check_nifti(path)
        assert tracemalloc.get_traced_memory()[1] < 12 * 2**20
    finally:
        tracemalloc.stop()


def test_the_header_check_does_not_look_at_voxels(nifti):
    path = nifti(np.full((60, 100, 100), NAN, dtype=np.float32), name="a.nii")
    check_nifti_header(path)
