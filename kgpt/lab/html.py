"""Pages of HTML that need no other file."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem;
  color: #222; background: #fff }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid #ddd; padding: .25rem .8rem; text-align: left }
td:first-child { white-space: nowrap }
svg { width: 100%; height: auto } text { font-size: 12px; fill: #555 }
.grid { stroke: #e5e5e5 } .raw { opacity: .25 } path { fill: none; stroke-width: 1.6 }
.key { display: inline-block; width: 1rem; height: .25rem; margin-right: .4rem;
  vertical-align: 4px }
"""


def document(title: str, body: str) -> str:
    """A page; `body` is HTML, the title text."""
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n<h1>{escape(title)}</h1>\n"
        f"{body}\n</html>\n"
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; `heads` are HTML, the cells text."""
    first = "".join(f"<th>{head}</th>" for head in ("", *heads))
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows
    )
    return f"<table>\n<tr>{first}</tr>\n{body}</table>"
