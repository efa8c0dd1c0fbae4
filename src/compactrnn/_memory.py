"""Memory checks before large allocations."""

from __future__ import annotations

import os
from pathlib import Path

from ._errors import invalid

_CGROUP = Path("/sys/fs/cgroup")


class NotEnoughMemory(ValueError):
    """More memory would be needed than is available; nothing was allocated."""


def available_memory() -> int | None:
    """Available memory in bytes, by machine, control group and process limit; None if unknown."""
    found = [n for n in (_machine(), _control_group(), _own_limit()) if n is not None]
    return max(0, min(found)) if found else None


def check_memory(needed: int, what: str, hint: str = "", available: int | None = None) -> None:
    """Raise `ValueError` if `needed` bytes exceed `available`, by default what is free now."""
    available = available_memory() if available is None else available
    if available is not None and needed > available:
        wanted = f"at most the {_gigabytes(available)} that are free"
        raise NotEnoughMemory(str(invalid(what, got=f"{_gigabytes(needed)} of memory", expected=wanted, hint=hint)))


def _gigabytes(count: int) -> str:
    return f"{count / 2**30:,.1f} GB"


def _machine() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def _control_group() -> int | None:
    try:
        most = (_CGROUP / "memory.max").read_text(encoding="ascii").strip()
        return None if most == "max" else int(most) - int((_CGROUP / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _own_limit() -> int | None:
    try:
        import resource

        most = resource.getrlimit(resource.RLIMIT_AS)[0]
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        return None if most == resource.RLIM_INFINITY else most - pages * resource.getpagesize()
    except (ImportError, OSError, ValueError):
        return None
