"""What all pictures share: colours that stay with their label, and PNG files that are whole or absent."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg.core.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# After Okabe and Ito, told apart by nearly everybody; brightened where they would be lost on a dark image.
_BRIGHT = ("#E69F00", "#56B4E9", "#00B583", "#F0E442", "#D55E00")
_FURTHER = ("#CC79A7", "#2F8FE0", "#B9E34A", "#A98BFF", "#FF6F91")
_COLOURS = _BRIGHT + _FURTHER


def label_colours(names: list[str]) -> dict[str, str]:
    """A colour (#RRGGBB) per label name; by position, so that a label looks the same in every picture."""
    return {name: _COLOURS[position % len(_COLOURS)] for position, name in enumerate(names)}


def png_bytes(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG file, drawn without any display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    stream = io.BytesIO()
    FigureCanvasAgg(figure)  # becomes the figure's canvas
    figure.savefig(stream, format="png")
    return stream.getvalue()


def write_png(figure: Figure, path: Path) -> None:
    """Write the figure as PNG, whole or not at all."""
    write_bytes(path, png_bytes(figure))
