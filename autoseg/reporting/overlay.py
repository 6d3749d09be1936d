"""One case at a glance: three planes with the truth as lines and the prediction as fill."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from autoseg.core.labels import LabelScheme
from autoseg.reporting.picture import label_colours, plain, write_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Voxels = NDArray[Any]
Frame = tuple[float, float, float, float]  # left, right, bottom, top in mm, as matplotlib's extent


class Plane(NamedTuple):
    """How a volume is cut: the axes across, down and along the picture, and the directions at its edges."""

    name: str
    across: int
    row: int
    column: int
    upwards: bool  # rows run from the bottom to the top
    at_left: str
    at_top: str


# In canonical orientation x runs to the patient's left, y to the back, z up: the patient's right lies left.
PLANES = (
    Plane("axial", 0, 1, 2, False, "R", "A"),
    Plane("coronal", 1, 0, 2, True, "R", "S"),
    Plane("sagittal", 2, 0, 1, True, "A", "S"),
)
_MARGIN_MM, _AROUND_MM = 20.0, 8.0
_WIDTH_INCH, _HEIGHT_INCH, _GAP_INCH = 11.4, 6.0, 0.15
_HEAD_INCH, _LINE_INCH = 0.45, 0.19


def overlay_picture(
    image: Voxels,
    truth: Voxels | None,
    predicted: Voxels,
    *,
    labels: LabelScheme,
    spacing_mm: tuple[float, float, float],
    path: Path,
    title: str,
) -> None:
    """Write a PNG of the three planes that show most of the labels, zoomed to them, all at one scale in mm.

    Args:
        image: (Z, Y, X), one channel, in canonical orientation (Geometry.orientation.apply).
        truth: (Z, Y, X) file values, drawn as lines; None where there is none.
        predicted: (Z, Y, X) file values, drawn as fill.
        labels: names and values; later names lie over earlier ones, so regions nest as they are declared.
        spacing_mm: (z, y, x).
        path: the PNG file.
        title: line above the picture.
    """
    volumes = [predicted] if truth is None else [truth, predicted]
    assert {volume.shape for volume in volumes} == {image.shape}, [image.shape, *(v.shape for v in volumes)]
    centre, box = centre_and_box(volumes, labels=labels, spacing_mm=spacing_mm)
    thick = [plane for plane in PLANES if image.shape[plane.row] > 1 and image.shape[plane.column] > 1]
    planes = thick or [PLANES[0]]
    cuts = [[_cut(volume, plane, centre=centre, box=box) for volume in (image, *volumes)] for plane in planes]
    low, high = grey_window(cuts, [(spacing_mm[plane.row], spacing_mm[plane.column]) for plane in planes])
    size_mm = [(stop - start) * step for (start, stop), step in zip(box, spacing_mm, strict=True)]
    masks_seen = [mask for _, *masks in cuts for mask in masks]
    seen = [name for name in labels.foreground if any(labels.mask(mask, name).any() for mask in masks_seen)]
    figure, panels = _panels(planes, size_mm, title, foot=_legend_rows(seen) * _LINE_INCH + 0.35)
    for axes, plane, (grey, *masks) in zip(panels, planes, cuts, strict=True):
        (left, right), (bottom, top) = box[plane.column], box[plane.row]
        across_mm, down_mm = spacing_mm[plane.column], spacing_mm[plane.row]
        frame = (left * across_mm, right * across_mm, bottom * down_mm, top * down_mm)
        position = f"slice {centre[plane.across] + 1} of {image.shape[plane.across]}"
        axes.imshow(grey, "gray", vmin=low, vmax=high, extent=frame, interpolation="bilinear", origin="lower")
        _draw_labels(axes, masks[-1], masks[0] if len(masks) > 1 else None, labels=labels, frame=frame)
        _annotate(axes, plane, frame=frame, position=position)
    _legend(figure, seen, labels=labels, with_truth=truth is not None)
    write_png(figure, path)


def centre_and_box(
    volumes: list[Voxels], *, labels: LabelScheme, spacing_mm: tuple[float, float, float]
) -> tuple[list[int], list[tuple[int, int]]]:
    """The slice per axis that shows most, and the box around all labels; without any, the middle and all.

    Each name weighs the same whatever its size, or a small tumour would never be seen beside its large organ.
    """
    shape = volumes[0].shape
    weights = [np.zeros(size) for size in shape]
    for volume in volumes:
        for weight, counts in zip(weights, _voxels_per_slice(volume, labels=labels), strict=True):
            for members in labels.regions_inside:
                profile = counts[:, members].sum(axis=1)
                weight += profile / max(1, profile.sum())
    if not weights[0].any():
        return [size // 2 for size in shape], [(0, size) for size in shape]
    box = []
    for weight, size, step_mm in zip(weights, shape, spacing_mm, strict=True):
        occupied, margin = np.flatnonzero(weight), int(np.ceil(_MARGIN_MM / step_mm))
        box.append((max(0, int(occupied[0]) - margin), min(size, int(occupied[-1]) + 1 + margin)))
    return [int(weight.argmax()) for weight in weights], box


def slice_of_most(mask: NDArray[np.bool_]) -> list[int]:
    """Per axis the slice with most voxels of a mask (Z, Y, X)."""
    return [int(mask.sum(axis=tuple({0, 1, 2} - {axis})).argmax()) for axis in range(3)]


def _voxels_per_slice(volume: Voxels, *, labels: LabelScheme) -> list[NDArray[np.int64]]:
    """Per axis an array (slices, values inside) of voxel counts: one pass whatever the number of labels."""
    n_values = len(labels.values) + 2  # the last ones are what is ignored, and undeclared
    counts = [np.zeros((size, n_values), dtype=np.int64) for size in volume.shape]
    lines = [np.arange(size) * n_values for size in volume.shape]
    for z, plane in enumerate(volume):
        codes = labels.encode(plane)
        for axis, line in ((1, lines[1][:, None]), (2, lines[2])):
            counts[axis] += np.bincount((codes + line).ravel(), minlength=counts[axis].size).reshape(-1, n_values)
        counts[0][z] = np.bincount(codes.ravel(), minlength=n_values)
    return counts


def _cut(volume: Voxels, plane: Plane, *, centre: list[int], box: list[tuple[int, int]]) -> Voxels:
    view: list[slice | int] = [slice(*limits) for limits in box]
    view[plane.across] = centre[plane.across]
    flat: Voxels = volume[tuple(view)]
    return flat


def grey_window(cuts: list[list[Voxels]], steps_mm: list[tuple[float, float]]) -> tuple[float, float]:
    """Grey values shown as black and white: what lies in and around the labels, without its few extremes.

    Air and table would otherwise leave a CT without contrast, and a bright vessel an MR.
    """
    near = []
    for (grey, *masks), step_mm in zip(cuts, steps_mm, strict=True):
        around = np.logical_or.reduce([mask > 0 for mask in masks])
        reach = tuple(2 * int(_AROUND_MM / step) + 1 for step in step_mm)
        near.append(grey[maximum_filter(around, size=reach)])
    if not any(len(values) for values in near):
        near = [grey.ravel() for grey, *_ in cuts]
    low, high = (float(limit) for limit in np.percentile(np.concatenate(near), [1, 99]))
    spare = 0.05 * (high - low) or max(1e-6, 1e-6 * abs(high))
    return low - spare, high + spare


def _panels(planes: list[Plane], size_mm: list[float], title: str, *, foot: float) -> tuple[Figure, list[Axes]]:
    """A figure with a panel per plane, all at the same inches per mm unless the volume is too long for it."""
    from matplotlib.figure import Figure

    wide_mm = [size_mm[plane.column] for plane in planes]
    high_mm = [size_mm[plane.row] for plane in planes]
    common = min(_WIDTH_INCH / sum(wide_mm), _HEIGHT_INCH / max(high_mm))
    pairs = zip(wide_mm, high_mm, strict=True)
    fitting = [min(_WIDTH_INCH / 3 / wide, _HEIGHT_INCH / high) for wide, high in pairs]
    long = common * sum(wide_mm) < 0.6 * _WIDTH_INCH
    scales = [max(common, scale) if long else common for scale in fitting]
    wide = [size * scale for size, scale in zip(wide_mm, scales, strict=True)]
    high = [size * scale for size, scale in zip(high_mm, scales, strict=True)]
    inside = sum(wide) + (len(planes) - 1) * _GAP_INCH
    width, height = max(inside + 0.3, 7.0), max(high) + _HEAD_INCH + foot
    figure = Figure(figsize=(width, height), dpi=110, facecolor="white")
    left, panels = (width - inside) / 2, []
    for panel_wide, panel_high in zip(wide, high, strict=True):
        bottom = foot + (max(high) - panel_high) / 2
        place = (left / width, bottom / height, panel_wide / width, panel_high / height)
        panels.append(figure.add_axes(place))
        left += panel_wide + _GAP_INCH
    figure.text(0.5, 1 - 0.15 / height, plain(title), ha="center", va="top", fontsize=11)
    return figure, panels


def _draw_labels(axes: Axes, predicted: Voxels, truth: Voxels | None, *, labels: LabelScheme, frame: Frame) -> None:
    """Fill of the prediction and line of the truth, per name."""
    from matplotlib.colors import to_rgba

    fill = np.zeros((*predicted.shape, 4))
    for name, colour in label_colours([*labels.foreground]).items():
        fill[labels.mask(predicted, name)] = to_rgba(colour, 0.38)
        if truth is not None and (inside := labels.mask(truth, name)).any():
            _outline(axes, inside, frame=frame, colour=colour)
    axes.imshow(fill, extent=frame, interpolation="nearest", origin="lower", zorder=2)


def _outline(axes: Axes, mask: NDArray[np.bool_], *, frame: Frame, colour: str) -> None:
    """The edges between voxels of the mask and others, exactly as they run."""
    from matplotlib.collections import LineCollection

    left, right, bottom, top = frame
    rows, columns = mask.shape
    padded = np.pad(mask, 1)
    between_rows = np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1])
    between_columns = np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1])
    segments = [((c, r), (c + 1, r)) for r, c in between_rows]
    segments += [((c, r), (c, r + 1)) for r, c in between_columns]
    scale = np.array([(right - left) / columns, (top - bottom) / rows])
    lines = [*(np.array(segments) * scale + (left, bottom))]
    axes.add_collection(LineCollection(lines, colors=colour, linewidths=1.4, capstyle="projecting", zorder=3))


def _annotate(axes: Axes, plane: Plane, *, frame: Frame, position: str) -> None:
    """Directions at the edges, a bar of known length, and which slice it is."""
    from matplotlib.patheffects import withStroke

    dark_rim = [withStroke(linewidth=2.5, foreground="black")]
    common: dict[str, Any] = {"transform": axes.transAxes, "path_effects": dark_rim, "zorder": 4}
    style = common | {"color": "white", "fontsize": 9}
    axes.text(0.02, 0.5, plane.at_left, ha="left", va="center", **style)
    axes.text(0.5, 0.98, plane.at_top, ha="center", va="top", **style)
    left, right, bottom, top = frame
    length_mm = max((bar for bar in (1, 2, 5, 10, 20, 50, 100) if bar < 0.35 * (right - left)), default=0)
    if length_mm:
        end, share = 0.97, length_mm / (right - left)
        axes.plot([end - share, end], [0.03, 0.03], color="white", linewidth=2, solid_capstyle="butt", **common)
        axes.text(end - share / 2, 0.045, f"{length_mm} mm", ha="center", va="bottom", **style)
    axes.set_xlabel(f"{plane.name}, {position}", fontsize=8, labelpad=3)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set(xlim=(left, right), ylim=(bottom, top) if plane.upwards else (top, bottom))


def _legend_columns(names: list[str]) -> int:
    longest = max((len(name) for name in names), default=0)
    return max(1, int(_WIDTH_INCH / (0.55 + 0.08 * max(longest, 16))))


def _legend_rows(names: list[str]) -> int:
    return -(-(len(names) + 2) // _legend_columns(names))


def _legend(figure: Figure, names: list[str], *, labels: LabelScheme, with_truth: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    colours = label_colours([*labels.foreground])
    handles: list[Any] = [Patch(facecolor=colours[name], label=plain(name)) for name in names]
    handles.append(Patch(facecolor="0.6", alpha=0.6, label="fill: prediction"))
    if with_truth:
        handles.append(Line2D([], [], color="0.3", linewidth=1.4, label="line: truth"))
    columns = _legend_columns(names)
    figure.legend(handles=handles, loc="lower center", ncols=columns, fontsize=8, frameon=False)
