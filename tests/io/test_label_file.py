from __future__ import annotations

import gzip
import itertools
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from autoseg.core.errors import DataError
from autoseg.io.images import read_geometry, read_volume, write_labels
from autoseg.io.nifti_check import check_nifti

RNG = np.random.default_rng(2)
IMAGE = RNG.normal(size=(7, 6, 5)).astype(np.float32)
ENDINGS = [".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd"]
SIGNED_PERMUTATIONS = [
    np.eye(3)[list(order)] * signs
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
# Fields that place the voxels, by offset and length: xyzt_units, qform_code ... srow_z.
PLACE_BYTES = ((123, 1), (252, 76))


def _place(path: Path) -> tuple[tuple[float, ...], ...]:
    image = sitk.ReadImage(path)
    return image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()


def _plain(path: Path) -> bytes:
    content = path.read_bytes()
    return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("matrix", SIGNED_PERMUTATIONS, ids=str)
def test_labels_return_to_the_stored_orientation_of_their_image(stored, tmp_path, ending, matrix):
    like = stored(IMAGE, "image" + ending, direction=matrix)
    file_labels = RNG.integers(0, 4, size=IMAGE.shape).astype(np.uint8)
    canonical = read_geometry(like).orientation.apply(file_labels)
    out = tmp_path / "out" / ("label" + ending)
    write_labels(out, canonical, like=like)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(out)), file_labels)
    assert _place(out) == _place(like)


@pytest.mark.parametrize("ending", ENDINGS)
def test_geometry_is_kept_to_the_last_bit(stored, tmp_path, ending):
    for seed in range(40):
        rng = np.random.default_rng(seed)
        like = stored(
            IMAGE,
            "image" + ending,
            direction=Rotation.random(random_state=seed).as_matrix(),
            spacing=tuple(rng.uniform(0.2, 7, 3)),
            origin=tuple(rng.uniform(-400, 400, 3)),
        )
        labels = np.zeros(read_geometry(like).canonical.shape, dtype=np.uint8)
        write_labels(tmp_path / ("label" + ending), labels, like=like)
        assert _place(tmp_path / ("label" + ending)) == _place(like), seed


@pytest.mark.parametrize(("from_ending", "to_ending"), [*itertools.permutations([".nii.gz", ".nrrd", ".mhd"], 2)])
def test_another_format_keeps_the_geometry_as_exactly_as_it_can(stored, tmp_path, from_ending, to_ending):
    like = stored(IMAGE, "image" + from_ending, direction=Rotation.random(random_state=5).as_matrix())
    labels = RNG.integers(0, 4, size=read_geometry(like).canonical.shape).astype(np.uint16)
    write_labels(tmp_path / ("label" + to_ending), labels, like=like)
    voxels, geometry = read_volume(tmp_path / ("label" + to_ending), case="a")
    assert geometry.differences(read_geometry(like)) == ([], [])
    assert np.array_equal(geometry.orientation.apply(voxels), labels)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"qform_code": 2, "quatern": (0.1, -0.2, 0.3), "pixdim": (-1, 1.5, 2, 3, 0, 0, 0, 0)},
        {"sform_code": 3, "srow": (0, 2, 0, -10.1, 0, 0, -3, 20, 1.5, 0, 0, 30)},
        {"qform_code": 0, "sform_code": 1, "srow": (0, 2, 0, -10.1, 0, 0, -3, 20, 1.5, 0, 0, 30)},
        {"qform_code": 0, "sform_code": 0},
        {"xyzt_units": 3},
        {"pixdim": (0, 1 / 3, 0.7, 2 / 7, 0, 0, 0, 0), "quatern": (1 / 3, 1e-9, -0.1)},
        {"dim": (4, 5, 6, 7, 1, 1, 1, 1)},
    ],
)
@pytest.mark.parametrize("name", ["label.nii", "label.nii.gz"])
def test_the_place_in_a_nifti_header_is_copied_byte_by_byte(nifti, tmp_path, fields, name):
    like = nifti(IMAGE, **fields)
    labels = np.zeros(read_geometry(like).canonical.shape, dtype=np.uint8)
    write_labels(tmp_path / name, labels, like=like)
    ours, theirs = _plain(tmp_path / name), _plain(like)
    for start, length in ((76, 16), *PLACE_BYTES):
        assert ours[start : start + length] == theirs[start : start + length]
    assert _place(tmp_path / name) == _place(like)


