"""Untrusted text made safe for a terminal."""

LONGEST = 2000


def printable(text: object) -> str:
    """`text` with control, format and surrogate characters escaped, so that it cannot control a terminal.

    >>> printable("run\\x1b[2J")
    'run\\\\x1b[2J'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def sentence(text: object) -> str:
    """The text as one printable line of at most 2,000 characters.

    >>> sentence("two\\n  lines")
    'two lines'
    """
    line = printable(" ".join(str(text).split()))
    return line if len(line) <= LONGEST else line[: LONGEST - 3] + "..."


def shortened(value: object) -> str:
    """A value for a message, at most 80 characters of it."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
