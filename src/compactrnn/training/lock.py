"""Lock a run folder: one process writes at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .._errors import invalid
from .._files import PARTIAL, naming

try:
    import fcntl
except ImportError:  # a platform without it has no such lock
    fcntl = None

NAME = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock `folder`, created if necessary, for this process; it is released when the process ends, however it ends.

    What an earlier writer left half-written is removed. A folder that was made for this and stays empty goes again.

    Raises:
        ValueError: another process holds it.
    """
    made = _make(folder)
    try:
        descriptor = _take(folder)
        try:
            for path in (*folder.glob(f".*{PARTIAL}"), *folder.glob(f"phases/.*{PARTIAL}")):
                path.unlink()
            yield
        finally:
            with suppress(OSError):
                (folder / NAME).unlink()
            os.close(descriptor)
    finally:
        for path in reversed(made):
            with suppress(OSError):
                path.rmdir()


def is_locked(folder: Path) -> bool:
    """Whether a process holds the lock of `folder` right now."""
    if fcntl is None or not (folder / NAME).exists():
        return False
    with suppress(FileNotFoundError), open(folder / NAME, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _make(folder: Path) -> list[Path]:
    """Make a folder and those above it; gives the new ones, outermost first."""
    made = [path for path in (*reversed(folder.parents), folder) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return made


def _take(folder: Path) -> int:
    path = folder / NAME
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(path, descriptor):
                with naming(path):
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, str(os.getpid()).encode())
                return descriptor
        except BlockingIOError:
            holder = os.read(descriptor, 20).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise invalid(
                "run folder",
                got=f"{folder}, which process {holder} is training in",
                expected="one that no other process writes to",
                hint="wait for it, or stop it",
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder has removed it meanwhile


def _is_still(path: Path, descriptor: int) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    return False
