"""Safe file access: regular files only, size limits, atomic writes."""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from ._errors import invalid

# JSON takes up to some thirty times its size once parsed: these bounds keep it below about 100 MB
MAX_JSON_BYTES = 8 << 20
MAX_JSON_VALUES = 1 << 19
PARTIAL = ".partial"
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)
_FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def open_regular(path: str | os.PathLike, what: str) -> BinaryIO:
    """Open a regular file to read.

    Raises:
        ValueError: it is a folder, FIFO, device or socket, which is neither opened nor waited for.
        OSError: it cannot be opened.
    """
    try:
        _check_regular(os.stat(path), path, what)
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _FLAGS)
    except ValueError as error:
        if "\0" in os.fspath(path):
            raise invalid(what, got=repr(path), expected="a path without zero bytes") from error
        raise
    file = os.fdopen(descriptor, "rb")
    try:
        _check_regular(os.fstat(descriptor), path, what)
    except BaseException:
        file.close()
        raise
    return file


def read_file(path: str | os.PathLike, what: str, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes."""
    with open_regular(path, what) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(limit + 1) if size <= limit else b""
    if max(size, len(data)) > limit:
        raise invalid(what, got=f"{path} of {max(size, len(data)):,} bytes", expected=f"at most {limit:,}")
    return data


def read_json(path: str | os.PathLike, what: str) -> Any:
    """Parse a JSON file."""
    data = read_file(path, what, MAX_JSON_BYTES)
    try:
        return parse_json(data)
    except ValueError as error:
        raise invalid(what, got=f"{path} ({error})", expected="JSON") from None


def parse_json(data: bytes, object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Parse JSON; `ValueError` if it is malformed, has NaN or infinities, or is too large or too deep."""

    def no_constant(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    check_json_size(data)
    try:
        text = data.decode("utf-8")
        return json.loads(text, parse_constant=no_constant, object_pairs_hook=object_pairs_hook)
    except RecursionError:
        raise ValueError("brackets nested too deep") from None


def check_json_size(data: bytes) -> None:
    """Raise `ValueError` for more than 8 MB of JSON or half a million values in it, found without parsing."""
    if len(data) > MAX_JSON_BYTES:
        raise ValueError(f"{len(data):,} bytes of JSON, more than {MAX_JSON_BYTES:,}")
    values = 1 + sum(data.count(mark) for mark in (b",", b"[", b"{"))  # those within texts count too
    if values > MAX_JSON_VALUES:
        raise ValueError(f"some {values:,} values of JSON, more than {MAX_JSON_VALUES:,}")


def check_writable(path: str | os.PathLike, what: str) -> Path:
    """Resolve `path` and check that a regular file can be written there; writes nothing.

    Raises:
        ValueError: it is something other than a file, or its folder does not exist.
        OSError: its folder may not be written to.
    """
    target = Path(os.path.realpath(path))
    try:
        _check_regular(os.stat(path), path, what)
    except FileNotFoundError:
        if not target.name or os.fspath(path).endswith(os.sep):
            raise invalid(what, got=repr(os.fspath(path)), expected="the name of a file") from None
    if not target.parent.is_dir():
        raise invalid(what, got=str(path), expected="a file in a folder that exists", hint=f"mkdir -p {target.parent}")
    if not os.access(target.parent, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target.parent))
    return target


@contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Give an `OSError` from within, as that of a full disk, the name of the file that it is about."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), os.fspath(path)) from error


def write_atomically(path: str | os.PathLike, content: bytes, what: str = "output") -> None:
    """Write `content` to `path` atomically: after a crash it has either the old bytes or the new ones.

    A link is followed, and a file that is replaced keeps its mode; a new one gets what the process's umask leaves.
    """
    target = check_writable(path, what)
    partial = target.with_name(f".{secrets.token_hex(8)}{PARTIAL}")
    with naming(path):
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o666)
        try:
            with os.fdopen(descriptor, "wb") as file:
                with suppress(FileNotFoundError):
                    os.chmod(partial, stat.S_IMODE(os.stat(target).st_mode))
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    _sync_folder(target.parent)


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write a JSON file, indented."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(path, text.encode("utf-8", "backslashreplace") + b"\n")


def _check_regular(status: os.stat_result, path: str | os.PathLike, what: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for matches, name in _KINDS if matches(status.st_mode)), "no file")
        raise invalid(what, got=f"{path}, {kind}", expected="a regular file")


def _sync_folder(folder: Path) -> None:
    """fsync a folder, where the platform and file system support it."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