def test_a_big_endian_image_gives_the_same_numbers(nifti, tmp_path):
    fields = {
        "quatern": (0.1, 1 / 3, 0.3),
        "qform_code": 2,
        "sform_code": 1,
        "srow": tuple(np.arange(12) / 7),
    }
    like = nifti(IMAGE, order=">", **fields)
    labels = np.zeros(read_geometry(like).canonical.shape, dtype=np.uint8)
    write_labels(tmp_path / "label.nii", labels, like=like)
    ours, theirs = _plain(tmp_path / "label.nii"), _plain(like)
    for form, at in (("4f", 76), ("hh", 252), ("18f", 256)):
        assert struct.unpack_from("<" + form, ours, at) == struct.unpack_from(">" + form, theirs, at)
    assert _place(tmp_path / "label.nii") == _place(like)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i2", "i4"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_every_label_value_and_type_is_kept(stored, tmp_path, ending, dtype):
    like = stored(IMAGE, "image" + ending)
    labels = np.zeros(read_geometry(like).canonical.shape, dtype=dtype)
    labels[0, 0, :2] = 1, np.iinfo(dtype).max
    write_labels(tmp_path / ("label" + ending), labels, like=like)
    read = sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / ("label" + ending)))
    assert read.dtype == np.dtype(dtype)
    assert np.array_equal(read_geometry(like).orientation.apply(read), labels)


