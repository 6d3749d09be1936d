from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from autoseg.core.labels import LabelScheme
from autoseg.reporting import case_viewer, viewer
from autoseg.reporting.picture import label_colours

LABELS = LabelScheme(declared={"background": 0, "organ": 7, "core": 2})


@pytest.fixture
def volumes():
    image = np.random.default_rng(0).normal(size=(9, 30, 40)).astype(np.float32)
    truth, predicted = np.zeros(image.shape, np.uint8), np.zeros(image.shape, np.uint8)
    truth[2:7, 10:20, 10:30] = 7
    truth[4, 12:15, 12:15] = 2
    predicted[3:7, 11:20, 10:28] = 7
    return image, truth, predicted


def strips(html: str, layer: str) -> list[np.ndarray]:
    """The pictures of a layer, one per plane: (rows of all slices, columns, ...)."""
    urls = re.findall(rf'class="layer {layer}" style="background-image:url\(data:image/\w+;base64,([^)]*)\)', html)
    return [np.array(Image.open(io.BytesIO(base64.b64decode(url)))) for url in urls]


def sizes(html: str) -> list[tuple[int, int]]:
    return [(int(w), int(h)) for w, h in re.findall(r'class="stack" style="width:(\d+)px;height:(\d+)px"', html)]


def test_slices_of_the_prediction_are_those_of_the_volume(volumes):
    image, truth, predicted = volumes
    html = case_viewer("a", image, truth, predicted, labels=LABELS, spacing_mm=(3.0, 1.0, 1.0), most_slices=40)
    axial = strips(html, "predicted")[0].reshape(9, 30, 40)  # within 20 mm of the labels lies all of this volume
    assert np.array_equal(axial, np.where(predicted == 7, 1, 0))
    coronal = strips(html, "predicted")[1].reshape(30, 9, 40)
    assert np.array_equal(coronal, np.where(predicted == 7, 1, 0).transpose(1, 0, 2)[:, ::-1])  # z upwards
    sagittal = strips(html, "predicted")[2].reshape(40, 9, 30)
    assert np.array_equal(sagittal, np.where(predicted == 7, 1, 0).transpose(2, 0, 1)[:, ::-1])


def test_planes_have_one_scale_in_mm_and_tell_which_slice_is_shown(volumes):
    image, truth, predicted = volumes
    html = case_viewer("a", image, truth, predicted, labels=LABELS, spacing_mm=(3.0, 1.0, 1.0))
    assert sizes(html) == [(360, 270), (360, 243), (270, 243)]  # 40 x 30 x 27 mm, 9 pixels each
    assert re.findall(r"(\w+) <output>(slice \d+ of \d+)", html) == [
        ("axial", "slice 5 of 9"),  # the core lies there
        ("coronal", "slice 13 of 30"),
        ("sagittal", "slice 13 of 40"),
    ]


def test_truth_is_drawn_as_the_edges_of_its_labels(volumes):
    image, truth, predicted = volumes
    html = case_viewer("a", image, truth, predicted, labels=LABELS, spacing_mm=(1.0, 1.0, 1.0))
    lines = strips(html, "truth")[0].reshape(9, 120, 160)  # four times as fine
    assert not lines[0].any()
    square = lines[3, 40:80, 40:120]
    assert (square[0] == 1).all()
    assert (square[:, -1] == 1).all()
    assert not square[1:-1, 1:-1].any()
    assert (lines[4, 48:60, 48] == 2).all()  # the core within the organ


def test_a_large_volume_is_thinned_and_the_slice_that_shows_most_is_kept(volumes):
    image = np.zeros((300, 3, 600), np.float32)
    predicted = np.zeros(image.shape, np.uint8)
    predicted[1:299, 1, 2:598] = 7
    predicted[217, 1, 300] = 2
    html = case_viewer("a", image, None, predicted, labels=LABELS, spacing_mm=(1.0, 1.0, 1.0))
    planes = re.findall(r'data-slices="([^"]*)" data-of="(\d+)"', html)
    axial = [int(number) for number in planes[0][0].split()]
    assert len(axial) == viewer.MOST_SLICES
    assert 218 in axial
    assert axial == sorted(axial)
    assert "axial <output>slice 218 of 300" in html
    assert strips(html, "predicted")[0].shape[1] == 200  # every third of 600 columns
    assert not strips(html, "truth")
    assert "truth (lines)" not in html


def test_focus_chooses_the_first_slices(volumes):
    image, truth, predicted = volumes
    focus = np.zeros(image.shape, bool)
    focus[6, 18, 29] = True
    html = case_viewer("a", image, truth, predicted, labels=LABELS, spacing_mm=(1.0, 1.0, 1.0), focus=focus)
    assert re.findall(r"<output>slice (\d+) of", html) == ["7", "19", "30"]


@pytest.mark.parametrize("thin", [0, 1, 2])
def test_an_image_of_one_slice_has_one_plane(thin):
    shape = [20, 24, 30]
    shape[thin] = 1
    labels = np.zeros(shape, np.uint8)
    labels[tuple(slice(0, 5) for _ in shape)] = 7
    html = case_viewer("a", np.zeros(shape), labels, labels, labels=LABELS, spacing_mm=(1.0, 1.0, 1.0))
    assert html.count('class="plane"') == 1


def test_without_any_label_the_middle_is_shown_and_the_key_is_empty():
    empty = np.zeros((5, 7, 9), np.uint8)
    html = case_viewer("<b>", np.ones((5, 7, 9)), empty, empty, labels=LABELS, spacing_mm=(1.0, 1.0, 1.0))
    assert "axial <output>slice 3 of 5" in html
    assert "swatch" not in html
    assert "&lt;b&gt;" in html


def test_colours_are_those_of_all_pictures(volumes):
    image, truth, predicted = volumes
    html = case_viewer("a", image, truth, predicted, labels=LABELS, spacing_mm=(1.0, 1.0, 1.0))
    colours = label_colours(["organ", "core"])
    assert re.findall(r'background:(#\w+)"></span>(\w+)', html) == [
        (colours["organ"], "organ"),
        (colours["core"], "core"),
    ]
    url = re.search(r'class="layer predicted" style="background-image:url\(data:image/png;base64,([^)]*)\)', html)
    rgba = np.array(Image.open(io.BytesIO(base64.b64decode(url[1]))).convert("RGBA")).reshape(9, 30, 40, 4)
    assert tuple(rgba[4, 15, 20]) == (*bytes.fromhex(colours["organ"][1:]), 255)
    assert rgba[0, 0, 0, 3] == 0


def test_regions_nest_as_they_are_declared():
    regions = LabelScheme(declared={"background": 0, "whole": (1, 2), "core": (2,)}, regions_class_order=(1, 2))
    labels = np.zeros((4, 20, 20), np.uint8)
    labels[1:3, 5:15, 5:15] = 1
    labels[1:3, 8:12, 8:12] = 2
    html = case_viewer("a", np.zeros(labels.shape), None, labels, labels=regions, spacing_mm=(1.0, 1.0, 1.0))
    assert np.array_equal(strips(html, "predicted")[0].reshape(4, 20, 20), labels)
