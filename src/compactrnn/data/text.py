"""Text files, plain or gzip-compressed."""

import gzip
import io
import zlib
from pathlib import Path

from .._errors import invalid
from .._files import read_file

_MAX_BYTES = 1 << 30


def read_unpacked(path: Path, what: str, limit: int) -> bytes:
    """The bytes of a regular file, unpacked if its name ends in `.gz`; at most `limit` of them."""
    try:
        raw = read_file(path, what, limit)
        if path.suffix == ".gz":
            with gzip.open(io.BytesIO(raw)) as file:
                raw = file.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        got = f"{path} ({getattr(error, 'strerror', None) or error})"
        raise invalid(what, got=got, expected="a readable file, plain or .gz") from error
    if len(raw) > limit:
        raise invalid(what, got=f"{path}, which unpacks to more than {limit:,} bytes", expected="less")
    return raw


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file, unpacked if its name ends in `.gz`, with every line end as `\\n`."""
    path = Path(path)
    raw = read_unpacked(path, "text file", _MAX_BYTES)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise invalid(
            "text file",
            got=f"{path}, whose byte {error.start} is not UTF-8",
            expected="UTF-8 text",
            hint=f"convert it, e.g.: iconv -f latin1 -t utf-8 {path.name}",
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")
