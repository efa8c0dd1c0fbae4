"""Text files, plain or gzip-compressed."""

import gzip
import zlib
from pathlib import Path

from .._errors import invalid


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file, unpacked if its name ends in `.gz`, with every line end as `\\n`."""
    path = Path(path)
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise invalid("text file", got=f"{path} ({error})", wanted="a readable text file, plain or .gz") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise invalid(
            "text file",
            got=f"{path}, whose byte {error.start} is not UTF-8",
            wanted="UTF-8 text",
            hint=f"convert it, e.g.: iconv -f latin1 -t utf-8 {path.name}",
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")
