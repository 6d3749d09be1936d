from __future__ import annotations

import warnings

import numpy as np
import pytest

from autoseg.reporting import curve_picture
from autoseg.reporting.curve import curve_figure


def row(epoch: int, **changes) -> dict:
    values = {
        "epoch": epoch,
        "train_loss": -0.1 * epoch,
        "val_loss": -0.08 * epoch,
        "pseudo_dice": [0.05 * epoch, None if epoch == 3 else 0.06 * epoch],
        "pseudo_dice_mean": 0.055 * epoch,
        "learning_rate": 0.01 * 0.9**epoch,
        "seconds": 20.0,
        "data_wait_share": 0.25,
    }
    return values | changes


def lines_of(figure) -> dict[str, np.ndarray]:
    return {line.get_label(): np.array(line.get_ydata()) for axes in figure.axes for line in axes.lines}


def test_every_logged_number_is_drawn_where_it_belongs():
    rows = [row(epoch) for epoch in range(12)]
    lines = lines_of(curve_figure(rows, label_names=["Anterior", "Posterior"]))
    np.testing.assert_allclose(lines["training"], [r["train_loss"] for r in rows])
    np.testing.assert_allclose(lines["validation"], [r["val_loss"] for r in rows])
    np.testing.assert_allclose(lines["Anterior"], [r["pseudo_dice"][0] for r in rows])
    np.testing.assert_allclose(lines["mean of 2 classes"], [r["pseudo_dice_mean"] for r in rows])
    np.testing.assert_allclose(lines["waiting for data"], 5.0)
    assert np.flatnonzero(np.isnan(lines["Posterior"])).tolist() == [3]


def test_values_that_are_null_or_absent_leave_gaps():
    rows = [
        row(0, val_loss=None, pseudo_dice=None, pseudo_dice_mean=None),
        row(1),
        {"epoch": 2, "train_loss": 0.5},
    ]
    lines = lines_of(curve_figure(rows))
    assert np.isnan(lines["validation"]).tolist() == [True, False, True]
    assert np.isnan(lines["class 1"]).tolist() == [True, False, True]
    assert np.isnan(lines["mean of 2 classes"]).tolist() == [True, False, True]


def test_many_classes_are_drawn_without_a_legend_entry_each():
    rows = [row(epoch, pseudo_dice=[0.5] * 40) for epoch in range(3)]
    figure = curve_figure(rows)
    assert [text.get_text() for text in figure.axes[1].get_legend().get_texts()] == ["mean of 40 classes"]
    assert len(figure.axes[1].lines) == 41


@pytest.mark.parametrize("n_epochs", [0, 1, 2, 300])
def test_picture_of_any_length_is_a_whole_png_without_warnings(n_epochs, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        curve_picture([row(epoch) for epoch in range(n_epochs)], tmp_path / "progress.png")
    assert (tmp_path / "progress.png").read_bytes().startswith(b"\x89PNG")
    assert len([*tmp_path.iterdir()]) == 1
