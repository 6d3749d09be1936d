"""What all pictures share: colours that stay with their label, and PNG files that are whole or absent."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg.core.files import write_bytes
from autoseg.core.palette import FIRST_COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def label_colours(names: list[str]) -> dict[str, str]:
    """A colour (#RRGGBB) per label name; by position, so that a label looks the same in every picture."""
    return {name: FIRST_COLOURS[position % len(FIRST_COLOURS)] for position, name in enumerate(names)}


def plain(name: str) -> str:
    """A name as matplotlib shows it letter by letter: no formula between dollars, nothing hidden by an underscore."""
    shown = name.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


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