def test_what_is_written_passes_our_own_check_and_is_the_same_each_time(stored, tmp_path):
    like = stored(IMAGE)
    labels = RNG.integers(0, 3, size=IMAGE.shape).astype(np.uint8)
    for name in ("a.nii.gz", "b.nii.gz"):
        write_labels(tmp_path / name, labels, like=like)
        check_nifti(tmp_path / name)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_failure_leaves_the_old_file_or_none_and_nothing_else(stored, tmp_path, ending, monkeypatch):
    like = stored(IMAGE, "image" + ending)
    out = tmp_path / "out" / ("label" + ending)
    labels = np.zeros(IMAGE.shape, dtype=np.uint8)
    write_labels(out, labels, like=like)
    before = {path.name: path.read_bytes() for path in out.parent.iterdir()}

    def fail(*arguments: object, **options: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_labels(out, labels + 1, like=like)
    if ending in (".nhdr", ".mhd"):  # two files cannot change at one instant: the header goes first
        del before[out.name]
    assert {path.name: path.read_bytes() for path in out.parent.iterdir()} == before


@pytest.mark.parametrize("ending", [".nhdr", ".mhd"])
def test_a_detached_header_names_the_file_beside_it(stored, tmp_path, ending):
    like = stored(IMAGE, "image" + ending)
    out = tmp_path / "out" / ("Å b" + ending)
    write_labels(out, np.ones(IMAGE.shape, dtype=np.uint8), like=like)
    assert len(list(out.parent.iterdir())) == 2
    moved = out.parent.rename(tmp_path / "elsewhere") / out.name
    assert (read_volume(moved, case="a")[0] == 1).all()


def test_an_unreadable_image_is_an_error(tmp_path):
    (tmp_path / "image.nii.gz").write_bytes(b"")
    with pytest.raises(DataError, match="empty file"):
        write_labels(tmp_path / "label.nii.gz", np.zeros((2, 2, 2), dtype=np.uint8), like=tmp_path / "image.nii.gz")
    assert not (tmp_path / "label.nii.gz").exists()


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("like_ending", [".nii.gz", ".nrrd", ".mha"])
def test_names_change_neither_voxels_nor_place(stored, tmp_path, like_ending, ending):
    like = stored(
        IMAGE,
        "image" + like_ending,
        direction=Rotation.random(random_state=8).as_matrix(),
        spacing=(1 / 3, 0.7, 2 / 7),
        origin=(1 / 3, -200.1, 1e-3),
    )
    labels = RNG.integers(0, 4, size=read_geometry(like).canonical.shape).astype(np.uint16)
    write_labels(tmp_path / ("plain" + ending), labels, like=like)
    write_labels(tmp_path / ("named" + ending), labels, like=like, names={1: "a: b", 2: "c:=d", 3: "<e>"})
    plain, named = (sitk.ReadImage(tmp_path / (name + ending)) for name in ("plain", "named"))
    assert plain.GetPixelID() == named.GetPixelID()
    assert np.array_equal(sitk.GetArrayFromImage(plain), sitk.GetArrayFromImage(named))
    assert _place(tmp_path / ("plain" + ending)) == _place(tmp_path / ("named" + ending))
    read, geometry = read_volume(tmp_path / ("named" + ending), case="a")
    assert np.array_equal(geometry.orientation.apply(read), labels)
    if ending in (".nii", ".nii.gz"):
        before, after = (_plain(tmp_path / (name + ending)) for name in ("plain", "named"))
        assert before[:108] + before[112:348] == after[:108] + after[112:348]
        assert before[352:] == after[int(struct.unpack_from("<f", after, 108)[0]) :]


@pytest.mark.parametrize("ending", ENDINGS)
def test_without_names_nothing_is_added(stored, tmp_path, ending):
    like = stored(IMAGE, "image" + ending)
    labels = RNG.integers(0, 4, size=IMAGE.shape).astype(np.uint8)
    outs = [tmp_path / str(i) / ("label" + ending) for i in range(3)]
    write_labels(outs[0], labels, like=like)
    write_labels(outs[1], labels, like=like, names=None)
    write_labels(outs[2], labels, like=like, names={})
    for out in outs[1:]:
        for part in out.parent.iterdir():
            assert part.read_bytes() == (outs[0].parent / part.name).read_bytes()
    assert b"Segment" not in outs[0].read_bytes()
    if ending in (".nii", ".nii.gz"):
        assert _plain(outs[0])[108:112] == struct.pack("<f", 352)
        assert _plain(outs[0])[348:352] == bytes(4)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_with_names_can_be_like_and_its_names_are_not_taken_over(stored, tmp_path, ending):
    image = stored(IMAGE, "image" + ending)
    labels = RNG.integers(0, 4, size=IMAGE.shape).astype(np.uint8)
    write_labels(tmp_path / ("named" + ending), labels, like=image, names={1: "liver"})
    write_labels(tmp_path / "a" / ("label" + ending), labels, like=image)
    write_labels(tmp_path / "b" / ("label" + ending), labels, like=tmp_path / ("named" + ending))
    for part in (tmp_path / "a").iterdir():
        assert part.read_bytes() == (tmp_path / "b" / part.name).read_bytes()


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_failure_with_names_leaves_nothing_behind(stored, tmp_path, ending, monkeypatch):
    like = stored(IMAGE, "image" + ending)

    def fail(*arguments: object, **options: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_labels(tmp_path / "out" / ("a" + ending), np.zeros(IMAGE.shape, np.uint8), like=like, names={1: "a"})
    assert not [*(tmp_path / "out").iterdir()]


def test_a_meta_image_is_the_same_with_names(stored, tmp_path):
    like = stored(IMAGE, "image.mha")
    labels = RNG.integers(0, 4, size=IMAGE.shape).astype(np.uint8)
    write_labels(tmp_path / "plain.mha", labels, like=like)
    write_labels(tmp_path / "named.mha", labels, like=like, names={1: "liver"})
    assert (tmp_path / "plain.mha").read_bytes() == (tmp_path / "named.mha").read_bytes()


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_same_names_give_the_same_bytes(stored, tmp_path, ending):
    like = stored(IMAGE, "image" + ending)
    labels = RNG.integers(0, 4, size=IMAGE.shape).astype(np.uint8)
    for folder in ("a", "b"):
        write_labels(tmp_path / folder / ("x" + ending), labels, like=like, names={2: "b", 1: "a"})
    for part in (tmp_path / "a").iterdir():
        assert part.read_bytes() == (tmp_path / "b" / part.name).read_bytes()


def test_real_images_keep_their_place(real_data, tmp_path):
    files = [
        "Dataset004_Hippocampus/imagesTr/hippocampus_001_0000.nii.gz",
        "single_cases/sct_testing/t2.nii.gz",
        "single_cases/sct_testing/t2s.nii.gz",
        "single_cases/pyradiomics/brain1_image.nrrd",
        "single_cases/pyradiomics/breast1_image.nrrd",
        "single_cases/elastix_lungct/3DCT_lung_baseline_small.mha",
        "single_cases/totalsegmentator_tests/example_ct_sm.nii.gz",
        *(f"Dataset801_SpinalCordGM/imagesTr/{name}" for name in _spinal_cord(real_data)),
    ]
    for name in files:
        like = real_data / name
        geometry = read_geometry(like)
        labels = RNG.integers(0, 3, size=geometry.canonical.shape).astype(np.uint8)
        out = tmp_path / f"label{''.join(like.suffixes[-2:] if name.endswith('.gz') else like.suffixes[-1:])}"
        write_labels(out, labels, like=like)
        assert _place(out) == _place(like), name
        read = sitk.DICOMOrient(sitk.ReadImage(out), "LPS")
        assert np.array_equal(sitk.GetArrayFromImage(read), labels), name


def _spinal_cord(real_data: Path) -> list[str]:
    return sorted(path.name for path in (real_data / "Dataset801_SpinalCordGM/imagesTr").iterdir())
