"""Compact recurrent networks: learn them, prove them, run them natively.

>>> import compactrnn as cr
>>> lstm = cr.LSTM(8, [16, 12], batch_first=True)
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._errors import ModelFileError as ModelFileError
    from ._errors import UnsupportedModelError as UnsupportedModelError
    from .runtime.engine import Engine as Engine

__version__ = "0.1.0"

_HOME = {
    "Engine": "runtime.engine",
    "ModelFileError": "_errors",
    "UnsupportedModelError": "_errors",
}

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'compactrnn' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
