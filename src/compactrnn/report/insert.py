"""Generated sections in Markdown pages."""

from __future__ import annotations

import re


def insert(page: str, name: str, text: str) -> str:
    """Replace the text between the markers `name`.

    >>> insert("a\\n<!-- x: begin (by a command) -->\\nold\\n<!-- x: end -->\\nb", "x", "new\\n")
    'a\\n<!-- x: begin (by a command) -->\\nnew\\n<!-- x: end -->\\nb'
    """
    between = re.compile(rf"(<!-- {name}: begin.*?-->\n).*?(<!-- {name}: end -->)", re.DOTALL)
    return between.sub(lambda found: found[1] + text + found[2], page)
