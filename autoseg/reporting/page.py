"""The pieces of an HTML page that needs nothing outside its own file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

MANY_ROWS = 20  # a longer table scrolls in a frame of its own

# The policy in the head makes a browser refuse whatever is not in the file itself, and any script but this one.
_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy"
      content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-$digest'">
<link rel="icon" href="data:,">
<title>$title</title>
<style>
$style</style>
</head>
<body>
<h1>$title</h1>
<nav>$links</nav>
$body
<script>$script</script>
</body>
</html>
""")


def page(title: str, sections: Sequence[tuple[str, str]]) -> str:
    """The whole document.

    Args:
        title: its heading.
        sections: heading and content of each, see `section`.
    """
    style, script = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    links = [f'<a href="#{_anchor(name)}">{escape(name)}</a>' for name, _ in sections]
    body = [f'<h2 id="{_anchor(name)}">{escape(name)}</h2>\n{content}' for name, content in sections]
    return _PAGE.substitute(
        title=escape(title),
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=style,
        script=script,
        links="\n".join(links),
        body="\n".join(body),
    )


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def section(title: str, *parts: str, otherwise: str = "") -> tuple[str, str]:
    """A heading and what belongs under it; with nothing, the note `otherwise`."""
    return title, "\n".join(part for part in parts if part) or paragraph(otherwise, kind="note")


def paragraph(text: str, *, kind: str = "") -> str:
    """A line of text; kind is "", "note" or "warning"."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def heading(text: str) -> str:
    """A heading within a section."""
    return f"<h3>{escape(text)}</h3>"


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers_from: int | None = None,
    interactive: bool = False,
    chosen: int | None = None,
    hashes_from: int | None = None,
) -> str:
    """A table of cells.

    Args:
        header: names of the columns; empty ones are omitted.
        rows: of text.
        numbers_from: columns from here on are aligned as numbers.
        interactive: whether a click on a column sorts, and a line above filters the rows.
        chosen: the number of a row to stand out.
        hashes_from: columns from here on hold long hashes.
    """
    kinds = ["number" if numbers_from is not None and i >= numbers_from else "" for i in range(len(header or rows[0]))]
    kinds = ["hash" if hashes_from is not None and i >= hashes_from else kind for i, kind in enumerate(kinds)]
    head = f"<thead>{_row(header, 'th', kinds)}</thead>" if any(header) else ""
    body = "\n".join(_row(row, "td", kinds, chosen=number == chosen) for number, row in enumerate(rows))
    kind = ' class="sortable"' if interactive else ""
    drawn = f"<table{kind}>{head}<tbody>\n{body}\n</tbody></table>"
    frame = "wide long" if len(rows) > MANY_ROWS else "wide"
    drawn = f'<div class="{frame}">{drawn}</div>'
    return f"<div>{_filter_line(header)}\n{drawn}</div>" if interactive else drawn


def _filter_line(header: Sequence[str]) -> str:
    dice = next((name for name in header if "Dice" in name), None)
    hint = "words" if dice is None else escape(f"words, or {dice} < 0.8")
    return (
        f'<p class="filter"><label>Show only <input type="search" placeholder="{hint}"></label> <output></output></p>'
    )


def _row(cells: Sequence[str], tag: str, kinds: Sequence[str], *, chosen: bool = False) -> str:
    shown = [
        f'<{tag} class="{kind}">{escape(cell)}</{tag}>' if kind else f"<{tag}>{escape(cell)}</{tag}>"
        for cell, kind in zip(cells, kinds, strict=True)
    ]
    start = '<tr class="chosen">' if chosen else "<tr>"
    return f"{start}{''.join(shown)}</tr>"


def folded(summary: str, content: str) -> str:
    """`content` behind a line to click on."""
    return f"<details><summary>{escape(summary)}</summary>\n{content}\n</details>"


def figure(caption: str, png: bytes) -> str:
    """A picture with its caption, its bytes within the page."""
    text = escape(caption)
    return f'<figure><figcaption>{text}</figcaption><img src="{data_url(png, "image/png")}" alt="{text}"></figure>'


def data_url(content: bytes, kind: str) -> str:
    """Bytes of a file of a MIME type as an address that holds them."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
