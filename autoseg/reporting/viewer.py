"""A case to leaf through within a page: three planes with a slider each, truth and prediction over the image."""

from __future__ import annotations

import io
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.core.labels import LabelScheme
from autoseg.reporting.overlay import PLANES, Plane, Voxels, centre_and_box, grey_window, slice_of_most
from autoseg.reporting.page import data_url
from autoseg.reporting.picture import label_colours

MOST_SLICES = 32  # of a plane
MOST_PIXELS = 256  # across a slice; of larger ones every second (third, ...) voxel is shown
SHOWN_PIXELS, LEAST_PIXELS = 360, 24  # the longest side on the screen, and the shortest
_QUALITY = 70  # of the grey images, as JPEG counts
_STEPS = ((-1, 0), (1, 0), (0, -1), (0, 1))  # to the neighbours within a slice


def case_viewer(
    caption: str,
    image: Voxels,
    truth: Voxels | None,
    predicted: Voxels,
    *,
    labels: LabelScheme,
    spacing_mm: tuple[float, float, float],
    focus: NDArray[np.bool_] | None = None,
    most_slices: int = MOST_SLICES,
) -> str:
    """HTML of a case: its three planes around all labels, at one scale in mm, each with a slider.

    Truth is drawn as lines, prediction as fill; each can be hidden. The slices that show most of the labels come first.

    Args:
        caption: line above.
        image: (Z, Y, X), one channel, in canonical orientation (Geometry.orientation.apply).
        truth: (Z, Y, X) file values; None where there is none.
        predicted: (Z, Y, X) file values.
        labels: names and values; later names lie over earlier ones, so regions nest as they are declared.
        spacing_mm: (z, y, x).
        focus: (Z, Y, X), what the first slices shall show most of instead.
        most_slices: of a plane; from more, evenly chosen ones.
    """
    volumes = [predicted] if truth is None else [truth, predicted]
    centre, box = centre_and_box(volumes, labels=labels, spacing_mm=spacing_mm)
    if focus is not None and focus.any():
        centre = slice_of_most(focus)
    inside = tuple(slice(*limits) for limits in box)
    painted = [_painted(volume[inside], labels) for volume in volumes]
    shown_image = image[inside]
    window = _window(shown_image, painted, spacing_mm)
    size_mm = [n * step for n, step in zip(shown_image.shape, spacing_mm, strict=True)]
    pixels_per_mm = SHOWN_PIXELS / max(size_mm)
    planes = []
    for plane in PLANES:
        if shown_image.shape[plane.row] < 2 or shown_image.shape[plane.column] < 2:
            continue
        chosen = _chosen(shown_image.shape[plane.across], centre[plane.across] - box[plane.across][0], most_slices)
        shown = [_slices(volume, plane, chosen) for volume in (shown_image, *painted)]
        layers = [("image", _jpeg(_grey(shown[0], window))), ("predicted", _png(shown[-1]))]
        if truth is not None:
            layers.append(("truth", _png(_outlines(shown[1]))))
        wide, high = (round(size_mm[axis] * pixels_per_mm) for axis in (plane.column, plane.row))
        numbers = [box[plane.across][0] + number + 1 for number in chosen]
        planes.append(
            _plane(
                plane,
                layers,
                wide=max(wide, LEAST_PIXELS),
                high=max(high, LEAST_PIXELS),
                numbers=numbers,
                start=numbers.index(centre[plane.across] + 1),
                of=image.shape[plane.across],
            )
        )
    return "\n".join(
        [
            f'<figure class="viewer"><figcaption>{escape(caption)}</figcaption>',
            f'<div class="planes">{"".join(planes)}</div>',
            _key(painted, labels, with_truth=truth is not None),
            "</figure>",
        ]
    )


def _painted(volume: Voxels, labels: LabelScheme) -> NDArray[np.uint8]:
    """Each voxel's position among the foreground names, from 1 (of several the last one), 0 for background."""
    numbers = np.zeros(len(labels.values) + 2, dtype=np.uint8)  # the last ones are what is ignored, and undeclared
    for position, members in enumerate(labels.regions_inside):
        numbers[list(members)] = position % 255 + 1
    painted = np.empty(volume.shape, dtype=np.uint8)
    for plane, values in zip(painted, volume, strict=True):  # one by one: encoding takes 10 bytes per voxel
        plane[:] = numbers[labels.encode(values)]
    return painted


