"""Parts of an HTML page that needs no other file."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from .._text import printable

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222;
  overflow-wrap: break-word; }
.table { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: right; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1rem 0; } svg { max-width: 100%; height: auto; }
figcaption { color: #444; font-size: .9rem; }
.row { display: flex; flex-wrap: wrap; gap: 0 1.5rem; } .row figure { flex: 1 1 20rem; max-width: 28rem; }
.row svg { width: 100%; }
pre { background: #f5f5f5; padding: 1rem; overflow: auto; white-space: pre-wrap; }
@media (max-width: 40rem) {
  body { margin-top: 1rem; } th, td { padding: .3rem .4rem; font-size: .85rem; }
  td:first-child { overflow-wrap: anywhere; min-width: 5rem; }
  .wide { overflow-x: auto; } .wide svg { max-width: none; width: 34rem; }
}
"""


def page(title: str, parts: Sequence[str]) -> str:
    """A whole page, for screens of any width."""
    head = "<meta charset='utf-8'><meta name='viewport' content='width=device-width, initial-scale=1'>"
    head += f"<title>{shown(title)}</title><style>{_STYLE}</style>"
    return f"<!doctype html><html lang='en'>{head}" + "\n".join(parts) + "</html>\n"


def shown(text: object) -> str:
    """A text as it is."""
    return html.escape(printable(text))


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table; one that is wider than the screen is scrolled by itself."""

    def line(cells: Sequence[Any], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{shown(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = line(header, "th") + "".join(line(row, "td") for row in rows)
    return f"<div class='table'><table>{body}</table></div>"


def figure(svg: str, description: str, caption: str = "", kind: str = "") -> str:
    """A picture; `description` is for those who cannot see it, `caption` stands below; a "wide" one is scrolled."""
    picture = svg[svg.index("<svg") :].replace("<svg", f"<svg role='img' aria-label='{shown(description)}'", 1)
    below = f"<figcaption>{shown(caption)}</figcaption>" if caption else ""
    start = f"<figure class='{kind}'>" if kind else "<figure>"
    return f"{start}{picture}{below}</figure>"
