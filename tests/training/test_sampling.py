"""Crops of images whose voxels hold their own coordinates, so that every crop tells where it comes from."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autoseg.core.labels import LabelScheme
from autoseg.io.case_store import CaseMeta, CaseStore
from autoseg.io.class_index import build_index, open_index
from autoseg.preprocessing.prepare_case import class_locations
from autoseg.training.loader import batches
from autoseg.training.sampling import CropRules, foreground_draws, read_batch

SCHEME = LabelScheme(declared={"background": 0, "big": 1, "dot": 2, "absent": 3})
IGNORING = LabelScheme(declared={"background": 0, "big": 1, "ignore": 2})


def write(folder: Path, case: str, label: np.ndarray, scheme: LabelScheme = SCHEME) -> None:
    """Channels hold z + 1, y + 1, x + 1; beyond the image crops hold 0."""
    image = np.stack(np.meshgrid(*(np.arange(1, n + 1) for n in label.shape), indexing="ij"))
    CaseStore(folder).write(
        case,
        image=image.astype(np.float32),
        label=label,
        locations=class_locations(label, scheme),
        meta=CaseMeta(key="k"),
        patch_size=(8, 8, 8),
    )
    build_index(CaseStore(folder))


def body(shape: tuple[int, int, int] = (20, 24, 22)) -> np.ndarray:
    label = np.zeros(shape, dtype=np.int16)
    label[8:13, 9:14, 8:14] = 1
    label[10, 11, 10] = 2
    return label


def rules_for(folder: Path, **changes: object) -> CropRules:
    rules = CropRules(
        store=folder,
        cases=("a",),
        batch_size=2,
        patch_size=(8, 8, 8),
        crop_size=(8, 8, 8),
        foreground_share=0.33,
        seed=(3,),
    )
    return replace(rules, **changes)


def starts_of(batch: dict, sample: int) -> tuple[int, ...]:
    """First voxel of a crop along each axis, from any voxel inside the image."""
    image = batch["image"][sample]
    axes = range(image.ndim - 1)
    inside = tuple(np.argwhere(image[0] > 0)[0])
    first = [int(image[channel][inside]) - 1 for channel in range(3)]
    return tuple(first[3 - len(axes) + axis] - inside[axis] for axis in axes)


def test_a_batch_depends_on_seed_step_and_sample_alone(tmp_path: Path) -> None:
    for case in "abc":
        write(tmp_path, case, body())
    rules = rules_for(tmp_path, cases=("a", "b", "c"), batch_size=3)
    batch = read_batch(rules, 5)
    assert batch["image"].shape == (3, 3, 8, 8, 8)
    assert batch["label"].shape == (3, 1, 8, 8, 8)
    assert (batch["image"].dtype, batch["label"].dtype, int(batch["step"])) == (np.float32, np.int16, 5)
    again = read_batch(rules, 5)
    larger = read_batch(replace(rules, batch_size=4, foreground_share=0.25), 5)
    for key in ("image", "label"):
        assert np.array_equal(batch[key], again[key])
    assert np.array_equal(batch["image"][:2], larger["image"][:2])
    others = [
        read_batch(rules, 6),
        read_batch(replace(rules, seed=(4,)), 5),
        read_batch(replace(rules, seed=(3, 1)), 5),
    ]
    assert not any(np.array_equal(batch["image"], other["image"]) for other in others)


def test_batches_are_the_same_whatever_the_number_of_workers(tmp_path: Path) -> None:
    for case in "abc":
        write(tmp_path, case, body())
    rules = rules_for(tmp_path, cases=("a", "b", "c"), crop_size=(10, 11, 10))
    runs = []
    for workers in (0, 1, 2):
        with batches(rules, first_step=3, workers=workers) as stream:
            runs.append([next(stream) for _ in range(5)])
    for run in runs:
        assert [int(batch["step"]) for batch in run] == [3, 4, 5, 6, 7]
        for batch, expected in zip(run, runs[0], strict=True):
            assert np.array_equal(batch["image"], expected["image"])
            assert np.array_equal(batch["label"], expected["label"])


def test_crops_show_image_and_label_of_the_same_place(tmp_path: Path) -> None:
    label = np.random.default_rng(0).integers(-1, 3, size=(11, 12, 13)).astype(np.int16)
    write(tmp_path, "a", label)
    for step in range(20):
        batch = read_batch(rules_for(tmp_path, crop_size=(14, 10, 9)), step)
        for sample in range(2):
            image, found = batch["image"][sample], batch["label"][sample, 0]
            inside = image[0] > 0
            places = tuple(image[channel][inside].astype(int) - 1 for channel in range(3))
            assert np.array_equal(found[inside], label[places])
            assert (found[~inside] == -1).all()
            assert (image[:, ~inside] == 0).all()


@pytest.mark.parametrize("crop", [(8, 8, 8), (9, 12, 11)])
def test_forced_crops_are_centred_on_a_class(tmp_path: Path, crop: tuple) -> None:
    write(tmp_path, "a", body())
    rules = rules_for(tmp_path, foreground_share=1.0, crop_size=crop, batch_size=4)
    centres = [
        int(label[0][tuple(n // 2 for n in crop)]) for step in range(25) for label in read_batch(rules, step)["label"]
    ]
    counts = Counter(centres)
    assert set(counts) == {1, 2}
    # A class is drawn first, so a single voxel comes as often as a large structure.
    assert 30 <= counts[2] <= 70


def test_forced_crops_show_structures_at_the_border(tmp_path: Path) -> None:
    label = np.zeros((20, 20, 20), dtype=np.int16)
    label[0, 0, 0] = 1
    label[19, 19, 19] = 2
    write(tmp_path, "a", label)
    rules = rules_for(tmp_path, foreground_share=1.0, crop_size=(13, 12, 11))
    margin = [(crop - 8) // 2 for crop in rules.crop_size]
    inner = tuple(slice(m, m + 8) for m in margin)
    for step in range(20):
        batch = read_batch(rules, step)
        for sample in range(2):
            assert (batch["label"][sample, 0][inner] > 0).any()
            assert all(low >= -m for low, m in zip(starts_of(batch, sample), margin, strict=True))


@pytest.mark.parametrize(
    ("batch_size", "share", "forced"),
    [(2, 0.33, 1), (3, 0.33, 1), (10, 0.33, 3), (4, 0.0, 0), (4, 1.0, 4), (1, 0.33, 0)],
)
def test_the_last_samples_are_forced(tmp_path: Path, batch_size: int, share: float, forced: int) -> None:
    label = np.zeros((40, 40, 40), dtype=np.int16)
    label[20, 20, 20] = 1
    write(tmp_path, "a", label)
    rules = rules_for(
        tmp_path, batch_size=batch_size, foreground_share=share, patch_size=(4, 4, 4), crop_size=(4, 4, 4)
    )
    centred = np.array([[label[0, 2, 2, 2] == 1 for label in read_batch(rules, step)["label"]] for step in range(12)])
    assert centred[:, batch_size - forced :].all()
    assert centred[:, : batch_size - forced].mean() < 0.1 if forced < batch_size else True


def test_random_patches_cover_the_image_and_do_not_leave_it(tmp_path: Path) -> None:
    write(tmp_path, "a", np.zeros((9, 12, 10), dtype=np.int16))
    rules = rules_for(tmp_path, foreground_share=0.0, batch_size=8, crop_size=(13, 11, 8))
    starts = [starts_of(read_batch(rules, step), s) for step in range(30) for s in range(8)]
    for axis, (size, crop) in enumerate(zip((9, 12, 10), rules.crop_size, strict=True)):
        inner = [start[axis] + (crop - 8) // 2 for start in starts]
        assert set(inner) == set(range(size - 8 + 1))


def test_a_case_without_foreground_gives_random_crops(tmp_path: Path) -> None:
    write(tmp_path, "a", np.zeros((20, 20, 20), dtype=np.int16))
    rules = rules_for(tmp_path, foreground_share=1.0)
    starts = {starts_of(read_batch(rules, step), 0) for step in range(10)}
    assert len(starts) > 5
    assert all(0 <= low <= 12 for start in starts for low in start)


def test_images_smaller_than_the_crop_lie_in_its_middle(tmp_path: Path) -> None:
    write(tmp_path, "a", np.zeros((5, 20, 1), dtype=np.int16))
    rules = rules_for(tmp_path, foreground_share=0.0, crop_size=(10, 9, 8))
    for step in range(10):
        batch = read_batch(rules, step)
        for sample in range(2):
            z, y, x = starts_of(batch, sample)
            assert (z, x) == (-2, -3)
            assert 0 <= y + (9 - 8) // 2 <= 12
            assert (batch["label"][sample, 0] != -1).sum() == 5 * 9 - 5 * (y < 0) - 5 * (y + 9 > 20)


def test_2d_crops_are_slices(tmp_path: Path) -> None:
    write(tmp_path, "a", body())
    rules = rules_for(tmp_path, patch_size=(8, 6), crop_size=(11, 9), foreground_share=0.5, batch_size=4)
    slices = set()
    for step in range(20):
        batch = read_batch(rules, step)
        assert batch["image"].shape == (4, 3, 11, 9)
        assert batch["label"].shape == (4, 1, 11, 9)
        for sample in range(4):
            z = np.unique(batch["image"][sample, 0])
            assert len(z[z > 0]) == 1
            slices.add(int(z.max()) - 1)
            y, x = starts_of(batch, sample)
            if sample < 2:
                assert 0 <= y + 1 <= 24 - 8
                assert 0 <= x + 1 <= 22 - 6
            else:
                assert batch["label"][sample, 0, 11 // 2, 9 // 2] in (1, 2)
    assert len(slices) > 10


def test_unforced_crops_are_centred_on_annotated_voxels(tmp_path: Path) -> None:
    label = np.full((40, 40, 40), 2, dtype=np.int16)  # ignore
    label[10:14, 20:23, 15:18] = 0
    label[12, 21, 16] = 1
    write(tmp_path, "a", label, IGNORING)
    rules = rules_for(tmp_path, foreground_share=0.5, batch_size=4)
    values = []
    for step in range(15):
        batch = read_batch(rules, step)
        centres = batch["label"][:, 0, 4, 4, 4]
        assert set(centres[2:]) == {1}
        values += centres[:2].tolist()
    assert set(values) <= {0, 1}
    assert values.count(0) > 20


def rare_classes(folder: Path) -> tuple[str, ...]:
    """Ten cases: nine with the big structure, one of them with the dot too, one without any."""
    for number in range(10):
        label = body() if number == 3 else np.zeros((9, 9, 9), dtype=np.int16)
        label[:5, :5, :5] = 0 if number == 7 else np.maximum(label[:5, :5, :5], 1)
        write(folder, f"case_{number}", label)
    return tuple(f"case_{number}" for number in range(10))


def test_foreground_is_drawn_like_nnunet_does_by_default(tmp_path: Path) -> None:
    cases = rare_classes(tmp_path)
    draws = foreground_draws(open_index(tmp_path), cases, minimum_class_rate=0.0)
    assert draws.classes == (0, 1, None)
    # any case alike, then any of its classes alike
    np.testing.assert_allclose(draws.rates, [0.85, 0.05, 0.1])
    shares = dict(zip(draws.cases[0], draws.shares[0], strict=True))
    assert shares["case_3"] == pytest.approx(shares["case_0"] / 2)
    assert (draws.cases[1], draws.cases[2]) == (("case_3",), ("case_7",))
    rng = np.random.default_rng(0)
    counts = Counter(draws.draw(rng) for _ in range(20_000))
    for case in cases:
        assert sum(n for (drawn, _), n in counts.items() if drawn == case) == pytest.approx(2000, abs=200)
    assert counts["case_3", 0] == pytest.approx(counts["case_3", 1], abs=150)


def test_a_minimum_rate_lifts_rare_classes(tmp_path: Path) -> None:
    cases = rare_classes(tmp_path)
    draws = foreground_draws(open_index(tmp_path), cases, minimum_class_rate=0.5)
    # two classes, half of an even share each; what is left goes to cases without foreground
    np.testing.assert_allclose(draws.rates, np.array([0.85, 0.25, 0.0]) / 1.1)
    rules = rules_for(tmp_path, cases=cases, foreground_share=1.0, batch_size=4, minimum_class_rate=0.5)
    shown = [
        int(sample[0, 4, 4, 4])
        for step in range(100)
        for sample in read_batch(rules, step)["label"]
    ]  # fmt: skip
    assert Counter(shown)[2] == pytest.approx(400 * 0.25 / 1.1, abs=35)
