from __future__ import annotations

import numpy as np
import pytest

from autoseg.core.labels import LabelScheme
from autoseg.reporting import overlay, overlay_picture
from autoseg.reporting.overlay import _outline, centre_and_box, grey_window

LABELS = LabelScheme(declared={"background": 0, "organ": 1, "tumour": 5})


@pytest.fixture
def figures(monkeypatch) -> list:
    """Figures instead of files."""
    drawn: list = []
    monkeypatch.setattr(overlay, "write_png", lambda figure, path: drawn.append(figure))
    return drawn


@pytest.fixture
def volumes():
    image = np.random.default_rng(0).normal(size=(12, 60, 80))
    truth, predicted = np.zeros(image.shape, np.uint8), np.zeros(image.shape, np.uint8)
    truth[3:9, 20:40, 30:60] = 1
    truth[4, 25:28, 35:38] = 5
    predicted[4:9, 22:40, 30:60] = 1
    return image, truth, predicted


def draw(image, truth, predicted, tmp_path, spacing_mm=(5.0, 0.8, 0.8), labels=LABELS):
    path = tmp_path / "overlay.png"
    overlay_picture(image, truth, predicted, labels=labels, spacing_mm=spacing_mm, path=path, title="case")
    return path


def test_picture_is_a_png_and_nothing_else_is_left(volumes, tmp_path):
    path = draw(*volumes, tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("spacing_mm", [(5.0, 0.8, 0.8), (0.4, 3.0, 1.0), (20.0, 0.2, 0.2)])
def test_every_panel_has_the_physical_aspect_of_its_plane(volumes, figures, tmp_path, spacing_mm):
    draw(*volumes, tmp_path, spacing_mm=spacing_mm)
    figure = figures[0]
    figure.canvas.draw()
    for axes, (row, column) in zip(figure.axes, [(1, 2), (0, 2), (0, 1)], strict=True):
        rows, columns = axes.images[0].get_array().shape
        box = axes.get_window_extent()
        expected = columns * spacing_mm[column] / (rows * spacing_mm[row])
        assert box.width / box.height == pytest.approx(expected, rel=1e-6)
        assert axes.get_aspect() == 1


def test_planes_cut_the_small_tumour_and_show_the_image_there(volumes, figures, tmp_path):
    image, truth, predicted = volumes
    draw(*volumes, tmp_path, spacing_mm=(5.0, 2.0, 2.0))
    centre, box = centre_and_box([truth, predicted], labels=LABELS, spacing_mm=(5.0, 2.0, 2.0))
    assert truth[tuple(centre)] == 5
    axial = figures[0].axes[0].images[0].get_array()
    np.testing.assert_array_equal(axial, image[centre[0], slice(*box[1]), slice(*box[2])])


def test_view_keeps_a_margin_in_mm_and_ends_at_the_image(volumes):
    _, truth, predicted = volumes
    _, box = centre_and_box([truth, predicted], labels=LABELS, spacing_mm=(5.0, 2.0, 1.0))
    assert box == [(0, 12), (10, 50), (10, 80)]


def test_without_labels_the_middle_of_the_whole_image_is_shown(volumes, figures, tmp_path):
    image, truth, _ = volumes
    draw(image, None, np.zeros_like(truth), tmp_path)
    np.testing.assert_array_equal(figures[0].axes[1].images[0].get_array(), image[:, 30, :])


def test_anterior_is_at_the_top_and_head_is_up(volumes, figures, tmp_path):
    draw(*volumes, tmp_path)
    axial, coronal, sagittal = figures[0].axes
    assert axial.yaxis_inverted()
    assert not coronal.yaxis_inverted()
    assert not sagittal.yaxis_inverted()
    letters = [{text.get_text() for text in axes.texts} for axes in figures[0].axes]
    assert {"R", "A"} <= letters[0]
    assert {"R", "S"} <= letters[1]
    assert {"A", "S"} <= letters[2]


def test_legend_names_what_is_visible_and_truth_only_where_there_is_one(volumes, figures, tmp_path):
    image, truth, predicted = volumes
    draw(image, truth, predicted, tmp_path)
    draw(image, None, predicted, tmp_path)
    texts = [[text.get_text() for text in figure.legends[0].get_texts()] for figure in figures]
    assert texts == [["organ", "tumour", "fill: prediction", "line: truth"], ["organ", "fill: prediction"]]


def test_legend_of_many_labels_lies_below_the_panels(figures, tmp_path):
    rng = np.random.default_rng(0)
    labels = LabelScheme(declared={"background": 0, **{f"structure number {n}": n for n in range(1, 61)}})
    predicted = rng.integers(0, 61, (20, 30, 40))
    draw(rng.normal(size=predicted.shape), None, predicted, tmp_path, spacing_mm=(2.0, 1.0, 1.0), labels=labels)
    figure = figures[0]
    figure.canvas.draw()
    top = figure.legends[0].get_window_extent().y1
    assert all(axes.get_tightbbox().y0 >= top for axes in figure.axes)
    assert figure.legends[0].get_window_extent().x0 >= 0


@pytest.mark.parametrize("shape", [(1, 20, 30), (20, 1, 30), (1, 1, 1), (2, 2, 2)])
def test_thin_volumes_give_a_picture(shape, tmp_path):
    ones = np.ones(shape, np.uint8)
    assert draw(np.zeros(shape), ones, ones, tmp_path).is_file()


def test_outline_runs_along_the_voxel_edges(figures, volumes, tmp_path):
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    mask = np.zeros((2, 3), bool)
    mask[0, 0] = mask[1, 2] = True
    _outline(axes, mask, frame=(10.0, 16.0, 5.0, 6.0), colour="#ff0000")  # voxels of 2 x 0.5 mm
    segments = {tuple(sorted(map(tuple, segment.tolist()))) for segment in axes.collections[0].get_segments()}
    corner = {((10, 5), (12, 5)), ((10, 5.5), (12, 5.5)), ((10, 5), (10, 5.5)), ((12, 5), (12, 5.5))}
    other = {((14, 5.5), (16, 5.5)), ((14, 6), (16, 6)), ((14, 5.5), (14, 6)), ((16, 5.5), (16, 6))}
    assert segments == corner | other


def test_window_ignores_voxels_far_from_the_labels_and_single_extremes():
    grey, mask = np.full((100, 100), -1000.0), np.zeros((100, 100), np.uint8)
    mask[40:60, 40:60] = 1
    grey[30:70, 30:70] = np.random.default_rng(0).uniform(0, 100, (40, 40))
    grey[50, 50] = 1.7e6
    low, high = grey_window([[grey, mask]], [(1.0, 1.0)])
    assert -20 < low < 10
    assert 90 < high < 120


def test_regions_lie_over_each_other_in_declared_order(figures, tmp_path):
    from matplotlib.colors import to_rgba

    from autoseg.reporting.picture import label_colours

    regions = LabelScheme(declared={"background": 0, "whole": (1, 2), "core": 2}, regions_class_order=(1, 2))
    predicted = np.ones((4, 4, 4), np.uint8)
    predicted[1:3, 1:3, 1:3] = 2
    draw(np.zeros(predicted.shape), None, predicted, tmp_path, labels=regions)
    fill = figures[0].axes[0].images[1].get_array()
    colours = label_colours(["whole", "core"])
    np.testing.assert_allclose(fill[1, 1, :3], to_rgba(colours["core"])[:3])
    np.testing.assert_allclose(fill[0, 0, :3], to_rgba(colours["whole"])[:3])


def test_real_hippocampus_case_gives_a_picture(real_data, tmp_path):
    from autoseg.io.images import read_volume

    folder = real_data / "Dataset004_Hippocampus"
    label_file = sorted((folder / "labelsTr").glob("*.nii.gz"))[0]
    label, geometry = read_volume(label_file, case="a")
    image, _ = read_volume(folder / "imagesTr" / label_file.name.replace(".nii.gz", "_0000.nii.gz"), case="a")
    labels = LabelScheme(declared={"background": 0, "Anterior": 1, "Posterior": 2})
    apply = geometry.orientation.apply
    assert draw(apply(image), apply(label), apply(label), tmp_path, labels=labels).stat().st_size > 10_000