def _window(image: Voxels, painted: Sequence[Voxels], spacing_mm: tuple[float, float, float]) -> tuple[float, float]:
    """Grey values shown as black and white, from the slices that show most of the labels."""
    middle = [size // 2 for size in image.shape]
    cuts, steps = [], []
    for plane in PLANES:
        view: list[slice | int] = [slice(None)] * 3
        weights = sum(np.count_nonzero(volume, axis=tuple({0, 1, 2} - {plane.across})) for volume in painted)
        view[plane.across] = int(np.argmax(weights)) if np.any(weights) else middle[plane.across]
        cuts.append([volume[tuple(view)] for volume in (image, *painted)])
        steps.append((spacing_mm[plane.row], spacing_mm[plane.column]))
    return grey_window(cuts, steps)


def _grey(slices: Voxels, window: tuple[float, float]) -> NDArray[np.uint8]:
    low, high = window
    shown = np.clip((slices.astype(np.float32) - low) * (255 / (high - low)), 0, 255)
    grey: NDArray[np.uint8] = np.nan_to_num(shown).astype(np.uint8)
    return grey


def _chosen(size: int, centre: int, most: int) -> list[int]:
    """Numbers of the slices that are shown, in order: the one that shows most is among them."""
    if size <= most:
        return [*range(size)]
    even = np.linspace(0, size - 1, most).round().astype(int)
    even[np.abs(even - centre).argmin()] = centre
    return sorted({*even.tolist()})


def _slices(volume: Voxels, plane: Plane, chosen: Sequence[int]) -> Voxels:
    """(slices, rows, columns) as they lie on the screen, thinned out where they are large."""
    cut = np.moveaxis(volume.take(chosen, axis=plane.across), plane.across, 0)
    if plane.upwards:
        cut = cut[:, ::-1]
    _, rows, columns = cut.shape
    every_row, every_column = (-(-size // MOST_PIXELS) for size in (rows, columns))
    thinned: Voxels = cut[:, ::every_row, ::every_column]
    return thinned


def _outlines(painted: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The borders of labels within each slice, on a finer grid, so that the lines are thin."""
    factor = max(1, min(4, SHOWN_PIXELS // max(painted.shape[1:])))
    fine = painted.repeat(factor, axis=1).repeat(factor, axis=2)
    padded = np.pad(fine, ((0, 0), (1, 1), (1, 1)))
    rows, columns = fine.shape[1:]
    neighbours = [padded[:, 1 + dy : 1 + dy + rows, 1 + dx : 1 + dx + columns] for dy, dx in _STEPS]
    edges: NDArray[np.uint8] = np.where(np.any([fine != other for other in neighbours], axis=0), fine, 0)
    return edges


def _strip(slices: Voxels) -> Voxels:
    return np.ascontiguousarray(slices.reshape(-1, slices.shape[2]))


def _jpeg(grey: NDArray[np.uint8]) -> str:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(_strip(grey)).save(stream, "JPEG", quality=_QUALITY)
    return data_url(stream.getvalue(), "image/jpeg")


def _png(painted: NDArray[np.uint8]) -> str:
    from PIL import Image

    picture = Image.fromarray(_strip(painted)).convert("P")
    names = [str(position) for position in range(255)]
    picture.putpalette(bytes(3) + b"".join(bytes.fromhex(colour[1:]) for colour in label_colours(names).values()))
    stream = io.BytesIO()
    picture.save(stream, "PNG", transparency=0, optimize=True)
    return data_url(stream.getvalue(), "image/png")


def _plane(
    plane: Plane,
    layers: Sequence[tuple[str, str]],
    *,
    wide: int,
    high: int,
    numbers: Sequence[int],
    start: int,
    of: int,
) -> str:
    share = 100 * start / (len(numbers) - 1) if len(numbers) > 1 else 0
    drawn = "".join(
        f'<div class="layer {name}" style="background-image:url({url});background-size:100% {100 * len(numbers)}%;'
        f'background-position:0 {share:.4f}%"></div>'
        for name, url in layers
    )
    edges = f'<span class="edge" style="left:4px;top:45%">{plane.at_left}</span>'
    edges += f'<span class="edge" style="left:50%;top:1px">{plane.at_top}</span>'
    slider = f'<input type="range" min="0" max="{len(numbers) - 1}" value="{start}" aria-label="{plane.name} slice">'
    told = f"{plane.name} <output>slice {numbers[start]} of {of}</output>"
    return (
        f'<div class="plane" data-slices="{" ".join(map(str, numbers))}" data-of="{of}">'
        f'<div class="stack" style="width:{wide}px;height:{high}px">{drawn}{edges}</div>{told}{slider}</div>'
    )


def _key(painted: Sequence[NDArray[Any]], labels: LabelScheme, *, with_truth: bool) -> str:
    """What the colours mean, and boxes that hide truth or prediction."""
    seen = sorted({int(value) for volume in painted for value in np.unique(volume)} - {0})
    names = [*labels.foreground]
    colours = label_colours(names)
    swatches = "".join(
        f'<span class="key"><span class="swatch" style="background:{colours[names[value - 1]]}"></span>'
        f"{escape(names[value - 1])}</span>"
        for value in seen
    )
    boxes = [("predicted", "prediction (fill)"), *([("truth", "truth (lines)")] if with_truth else [])]
    switches = "".join(
        f'<label class="key"><input type="checkbox" name="{name}" checked> {text}</label>' for name, text in boxes
    )
    return f"<p>{switches}{swatches}</p>"
