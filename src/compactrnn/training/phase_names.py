"""Names of phases, which are also file names and keys of the results."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

_RESERVED = {"total", "con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}


def _not_reserved(name: str) -> str:
    if name.lower() in _RESERVED:
        raise ValueError("a reserved name")
    return name


PhaseName = Annotated[
    str, StringConstraints(strict=True, pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"), AfterValidator(_not_reserved)
]


def check_apart(names: Iterable[str]) -> None:
    """Raise `ValueError` for names that differ in case only, which some file systems take for one.

    >>> check_apart(["train", "Train"])
    Traceback (most recent call last):
    ValueError: phases: expected names that differ in more than case, got Train and train
    """
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.setdefault(name.lower(), name)) != name:
            raise ValueError(f"phases: expected names that differ in more than case, got {name} and {other}")
