"""Types of settings with bounds, checked by pydantic."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import AfterValidator, Field

MOST = 2**31 - 1
LARGEST = 3e38  # numbers of training are float32
STRICT: Any = {"extra": "forbid"}  # as __pydantic_config__ of a dataclass: no key that it does not have


def _plain(value: Any) -> Any:
    if isinstance(value, (bool, str)) or (isinstance(value, int) and abs(value) <= 2**53):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    raise ValueError("input should be a finite number, a text, true or false, or a list or table of these")


Count = Annotated[int, Field(strict=True, ge=1, le=MOST)]
CountFrom0 = Annotated[int, Field(strict=True, ge=0, le=MOST)]
Steps = Annotated[int, Field(strict=True, ge=1, le=2**24)]
Size = Annotated[int, Field(strict=True, ge=1, le=2**24)]
Sequences = Annotated[int, Field(strict=True, ge=1, le=2**24)]
LegacySeed = Annotated[int, Field(strict=True, ge=0, le=2**32 - 1)]
Seed = Annotated[int, Field(strict=True, ge=0, le=2**63 - 1)]
Flag = Annotated[bool, Field(strict=True)]
Word = Annotated[str, Field(strict=True, max_length=4096)]
Finite = Annotated[float, Field(strict=True, ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
Positive = Annotated[float, Field(strict=True, gt=0, le=LARGEST, allow_inf_nan=False)]
PositiveOrZero = Annotated[float, Field(strict=True, ge=0, le=LARGEST, allow_inf_nan=False)]
Share = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
ShareBelow1 = Annotated[float, Field(strict=True, ge=0, lt=1, allow_inf_nan=False)]
ShareAbove0 = Annotated[float, Field(strict=True, gt=0, le=1, allow_inf_nan=False)]
Layers = Annotated[tuple[Size, ...], Field(max_length=1000)]
Projections = Annotated[tuple[Annotated[int, Field(strict=True, ge=0, le=2**24)], ...], Field(max_length=1000)]
Bound = Annotated[float, Field(strict=True, gt=0, le=100, allow_inf_nan=False)]
Option = Annotated[Any, AfterValidator(_plain)]  # of a table whose keys another class knows
