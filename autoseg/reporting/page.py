"""The pieces of an HTML page that needs nothing outside its own file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from string import Template

# The policy in the head makes a browser refuse whatever is not in the file itself.
_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy"
      content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$title</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1180px; margin: 2em auto; padding: 1em; }
h1, h2 { line-height: 1.2; }
h2 { margin-top: 2em; border-bottom: 1px solid #ccc; padding-bottom: .2em; }
table { border-collapse: collapse; margin: .8em 0; }
td, th { padding: .25em .8em; border-bottom: 1px solid #e4e4e4; text-align: left; vertical-align: top; }
th { background: #f5f5f5; vertical-align: bottom; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
figure { margin: 1.5em 0; }
figcaption { margin-bottom: .4em; }
img { max-width: 100%; border: 1px solid #e4e4e4; }
details { overflow-x: auto; }
summary { cursor: pointer; margin: .6em 0; }
.warning { color: #a00000; font-weight: 600; }
.note { color: #666; }
</style>
</head>
<body>
<h1>$title</h1>
$body
</body>
</html>
""")


def page(title: str, sections: Sequence[str]) -> str:
    """The whole document."""
    return _PAGE.substitute(title=escape(title), body="\n".join(sections))


def section(title: str, *parts: str, otherwise: str = "") -> str:
    """A heading with what belongs under it; with nothing, the note `otherwise`."""
    content = "\n".join(part for part in parts if part) or paragraph(otherwise, kind="note")
    return f"<h2>{escape(title)}</h2>\n{content}"


def paragraph(text: str, *, kind: str = "") -> str:
    """A line of text; kind is "", "note" or "warning"."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers_from: int | None = None) -> str:
    """A table of cells; columns from `numbers_from` on are aligned as numbers. An empty header is omitted."""
    head = [_row(header, "th", numbers_from)] if any(header) else []
    return "\n".join(["<table>", *head, *(_row(row, "td", numbers_from) for row in rows), "</table>"])


def _row(cells: Sequence[str], tag: str, numbers_from: int | None) -> str:
    first = len(cells) if numbers_from is None else numbers_from
    kinds = [""] * first + [' class="number"'] * (len(cells) - first)
    return f"<tr>{''.join(f'<{tag}{k}>{escape(c)}</{tag}>' for k, c in zip(kinds, cells, strict=True))}</tr>"


def folded(summary: str, content: str) -> str:
    """`content` behind a line to click on."""
    return f"<details><summary>{escape(summary)}</summary>\n{content}\n</details>"


def figure(caption: str, png: bytes) -> str:
    """A picture with its caption, its bytes within the page."""
    text, source = escape(caption), f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return f'<figure><figcaption>{text}</figcaption><img src="{source}" alt="{text}"></figure>'
